"""Programs that are coroutines: reading, running, batching, streaming and cancelling without a thread that waits."""

from __future__ import annotations

import _thread
import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

import sgl_lab.lang.surface as sgl
from sgl_lab.backends.scripted import ScriptedBackend
from sgl_lab.contracts.errors import BadArgument, EngineStopped, ProgramError, RequestFailed, Stopped, UnknownVariable
from sgl_lab.contracts.events import Event, ForkOpened
from sgl_lab.contracts.port import GenJob
from sgl_lab.lang import execution
from sgl_lab.lang.loop import Loop, drive

from .language import line_with, watchdog, within  # noqa: F401

gen = sgl.gen


@sgl.function
async def ask(s: Any, question: str) -> str:
    """Ask one question."""
    s += question + gen("answer")
    return str(await s.get("answer"))


@sgl.function
def ask_plainly(s: Any, question: str) -> str:
    s += question + gen("answer")
    return str(s["answer"])


async def until(backend: ScriptedBackend, n_jobs: int) -> None:
    """Let the other tasks run until the backend was given `n_jobs`."""
    async with asyncio.timeout(10):
        while len(backend.jobs) < n_jobs:
            await asyncio.sleep(0.001)


# ---------------------------------------------------------------- running


def test_run_drives_a_coroutine_to_its_end_in_a_plain_script() -> None:
    state = ask.run("Q", backend=ScriptedBackend("A"))
    assert (state.ret_value, state.text(), ask.is_async) == ("A", "QA", True)
    assert ask(question="Q", backend=ScriptedBackend("B")).ret_value == "B"


def test_run_works_where_a_loop_is_running_already_which_goes_on_afterwards() -> None:
    async def notebook() -> tuple[Any, ...]:
        here, task = asyncio.get_running_loop(), asyncio.current_task()
        ticks = asyncio.create_task(asyncio.sleep(0, "ticked"))
        answer = ask.run("Q", backend=ScriptedBackend("A")).ret_value
        assert (asyncio.get_running_loop(), asyncio.current_task()) == (here, task)
        return answer, await ticks

    assert asyncio.run(notebook()) == ("A", "ticked")


@pytest.mark.parametrize("program", [ask, ask_plainly])
def test_both_kinds_can_be_awaited_while_other_tasks_go_on(program: Any) -> None:
    backend = ScriptedBackend("A", held=True)

    async def main() -> str:
        task = asyncio.create_task(program.run_async("Q", backend=backend))
        await until(backend, 1)
        backend.resume()
        return str((await task).ret_value)

    assert asyncio.run(main()) == "A"


@pytest.mark.parametrize("program", [ask, ask_plainly])
def test_what_is_awaited_raises_what_the_body_raised_with_the_users_line(program: Any) -> None:
    failure = RequestFailed("boom")
    with pytest.raises(RequestFailed) as caught:
        asyncio.run(program.run_async("Q", backend=ScriptedBackend(failure)))
    assert caught.value is failure
    assert "in gen('answer'), line " in failure.__notes__[0]
    with pytest.raises(RequestFailed):
        program.run("Q", backend=ScriptedBackend(RequestFailed("boom")))


def test_each_read_has_a_twin_that_can_be_awaited() -> None:
    @sgl.function
    async def program(s: Any) -> tuple[Any, ...]:
        s += "Q" + gen("a")
        forks = s.fork(2)
        forks += lambda i: f" {i}:" + gen("b")
        values = await asyncio.gather(*(fork.get("b") for fork in forks))
        await forks.join_async()
        async with s.copy() as copy:
            copy += gen("c")
        await s.sync_async()
        return values, await s.get("b"), await s.get("c"), await s.text_async(), s.get_meta_info("a")["finish_reason"]

    assert program.run(backend=ScriptedBackend("x")).ret_value == (["x", "x"], ["x", "x"], ["x"], "Qx", "stop")


