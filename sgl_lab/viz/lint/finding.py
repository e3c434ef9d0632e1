"""A finding: a fault of a program that a run shows, where it stands, its cost and its mend."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from ...contracts.params import Constraint
from .seen import Seen
from .source import Source

MIN_TOKENS = 16
"""tokens that a run must compute again before it is worth a finding"""
Likely = tuple[tuple[int, float], ...]
"""tokens with their log-probabilities, the likeliest first"""


@dataclass(frozen=True, slots=True)
class Finding:
    code: str
    """the rule's name for it, such as `white-space`"""
    line: int
    """of the cell, 1-based; 0 if it is not known"""
    fault: str
    """what is wrong, in one sentence without its end"""
    cost: str
    """what it costs or breaks"""
    mend: str
    """what to write instead"""
    n_tokens: int = 0
    """tokens that it costs in each run, where it costs tokens"""


class Measures(Protocol):
    """Costs that only the engine knows. Each may take a request."""

    def likeliest(self, prompt: tuple[int, ...]) -> Likely:
        """The likeliest tokens after a prompt; empty if the engine does not say."""

    def n_shortest(self, constraint: Constraint) -> int | None:
        """Tokens of the shortest text of a constraint; None if that is not known."""


@dataclass(frozen=True, slots=True)
class Case:
    """What a rule reads: the run, its cell, earlier runs of its engine, and what can be measured."""

    seen: Seen
    source: Source
    earlier: tuple[Seen, ...] = ()
    """the latest first"""
    measures: Measures | None = None


Rule = Callable[[Case], Iterator[Finding]]
