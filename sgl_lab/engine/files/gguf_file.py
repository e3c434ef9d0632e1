"""Reads a GGUF file that may be damaged or hostile.

Every count, length and offset is compared with the size of the file before it is used, so a mutated
header costs neither time nor memory. Format: ggml's docs/gguf.md, versions 2 and 3, little-endian.
Knows how tensors are stored, not their meaning, and no torch.
"""

from __future__ import annotations

import math
import mmap
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ...contracts.errors import ModelDamaged, ModelError

_MAX_ENTRIES = 16_384
_MAX_TENSORS = 65_536
_MAX_STRINGS = 2_000_000
_MAX_DIMS = 4

_SCALARS = {0: "<u1", 1: "<i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4", 6: "<f4", 7: "?", 10: "<u8", 11: "<i8", 12: "<f8"}
_STRING, _ARRAY = 8, 9


@dataclass(frozen=True, slots=True)
class GgufTensor:
    """`shape` is in torch's order (slowest first); `kind` is the number of ggml's storage type."""

    shape: tuple[int, ...]
    kind: int
    offset: int
    n_bytes: int


class GgufFile:
    """An open GGUF file: `metadata` (arrays of numbers as numpy views, of strings as lists) and
    `tensors` by name.
    """

    def __init__(self, path: Path) -> None:
        try:
            with path.open("rb") as file:
                self._bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except ValueError:
            raise ModelDamaged(f"{path} is empty") from None
        except OSError as error:
            raise ModelError(f"cannot read {path}: {error.strerror}") from None
        self.path = path
        self._at = 0
        self._n_strings = 0
        self.metadata: dict[str, object] = {}
        self.tensors: dict[str, GgufTensor] = {}
        try:
            self._read_header()
        except (struct.error, UnicodeDecodeError) as error:
            raise self._damaged(str(error)) from None

    def raw(self, tensor: GgufTensor) -> npt.NDArray[np.uint8]:
        """The stored bytes of a tensor, a view into the file."""
        return np.frombuffer(self._bytes, np.uint8, tensor.n_bytes, tensor.offset)

    def _damaged(self, what: str) -> ModelDamaged:
        return ModelDamaged(f"{self.path} is damaged at byte {self._at}: {what}", hint="fetch the file again")

    def _take(self, n_bytes: int) -> int:
        """Advance over `n_bytes` that must exist. Returns their beginning."""
        start = self._at
        if not 0 <= n_bytes <= len(self._bytes) - start:
            raise self._damaged(f"{n_bytes} bytes needed, {len(self._bytes) - start} left")
        self._at = start + n_bytes
        return start

    def _number(self, layout: str) -> int:
        return int(struct.unpack_from(layout, self._bytes, self._take(struct.calcsize(layout)))[0])

    def _count(self, layout: str, most: int, what: str) -> int:
        count = self._number(layout)
        if count > most:
            raise self._damaged(f"{count} {what}, at most {most} are possible")
        return count

    def _string(self) -> str:
        self._n_strings += 1
        if self._n_strings > _MAX_STRINGS:
            raise self._damaged(f"more than {_MAX_STRINGS} strings")
        n_bytes = self._number("<Q")
        start = self._take(n_bytes)
        return self._bytes[start : start + n_bytes].decode("utf-8")

    def _strings(self, n: int) -> list[str]:
        """As `_string`, for the hundreds of thousands of a tokenizer."""
        self._n_strings += n
        if self._n_strings > _MAX_STRINGS:
            raise self._damaged(f"more than {_MAX_STRINGS} strings")
        data, end, length_at, found = self._bytes, len(self._bytes), struct.Struct("<Q").unpack_from, list[str]()
        for _ in range(n):
            at = self._at + 8
            n_bytes = length_at(data, self._at)[0] if at <= end else end
            if n_bytes > end - at:
                raise self._damaged(f"a text of {n_bytes} bytes, {max(0, end - at)} left")
            self._at = at + n_bytes
            found.append(data[at : self._at].decode("utf-8"))
        return found

    def _value(self, kind: int) -> object:
        if kind == _STRING:
            return self._string()
        if kind == _ARRAY:
            item = self._number("<I")
            left = len(self._bytes) - self._at
            if item == _STRING:
                return self._strings(self._count("<Q", left // 8, "strings"))
            if item not in _SCALARS:
                raise self._damaged(f"arrays of type {item} are unknown")
            dtype = np.dtype(_SCALARS[item])
            count = self._count("<Q", left // dtype.itemsize, "array items")
            return np.frombuffer(self._bytes, dtype, count, self._take(count * dtype.itemsize))
        if kind not in _SCALARS:
            raise self._damaged(f"value type {kind} is unknown")
        dtype = np.dtype(_SCALARS[kind])
        return np.frombuffer(self._bytes, dtype, 1, self._take(dtype.itemsize))[0].item()

    def _read_header(self) -> None:
        if self._bytes[:4] != b"GGUF":
            raise ModelDamaged(f"{self.path} is not a GGUF file")
        self._at = 4
        version = self._number("<I")
        if version not in (2, 3):
            raise ModelError(f"{self.path}: GGUF version {version} is not supported (2 and 3 are)")
        n_tensors = self._count("<Q", _MAX_TENSORS, "tensors")
        for _ in range(self._count("<Q", _MAX_ENTRIES, "metadata entries")):
            key = self._string()
            if key in self.metadata:
                raise self._damaged(f"metadata entry {key!r:.80} occurs twice")
            self.metadata[key] = self._value(self._number("<I"))
        infos = [self._tensor_info() for _ in range(n_tensors)]
        alignment = self.metadata.get("general.alignment", 32)
        if type(alignment) is not int or not 1 <= alignment <= 1 << 20 or alignment & (alignment - 1):
            raise self._damaged(f"alignment {alignment!r:.40}")
        data = -(-self._at // alignment) * alignment
        for name, shape, kind, offset in infos:
            self.tensors[name] = self._placed(name, shape, kind, data + offset)
        if len(self.tensors) < len(infos):
            raise self._damaged("a tensor is named twice")
        end = data
        for name, tensor in self.tensors.items():
            if tensor.offset != end:
                raise self._damaged(f"tensor {name!r:.80} does not begin where the one before it ends")
            end += -(-tensor.n_bytes // alignment) * alignment

    def _tensor_info(self) -> tuple[str, tuple[int, ...], int, int]:
        name = self._string()
        shape = tuple(self._number("<Q") for _ in range(self._count("<I", _MAX_DIMS, "dimensions")))
        return name, shape[::-1], self._number("<I"), self._number("<Q")

    def _placed(self, name: str, shape: tuple[int, ...], kind: int, offset: int) -> GgufTensor:
        from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

        try:
            block, block_bytes = GGML_QUANT_SIZES[GGMLQuantizationType(kind)]
        except (ValueError, KeyError):
            raise ModelError(f"{self.path}: tensor {name!r:.80} has the unknown storage type {kind}") from None
        row = shape[-1] if shape else 1
        n_bytes = math.prod(shape) // block * block_bytes
        if row % block or offset + n_bytes > len(self._bytes):
            raise self._damaged(f"tensor {name!r:.80} of shape {shape} does not fit into the file")
        return GgufTensor(shape, kind, offset, n_bytes)
