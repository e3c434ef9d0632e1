"""The experts that a step's tokens passed through, as a runner reports them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from ....contracts.events import FIRST_EXPERT
from ...plan import Routing, Row, RowOutput
from ..models.spec import ModelSpec


def routing_of(spec: ModelSpec) -> Routing | None:
    """Where the model has experts; None if it has none, or not the same number everywhere."""
    layers = tuple(index for index, layer in enumerate(spec.layers) if layer.feed_forward.experts is not None)
    kinds = {(kind.count, kind.top_k) for layer in spec.layers if (kind := layer.feed_forward.experts) is not None}
    return Routing(layers, *next(iter(kinds))) if len(kinds) == 1 else None


def with_experts(
    rows: Sequence[Row], outputs: Sequence[RowOutput], chosen: npt.NDArray[np.integer], begins: Iterable[int]
) -> tuple[RowOutput, ...]:
    """The outputs with the experts of the rows' tokens, `chosen` [tokens of all rows, layers,
    top_k], where those of each row begin at `begins`; rejected drafts have none.
    """
    n_each = chosen[0].size
    text = (chosen.reshape(-1).astype("<u4") + FIRST_EXPERT).tobytes().decode("utf-32-le")
    noted = []
    for row, output, begin in zip(rows, outputs, begins, strict=True):
        n_kept = len(row.tokens) - row.n_drafts + max(0, len(output.draws) - 1)
        noted.append(replace(output, experts=text[begin * n_each : (begin + n_kept) * n_each]) if output.error is None else output)
    return tuple(noted)
