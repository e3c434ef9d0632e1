"""A state seen as the original's `s.stream_executor`: what has come by now, under the names that programs read there.

Reads of attributes never wait; the methods do, as the state's own.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from typing import TYPE_CHECKING, Any

from ..contracts.params import SamplingParams
from ..contracts.port import Backend
from .tail import Tail
from .variable import Name, Variable

if TYPE_CHECKING:
    from .state import ProgramState


class VariableEvent:
    """Whether a variable has its value, as `threading.Event` says it."""

    def __init__(self, state: ProgramState, name: Name) -> None:
        self._state, self._name = state, name

    def is_set(self) -> bool:
        variable = self._state._stream.variables.get(self._name)
        return variable is not None and variable.done

    def wait(self, timeout: float | None = None) -> bool:
        """Whether there is a value, after at most `timeout` seconds; False too where there will never be one."""
        there = self._state._is_there(self._name)
        give_up = None if timeout is None else time.monotonic() + timeout

        def ready() -> bool:
            return there() or (give_up is not None and time.monotonic() >= give_up)

        self._state._run.wait(ready)
        return self.is_set()


class _Variables(MutableMapping[Name, Any]):
    """The values that there are by now; of one that still grows its text so far."""

    def __init__(self, state: ProgramState) -> None:
        self._state = state

    def _there(self) -> dict[Name, Variable]:
        with self._state._run.lock:
            return {name: variable for name, variable in self._state._stream.variables.items() if _has_begun(variable)}

    def __getitem__(self, name: Name) -> Any:
        variable = self._there()[name]
        return variable.value if variable.done else variable.text

    def __setitem__(self, name: Name, value: Any) -> None:
        self._state.set_var(name, value)

    def __delitem__(self, name: Name) -> None:
        with self._state._run.lock:
            del self._state._stream.variables[name]

    def __iter__(self) -> Iterator[Name]:
        return iter(self._there())

    def __len__(self) -> int:
        return len(self._there())

    def __repr__(self) -> str:
        return repr(dict(self))


def _has_begun(variable: Variable) -> bool:
    return variable.error is None if variable.done else bool(variable.partial)


class StreamExecutor:
    def __init__(self, state: ProgramState) -> None:
        self._state = state
        self.variables: MutableMapping[Name, Any] = _Variables(state)

    def __repr__(self) -> str:
        return f"<StreamExecutor of {self._state!r}>"

    # ------------------------------------------------------------ what has come by now

    @property
    def sid(self) -> str:
        return str(self._state._stream.id)

    @property
    def backend(self) -> Backend:
        return self._state._run.backend

    @property
    def arguments(self) -> Mapping[str, Any]:
        """Of the program."""
        return self._state._run.arguments

    @property
    def default_sampling_para(self) -> SamplingParams:
        return self._state._stream.defaults

    @property
    def num_api_spec_tokens(self) -> int | None:
        return self._state._run.n_ahead or None

    @property
    def use_thread(self) -> bool:
        return not self._state._run.eager

    @property
    def stream(self) -> bool:
        """Whether the program's body runs beside whoever reads."""
        return self._state._run.body_elsewhere

    @property
    def is_finished(self) -> bool:
        with self._state._run.lock:
            return not self._state._run.body_active and self._state._stream.idle

    @property
    def text_(self) -> str:
        with self._state._run.lock:
            return Tail(self._state._stream, None).text()

    @property
    def messages_(self) -> list[dict[str, str]]:
        with self._state._run.lock:
            return [{"role": message.role, "content": message.content} for message in self._state._stream.transcript.messages]

    @property
    def cur_role(self) -> str | None:
        return self._state._stream.role

    @property
    def error_(self) -> Exception | None:
        return self._state._stream.error

    @property
    def meta_info(self) -> dict[Name, Any]:
        with self._state._run.lock:
            return {name: variable.meta for name, variable in self._state._stream.variables.items() if variable.done and variable.meta}

    @property
    def variable_event(self) -> dict[Name, VariableEvent]:
        with self._state._run.lock:
            return {name: VariableEvent(self._state, name) for name in self._state._stream.variables}

    # ------------------------------------------------------------ what waits

    def submit(self, expr: object) -> None:
        self._state.append_expression(expr)

    def sync(self) -> None:
        self._state.sync()

    def text(self) -> str:
        return self._state.text()

    def messages(self) -> list[dict[str, str]]:
        return self._state.messages()

    def error(self) -> Exception | None:
        return self._state.error()

    def get_var(self, name: Name) -> Any:
        return self._state.get_var(name)

    def set_var(self, name: Name, value: Any) -> None:
        self._state.set_var(name, value)

    def get_meta_info(self, name: Name, timeout: float | None = None) -> Any:
        """TimeoutError if it is not there after `timeout` seconds."""
        if timeout is not None and not VariableEvent(self._state, name).wait(timeout):
            raise TimeoutError(f"{name!r} is not there after {timeout} s")
        return self._state.get_meta_info(name)

    def fork(self, size: int = 1, position_ids_offset: Sequence[int] | None = None) -> list[StreamExecutor]:
        return [state.stream_executor for state in self._state.fork(size, position_ids_offset)]

    def end(self) -> None:
        """A stream ends by itself when nothing more is appended."""
