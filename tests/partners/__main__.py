"""What each backend makes of each feature of the language, run for real.

    python -m tests.partners [COLUMN ...] [--list]

A column is `local` (the engine of this process), `SERVER` or `SERVER:API` of the list, or a name that
`%sgl backend` takes, such as `server@http://127.0.0.1:8080`. Without columns, all that can run here.
The exit status is 1 if a backend did something else than it declares.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date
from itertools import groupby

from sgl_lab.backends.names import make, parsed
from sgl_lab.contracts.conversation import AnyBackend

from . import forms, servers
from .servers import KEY, NAME, SERVERS, Running
from .surface import Verdict, table, tried_all

Made = Callable[[Running], AnyBackend]


def _openai(api: str = "chat") -> Made:
    def made(at: Running) -> AnyBackend:
        from sgl_lab.backends.openai import OpenAI

        return OpenAI(base_url=f"{at.url}/v1", api_key=at.key or None, api=api)

    return made


def _anthropic(at: Running) -> AnyBackend:
    from sgl_lab.backends.anthropic import Anthropic

    return Anthropic(NAME, base_url=at.url, api_key=at.key or KEY)


def _sglang(at: Running) -> AnyBackend:
    from sgl_lab.backends.sglang import RuntimeEndpoint

    return RuntimeEndpoint(at.url, api_key=at.key, tokenizer=NAME)


def _as_openai(at: Running) -> AnyBackend:
    from sgl_lab.backends.openai import OpenAI

    return OpenAI(forms.OPENAI, base_url=f"{at.url}/v1", api_key=forms.KEYS["openai"], server="openai")


def _as_anthropic(at: Running) -> AnyBackend:
    from sgl_lab.backends.anthropic import Anthropic

    return Anthropic(forms.ANTHROPIC, base_url=at.url, api_key=forms.KEYS["anthropic"])


def _as_gemini(at: Running) -> AnyBackend:
    from sgl_lab.backends.gemini import Gemini

    return Gemini(forms.GEMINI, base_url=at.url, api_key=forms.KEYS["gemini"], decision_model=None)


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


def run(name: str, backend: AnyBackend, about: str) -> dict[str, Verdict]:
    began = time.monotonic()
    found = tried_all(backend)
    differs = [feature for feature, verdict in found.items() if not verdict.agrees]
    print(f"{name}: {about}: {len(found) - len(differs)} of {len(found)} as declared, {time.monotonic() - began:.0f} s", file=sys.stderr)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.partners", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("columns", nargs="*", metavar="COLUMN")
    parser.add_argument("--list", action="store_true", help="the columns, and what those that cannot run here need")
    options = parser.parse_args()
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
    found: dict[str, dict[str, Verdict]] = {}
    abouts: dict[str, str] = {}
    for server, names in groupby(wanted, lambda name: name.partition(":")[0] if name in COLUMNS else name):
        if server == "local":
            with local() as backend:
                found["local"], abouts["local"] = run("local", backend, "the engine of this process"), "the engine of this process"
        elif server not in started:
            found[server], abouts[server] = run(server, make(parsed(server)), server), "as named"
        else:
            with started[server]() as at:
                for name in names:
                    backend = COLUMNS[name](at)
                    found[name], abouts[name] = run(name, backend, at.about), at.about
    print(f"{date.today()}, {NAME}: " + "; ".join(f"`{name}`: {about}" for name, about in abouts.items()) + "\n")
    print(table({f"`{name}`": column for name, column in found.items()}))
    return int(any(not verdict.agrees for column in found.values() for verdict in column.values()))


if __name__ == "__main__":
    sys.exit(main())
