"""Feed-forwards: a dense one, and one of sparse experts, of which a router chooses some for each token."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as functional
from torch import Tensor

from ..kernels.linear import Linear
from .spec import Experts

FEW = 16
"""So many tokens pass together through every expert that one of them has chosen: its weights are
what takes time. The shape of each product then depends on the number of tokens alone, so that equal
tiles of tokens give equal bits (`runners.exact`).
"""


@dataclass(frozen=True, slots=True)
class Dense:
    """`up` combines gate and up if there is a gate."""

    up: Linear
    down: Linear
    active: Callable[[Tensor], Tensor]
    """from the result of `up` to the input of `down`"""

    def __call__(self, x: Tensor) -> Tensor:
        return self.down(self.active(self.up(x)))


@dataclass(frozen=True, slots=True)
class Mixture:
    """The outputs of the experts that a token passes through are summed."""

    kind: Experts
    router: Tensor
    """[count, hidden]"""
    experts: list[Dense]
    shared_router: Tensor | None
    """[1, hidden]"""
    shared: Dense | None

    def __call__(self, x: Tensor, routed: list[Tensor] | None = None) -> Tensor:
        """[n, hidden] of [n, hidden]; the experts of a token are summed in the order of their numbers.

        `routed` receives what was chosen, int64 [n, top_k], the largest weight first.
        """
        weights, chosen = choose(x, self.router, self.kind)
        if routed is not None:
            routed.append(chosen)
        y = torch.zeros_like(x)
        for number in sorted({*chosen.flatten().tolist()}):
            hits = chosen == number
            weight = (weights * hits).sum(-1, keepdim=True).to(x.dtype)
            mine = hits.any(-1)
            if len(x) <= FEW:
                y = torch.where(mine[:, None], y + self.experts[number](x) * weight, y)
            else:
                at = mine.nonzero()[:, 0]
                y.index_add_(0, at, self.experts[number](x[at]) * weight[at])
        if self.shared is not None and self.shared_router is not None:
            y = y + functional.linear(x, self.shared_router).sigmoid() * self.shared(x)
        return y


def choose(x: Tensor, router: Tensor, kind: Experts) -> tuple[Tensor, Tensor]:
    """The weights and numbers of the experts of each token, float32 and int64 [n, top_k]."""
    weights, chosen = functional.linear(x, router).softmax(-1, dtype=torch.float32).topk(kind.top_k, dim=-1)
    return weights / weights.sum(-1, keepdim=True) if kind.is_normalised else weights, chosen
