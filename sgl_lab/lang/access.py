"""The operations on one strand: append to it, fork it, and read it.

Appending queues. Reading waits for the value and raises if it failed.
"""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Callable, Iterable, Sequence
from operator import index
from typing import Any, SupportsIndex

from ..contracts.errors import BadArgument, ProgramError, SglError, Stopped, UnknownVariable
from .expressions import Fork, Name, as_expr
from .keywords import all_suggest
from .location import user_location
from .run import Strand
from .variable import Variable

MAX_FORK = 1024


@all_suggest
class Access:
    def __init__(self, strand: Strand) -> None:
        self._stream = strand
        self._run = strand.run

    def append_expression(self, value: object) -> None:
        """Like `s += value`, where an assignment is not possible."""
        self._stream.submit(as_expr(value))
        if self._run.eager:
            self.sync()

    def _forked(self, size: int, position_ids_offset: Sequence[int] | None, *, is_copy: bool = False) -> Sequence[Strand]:
        n = index(size) if isinstance(size, SupportsIndex) and not isinstance(size, bool) else 0
        if not 1 <= n <= MAX_FORK:
            raise BadArgument(f"fork takes a whole number from 1 to {MAX_FORK}, not {size!r}")
        return self._stream.submit(Fork(n, _checked_offset(position_ids_offset, n), is_copy))

    # ------------------------------------------------------------ reading

    def get_var(self, name: Name) -> Any:
        """The value of `name`, or the n-th unnamed one; waits for it. For a gen or a select it is
        the text.
        """
        return self._variable(name).value

    def get_meta_info(self, name: Name) -> Any:
        """Counts, finish reason, log-probabilities; a list of these for several samples."""
        return self._finished(name).meta

    def set_var(self, name: Name, value: object) -> None:
        self._stream.assign(name, value)

    def text(self) -> str:
        """All text so far, including the chat template's."""
        self._drained()
        with self._run.lock:
            return self._stream.transcript.text()

    def messages(self) -> list[dict[str, str]]:
        """The turns so far, as role and content."""
        self._drained()
        with self._run.lock:
            return [{"role": message.role, "content": message.content} for message in self._stream.transcript.messages]

    def sync(self) -> None:
        """Wait until everything appended is done, and raise the error if it failed. The state of a
        program that has ended also raises errors of its forks that no read has raised.
        """
        self._run.wait(self._is_over)
        if (error := self._outcome()) is not None:
            raise error

    def error(self) -> Exception | None:
        """Like `sync`, but returns the error instead of raising it."""
        self._run.wait(self._is_over)
        return self._outcome()

    # ------------------------------------------------------------ waiting

    def _is_idle(self) -> bool:
        return self._stream.idle and not self._run.body_elsewhere

    @property
    def _answers_for_forks(self) -> bool:
        return self._run.body_ended and self._stream.parent is None

    def _is_over(self) -> bool:
        return self._is_idle() and (not self._answers_for_forks or self._run.idle)

    def _is_there(self, name: Name) -> Callable[[], bool]:
        """Whether there is a value, or never will be."""

        def settled() -> bool:
            variable = self._stream.variables.get(name)
            if variable is None:
                return not self._run.body_elsewhere
            return variable.done or (variable.source.idle and not self._run.body_elsewhere)

        return settled

    def _failure(self) -> Exception | None:
        error = self._stream.error
        return self._run.body_error if error is None else self._run.seen(error)

    def _outcome(self) -> Exception | None:
        if (error := self._failure()) is not None or not self._answers_for_forks:
            return error
        self._run.fork_error = self._run.fork_error or self._run.unseen_error()
        return self._run.fork_error and self._run.seen(self._run.fork_error)

    def _raise(self) -> None:
        if (error := self._failure()) is not None:
            raise error

    def _raise_at_end(self, name: Name | None) -> None:
        if name is None:
            self._raise()
        else:
            self._finished(name)

    def _drained(self) -> None:
        """Like `sync`, but the partial results of a stopped run can be read."""
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
            hint = f"there is {', '.join(known)}" if known else "no named value has been generated"
        return UnknownVariable(f"no variable {name!r}", hint=hint)


def _checked_offset(offset: object, n_forks: int) -> tuple[int, ...] | None:
    if offset is None:
        return None
    given = list(offset) if isinstance(offset, Iterable) else []
    if len(given) != n_forks or not all(isinstance(number, SupportsIndex) for number in given):
        raise BadArgument(f"position_ids_offset needs a whole number for each of {n_forks} forks, not {offset!r:.60}", hint="leave it out")
    numbers = tuple(map(index, given))
    if any(numbers):
        message = "position_ids_offset has no effect: a fork's positions continue where its parent ends"
        warnings.warn_explicit(message, UserWarning, *user_location())
    return numbers
