"""A Llama whose weights are packed for the native step: from a GGUF's own blocks, or from floats.

What a GGUF stores in 4 or 8 bits with 32 to a group is kept to the bit. Anything else is rounded on
the way. Weights are named as in the Hugging Face layout; those that are multiplied together are one,
under the first one's name, gate and up by turns.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ...contracts.errors import ModelError
from ..kernels.linear import Linear
from ..kernels.native.pack import GROUP, Grouped, Kind, Packed, apart, in_turn, pack, pack_bf16, quantise
from ..kernels.native.twin import Bf16Linear, RoundedLinear
from .gguf_file import GgufFile, GgufTensor
from .llama import Llama
from .spec import LlamaSpec

KINDS = {"int4": Kind.Q4, "int8": Kind.Q8, "bfloat16": Kind.BF16}
"""dtype -> how the linears inside the layers are stored"""

Floats = Callable[[str], Tensor]
"""name -> that tensor as floats"""


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

        def read(*names: str) -> Tensor:
            if names[0] in self.vectors:
                return self.vectors[names[0]]
            if names[0].endswith(".bias"):
                bias = self.weights[names[0].removesuffix("bias") + "weight"].bias
                found = torch.empty(0) if bias is None else bias
            else:
                found = self.weights[names[0]].floats()
            return apart(found) if ".gate_proj." in names[0] else found

        linear: type[Linear] = Bf16Linear if self.kind is Kind.BF16 else RoundedLinear
        return Llama(self.spec, read, device=self.device, dtype=torch.float32, linear=linear)


def unfit(spec: LlamaSpec) -> str | None:
    """Why the native step cannot compute such a model; None if it can."""
    for name, value in (("hidden_size", spec.hidden), ("intermediate_size", spec.ffn), ("head_dim", spec.head_dim)):
        if value % GROUP:
            return f"{name} {value} is not a multiple of {GROUP}"
    return None


def kept_dtype(gguf: GgufFile | None) -> str:
    """What a file's layers are kept in: its own blocks of 4 or 8 bits, 8 bits for those quantised otherwise, else bfloat16."""
    tensors = {} if gguf is None else _stored(gguf)
    kinds = {tensor.kind for name, tensor in tensors.items() if name.endswith("_proj.weight")} - _FLOATS
    if not kinds:
        return "bfloat16"
    return "int4" if kinds <= _GROUPED.keys() and kinds & _FOUR_BITS else "int8"


