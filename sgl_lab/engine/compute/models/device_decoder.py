"""A decoder's forward pass in kernels that write and read pages themselves.

It has the weights and the meaning of `Decoder.forward`, its twin, with another order of sums. Knows
nothing of requests: the caller determines which slots are written and how attention reads them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as functional
from torch import Tensor

from ..kernels.gpu.experts import combine, experts_matmul, route
from ..kernels.gpu.gate import activate
from ..kernels.gpu.linear import invariant_matmul
from ..kernels.gpu.norm import add_rms_norm, rms_norm
from ..kernels.gpu.rotary import rotate_and_write
from ..kernels.linear import Linear
from .adapters import Group
from .decoder import Decoder, Layer, capped
from .device_adapters import AdaptedTokens
from .device_packed import PackedLinear
from .mixture import Dense, Mixture
from .spec import Norm

Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]
"""(layer, q [n, heads, dim], its keys and values [slots, kv_heads, dim]) -> [n, heads, dim]"""

Multiply = Callable[[Linear, Tensor], Tensor]
Through = Callable[[int, Group, Linear, Tensor], Tensor]
"""`Multiply` a layer's linear, with what adapters add"""


def fast(linear: Linear, x: Tensor) -> Tensor:
    return linear(x)


def invariant(linear: Linear, x: Tensor) -> Tensor:
    """A row of the result depends, to the bit, on that row of `x` alone."""
    return linear.invariant(x) if isinstance(linear, PackedLinear) else invariant_matmul(x, linear.weight, linear.bias)


def _stacked(mixture: Mixture) -> tuple[Linear, Tensor, Tensor]:
    """The router with that of the shared expert, and the experts' weights [experts, n_out, n_in],
    of which theirs become parts.
    """
    routers = [mixture.router] if mixture.shared_router is None else [mixture.router, mixture.shared_router]
    ups, downs = (torch.stack([linear.weight for linear in some]) for some in zip(*((e.up, e.down) for e in mixture.experts), strict=True))
    for expert, up, down in zip(mixture.experts, ups, downs, strict=True):
        expert.up.weight, expert.down.weight = up, down
    return Linear(torch.cat(routers), pack=False), ups, downs


