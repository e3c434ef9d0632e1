"""LoRA adapters on a GPU: the low-rank products of all rows of a pass are multiplied as those of
experts are, each token's by the one adapter that it has.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..kernels.gpu.experts import assigned, experts_matmul
from .adapters import GROUPS, Adapter, Group, LowRank, n_outputs
from .spec import ModelSpec


class DeviceAdapters:
    """Adapters stacked on a device. It never changes: with one more it is another object."""

    def __init__(self, adapters: Sequence[Adapter], spec: ModelSpec, device: torch.device, dtype: torch.dtype) -> None:
        self.places = {adapter.key: place for place, adapter in enumerate(adapters)}
        self.products: list[dict[Group, tuple[Tensor, Tensor]]] = []
        """of each layer's linears [adapters, ranks, n_in] and [adapters, n_out, ranks]"""
        for index in range(len(spec.layers)):
            layer: dict[Group, tuple[Tensor, Tensor]] = {}
            for group in GROUPS:
                if any(group in adapter.layers[index] for adapter in adapters):
                    stacked = _stacked([adapter.layers[index].get(group, ()) for adapter in adapters], n_outputs(spec, index, group))
                    layer[group] = stacked[0].to(device, dtype), stacked[1].to(device, dtype)
            self.products.append(layer)


def _stacked(adapters: Sequence[Sequence[LowRank]], n_out: int) -> tuple[Tensor, Tensor]:
    """Of one linear. What an adapter has fewer of is zeros."""
    ranks = max(sum(len(low.down) for low in lows) for lows in adapters)
    n_in = next(low.down.shape[1] for lows in adapters for low in lows)
    downs, ups = torch.zeros(len(adapters), ranks, n_in), torch.zeros(len(adapters), n_out, ranks)
    for down, up, lows in zip(downs, ups, adapters, strict=True):
        at = 0
        for low in lows:
            rank = slice(at, at := at + len(low.down))
            down[rank], up[low.begin : low.end, rank] = low.down, low.up
    return downs, ups


class AdaptedTokens:
    """The adapters of a pass. `of` is each token's place among them, int32 [n], or -1."""

    def __init__(self, adapters: DeviceAdapters, of: Tensor) -> None:
        self._adapters = adapters
        self._of = of
        self._routing = assigned(of, len(adapters.places))

    def only(self, needed: Tensor) -> AdaptedTokens:
        return AdaptedTokens(self._adapters, self._of.index_select(0, needed))

    def added(self, index: int, group: Group, x: Tensor, y: Tensor) -> Tensor:
        """`y`, a linear's output for `x`, with the products of the tokens that have an adapter. Bits
        of a token depend on that token alone.
        """
        found = self._adapters.products[index].get(group)
        if found is None:
            return y
        downs, ups = found
        inner = experts_matmul(x, downs, self._routing)  # of the others nothing is written, and nothing read
        return torch.where(self._of[:, None] >= 0, y + experts_matmul(inner, ups, self._routing), y)
