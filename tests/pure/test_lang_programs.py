"""Programs: arguments, results, errors, nesting, the names of a cell."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

import sgl_lab.lang.surface as sgl
from sgl_lab.backends.scripted import ScriptedBackend
from sgl_lab.contracts.errors import BadArgument, ProgramError, RequestFailed, Stopped
from sgl_lab.contracts.events import Event, ForkOpened
from sgl_lab.contracts.ids import RequestId
from sgl_lab.contracts.port import GenJob
from sgl_lab.lang import default

from .language import watchdog, within  # noqa: F401

gen = sgl.gen


@sgl.function
def ask(s: Any, question: str, polite: bool = False) -> str:
    """Ask one question."""
    s += "Please: " if polite else ""
    s += question + gen("answer")
    return str(s["answer"])


def test_a_program_runs_with_or_without_run_and_returns_its_state() -> None:
    backend = ScriptedBackend({"Q": "A", "Please": "Of course"})
    state = ask.run("Q", backend=backend)
    assert (state["answer"], state.ret_value, state.text()) == ("A", "A", "QA")
    assert ask(question="Q", polite=True, backend=backend).ret_value == "A"
    assert ask.__doc__ == "Ask one question."
    assert repr(ask) == "<program ask(question, polite)>"


def test_an_expression_is_shown_as_a_program_writes_it() -> None:
    assert repr(sgl.gen("x", max_tokens=3)) == "gen('x', max_tokens=3)"
    assert repr(sgl.gen(regex="[1-5]")) == "gen(regex='[1-5]')"
    assert repr(sgl.select("a", ["b", "c"])) == "select('a', choices=['b', 'c'])"
    assert len(repr(sgl.gen("x", json_schema={"type": "string", "enum": ["y" * 9000]}))) < 80


def test_the_decorator_may_be_called() -> None:
    @sgl.function(num_api_spec_tokens=64)
    def program(s: Any) -> None:
        s += "x" + gen("a")

    assert program.num_api_spec_tokens == 64
    assert program.run(backend=ScriptedBackend("y"))["a"] == "y"


def test_wrong_arguments_are_a_type_error_before_anything_runs() -> None:
    backend = ScriptedBackend()
    for call in (lambda: ask.run(backend=backend), lambda: ask.run("Q", backend=backend, colour="red"), lambda: ask.bind(colour="red")):
        with pytest.raises(TypeError, match=r"question|colour"):
            call()
    assert backend.jobs == []


def test_a_program_needs_a_parameter_for_its_state_and_does_not_yield() -> None:
    with pytest.raises(BadArgument, match="no parameter for its state"):
        sgl.function(lambda: None)

    def yields(s: Any) -> Iterator[int]:
        yield 1

    async def yields_later(s: Any) -> AsyncIterator[int]:
        yield 1

    for func in (yields, yields_later):
        with pytest.raises(BadArgument, match="yields"):
            sgl.function(func)


def test_bound_arguments_are_given() -> None:
    bound = ask.bind(polite=True)
    assert bound.run("Q", backend=ScriptedBackend("A")).text() == "Please: QA"
    assert ask.run("Q", backend=ScriptedBackend("A")).text() == "QA"


def test_the_programs_own_parameters_win() -> None:
    @sgl.function
    def program(s: Any, n: int, stop: str, temperature: float, backend_: str = "") -> tuple[Any, ...]:
        s += "x" + gen("a")
        return n, stop, temperature

    backend = ScriptedBackend("y")
    state = program.run(n=3, stop="never", temperature=9.0, max_new_tokens=7, backend=backend)
    assert state.ret_value == (3, "never", 9.0)
    params = backend.jobs_of(GenJob)[0].params
    assert (params.n, params.stop, params.temperature, params.max_tokens) == (1, (), 1.0, 7)


def test_what_a_body_raises_is_raised_and_its_requests_are_cancelled() -> None:
    @sgl.function
    def program(s: Any) -> None:
        s += "x" + gen("a")
        raise ZeroDivisionError

    backend = ScriptedBackend("y", held=True)
    with pytest.raises(ZeroDivisionError):
        program.run(backend=backend)
    assert backend.n_cancelled == 1


def test_a_failure_that_the_body_did_not_read_waits_in_the_state() -> None:
    @sgl.function
    def program(s: Any) -> None:
        s += "x" + gen("a")

    state = program.run(backend=ScriptedBackend(RequestFailed("boom")))
    assert isinstance(state.error(), RequestFailed)
    with pytest.raises(RequestFailed, match="boom"):
        state["a"]


def test_without_threads_each_expression_is_waited_for() -> None:
    failed: list[str] = []

    @sgl.function
    def program(s: Any) -> None:
        try:
            s += "x" + gen("a")
        except RequestFailed:
            failed.append("at the append")

    program.run(backend=ScriptedBackend(RequestFailed("boom")), use_thread=False)
    assert failed == ["at the append"]


def test_the_default_backend_is_chosen_or_made_on_first_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(default, "backend_slot", None)
    with pytest.raises(ProgramError, match="no backend"):
        ask.run("Q")
    monkeypatch.setattr(default, "backend_slot", lambda: ScriptedBackend("made"))
    assert ask.run("Q").ret_value == "made"
    sgl.set_default_backend(ScriptedBackend("chosen"))
    try:
        assert ask.run("Q").ret_value == "chosen"
        assert sgl.get_server_info()["name"] == "scripted"
        sgl.flush_cache()
    finally:
        sgl.set_default_backend(None)


def test_a_script_finds_the_default_backend_and_the_errors_to_catch_without_the_magics() -> None:
    script = """
