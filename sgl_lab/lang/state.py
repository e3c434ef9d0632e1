"""The state `s` of a program.

Appending queues. Reading waits and raises if the value failed. In a coroutine, `await s.get(name)`
and the `_async` methods wait without blocking the loop; after them, plain reads return at once.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Any, Literal, NoReturn, TypeVar, overload

from ..contracts.conversation import AnyBackend
from ..contracts.errors import BadArgument, EngineStopped, ProgramError, SglError
from ..contracts.events import Emit, silent
from ..contracts.ids import RunId
from ..contracts.spans import Block
from ..contracts.summary import Summary
from .access import Access
from .executor import StreamExecutor
from .expressions import Appended, Concat, Expr, Name, RoleBegin, RoleEnd, ScopeBegin, ScopeEnd, as_expr
from .form import read_as
from .group import Forks
from .ids import run_ids
from .keywords import all_suggest
from .run import Run, Strand, current_run
from .sampling import GenDefaults
from .shown import Markdown, Printer, frame, in_a_line, in_words, markdown_of, markdown_of_turns, rows, subtree, summary
from .streams import stream_of
from .tail import Tail
from .transcript import Transcript

T = TypeVar("T")

PATIENCE_S = 5.0
"""seconds to wait for programs inside a stopped one whose bodies neither append nor read"""


@all_suggest
class ProgramState(Access):
    """One strand of a running program."""

    def __init__(self, strand: Strand) -> None:
        super().__init__(strand)
        self._copied: ProgramStateGroup | None = None
        self.ret_value: Any = None
        """the return value of the program's body"""

    def __repr__(self) -> str:
        return in_a_line(self.summary(), "ProgramState")

    def _repr_pretty_(self, printer: Printer, cycle: bool) -> None:
        """For IPython: turns, values and counts; one line inside another object."""
        printer.text(repr(self) if len(getattr(printer, "stack", ())) > 1 else in_words(self.summary(), "ProgramState"))

    def _ipython_key_completions_(self) -> list[str]:
        return list(map(str, self._stream.variables))

    def summary(self) -> Summary:
        """The current turns, values and counts, as plain values, without waiting."""
        return summary(self._stream)

    def rows(self) -> list[dict[str, object]]:
        """A dict for the state and one for each of its forks: values, counts, and the error if
        there is one. Waits for them.
        """
        return rows(subtree(self._stream))

    def to_frame(self) -> Any:
        """`rows` as a pandas DataFrame, labelled like the forks. ProgramError if pandas is not
        installed.
        """
        return frame(self.rows(), [stream.label for stream in subtree(self._stream)])

    def markdown(self, name: Name | None = None) -> Markdown:
        """The value of `name`, or all turns, for a notebook to render. Text of a model runs and
        loads nothing there.
        """
        if name is not None:
            return markdown_of(self.get_var(name))
        self._drained()
        return markdown_of_turns(self.summary())

    def __reduce__(self) -> NoReturn:
        raise ProgramError(
            "a program's state belongs to its run and can be neither pickled nor copied", hint="keep s.text(), s.messages() or s[name]"
        )

    def __str__(self) -> str:
        """All text, as programs print it; after a failure, the text so far."""
        with suppress(SglError):
            self._run.wait(self._is_idle)
        return f"ProgramState({Tail(self._stream, None).text()})"

    @property
    def stream_executor(self) -> StreamExecutor:
        """The state under the names of the original's executor."""
        return StreamExecutor(self._stream)

    # ------------------------------------------------------------ appending

    def __iadd__(self, value: object) -> ProgramState:
        self.append_expression(value)
        return self

    @overload
    def system(self, expr: None = None) -> AbstractContextManager[None]: ...
    @overload
    def system(self, expr: Expr | str) -> Appended: ...
    def system(self, expr: Expr | str | None = None) -> AbstractContextManager[None] | Appended:
        """Append a system turn; without an argument, a context in which the state appends to one."""
        return self._role("system", expr)

    @overload
    def user(self, expr: None = None) -> AbstractContextManager[None]: ...
    @overload
    def user(self, expr: Expr | str) -> Appended: ...
    def user(self, expr: Expr | str | None = None) -> AbstractContextManager[None] | Appended:
        """Append a user turn; without an argument, a context in which the state appends to one."""
        return self._role("user", expr)

    @overload
    def assistant(self, expr: None = None) -> AbstractContextManager[None]: ...
    @overload
    def assistant(self, expr: Expr | str) -> Appended: ...
    def assistant(self, expr: Expr | str | None = None) -> AbstractContextManager[None] | Appended:
        """Append an assistant turn; without an argument, a context in which the state appends to
        one.
        """
        return self._role("assistant", expr)

    def _role(self, role: str, expr: Expr | str | None) -> AbstractContextManager[None] | Appended:
        if expr is None:
            return self._turn(role)
        turn = Concat((RoleBegin(role), as_expr(expr), RoleEnd(role)))
        self.append_expression(turn)
        return Appended(turn, self._stream)

    @contextmanager
    def _turn(self, role: str) -> Iterator[None]:
        self._stream.submit(RoleBegin(role))
        try:
            yield
        finally:
            self._stream.submit(RoleEnd(role))

    @contextmanager
    def var_scope(self, name: str) -> Iterator[None]:
        """All text that is appended inside becomes the value of `name`."""
        self._stream.submit(ScopeBegin(name))
        try:
            yield
        finally:
            self._stream.submit(ScopeEnd(name))

    # ------------------------------------------------------------ forking

    def fork(self, size: int = 1, position_ids_offset: Sequence[int] | None = None) -> ProgramStateGroup:
        """`size` states that continue from here independently.

        `position_ids_offset`, a number per fork, has no effect, as in the original: a fork's
        positions continue where its parent ends.
        """
        return ProgramStateGroup(self, tuple(map(ProgramState, self._forked(size, position_ids_offset))))

    def copy(self, position_ids_offset: Sequence[int] | None = None) -> ProgramState:
        """One state that continues from here; used with `with`, it is joined at the end."""
        group = ProgramStateGroup(self, tuple(map(ProgramState, self._forked(1, position_ids_offset, is_copy=True))))
        group[0]._copied = group
        return group[0]

    def __enter__(self) -> ProgramState:
        if self._copied is None:
            raise ProgramError("only a copy can be used in a `with`", hint="write `with s.copy() as t:`")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: object) -> None:
        if kind is None and self._copied is not None:
            self._copied.join()

    async def __aenter__(self) -> ProgramState:
        return self.__enter__()

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: object) -> None:
        if kind is None and self._copied is not None:
            await self._copied.join_async()

    # ------------------------------------------------------------ reading

    def __getitem__(self, name: Name) -> Any:
        return self.get_var(name)

    async def get(self, name: Name) -> Any:
        """Like `s[name]`, in a coroutine. If the task is cancelled meanwhile, only the read ends:
        the value can be read later.
        """
        await self._run.wait_async(self._is_there(name))
        return self._variable(name).value

    @overload
    def value(self, name: Name) -> Any: ...
    @overload
    def value(self, name: Name, type: type[T]) -> T: ...
    def value(self, name: Name, type: Any = None) -> Any:
        """The meaning of the text of `name`: a number, a truth value or a string for dtype; the
        JSON value for a schema, or an instance of the given type; a ToolCall for tools; otherwise
        the text. A list for several samples.

        It is checked when it is first read: UnfinishedValue if the text ended before it was
        complete, InvalidValue if the type rejects it. With `type`, any type that pydantic supports,
        the text is parsed as that type, each of several samples separately.
        """
        variable = self._variable(name)
        value = variable.read()
        return value if type is None else _read_each(value, variable.meta, type, name)

    @overload
    async def value_async(self, name: Name) -> Any: ...
    @overload
    async def value_async(self, name: Name, type: type[T]) -> T: ...
    async def value_async(self, name: Name, type: Any = None) -> Any:
        """Like `value`, for coroutines: other tasks continue meanwhile."""
        await self._run.wait_async(self._is_there(name))
        return self.value(name, type)

    def __setitem__(self, name: Name, value: object) -> None:
        self.set_var(name, value)

    def __contains__(self, name: object) -> bool:
        return name in self._stream.variables

    async def text_async(self) -> str:
        """Like `text`, for coroutines."""
        await self._run.wait_async(self._is_idle)
        return self.text()

    def prompt(self, name: Name | None = None) -> str:
        """The exact text that the model saw before it answered `name`; without a name, everything
        it has seen so far.
        """
        if name is None:
            self._drained()
            with self._run.lock:
                transcript = self._tokens()
                return transcript.spelled(transcript.ids)
        transcript, prompt = self._tokens(), self._finished(name).prompt
        if prompt is None:
            raise ProgramError(f"{name!r} has no prompt: it is not from a gen or select")
        return transcript.spelled(prompt)

    def token_ids(self) -> tuple[int, ...]:
        """The current tokens, as the model has seen them. Positions of an embedded block, such as
        an image's, have negative ids.
        """
        self._drained()
        return tuple(self._tokens().ids)

    def blocks(self) -> tuple[Block, ...]:
        """The embedded blocks that were appended."""
        self._drained()
        return self._tokens().blocks

    def _tokens(self) -> Transcript:
        if isinstance(transcript := self._stream.transcript, Transcript):
            return transcript
        raise self._run.missing("token_ids")

    async def sync_async(self) -> None:
        """Like `sync`, for coroutines."""
        await self._run.wait_async(self._is_over)
        self.sync()

    def text_iter(self, var_name: Name | None = None) -> Iterator[str]:
        """The text as it arrives, including the chat template's; that of one variable if `name` is
        given. Raises at its end if it failed.
        """
        tail = Tail(self._stream, var_name)
        while not tail.ended:
            self._run.wait(tail.grew)
            if piece := tail.take():
                yield piece
        self._raise_at_end(var_name)

    @overload
    def text_async_iter(self, var_name: Name | None = None, return_meta_data: Literal[False] = False) -> AsyncIterator[str]: ...
    @overload
    def text_async_iter(self, var_name: Name, return_meta_data: Literal[True]) -> AsyncIterator[tuple[str, object]]: ...
    async def text_async_iter(
        self, var_name: Name | None = None, return_meta_data: bool = False
    ) -> AsyncIterator[str | tuple[str, object]]:
        """Like `text_iter`, for `async for`. With `return_meta_data`, which needs a name, yields
        pairs of a piece and the current details of the variable. The last pair has its complete
        meta info; its piece may be empty.
        """
        if return_meta_data and var_name is None:
            raise BadArgument("return_meta_data needs the name of a variable", hint='text_async_iter("answer", return_meta_data=True)')
        tail = Tail(self._stream, var_name)
        while not tail.ended:
            await self._run.wait_async(tail.grew)
            piece = tail.take()
            if return_meta_data and (piece or tail.ended):
                yield piece, tail.meta
            elif piece:
                yield piece
        self._raise_at_end(var_name)

    # ------------------------------------------------------------ the whole run

    def running(self) -> AbstractContextManager[None]:
        """The program's body runs inside: programs that it starts inherit its backend and sampling.
        If it raises, the run is cancelled.
        """
        return self._run.body()

    def wait(self) -> None:
        """Wait for all streams of the run, without raising their errors.

        A stopped run, with everything started inside it, is waited for only for a while.
        """
        with suppress(EngineStopped):
            self._run.wait(self._run.settled)
            if self._run.stopped:
                self._run.wait(_patiently(self._run.quiet))

    async def wait_async(self) -> None:
        """Like `wait`, for coroutines."""
        with suppress(EngineStopped):
            await self._run.wait_async(self._run.settled)
            if self._run.stopped:
                await self._run.wait_async(_patiently(self._run.quiet))

    def finish(self) -> None:
        """Wait for all streams of the run. Raises the first error that no read has raised."""
        self.wait()
        if (error := self._run.unseen_error()) is not None:
            raise self._run.seen(error)

    def cancel(self, why: str = "the run was stopped") -> None:
        """Cancel what runs and drop what is queued, on all streams. Partial text is kept. Does not
        wait.
        """
        self._run.stop(why)


