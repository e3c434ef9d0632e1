"""The Llama family's forward pass over a flat batch of tokens.

Rows of different requests lie one after the other; only attention has to tell them apart, and
that is the caller's: `attend` writes keys and values where they belong and reads the context.
Knows nothing of pages, requests or sampling. Numerics follow transformers' `modeling_llama`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as functional
from torch import Tensor

from ..kernels.linear import Linear
from .spec import LlamaSpec, RopeScaling
from .weights import Read

Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]
"""(layer, q [n, heads, dim], k [n, kv_heads, dim], v [n, kv_heads, dim]) -> [n, heads, dim]"""

MakeLinear = Callable[[Sequence[str], Tensor | None], Linear]
"""(names of the weights that are stacked, bias) -> their linear"""


@dataclass(frozen=True, slots=True)
class Layer:
    attention_norm: Tensor
    qkv: Linear
    out: Linear
    mlp_norm: Tensor
    gate_up: Linear
    down: Linear


class Llama:
    """Weights on one device in one type. `read` supplies the tensors under their Hugging Face names; `linear`, where it is
    given, makes linears of some of these in its own way."""

    def __init__(
        self,
        spec: LlamaSpec,
        read: Read,
        *,
        device: torch.device,
        dtype: torch.dtype,
        linear: MakeLinear | None = None,
        loaded: Callable[[int], None] = lambda n_layers: None,
    ) -> None:
        self.spec = spec
        self.device = device
        self.dtype = dtype

        def own(*names: str) -> Tensor:
            return read(*names, dtype=dtype).to(device)

        def plain(names: Sequence[str], bias: Tensor | None) -> Linear:
            return Linear(own(*names), bias)

        make = linear or plain

        def joined(prefix: str, *names: str, bias: bool) -> Linear:
            offset = own(*(f"{prefix}.{name}.bias" for name in names)) if bias else None
            return make([f"{prefix}.{name}.weight" for name in names], offset)

        def layer(index: int) -> Layer:
            prefix = f"model.layers.{index}"
            attention, mlp = f"{prefix}.self_attn", f"{prefix}.mlp"
            made = Layer(
                attention_norm=own(f"{prefix}.input_layernorm.weight"),
                qkv=joined(attention, "q_proj", "k_proj", "v_proj", bias=spec.attention_bias),
                out=joined(attention, "o_proj", bias=spec.attention_bias),
                mlp_norm=own(f"{prefix}.post_attention_layernorm.weight"),
                gate_up=joined(mlp, "gate_proj", "up_proj", bias=spec.mlp_bias),
                down=joined(mlp, "down_proj", bias=spec.mlp_bias),
            )
            loaded(index + 1)
            return made

        with torch.inference_mode():
            # The largest first: what making it takes besides is given back before the rest needs the room.
            self.head = make(["model.embed_tokens.weight" if spec.tied else "lm_head.weight"], None)
            self.embedding = own("model.embed_tokens.weight")
            self.layers = [layer(index) for index in range(spec.n_layers)]
            self.norm = own("model.norm.weight")
            self.frequencies = inverse_frequencies(spec).to(device)

    @property
    def n_bytes(self) -> int:
        """Of the weights."""
        linears = [linear for layer in self.layers for linear in (layer.qkv, layer.out, layer.gate_up, layer.down)]
        norms = [norm for layer in self.layers for norm in (layer.attention_norm, layer.mlp_norm)]
        return sum(linear.n_bytes for linear in (*linears, self.head)) + sum(x.nbytes for x in (*norms, self.norm, self.embedding))

    def forward(self, ids: Tensor, positions: Tensor, attend: Attend) -> Tensor:
        """Hidden states [n, hidden] after the last layer, before the final norm. `ids` and `positions` are int64 [n]."""
        spec = self.spec
        n_q, n_kv = spec.n_heads, spec.n_kv_heads
        cos, sin = self._rotation(positions)
        x = self.embedding[ids]
        for index, layer in enumerate(self.layers):
            heads = layer.qkv(self._rms(x, layer.attention_norm)).view(len(ids), n_q + 2 * n_kv, spec.head_dim)
            qk = _rotate(heads[:, : n_q + n_kv], cos, sin)
            mixed = attend(index, qk[:, :n_q], qk[:, n_q:], heads[:, n_q + n_kv :])
            x = x + layer.out(mixed.reshape(len(ids), n_q * spec.head_dim))
            gate, up = layer.gate_up(self._rms(x, layer.mlp_norm)).chunk(2, dim=-1)
            x = x + layer.down(functional.silu(gate) * up)
        return x

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits [m, vocab] in float32 of the chosen rows of `forward`'s result."""
        return self.head(self._rms(hidden, self.norm)).float()

    def _rms(self, x: Tensor, weight: Tensor) -> Tensor:
        return functional.rms_norm(x, (x.shape[-1],), weight, self.spec.norm_eps)

    def _rotation(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines, and sines with the sign that the first half of a head takes, [n, 1, dim] each."""
        angles = torch.outer(positions.float(), self.frequencies)
        sin = angles.sin()
        cos = torch.cat((angles, angles), dim=-1).cos()
        return cos.to(self.dtype)[:, None], torch.cat((-sin, sin), dim=-1).to(self.dtype)[:, None]


def _rotate(heads: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary position embedding of the two halves of each head (Su et al. 2021, arXiv:2104.09864)."""
    return torch.addcmul(heads * cos, heads.roll(heads.shape[-1] // 2, dims=-1), sin)


def inverse_frequencies(spec: LlamaSpec) -> Tensor:
    """Angle per position of each pair of dimensions, float32 [head_dim / 2]."""
    exponents = torch.arange(0, spec.head_dim, 2, dtype=torch.int64).float() / spec.head_dim
    frequencies = 1.0 / spec.rope_theta**exponents
    match spec.rope_scaling:
        case None:
            return frequencies
        case RopeScaling(kind="linear", factor=factor):
            return frequencies / factor
        case RopeScaling(kind="longrope", divisors=divisors):
            return frequencies / torch.tensor(divisors)
        case scaling:
            return _llama3(frequencies, scaling)


def _llama3(frequencies: Tensor, scaling: RopeScaling) -> Tensor:
    """Slow frequencies divided by the factor, fast ones kept, a ramp between (Llama 3.1)."""
    turns = scaling.original_context * frequencies / (2 * math.pi)
    ramp = ((turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)).clamp(0, 1)
    return frequencies * (ramp + (1 - ramp) / scaling.factor)
