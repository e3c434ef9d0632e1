"""Turns logits into tokens, for all rows of a step at once, with only the operations that some row
requests.

A sampled token is a function of the row's logits, its parameters, its seed and its position:
neither the batch nor earlier tokens matter. Knows nothing of stop conditions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import chain

import numpy as np
import torch
from torch import Tensor

from ....contracts.errors import ConstraintFailed, RequestFailed
from ...plan import Draw, Sampling, Score, Target

_FEW = 256
"""how many of the most probable tokens are sorted before the whole vocabulary is"""


def sample(logits: Tensor, samplings: Sequence[Sampling]) -> list[Draw | RequestFailed]:
    """Draw one token per row from `logits` [rows, vocab] float32, which are not modified. Only a
    row without a possible token fails.
    """
    total = logits.logsumexp(-1)
    shaped = _shaped(logits, samplings)
    tokens = shaped.argmax(-1)  # the lowest id of equally good ones
    best = shaped.gather(-1, tokens[:, None])[:, 0]
    possible = (total.isfinite() & best.isfinite()).tolist()
    random = [i for i, sampling in enumerate(samplings) if sampling.params.temperature > 0 and possible[i]]
    if random:
        tokens[random] = _drawn(shaped[random], [samplings[i] for i in random])
    chosen = (logits.gather(-1, tokens[:, None])[:, 0] - total).tolist()
    tops = _tops(logits, total, [sampling.params.top_logprobs for sampling in samplings])
    return [
        Draw(token, logprob, top) if ok else failure(sampling, is_finite=is_finite)
        for token, logprob, top, ok, is_finite, sampling in zip(
            tokens.tolist(), chosen, tops, possible, total.isfinite().tolist(), samplings, strict=True
        )
    ]


def scored(logits: Tensor, targets: Sequence[Target]) -> list[Score]:
    """The results that each row of `logits` [rows, vocab] float32 requests."""
    total = logits.logsumexp(-1)
    rows = torch.tensor([i for i, (tokens, _) in enumerate(targets) for _ in tokens], dtype=torch.int64, device=logits.device)
    every = torch.tensor([token for tokens, _ in targets for token in tokens], dtype=torch.int64, device=logits.device)
    left = iter((logits[rows, every] - total[rows]).tolist())
    tops = _tops(logits, total, [n_top for _, n_top in targets])
    return [Score(tuple(next(left) for _ in tokens), top) for (tokens, _), top in zip(targets, tops, strict=True)]


def failure(sampling: Sampling, *, is_finite: bool) -> RequestFailed:
    """Why no token can be sampled, with finite or with infinite logits."""
    if not is_finite:
        return RequestFailed("the model's logits are not finite", hint="float32 has a wider range than float16; are the weights right?")
    kind = ConstraintFailed if sampling.masks else RequestFailed
    others = "the constraint and logit_bias leave" if sampling.masks else "logit_bias leaves"
    return kind(f"no token may be drawn: {len(sampling.banned)} are banned, and {others} none of the rest")


def _shaped(logits: Tensor, samplings: Sequence[Sampling]) -> Tensor:
    """Logits after penalties, bias, bans and mask; `logits` itself without any of these."""
    touched = [i for i, sampling in enumerate(samplings) if _shapes(sampling)]
    if not touched:
        return logits
    shaped = logits.clone()
    n_vocab = logits.shape[-1]
    for i in touched:
        row, sampling = shaped[i], samplings[i]
        params = sampling.params
        if params.repetition_penalty != 1:
            seen = _indices({*sampling.prompt, *sampling.generated, *sampling.drafted}, row)
            values = row[seen]
            row[seen] = torch.where(values > 0, values / params.repetition_penalty, values * params.repetition_penalty)
        if params.frequency_penalty or params.presence_penalty:
            counts = Counter(chain(sampling.generated, sampling.drafted))
            penalties = [params.frequency_penalty * count + params.presence_penalty for count in counts.values()]
            row[_indices(counts, row)] -= torch.tensor(penalties, device=row.device)
        bias = {token: value for token, value in params.logit_bias if 0 <= token < n_vocab}
        if bias:
            row[_indices(bias, row)] += torch.tensor(list(bias.values()), device=row.device)
        if sampling.banned:
            row[_indices(sampling.banned, row)] = -torch.inf
        if sampling.mask is not None:
            row[~_allowed(sampling.mask, row)] = -torch.inf
    return shaped


def _shapes(sampling: Sampling) -> bool:
    params = sampling.params
    return bool(sampling.banned or sampling.masks or params.logit_bias or params.is_penalised)


def _indices(tokens: Sequence[int] | set[int] | dict[int, float] | Counter[int], row: Tensor) -> Tensor:
    return torch.tensor(list(tokens), dtype=torch.int64, device=row.device)


def _allowed(mask: memoryview, row: Tensor) -> Tensor:
    """The tokens of a mask, bool [vocab]."""
    bits = np.unpackbits(np.frombuffer(mask, np.uint8), count=len(row), bitorder="little")
    return torch.from_numpy(bits).to(row.device, torch.bool)


def _drawn(logits: Tensor, samplings: Sequence[Sampling]) -> Tensor:
    """One token per row by inverse CDF over the remaining tokens after truncation, in the order of
    the vocabulary.
    """

    # Relative to the best logit and kept above zero, so that no temperature produces an infinity.
    temperature = _column([max(sampling.params.temperature, 1e-30) for sampling in samplings], logits)
    probabilities = ((logits - logits.amax(-1, keepdim=True)) / temperature).softmax(-1)
    floor = _floor(probabilities, samplings)
    if floor is not None:
        probabilities = probabilities.where(probabilities >= floor, 0)
    cumulative = probabilities.cumsum(-1, dtype=torch.float64)
    points = _column([uniform(sampling.seed, sampling.position) for sampling in samplings], cumulative) * cumulative[:, -1:]
    # If rounding moves a point to the very end, it belongs to the last token with a nonzero
    # probability, where the sum stops growing.
    last = torch.searchsorted(cumulative, cumulative[:, -1:].contiguous())
    return torch.minimum(torch.searchsorted(cumulative, points, right=True), last)[:, 0]


def _column(values: Sequence[float], like: Tensor) -> Tensor:
    return torch.tensor(values, dtype=like.dtype, device=like.device)[:, None]


def _floor(probabilities: Tensor, samplings: Sequence[Sampling]) -> Tensor | None:
    """The least probability that may still be sampled, [rows, 1]; None if no row truncates.

    Every truncation is such a floor: top-k the k-th largest probability, top-p the last one needed
    to reach p of the rest after top-k, min-p a share of the largest. Tokens that tie with the floor
    remain.
    """
    n_vocab = probabilities.shape[-1]
    top_k = [min(sampling.params.top_k or n_vocab, n_vocab) for sampling in samplings]
    top_p = [sampling.params.top_p for sampling in samplings]
    min_p = [sampling.params.min_p for sampling in samplings]
    floor = _column(min_p, probabilities) * probabilities.amax(-1, keepdim=True) if any(min_p) else None
    if min(top_k) == n_vocab and min(top_p) == 1:
        return floor
    k = torch.tensor(top_k, device=probabilities.device)[:, None]
    p = torch.tensor(top_p, dtype=torch.float64, device=probabilities.device)[:, None]
    n_sorted = min(_FEW, n_vocab)
    ordered = probabilities.topk(n_sorted)[0]
    mass = ordered.cumsum(-1, dtype=torch.float64)
    enough = (mass[:, -1:] >= p) & (p < 1) if n_sorted < n_vocab else torch.ones_like(p, dtype=torch.bool)
    if not bool((enough & (k >= n_vocab) | (k <= n_sorted)).all()):
        ordered = probabilities.sort(-1, descending=True)[0]
        mass = ordered.cumsum(-1, dtype=torch.float64)
    rank = torch.arange(ordered.shape[-1], device=ordered.device)
    kept = mass.gather(-1, k.clamp(max=ordered.shape[-1]) - 1).where(k < n_vocab, 1.0)
    needed = (rank < k) & ((mass - ordered < p * kept) | (p == 1))
    cut = ordered.gather(-1, needed.sum(-1, keepdim=True) - 1)
    return cut if floor is None else torch.maximum(cut, floor)


def uniform(seed: int, position: int) -> float:
    """A number in [0, 1) that depends only on both arguments (two rounds of splitmix64)."""
    return (_mix(_mix(seed & _MASK) + position * 0x9E3779B97F4A7C15) >> 11) * 2.0**-53


_MASK = (1 << 64) - 1


def _mix(x: int) -> int:
    x = (x + 0x9E3779B97F4A7C15) & _MASK
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 & _MASK
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB & _MASK
    return x ^ (x >> 31)


def _tops(logits: Tensor, total: Tensor, wanted: Sequence[int]) -> list[tuple[tuple[int, float], ...]]:
    """The `wanted[i]` most probable tokens of each row with their logprobs."""
    rows = [i for i, n in enumerate(wanted) if n]
    tops: list[tuple[tuple[int, float], ...]] = [()] * len(wanted)
    if rows:
        values, tokens = logits[rows].topk(min(max(wanted), logits.shape[-1]))
        logprobs = values - total[rows][:, None]
        for i, ids, row in zip(rows, tokens.tolist(), logprobs.tolist(), strict=True):
            tops[i] = tuple(zip(ids, row, strict=True))[: wanted[i]]
    return tops
