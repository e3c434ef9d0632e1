"""A packed model as the native step reads it: structures with addresses of what Python keeps."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor

from ..kernels.native import build
from ..kernels.native.pack import GROUP, Kind, in_turn
from ..models.adapters import GROUPS, Adapter, Group, LowRank, n_outputs
from ..models.packed import PackedDecoder, feed_forwards
from ..models.rotation import inverse_frequencies
from ..models.spec import Activation, Layer, ModelSpec, Norm, Part
from .kv import KvStore

_ACTIVATIONS: tuple[Activation, ...] = ("silu", "gelu", "gelu_tanh", "relu", "relu2")
"""in the order of `rows.hpp`"""


class Described:
    """`model`, whose addresses are valid while this object, the packed model and its store live."""

    def __init__(self, packed: PackedDecoder, kv: KvStore) -> None:
        self._packed = packed
        self._kv = kv
        self._kept: list[object] = []
        spec = packed.spec
        rotaries = list(dict.fromkeys(layer.attention.rotary for layer in spec.layers if layer.attention.rotary is not None))
        rotations = [
            build.Rotation(self._address(inverse_frequencies(rotary).contiguous()), rotary.dims, rotary.amplitude) for rotary in rotaries
        ]
        self._turning = {None: -1} | {rotary: index for index, rotary in enumerate(rotaries)}
        dense = [layer.feed_forward.width for layer in spec.layers if layer.feed_forward.experts is None]
        self.model = build.Model(
            len(spec.layers),
            spec.hidden,
            dense[0] if dense else 0,
            spec.vocab,
            len(rotations),
            packed.kind is Kind.BF16,
            spec.norm_eps,
            spec.embedding_scale,
            spec.residual_scale,
            spec.logit_scale,
            spec.logit_softcap or 0.0,
            0,
            (build.Rotation * len(rotations))(*rotations),
            self._norm(spec.norm_name),
            packed.weights[spec.embedding_name].pointer(),
            packed.weights[spec.head_name].pointer(),
            (build.Layer * len(spec.layers))(*(self._layer(index, layer) for index, layer in enumerate(spec.layers))),
        )

    def _address(self, tensor: Tensor) -> int:
        self._kept.append(tensor)
        return tensor.data_ptr()

    def _norm(self, name: str) -> int:
        weight, offset = self._packed.vectors[name], self._packed.spec.norm_offset
        return self._address(weight + offset if offset else weight)

    def _name(self, index: int, part: Part, expert: int | None = None) -> str:
        return self._packed.spec.names.of(index, part, expert) + ".weight"

    def _weight(self, index: int, part: Part, expert: int | None = None) -> build.Weight:
        return self._packed.weights[self._name(index, part, expert)].pointer()

    def _layer(self, index: int, layer: Layer) -> build.Layer:
        attention, feed_forward = layer.attention, layer.feed_forward
        norms: tuple[Norm, ...] = ("attention_norm", "attention_out_norm", "mlp_norm", "mlp_out_norm")
        of_heads: tuple[Part, ...] = ("q_norm", "k_norm")
        experts = None if feed_forward.experts is None else self._experts(index, layer)
        (first, *_), last, _ = next(feed_forwards(layer))
        scale = attention.head_dim**-0.5 if attention.scale is None else attention.scale
        return build.Layer(
            *(self._norm(self._name(index, norm)) if norm in layer.norms else None for norm in norms),
            *(self._norm(self._name(index, norm)) if attention.qk_norm else None for norm in of_heads),
            self._weight(index, "q"),
            self._weight(index, "o"),
            *((self._weight(index, first), self._weight(index, last)) if experts is None else (build.Weight(), build.Weight())),
            build.Pages(self._kv.keys[index].data_ptr(), self._kv.values[index].data_ptr()),
            build.Shape(
                attention.n_heads,
                attention.n_kv_heads,
                attention.head_dim,
                self._kv.page_size,
                attention.window or 0,
                scale,
                attention.softcap or 0.0,
            ),
            attention.qk_norm == "whole",
            self._turning[attention.rotary],
            _ACTIVATIONS.index(feed_forward.activation),
            feed_forward.is_gated,
            None if experts is None else ctypes.pointer(experts),
        )

    def _experts(self, index: int, layer: Layer) -> build.Experts:
        kind = layer.feed_forward.experts
        assert kind is not None
        routers: Sequence[Part] = ("router", "shared_router") if kind.shared else ("router",)
        router = torch.cat([self._packed.vectors[self._name(index, part)] for part in routers])
        linears = [(self._weight(index, ups[0], expert), self._weight(index, down, expert)) for ups, down, expert in feed_forwards(layer)]
        up, down = ((build.Weight * len(linears))(*some) for some in zip(*linears, strict=True))
        experts = build.Experts(kind.count, kind.top_k, kind.shared > 0, kind.is_normalised, self._address(router), up, down)
        self._kept += [up, down, experts]
        return experts


class DescribedAdapter:
    """`products` of each layer's linears, in the order of `GROUPS`. Their addresses are valid while
    this object lives.
    """

    def __init__(self, adapter: Adapter, spec: ModelSpec) -> None:
        self._kept: list[Tensor] = []
        found = [
            self._product(spec, index, group, layer.get(group, ())) for index, layer in enumerate(adapter.layers) for group in GROUPS
        ]
        self.products = (build.LowRank * len(found))(*found)

    def _product(self, spec: ModelSpec, index: int, group: Group, lows: Sequence[LowRank]) -> build.LowRank:
        if not lows:
            return build.LowRank()
        rank, n_out = len(lows[0].down), n_outputs(spec, index, group)
        up, begins = torch.zeros(n_out, rank), torch.full((n_out,), -1, dtype=torch.int32)
        for number, low in enumerate(lows):
            up[low.begin : low.end], begins[low.begin : low.end] = low.up, number * rank
        if group == "up" and spec.layers[index].feed_forward.is_gated:
            up, begins = in_turn(up), in_turn(begins)
        kept = [
            torch.cat([low.down for low in lows]),
            up.view(-1, GROUP, rank).transpose(1, 2).contiguous(),
            begins[::GROUP].contiguous(),
        ]
        self._kept += kept
        return build.LowRank(*(tensor.data_ptr() for tensor in kept), len(lows) * rank, rank)
