"""Where one token's attention lay: the mean over heads, and the strongest place of each head.

Weights come from the caller, by layer, head and token; each head's add up to 1. The first token of
a sequence takes much of most heads' attention whatever it is (an attention sink: Xiao et al. 2023,
arXiv:2309.17453), so it is counted apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import NamedTuple

from .attribution.blame import Blame

Weights = Sequence[Sequence[Sequence[float]]]


class Peak(NamedTuple):
    """The token after the first one that a head reads most."""

    position: int | None
    """None if there is no such token"""
    weight: float


@dataclass(frozen=True, slots=True)
class Attention:
    title: str
    ids: tuple[int, ...]
    """all that was read: the prompt, and the answer before the token"""
    n_prompt: int
    token: int
    at: int
    """place of the token in the answer"""
    layer: int | None
    head: int | None
    """that were chosen; None for the mean over all"""
    weights: tuple[float, ...]
    """of each of the `ids`, in the mean of what was chosen"""
    peaks: tuple[tuple[Peak, ...], ...]
    """by layer and head, of all of them"""

    def share(self, start: int, end: int) -> float:
        """Of the attention, on these positions."""
        return sum(self.weights[start:end])


def attention(
    title: str,
    prompt: Sequence[int],
    answer: Sequence[int],
    at: int,
    weights: Weights,
    *,
    layer: int | None = None,
    head: int | None = None,
) -> Attention:
    """What `weights` say of token `at` of the answer: those of the position before it, which drew it."""
    chosen = [row for number, layered in enumerate(weights) if layer in (None, number) for row in _heads(layered, head)]
    mean = tuple(fmean(column) for column in zip(*chosen, strict=True))
    peaks = tuple(tuple(_peak(row) for row in layered) for layered in weights)
    return Attention(title, (*prompt, *answer[:at]), len(prompt), answer[at], at, layer, head, mean, peaks)


def _heads(layered: Sequence[Sequence[float]], head: int | None) -> Sequence[Sequence[float]]:
    return layered if head is None else [layered[head]]


def _peak(row: Sequence[float]) -> Peak:
    position = max(range(1, len(row)), key=row.__getitem__, default=None)
    return Peak(position, 0.0 if position is None else row[position])


class Compared(NamedTuple):
    """A piece of the prompt by both measures."""

    text: str
    effect: float
    """by which the answer falls without it, in nats"""
    share: float
    """of this token's attention"""


def compared(found: Attention, blame: Blame, n: int = 3) -> list[Compared]:
    """The pieces of the largest effect, and how much of the attention lay on each."""
    pieces = [(blame.pieces[at], blame.effects[at]) for at in blame.ranking[:n]]
    return [Compared(piece.text, effect, found.share(piece.start, piece.end)) for piece, effect in pieces]
