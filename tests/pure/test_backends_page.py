"""docs/backends.md says what each backend supports: its table is what the backends declare, and a program asks for each thing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

import sgl_lab.lang.surface as sgl
from sgl_lab.backends.names import KNOWN, make, parsed
from sgl_lab.backends.scripted import ScriptedBackend, ScriptedConversation
from sgl_lab.backends.sglang import wire
from sgl_lab.contracts.capabilities import ABOUT, SAMPLING, TOKEN_LEVEL, Capabilities, table
from sgl_lab.contracts.errors import BackendUnsupported, ProgramError
from sgl_lab.contracts.params import CONSTRAINTS
from sgl_lab.lang.surface import assistant, gen, select, user

from .language import watchdog

__all__ = ["watchdog"]

PAGE = Path(__file__).parents[2] / "docs" / "backends.md"
PNG = b"\x89PNG\r\n\x1a\n"


@cache
def columns() -> Mapping[str, Capabilities]:
    """What each backend declares. Those that ask their server are as they are with a server that has everything they know."""
    with pytest.MonkeyPatch.context() as patch:
        for known in KNOWN.values():
            for variable in known.keys:
                patch.setenv(variable, "made-up-for-this-test")
        found = {
            name: make(parsed(name), options).describe().capabilities
            for name, options in {"openai": {}, "anthropic": {}, "gemini": {}, "vertexai": {"credentials": object()}}.items()
            if name in KNOWN and _is_here(name)
        }
    here = replace(TOKEN_LEVEL, chat_template=True, adapters=True, deterministic=True, images=True)
    sglang = replace(TOKEN_LEVEL, chat_template=True, constraints=tuple(wire.KINDS), blocks=False, images=True)
    return {"local": here, "sglang": sglang, **{name: replace(can, prices=None) for name, can in found.items()}}


def _is_here(name: str) -> bool:
    from importlib.util import find_spec

    return find_spec(f"sgl_lab.backends.{KNOWN[name].maker.partition(':')[0]}") is not None


def test_the_table_of_the_page_is_what_the_backends_declare() -> None:
    rows = [row for row in table({f"`{name}`": can for name, can in columns().items()}).splitlines() if not row.startswith("| prices")]
    wanted = "\n".join(rows) + "\n"
    assert wanted in PAGE.read_text(encoding="utf-8"), f"{PAGE.name}, 'What each supports', has to have:\n{wanted}"


def test_the_page_names_every_backend() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert [name for name in KNOWN if f"`{name}" not in page] == []
    assert [variable for known in KNOWN.values() for variable in known.keys if variable not in page] == []


def ask(**given: Any) -> Callable[[Any], Any]:
    return lambda s: s.append_expression(user("Q") + assistant(gen("a", **given)))


def add(a: int) -> int:
    return a


def cached(s: Any) -> None:
    sgl.function(lambda s: s.append_expression(user("Q") + assistant(gen("a")))).cache(s._run.backend)


def ids(s: Any) -> None:
    s.append_expression(user("Q"))
    s.token_ids()


USES: dict[str, Callable[[Any], Any]] = {
    "token_ids": ids,
    "plain_text": lambda s: s.append_expression("Once " + gen("a", max_tokens=1)),
    "continues": lambda s: s.append_expression(user("Q") + assistant("It is " + gen("a", max_tokens=1))),
    "choices": lambda s: s.append_expression(user("Q") + assistant(select("a", ["x", "y"]))),
    "logprobs": ask(return_logprob=True),
    "top_logprobs": ask(return_logprob=True, top_logprobs_num=1),
    "prompt_logprobs": ask(return_logprob=True, logprob_start_len=0),
    "adapters": ask(adapter="red"),
    "images": lambda s: s.append_expression(user(sgl.image(PNG) + "Q") + assistant(gen("a"))),
    "samples": ask(n=2),
    "stops": ask(stop="x"),
    "warms": cached,
    **{name: ask(**given) for name, given in {"regex": {"regex": "ok"}, "json_schema": {"json_schema": {"type": "object"}}}.items()},
    "grammar": ask(grammar='start: "ok"'),
    **{name: ask(**{name: value}) for name, value in {"temperature": 0.5, "top_p": 0.5, "top_k": 3, "seed": 1, "min_p": 0.1}.items()},
    "frequency_penalty": ask(frequency_penalty=0.5),
    "presence_penalty": ask(presence_penalty=0.5),
}
"""What asks for each capability, sampling parameter and kind of constraint."""


def used_up(s: Any, use: str) -> None:
    USES[use](s)
    s.finish()


def declares(can: Capabilities, name: str) -> bool:
    if name in CONSTRAINTS:
        return name in can.constraints
    if name in SAMPLING:
        return name in can.sampling
    return getattr(can, name) > 1 if name == "samples" else bool(getattr(can, name))


def standing_for(can: Capabilities) -> Any:
    """A backend that declares the same and answers from a script."""
    if can.token_ids:
        backend = ScriptedBackend("ok")
        backend._card = replace(backend.describe(), capabilities=can)
        return backend
    return ScriptedConversation("ok", capabilities=can)


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("name", columns())
def test_a_program_gets_what_is_declared_and_is_refused_the_rest_before_anything_is_sent(name: str, use: str) -> None:
    can = columns()[name]
    backend = standing_for(can)
    s = sgl.start(backend)
    if declares(can, use):
        if use != "images" or not can.token_ids:
            USES[use](s)
            assert backend.jobs or use == "token_ids"
        return
    with pytest.raises((BackendUnsupported, ProgramError)):
        used_up(s, use)
    assert backend.jobs == []


def test_every_capability_that_a_program_can_ask_for_is_asked_for() -> None:
    asked = {name for name, about in ABOUT.items() if about.asked_by} - {"sampling", "constraints", "tools", "blocks"}
    assert asked <= USES.keys()
