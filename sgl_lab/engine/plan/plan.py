"""One step of the engine as plain numbers: what the scheduler hands to a runner, and what comes back.

No torch here. A runner (the real one, the hash-chain one of the tests, the model-free one of
what-if) turns a `Plan` into `StepOutput` and knows nothing of requests beyond it.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from ...contracts.ids import RequestId
from ...contracts.params import SamplingParams


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to draw the next token of one row.

    Randomness is a function of (`seed`, `position`) alone, so that a preempted or re-batched request
    draws the same tokens. `prompt` and `generated` are read for penalties and min_tokens, never kept.
    """

    params: SamplingParams
    seed: int
    position: int
    """how many tokens have been generated before this one"""
    prompt: Sequence[int]
    generated: Sequence[int]
    banned: tuple[int, ...] = ()
    """tokens that may not be drawn here (end-of-sequence before min_tokens)"""


@dataclass(frozen=True, slots=True)
class Row:
    """One request's share of a step.

    tokens   ids to compute now, at positions start, start + 1, ...
    pages    page ids of all positions from 0 up to the last of `tokens` (position p lives in
             pages[p // page_size], slot p % page_size); positions before `start` are already written
    sample   draw a token from the last position's logits; None in a prefill chunk that is not the last
    targets  for scoring: targets[i] are the candidate tokens whose logprobs are wanted after position
             start + len(tokens) - len(targets) + i
    """

    request: RequestId
    tokens: Sequence[int]
    start: int
    pages: array[int]
    sample: Sampling | None
    targets: tuple[tuple[int, ...], ...] = ()


@dataclass(frozen=True, slots=True)
class Plan:
    step: int
    rows: tuple[Row, ...]


@dataclass(frozen=True, slots=True)
class RowOutput:
    token: int | None
    """the sampled token, None where none was asked for"""
    logprob: float | None
    """of that token under the model's own distribution (before temperature, penalties and truncation)"""
    top: tuple[tuple[int, float], ...]
    """(token, logprob) best first, `top_logprobs` of them"""
    target_logprobs: tuple[tuple[float, ...], ...]
    error: Exception | None = None
    """this row alone failed (NaN logits, ...)"""


class Runner(Protocol):
    """Computes a plan. Row i of the result belongs to row i of the plan."""

    def run(self, plan: Plan) -> tuple[RowOutput, ...]: ...

    def copy_page(self, source: int, target: int) -> None:
        """Copy the KV of one page, before the next `run` (a partly shared last page becomes private)."""

    def close(self) -> None:
        """Give the memory back."""


@runtime_checkable
class Timed(Protocol):
    """A runner that says where its time goes."""

    seconds: Mapping[str, float]
    """in all so far; `sampler` is drawing tokens, the forward pass not included"""
