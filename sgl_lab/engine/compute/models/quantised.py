"""Linears that GPTQ (arXiv:2210.17323) or AWQ (arXiv:2306.00978) stored in 4 bits, in a folder of
safetensors.

Both store numbers of 4 bits, eight to an int32, and for each group of inputs of an output a scale
and a zero: weight = scale * (number - zero). Groups of 32 or more are kept as they are in packed
weights; only scale times zero is rounded to a half. GPTQ may deal the inputs to groups in any order
(`desc_act`): such a linear is rounded to 8 bits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

import torch
from torch import Tensor

from ....contracts.errors import ModelDamaged, ModelError
from ...files.weights import Checkpoint
from ..kernels.native.pack import GROUP, Grouped, Kind, quantise
from .config import Config

KEY = "quantization_config"
SIZES = (32, 64, 128)
_HINT = "GPTQ and AWQ in 4 bits are read; or use the original weights or a GGUF file"
_SHIFTS = {"gptq": (0, 4, 8, 12, 16, 20, 24, 28), "awq": (0, 16, 4, 20, 8, 24, 12, 28)}
"""where the numbers of eight neighbours begin in an int32"""


@dataclass(frozen=True, slots=True)
class Scheme:
    """How the numbers are stored."""

    method: Literal["gptq", "awq"]
    group: int
    """inputs of a group; 0 means all"""
    zero_offset: int
    """what a stored zero lacks: GPTQ's first format stores each less one"""


def scheme_of(config: Mapping[str, object], origin: str) -> Scheme | None:
    """None for floats. ModelError for any other way to quantise, and names it."""
    table = config.get(KEY)
    if table is None:
        return None
    given = Config(table if isinstance(table, dict) else {}, f"{origin}, {KEY}")

    def one_of(value: object, what: str, *known: object) -> object:
        if value not in known:
            raise ModelError(f"{origin}: weights quantised with {what} {value!r:.60} are not supported", hint=_HINT)
        return value

    def first(*keys: str) -> object:
        return next((given.get(key) for key in keys if given.get(key) is not None), None)

    method = one_of(first("quant_method"), "quant_method", "gptq", "awq")
    one_of(first("bits", "w_bit"), "bits", 4)
    group = one_of(first("group_size", "q_group_size"), "group_size", *SIZES, -1)
    assert isinstance(group, int)
    if method == "awq":
        one_of(str(first("version") or "gemm").lower(), "version", "gemm")
        one_of(True if first("zero_point") is None else first("zero_point"), "zero_point", True)
        return Scheme("awq", max(group, 0), 0)
    format = one_of(first("checkpoint_format") or "gptq", "checkpoint_format", "gptq", "gptq_v2")
    one_of(first("dynamic") or None, "dynamic", None)
    return Scheme("gptq", max(group, 0), int(format == "gptq"))