import sys, sgl_lab as sgl
try:
    sgl.gen(max_tokens="x")
except sgl.BadArgument as error:
    assert isinstance(error, sgl.SglError)
from sgl_lab.lang import default
assert default.backend_slot is not None
assert {"Stopped", "EngineStopped", "gen"} <= set(dir(sgl))
print(sorted(name for name in sys.modules if "magics" in name or name in ("torch", "IPython")))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"


def test_a_run_says_its_events_where_its_backend_does() -> None:
    events: list[Event] = []
    ask.run("Q", backend=ScriptedBackend("A", emit=events.append))
    assert [event.label for event in events if isinstance(event, ForkOpened)] == ["ask"]


def test_a_program_inside_another_inherits_backend_sampling_and_run() -> None:
    @sgl.function
    def outer(s: Any) -> tuple[str, str]:
        s += "outer" + gen("o")
        inherited = ask.run("inner")
        given = ask.run("given", temperature=0.25, backend=other)
        return inherited.ret_value, given.ret_value

    events: list[Event] = []
    backend, other = ScriptedBackend("mine", emit=events.append), ScriptedBackend("other")
    state = outer.run(backend=backend, temperature=0.5, max_new_tokens=9)
    assert state.ret_value == ("mine", "other")
    assert [(job.params.temperature, job.params.max_tokens) for job in backend.jobs_of(GenJob)] == [(0.5, 9), (0.5, 9)]
    assert [(job.params.temperature, job.params.max_tokens) for job in other.jobs_of(GenJob)] == [(0.25, 9)]
    assert len({event.run for event in events if isinstance(event, ForkOpened)}) == 1


def test_stopping_a_run_stops_the_programs_inside_it() -> None:
    backend = ScriptedBackend("x", held=True)
    inside = threading.Event()

    @sgl.function
    def inner(s: Any) -> str:
        s += "x" + gen("a")
        inside.set()
        return str(s["a"])

    s = sgl.start(backend)

    def body() -> None:
        with s.running():
            inner.run()

    outcome: list[object] = []
    thread = threading.Thread(target=lambda: outcome.append(within(10, body)))
    thread.start()
    assert inside.wait(10)
    s.cancel()
    thread.join(10)
    assert isinstance(outcome[0], Stopped)


