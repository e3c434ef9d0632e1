"""The states of a fork, and how they are joined."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Generic, NoReturn, Self, TypeVar, get_args

from ..contracts.errors import BadArgument, ProgramError, UnknownAttribute
from ..contracts.events import ForkJoined
from ..contracts.near import did_you_mean
from ..contracts.summary import Summary
from .access import Access
from .expressions import Expr, Join, Mode
from .keywords import all_suggest
from .shown import frame, rows, summary

S = TypeVar("S", bound=Access)


@all_suggest
class Forks(Generic[S]):
    """The states of one fork."""

    def __init__(self, parent: Access, states: tuple[S, ...]) -> None:
        self._parent = parent
        self._states = states

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {len(self)}: {', '.join(map(repr, self._states))}>"

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("_"):  # protocols ask for these
            raise AttributeError(name)
        if hasattr(type(self._states[0]), name):
            hint = f"each fork has it: forks[0].{name}"
        elif (near := did_you_mean(name, [known for known in dir(type(self)) if not known.startswith("_")])).startswith("did"):
            hint = near
        else:
            hint = "forks += ... appends the same to each fork, and forks[0] += ... to one"
        raise UnknownAttribute(f"the forks together have no {name!r}", hint=hint)

    def summaries(self) -> list[Summary]:
        """The current state of each fork."""
        return [summary(state._stream) for state in self._states]

    def rows(self) -> list[dict[str, object]]:
        """A dict per fork: its own values, its counts, and its error if it has one. Waits for them."""
        return rows([state._stream for state in self._states])

    def to_frame(self) -> Any:
        """`rows` as a pandas DataFrame, with a row per fork. ProgramError if pandas is not
        installed.
        """
        return frame(self.rows(), [state._stream.label for state in self._states])

    def __reduce__(self) -> NoReturn:
        raise ProgramError("forks belong to their run and can be neither pickled nor copied", hint="keep their texts: forks[0].text()")

    def __getitem__(self, index: int) -> S:
        return self._states[index]

    def __setitem__(self, index: int, state: S) -> None:
        """The second half of `forks[0] += ...`; a fork cannot be replaced."""
        if state is not self._states[index]:
            raise ProgramError("a fork cannot be replaced by another state", hint=f"append to it: forks[{index}] += ...")

    def __len__(self) -> int:
        return len(self._states)

    def __iter__(self) -> Iterator[S]:
        return iter(self._states)

    def __iadd__(self, value: Expr | str | Callable[[int], Expr | str] | list[Expr | str]) -> Self:
        """Append the same to each state, or a function of its index, or a list with one item for
        each.
        """
        if isinstance(value, list) and len(value) != len(self):
            raise BadArgument(f"{len(value)} expressions for {len(self)} forks", hint="give one for each fork")
        for index, state in enumerate(self._states):
            state.append_expression(value[index] if isinstance(value, list) else value(index) if callable(value) else value)
        return self

    def join(self, mode: Mode = "gather_variable") -> None:
        """Wait for all. Then give the parent each new variable as a list, or append the children's
        text.
        """
        self._check(mode)
        self._parent._run.wait(self._is_done)
        self._come_together(mode)

    async def join_async(self, mode: Mode = "gather_variable") -> None:
        self._check(mode)
        await self._parent._run.wait_async(self._is_done)
        self._come_together(mode)

    def _check(self, mode: str) -> None:
        if mode not in get_args(Mode):
            raise BadArgument(f"unknown join mode {mode!r}", hint=did_you_mean(mode, get_args(Mode)))
        if any(state._stream.joined for state in self._states):
            raise ProgramError("these forks have been joined already")

    def _is_done(self) -> bool:
        return all(state._stream.idle for state in self._states)

    def _come_together(self, mode: Mode) -> None:
        for index, state in enumerate(self._states):
            try:
                state.sync()
            except Exception as error:
                error.add_note(f"in fork {index} of {len(self)}")
                raise
        parent = self._parent._stream
        forks = tuple(state._stream.id for state in self._states)
        with parent.run.lock:
            parent.submit(Join(mode, forks))
            parent.run.emit(ForkJoined(parent.id, forks, mode))
