"""What a program holds in its hands: the state `s`.

Appending queues; reading waits and raises what went wrong.
"""

from __future__ import annotations

import difflib
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, overload

from ..contracts.errors import BadArgument, ProgramError, SglError, Stopped, UnknownVariable
from .group import ProgramStateGroup
from .ir import Appended, Concat, Expr, RoleBegin, RoleEnd, as_expr
from .stream import Stream
from .variable import Name, Variable

MAX_FORK = 1024
PATIENCE_S = 5.0
"""with programs inside a stopped one whose bodies neither append nor read"""


class ProgramState:
    """One stream of a running program."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._run = stream.run
        self._copied: ProgramStateGroup | None = None
        self.ret_value: Any = None
        """what the program's body returned"""

    def __repr__(self) -> str:
        return f"<ProgramState {self._stream.label}: {', '.join(map(str, self._stream.variables)) or 'no variables'}>"

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

    def fork(self, size: int = 1) -> ProgramStateGroup:
        """`size` states that go on from here, each on its own."""
        if type(size) is not int or not 1 <= size <= MAX_FORK:
            raise BadArgument(f"fork takes a whole number from 1 to {MAX_FORK}, not {size!r}")
        return ProgramStateGroup(self, tuple(ProgramState(child) for child in self._stream.fork(size)))

    def copy(self) -> ProgramState:
        """One state that goes on from here; in a `with` it is joined at the end."""
        group = self.fork(1)
        group[0]._copied = group
        return group[0]

    def __enter__(self) -> ProgramState:
        if self._copied is None:
            raise ProgramError("only a copy can stand in a `with`", hint="write `with s.copy() as t:`")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: object) -> None:
        if kind is None and self._copied is not None:
            self._copied.join()

    # ------------------------------------------------------------ reading

    def __getitem__(self, name: Name) -> Any:
        return self.get_var(name)

    def get_var(self, name: Name) -> Any:
        """The value under `name`, or the n-th unnamed one; waits for it."""
        variable = self._finished(name)
        if variable.aborted and self._run.body_active:
            raise self._run.stopped or Stopped("the generation was stopped")
        return variable.value

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
        """Wait until everything appended is done; raise what went wrong."""
        self._wait_idle()
        self._raise(self._stream)

    def error(self) -> Exception | None:
        """Wait until everything appended is done, and tell what went wrong instead of raising it."""
        self._wait_idle()
        error = self._stream.error
        return None if error is None else self._run.seen(error)

    def text_iter(self, var_name: Name | None = None) -> Iterator[str]:
        """The text as it comes, the chat template's included; of one variable if named. Raises at its end what went wrong."""
        n_given, ended = 0, False

        def fresh() -> tuple[str, bool]:
            return self._text_now(var_name)[n_given:], self._ended(var_name)

        def stirred() -> bool:
            return any(fresh())

        while not ended:
            self._run.wait(stirred)
            with self._run.lock:
                text, ended = fresh()
            if text:
                yield text
            n_given += len(text)
        if var_name is not None:
            self._finished(var_name)
        elif self._run.body_error is not None:
            raise self._run.body_error
        else:
            self._raise(self._stream)

    # ------------------------------------------------------------ the whole run

    def running(self) -> AbstractContextManager[None]:
        """The program's body runs inside: programs it starts inherit its backend and sampling; if it raises, the run is cancelled."""
        return self._run.body()

    def wait(self) -> None:
        """Wait for all streams of the run; raise nothing of theirs.

        A stopped run is waited for, for a while, with all that was started inside it.
        """
        run = self._run
        run.wait(run.settled)
        if run.stopped:
            give_up = time.monotonic() + PATIENCE_S
            run.wait(lambda: run.quiet() or time.monotonic() > give_up)

    def finish(self) -> None:
        """Wait for all streams of the run; raise the first error that nobody has seen."""
        self.wait()
        for stream in self._run.streams:
            if stream.error is not None and not self._run.has_seen(stream.error):
                self._raise(stream)

    def cancel(self, why: str = "the run was stopped") -> None:
        """Cancel what runs and drop what is queued, on all streams; partial text is kept. Does not wait."""
        self._run.stop(why)

    # ------------------------------------------------------------ waiting

    def _raise(self, stream: Stream) -> None:
        if stream.error is not None:
            raise self._run.seen(stream.error).with_traceback(None)

    def _wait_idle(self) -> None:
        self._run.wait(lambda: self._stream.idle and not self._run.body_elsewhere)

    def _drained(self) -> None:
        """As `sync`, but what a stopped run has said by then can be read."""
        self._wait_idle()
        if self._run.body_active or not isinstance(self._stream.error, Stopped):
            self._raise(self._stream)

    def _finished(self, name: Name) -> Variable:
        stream = self._stream

        def settled() -> bool:
            variable = stream.variables.get(name)
            if variable is None:
                return not self._run.body_elsewhere
            return variable.done or (variable.stream.idle and not self._run.body_elsewhere)

        self._run.wait(settled)
        variable = stream.variables.get(name)
        if variable is None:
            raise self._run.body_error or stream.error or self._unknown(name)
        if variable.error is not None:
            raise self._run.seen(variable.error).with_traceback(None)
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

    def _text_now(self, name: Name | None) -> str:
        stream = self._stream
        if name is not None:
            variable = stream.variables.get(name)
            return variable.text if variable else ""
        if self._ended(None) and stream.error is None:
            return stream.transcript.text()
        return stream.transcript.seen() + stream.partial

    def _ended(self, name: Name | None) -> bool:
        variable = None if name is None else self._stream.variables.get(name)
        return (variable is not None and variable.done) or (self._stream.idle and not self._run.body_elsewhere)