def pack_llama(
    spec: LlamaSpec, kind: Kind, floats: Floats, gguf: GgufFile | None = None, loaded: Callable[[int], None] = lambda n_layers: None
) -> PackedLlama:
    """`floats` supplies tensors under their Hugging Face names; `gguf` is the file they were unpacked from, if they were. ModelError."""
    if reason := unfit(spec):
        raise ModelError(f"the model cannot be packed: {reason}", hint="use dtype float32")
    stored = {} if gguf is None else _stored(gguf)
    weights: dict[str, Packed] = {}
    vectors: dict[str, Tensor] = {}

    def grouped(name: str, wanted: Kind) -> Grouped:
        """As the file stores it, if it does so in groups of 32; else rounded to `wanted`."""
        if gguf is not None and name in stored and stored[name].kind in _GROUPED:
            tensor = stored[name]
            heads = spec.n_heads if ".q_proj." in name else spec.n_kv_heads if ".k_proj." in name else None
            return _GROUPED[tensor.kind](gguf_rows(gguf, tensor, heads))
        return quantise(floats(name), wanted)

    def add(*names: str, bias: bool = False, wanted: Kind = kind) -> None:
        def joined(parts: list[Tensor]) -> Tensor:
            return in_turn(torch.cat(parts)) if ".gate_proj." in names[0] else torch.cat(parts)

        offset = joined([floats(name.removesuffix("weight") + "bias").float() for name in names]) if bias else None
        if kind is Kind.BF16:
            weights[names[0]] = pack_bf16(joined([floats(name).to(torch.bfloat16) for name in names]), offset)
            return
        parts = [grouped(name, wanted) for name in names]
        most = max(part.kind for part in parts) if wanted is Kind.Q4 else Kind.Q8
        parts = [part if part.kind is most else quantise(part.floats(), most) for part in parts]
        minimums = [part.minimums for part in parts if part.minimums is not None]
        quants, scales = joined([part.quants for part in parts]), joined([part.scales for part in parts])
        weights[names[0]] = pack(Grouped(most, quants, scales, joined(minimums) if minimums else None), offset)

    for index in range(spec.n_layers):
        prefix = f"model.layers.{index}"
        for norm in ("input_layernorm", "post_attention_layernorm"):
            vectors[f"{prefix}.{norm}.weight"] = floats(f"{prefix}.{norm}.weight").float().clone()
        add(*(f"{prefix}.self_attn.{name}_proj.weight" for name in "qkv"), bias=spec.attention_bias)
        add(f"{prefix}.self_attn.o_proj.weight", bias=spec.attention_bias)
        add(*(f"{prefix}.mlp.{name}_proj.weight" for name in ("gate", "up")), bias=spec.mlp_bias)
        add(f"{prefix}.mlp.down_proj.weight", bias=spec.mlp_bias)
        loaded(index + 1)
    # Every token passes through them once, and rounding shows there most: 8 bits even where the layers have 4.
    add("model.embed_tokens.weight", wanted=Kind.Q8)
    if not spec.tied:
        add("lm_head.weight", wanted=Kind.Q8)
    vectors["model.norm.weight"] = floats("model.norm.weight").float().clone()
    return PackedLlama(spec, kind, weights, vectors)


# ------------------------------------------------------------ ggml's blocks of 32


def _stored(gguf: GgufFile) -> dict[str, GgufTensor]:
    from .convert import hugging_face_name

    return {name: tensor for stored, tensor in gguf.tensors.items() if (name := hugging_face_name(stored)) is not None}


def gguf_rows(gguf: GgufFile, tensor: GgufTensor, heads: int | None) -> npt.NDArray[np.uint8]:
    """The blocks of a tensor [n_out, n_in / 32, bytes], rotated heads in the Hugging Face order."""
    from .convert import row_order

    rows = gguf.raw(tensor).reshape(tensor.shape[0], tensor.shape[1] // GROUP, -1)
    return rows if heads is None else rows[row_order(len(rows), heads)]


def _halves(blocks: npt.NDArray[np.uint8], at: int) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(blocks[..., at : at + 2])).view(torch.float16)[..., 0]


def _nibbles(blocks: npt.NDArray[np.uint8], at: int) -> Tensor:
    both = torch.from_numpy(np.ascontiguousarray(blocks[..., at:]))
    return torch.cat((both & 15, both >> 4), -1).flatten(1)


def _q4_0(blocks: npt.NDArray[np.uint8]) -> Grouped:
    scales = _halves(blocks, 0)
    return Grouped(Kind.Q4, _nibbles(blocks, 2), scales, -8 * scales)


def _q4_1(blocks: npt.NDArray[np.uint8]) -> Grouped:
    return Grouped(Kind.Q4, _nibbles(blocks, 4), _halves(blocks, 0), _halves(blocks, 2))


def _q8_0(blocks: npt.NDArray[np.uint8]) -> Grouped:
    return Grouped(Kind.Q8, torch.from_numpy(np.ascontiguousarray(blocks[..., 2:])).view(torch.int8).flatten(1), _halves(blocks, 0))


_GROUPED: dict[int, Callable[[npt.NDArray[Any]], Grouped]] = {2: _q4_0, 3: _q4_1, 8: _q8_0}
"""by the number of ggml's storage type"""
_FOUR_BITS = {2, 3}
_FLOATS = {0, 1, 30}
"""F32, F16, BF16"""
