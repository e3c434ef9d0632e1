"""How fast an engine computes, measured in the steps that it ran."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from ..contracts.events import Entry, StepRan


class Rates(NamedTuple):
    """Tokens per second."""

    prefill: float
    decode: float
    n_steps: int
    """steps that were measured"""

    def seconds(self, n_prefilled: int, n_decoded: int) -> float:
        return n_prefilled / self.prefill + n_decoded / self.decode


def rates_of(entries: Iterable[Entry]) -> Rates | None:
    """From steps that decode alone, and from what prefill adds to a step. None where either kind of
    step is missing.
    """
    steps = [entry.event for entry in entries if isinstance(entry.event, StepRan)]
    alone = [step for step in steps if step.decode and not step.prefill]
    with_prompts = [step for step in steps if step.prefill]
    decode_s, n_decoded = sum(step.ms for step in alone) / 1e3, sum(len(step.decode) for step in alone)
    if not with_prompts or not n_decoded or decode_s <= 0:
        return None
    decode = n_decoded / decode_s
    n_prefilled = sum(n for step in with_prompts for _, n in step.prefill)
    prefill_s = sum(step.ms / 1e3 - len(step.decode) / decode for step in with_prompts)
    whole_s = sum(step.ms for step in with_prompts) / 1e3
    return Rates(n_prefilled / max(prefill_s, whole_s / 10, 1e-9), decode, len(steps))