@pytest.mark.parametrize("interruption", [KeyboardInterrupt(), Stopped("the job was stopped")])
def test_a_coroutine_that_awaits_something_else_can_be_interrupted_as_well(interruption: BaseException) -> None:
    ended = []

    @sgl.function
    async def elsewhere(s: Any) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(True)

    def check() -> None:
        raise interruption

    s = sgl.start(ScriptedBackend(), check=check)

    def body() -> None:
        with s.running():
            elsewhere.run()

    assert within(10, body) is interruption
    assert ended == [True]


def test_the_names_of_a_cell_are_bound_to_its_state() -> None:
    s = sgl.start(ScriptedBackend("x"))
    words = sgl.bound(s)
    with words["user"]():
        words["s"].append_expression("hi")
    s += words["assistant"](words["gen"]("a"))
    assert len(words["fork"](2)) == 2
    assert [message["content"] for message in s.messages()] == ["hi", "x"]
    assert set(sgl.SURFACE) <= words.keys() & set(sgl.__all__)


@pytest.mark.parametrize("is_async", [False, True])
def test_the_right_to_interrupt_a_run_includes_the_runs_inside_it(is_async: bool) -> None:
    backend = ScriptedBackend("x", held=True)

    def plain(s: Any) -> None:
        s += "Q" + gen("a")
        s["a"]

    async def awaiting(s: Any) -> None:
        s += "Q" + gen("a")
        await s.get("a")

    def check() -> None:
        if backend.jobs:
            raise KeyboardInterrupt

    inner = sgl.function(awaiting if is_async else plain)
    s = sgl.start(backend, check=check)
    with pytest.raises(KeyboardInterrupt), s.running():
        inner.run()
    assert backend.n_cancelled == 1


class LateBackend(ScriptedBackend):
    """Cancels only when it is let."""

    late = threading.Event()

    def cancel(self, request: RequestId) -> None:
        threading.Thread(target=lambda: self.late.wait(10) and super(LateBackend, self).cancel(request), daemon=True).start()


def test_what_a_run_that_was_stopped_has_said_is_waited_for_and_read() -> None:
    backend = LateBackend("some more words", held=True)
    asked = threading.Event()

    def check() -> None:
        if len(backend.jobs) == 1 and asked.is_set():
            raise Stopped("enough")

    s = sgl.start(backend, check=check)
    s += "Q: " + gen("a", max_tokens=20)
    backend.step(3)
    within(5, lambda: next(s.text_iter("a")))
    asked.set()
    s.cancel("enough")
    threading.Timer(0.3, backend.late.set).start()
    assert within(5, s.text) == "Q: som"
    assert isinstance(within(5, s.error), Stopped)


def test_a_gen_in_an_f_string_is_refused_instead_of_being_spelled() -> None:
    with pytest.raises(BadArgument, match=r"a gen in an f-string has no text yet \(join them with \+"):
        f"Hello {gen('x')}"
    assert f"{gen('x')!r}" == "gen('x')"


@pytest.mark.parametrize("backend", [0, object()])
def test_what_is_no_backend_is_refused_at_the_call(backend: Any) -> None:
    @sgl.function
    def program(s: Any) -> None:
        s += "x"

    for call in (lambda: program.run(backend=backend), lambda: program.cache(backend), lambda: sgl.set_default_backend(backend)):
        with pytest.raises(BadArgument, match=r"expected a backend.*lab\.backend"):
            call()


def test_a_program_that_runs_itself_for_ever_fails_as_such_and_its_events_go_on(caplog: pytest.LogCaptureFixture) -> None:
    backend, listener = ScriptedBackend("a"), []
    backend.emit = listener.append

    @sgl.function
    def program(s: Any) -> None:
        s += "x"
        program.run()

    with pytest.raises(RecursionError):
        program.run(backend=backend)
    assert listener
    assert not [record for record in caplog.records if record.name.startswith("sgl_lab")]
