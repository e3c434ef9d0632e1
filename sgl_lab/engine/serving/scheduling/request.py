"""One request in the engine: its job, its state, its counts.

Knows neither the inside of the tree nor text. The scheduler changes it; the engine reads it.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

from ....contracts.errors import InvariantBroken
from ....contracts.events import Foreseen
from ....contracts.ids import ForkId, Namespace, RequestId
from ....contracts.params import SamplingParams
from ....contracts.spans import Block
from ..cache.tree import Lease

ADAPTER = "adapter "
"""How the part of a namespace begins that has the key of an adapter."""
EXACT = "exact"
"""The end of a namespace whose KV depends only on its own tokens, bit for bit."""


class Phase(Enum):
    WAITING = "waiting"
    RUNNING = "running"
    FINISHED = "finished"


MOVES: Mapping[Phase, frozenset[Phase]] = {
    Phase.WAITING: frozenset({Phase.RUNNING, Phase.FINISHED}),
    Phase.RUNNING: frozenset({Phase.WAITING, Phase.FINISHED}),  # back to waiting: preempted
    Phase.FINISHED: frozenset(),
}


class Matcher(Protocol):
    """The part of a constraint that a step needs."""

    @property
    def n_allowed(self) -> Sequence[int | None]:
        """The allowed tokens of each mask that was filled last; None where all are allowed."""

    def within(self, draft: tuple[int, ...]) -> tuple[int, ...]:
        """As much of a draft as may come next."""

    def masks(self, n: int) -> tuple[memoryview, ...]:
        """Masks of the next draw and of the draws after one more draft each (`Sampling.masks`).
        They must be filled before the draw.
        """

    def fill(self, draft: tuple[int, ...]) -> None:
        """Fill them, for this draft. ConstraintFailed if no token may come next."""


class Seam(Protocol):
    """The end of the prompt that is still to be drawn again."""

    def n_inside(self, draft: tuple[int, ...]) -> int:
        """How many of these tokens spell only the end of the prompt."""


@dataclass(eq=False, slots=True)
class Request:
    """A prompt to compute and, for a gen, tokens to sample after it.

    Counting: a position counts once, as cached or as computed, by the first origin of its KV.
    Recomputation after a preemption is counted only in `n_recomputed`. A gen that ran to its end
    therefore has `n_cached + n_computed == len(prompt) + len(generated) - 1 + n_rejected`: the last
    token has no KV, and rejected drafts have no position. Forced tokens after the last sampled one
    have no KV either: they are subtracted from the right side. A text that is forced completely
    takes no step.
    """

    id: RequestId
    group: RequestId
    kind: str
    """gen, score or warm"""
    namespace: Namespace
    prompt: tuple[int, ...]
    limit: int = 0
    """tokens to generate at most; 0 unless a gen"""
    params: SamplingParams | None = None
    seed: int = 0
    banned_early: tuple[int, ...] = ()
    """tokens that may not be drawn before `params.min_tokens`"""
    blocks: tuple[Block, ...] = ()
    """those whose positions are in the prompt"""
    respelled: tuple[int, ...] = ()
    """tokens that stood at the end of the prompt and may be drawn again: a first draft"""
    n_healed: int = 0
    """generated tokens that spell only the prompt's end again: no penalty and no limit counts them"""
    n_shared: int = 0
    """leading tokens that another request of the group counts as its own"""
    targets: dict[int, tuple[int, ...]] = field(default_factory=dict)
    """position -> tokens whose logprobs are read after it; a gen drops those that were read"""
    matcher: Matcher | None = None
    """for a gen with a constraint, or while it generates the prompt's end again"""
    seam: Seam | None = None
    """for a gen that still generates the prompt's end again"""
    fork: ForkId | None = None
    """the stream that asks; None if it is not known whether it goes on"""
    foreseen: Foreseen | None = None
    """of a traced program"""
    submitted: float = 0.0
    """seconds of the engine's clock, as the next two"""
    admitted: float | None = None
    first_token: float | None = None

    phase: Phase = Phase.WAITING
    is_processed: bool = False
    """What it was given last is still on its way through a user's pattern: it takes no part in
    steps, and gives no page away.
    """
    generated: list[int] = field(default_factory=list)
    arrival: int = 0
    n_passed: int = 0
    """how often younger requests were admitted while this one waited"""
    n_hit: int = 0
    """the part of this request that the tree had at its version `n_hit_version`"""
    n_hit_version: int | None = None
    lease: Lease | None = None
    pages: array[int] = field(default_factory=lambda: array("i"))
    """of all positions from 0; the first of them belong to the tree"""
    n_kv: int = 0
    """positions whose KV is present"""
    n_prefill: int = 0
    """tokens that had to be there at admission"""

    n_cached: int = 0
    n_computed: int = 0
    n_recomputed: int = 0
    n_drafted: int = 0
    n_rejected: int = 0
    n_forced: int = 0
    """tokens that came without being drawn, as the constraint left no choice"""
    n_counted: int = 0
    n_steps: int = 0
    n_preemptions: int = 0

    def __post_init__(self) -> None:
        self.n_counted = self.n_shared

    def move(self, phase: Phase) -> None:
        if phase not in MOVES[self.phase]:
            raise InvariantBroken(f"request {self.id} cannot go from {self.phase.value} to {phase.value}")
        self.phase = phase

    @property
    def n_found(self) -> int:
        """Prompt tokens that came from the tree. `n_cached` also includes tokens that a constraint
        forced right after them.
        """
        return min(self.n_cached, len(self.prompt) - self.n_shared)

    @property
    def is_exact(self) -> bool:
        """Whether its namespace requires exact computation, so that no other KV is ever taken from
        the tree.
        """
        return EXACT in self.namespace

    @property
    def adapter(self) -> str | None:
        """The key of its adapter, which its namespace has."""
        return next((part.removeprefix(ADAPTER) for part in self.namespace if part.startswith(ADAPTER)), None)

    @property
    def n_tokens(self) -> int:
        return len(self.prompt) + len(self.generated)

    @property
    def n_most(self) -> int:
        """Tokens that will have KV at the very end; the last that is sampled has none."""
        return len(self.prompt) + max(0, self.limit - 1)

    @property
    def n_pending(self) -> int:
        """Tokens without KV; while decoding 1, and those that were forced after it."""
        return self.n_tokens - self.n_kv

    @property
    def is_prefilling(self) -> bool:
        return self.n_kv < self.n_prefill

    @property
    def first_needed(self) -> int:
        """The first position whose logits are needed: from there on nothing may be taken from the
        tree.
        """
        return min(self.targets, default=self.n_tokens - (self.kind == "gen"))

    def span(self, start: int, end: int) -> tuple[int, ...]:
        """Tokens at positions start .. end - 1."""
        n_prompt = len(self.prompt)
        if end <= n_prompt:
            return self.prompt[start:end]
        if start >= n_prompt:
            return tuple(self.generated[start - n_prompt : end - n_prompt])
        return self.prompt[start:] + tuple(self.generated[: end - n_prompt])

    def count_cached(self, end: int) -> None:
        """Positions before `end` came from the tree."""
        self.n_cached += max(0, end - self.n_counted)
        self.n_counted = max(self.n_counted, end)

    def count_computed(self, start: int, end: int, n_rejected: int) -> None:
        """Positions start .. end - 1 went through the model, and `n_rejected` drafts that were rejected."""
        n_new = max(0, end - max(start, self.n_counted))
        self.n_computed += n_new + n_rejected
        self.n_rejected += n_rejected
        self.n_recomputed += end - start - n_new
        self.n_counted = max(self.n_counted, end)
        self.n_steps += 1
