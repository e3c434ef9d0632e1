"""What a program holds in its hands: the state `s`.

Appending queues; reading waits and raises what went wrong. In a coroutine, `await s.get(name)` and the methods whose names
end in `_async` wait without holding up the loop; after them the plain reads have nothing left to wait for.
"""

from __future__ import annotations

import difflib
import time
import warnings
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from operator import index
from typing import Any, Literal, NoReturn, SupportsIndex, TypeVar, overload

from ..contracts.errors import BadArgument, EngineStopped, ProgramError, SglError, Stopped, UnknownVariable
from ..contracts.summary import Summary
from .executor import StreamExecutor
from .form import read_as
from .group import ProgramStateGroup
from .ir import Appended, Concat, Expr, RoleBegin, RoleEnd, as_expr, user_place
from .keywords import all_suggest
from .run import current_run
from .shown import Markdown, family, frame, in_a_line, in_words, markdown, rows, summary
from .stream import Stream
from .tail import Tail
from .variable import Name, Variable

T = TypeVar("T")

MAX_FORK = 1024
PATIENCE_S = 5.0
"""with programs inside a stopped one whose bodies neither append nor read"""


@all_suggest
class ProgramState:
    """One stream of a running program."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._run = stream.run
        self._copied: ProgramStateGroup | None = None
        self._fork_error: Exception | None = None
        self.ret_value: Any = None
        """what the program's body returned"""

    def __repr__(self) -> str:
        return in_a_line(self.summary(), "ProgramState")

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """For IPython: turns, values and counts, but one line inside of something else."""
        printer.text(repr(self) if len(getattr(printer, "stack", ())) > 1 else in_words(self.summary(), "ProgramState"))

    def _ipython_key_completions_(self) -> list[str]:
        return list(map(str, self._stream.variables))

    def summary(self) -> Summary:
        """Turns, values and counts as they are now, as plain values. Waits for nothing."""
        return summary(self._stream)

    def rows(self) -> list[dict[str, Any]]:
        """A dict for the state and one for each of its forks: values, counts, and the error if there is one. Waits for them."""
        return rows(family(self._stream))

    def to_frame(self) -> Any:
        """`rows` as a pandas DataFrame, labelled as the forks are. ProgramError where pandas is not installed."""
        return frame(self.rows(), [stream.label for stream in family(self._stream)])

    def markdown(self, name: Name | None = None) -> Markdown:
        """The value of `name`, or all turns, for a notebook to render. What a model wrote runs and fetches nothing there."""
        if name is None:
            self._drained()
        return markdown(self, name)

    def __reduce__(self) -> NoReturn:
        raise ProgramError(
            "a program's state belongs to its run and can be neither pickled nor copied", hint="keep s.text(), s.messages() or s[name]"
        )

    def __str__(self) -> str:
        """All text, as programs print it; of what failed, what there is."""
        with suppress(SglError):
            self._run.wait(self._is_idle)
        return f"ProgramState({Tail(self._stream, None).text()})"

    @property
    def stream_executor(self) -> StreamExecutor:
        """The state under the names of the original's executor."""
        return StreamExecutor(self)

    # ------------------------------------------------------------ appending

    def __iadd__(self, value: object) -> ProgramState:
        self.append_expression(value)
        return self

    def append_expression(self, value: object) -> None:
        """The same as `s += value`, for a place where no assignment can stand."""
        self._stream.append(value)
        if self._run.eager:
            self.sync()

    @overload
    def system(self, expr: None = None) -> AbstractContextManager[None]: ...
    @overload
    def system(self, expr: Expr | str) -> Appended: ...
    def system(self, expr: Expr | str | None = None) -> AbstractContextManager[None] | Appended:
        return self._role("system", expr)

    @overload
    def user(self, expr: None = None) -> AbstractContextManager[None]: ...
    @overload
    def user(self, expr: Expr | str) -> Appended: ...
    def user(self, expr: Expr | str | None = None) -> AbstractContextManager[None] | Appended:
        return self._role("user", expr)

    @overload
    def assistant(self, expr: None = None) -> AbstractContextManager[None]: ...
    @overload
    def assistant(self, expr: Expr | str) -> Appended: ...
    def assistant(self, expr: Expr | str | None = None) -> AbstractContextManager[None] | Appended:
        return self._role("assistant", expr)

    def _role(self, role: str, expr: Expr | str | None) -> AbstractContextManager[None] | Appended:
        if expr is None:
            return self._turn(role)
        turn = Concat((RoleBegin(role), as_expr(expr), RoleEnd(role)))
        self.append_expression(turn)
        return Appended(turn, self._stream)

    @contextmanager
    def _turn(self, role: str) -> Iterator[None]:
        self._stream.append(RoleBegin(role))
        try:
            yield
        finally:
            self._stream.append(RoleEnd(role))

    @contextmanager
    def var_scope(self, name: str) -> Iterator[None]:
        """All text that is appended inside becomes the value of `name`."""
        scope = self._stream.begin_scope(name)
        try:
            yield
        finally:
            self._stream.end_scope(scope)

    # ------------------------------------------------------------ forking

    def fork(self, size: int = 1, position_ids_offset: Sequence[int] | None = None) -> ProgramStateGroup:
        """`size` states that go on from here, each on its own.

        `position_ids_offset`, a number for each fork, has no effect, as in the original: a fork's positions go on where its
        parent's end.
        """
        n = index(size) if isinstance(size, SupportsIndex) and not isinstance(size, bool) else 0
        if not 1 <= n <= MAX_FORK:
            raise BadArgument(f"fork takes a whole number from 1 to {MAX_FORK}, not {size!r}")
        _check_offset(position_ids_offset, n)
        return ProgramStateGroup(self, tuple(ProgramState(child) for child in self._stream.fork(n)))

    def copy(self, position_ids_offset: Sequence[int] | None = None) -> ProgramState:
        """One state that goes on from here; in a `with` it is joined at the end."""
        group = self.fork(1, position_ids_offset)
        group[0]._copied = group
        return group[0]

    def __enter__(self) -> ProgramState:
        if self._copied is None:
            raise ProgramError("only a copy can stand in a `with`", hint="write `with s.copy() as t:`")
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

    def get_var(self, name: Name) -> Any:
        """The value under `name`, or the n-th unnamed one; waits for it. Of a gen or a select it is the text."""
        return self._variable(name).value

    async def get(self, name: Name) -> Any:
        """As `s[name]`, in a coroutine. If the task is cancelled meanwhile, only the reading ends: the value can be read later."""
        await self._run.wait_async(self._is_there(name))
        return self._variable(name).value

    @overload
    def value(self, name: Name) -> Any: ...
    @overload
    def value(self, name: Name, type: type[T]) -> T: ...
    def value(self, name: Name, type: Any = None) -> Any:
        """What the text under `name` means: of dtype a number, a truth or a string; of a schema its JSON value, or the instance of
        the type that was given as one; of tools a ToolCall; of anything else the text. A list for several samples.

        Checked at the first reading: UnfinishedValue where the text ended before it was whole, InvalidValue where the type refuses
        it. With `type`, which may be any that pydantic knows, text is read as that, each of several samples by itself.
        """
        variable = self._variable(name)
        value = variable.read()
        return value if type is None else _read_each(value, variable.meta, type, name)

    @overload
    async def value_async(self, name: Name) -> Any: ...
    @overload
    async def value_async(self, name: Name, type: type[T]) -> T: ...
    async def value_async(self, name: Name, type: Any = None) -> Any:
        await self._run.wait_async(self._is_there(name))
        return self.value(name, type)

    def get_meta_info(self, name: Name) -> Any:
        """Counts, finish reason, log-probabilities; a list of such for several samples."""
        return self._finished(name).meta

    def __setitem__(self, name: Name, value: object) -> None:
        self.set_var(name, value)

    def set_var(self, name: Name, value: object) -> None:
        with self._run.lock:
            variable = self._stream.variables[name] = Variable(self._stream)
            variable.set(value)

    def __contains__(self, name: object) -> bool:
        return name in self._stream.variables

    def text(self) -> str:
        """All text so far, the chat template's included."""
        self._drained()
        with self._run.lock:
            return self._stream.transcript.text()

    async def text_async(self) -> str:
        await self._run.wait_async(self._is_idle)
        return self.text()

    def messages(self) -> list[dict[str, str]]:
        """The turns so far, as role and content."""
        self._drained()
        with self._run.lock:
            return [{"role": message.role, "content": message.content} for message in self._stream.transcript.messages]

    def prompt(self, name: Name | None = None) -> str:
        """The exact text that the model saw before it answered `name`; without a name, all it has seen so far."""
        if name is None:
            self._drained()
            with self._run.lock:
                return self._run.backend.decode(self._stream.transcript.ids)
        prompt = self._finished(name).prompt
        if prompt is None:
            raise ProgramError(f"{name!r} has no prompt: no gen or select made it")
        return self._run.backend.decode(prompt)

    def token_ids(self) -> tuple[int, ...]:
        """The tokens that stand, as the model has seen them."""
        self._drained()
        return tuple(self._stream.transcript.ids)

    def sync(self) -> None:
        """Wait until everything appended is done; raise what went wrong. The state of a program that has ended answers for its forks too:
        of those, what nobody has seen."""
        self._run.wait(self._is_over)
        if (error := self._outcome()) is not None:
            raise error

    async def sync_async(self) -> None:
        await self._run.wait_async(self._is_over)
        self.sync()

    def error(self) -> Exception | None:
        """As `sync`, and tell what went wrong instead of raising it."""
        self._run.wait(self._is_over)
        return self._outcome()

    def text_iter(self, var_name: Name | None = None) -> Iterator[str]:
        """The text as it comes, the chat template's included; of one variable if named. Raises at its end what went wrong."""
        tail = Tail(self._stream, var_name)
        while not tail.ended:
            self._run.wait(tail.grew)
            if piece := tail.take():
                yield piece
        self._raise_at_end(var_name)

    @overload
    def text_async_iter(self, var_name: Name | None = None, return_meta_data: Literal[False] = False) -> AsyncIterator[str]: ...
    @overload
    def text_async_iter(self, var_name: Name, return_meta_data: Literal[True]) -> AsyncIterator[tuple[str, Any]]: ...
    async def text_async_iter(self, var_name: Name | None = None, return_meta_data: bool = False) -> AsyncIterator[Any]:
        """As `text_iter`, for `async for`. With `return_meta_data`, which needs a name, pairs of the piece and what is known by then of
        the variable: all of its meta info with the last pair, whose piece may be empty."""
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
        """The program's body runs inside: programs it starts inherit its backend and sampling; if it raises, the run is cancelled."""
        return self._run.body()

    def wait(self) -> None:
        """Wait for all streams of the run; raise nothing of theirs.

        A stopped run is waited for, for a while, with all that was started inside it.
        """
        with suppress(EngineStopped):
            self._run.wait(self._run.settled)
            if self._run.stopped:
                self._run.wait(_patiently(self._run.quiet))

    async def wait_async(self) -> None:
        with suppress(EngineStopped):
            await self._run.wait_async(self._run.settled)
            if self._run.stopped:
                await self._run.wait_async(_patiently(self._run.quiet))

    def finish(self) -> None:
        """Wait for all streams of the run; raise the first error that nobody has seen."""
        self.wait()
        if (error := self._run.unseen_error()) is not None:
            raise self._run.seen(error)

    def cancel(self, why: str = "the run was stopped") -> None:
        """Cancel what runs and drop what is queued, on all streams; partial text is kept. Does not wait."""
        self._run.stop(why)

    # ------------------------------------------------------------ waiting

    def _is_idle(self) -> bool:
        return self._stream.idle and not self._run.body_elsewhere

    @property
    def _answers_for_forks(self) -> bool:
        return self._run.body_ended and self._stream.parent is None

    def _is_over(self) -> bool:
        return self._is_idle() and (not self._answers_for_forks or self._run.idle)

    def _is_there(self, name: Name) -> Callable[[], bool]:
        """Whether there is a value, or will never be one."""

        def settled() -> bool:
            variable = self._stream.variables.get(name)
            if variable is None:
                return not self._run.body_elsewhere
            return variable.done or (variable.stream.idle and not self._run.body_elsewhere)

        return settled

    def _failure(self) -> Exception | None:
        error = self._stream.error
        return self._run.body_error if error is None else self._run.seen(error)

    def _outcome(self) -> Exception | None:
        if (error := self._failure()) is not None or not self._answers_for_forks:
            return error
        self._fork_error = self._fork_error or self._run.unseen_error()
        return self._fork_error and self._run.seen(self._fork_error)

    def _raise(self) -> None:
        if (error := self._failure()) is not None:
            raise error

    def _raise_at_end(self, name: Name | None) -> None:
        if name is None:
            self._raise()
        else:
            self._finished(name)

    def _drained(self) -> None:
        """As `sync`, but what a stopped run has said by then can be read."""
        self._run.wait(self._is_idle)
        if self._run.body_active or not isinstance(self._stream.error, Stopped | None):
            self._raise()

    def _variable(self, name: Name) -> Variable:
        variable = self._finished(name)
        if variable.aborted and self._run.body_active:
            raise self._run.stopped or Stopped("the generation was stopped")
        return variable

    def _finished(self, name: Name) -> Variable:
        self._run.wait(self._is_there(name))
        variable = self._stream.variables.get(name)
        if variable is None:
            raise self._run.body_error or self._stream.error or self._unknown(name)
        if variable.error is not None:
            raise self._run.seen(variable.error)
        if not variable.done:
            raise ProgramError(f"{name!r} is read inside its own var_scope", hint="read it after the scope has ended")
        return variable

    def _unknown(self, name: Name) -> SglError:
        known = list(map(str, self._stream.variables))
        if close := difflib.get_close_matches(str(name), known, n=1):
            hint = f"did you mean {close[0]!r}?"
        else:
            hint = f"there is {', '.join(known)}" if known else "nothing has been generated under a name"
        return UnknownVariable(f"no variable {name!r}", hint=hint)