class Quantised:
    """`Read` of a checkpoint in which some linears are stored so. Those tensors are taken out of it.

    A context manager, as the checkpoint is.
    """

    def __init__(self, checkpoint: Checkpoint, scheme: Scheme, expected: Mapping[str, tuple[int, ...]]) -> None:
        """`expected` are the shapes of the model's tensors. ModelDamaged if the numbers do not fit
        them.
        """
        self._scheme = scheme
        self._rest = checkpoint
        self._shapes = {name: (shape[0], shape[1]) for name, shape in expected.items() if _part(name, "qweight") in checkpoint}
        if not self._shapes:
            raise ModelDamaged(
                f"{checkpoint.folder}: config.json says {scheme.method}, and no linear is stored so", hint=f"delete {KEY} if it has floats"
            )
        self.unstored = {name: shape for name, shape in expected.items() if name not in self._shapes}
        """the shapes of the other tensors"""
        wanted: dict[str, tuple[int, ...]] = {}
        for name, (n_out, n_in) in self._shapes.items():
            group = scheme.group or n_in
            if n_in % group or n_in % GROUP or n_out % 8:
                raise ModelError(f"{checkpoint.folder}: {name} is {n_out} x {n_in}, not in whole groups of {group}", hint=_HINT)
            across = scheme.method == "gptq"
            wanted[_part(name, "qweight")] = (n_in // 8, n_out) if across else (n_in, n_out // 8)
            wanted[_part(name, "qzeros")] = (n_in // group, n_out // 8)
            wanted[_part(name, "scales")] = (n_in // group, n_out)
            if _part(name, "g_idx") in checkpoint:
                wanted[_part(name, "g_idx")] = (n_in,)
        self._numbers = checkpoint.part({name: name for name in wanted if name in checkpoint})
        self._numbers.check(wanted)
        for name in wanted:
            if self._numbers.is_whole(name) == name.endswith(".scales"):
                raise ModelDamaged(f"{checkpoint.folder}: tensor {name} is stored in a wrong type")

    @property
    def files(self) -> list[Path]:
        return self._rest.files

    def __enter__(self) -> Self:
        self._rest.__enter__()
        self._numbers.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._numbers.__exit__(*error)
        self._rest.__exit__(*error)

    def __call__(self, *names: str, dtype: torch.dtype | None = None) -> Tensor:
        if not any(name in self._shapes for name in names):
            return self._rest.read(*names, dtype=dtype)
        parts = [self._floats(name) if name in self._shapes else self._rest.read(name, dtype=torch.float32) for name in names]
        return torch.cat(parts).to(dtype or torch.float32)

    def grouped(self, name: str) -> Grouped | None:
        """In groups of 32: the numbers as they are stored, or those of `desc_act` in 8 bits. None
        for a tensor of floats.
        """
        if name not in self._shapes:
            return None
        group = self._scheme.group or self._shapes[name][1]
        if self._order(name) is not None:
            return quantise(self._floats(name), Kind.Q8)
        scales = self._scales(name)
        minimums = -scales.float() * self._zeros(name)
        each = group // GROUP
        scales, minimums = (values.T.repeat_interleave(each, 1).half().contiguous() for values in (scales, minimums))
        return Grouped(Kind.Q4, self._quants(name), scales, minimums)

    def _floats(self, name: str) -> Tensor:
        """[n_out, n_in], float32"""
        n_in, order = self._shapes[name][1], self._order(name)
        of = torch.arange(n_in) // (self._scheme.group or n_in) if order is None else order
        scales, zeros = self._scales(name).float(), self._zeros(name)
        return (self._quants(name) - zeros.T[:, of]) * scales.T[:, of]

    def _quants(self, name: str) -> Tensor:
        """uint8 [n_out, n_in]"""
        words = self._numbers.read(_part(name, "qweight"))
        return self._apart(words.T) if self._scheme.method == "gptq" else self._apart(words).T.contiguous()

    def _scales(self, name: str) -> Tensor:
        """[groups, n_out]"""
        return self._numbers.read(_part(name, "scales"))

    def _zeros(self, name: str) -> Tensor:
        """float32 [groups, n_out]"""
        return self._apart(self._numbers.read(_part(name, "qzeros"))).float() + self._scheme.zero_offset

    def _apart(self, words: Tensor) -> Tensor:
        """uint8 [n, 8 * m] of int32 [n, m]"""
        shifts = torch.tensor(_SHIFTS[self._scheme.method], dtype=torch.int32)
        return ((words[..., None] >> shifts) & 15).to(torch.uint8).flatten(1)

    def _order(self, name: str) -> Tensor | None:
        """The group of each input, int64 [n_in]; None if groups are side by side."""
        part = _part(name, "g_idx")
        if part not in self._numbers:
            return None
        n_in, order = self._shapes[name][1], self._numbers.read(part).long()
        group = self._scheme.group or n_in
        if int(order.min()) < 0 or int(order.max()) >= n_in // group:
            raise ModelDamaged(f"{self._rest.folder}: tensor {part} names groups that are not there")
        return None if torch.equal(order, torch.arange(n_in) // group) else order


def _part(name: str, part: str) -> str:
    return f"{name.removesuffix('.weight')}.{part}"