def test_a_read_in_a_coroutine_raises_what_went_wrong() -> None:
    failure = RequestFailed("boom")

    @sgl.function
    async def program(s: Any) -> list[bool]:
        found = []
        s += "good" + gen("good")
        with pytest.raises(UnknownVariable, match="did you mean 'good'"):
            await s.get("goood")
        forks = s.fork(2)
        forks += ["good", "bad"]
        forks += gen("v")
        for read in (forks[1].get("v"), forks[1].sync_async(), forks[1].text_async(), forks.join_async()):
            with pytest.raises(RequestFailed) as caught:
                await read
            found.append(caught.value is failure)
        assert "in fork 1 of 2" in failure.__notes__
        return found

    assert program.run(backend=ScriptedBackend({"good": "fine", "bad": failure})).ret_value == [True] * 4


def test_a_program_inside_another_inherits_backend_sampling_and_run() -> None:
    @sgl.function
    async def outer(s: Any) -> list[str]:
        awaited = await ask.run_async("a")
        together = await asyncio.gather(ask.run_async("b"), ask_plainly.run_async("c", max_new_tokens=5))
        driven, plain = ask.run("d"), ask_plainly.run("e")
        return [state.ret_value for state in (awaited, *together, driven, plain)]

    events: list[Event] = []
    backend = ScriptedBackend(lambda prompt: prompt.upper(), emit=events.append)
    assert outer.run(backend=backend, temperature=0.5, max_new_tokens=9).ret_value == ["A", "B", "C", "D", "E"]
    asked = {backend.decode(job.prompt): (job.params.temperature, job.params.max_tokens) for job in backend.jobs_of(GenJob)}
    assert asked == {"a": (0.5, 9), "b": (0.5, 9), "c": (0.5, 5), "d": (0.5, 9), "e": (0.5, 9)}
    assert len({event.run for event in events if isinstance(event, ForkOpened)}) == 1


def test_all_waiters_on_a_loop_share_one_heartbeat_without_threads() -> None:
    backend = ScriptedBackend("x", held=True)

    @sgl.function
    async def program(s: Any) -> int:
        s += "Q"
        forks = s.fork(64)
        forks += gen("a")
        before = threading.active_count()
        timers = len(asyncio.get_running_loop()._scheduled)  # type: ignore[attr-defined]
        reads = [asyncio.create_task(fork.get("a")) for fork in forks]
        await asyncio.sleep(0)
        waiting = sum(map(len, Loop.here()._waiting.values()))
        timers = len(asyncio.get_running_loop()._scheduled) - timers  # type: ignore[attr-defined]
        assert (waiting, timers, threading.active_count()) == (64, 1, before)
        backend.resume()
        assert await asyncio.gather(*reads) == ["x"] * 64
        assert not Loop.here()._waiting
        return waiting

    assert program.run(backend=backend).ret_value == 64


# ---------------------------------------------------------------- cancelling


@pytest.mark.parametrize("program", [ask, ask_plainly])
def test_cancelling_the_task_cancels_the_runs_requests(program: Any) -> None:
    backend = ScriptedBackend("x", held=True)

    async def main() -> None:
        task = asyncio.create_task(program.run_async("Q", backend=backend))
        await until(backend, 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await program.run_async("Q", backend=backend)

    asyncio.run(main())
    assert (len(backend.jobs), backend.n_cancelled) == (2, 2)


def test_a_timeout_around_a_read_ends_the_reading_only() -> None:
    backend = ScriptedBackend("late", held=True)

    @sgl.function
    async def program(s: Any) -> str:
        s += "Q" + gen("a")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.02):
                await s.get("a")
        backend.resume()
        return str(await s.get("a"))

    assert program.run(backend=backend).ret_value == "late"
    assert backend.n_cancelled == 0


def test_a_stopped_run_unwinds_its_coroutine_at_the_read_and_keeps_partial_text() -> None:
    backend = ScriptedBackend("a long answer", held=True)
    state = ask.run("Q", backend=backend, stream=True)
    backend.step(6)
    seen = ""
    for piece in state.text_iter("answer"):
        seen += piece
        if seen == "a long":
            state.cancel()
    assert isinstance(within(5, state.error), Stopped)
    assert (state["answer"], state.ret_value) == ("a long", None)


