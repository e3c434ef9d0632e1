"""Bodies on threads: streamed runs and batches."""

from __future__ import annotations

import _thread
import asyncio
import gc
import threading
from contextlib import nullcontext
from typing import Any

import pytest
from tqdm import TMonitor

import sgl_lab.lang.surface as sgl
from sgl_lab.backends.scripted import ScriptedBackend
from sgl_lab.contracts.errors import BadArgument, RequestFailed
from sgl_lab.contracts.port import GenJob
from sgl_lab.lang import state as state_module

from .language import watchdog, within  # noqa: F401

gen = sgl.gen


@sgl.function
def ask(s: Any, question: str, polite: bool = False) -> str:
    """Ask one question."""
    s += "Please: " if polite else ""
    s += question + gen("answer")
    return str(s["answer"])


def test_a_streamed_run_returns_at_once_and_gives_text_as_it_comes() -> None:
    backend = ScriptedBackend("abc", held=True)

    @sgl.function
    def program(s: Any) -> str:
        s += "Q: " + gen("a") + "."
        return str(s["a"]) + "!"

    state = program.run(backend=backend, stream=True)
    text = state.text_iter()
    assert next(text) == "Q: "
    backend.step()
    assert next(text) == "a"
    backend.resume()
    assert "".join(text) == "bc."
    assert state.ret_value == "abc!"
    assert state.text() == "Q: abc."


def test_one_variable_can_be_streamed_also_before_the_program_has_come_to_it() -> None:
    go = threading.Event()

    @sgl.function
    def program(s: Any) -> None:
        go.wait(10)
        s += sgl.user("Q") + sgl.assistant("So: " + gen("a"))

    state = program.run(backend=ScriptedBackend("abc"), stream=True)
    go.set()
    assert "".join(state.text_iter("a")) == "abc"
    assert "".join(state.text_iter()) == state.text()


def test_a_stream_raises_what_the_body_raised_and_reads_do_too() -> None:
    @sgl.function
    def program(s: Any) -> None:
        s += "Q" + gen("a") + gen("b")
        raise ZeroDivisionError

    state = program.run(backend=ScriptedBackend("x", held=True), stream=True)
    for read in (lambda: "".join(state.text_iter()), lambda: state["b"], lambda: state["c"], state.sync):
        assert isinstance(within(5, read), ZeroDivisionError)


def test_a_stream_raises_what_the_backend_raised() -> None:
    @sgl.function
    def program(s: Any) -> None:
        s += "Q" + gen("a")

    state = program.run(backend=ScriptedBackend(RequestFailed("boom")), stream=True)
    assert isinstance(within(5, lambda: list(state.text_iter())), RequestFailed)
    assert isinstance(within(5, lambda: list(state.text_iter("a"))), RequestFailed)


def test_a_batch_runs_each_body_once_and_gives_states_in_order() -> None:
    bodies: list[str] = []

    @sgl.function
    def program(s: Any, q: str) -> str:
        bodies.append(q)
        s += q + gen("a")
        return str(s["a"])

    backend = ScriptedBackend(lambda prompt: prompt.upper())
    states = program.run_batch([{"q": "a"}, ("b",), {"q": "c"}], backend=backend, num_threads=2, max_new_tokens=4)
    assert [state["a"] for state in states] == ["A", "B", "C"]
    assert sorted(bodies) == ["a", "b", "c"]
    assert [job.params.max_tokens for job in backend.jobs_of(GenJob)] == [4, 4, 4]


def test_a_shared_prefix_is_found_from_the_prompts_themselves() -> None:
    backend = ScriptedBackend("x")
    few = "You are terse."
    states = ask.run_batch([{"question": f"{few} {q}?"} for q in "abc"], backend=backend, num_threads=1)
    assert [state.get_meta_info("answer")["cached_tokens"] for state in states] == [0] + [len(few) + 1] * 2


def test_one_failing_item_costs_only_itself() -> None:
    backend = ScriptedBackend({"good": "fine", "bad": RequestFailed("boom")})
    items = [{"question": "good"}, {"question": "bad"}, {"question": "good 2"}]
    results = ask.run_batch(items, backend=backend, return_exceptions=True)
    assert [type(result).__name__ for result in results] == ["ProgramState", "RequestFailed", "ProgramState"]
    with pytest.raises(RequestFailed, match="boom") as caught:
        ask.run_batch(items, backend=backend)
    assert [getattr(result, "ret_value", None) for result in vars(caught.value)["results"]] == ["fine", None, "fine"]
    assert caught.value.__notes__[-1] == "in item 1 of the batch"


def test_an_item_that_does_not_fit_the_program_is_refused_before_any_runs() -> None:
    backend = ScriptedBackend()
    with pytest.raises(TypeError, match="item 1 of the batch"):
        ask.run_batch([{"question": "a"}, {"quest": "b"}], backend=backend)
    with pytest.raises(BadArgument, match="item 0"):
        ask.run_batch(["a"], backend=backend)
    with pytest.raises(TypeError, match="colour"):
        ask.run_batch([], colour="red")
    with pytest.raises(BadArgument, match="num_threads"):
        ask.run_batch([], num_threads=0)
    assert backend.jobs == []
    assert ask.run_batch([], backend=backend) == []


