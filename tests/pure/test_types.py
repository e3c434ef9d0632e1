"""Types: whatever their schema lets a model write is a value of them, or the type is refused."""

from __future__ import annotations

import datetime
import enum
import ipaddress
import pathlib
import random
import re
import uuid
from collections import Counter, deque
from decimal import Decimal
from typing import Annotated, Any, Literal, NamedTuple

import pydantic
import pytest
from pydantic import Field

from sgl_lab.contracts.errors import BackendUnsupported, BadArgument
from sgl_lab.contracts.params import Constraint
from sgl_lab.engine.tools.fake import ByteTokenizer
from sgl_lab.grammar.grammars import Grammars
from sgl_lab.lang.form import of_schema, of_type

GRAMMARS = Grammars(ByteTokenizer())
N_DRAWS = 10
MOST = 90


def drawn(constraint: Constraint, seed: int) -> str:
    """A text as a model that knows nothing would write it, brought to its end in time."""
    draw, matcher, taken = random.Random(seed), GRAMMARS.start(constraint, MOST), list[int]()
    while not matcher.is_over and not (matcher.is_whole and draw.random() < 0.1):
        (mask,) = matcher.masks(1)
        matcher.fill(())
        allowed = [token for token in range(256) if mask[token // 32] >> token % 32 & 1]
        plain = [token for token in allowed if 32 <= token < 127]
        token = draw.choice(plain if plain and draw.random() < 0.9 else allowed)
        if not matcher.keeps_completion(token, MOST - len(taken) - 1):
            assert matcher.completion is not None
            return bytes([*taken, *matcher.completion]).decode()
        matcher.take(token)
        taken.append(token)
    return bytes(taken).decode()


class Colour(enum.Enum):
    RED = "r"
    BLUE = 2


class Point(NamedTuple):
    x: int
    y: float


class Order(pydantic.BaseModel):
    price: Annotated[Decimal, Field(gt=0, max_digits=5, decimal_places=2)]
    due: pydantic.FutureDate | None = None
    lines: dict[int, bool] = {}


DAY, UTC = datetime.date, datetime.UTC
TYPES: list[Any] = [
    Decimal,
    Annotated[Decimal, Field(ge=0, le=10, max_digits=4, decimal_places=2)],
    Annotated[Decimal, Field(gt=Decimal("0.5"), lt=1)],
    Annotated[Decimal, Field(gt=0, max_digits=3)],
    Annotated[float, Field(gt=0, lt=1)],
    Annotated[float, Field(multiple_of=0.1)],
    dict[int, str],
    dict[Annotated[int, Field(ge=3, le=500)], bool],
    dict[float, int],
    dict[bool, int],
    dict[uuid.UUID, int],
    dict[DAY, int],
    Counter[str],
    pydantic.HttpUrl,
    pydantic.AnyUrl,
    pydantic.FileUrl,
    pydantic.PostgresDsn,
    pydantic.RedisDsn,
    pydantic.WebsocketUrl,
    pydantic.IPvAnyAddress,
    pydantic.IPvAnyNetwork,
    pydantic.IPvAnyInterface,
    ipaddress.IPv6Address,
    ipaddress.IPv4Network,
    pydantic.Base64Bytes,
    pydantic.Base64Str,
    pydantic.Base64UrlStr,
    pydantic.Json,
    pydantic.Json[list[int]],
    pydantic.Json[Annotated[int, Field(ge=1, le=900)]],
    pydantic.PastDate,
    pydantic.FutureDate,
    pydantic.PastDatetime,
    pydantic.FutureDatetime,
    pydantic.AwareDatetime,
    pydantic.NaiveDatetime,
    DAY,
    datetime.datetime,
    datetime.time,
    datetime.timedelta,
    Annotated[DAY, Field(gt=DAY(2024, 1, 1), lt=DAY(2024, 3, 1))],
    Annotated[DAY, Field(ge=DAY(2024, 2, 29))],
    Annotated[datetime.datetime, Field(ge=datetime.datetime(2024, 2, 29, 4), lt=datetime.datetime(2025, 1, 1))],
    Annotated[datetime.datetime, Field(ge=datetime.datetime(2024, 2, 29, 4, tzinfo=UTC))],
    Annotated[datetime.timedelta, Field(gt=datetime.timedelta(0), le=datetime.timedelta(hours=1))],
    pydantic.UUID1,
    pydantic.UUID4,
    uuid.UUID,
    pydantic.SecretStr,
    pydantic.conbytes(min_length=2, max_length=4),
    pydantic.ByteSize,
    pathlib.Path,
    re.Pattern,
    complex,
    set[int],
    deque[int],
    tuple[int, str],
    Point,
    pydantic.constr(strip_whitespace=True, min_length=2, to_lower=True),
    Annotated[str, Field(pattern=r"^\W\w\s\S\D.[^\w]\d$")],
    Annotated[str, Field(pattern=r"^\p{Lu}\p{Ll}{2,6}$")],
    Annotated[str, Field(pattern=r"(?<year>\d{4})")],
    Colour,
    Literal["x", 1, None, True],
    Order,
    list[Order],
    pydantic.JsonValue,
]


@pytest.mark.parametrize("type_", TYPES, ids=lambda type_: str(type_)[-60:])
def test_whatever_is_drawn_of_a_type_is_a_value_of_it(type_: Any) -> None:
    form = of_type(type_)
    texts = [drawn(form.constraint, seed) for seed in range(N_DRAWS)]
    assert [text for text in texts if not _is_value(form, text)] == []


def _is_value(form: Any, text: str) -> bool:
    try:
        form.meaning(text)
    except ValueError:
        return False
    return True


@pytest.mark.parametrize(
    ("type_", "error", "taken"),
    [
        (pydantic.FilePath, BackendUnsupported, "a file that exists"),
        (list[pydantic.DirectoryPath], BackendUnsupported, "a folder that exists"),
        (pydantic.NewPath, BackendUnsupported, "a file that does not exist yet"),
        (Annotated[datetime.time, Field(ge=datetime.time(3))], BackendUnsupported, "a time between limits"),
        (Annotated[str, Field(pattern=r"\d\z")], BackendUnsupported, r"\z is not known to ECMA-262"),
        (Annotated[DAY, Field(gt=DAY(2024, 1, 1), lt=DAY(2024, 1, 2))], BadArgument, "no date is between the limits"),
    ],
)
def test_a_type_that_no_text_alone_can_be_is_refused_at_the_call(type_: Any, error: type[Exception], taken: str) -> None:
    with pytest.raises(error, match=re.escape(taken)):
        of_type(type_)


@pytest.mark.parametrize("pattern", [r"^\p{Lu}\p{Ll}{2,6}$", r"(?<year>\d{4})-\d", r"\d\z", "[[:alpha:]]", "(?i)a", r"^\d+$"])
def test_a_model_and_its_own_schema_take_the_same_patterns(pattern: str) -> None:
    model = pydantic.create_model("Model", a=Annotated[str, Field(pattern=pattern)])

    def outcome(make: Any) -> str:
        try:
            GRAMMARS.prepare(make().constraint)
        except (BackendUnsupported, BadArgument):
            return "refused"
        return "taken"

    assert outcome(lambda: of_type(model)) == outcome(lambda: of_schema(model.model_json_schema()))
