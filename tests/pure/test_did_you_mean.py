"""A word that is one of several, misspelled, is one line that names the one that was meant: arguments, and values that are enumerated."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest

import sgl_lab.lang.surface as sgl
from sgl_lab.backends.scripted import ScriptedBackend
from sgl_lab.contracts.errors import BadArgument, UnknownArgument
from sgl_lab.contracts.near import nearest
from sgl_lab.engine.serving.config import EngineConfig
from sgl_lab.lang.choices import ChoicesSamplingMethod
from sgl_lab.session import Lab


@sgl.function
def ask(s: Any, question: str, polite: bool = False) -> None:
    s += question + sgl.gen("answer")


STATE = sgl.start(ScriptedBackend("x"))
ALL = [
    *(getattr(sgl, name) for name in sgl.__all__ if name not in ("bound", "start") and inspect.isfunction(getattr(sgl, name))),
    *(getattr(sgl.ProgramState, name) for name in dir(sgl.ProgramState) if not name.startswith("_")),
    *(getattr(sgl.ProgramStateGroup, name) for name in dir(sgl.ProgramStateGroup) if not name.startswith("_")),
    Lab.__init__,
    Lab.what_if,
    Lab.pin,
]


def named(function: Callable[..., Any]) -> list[str]:
    if not inspect.isfunction(function) or inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        return []
    parameters = inspect.signature(function).parameters.values()
    is_open = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)
    names = [each.name for each in parameters if each.kind is not each.VAR_POSITIONAL and each.name != "self"]
    return [] if is_open else names


@pytest.mark.parametrize("function", [function for function in ALL if named(function)], ids=lambda function: function.__qualname__)
def test_a_misspelled_argument_of_any_function_names_the_right_one(function: Callable[..., Any]) -> None:
    for name in named(function):
        with pytest.raises(TypeError, match="unexpected keyword argument") as caught:
            function(**{name + name[-1]: None})
        assert f"did you mean {name!r}?" in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("call", "meant"),
    [
        (lambda: sgl.gen("a", max_token=5), "max_tokens"),
        (lambda: sgl.gen("a", temprature=0), "temperature"),
        (lambda: sgl.gen_int("a", max_tokn=5), "max_tokens"),
        (lambda: sgl.gen("a", dtype="integr"), "int"),
        (lambda: sgl.gen("a", dtype="boolean"), "bool"),
        (lambda: sgl.select("a", ["b"], choices_methd=sgl.token_length_normalized), "choices_method"),
        (lambda: sgl.select("a", ["b"], choices_method="greedy_tokn_selection"), "sgl.greedy_token_selection"),  # type: ignore[arg-type]
        (lambda: STATE.append_expression(sgl.separate_reasoning(sgl.gen("a"), "qwen-3")), "qwen3"),
        (lambda: sgl.get_chat_template("chat-ml"), "chatml"),
        (lambda: ask.run(quesion="a"), "question"),
        (lambda: ask.run("a", temprature=0), "temperature"),
        (lambda: ask.run("a", max_new_token=3), "max_new_tokens"),
        (lambda: ask.bind(polit=True), "polite"),
        (lambda: ask.run_batch([("a",)], num_thread=2), "num_threads"),
        (lambda: ask.run_batch([("a",)], progres_bar=True), "progress_bar"),
        (lambda: ask.run_batch([("a",)], num_threads="atuo"), "auto"),
        (lambda: ask.run_batch([{"question": "a"}, {"questoin": "b"}]), "question"),
        (lambda: STATE.fork(2).join("gather_variables"), "gather_variable"),
        (lambda: EngineConfig(evict="lur"), "lru"),
        (lambda: EngineConfig(schedule="lmp"), "lpm"),
    ],
)
def test_what_was_meant_is_said(call: Callable[[], object], meant: str) -> None:
    with pytest.raises(BadArgument) as caught:
        call()
    assert f"did you mean {meant!r}?" in str(caught.value)


def test_where_nothing_is_near_all_are_named() -> None:
    with pytest.raises(UnknownArgument, match=r"it takes name, choices, temperature, choices_method"):
        sgl.select(colour="red")  # type: ignore[call-arg]
    with pytest.raises(BadArgument, match=r"one of int, float, bool, str"):
        sgl.gen("a", dtype="quaternion")
    assert nearest("xyz", ["abc"]) is None


def test_a_function_that_suggests_is_still_what_it_was() -> None:
    assert list(inspect.signature(sgl.gen).parameters)[:2] == ["name", "max_tokens"]
    assert "kept under `name`" in str(sgl.gen.__doc__)
    line = inspect.currentframe().f_lineno + 1  # type: ignore[union-attr]
    gen = sgl.gen("a")
    assert gen.location.line == line
    assert isinstance(sgl.token_length_normalized, ChoicesSamplingMethod)
