"""What a backend can do is declared in one place: its refusals, and the table in the documentation, come from there."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

import sgl_lab.lang.surface as sgl
from sgl_lab.backends.scripted import ScriptedBackend, ScriptedConversation
from sgl_lab.backends.scripted.conversation import CHAT
from sgl_lab.contracts.capabilities import ABOUT, SAMPLING, TOKEN_LEVEL, Capabilities, Prices, table
from sgl_lab.contracts.errors import BackendUnsupported
from sgl_lab.contracts.params import SamplingParams
from sgl_lab.lang.surface import gen

PAGE = Path(__file__).parents[2] / "docs" / "language.md"


def test_every_capability_is_described_once() -> None:
    assert list(ABOUT) == [field.name for field in fields(Capabilities)]
    others = {"constraint", "n", "logprobs", "top_logprobs", "prompt_logprobs_from", "adapter"}
    assert others | set(SAMPLING) == {each.name for each in fields(SamplingParams)}


def test_a_declaration_is_data() -> None:
    assert json.loads(json.dumps(dataclasses.asdict(replace(CHAT, prices=Prices(1, 2)))))["prices"]["completion"] == 2
    assert hash(CHAT) == hash(replace(CHAT))
    with pytest.raises(dataclasses.FrozenInstanceError):
        CHAT.images = False  # type: ignore[misc]


def test_the_table_in_the_documentation_is_what_is_declared() -> None:
    here = replace(TOKEN_LEVEL, chat_template=True, adapters=True, deterministic=True, images=True)
    rows = table({"the engine here": here, "`ScriptedConversation`": CHAT})
    assert rows in PAGE.read_text(encoding="utf-8"), "docs/language.md, 'What a backend offers', has to have:\n" + rows


def add(a: int) -> int:
    return a


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "sampling": ({"top_k": 3}, "offers no sampling parameter top_k, which top_k=3 asks for"),
    "stops": ({"stop": ["a"] * 5}, "offers at most 4 stop strings and patterns in one request, stop= asks for more"),
    "samples": ({"n": 9}, "offers at most 8 samples of one prompt, n= asks for more"),
    "logprobs": ({"return_logprob": True}, "offers no log-probabilities of an answer, which return_logprob= asks for"),
    "top_logprobs": ({"top_logprobs_num": 2}, "offers no likeliest alternatives of a token, which top_logprobs_num= asks for"),
    "prompt_logprobs": ({"logprob_start_len": 0}, "offers no log-probabilities of a prompt, which logprob_start_len= asks for"),
    "constraints": ({"regex": "a"}, "offers no constraint of kind regex, which regex= asks for"),
    "tools": ({"tools": [add]}, "offers no tool calls in the server's own form, which tools= asks for"),
    "choices": ({"choices": ["a"]}, "offers no selects, which select or choices= asks for"),
}


@pytest.mark.parametrize("kind", [ScriptedBackend, ScriptedConversation])
@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_declared_is_refused_at_once_in_the_words_of_the_declaration(name: str, kind: Any) -> None:
    arguments, message = REFUSED[name]
    lacking = {"sampling": ("stop", "max_tokens"), "stops": 4, "samples": 8, "constraints": (), "choices": ""}
    can = replace(CHAT, **{name: lacking.get(name, type(getattr(CHAT, name))())}, **({"constraints": ()} if name == "tools" else {}))
    backend = kind("x") if kind is ScriptedBackend else kind("x", capabilities=can)
    if kind is ScriptedBackend:
        backend._card = replace(backend.describe(), capabilities=replace(can, chat_template=True))
    s = sgl.start(backend)
    with pytest.raises(BackendUnsupported, match=message):
        s += sgl.user("Q") + sgl.assistant(gen("x", **arguments))
    assert s.messages() == []
    assert backend.jobs == []


def test_what_is_declared_is_not_refused() -> None:
    TOKEN_LEVEL.check(SamplingParams(n=5, top_k=3, logprobs=True, top_logprobs=4, prompt_logprobs_from=0, stop=("a",) * 64), "engine")
    with pytest.raises(BackendUnsupported, match="which choices_method= asks for"):
        CHAT.check_choices("chat", is_default=False)
    TOKEN_LEVEL.check_choices("engine", is_default=False)
