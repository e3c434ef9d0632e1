"""What a model's tokens cost: one dated table (`prices.json`), which a user's own file and a
backend's `prices=` override.

The user's file is the one that SGL_LAB_PRICES names, else `~/.config/sgl_lab/prices.json`. It has
the table's form:

    {"models": {"openai/gpt-4o-mini": {"prompt": 0.15, "completion": 0.6, "cached": 0.075,
    "written": null}}}

Prices are of a million tokens, in USD. What is in neither is unknown, and shown as unknown.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import NotRequired, TypedDict, TypeGuard

from ...contracts.capabilities import Prices
from ...contracts.errors import BadArgument
from ...contracts.port import Usage

FIELDS = ("prompt", "completion", "cached", "written", "context", "max_output", "cache_min", "long", "can")
CAN = ("images", "tools", "schema", "thinks", "none_effort", "responses_only")


class Rates(TypedDict):
    """Prices, as the table has them."""

    prompt: float
    completion: float
    cached: NotRequired[float | None]
    written: NotRequired[float | None]


class Long(Rates):
    """Prices of a prompt of more tokens."""

    above: int


class Entry(Rates):
    """A model's line of the table, checked."""

    context: NotRequired[int | None]
    max_output: NotRequired[int | None]
    cache_min: NotRequired[int | None]
    long: NotRequired[Long | None]
    can: NotRequired[list[str]]


@dataclass(frozen=True, slots=True)
class Listed:
    """A model's line in the table."""

    prices: Prices
    context: int | None = None
    """in tokens"""
    max_output: int | None = None
    as_of: str = ""
    """the date of the table, or the user's file"""
    long_from: int | None = None
    """a prompt of more tokens costs `long_prices`"""
    long_prices: Prices | None = None
    cache_min: int | None = None
    """tokens of the shortest prefix that the server caches"""
    can: frozenset[str] = frozenset()
    """of CAN, what the table knows of the model"""

    def prices_of(self, n_prompt: int) -> Prices:
        is_long = self.long_from is not None and self.long_prices is not None and n_prompt > self.long_from
        return self.long_prices if is_long and self.long_prices else self.prices


def find_prices(provider: str, model: str) -> Listed | None:
    """Of `provider/model`. A name that ends in a date (gpt-4o-2024-08-06) stands for its model
    where it has no line of its own."""
    for table, as_of in (_users(), _ours()):
        for name in _names(provider, model):
            if name in table:
                return _listed(table[name], as_of)
    return None


def listed_names(provider: str) -> list[str]:
    """The models of a provider that the tables know."""
    return sorted({name.partition("/")[2] for table, _ in (_users(), _ours()) for name in table if name.startswith(f"{provider}/")})


def as_of() -> str:
    """The date of the table that ships."""
    return _ours()[1]


def cost_of(usage: Usage, prices: Prices | None, *, with_prompt: bool = True) -> float | None:
    """What a sample cost; the samples of one prompt pay for it once. None where prices are unknown."""
    if prices is None:
        return None
    cached = prices.prompt if prices.cached is None else prices.cached
    written = prices.prompt if prices.written is None else prices.written
    n_plain = max(0, usage.prompt_tokens - usage.cached_tokens - usage.written_tokens)
    prompt = n_plain * prices.prompt + usage.cached_tokens * cached + usage.written_tokens * written
    return ((prompt if with_prompt else 0.0) + usage.completion_tokens * prices.completion) / 1e6


def most_of(n_prompt_bytes: int, n_images: int, max_tokens: int, prices: Prices | None) -> float | None:
    """The most that a call may cost: a token has at least one byte, an image at most IMAGE_TOKENS,
    every answer takes all its tokens."""
    if prices is None:
        return None
    prompt = max(prices.prompt, prices.written or 0.0)
    n_prompt = n_prompt_bytes + n_images * IMAGE_TOKENS
    return (n_prompt * prompt + max_tokens * prices.completion) / 1e6


IMAGE_TOKENS = 3000
"""more than any vendor counts for one image of the sizes that they take"""


