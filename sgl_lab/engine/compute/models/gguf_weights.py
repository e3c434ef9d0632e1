"""The weights of a GGUF file under their Hugging Face names, read from the file itself.

They are dequantised exactly as ggml defines it (`gguf.quants`); what an architecture stores in
another way is undone (`architectures`).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ....contracts.errors import ModelDamaged, ModelError
from ...files.gguf_file import GgufFile
from .architectures import Stored, rows_of, stored_tensors
from .spec import ModelSpec

KEPT = {0: ("F32", 4), 1: ("F16", 2), 30: ("BF16", 2)}
"""ggml's unquantised types are read as they are; every other becomes F32."""
_TYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}

_CHUNK_BYTES = 8 << 20


def wanted(gguf: GgufFile, spec: ModelSpec) -> dict[str, Stored]:
    """The file's tensors under their Hugging Face names, exactly those the spec asks for, in its
    shapes. ModelError, ModelDamaged.
    """
    expected, found = spec.tensors(), stored_tensors(gguf, spec)
    for name, shape in expected.items():
        if name not in found:
            raise ModelDamaged(f"{gguf.path}: tensor {name} is missing")
        tensor = found[name].tensor
        if tensor.shape != shape:
            raise ModelDamaged(f"{gguf.path}: tensor {name} has shape {tensor.shape}, the metadata say {shape}")
        if len(shape) == 1 and tensor.kind not in KEPT:
            raise ModelError(f"{gguf.path}: tensor {name} is a row stored as type {tensor.kind}, not as F32, F16 or BF16")
    return {name: found[name] for name in expected}


def stored_type(stored: Stored) -> tuple[str, int]:
    """The type in which its values are read, with the bytes of each."""
    return ("F32", 4) if stored.offset else KEPT.get(stored.tensor.kind, ("F32", 4))


def values(gguf: GgufFile, stored: Stored) -> Iterator[npt.NDArray[np.generic]]:
    """The tensor's values in chunks of rows: bytes of a kept type, or numbers. ModelError for a
    type that cannot be read.
    """
    from gguf.constants import GGMLQuantizationType
    from gguf.quants import dequantize

    rows, kind = rows_of(gguf, stored), stored.tensor.kind
    step = max(1, _CHUNK_BYTES // rows.shape[1])
    for start in range(0, len(rows), step):
        chunk: npt.NDArray[np.generic] = rows[start : start + step]
        if kind not in KEPT or stored.offset:
            try:
                chunk = (dequantize(chunk, GGMLQuantizationType(kind)) - np.float32(stored.offset)).astype("<f4", copy=False)
            except NotImplementedError as error:
                raise ModelError(f"{gguf.path}: {error}", hint="use another quantisation of the model") from None
        yield np.ascontiguousarray(chunk)


class GgufWeights:
    """`read` as `weights.Read`."""

    def __init__(self, gguf: GgufFile, spec: ModelSpec) -> None:
        self._gguf = gguf
        self._stored = wanted(gguf, spec)

    def read(self, *names: str, dtype: torch.dtype | None = None) -> Tensor:
        stored = [self._stored[name] for name in names]
        types = {_TYPES[stored_type(one)[0]] for one in stored}
        dtype = dtype or (types.pop() if len(types) == 1 else torch.float32)
        shape = stored[0].tensor.shape[1:]
        whole = torch.empty((sum(one.tensor.shape[0] for one in stored), *shape), dtype=dtype)
        flat, at = whole.view(-1), 0
        for one in stored:
            for chunk in values(self._gguf, one):
                numbers = torch.from_numpy(chunk if chunk.flags.writeable else chunk.copy()).view(-1).view(_TYPES[stored_type(one)[0]])
                flat[at : at + len(numbers)] = numbers
                at += len(numbers)
        return whole
