"""A value of a program: there now, or there later. Guarded by the run's lock."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol


class Source(Protocol):
    """What fills a variable."""

    @property
    def idle(self) -> bool:
        """Whether it fills nothing more until more is appended to it."""


class Variable:
    """Belongs to the stream that fills it; forks see it too."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.done = False
        self.value: Any = None
        self.meta: Any = {}
        self.error: Exception | None = None
        self.aborted = False
        """stopped midway: the value is what there was by then"""
        self.partial: list[str] = []
        """text so far, one a sample"""
        self.logprobs_from: Callable[[int], dict[str, Any]] | None = None
        """log-probabilities of the first sample's tokens so far, but of so many; None where they were not asked for"""
        self.ids: tuple[tuple[int, ...], ...] = ()
        """the tokens of a gen, one tuple a sample"""
        self.n_partial = 0
        """tokens so far, of the first"""
        self.means: Callable[[], Any] | None = None
        """what to ask for the parsed value; None where the value is all there is"""
        self.reasoning: Variable | None = None
        """what was thought aloud before it"""
        self.observed: str | None = None
        """what a tool said when the call that stands here was made"""
        self.prompt: tuple[int, ...] | None = None
        self.mark = 0
        """where a var_scope begins in the stream's history"""

    def set(self, value: Any, meta: Any = None) -> None:
        self.value, self.meta, self.done = value, {} if meta is None else meta, True

    def fail(self, error: Exception) -> None:
        if not self.done:
            self.error, self.done = error, True
        if self.reasoning:
            self.reasoning.fail(error)

    def read(self) -> Any:
        """What the value means, checked; the value itself where it means nothing else. Of a variable that is done, without the lock."""
        if self.means is None:
            return self.value
        meant = self.means()
        self.means = lambda: meant
        return meant

    @property
    def text(self) -> str:
        """What there is by now; of several samples, the first."""
        value = self.value[0] if isinstance(self.value, list) and self.value else self.value
        return str(value) if self.done and self.error is None else self.partial[0] if self.partial else ""
