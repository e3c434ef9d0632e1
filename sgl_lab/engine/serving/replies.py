"""A caller that waits for a backend's answer, as a pin and the measure of drift do.

Knows a backend by its port alone.
"""

from __future__ import annotations

from typing import TypeVar

from ...contracts.port import Backend
from .gate import Reply

T = TypeVar("T")
WAIT_S = 0.05
"""How long one wait lasts before the backend is asked whether it still lives; an interrupt is seen
as soon.
"""


class ReplyListener(Reply[T]):
    """A listener of a job that can be waited for. `T` is the job's answer."""

    def __init__(self, backend: Backend) -> None:
        super().__init__()
        self._backend = backend

    def on_progress(self, index: int, text: str, ids: tuple[int, ...]) -> None:
        pass

    def on_done(self, answer: T) -> None:
        self.give(answer)

    def on_error(self, error: Exception) -> None:
        self.fail(error)

    def answer(self) -> T:
        """The answer. Raises the error that came instead."""
        while not self.wait(WAIT_S):
            self._backend.poll()
        return self.result()


def encoded(backend: Backend, text: str) -> tuple[int, ...]:
    """The tokens that a program without roles begins with."""
    return tuple(token for part, markup in backend.render_text(text) for token in backend.encode(part, markup=markup))