def test_a_stopped_program_stops_those_that_it_awaits() -> None:
    backend = ScriptedBackend("x", held=True)

    @sgl.function
    async def outer(s: Any) -> list[Any]:
        return await asyncio.gather(ask.run_async("a"), ask.run_async("b"), ask_plainly.run_async("c"))

    state = outer.run(backend=backend, stream=True)
    asyncio.run(until(backend, 3))
    state.cancel("enough")
    assert str(within(5, state.error)) == "enough"
    assert backend.n_cancelled == 3


@sgl.function
async def waits_for_another(s: Any) -> str:
    await asyncio.sleep(60)
    return "it was not stopped"


@sgl.function
async def waits_inside_another(s: Any) -> str:
    return str((await waits_for_another.run_async()).ret_value)


@pytest.mark.parametrize("program", [waits_for_another, waits_inside_another])
def test_a_stopped_run_ends_its_coroutine_whatever_it_awaits(program: Any) -> None:
    backend = ScriptedBackend()
    for states in [[program.run(backend=backend, stream=True)], program.run_batch([(), ()], backend=backend, stream=True)]:
        for state in states:
            state.cancel("enough")
        for state in states:
            error = within(5, state.error)
            assert (type(error), str(error)) == (Stopped, "enough")
            assert state.ret_value is None


def test_a_stop_while_the_loop_of_a_coroutine_is_made_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    began, goes_on = threading.Event(), threading.Event()

    def late(coroutine: Any, check: Callable[[], None]) -> Any:
        began.set()
        goes_on.wait()
        return drive(coroutine, check)

    monkeypatch.setattr(execution, "drive", late)
    state = waits_for_another.run(backend=ScriptedBackend(), stream=True)
    began.wait()
    state.cancel("enough")
    goes_on.set()
    error = within(5, state.error)
    assert (type(error), str(error)) == (Stopped, "enough")


@pytest.mark.parametrize("program", [waits_for_another, waits_inside_another])
def test_a_task_outlives_the_stop_of_the_run_that_it_awaits(program: Any) -> None:
    async def main() -> str:
        state = await program.run_async(backend=ScriptedBackend(), stream=True)
        await asyncio.sleep(0)
        state.cancel("enough")
        with pytest.raises(Stopped, match="enough"):
            await state.sync_async()

        @sgl.function
        async def stops_itself(s: Any) -> None:
            s.cancel("by itself")
            await asyncio.sleep(60)

        with pytest.raises(Stopped, match="by itself"):
            await stops_itself.run_async(backend=ScriptedBackend())
        task = asyncio.current_task()
        assert task
        assert task.cancelling() == 0
        return await asyncio.sleep(0, "goes on")

    assert within(10, lambda: asyncio.run(main())) == "goes on"


def test_an_interrupt_of_a_script_cancels_what_the_coroutine_waits_for() -> None:
    backend = ScriptedBackend("x", held=True)
    cleaned: list[str] = []

    @sgl.function
    async def program(s: Any) -> None:
        s += "Q" + gen("a")
        threading.Timer(0.1, _thread.interrupt_main).start()
        try:
            await s.get("a")
        finally:
            cleaned.append("by the user")

    with pytest.raises(KeyboardInterrupt):
        program.run(backend=backend)
    assert (backend.n_cancelled, cleaned) == (1, ["by the user"])


def test_an_engine_that_dies_without_a_word_ends_every_await() -> None:
    backend = ScriptedBackend("x", held=True)

    @sgl.function
    async def program(s: Any) -> list[str]:
        s += "Q" + gen("a")
        reads = [s.get("a"), s.sync_async(), s.text_async()]
        backend.die()
        return [type(error).__name__ for error in await asyncio.gather(*reads, return_exceptions=True)]

    assert within(5, lambda: program.run(backend=backend).ret_value) == ["EngineStopped"] * 3
    with pytest.raises(EngineStopped):
        asyncio.run(ask.run_async("Q", backend=backend))


def test_a_plain_read_that_would_hold_up_the_body_it_waits_for_is_an_error() -> None:
    backend = ScriptedBackend("x")

    async def main() -> None:
        state = await ask.run_async("Q", backend=backend, stream=True)
        for read in (lambda: state["answer"], state.text, state.sync, lambda: list(state.text_iter())):
            with pytest.raises(ProgramError, match="a task of this same thread"):
                read()
        assert await state.get("answer") == "x"

    assert within(10, lambda: asyncio.run(main())) is None


