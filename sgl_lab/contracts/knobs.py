"""What of an engine can be tuned while it is idle, and where: a backend that offers it is `Tunable`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable


@dataclass(frozen=True, slots=True)
class Knobs:
    """Settings that change how fast an engine is, and no text that it generates greedily."""

    step_tokens: int
    """tokens of one step: the chunk of a long prompt"""
    draft_tokens: int
    """tokens drafted at a time; 0: none"""
    schedule: str
    evict: str


class Place(NamedTuple):
    """What measured times depend on."""

    model: str
    dtype: str
    device: str
    """with the number of its cores, or its name"""
    cache_tokens: int


@runtime_checkable
class Tunable(Protocol):
    """A backend whose engine can be tuned between two runs."""

    def knobs(self) -> Knobs: ...

    def turn(self, knobs: Knobs) -> None:
        """Use these from now on, with an empty cache. BadArgument for a value that the engine does
        not know, or while a request runs or waits.
        """

    def place(self) -> Place: ...

    def flush(self) -> None:
        """Drop every prefix that no request uses."""

    def computed(self) -> int:
        """Tokens computed since the engine started."""

    def replayed(self, run: Callable[[], None], evict: Sequence[str]) -> Mapping[str, int]:
        """Run once, from the cache as it is, and count the tokens that these requests would compute
        under each eviction policy, without the model. Empty where the engine's events are not seen.
        """