class DeviceDecoder:
    """`model`, which `executors.GPU` computes and whose linears must not have a CPU layout, up to
    position `n_positions`.
    """

    def __init__(self, model: Decoder, n_positions: int) -> None:
        self.spec = model.spec
        self.device = model.device
        self.dtype = model.dtype
        self._model = model
        positions = torch.arange(n_positions, device=model.device).float()
        turns = [torch.outer(positions, frequencies) for frequencies in model.frequencies]
        self._rotations = [
            (angles.cos() * amplitude, angles.sin() * amplitude) for angles, amplitude in zip(turns, model.amplitudes, strict=True)
        ]
        self._experts = {
            index: _stacked(layer.feed_forward) for index, layer in enumerate(model.layers) if isinstance(layer.feed_forward, Mixture)
        }
        nothing = torch.empty(n_positions, 0, device=model.device)
        self._still = nothing, nothing

    def forward(
        self,
        ids: Tensor,
        positions: Tensor,
        slots: Tensor,
        needed: Tensor | None,
        keys: Sequence[Tensor],
        values: Sequence[Tensor],
        attend: Attend,
        multiply: Multiply,
        adapted: AdaptedTokens | None = None,
    ) -> Tensor:
        """Write the tokens' keys and values to their slots. Returns the head's input for the
        `needed` tokens [n, hidden].

        All indices are int32 [n]. A slot below 0 is not written; `needed` None means all tokens.
        `adapted` are the tokens' adapters.
        """
        model, spec = self._model, self.spec

        def through(index: int, group: Group, linear: Linear, x: Tensor) -> Tensor:
            y = multiply(linear, x)
            return y if adapted is None else adapted.added(index, group, x, y)

        x = functional.embedding(ids, model.embedding)
        if spec.embedding_scale != 1:
            x = x * torch.tensor(spec.embedding_scale, dtype=x.dtype)
        y = self._normed(x, model.layers[0], "attention_norm")
        for index, (layer, k, v) in enumerate(zip(model.layers, keys, values, strict=True)):
            q = self._queries(index, layer, through(index, "qkv", layer.qkv, y), positions, slots, k, v)
            is_last = layer is model.layers[-1]
            if needed is not None and is_last:
                if not len(needed):
                    return x[:0]
                # Only these continue: other results of the last layer are not read.
                mixed, x = attend(index, q, k, v).index_select(0, needed), x.index_select(0, needed)
                adapted = None if adapted is None else adapted.only(needed)
            else:
                mixed = attend(index, q, k, v)
            z = self._normed(through(index, "out", layer.out, mixed.flatten(1)), layer, "attention_out_norm")
            y = self._added(z, x, layer.norms.get("mlp_norm"))
            z = self._normed(self._feed_forward(index, layer, y, multiply, through), layer, "mlp_out_norm")
            y = self._added(z, x, model.norm if is_last else model.layers[index + 1].norms.get("attention_norm"))
        return y

    def _feed_forward(self, index: int, layer: Layer, y: Tensor, multiply: Multiply, through: Through) -> Tensor:
        kind, mixture = self.spec.layers[index].feed_forward, layer.feed_forward

        def active(x: Tensor) -> Tensor:
            return activate(x, kind.activation, is_gated=kind.is_gated)

        if isinstance(mixture, Dense):
            return through(index, "down", mixture.down, active(through(index, "up", mixture.up, y)))
        router, ups, downs = self._experts[index]
        scores = multiply(router, y)
        count = mixture.kind.count
        routing = route(scores[:, :count].contiguous(), mixture.kind.top_k, is_normalised=mixture.kind.is_normalised)
        z = combine(experts_matmul(active(experts_matmul(y, ups, routing)), downs, routing), routing)
        if mixture.shared is not None:
            z += scores[:, count:].sigmoid() * multiply(mixture.shared.down, active(multiply(mixture.shared.up, y)))
        return z

    def _normed(self, x: Tensor, layer: Layer, norm: Norm) -> Tensor:
        weight = layer.norms.get(norm)
        return x if weight is None else rms_norm(x, weight, self.spec.norm_eps)

    def _added(self, z: Tensor, x: Tensor, norm: Tensor | None) -> Tensor:
        """x += z in place; returns what the next linear reads of x."""
        if self.spec.residual_scale != 1:
            z = z * self.spec.residual_scale
        if norm is not None:
            return add_rms_norm(z, x, norm, self.spec.norm_eps)
        x += z
        return x

    def _queries(self, index: int, layer: Layer, qkv: Tensor, positions: Tensor, slots: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """The turned queries; keys and values are written."""
        kind, eps = self.spec.layers[index].attention, self.spec.norm_eps
        of_heads = None
        if layer.qk_norms is not None and kind.qk_norm == "head":
            of_heads = (*layer.qk_norms, eps)
        elif layer.qk_norms is not None:
            n_q, n_kv = kind.n_heads * kind.head_dim, kind.n_kv_heads * kind.head_dim
            q, k, v = (part.contiguous() for part in torch.split(qkv, [n_q, n_kv, n_kv], dim=-1))
            qkv = torch.cat((rms_norm(q, layer.qk_norms[0], eps), rms_norm(k, layer.qk_norms[1], eps), v), dim=-1)
        rotation = self._still if layer.rotary is None else self._rotations[layer.rotary]
        return rotate_and_write(qkv, positions, slots, rotation, keys, values, kind.n_heads, of_heads)

    def logits(self, y: Tensor, multiply: Multiply) -> Tensor:
        """[n, vocab] in float32, from the result of `forward`."""
        logits = multiply(self._model.head, y).float()
        if self.spec.logit_scale != 1:
            logits = logits * self.spec.logit_scale
        return logits if self.spec.logit_softcap is None else capped(logits, self.spec.logit_softcap)