@sgl.function
async def ask_and_stay(s: Any, question: str) -> Any:
    s += question + gen("answer")
    if question != "0":
        await asyncio.Event().wait()
    return await s.get("answer")


@pytest.mark.parametrize("program", [ask, ask_and_stay])
def test_a_batch_can_be_taken_one_by_one_and_left(program: sgl.SglFunction, caplog: pytest.LogCaptureFixture) -> None:
    backend = ScriptedBackend("x" * 1000, held=True)
    states = program.run_batch(
        [{"question": str(n)} for n in range(8)], backend=backend, generator_style=True, num_threads=4, max_new_tokens=3
    )
    assert backend.jobs == [], "nothing runs before it is asked for"
    backend.resume()
    first = next(states)
    assert first.ret_value == "xxx"
    backend.hold()
    within(10, states.close)  # type: ignore[attr-defined]
    left = [thread for thread in threading.enumerate() if thread.name.startswith("sgl-batch")]
    for thread in left:
        thread.join(10)
    assert not any(thread.is_alive() for thread in left), "their requests were cancelled"
    gc.collect()
    assert not [record for record in caplog.records if "never retrieved" in record.getMessage()]


def as_seen(written: str) -> list[str]:
    """The lines that a terminal shows in the end: what returns to the start of its line writes over it."""
    lines = []
    for line in written.split("\n"):
        seen = ""
        for piece in line.split("\r"):
            seen = piece + seen[len(piece) :]
        lines.append(seen.rstrip())
    return lines


@sgl.function
def ask_unless_bad(s: Any, question: str) -> None:
    if question == "bad":
        raise ValueError("no")
    s += question + gen("answer")


@pytest.mark.parametrize("return_exceptions", [True, False])
def test_a_batch_leaves_one_line_that_says_how_many_are_over_and_how_many_failed(
    return_exceptions: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    with nullcontext() if return_exceptions else pytest.raises(ValueError, match="no"):
        ask_unless_bad.run_batch(
            [("a",), ("bad",), ("b",)], backend=ScriptedBackend("x"), progress_bar=True, return_exceptions=return_exceptions
        )
    line, end = as_seen(capsys.readouterr().out)
    assert (line[:5], "3/3" in line, line[-11:], end) == ("100%|", True, ", 1 failed]", "")
    assert not any(isinstance(thread, TMonitor) for thread in threading.enumerate()), "a bar has no thread"


def test_a_batch_that_is_left_early_says_so_in_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    backend = ScriptedBackend("x" * 1000, held=True)
    states = ask_and_stay.run_batch([(str(n),) for n in range(3)], backend=backend, generator_style=True, progress_bar=True)
    backend.resume()
    next(states)
    within(10, states.close)  # type: ignore[attr-defined]
    line, end = as_seen(capsys.readouterr().out)
    assert (line[:6], "1/3" in line, line[-9:], end) == (" 33%|█", True, " stopped]", "")


def test_what_is_printed_between_the_states_has_lines_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    for state in ask.run_batch([("a",), ("b",)], backend=ScriptedBackend("x"), generator_style=True, progress_bar=True):
        print(state.text())
    first, second, bar, end = as_seen(capsys.readouterr().out)
    assert (first, second, "2/2" in bar, end) == ("ax", "bx", True, "")


def test_a_batch_of_nothing_has_no_bar(capsys: pytest.CaptureFixture[str]) -> None:
    assert ask.run_batch([], backend=ScriptedBackend("x"), progress_bar=True) == []
    assert capsys.readouterr().out == ""


def test_the_items_of_a_batch_inherit_from_the_program_around_it() -> None:
    @sgl.function
    def judge(s: Any) -> list[str]:
        return [state.ret_value for state in ask.run_batch([("a",), ("b",)])]

    backend = ScriptedBackend(lambda prompt: prompt.upper())
    assert judge.run(backend=backend, temperature=0.0).ret_value == ["A", "B"]
    assert {job.params.temperature for job in backend.jobs_of(GenJob)} == {0.0}


def test_a_stopped_program_is_waited_for_with_the_batch_inside_it() -> None:
    backend = ScriptedBackend("x" * 1000, held=True)
    s = sgl.start(backend)
    states = ask.run_batch([(str(n),) for n in range(32)], generator_style=True, num_threads=8)

    def body() -> None:
        with s.running():
            threading.Timer(0.1, _thread.interrupt_main).start()
            next(states)

    before = set(threading.enumerate())
    with pytest.raises(KeyboardInterrupt):
        body()
    s.wait()
    assert not [thread for thread in set(threading.enumerate()) - before if thread.name.startswith("sgl-batch")]
    assert len(backend.jobs) <= 8


def test_a_body_that_sleeps_holds_up_a_stopped_program_for_a_while_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state_module, "PATIENCE_S", 0.2)
    asleep, wake = threading.Event(), threading.Event()

    @sgl.function
    def sleeper(s: Any) -> None:
        asleep.set()
        wake.wait(30)

    s = sgl.start(ScriptedBackend())
    with s.running():
        sleeper.run(stream=True)
    assert asleep.wait(10)
    s.cancel()
    assert within(5, s.wait) is None
    wake.set()
