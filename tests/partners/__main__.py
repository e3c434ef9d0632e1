"""What each backend makes of each feature of the language, run for real.

    python -m tests.partners [COLUMN ...] [--only FEATURE ...] [--list] [--table]

A column is `local` (the engine of this process), `SERVER` or `SERVER:API` of the list, or a name that
`%sgl backend` takes, such as `server@http://127.0.0.1:8080`. Without columns, all that can run here.
What came is also kept in build/partners/columns; `--table` prints all that is kept there as one table.
The exit status is 1 if a backend did something else than it declares.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import date
from itertools import groupby

from sgl_lab.backends.names import make, parsed
from sgl_lab.backends.remote.prices import find_prices
from sgl_lab.contracts.capabilities import Prices
from sgl_lab.contracts.conversation import AnyBackend

from . import forms, servers
from .environments import PLACE
from .servers import KEY, NAME, SERVERS, Running
from .surface import FEATURES, Feature, Verdict, table, tried_all

Made = Callable[[Running], AnyBackend]
KEPT = PLACE / "columns"


@dataclass(frozen=True)
class Column:
    """`verdicts` by feature; `about` is the server and its version."""

    name: str
    about: str
    day: str
    verdicts: dict[str, Verdict]


def _openai(api: str = "chat") -> Made:
    def made(at: Running) -> AnyBackend:
        from sgl_lab.backends.openai import OpenAI

        return OpenAI(at.model, base_url=f"{at.url}/v1", api_key=at.key or None, api=api)

    return made


def _anthropic(at: Running) -> AnyBackend:
    from sgl_lab.backends.anthropic import Anthropic

    return Anthropic(NAME, base_url=at.url, api_key=at.key or KEY)


def _sglang(at: Running) -> AnyBackend:
    from sgl_lab.backends.sglang import RuntimeEndpoint

    return RuntimeEndpoint(at.url, api_key=at.key, tokenizer=NAME)


def listed(provider: str, model: str) -> Prices:
    """What the vendor asks for a model of that name."""
    found = find_prices(provider, model)
    assert found is not None
    return found.prices


def _as_openai(at: Running) -> AnyBackend:
    from sgl_lab.backends.openai import OpenAI

    prices = listed("openai", forms.OPENAI)
    return OpenAI(forms.OPENAI, base_url=f"{at.url}/v1", api_key=forms.KEYS["openai"], server="openai", prices=prices)


def _as_anthropic(at: Running) -> AnyBackend:
    from sgl_lab.backends.anthropic import Anthropic

    prices = listed("anthropic", forms.ANTHROPIC)
    return Anthropic(forms.ANTHROPIC, base_url=at.url, api_key=forms.KEYS["anthropic"], prices=prices)


def _as_gemini(at: Running) -> AnyBackend:
    from sgl_lab.backends.gemini import Gemini

    prices = listed("gemini", forms.GEMINI)
    return Gemini(forms.GEMINI, base_url=at.url, api_key=forms.KEYS["gemini"], decision_model=None, prices=prices)


def _vertexai(at: Running) -> AnyBackend:
    from google.oauth2.credentials import Credentials

    from sgl_lab.backends.gemini import VertexAI

    return VertexAI(NAME, project="p", location="l", credentials=Credentials(token=at.key), base_url=at.url)


COLUMNS: dict[str, Made] = {
    "door": _openai(),
    "door:responses": _openai("responses"),
    "door:completions": _openai("completions"),
    "door:anthropic": _anthropic,
    "door:sglang": _sglang,
    "llama.cpp": _openai(),
    "llama.cpp:anthropic": _anthropic,
    "transformers": _openai(),
    "llm-katan": _openai(),
    "llm-katan:anthropic": _anthropic,
    "llm-katan:vertexai": _vertexai,
    "vllm": _openai(),
    "forms:openai": _as_openai,
    "forms:anthropic": _as_anthropic,
    "forms:gemini": _as_gemini,
}


@contextmanager
def local() -> Iterator[AnyBackend]:
    from sgl_lab.session import Lab

    with Lab(NAME) as lab:
        yield lab.backend


def run(name: str, backend: AnyBackend, about: str, features: Sequence[Feature]) -> Column:
    began = time.monotonic()
    found = tried_all(backend, features, together=features is FEATURES)
    n_agree = sum(verdict.agrees for verdict in found.values())
    print(f"{name}: {about}: {n_agree} of {len(found)} as declared, {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    column = Column(name, about, date.today().isoformat(), found)
    KEPT.mkdir(parents=True, exist_ok=True)
    (KEPT / f"{re.sub('[^a-z0-9.-]+', '-', name)}.json").write_text(json.dumps(asdict(column)))
    return column


def kept() -> list[Column]:
    """In the order of the list."""
    found = [json.loads(path.read_text()) for path in KEPT.glob("*.json")]
    columns = [Column(**each | {"verdicts": {name: Verdict(**one) for name, one in each["verdicts"].items()}}) for each in found]
    order = ["local", *COLUMNS]
    return sorted(columns, key=lambda column: order.index(column.name) if column.name in order else len(order))


def printed(columns: Sequence[Column]) -> str:
    abouts = "; ".join(f"`{column.name}`: {column.about}, {column.day}" for column in columns)
    return f"{abouts}\n\n{table({f'`{column.name}`': column.verdicts for column in columns})}"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.partners", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("columns", nargs="*", metavar="COLUMN")
    parser.add_argument("--list", action="store_true", help="the columns, and what those that cannot run here need")
    parser.add_argument("--only", nargs="+", default=[], metavar="FEATURE", help="these features")
    parser.add_argument("--table", action="store_true", help="print what is kept of the last run of each column")
    options = parser.parse_args()
    if options.table:
        print(printed(kept()))
        return 0
    if unknown := set(options.only) - {feature.name for feature in FEATURES}:
        raise SystemExit(f"there is no feature {', '.join(unknown)}")
    features = [feature for feature in FEATURES if feature.name in options.only] if options.only else FEATURES
    started = SERVERS | {"forms": forms.forms}
    obstacles = {name: "" if name.startswith("forms") else servers.obstacle(name.partition(":")[0]) for name in COLUMNS}
    if options.list:
        print("local")
        for name, obstacle in obstacles.items():
            print(f"{name}  ({obstacle})" if obstacle else name)
        return 0
    wanted = options.columns or ["local", *(name for name, obstacle in obstacles.items() if not obstacle)]
    if refused := [obstacles[name] for name in wanted if obstacles.get(name)]:
        raise SystemExit("\n".join(refused))
    found: list[Column] = []
    for server, columns in groupby(wanted, lambda name: name.partition(":")[0] if name in COLUMNS else name):
        if server == "local":
            with local() as backend:
                found.append(run("local", backend, "the engine of this process", features))
        elif server not in started:
            found.append(run(server, make(parsed(server)), "as named", features))
        else:
            with started[server]() as at:
                for name in columns:
                    found.append(run(name, COLUMNS[name](at), at.about, features))
    print(printed(found))
    return int(any(not verdict.agrees for column in found for verdict in column.verdicts.values()))


if __name__ == "__main__":
    sys.exit(main())