@all_suggest
class ProgramStateGroup(Forks[ProgramState]):
    """The states of one fork."""


def start(
    backend: AnyBackend,
    emit: Emit = silent,
    run_id: RunId | None = None,
    defaults: GenDefaults | None = None,
    label: str = "s",
    *,
    eager: bool = False,
    check: Callable[[], None] | None = None,
) -> ProgramState:
    """The root state of a new run. An `eager` one waits for each appended expression.

    `check` is called between slices of waiting, of this run and of those that start inside its
    body; it may raise. A run that starts inside another's body uses that run's `check`.

    Run the program's body inside `with state.running():`, then call `state.finish()`.
    `state.cancel()` stops it from any thread.
    """
    run = Run(backend, emit, RunId(run_ids.next()) if run_id is None else run_id, defaults or GenDefaults(), eager)
    card = backend.describe()
    if run.defaults.adapter is not None and not card.capabilities.adapters:
        raise card.capabilities.missing("adapters", card.name)
    if check is not None:
        run.check = check
    return ProgramState(stream_of(run, label))


def state_here(given: ProgramState | None) -> ProgramState | None:
    """`given`; or, if the body of another run executes here, the state of that run; None if nothing
    runs.
    """
    run = current_run()
    if run is None:
        return None if given is None or given._run.body_ended else given
    return given if given is not None and given._run is run else ProgramState(run.streams[0])


def _read_each(value: Any, meta: object, type: object, name: Name) -> object:
    """Several samples, each as `type`; None for a fork without the value."""
    if isinstance(meta, list):
        return [_read_each(one, its, type, name) for one, its in zip(value, meta, strict=True)]
    return None if meta is None else read_as(value, type, name)


def _patiently(ready: Callable[[], bool]) -> Callable[[], bool]:
    give_up = time.monotonic() + PATIENCE_S
    return lambda: ready() or time.monotonic() > give_up
