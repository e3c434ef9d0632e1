"""How much logprobs depend on the way they are computed: in a batch, from the cache, in chunks, or
all at once.

Knows a backend, by its port, and texts; nothing of how a backend computes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ...contracts.params import SamplingParams
from ...contracts.port import Backend, GenJob, GenOutput, ScoreJob, ScoreOutput, TokenLogprob, Usage, WarmJob
from ..serving.replies import ReplyListener, encoded

TEXTS = (
    "The tide came in over the flats and the birds rose.",
    "A recipe for bread needs flour, water, salt and",
    "In the year 1905 a clerk in Bern wrote four papers:",
    "def mean(values):\n    return sum(values) /",
    "Question: what is seven times eight? Answer:",
    "Dear Sir or Madam, I am writing to you because",
    "The three primary colours are red,",
    "Once upon a time there was a lighthouse keeper who",
)
N_TOKENS = 24
"""generated after each text"""

PARAMS = SamplingParams(max_tokens=N_TOKENS, temperature=0, ignore_eos=True, logprobs=True, top_logprobs=5)


@dataclass(frozen=True, slots=True)
class Drift:
    """The result of a comparison, always of one token after the same tokens."""

    n_compared: int
    largest: float
    """difference between two logprobs of one token; 0.0 if all are bitwise equal"""
    n_flips: int
    """positions at which another token was the likeliest"""
    widest_flip: float
    """of these the largest gap between the two likeliest; it cannot reach twice the drift"""

    def __str__(self) -> str:
        if not self.largest:
            return f"none: {self.n_compared:,} logprobs are the same to the bit, however they are computed"
        flips = f"{self.n_flips} flips, over gaps up to {self.widest_flip:.2g}" if self.n_flips else "no flips"
        return f"at most {self.largest:.2g} in {self.n_compared:,} logprobs, {flips}"


class _Tally:
    def __init__(self) -> None:
        self.differences = [0.0]
        self.flips = [0.0]

    def compare(self, reference: TokenLogprob, other: dict[int, float]) -> None:
        """Logprobs at one position: the highest of the reference, and some of `other`."""
        known = dict(reference.top)
        shared = known.keys() & other.keys()
        self.differences += [abs(known[token] - other[token]) for token in shared]
        likeliest = max(shared, key=other.__getitem__, default=reference.token)
        if other.get(reference.token, -math.inf) < other.get(likeliest, -math.inf):  # equal logprobs are ordered by token id alone
            self.flips.append(known[reference.token] - known[likeliest])

    def total(self) -> Drift:
        return Drift(len(self.differences) - 1, max(self.differences), len(self.flips) - 1, max(self.flips))


def measure(backend: Backend, flush: Callable[[], object], texts: Sequence[str] = TEXTS) -> Drift:
    """Compute each text alone with an empty cache, then in other ways. `flush` empties the cache
    and is called often.
    """
    prompts = [encoded(backend, text) for text in texts]
    tally = _Tally()
    references = []
    for prompt in prompts:
        flush()
        references.append(_gen(backend, prompt).answer()[0])
    again = [_gen(backend, prompt).answer()[0] for prompt in prompts]
    flush()
    together = [reply.answer()[0] for reply in [_gen(backend, prompt) for prompt in prompts]]
    for prompt, reference, *others in zip(prompts, references, again, together, strict=True):
        flush()
        warmed = ReplyListener[Usage](backend)
        backend.warm(WarmJob(prompt[: len(prompt) // 2]), warmed)
        warmed.answer()
        others.append(_gen(backend, prompt).answer()[0])
        for other in others:
            _compare_generated(tally, reference, other)
        flush()
        _compare_scored(tally, reference, backend, prompt)
    return tally.total()


def _gen(backend: Backend, prompt: tuple[int, ...]) -> ReplyListener[tuple[GenOutput, ...]]:
    reply = ReplyListener[tuple[GenOutput, ...]](backend)
    backend.submit(GenJob(prompt, PARAMS), reply)
    return reply


def _compare_generated(tally: _Tally, reference: GenOutput, other: GenOutput) -> None:
    """Up to the position where they differ."""
    for mine, its in zip(reference.logprobs, other.logprobs, strict=True):
        tally.compare(mine, dict(its.top))
        if mine.token != its.token:
            break


def _compare_scored(tally: _Tally, reference: GenOutput, backend: Backend, prompt: tuple[int, ...]) -> None:
    """The two likeliest tokens of every position, all computed at once."""
    pairs = [[token for token, _ in entry.top[:2]] for entry in reference.logprobs]
    reply = ReplyListener[ScoreOutput](backend)
    backend.score(ScoreJob(prompt, tuple((*reference.ids[:i], token) for i, pair in enumerate(pairs) for token in pair)), reply)
    last = iter([logprob for row in reply.answer().logprobs if (logprob := row[-1].logprob) is not None])
    for entry, pair in zip(reference.logprobs, pairs, strict=True):
        tally.compare(entry, {token: next(last) for token in pair})
