"""A Llama whose weights are packed for the native step: from a GGUF's own blocks, or from floats.

What a GGUF stores in 4 or 8 bits with 32 to a group is kept to the bit. Anything else is rounded on
the way. Weights are named as in the Hugging Face layout; those that are multiplied together are one,
under the first one's name, gate and up by turns.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...contracts.errors import ModelError
from ..kernels.linear import Linear
from ..kernels.native.pack import GROUP, Kind, Packed, apart, in_turn, pack, pack_bf16
from ..kernels.native.twin import Bf16Linear, RoundedLinear
from .gguf_file import GgufFile
from .grouped import Groups
from .llama import Llama
from .spec import LlamaSpec
from .weights import Read

KINDS = {"int4": Kind.Q4, "int8": Kind.Q8, "bfloat16": Kind.BF16}
"""dtype -> how the linears inside the layers are stored"""


@dataclass(frozen=True, slots=True)
class PackedLlama:
    """Everything that the native step reads. `dtype` is that of keys and values, `device` the CPU."""

    spec: LlamaSpec
    kind: Kind
    weights: Mapping[str, Packed]
    vectors: Mapping[str, Tensor]
    """norms, float32"""

    @property
    def dtype(self) -> torch.dtype:
        return torch.bfloat16

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    def twin(self) -> Llama:
        """The same model in plain torch, float32 with inputs rounded as the native linears round them."""

        def read(*names: str, dtype: torch.dtype | None = None) -> Tensor:
            if names[0] in self.vectors:
                return self.vectors[names[0]]
            if names[0].endswith(".bias"):
                bias = self.weights[names[0].removesuffix("bias") + "weight"].bias
                found = torch.empty(0) if bias is None else bias
            else:
                found = self.weights[names[0]].floats()
            return apart(found) if ".gate_proj." in names[0] else found

        def linear(names: Sequence[str], bias: Tensor | None) -> Linear:
            return (Bf16Linear if self.kind is Kind.BF16 else RoundedLinear)(read(*names), bias)

        return Llama(self.spec, read, device=self.device, dtype=torch.float32, linear=linear)


def unfit(spec: LlamaSpec) -> str | None:
    """Why the native step cannot compute such a model; None if it can."""
    for name, value in (("hidden_size", spec.hidden), ("intermediate_size", spec.ffn), ("head_dim", spec.head_dim)):
        if value % GROUP:
            return f"{name} {value} is not a multiple of {GROUP}"
    return None


def expect_fit(spec: LlamaSpec) -> None:
    """ModelError unless the model can be packed."""
    if reason := unfit(spec):
        raise ModelError(f"the model cannot be packed: {reason}", hint="use dtype float32")


def pack_llama(
    spec: LlamaSpec, kind: Kind, read: Read, gguf: GgufFile | None = None, loaded: Callable[[int], None] = lambda n_layers: None
) -> PackedLlama:
    """`read` supplies tensors under their Hugging Face names; `gguf` is the file they were unpacked from, if they were. ModelError."""
    expect_fit(spec)
    groups = Groups(spec, read, gguf)
    weights: dict[str, Packed] = {}
    vectors: dict[str, Tensor] = {}

    def vector(name: str) -> None:
        vectors[name] = read(name, dtype=torch.float32)

    def add(*names: str, bias: bool = False, wanted: Kind = kind) -> None:
        def by_turns(rows: Tensor) -> Tensor:
            return in_turn(rows) if ".gate_proj." in names[0] else rows

        offset = by_turns(read(*(name.removesuffix("weight") + "bias" for name in names), dtype=torch.float32)) if bias else None
        if kind is Kind.BF16:
            weights[names[0]] = pack_bf16(by_turns(read(*names, dtype=torch.bfloat16)), offset)
        else:
            weights[names[0]] = pack(groups.of(names, wanted, lambda parts: by_turns(torch.cat(parts))), offset)

    # The largest first: what packing it takes besides is given back before the rest needs the room. Every token passes
    # through them once, and rounding shows there most: 8 bits even where the layers have 4.
    add("model.embed_tokens.weight", wanted=Kind.Q8)
    if not spec.tied:
        add("lm_head.weight", wanted=Kind.Q8)
    for index in range(spec.n_layers):
        prefix = f"model.layers.{index}"
        vector(f"{prefix}.input_layernorm.weight")
        vector(f"{prefix}.post_attention_layernorm.weight")
        add(*(f"{prefix}.self_attn.{name}_proj.weight" for name in "qkv"), bias=spec.attention_bias)
        add(f"{prefix}.self_attn.o_proj.weight", bias=spec.attention_bias)
        add(*(f"{prefix}.mlp.{name}_proj.weight" for name in ("gate", "up")), bias=spec.mlp_bias)
        add(f"{prefix}.mlp.down_proj.weight", bias=spec.mlp_bias)
        loaded(index + 1)
    vector("model.norm.weight")
    return PackedLlama(spec, kind, weights, vectors)
