"""The mathematics of attribution: random ablations, a sparse linear fit, and measures of the fit.

Knows no prompt and no model. An ablation is a row of booleans: which pieces are kept. Values are
measured numbers, such as log-probabilities in nats.

The lasso and both measures are those of ContextCite (Cohen-Wang et al. 2024, arXiv:2409.00729): the
fit predicts the value from the kept pieces, and its weights are the effects of the pieces.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

Mask = tuple[bool, ...]

ALPHA = 0.01
"""weight of the penalty, as in ContextCite, of values divided by the number of tokens"""
TOLERANCE = 1e-9
MOST_ROUNDS = 10_000
FEW = 12
"""pieces of which all ablations can be listed"""


def random_masks(n_pieces: int, n: int, seed: int, known: Callable[[Mask], bool]) -> list[Mask]:
    """At most `n` different ablations that keep each piece with probability 1/2, and that are not
    `known`. Of few pieces, these may be fewer than `n`.
    """
    import numpy as np

    generator = np.random.default_rng(seed)
    if n_pieces <= FEW:
        every = [mask for mask in product((True, False), repeat=n_pieces) if not known(mask)]
        return [every[at] for at in generator.permutation(len(every))[:n]]
    found: dict[Mask, None] = {}
    while len(found) < n:
        mask = tuple(map(bool, generator.random(n_pieces) < 0.5))
        if not known(mask):
            found[mask] = None
    return list(found)


def sparse_weights(masks: Sequence[Mask], values: Sequence[float], scale: float = 1.0) -> list[float]:
    """The effect of each piece: weights of a linear model of `values`, of which the lasso sets the
    small ones to 0. `scale` divides the values before the fit and multiplies the weights after it.

    Minimises |y - Xw - b|^2 / 2n + ALPHA |w| over columns of mean 0 and variance 1, by coordinate
    descent (Friedman et al. 2010).
    """
    import numpy as np

    x = np.array(masks, dtype=np.float64)
    y = np.array(values, dtype=np.float64) / scale
    spread = x.std(axis=0)
    varies = spread > 0
    x = (x - x.mean(axis=0)) / np.where(varies, spread, 1.0)
    return [float(weight) for weight in _lasso(x, y - y.mean(), varies) / np.where(varies, spread, 1.0) * scale]


def _lasso(x: Floats, y: Floats, varies: NDArray[np.bool_]) -> Floats:
    """Columns of `x` have mean 0 and variance 1, so that a coordinate's best value is a soft threshold."""
    import numpy as np

    n, n_columns = x.shape
    weights, rest = np.zeros(n_columns), y.copy()
    for _ in range(MOST_ROUNDS):
        largest = 0.0
        for column in np.flatnonzero(varies):
            before = weights[column]
            fitted = float(x[:, column] @ rest) / n + before
            after = np.sign(fitted) * max(abs(fitted) - ALPHA, 0.0)
            if after != before:
                rest -= x[:, column] * (after - before)
                weights[column] = after
                largest = max(largest, abs(after - before))
        if largest <= TOLERANCE:
            break
    return weights


def predicted(masks: Sequence[Mask], effects: Sequence[float]) -> list[float]:
    """What a linear model with these effects predicts, but for a constant."""
    return [sum(effect for effect, is_kept in zip(effects, mask, strict=True) if is_kept) for mask in masks]


def rank_correlation(a: Sequence[float], b: Sequence[float]) -> float | None:
    """Spearman's, from -1 to 1; equal values share their mean rank. None if one side is constant,
    or of fewer than three pairs.
    """
    import numpy as np

    if len(a) < 3 or len(set(a)) < 2 or len(set(b)) < 2:
        return None
    return float(np.corrcoef(_ranks(a), _ranks(b))[0, 1])


def _ranks(values: Sequence[float]) -> Floats:
    import numpy as np

    _, inverse, counts = np.unique(np.array(values), return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    means: Floats = ends - (counts - 1) / 2
    return means[inverse]
