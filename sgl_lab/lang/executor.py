"""A state as the original's `s.stream_executor`: its current values, under the names that programs
read there.

Attributes never wait; methods do, like the state's own.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from typing import Any

from ..contracts.conversation import AnyBackend
from ..contracts.params import SamplingParams
from .access import Access
from .expressions import Name
from .run import Strand
from .shown import in_a_line, summary
from .tail import Tail
from .variable import Variable


class VariableEvent:
    """Whether a variable has its value, in the interface of `threading.Event`."""

    def __init__(self, state: Access, name: Name) -> None:
        self._state, self._name = state, name

    def is_set(self) -> bool:
        variable = self._state._stream.variables.get(self._name)
        return variable is not None and variable.done

    def wait(self, timeout: float | None = None) -> bool:
        """Whether there is a value, after at most `timeout` seconds; also False if there never will
        be one.
        """
        there = self._state._is_there(self._name)
        give_up = None if timeout is None else time.monotonic() + timeout

        def ready() -> bool:
            return there() or (give_up is not None and time.monotonic() >= give_up)

        self._state._run.wait(ready)
        return self.is_set()


class _Variables(MutableMapping[Name, Any]):
    """The current values. A growing value is its text so far."""

    def __init__(self, state: Access) -> None:
        self._state = state

    def _there(self) -> dict[Name, Variable]:
        with self._state._run.lock:
            return {name: variable for name, variable in self._state._stream.variables.items() if _has_begun(variable)}

    def __getitem__(self, name: Name) -> Any:
        variable = self._there()[name]
        return variable.value if variable.done else variable.text

    def __setitem__(self, name: Name, value: object) -> None:
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


class StreamExecutor(Access):
    def __init__(self, strand: Strand) -> None:
        super().__init__(strand)
        self.variables: MutableMapping[Name, Any] = _Variables(self)

    def __repr__(self) -> str:
        return f"<StreamExecutor of {in_a_line(summary(self._stream), 'ProgramState')}>"

    # ------------------------------------------------------------ current values

    @property
    def sid(self) -> str:
        return str(self._stream.id)

    @property
    def backend(self) -> AnyBackend:
        return self._run.backend

    @property
    def arguments(self) -> Mapping[str, object]:
        """Of the program."""
        return self._run.arguments

    @property
    def default_sampling_para(self) -> SamplingParams:
        return self._stream.defaults

    @property
    def num_api_spec_tokens(self) -> int | None:
        return self._run.n_ahead or None

    @property
    def use_thread(self) -> bool:
        return not self._run.eager

    @property
    def stream(self) -> bool:
        """Whether the program's body runs in parallel to the reader."""
        return self._run.body_elsewhere

    @property
    def is_finished(self) -> bool:
        with self._run.lock:
            return not self._run.body_active and self._stream.idle

    @property
    def text_(self) -> str:
        with self._run.lock:
            return Tail(self._stream, None).text()

    @property
    def messages_(self) -> list[dict[str, str]]:
        with self._run.lock:
            return [{"role": message.role, "content": message.content} for message in self._stream.transcript.messages]

    @property
    def cur_role(self) -> str | None:
        return self._stream.role

    @property
    def error_(self) -> Exception | None:
        return self._stream.error

    @property
    def meta_info(self) -> dict[Name, Any]:
        with self._run.lock:
            return {name: variable.meta for name, variable in self._stream.variables.items() if variable.done and variable.meta}

    @property
    def variable_event(self) -> dict[Name, VariableEvent]:
        with self._run.lock:
            return {name: VariableEvent(self, name) for name in self._stream.variables}

    # ------------------------------------------------------------ methods that wait

    def submit(self, expr: object) -> None:
        self.append_expression(expr)

    def get_meta_info(self, name: Name, timeout: float | None = None) -> Any:
        """TimeoutError if there is no value after `timeout` seconds."""
        if timeout is not None and not VariableEvent(self, name).wait(timeout):
            raise TimeoutError(f"{name!r} has no value after {timeout} s")
        return super().get_meta_info(name)

    def fork(self, size: int = 1, position_ids_offset: Sequence[int] | None = None) -> list[StreamExecutor]:
        return list(map(StreamExecutor, self._forked(size, position_ids_offset)))

    def end(self) -> None:
        """Does nothing: a stream ends when nothing more is appended."""
