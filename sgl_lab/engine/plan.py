"""One step of the engine as plain numbers: the scheduler's plan for a runner, and the runner's
result.

No torch here. A runner (the real one, the hash-chain one of the tests, the model-free one of
what-if) turns a `Plan` into `StepOutput` and knows nothing else of requests.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

from ..contracts.errors import InvariantBroken, RequestFailed
from ..contracts.ids import RequestId
from ..contracts.params import SamplingParams
from ..contracts.spans import Block

Top = tuple[tuple[int, float], ...]
"""(token, logprob), best first"""

Target = tuple[tuple[int, ...], int]
"""What to read at a position: the logprobs of these tokens, and the number of likeliest ones."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to draw the next token of one row.

    Randomness is a function of (`seed`, `position`) alone, so that a preempted or re-batched request
    draws the same tokens. `prompt`, `generated` and `drafted` are read for penalties, never kept.
    """

    params: SamplingParams
    seed: int
    position: int
    """how many tokens have been drawn or forced before this one"""
    prompt: Sequence[int]
    generated: Sequence[int]
    banned_early: tuple[int, ...] = ()
    """tokens that may not be drawn before min_tokens (end-of-sequence)"""
    drafted: tuple[int, ...] = ()
    """tokens that are taken to follow `generated`"""
    masks: tuple[memoryview, ...] = ()
    """uint32 [ceil(vocab / 32)]: token t may be drawn if bit t % 32 of word t // 32 is set. The
    first mask holds here, the next after one more draft and so on; without any, all tokens may be
    drawn.
    """
    n_healed: int = 0
    """earlier tokens that spell the prompt's end again; `generated` and `drafted` do not include
    them
    """
    n_healing: int = 0
    """of the drafts that follow, how many do so too"""

    @property
    def mask(self) -> memoryview | None:
        return self.masks[0] if self.masks else None

    @property
    def banned(self) -> tuple[int, ...]:
        """Tokens that may not be drawn here."""
        return self.banned_early if self.position - self.n_healed < self.params.min_tokens else ()

    def after(self, tokens: Sequence[int]) -> Sampling:
        """How to draw the token after these, should they be drawn from here on."""
        n = len(tokens)
        if not n:
            return self
        if 0 < len(self.masks) <= n:
            raise InvariantBroken(f"{len(self.masks)} masks for a draw and {n} drafts before it")
        again = min(n, self.n_healing)
        return replace(
            self,
            position=self.position + n,
            drafted=(*self.drafted, *tokens[again:]),
            masks=self.masks[n:],
            prompt=(*self.prompt, *tokens[:again]) if again and self.params.repetition_penalty != 1 else self.prompt,
            n_healed=self.n_healed + again,
            n_healing=self.n_healing - again,
        )


@dataclass(frozen=True, slots=True)
class Row:
    """One request's share of a step.

    tokens   ids to compute now, at positions start, start + 1, ...
    pages    page ids of all positions from 0 up to the last of `tokens` (position p is in pages[p
             // page_size], slot p % page_size); positions before `start` are already written
    sample   draw a token after the last of `tokens` that is not a draft; None in a prefill chunk
             that is not the last
    n_drafts number of last `tokens` that are drafts of the next samples: a token is also drawn
    after each accepted draft, until one is rejected
    targets  for scoring: targets[i] are the candidate tokens whose logprobs are read after position
             start + len(tokens) - len(targets) + i
    n_top    number of likeliest tokens to read there too
    """

    request: RequestId
    tokens: Sequence[int]
    start: int
    pages: array[int]
    sample: Sampling | None
    targets: tuple[tuple[int, ...], ...] = ()
    n_drafts: int = 0
    n_top: int = 0
    is_exact: bool = False
    """its results may depend on nothing but its tokens, to the bit"""
    blocks: tuple[Block, ...] = ()
    """those whose positions may be among `tokens`"""
    adapter: str | None = None
    """key of the one that its tokens pass through (`Adapting`)"""
    is_overlapped: bool = False
    """its one token is the one that the step before, still in flight, draws for this request. The
    runner reads it there: the 0 in `tokens` is not a token
    """

    @property
    def end(self) -> int:
        """The position after the last of `tokens`."""
        return self.start + len(self.tokens)

    @property
    def drafts(self) -> Sequence[int]:
        return self.tokens[len(self.tokens) - self.n_drafts :]

    @property
    def samplings(self) -> tuple[Sampling, ...]:
        """One entry per possible draw, in order: a draw follows each of the last `n_drafts + 1`
        tokens.
        """
        if self.sample is None:
            return ()
        return tuple(self.sample.after(self.drafts[:n]) for n in range(self.n_draws))

    @property
    def scored(self) -> tuple[Target, ...]:
        """`targets`, each with how many of the likeliest tokens are wanted there."""
        return tuple((tokens, self.n_top if tokens else 0) for tokens in self.targets)

    @property
    def n_draws(self) -> int:
        """That may be wanted."""
        return 0 if self.sample is None else self.n_drafts + 1


def _nothing() -> None:
    pass


@dataclass(frozen=True, slots=True)
class Plan:
    step: int
    rows: tuple[Row, ...]
    before_draws: Callable[[], None] = _nothing
    """fills the masks of the rows' samplings: to be called while the rest computes, once, before
    anything is drawn; never raises
    """


class Draw(NamedTuple):
    token: int
    logprob: float
    """of that token under the model's own distribution (before temperature, penalties and truncation)"""
    top: Top
    """`top_logprobs` of them"""


class Score(NamedTuple):
    """The results at one position with targets."""

    logprobs: tuple[float, ...]
    top: Top = ()


@dataclass(frozen=True, slots=True)
class RowOutput:
    draws: tuple[Draw, ...] = ()
    """empty if none was requested; all but the last are accepted drafts"""
    scores: tuple[Score, ...] = ()
    """of each of the row's targets"""
    error: Exception | None = None
    """this row alone failed (NaN logits, ...)"""
    experts: str = ""
    """those that its tokens passed through, as `events.ExpertsChosen` writes them, without rejected
    drafts
    """

    @property
    def target_logprobs(self) -> tuple[tuple[float, ...], ...]:
        return tuple(score.logprobs for score in self.scores)


def output_of(row: Row, draw: Callable[[int], Draw | Exception], scores: tuple[Score, ...] = ()) -> RowOutput:
    """The result of `row`: `draw(n)`, after `n` of its drafts, is called as long as the drafts are
    accepted.

    If a draw fails after an accepted one, the step counts: the next step fails by itself, if it
    must.
    """
    if any(value != value for score in scores for value in score.logprobs):
        return RowOutput(error=RequestFailed("the model's logits are not finite"))
    draws: list[Draw] = []
    for draft in (*row.drafts, None) if row.sample is not None else ():
        found = draw(len(draws))
        if isinstance(found, Exception):
            return RowOutput(tuple(draws), scores, None if draws else found)
        draws.append(found)
        if found.token != draft:
            break
    return RowOutput(tuple(draws), scores)


class Runner(Protocol):
    """Computes a plan. Row i of the result belongs to row i of the plan."""

    is_exact: bool
    """whether every row is computed as exact ones are, asked or not"""

    def run(self, plan: Plan) -> tuple[RowOutput, ...]: ...

    def copy_page(self, source: int, target: int) -> None:
        """Copy the KV of one page, before the next `run` (a partly shared last page becomes private)."""

    def close(self) -> None:
        """Free the memory."""


@runtime_checkable
class Launching(Protocol):
    """A runner that computes in parallel to its caller."""

    def start(self, plan: Plan) -> Callable[[], tuple[RowOutput, ...]]:
        """Start a step. The returned function collects the result, or raises the error. It is
        called before anything else is run or started.
        """


@runtime_checkable
class Overlapping(Launching, Protocol):
    """A runner that works in order, including `copy_page`, and keeps its sampled tokens.

    A step may therefore start before the results of the previous one are collected: overlap
    scheduling.
    """

    def overlap(self, plan: Plan) -> Callable[[], tuple[RowOutput, ...]]:
        """Like `start`, while the previous step is in flight. Each row continues one of its rows,
        which had no drafts.
        """


@runtime_checkable
class Embedding(Protocol):
    """A runner that knows of blocks, whether or not it computes them."""

    def check_block(self, block: Block) -> None:
        """BackendUnsupported if it computes no blocks, BadArgument if the embeddings do not fit the
        model.
        """


@dataclass(frozen=True, slots=True)
class Routing:
    """Where a model has experts."""

    layers: tuple[int, ...]
    count: int
    """experts of each"""
    top_k: int


@runtime_checkable
class Adapting(Protocol):
    """A runner that computes rows with LoRA adapters, several in one step."""

    @property
    def adapters(self) -> Mapping[str, str]:
        """Name -> key of each that is loaded. KV may be shared only within a key."""

    def add_adapter(self, folder: Path, name: str) -> None:
        """Load one from any thread."""


@runtime_checkable
class Routed(Protocol):
    """A runner that reports which experts a token passed through (`RowOutput.experts`)."""

    routing: Routing | None
    """None if the model has no experts, or they are not to be reported"""


@runtime_checkable
class Timed(Protocol):
    """A runner that reports where its time goes."""

    seconds: Mapping[str, float]
    """in all so far; `sampler` is drawing tokens, the forward pass not included"""
