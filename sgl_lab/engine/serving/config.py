"""How an engine is sized and how it chooses, complete and validated at birth."""

from __future__ import annotations

from dataclasses import dataclass

from ...contracts.errors import BadArgument
from ...contracts.near import did_you_mean
from ...contracts.policies import EVICTIONS, REUSES, SCHEDULES


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """page_size and n_pages size the KV pool. The other fields limit one step and order waiting
    requests.
    """

    n_pages: int = 16_384
    page_size: int = 1
    max_rows: int = 64
    """requests that run at the same time"""
    step_tokens: int = 512
    """tokens of one step, decode rows included; a longer prompt is computed in chunks"""
    schedule: str = "lpm"
    """lpm: longest prefix in the tree first; fcfs: in order of arrival; dfs-weight: along the tree,
    the branch with most waiting requests first; random
    """
    evict: str = "lru"
    """lru: the least recently used is evicted first; lfu: the least often used; fifo: the oldest;
    program: what no program waits for
    """
    reuse: str = "prefix"
    """prefix: all of a prompt that is in the tree comes from it; sequence: only the whole of an
    earlier sequence, as without a tree; none: nothing. The last two measure what the tree is worth
    """
    max_passes: int = 16
    """how often younger requests may be admitted before a waiting one"""
    min_share: int = 16
    """uncomputed tokens that a waiting request must share with a running prefill to wait for it"""
    draft_tokens: int = 64
    """draft tokens that one request may have verified in a step; 0: none"""
    jump_forward: bool = True
    """tokens that a constraint leaves no choice about come without being drawn"""
    seed: int = 0
    """source of seeds for requests without one, and of a random schedule"""

    def __post_init__(self) -> None:
        def check(ok: bool, name: str, legal: str) -> None:
            if not ok:
                raise BadArgument(f"{name} must be {legal}, not {getattr(self, name)!r}")

        for name in ("n_pages", "page_size", "max_rows", "step_tokens", "max_passes", "min_share"):
            value = getattr(self, name)
            check(type(value) is int and value >= 1, name, "a whole number, 1 or more")
        check(type(self.draft_tokens) is int and self.draft_tokens >= 0, "draft_tokens", "a whole number, 0 or more")
        check(self.step_tokens > self.max_rows, "step_tokens", f"more than max_rows ({self.max_rows}), or prompts would never be computed")
        for name, known in (("schedule", SCHEDULES), ("evict", EVICTIONS), ("reuse", REUSES)):
            if (word := getattr(self, name)) not in known:
                raise BadArgument(f"{name} must be {' or '.join(known)}, not {word!r}", hint=did_you_mean(word, known))
        check(type(self.jump_forward) is bool, "jump_forward", "True or False")
        check(type(self.seed) is int, "seed", "an integer")

    @property
    def cache_tokens(self) -> int:
        return self.n_pages * self.page_size

    def pages_for(self, n_tokens: int) -> int:
        return -(-n_tokens // self.page_size)
