"""Blame: which pieces of a prompt made the model give its recorded answer.

Pieces are left out of the prompt, and the recorded answer is scored after what remains. Of few
pieces each is left out alone; of many, a sparse linear model is fitted to random ablations. Both
are judged by the two measures of ContextCite (arXiv:2409.00729): how far the log-probability drops
without the top pieces, and how well the effects predict ablations that the fit has not seen (linear
datamodelling score). Scores come from the caller; nothing here knows a model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import NamedTuple

from ....contracts.errors import BadArgument
from ....contracts.port import ScoreJob, ScoreOutput
from ...views.asked import Asked
from .fit import Mask, predicted, random_masks, rank_correlation, sparse_weights
from .pieces import Piece

ALONE_MOST = 32
"""pieces that are left out one at a time; of more, a linear model is fitted"""
N_RANDOM = 64
"""random ablations of a fit, as in ContextCite; of very many pieces half as many as there are pieces"""
N_JUDGED = 32
"""further random ablations, by which the effects are judged"""
TOP = (1, 3, 5)
"""numbers of pieces that are left out together"""
MOST_PIECES = 600
GOOD, FAIR = 0.6, 0.3
"""linear datamodelling scores from which effects are good, and from which they are of use"""

Score = Callable[[Sequence[ScoreJob]], Sequence[ScoreOutput]]


class Reading(NamedTuple):
    """The answer after one ablated prompt."""

    value: float
    """log-probability of the answer in nats; of a select the lead of the chosen option over the
    runner-up, in mean log-probability per token"""
    winner: int
    """of a select: the option with the highest mean log-probability"""


@dataclass(frozen=True, slots=True)
class Blame:
    title: str
    kind: str
    by: str
    prompt: tuple[int, ...]
    pieces: tuple[Piece, ...]
    effects: tuple[float, ...]
    """of each piece: how much the value falls without it, in nats"""
    answer: tuple[int, ...]
    of: tuple[int, int]
    """the tokens of the answer whose log-probability counts"""
    n_forced: int
    """tokens among them that a constraint forced, and that do not count"""
    is_fitted: bool
    """whether effects are weights of a fit; else each piece was left out alone"""
    full: Reading
    bare: float
    """the value without any piece, or as few as a prompt must have"""
    drops: tuple[tuple[int, float], ...]
    """(k, fall of the value without the k pieces of the largest effect)"""
    lds: float | None
    """linear datamodelling score, -1 to 1; None if too few ablations are left to judge by"""
    n_judged: int
    n_scored: int
    """scored prompts"""
    n_computed: int
    """tokens that were computed for all of them"""
    n_naive: int
    """tokens that they would take without a cache"""
    seed: int
    choices: tuple[tuple[int, ...], ...] = ()
    without: tuple[int | None, ...] = ()
    """of a select, for each piece that was left out alone: the option that then wins, if it is another"""

    @property
    def ranking(self) -> tuple[int, ...]:
        """The pieces, the largest effect first, and in their order in the prompt if two are equal."""
        return tuple(sorted(range(len(self.pieces)), key=lambda at: (-self.effects[at], at)))


def blame(
    asked: Asked,
    pieces: Sequence[Piece],
    score: Score,
    *,
    by: str,
    of: tuple[int, int] | None = None,
    seed: int = 0,
    job: Callable[[tuple[int, ...], tuple[tuple[int, ...], ...]], ScoreJob] = ScoreJob,
) -> Blame:
    """Score the ablations in one batch, then the top pieces together.

    of    which tokens of the answer count; None is all. A select is always judged as a whole
    job   makes a job of a prompt and choices, for example with blocks or an adapter

    BadArgument if the prompt has no piece that can be left out, or too many.
    """
    if not pieces:
        raise BadArgument(f"the prompt of {asked.title} has nothing to leave out", hint="its only text is the chat template's")
    if len(pieces) > MOST_PIECES:
        hint = "choose larger pieces: --by sentence, line or message"
        raise BadArgument(f"the prompt has {len(pieces):,} pieces, and {MOST_PIECES} are the most", hint=hint)
    run = _Scoring(asked, tuple(pieces), score, of or (0, len(asked.answer)), job)
    n = len(pieces)
    is_fitted = n > ALONE_MOST
    every = (True,) * n
    alone = [tuple(other != at for other in range(n)) for at in range(n)]
    learnt = random_masks(n, max(N_RANDOM, n // 2), seed, run.is_empty) if is_fitted else [mask for mask in alone if not run.is_empty(mask)]
    seen = {every, *learnt}
    judged = random_masks(n, N_JUDGED, seed + 1, lambda mask: mask in seen or run.is_empty(mask))
    if not learnt:
        raise BadArgument(f"the prompt of {asked.title} is one piece, and a prompt needs a token", hint="choose smaller pieces: --by word")
    none = (False,) * n
    run.read([every])
    run.read([*learnt, *judged, *([] if run.is_empty(none) else [none])])
    full = run.of(every)
    if is_fitted:
        n_tokens = 1 if run.is_choice else run.n_counted
        effects = sparse_weights([every, *learnt], [run.of(mask).value for mask in (every, *learnt)], n_tokens)
    else:
        effects = [0.0 if run.is_empty(mask) else full.value - run.of(mask).value for mask in alone]
    ranking = sorted(range(n), key=lambda at: (-effects[at], at))
    tops = {k: tuple(at not in ranking[:k] for at in range(n)) for k in TOP if k < n}
    run.read(list(tops.values()))
    values = [run.of(mask).value for mask in judged]
    winners = [None if is_fitted or run.is_empty(mask) else run.of(mask).winner for mask in alone]
    return Blame(
        asked.title,
        asked.shown.kind,
        by,
        asked.ids,
        tuple(pieces),
        tuple(effects),
        asked.answer,
        run.counted,
        run.n_forced,
        is_fitted,
        full,
        min(values) if run.is_empty(none) else run.of(none).value,
        tuple((k, full.value - run.of(mask).value) for k, mask in tops.items()),
        rank_correlation(predicted(judged, effects), values),
        len(judged),
        run.n_scored,
        run.n_computed,
        run.n_naive,
        seed,
        asked.choices if run.is_choice else (),
        tuple(winner if run.is_choice and winner != full.winner else None for winner in winners),
    )


class _Scoring:
    """Scores ablated prompts, each once."""

    def __init__(
        self,
        asked: Asked,
        pieces: tuple[Piece, ...],
        score: Score,
        of: tuple[int, int],
        job: Callable[[tuple[int, ...], tuple[tuple[int, ...], ...]], ScoreJob],
    ) -> None:
        self._prompt, self._pieces, self._score, self._job = asked.ids, pieces, score, job
        self._chosen = asked.choices.index(asked.answer) if asked.answer in asked.choices else None
        self._choices = (asked.answer[: of[1]],) if self._chosen is None else asked.choices
        self.counted = of if self._chosen is None else (0, len(asked.answer))
        self._is_counted = [not is_forced for is_forced in asked.forced[of[0] : of[1]]]
        if self._chosen is None and not any(self._is_counted):
            raise BadArgument(f"a constraint forced all of these tokens of {asked.title}", hint="no part of the prompt could change them")
        self.n_forced = 0 if self._chosen is not None else len(self._is_counted) - sum(self._is_counted)
        self._found: dict[Mask, Reading] = {}
        self._other: int | None = None
        self.n_scored = self.n_computed = self.n_naive = 0

    @property
    def is_choice(self) -> bool:
        """Whether options are compared; else the answer alone is scored."""
        return self._chosen is not None

    @property
    def n_counted(self) -> int:
        return sum(self._is_counted)

    def kept(self, mask: Mask) -> tuple[int, ...]:
        """The prompt without the pieces that the mask leaves out."""
        kept, at = list[int](), 0
        for piece, is_kept in zip(self._pieces, mask, strict=True):
            kept += self._prompt[at : piece.end if is_kept else piece.start]
            at = piece.end
        return (*kept, *self._prompt[at:])

    def is_empty(self, mask: Mask) -> bool:
        return not self.kept(mask)

    def of(self, mask: Mask) -> Reading:
        return self._found[mask]

    def read(self, masks: Sequence[Mask]) -> None:
        """Score those that are not known yet, in one batch. Prompts with a common beginning are next
        to one another.
        """
        new = sorted({mask for mask in masks if mask not in self._found}, reverse=True)
        for mask, output in zip(new, self._score([self._job(self.kept(mask), self._choices) for mask in new]), strict=True):
            self._found[mask] = self._reading(output)
            self.n_scored += 1
            self.n_computed += output.usage.computed_tokens
            self.n_naive += output.usage.prompt_tokens

    def _reading(self, output: ScoreOutput) -> Reading:
        if self._chosen is None:
            entries = output.logprobs[0][self.counted[0] : self.counted[1]]
            return Reading(sum(entry.logprob or 0.0 for entry, counts in zip(entries, self._is_counted, strict=True) if counts), 0)
        means = [fmean(entry.logprob or 0.0 for entry in row) for row in output.logprobs]
        winner = max(range(len(means)), key=means.__getitem__)
        others = [at for at in range(len(means)) if self._choices[at] != self._choices[self._chosen]]
        if self._other is None and others:
            self._other = max(others, key=means.__getitem__)
        return Reading(means[self._chosen] - (0.0 if self._other is None else means[self._other]), winner)
