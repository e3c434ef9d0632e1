"""Nothing hangs: every operation, after every kind of failure, ends with a value or a typed error."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Callable
from typing import Any

import pytest

import sgl_lab.lang.surface as sgl
from sgl_lab.backends.scripted import ScriptedBackend
from sgl_lab.contracts.errors import BackendUnsupported, EngineStopped, RequestFailed, SglError
from sgl_lab.contracts.events import Emit, Event, silent
from sgl_lab.contracts.ids import RequestId
from sgl_lab.contracts.port import GenJob, GenListener, GenOutput, Message, Segment, WarmJob, WarmListener

from .language import watchdog, within  # noqa: F401

DEADLINE_S = 8.0
gen = sgl.gen

# ---------------------------------------------------------------- what goes wrong


class FailsMidway(ScriptedBackend):
    """The second piece of every answer is an error."""

    def submit(self, job: GenJob, listener: GenListener) -> RequestId:
        class Broken:
            n_given = 0

            def on_progress(self, index: int, text: str, ids: tuple[int, ...]) -> None:
                self.n_given += 1
                if self.n_given == 1:
                    listener.on_progress(index, text, ids)
                elif self.n_given == 2:
                    listener.on_error(RequestFailed("the sampler broke"))

            def on_done(self, outputs: tuple[GenOutput, ...]) -> None:
                if self.n_given < 2:
                    listener.on_done(outputs)

            def on_error(self, error: Exception) -> None:
                listener.on_error(error)

        return super().submit(job, Broken())


class Refuses(ScriptedBackend):
    """Its chat template takes no second turn."""

    def render_chat(self, messages: Any, *, add_generation_prompt: bool) -> tuple[Segment, ...]:
        if len(messages) > 1:
            raise BackendUnsupported("roles must alternate")
        return super().render_chat([Message(m.role, m.content) for m in messages], add_generation_prompt=add_generation_prompt)


class NeverWarm(ScriptedBackend):
    """What forks have in common cannot be computed."""

    def warm(self, job: WarmJob, listener: WarmListener) -> RequestId:
        listener.on_error(RequestFailed("no room"))
        return RequestId(0)


class Forsaken(ScriptedBackend):
    """It dies while a body elsewhere is busy with something else, until the backend is closed."""

    def __init__(self) -> None:
        super().__init__("x", held=True)
        self.let_go = threading.Event()

    def close(self) -> None:
        self.let_go.set()
        super().close()


def deaf(event: Event) -> None:
    raise ZeroDivisionError("a listener")


def child_fails(prompt: str) -> str | Exception:
    return RequestFailed("boom") if "1." in prompt else "fine"


def build(s: Any) -> Any:
    """Turns, gens, a select, a scope and forks, all queued."""
    s += sgl.user("Q") + sgl.assistant(gen("a"))
    with s.var_scope("scope"):
        s += sgl.user("R") + sgl.assistant(gen("b") + sgl.select("c", ["x", "yy"]))
    forks = s.fork(2)
    forks += lambda i: sgl.user(f"{i}.") + sgl.assistant(gen("d"))
    return forks


def appended(backend: ScriptedBackend, then: Callable[[Any], object] = lambda s: None, emit: Emit = silent) -> tuple[Any, Any]:
    s = sgl.start(backend, emit)
    forks = build(s)
    then(s)
    return s, forks


def raised_in_body(backend: ScriptedBackend) -> tuple[Any, Any]:
    kept: list[Any] = []

    @sgl.function
    def program(s: Any) -> None:
        kept.append(build(s))
        raise ZeroDivisionError("in the body")

    s = program.run(backend=backend, stream=True)
    s.error()
    return s, kept[0]


def dead_under_a_body(backend: Any) -> tuple[Any, Any]:
    kept: list[Any] = []
    built = threading.Event()

    @sgl.function
    def program(s: Any) -> None:
        kept.append(build(s))
        built.set()
        backend.let_go.wait(2 * DEADLINE_S)

    s = program.run(backend=backend, stream=True)
    built.wait(DEADLINE_S)
    backend.die()
    return s, kept[0]


FAILURES: dict[str, Callable[[], tuple[ScriptedBackend, Callable[[ScriptedBackend], tuple[Any, Any]]]]] = {
    "refused at submit": lambda: (ScriptedBackend(context=8), appended),
    "error at once": lambda: (ScriptedBackend(RequestFailed("boom")), appended),
    "error midway": lambda: (FailsMidway("answer"), appended),
    "child fails": lambda: (ScriptedBackend(child_fails), appended),
    "backend closed": lambda: (ScriptedBackend("x", held=True), lambda backend: appended(backend, lambda s: backend.close())),
    "backend dies silently": lambda: (ScriptedBackend("x", held=True), lambda backend: appended(backend, lambda s: backend.die())),
    "backend dies under a body": lambda: (Forsaken(), dead_under_a_body),
    "warming fails": lambda: (NeverWarm("x"), appended),
    "listener raises": lambda: (ScriptedBackend("x"), lambda backend: appended(backend, emit=deaf)),
    "backend's listener raises": lambda: (ScriptedBackend("x", emit=deaf), appended),
    "body raises": lambda: (ScriptedBackend("x", held=True), raised_in_body),
    "cancelled": lambda: (ScriptedBackend("x", held=True), lambda backend: appended(backend, lambda s: s.cancel())),
    "stopped by the backend": lambda: (
        ScriptedBackend("x", held=True),
        lambda backend: appended(backend, lambda s: backend.cancel(s._stream.work.request)),
    ),
    "template refuses": lambda: (Refuses("x"), appended),
}

# ---------------------------------------------------------------- what is done then


async def listed(pieces: Any) -> list[Any]:
    return [piece async for piece in pieces]


async def copied(s: Any) -> None:
    async with s.copy() as t:
        t += gen()


def copied_plainly(s: Any) -> None:
    with s.copy() as t:
        t += gen()


def scoped(s: Any) -> Any:
    with s.var_scope("more"):
        s += "text" + gen()
    return s["more"]


def turned(role: str) -> Callable[[Any, Any], Any]:
    def turn(s: Any, f: Any) -> Any:
        with getattr(s, role)():
            s += "said" + gen("said")
        getattr(s, role)("again")
        return s["said"]

    return turn


def grown(s: Any, f: Any) -> Any:
    s += sgl.user("more") + sgl.assistant(gen("more"))
    return s["more"]


def grown_group(s: Any, f: Any) -> Any:
    f += gen("e")
    f[0] += "text"
    return [fork["e"] for fork in f]


STATE_OPERATIONS: dict[str, Callable[[Any, Any], Any]] = {
    "__iadd__": grown,
    "__getitem__": lambda s, f: s["a"],
    "__setitem__": lambda s, f: s.__setitem__("k", 1),
    "__contains__": lambda s, f: "a" in s,
    "__enter__": lambda s, f: copied_plainly(s),
    "__aenter__": lambda s, f: asyncio.run(copied(s)),
    "__str__": lambda s, f: str(s),
    "__repr__": lambda s, f: repr(s),
    "append_expression": lambda s, f: s.append_expression(gen("last")),
    "blocks": lambda s, f: s.blocks(),
    "assistant": turned("assistant"),
    "user": turned("user"),
    "system": turned("system"),
    "cancel": lambda s, f: (s.cancel(), s.wait()),
    "copy": lambda s, f: s.copy().text(),
    "error": lambda s, f: s.error(),
    "finish": lambda s, f: s.finish(),
    "fork": lambda s, f: s.fork(3).join(),
    "get": lambda s, f: asyncio.run(s.get("b")),
    "get_meta_info": lambda s, f: s.get_meta_info("c"),
    "get_var": lambda s, f: s.get_var("scope"),
    "markdown": lambda s, f: (s.markdown(), s.markdown("a")),
    "messages": lambda s, f: s.messages(),
    "prompt": lambda s, f: (s.prompt(), s.prompt("b")),
    "rows": lambda s, f: s.rows(),
    "running": lambda s, f: s.running().__enter__(),
    "set_var": lambda s, f: s.set_var("k", 1),
    "summary": lambda s, f: s.summary(),
    "sync": lambda s, f: s.sync(),
    "sync_async": lambda s, f: asyncio.run(s.sync_async()),
    "text": lambda s, f: s.text(),
    "text_async": lambda s, f: asyncio.run(s.text_async()),
    "text_async_iter": lambda s, f: (asyncio.run(listed(s.text_async_iter())), asyncio.run(listed(s.text_async_iter("b", True)))),
    "text_iter": lambda s, f: (list(s.text_iter("c")), list(s.text_iter())),
    "to_frame": lambda s, f: s.to_frame(),
    "token_ids": lambda s, f: s.token_ids(),
    "value": lambda s, f: s.value("b", str),
    "value_async": lambda s, f: asyncio.run(s.value_async("b", str)),
    "var_scope": lambda s, f: scoped(s),
    "wait": lambda s, f: s.wait(),
    "wait_async": lambda s, f: asyncio.run(s.wait_async()),
}

GROUP_OPERATIONS: dict[str, Callable[[Any, Any], Any]] = {
    "__iadd__": grown_group,
    "__getitem__": lambda s, f: f[1]["d"],
    "__setitem__": lambda s, f: f.__setitem__(0, f[0]),
    "rows": lambda s, f: f.rows(),
    "summaries": lambda s, f: f.summaries(),
    "to_frame": lambda s, f: f.to_frame(),
    "__iter__": lambda s, f: [fork.text() for fork in f],
    "__len__": lambda s, f: len(f),
    "join": lambda s, f: (f.join("concate_and_append"), s.text()),
    "join_async": lambda s, f: (asyncio.run(f.join_async()), s["d"]),
}


@sgl.function
def plain(s: Any) -> list[str]:
    forks = build(s)
    forks.join()
    return [s["a"], *s["d"]]


@sgl.function
async def awaiting(s: Any) -> list[str]:
    forks = build(s)
    await forks.join_async()
    return [await s.get("a"), *s["d"]]


def all_of(batch: list[Any]) -> list[Any]:
    return [state.error() for state in batch]


PROGRAM_OPERATIONS: dict[str, Callable[[Any, Any], Any]] = {
    "__call__": lambda program, backend: program(backend=backend),
    "run": lambda program, backend: list(program.run(backend=backend, stream=True).text_iter()),
    "run_async": lambda program, backend: asyncio.run(program.run_async(backend=backend)),
    "run_batch": lambda program, backend: program.run_batch([()] * 3, backend=backend, num_threads=2),
    "run_batch, one by one": lambda program, backend: list(program.run_batch([()] * 3, backend=backend, generator_style=True)),
    "run_batch, all": lambda program, backend: program.run_batch([()] * 3, backend=backend, return_exceptions=True),
    "run_batch, live": lambda program, backend: all_of(program.run_batch([()] * 3, backend=backend, num_threads=1, stream=True)),
    "cache": lambda program, backend: program.cache(backend),
    "trace": lambda program, backend: program.trace(),
    "compile": lambda program, backend: program.compile().run(backend=backend),
    "bind": lambda program, backend: program.bind().run(backend=backend, use_thread=False),
}


def operations_of(kind: type) -> set[str]:
    inherited = set(dir(object)) - {"__repr__", "__str__"}
    ends = {"__exit__", "__aexit__"}  # come with the beginning
    return {name for name, _ in inspect.getmembers(kind, inspect.isfunction) if not name.startswith("_" * (name[:2] != "__"))} - (
        inherited | ends | {"__init__"}
    )


def test_the_tables_are_whole() -> None:
    assert operations_of(sgl.ProgramState) <= STATE_OPERATIONS.keys()
    assert operations_of(sgl.ProgramStateGroup) <= GROUP_OPERATIONS.keys()
    assert operations_of(sgl.SglFunction) - {"__repr__"} <= {name.partition(",")[0] for name in PROGRAM_OPERATIONS}


def assert_ends(do: Callable[[], object]) -> None:
    outcome = within(DEADLINE_S, do)
    assert not isinstance(outcome, BaseException) or isinstance(outcome, SglError | ZeroDivisionError), repr(outcome)


@pytest.mark.parametrize("operation", [f"state {name}" for name in STATE_OPERATIONS] + [f"group {name}" for name in GROUP_OPERATIONS])
@pytest.mark.parametrize("failure", FAILURES)
def test_every_operation_ends_after_every_failure(failure: str, operation: str) -> None:
    backend, fail = FAILURES[failure]()
    kind, name = operation.split()
    act = (STATE_OPERATIONS if kind == "state" else GROUP_OPERATIONS)[name]
    try:
        s, forks = fail(backend)
        assert_ends(lambda: act(s, forks))
        assert_ends(lambda: (s.error(), [fork.error() for fork in forks]))
    finally:
        backend.close()


OF_ONE_RUN = {"body raises", "cancelled", "stopped by the backend", "backend dies under a body"}
DYING = {"backend closed", "backend dies silently"}


@pytest.mark.parametrize("operation", PROGRAM_OPERATIONS)
@pytest.mark.parametrize("failure", [name for name in FAILURES if name not in OF_ONE_RUN])
@pytest.mark.parametrize("program", [plain, awaiting], ids=["plain", "async"])
def test_every_way_to_run_a_program_ends_after_every_failure(program: Any, failure: str, operation: str) -> None:
    backend, _ = FAILURES[failure]()
    if failure in DYING:
        (backend.close if failure == "backend closed" else backend.die)()
        with pytest.raises(EngineStopped):
            backend.poll()
    assert_ends(lambda: PROGRAM_OPERATIONS[operation](program, backend))
    backend.close()
