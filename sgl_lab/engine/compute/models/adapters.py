"""LoRA adapters in PEFT's layout: low-rank products beside the linears of a model, never merged
into its weights.

Hu et al. 2021, arXiv:2106.09685. An adapter belongs to requests: rows of one batch may have
different ones, or none.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Literal, TypeVar, get_args

import torch
from torch import Tensor

from ....contracts.errors import ModelError, ModelMissing
from ...files.small import read_json
from ...files.weights import Checkpoint, fingerprint
from ..kernels.linear import Linear
from .spec import ModelSpec, Part

Group = Literal["qkv", "out", "up", "down"]
"""linears of a layer that are computed as one"""
GROUPS: tuple[Group, ...] = get_args(Group)
_GROUPS: dict[Group, tuple[Part, ...]] = {"qkv": ("q", "k", "v"), "out": ("o",), "up": ("gate", "up"), "down": ("down",)}
_PREFIX = "base_model.model."
_PLAIN: Mapping[str, tuple[object, ...]] = {
    "peft_type": ("LORA",),
    "bias": (None, "none"),
    "modules_to_save": (None, []),
    "use_dora": (None, False),
    "fan_in_fan_out": (None, False),
    "rank_pattern": (None, {}),
    "alpha_pattern": (None, {}),
    "trainable_token_indices": (None,),
    "layer_replication": (None, []),
    "lora_bias": (None, False),
}
"""keys of adapter_config.json with the values that change nothing"""
MAX_RANK = 1024


@dataclass(frozen=True, slots=True)
class LowRank:
    """`up @ (down @ x)` is added to outputs `begin` to `end` of a linear."""

    down: Tensor
    """[rank, n_in]"""
    up: Tensor
    """[end - begin, rank], with the adapter's scale"""
    begin: int
    end: int


@dataclass(frozen=True, slots=True)
class Adapter:
    name: str
    key: str
    """name and fingerprint: KV may be shared only within it"""
    layers: tuple[Mapping[Group, tuple[LowRank, ...]], ...]

    @property
    def n_bytes(self) -> int:
        lows = (low for layer in self.layers for group in layer.values() for low in group)
        return sum(low.down.nbytes + low.up.nbytes for low in lows)


def read_adapter(folder: Path, name: str, spec: ModelSpec, dtype: torch.dtype = torch.float32) -> Adapter:
    """ModelMissing, ModelDamaged; ModelError for what is no plain LoRA or does not fit the model."""
    if not folder.is_dir():
        raise ModelMissing(f"{folder} is not a folder", hint="give the folder that PEFT saved, with adapter_config.json")
    config = read_json(folder / "adapter_config.json")
    for key, plain in _PLAIN.items():
        if config.get(key) not in plain:
            raise ModelError(f"{folder}: {key} = {config.get(key)!r:.60} is not supported", hint="plain LoRA adapters are")
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if type(rank) is not int or not 0 < rank <= MAX_RANK or isinstance(alpha, bool) or not isinstance(alpha, int | float):
        raise ModelError(f"{folder}: r and lora_alpha must be numbers, not {rank!r:.40} and {alpha!r:.40}")
    scale = alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
    checkpoint = Checkpoint(folder)
    with checkpoint:
        stored = set(checkpoint.names)
        expected: dict[str, tuple[int, ...]] = {}
        found = []
        for index in range(len(spec.layers)):
            layer: dict[Group, list[tuple[str, int, int]]] = {}
            for group, module, begin, end, n_in in _modules(spec, index):
                down, up = (f"{_PREFIX}{module}.lora_{side}.weight" for side in "AB")
                if down in stored or up in stored:
                    expected |= {down: (rank, n_in), up: (end - begin, rank)}
                    layer.setdefault(group, []).append((module, begin, end))
            found.append(layer)
        if not expected:
            raise ModelError(f"{folder} has no LoRA weights for a linear of this model", hint="was it made for another architecture?")
        checkpoint.check(expected)

        def read(module: str, begin: int, end: int) -> LowRank:
            down, up = (checkpoint.read(f"{_PREFIX}{module}.lora_{side}.weight", dtype=torch.float32) for side in "AB")
            return LowRank(down.to(dtype), (up * scale).to(dtype), begin, end)

        layers = tuple({group: tuple(read(*one) for one in some) for group, some in layer.items()} for layer in found)
        digest = hashlib.sha256(f"{fingerprint(checkpoint.files)} {scale}".encode()).hexdigest()[:8]
    return Adapter(name, f"{name}@{digest}", layers)


def _modules(spec: ModelSpec, index: int) -> Iterator[tuple[Group, str, int, int, int]]:
    """Each linear of a layer that all tokens pass through: its group, its name, its outputs in the
    group, and its inputs.
    """
    tensors = {tensor.part: tensor for tensor in spec.layers[index].tensors(spec.hidden) if tensor.expert is None}
    for group, parts in _GROUPS.items():
        at = 0
        places: dict[str, tuple[int, int, int]] = {}
        for part in parts:
            if part in tensors:
                (n_out, n_in), name = tensors[part].shape, spec.names.of(index, part)
                begin, _, _ = places.get(name, (at, at, n_in))
                at += n_out
                places[name] = (begin, at, n_in)
        for name, (begin, end, n_in) in places.items():
            yield group, name, begin, end, n_in


def n_outputs(spec: ModelSpec, index: int, group: Group) -> int:
    """Of the layer's linears that are computed as one."""
    tensors = spec.layers[index].tensors(spec.hidden)
    return sum(tensor.shape[0] for tensor in tensors if tensor.part in _GROUPS[group] and tensor.expert is None)


class Adapted:
    """The adapters of a batch: which rows of its tensors have which."""

    def __init__(self, rows: Sequence[tuple[Tensor, Adapter]]) -> None:
        self._rows = rows

    def through(self, layer: int, group: Group, linear: Linear, x: Tensor) -> Tensor:
        """The linear's output for `x`, with the low-rank products of the rows that have an adapter."""
        y, x = linear(x), linear.inputs(x)
        for rows, adapter in self._rows:
            for low in adapter.layers[layer].get(group, ()):
                y[rows, low.begin : low.end] += ((x[rows] @ low.down.T) @ low.up.T).to(y.dtype)
        return y


A = TypeVar("A")


class Loaded(Generic[A]):
    """The adapters of a runner, as it computes them. New requests get the last one of a name."""

    def __init__(self) -> None:
        self.names: Mapping[str, str] = {}
        """name -> key"""
        self.by_key: Mapping[str, A] = {}

    def add(self, adapter: Adapter, computed: A) -> None:
        """From any thread."""
        self.by_key = {**self.by_key, adapter.key: computed}
        self.names = {**self.names, adapter.name: adapter.key}