def state_here(given: ProgramState | None) -> ProgramState | None:
    """`given`, or where the body of another run executes the state of that one; None where nothing runs any more."""
    run = current_run()
    if run is None:
        return None if given is None or given._run.body_ended else given
    return given if given is not None and given._run is run else ProgramState(run.streams[0])


def _read_each(value: Any, meta: Any, type: Any, name: Name) -> Any:
    """Of several samples, of which a fork that made none has None, each as `type`."""
    if isinstance(meta, list):
        return [_read_each(one, its, type, name) for one, its in zip(value, meta, strict=True)]
    return None if meta is None else read_as(value, type, name)


def _check_offset(offset: object, n_forks: int) -> None:
    if offset is None:
        return
    numbers = list(offset) if isinstance(offset, Iterable) else []
    if len(numbers) != n_forks or not all(isinstance(number, SupportsIndex) for number in numbers):
        raise BadArgument(f"position_ids_offset needs a whole number for each of {n_forks} forks, not {offset!r:.60}", hint="leave it out")
    if any(map(index, numbers)):
        said = "position_ids_offset has no effect: a fork's positions go on where its parent's end"
        warnings.warn_explicit(said, UserWarning, *user_place())


def _patiently(ready: Callable[[], bool]) -> Callable[[], bool]:
    give_up = time.monotonic() + PATIENCE_S
    return lambda: ready() or time.monotonic() > give_up
