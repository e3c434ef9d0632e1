"""What programs written for the original rely on beside the language: module names, settings, `cache`, `str(state)`."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from typing import Any

import pytest

import sgl_lab.lang.surface as sgl
from sgl_lab.backends.scripted import ScriptedBackend
from sgl_lab.contracts.port import GenJob, WarmJob
from sgl_lab.lang import chat_template, ir
from sgl_lab.lang.backend.base_backend import BaseBackend

from .language import watchdog  # noqa: F401

gen = sgl.gen

NAMES = {
    "api": "function gen select user assistant system set_default_backend flush_cache get_server_info",
    "backend.base_backend": "BaseBackend",
    "chat_template": "ChatTemplate get_chat_template get_chat_template_by_model_path register_chat_template "
    "register_chat_template_matching_function",
    "choices": "ChoicesDecision ChoicesSamplingMethod greedy_token_selection token_length_normalized unconditional_likelihood_normalized",
    "global_config": "GlobalConfig global_config",
    "interpreter": "ProgramState ProgramStateGroup",
    "ir": "SglConstantText SglExpr SglExprList SglFunction SglGen SglRoleBegin SglRoleEnd SglSelect "
    "REGEX_BOOL REGEX_FLOAT REGEX_INT REGEX_STR REGEX_STRING",
}


@pytest.mark.parametrize("module", NAMES)
def test_the_names_that_programs_import_are_where_they_look_for_them(module: str) -> None:
    found = importlib.import_module(f"sgl_lab.lang.{module}")
    for name in NAMES[module].split():
        assert getattr(found, name) is not None
    with pytest.raises(AttributeError):
        _ = found.NoSuchName


def test_expressions_and_programs_are_of_the_kinds_that_are_imported() -> None:
    assert isinstance(gen("a"), ir.SglGen)
    assert isinstance(sgl.select("a", ["b"]), ir.SglSelect)
    assert isinstance("a" + gen(), ir.SglExprList)
    assert isinstance(sgl.function(lambda s: None), ir.SglFunction)
    s = sgl.start(ScriptedBackend())
    s += ir.SglConstantText("text")
    assert s.text() == "text"


def test_a_backend_may_be_made_of_the_base() -> None:
    class Echo(ScriptedBackend, BaseBackend): ...

    s = sgl.start(Echo("x"))
    s += "Q" + gen("a")
    assert s["a"] == "x"


def test_a_state_prints_its_text_also_when_it_failed() -> None:
    s = sgl.start(ScriptedBackend("A"))
    s += "Q" + gen("a")
    assert str(s) == f"{s}" == "ProgramState(QA)"
    failed = sgl.start(ScriptedBackend(context=5))
    failed += "Q" + gen("a", max_tokens=1) + "far too long" + gen("b")
    assert str(failed) == "ProgramState(Qofar too long)"


def test_a_function_may_say_which_template_a_model_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_template, "_matchers", [])
    before = chat_template.get_chat_template_by_model_path("my-qwen-chat").name

    @chat_template.register_chat_template_matching_function
    def mine(model: str) -> str | None:
        return "gemma-it" if model.startswith("my-") else None

    assert (before, mine("other")) == ("qwen", None)
    assert chat_template.get_chat_template_by_model_path("my-qwen-chat").name == "gemma-it"
    assert chat_template.get_chat_template_by_model_path("qwen-chat").name == "qwen"


# ---------------------------------------------------------------- settings


def test_settings_mean_something_or_say_that_they_do_not(capsys: pytest.CaptureFixture[str]) -> None:
    config, backend = sgl.global_config, ScriptedBackend("A")

    @sgl.function
    def program(s: Any) -> None:
        s += "Q" + gen("a")

    config.default_backend = backend
    try:
        assert config.default_backend is backend
        program.run()
        assert capsys.readouterr().out == ""
        config.verbosity = 2
        program.run()
        assert capsys.readouterr().out == "QA\n"
    finally:
        config.verbosity = 0
        config.default_backend = None
    config.enable_parallel_encoding = True
    with pytest.warns(UserWarning, match="enable_parallel_encoding cannot be switched off here: "):
        config.enable_parallel_encoding = False
    assert config.enable_parallel_encoding
    for touch in (lambda: config.verbose, lambda: setattr(config, "verbose", 1)):
        with pytest.raises(AttributeError, match="no 'verbose'"):
            touch()


# ---------------------------------------------------------------- cache

FEW_SHOT = "Q: 1 + 1\nA: 2\n"


def f_string(s: Any, question: str) -> None:
    s += FEW_SHOT
    s += f"Q: {question}\nA:" + gen("answer")


def concatenated(s: Any, question: str) -> None:
    s += FEW_SHOT + "Q: " + question + "\n" + gen("answer")


def branching(s: Any, question: str) -> None:
    s += FEW_SHOT + "Q: "
    s += json.loads(question)["text"]


def reading(s: Any, question: str) -> None:
    s += FEW_SHOT + "Q: " + gen("x")
    s += s["x"] + question


def forking(s: Any, question: str) -> None:
    s += FEW_SHOT + "Q: "
    s.fork(2)


async def awaiting(s: Any, question: str) -> None:
    s += FEW_SHOT + "Q: "
    await s.get("nothing")


@pytest.mark.parametrize("func", [f_string, concatenated, branching, reading, forking, awaiting])
def test_cache_computes_what_all_runs_begin_with(func: Callable[..., Any]) -> None:
    backend = ScriptedBackend("x")
    program = sgl.function(func)
    assert program.cache(backend) == len(FEW_SHOT + "Q: ")
    assert [type(job) for job in backend.jobs] == [WarmJob]
    if func in (f_string, concatenated, reading):
        state = program.run(question="2 + 2", backend=backend)
        assert state.error() is None
        assert state.get_meta_info("x" if func is reading else "answer")["cached_tokens"] >= len(FEW_SHOT + "Q: ") - 1


def test_bound_and_defaulted_arguments_belong_to_the_prefix_and_turns_do() -> None:
    @sgl.function
    def program(s: Any, style: str, question: str, ending: str = "!") -> None:
        s += sgl.system(f"Be {style}{ending}") + sgl.user(question) + sgl.assistant(gen("a"))

    backend = ScriptedBackend("x")
    n_tokens = program.bind(style="terse").cache(backend)
    (warmed,) = backend.jobs_of(WarmJob)
    assert backend.decode(warmed.prompt) == "<|im_start|>system\nBe terse!<|im_end|>\n<|im_start|>user\n"
    program.run("terse", "What?", backend=backend)
    assert backend.jobs_of(GenJob)[0].prompt[:n_tokens] == warmed.prompt


def test_a_program_that_begins_with_its_argument_has_nothing_to_cache() -> None:
    backend = ScriptedBackend()
    assert sgl.function(lambda s, q: s.append_expression(q + gen("a"))).cache(backend) == 0
    assert backend.jobs == []


@pytest.mark.parametrize("name", ["RuntimeEndpoint", "Runtime", "OpenAI", "Anthropic", "VertexAI", "Gemini", "LiteLLM", "image", "video"])
def test_a_name_that_is_not_here_yet_says_so(name: str) -> None:
    import sgl_lab

    assert not hasattr(sgl_lab, name)
    with pytest.raises(AttributeError, match=f"'{name}': .* are not here yet"):
        getattr(sgl_lab, name)
    with pytest.raises(ImportError, match=f"'{name}': .* are not here yet"):
        exec(f"from sgl_lab import {name}")
