"""A value of a program, present or future. Guarded by the run's lock."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol


class Source(Protocol):
    """Something that fills a variable."""

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
        """whether it was stopped midway: the value is the text so far"""
        self.partial: list[str] = []
        """text so far, one per sample"""
        self.logprobs_from: Callable[[int], dict[str, object]] | None = None
        """log-probabilities of the first sample's tokens so far, with the number of tokens; None if
        they were not requested
        """
        self.ids: tuple[tuple[int, ...], ...] = ()
        """the tokens of a gen, one tuple per sample"""
        self.n_partial = 0
        """tokens so far, of the first sample"""
        self.means: Callable[[], object] | None = None
        """computes the parsed value; None if the value has no other meaning"""
        self.reasoning: Variable | None = None
        """the reasoning before it"""
        self.observed: str | None = None
        """the result of the tool whose call is here"""
        self.prompt: tuple[int, ...] | None = None
        self.mark = 0
        """where a var_scope begins in the stream's history"""

    def set(self, value: object, meta: object = None) -> None:
        self.value, self.meta, self.done = value, {} if meta is None else meta, True

    def fail(self, error: Exception) -> None:
        if not self.done:
            self.error, self.done = error, True
        if self.reasoning:
            self.reasoning.fail(error)

    def read(self) -> Any:
        """The meaning of the value, checked; the value itself if it has no other meaning. The
        variable must be done. Called without the lock.
        """
        if self.means is None:
            return self.value
        meant = self.means()
        self.means = lambda: meant
        return meant

    @property
    def text(self) -> str:
        """The current text; of several samples, the first."""
        value = self.value[0] if isinstance(self.value, list) and self.value else self.value
        return str(value) if self.done and self.error is None else self.partial[0] if self.partial else ""