def _names(provider: str, model: str) -> list[str]:
    model = model.removeprefix(f"{provider}/").removeprefix("models/")
    names = [model]
    head, _, _ = model.partition("@")  # Vertex: NAME@DATE
    for name in (model, head):
        words = name.split("-")
        for n in (1, 3):  # NAME-20250929, NAME-2024-08-06
            tail = "".join(words[-n:])
            if len(words) > n and tail.isdigit() and len(tail) == 8:
                names.append("-".join(words[:-n]))
        names.append(name)
    return [f"{provider}/{name}" for name in dict.fromkeys(names)]


@lru_cache(1)
def _ours() -> tuple[dict[str, Entry], str]:
    table = json.loads(files(__package__).joinpath("prices.json").read_text("utf-8"))
    return check_models(table), table["as_of"]


def users_file() -> Path:
    named = os.environ.get("SGL_LAB_PRICES")
    folder = os.environ.get("XDG_CONFIG_HOME") or "~/.config"
    return Path(named or f"{folder}/sgl_lab/prices.json").expanduser()


def _users() -> tuple[dict[str, Entry], str]:
    path = users_file()
    try:
        text = path.read_text("utf-8")
    except FileNotFoundError:
        if "SGL_LAB_PRICES" in os.environ:
            raise BadArgument(f"SGL_LAB_PRICES names {path}, which does not exist") from None
        return {}, ""
    except (OSError, UnicodeDecodeError) as error:
        raise BadArgument(f"the prices in {path} cannot be read: {error}") from None
    try:
        models = check_models(json.loads(text))
    except (ValueError, KeyError, TypeError) as error:
        form = '{"models": {"openai/NAME": {"prompt": 1.0, "completion": 2.0}}}'
        raise BadArgument(f"the prices in {path} are malformed: {error}", hint=f"the form is {form}, of a million tokens") from None
    return models, str(path)


def check_models(table: Mapping[str, object]) -> dict[str, Entry]:
    """The lines of a table. ValueError, KeyError or TypeError if they are malformed."""
    models = table["models"]
    if not isinstance(models, dict):
        raise ValueError("models is no object")
    return {name: entry for name, entry in models.items() if _is_entry(entry, name)}


def check_table(table: Mapping[str, object]) -> None:
    """ValueError if it is no table as the one that ships: with a date, a source, and models by
    provider, in order."""
    try:
        date.fromisoformat(str(table["as_of"]))
        models = check_models(table)
    except (KeyError, TypeError) as error:
        raise ValueError(f"the table has no {error}") from None
    if not isinstance(table.get("source"), str) or not models:
        raise ValueError("the table must have a source and models")
    if bad := [name for name in models if name.count("/") != 1]:
        raise ValueError(f"{bad[0]!r} must be PROVIDER/MODEL")
    if list(models) != sorted(models):
        raise ValueError("its models must be in order")


def _is_entry(entry: object, name: str) -> TypeGuard[Entry]:
    """ValueError for what is no line of the table."""
    if not isinstance(entry, dict) or not {"prompt", "completion"} <= entry.keys() <= {*FIELDS}:
        raise ValueError(f"{name} must have prompt and completion, and may have {', '.join(FIELDS[2:])}")
    can, long = entry.get("can", []), entry.get("long")
    if not isinstance(can, list) or not {*can} <= {*CAN}:
        raise ValueError(f"can of {name} must be a list of {', '.join(CAN)}")
    _check_numbers({field: value for field, value in entry.items() if field not in ("can", "long")}, name)
    if long is not None:
        if not isinstance(long, dict) or not {"above", "prompt", "completion"} <= long.keys() <= {"above", *FIELDS[:4]}:
            raise ValueError(f"long of {name} must have above, prompt and completion")
        _check_numbers(long, f"long of {name}")
    return True


def _listed(entry: Entry, as_of: str) -> Listed:
    long = entry.get("long")
    return Listed(
        _prices(entry),
        entry.get("context"),
        entry.get("max_output"),
        as_of,
        long["above"] if long else None,
        _prices(long) if long else None,
        entry.get("cache_min"),
        frozenset(entry.get("can", ())),
    )


def _prices(entry: Rates) -> Prices:
    return Prices(entry["prompt"], entry["completion"], entry.get("cached"), written=entry.get("written"))


def _check_numbers(entry: Mapping[str, object], name: str) -> None:
    for field, value in entry.items():
        if value is None and field not in ("prompt", "completion"):
            continue
        if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value) or value < 0:
            raise ValueError(f"{field} of {name} must be a number, 0 or more")