# ---------------------------------------------------------------- streaming


def test_text_comes_to_an_async_for_from_a_body_on_another_thread() -> None:
    backend = ScriptedBackend("abc", held=True)

    async def main() -> list[str]:
        pieces: list[str] = []
        state = ask_plainly.run("Q: ", backend=backend, stream=True)
        async for piece in state.text_async_iter():
            pieces.append(piece)
            backend.step()
        assert "".join([piece async for piece in state.text_async_iter()]) == state.text() == "Q: abc"
        assert "".join(state.text_iter()) == "Q: abc", "a second time all of it comes again"
        return pieces

    assert asyncio.run(main()) == ["Q: ", "a", "b", "c"]


def test_text_comes_with_what_is_known_of_the_variable() -> None:
    backend = ScriptedBackend("abc", held=True)

    async def main() -> list[tuple[str, Any]]:
        pairs = []
        state = await ask.run_async("Q", backend=backend, stream=True)
        backend.step()
        async for pair in state.text_async_iter("answer", return_meta_data=True):
            pairs.append(pair)
            backend.step()
        with pytest.raises(BadArgument, match="name of a variable"):
            [piece async for piece in state.text_async_iter(return_meta_data=True)]
        return pairs

    pairs = asyncio.run(main())
    assert "".join(piece for piece, _ in pairs) == "abc"
    assert pairs[0] == ("a", {"finish_reason": None, "completion_tokens": 1})
    assert (pairs[-1][1]["finish_reason"], pairs[-1][1]["completion_tokens"]) == ("stop", 3)


@pytest.mark.parametrize("where", ["run", "run_async"])
def test_an_async_stream_raises_what_the_body_raised(where: str) -> None:
    @sgl.function
    async def program(s: Any) -> None:
        s += "Q" + gen("a")
        await s.get("a")
        raise ZeroDivisionError

    async def main() -> None:
        start = program.run if where == "run" else program.run_async
        for name in (None, "b"):
            started = start(backend=ScriptedBackend("x"), stream=True)
            state = started if where == "run" else await started  # type: ignore[misc]
            with pytest.raises(ZeroDivisionError):
                [piece async for piece in state.text_async_iter(name)]  # type: ignore[union-attr]
            with pytest.raises(ZeroDivisionError):
                await state.sync_async()  # type: ignore[union-attr]
            assert isinstance(state.error(), ZeroDivisionError)  # type: ignore[union-attr]

    asyncio.run(main())


def test_what_a_body_elsewhere_raised_tells_its_line_to_every_reader() -> None:
    @sgl.function
    def program(s: Any) -> None:
        s += "Q" + gen("a") + gen("b")
        raise ZeroDivisionError  # the line that raised

    state = program.run(backend=ScriptedBackend("x", held=True), stream=True)
    for read in (state.sync, lambda: state["b"], lambda: list(state.text_iter())):
        with pytest.raises(ZeroDivisionError) as caught:
            read()
        assert line_with("# the line that " + "raised", __file__) in [entry.lineno + 1 for entry in caught.traceback]


# ---------------------------------------------------------------- batches


def test_the_items_of_a_batch_are_tasks_of_one_thread_and_num_threads_bounds_them() -> None:
    threads: set[int] = set()
    n_open, most = 0, 0

    @sgl.function
    async def program(s: Any, q: str) -> str:
        nonlocal n_open, most
        threads.add(threading.get_ident())
        n_open += 1
        most = max(most, n_open)
        s += q + gen("a")
        answer = await s.get("a")
        n_open -= 1
        return str(answer)

    backend = ScriptedBackend(lambda prompt: prompt.upper())
    states = program.run_batch([{"q": q} for q in "abcdefgh"], backend=backend, num_threads=3, max_new_tokens=4)
    assert [state.ret_value for state in states] == list("ABCDEFGH")
    assert (len(threads), most) == (1, 3)
    assert {job.params.max_tokens for job in backend.jobs_of(GenJob)} == {4}


