"""A decoder's forward pass in kernels that write and read pages themselves.

It has the weights and the meaning of `Decoder.forward`, its twin, with another order of sums. Knows
nothing of requests: the caller determines which slots are written and how attention reads them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as functional
from torch import Tensor

from ..kernels.gpu.gate import silu_mul
from ..kernels.gpu.linear import invariant_matmul
from ..kernels.gpu.norm import add_rms_norm, rms_norm
from ..kernels.gpu.rotary import rotate_and_write
from ..kernels.linear import Linear
from .decoder import Decoder
from .device_packed import PackedLinear

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(q [n, heads, dim], a layer's keys and values [slots, kv_heads, dim]) -> [n, heads, dim]"""

Multiply = Callable[[Linear, Tensor], Tensor]


def fast(linear: Linear, x: Tensor) -> Tensor:
    return linear(x)


def invariant(linear: Linear, x: Tensor) -> Tensor:
    """A row of the result depends, to the bit, on that row of `x` alone."""
    return linear.invariant(x) if isinstance(linear, PackedLinear) else invariant_matmul(x, linear.weight, linear.bias)


class DeviceDecoder:
    """`model`, which `executors.GPU` computes and whose linears must not have a CPU layout, up to
    position `n_positions`.
    """

    def __init__(self, model: Decoder, n_positions: int) -> None:
        self.spec = model.spec
        self.device = model.device
        self.dtype = model.dtype
        self._model = model
        self._n_heads = model.spec.only.attention.n_heads
        angles = torch.outer(torch.arange(n_positions, device=model.device).float(), model.frequencies[0])
        self._rotation = angles.cos(), angles.sin()

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
    ) -> Tensor:
        """Write the tokens' keys and values to their slots. Returns the head's input for the
        `needed` tokens [n, hidden].

        All indices are int32 [n]. A slot below 0 is not written; `needed` None means all tokens.
        """
        model, spec = self._model, self.spec
        x = functional.embedding(ids, model.embedding)
        norms = [layer.norms["attention_norm"] for layer in model.layers] + [model.norm]
        y = rms_norm(x, norms[0], spec.norm_eps)
        for layer, next_norm, k, v in zip(model.layers, norms[1:], keys, values, strict=True):
            q = rotate_and_write(multiply(layer.qkv, y), positions, slots, self._rotation, k, v, self._n_heads)
            if needed is not None and layer is model.layers[-1]:
                if not len(needed):
                    return x[:0]
                # Only these continue: other results of the last layer are not read.
                mixed, x = attend(q, k, v).index_select(0, needed), x.index_select(0, needed)
            else:
                mixed = attend(q, k, v)
            y = add_rms_norm(multiply(layer.out, mixed.flatten(1)), x, layer.norms["mlp_norm"], spec.norm_eps)
            (dense,) = layer.dense
            y = add_rms_norm(multiply(dense.down, silu_mul(multiply(dense.up, y))), x, next_norm, spec.norm_eps)
        return y

    def logits(self, y: Tensor, multiply: Multiply) -> Tensor:
        """[n, vocab] in float32, from the result of `forward`."""
        return multiply(self._model.head, y).float()
