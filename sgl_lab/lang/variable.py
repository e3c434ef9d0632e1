"""A value of a program: there now, or there later. Guarded by the run's lock."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .stream import Stream

Name = str | int
"""What a value is kept under: its name, or its position among the unnamed gens and selects."""


class Variable:
    """Belongs to the stream that will fill it; forks see it too."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.done = False
        self.value: Any = None
        self.meta: Any = {}
        self.error: Exception | None = None
        self.aborted = False
        """stopped midway: the value is what there was by then"""
        self.partial: list[str] = []
        """text so far, one a sample"""
        self.n_partial = 0
        """tokens so far, of the first"""
        self.prompt: tuple[int, ...] | None = None
        self.mark = 0
        """where a var_scope begins in the stream's history"""

    def set(self, value: Any, meta: Any = None) -> None:
        self.value, self.meta, self.done = value, {} if meta is None else meta, True

    def fail(self, error: Exception) -> None:
        if not self.done:
            self.error, self.done = error, True

    @property
    def text(self) -> str:
        """What there is by now; of several samples, the first."""
        value = self.value[0] if isinstance(self.value, list) and self.value else self.value
        return str(value) if self.done and self.error is None else self.partial[0] if self.partial else ""
