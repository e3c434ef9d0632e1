"""Waiting that an interrupt cannot break.

`Event`, `Condition` and `Future` are Python code: a KeyboardInterrupt at the wrong moment leaves their
lock taken for ever, and a thread that opens them then hangs. A `SimpleQueue` is not.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Generic, TypeVar, cast

T = TypeVar("T")


class Gate:
    """Closed until it is opened, once and for all. To wait without end, wait again and again."""

    def __init__(self) -> None:
        self.is_open = False
        self._turnstile: SimpleQueue[None] = SimpleQueue()

    def open(self) -> None:
        self.is_open = True
        self._turnstile.put(None)

    def wait(self, seconds: float) -> bool:
        """Whether it is open, after waiting at most `seconds`."""
        if not self.is_open:
            with suppress(Empty):
                self._turnstile.get(timeout=seconds)
                self._turnstile.put(None)
        return self.is_open


class Reply(Gate, Generic[T]):
    """A gate behind which lies a value or an error."""

    def __init__(self) -> None:
        super().__init__()
        self._value: T | None = None
        self._error: BaseException | None = None

    def give(self, value: T) -> None:
        self._value = value
        self.open()

    def fail(self, error: BaseException) -> None:
        self._error = error
        self.open()

    def of(self, function: Callable[[], T]) -> None:
        """Open the gate with the result of `function`, or with its exception."""
        try:
            self.give(function())
        except BaseException as error:
            self.fail(error)

    def result(self) -> T:
        """The result; raises the exception. Call it only when the gate is open."""
        if self._error is not None:
            raise self._error
        return cast(T, self._value)