@pytest.mark.parametrize("is_async", [True, False])
def test_a_batch_of_200_with_64_forks_each_has_no_thread_a_fork(is_async: bool) -> None:
    backend = ScriptedBackend("x", held=True)
    n_threads: list[int] = []
    before = threading.active_count()

    def fork(s: Any) -> Any:
        s += "Q"
        forks = s.fork(64)
        forks += gen("a")
        n_threads.append(threading.active_count() - before)
        if len(n_threads) == 16:
            backend.resume()
        return forks

    @sgl.function
    async def awaiting(s: Any) -> int:
        forks = fork(s)
        await forks.join_async()
        return len(s["a"])

    @sgl.function
    def plain(s: Any) -> int:
        fork(s).join()
        return len(s["a"])

    program = awaiting if is_async else plain
    states = program.run_batch([()] * 200, backend=backend, num_threads=16)
    assert [state.ret_value for state in states] == [64] * 200
    assert len(backend.jobs_of(GenJob)) == 200 * 64
    assert max(n_threads) <= (1 if is_async else 16)


@pytest.mark.parametrize("program", [ask, ask_plainly])
def test_one_program_of_a_batch_can_be_cancelled_while_the_rest_goes_on(program: Any) -> None:
    backend = ScriptedBackend(lambda prompt: prompt * 3, held=True)
    states = program.run_batch([(q,) for q in "abcd"], backend=backend, num_threads=2, stream=True)
    assert next(states[1].text_iter()) == "b"
    states[1].cancel()
    states[3].cancel("it has not begun")
    backend.resume()
    assert [state.error() and str(state.error()) for state in states] == [None, "the run was stopped", None, "it has not begun"]
    assert [states[0].ret_value, states[2]["answer"]] == ["aaa", "ccc"]
    with pytest.raises(Stopped, match="not begun"):
        states[3]["answer"]
    with pytest.raises(BadArgument, match="all states at once"):
        program.run_batch([("a",)], backend=backend, stream=True, progress_bar=True)


def test_one_failing_item_of_an_async_batch_costs_only_itself() -> None:
    backend = ScriptedBackend({"good": "fine", "bad": RequestFailed("boom")})
    items = [{"question": "good"}, {"question": "bad"}, {"question": "good 2"}]
    results = ask.run_batch(items, backend=backend, return_exceptions=True)
    assert [type(result).__name__ for result in results] == ["ProgramState", "RequestFailed", "ProgramState"]
    with pytest.raises(RequestFailed, match="boom") as caught:
        ask.run_batch(items, backend=backend)
    assert [getattr(result, "ret_value", None) for result in vars(caught.value)["results"]] == ["fine", None, "fine"]


def test_an_async_batch_can_be_taken_one_by_one_left_and_shown(capsys: pytest.CaptureFixture[str]) -> None:
    backend = ScriptedBackend("x" * 1000)
    states = ask.run_batch([(str(n),) for n in range(8)], backend=backend, generator_style=True, num_threads=4, max_new_tokens=3)
    assert backend.jobs == [], "nothing runs before it is asked for"
    assert next(states).ret_value == "xxx"
    backend.hold()
    within(10, states.close)  # type: ignore[attr-defined]
    (left,) = [thread for thread in threading.enumerate() if thread.name == "sgl-batch"] or [threading.Thread()]
    if left.is_alive():
        left.join(10)
    assert not left.is_alive(), "its tasks were cancelled"
    backend.resume()
    ask.run_batch([("a",), ("b",)], backend=backend, progress_bar=True, max_new_tokens=3)
    assert "2/2" in capsys.readouterr().out


def test_a_body_that_exits_ends_its_batch() -> None:
    @sgl.function
    async def program(s: Any) -> None:
        raise SystemExit(3)

    with pytest.raises(SystemExit):
        program.run_batch([(), ()], backend=ScriptedBackend())


def test_the_users_line_is_also_found_from_a_coroutine() -> None:
    failure = RequestFailed("boom")

    @sgl.function
    async def program(s: Any) -> None:
        s += "Q" + gen("b")  # the line that is named

    error = program.run(backend=ScriptedBackend(failure)).error()
    assert error is failure
    assert failure.__notes__ == [f"in gen('b'), line {line_with('# the line that ' + 'is named', __file__)} of test_lang_async.py"]
