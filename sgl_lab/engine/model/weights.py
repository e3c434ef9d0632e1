"""Tensors of a folder of safetensors files, found and checked before any is touched.

Only safetensors are read: never a pickle. Format: the safetensors README (8-byte length, JSON, data).
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Self

import torch
from torch import Tensor

from ...contracts.errors import ModelDamaged, ModelError, ModelMissing

DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_MAX_JSON = 8 << 20
_BUFFER_BYTES = 32 << 20


def read_bytes(path: Path, *, most: int = _MAX_JSON) -> bytes:
    """A file of at most `most` bytes. ModelMissing, ModelDamaged, ModelError."""
    try:
        size = path.stat().st_size
        if size > most:
            raise ModelDamaged(f"{path} has {size} bytes, at most {most} are read")
        return path.read_bytes()
    except FileNotFoundError:
        raise ModelMissing(f"{path} does not exist") from None
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror}") from None


def read_json(path: Path) -> dict[str, Any]:
    """The object in a small JSON file. ModelMissing, ModelDamaged, ModelError."""
    return json_object(read_bytes(path), str(path))


def json_object(text: bytes, origin: str) -> dict[str, Any]:
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ModelDamaged(f"{origin} is not JSON: {error}") from None
    if not isinstance(data, dict):
        raise ModelDamaged(f"{origin} is not a JSON object")
    return data


@dataclass(frozen=True, slots=True)
class _Stored:
    path: Path
    dtype: torch.dtype
    shape: tuple[int, ...]
    offset: int
    n_bytes: int


class Checkpoint:
    """The tensors of a folder: `model.safetensors`, the shards its index names, or all `*.safetensors` there are.

    A context manager: it holds open the file that it reads from.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files = _files(folder)
        self._tensors = {name: stored for path in self.files for name, stored in _header(path).items()}
        self._open: dict[Path, BinaryIO] = {}
        self._buffer = torch.empty(_BUFFER_BYTES, dtype=torch.uint8)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._open.values():
            file.close()

    def check(self, expected: Mapping[str, tuple[int, ...]]) -> None:
        """ModelDamaged unless every expected tensor is there in its shape; further tensors are ignored."""
        for name, shape in expected.items():
            stored = self._tensors.get(name)
            if stored is None:
                raise ModelDamaged(f"{self.folder}: tensor {name} is missing")
            if stored.shape != shape:
                raise ModelDamaged(f"{self.folder}: tensor {name} has shape {stored.shape}, the configuration says {shape}")

    def read(self, *names: str) -> Tensor:
        """The named tensors stacked along their rows, float32 if they are of several types. The next call overwrites it: copy it.

        One buffer for all but the largest, because fresh memory costs more than reading into it.
        """
        parts = [self._tensors[name] for name in names]
        dtype = parts[0].dtype
        if any(part.dtype != dtype for part in parts):
            return torch.cat([self.read(name).to(torch.float32, copy=True) for name in names])
        n_bytes = sum(part.n_bytes for part in parts)
        buffer = self._buffer[:n_bytes] if n_bytes <= len(self._buffer) else torch.empty(n_bytes, dtype=torch.uint8)
        at = 0
        for part in parts:
            self._fill(buffer[at : at + part.n_bytes], part)
            at += part.n_bytes
        return buffer.view(dtype).view(-1, *parts[0].shape[1:])

    def _fill(self, target: Tensor, part: _Stored) -> None:
        try:
            file = self._open.get(part.path) or self._open.setdefault(part.path, part.path.open("rb", buffering=0))
            file.seek(part.offset)
            bytes_left = target.numpy().data
            while bytes_left and (n_read := file.readinto(bytes_left)):  # type: ignore[attr-defined]
                bytes_left = bytes_left[n_read:]
        except OSError as error:
            raise ModelError(f"cannot read {part.path}: {error.strerror}") from None
        if bytes_left:
            raise ModelDamaged(f"{part.path} has become shorter while it was read")


def _files(folder: Path) -> list[Path]:
    index = folder / "model.safetensors.index.json"
    single = folder / "model.safetensors"
    if index.exists():
        shards = read_json(index).get("weight_map")
        names = set(shards.values()) if isinstance(shards, dict) and all(isinstance(name, str) for name in shards.values()) else set()
        if not names or any(Path(name).name != name for name in names):
            raise ModelDamaged(f"{index}: weight_map must map tensors to file names of this folder")
        return [folder / name for name in sorted(names)]
    if single.exists():
        return [single]
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ModelMissing(f"{folder} has no safetensors", hint="only safetensors and GGUF are read, never pickled weights")
    return files


def _header(path: Path) -> dict[str, _Stored]:
    """The tensors that one file says it has, each held against the size of the file."""
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            n_header = int.from_bytes(file.read(8), "little")
            if n_header > min(size - 8, _MAX_JSON):
                raise ModelDamaged(f"{path}: a header of {n_header} bytes does not fit", hint="fetch the file again")
            text = file.read(n_header)
    except FileNotFoundError:
        raise ModelMissing(f"{path} does not exist", hint="fetch the model again") from None
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror}") from None
    entries = json_object(text, f"{path}, header").items()
    data = 8 + n_header
    return {name: _stored(path, data, size, entry, f"{path}, tensor {name!r:.80}") for name, entry in entries if name != "__metadata__"}


def _stored(path: Path, data: int, size: int, entry: Any, origin: str) -> _Stored:
    try:
        dtype, shape, (begin, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
    except (KeyError, TypeError, ValueError):
        raise ModelDamaged(f"{origin}: malformed entry") from None
    if not isinstance(shape, list) or len(shape) > 8 or any(type(n) is not int or n < 0 for n in [*shape, begin, end]):
        raise ModelDamaged(f"{origin}: malformed shape or offsets")
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise ModelError(f"{origin}: stored as {dtype!r:.20}, not supported", hint="supported: " + ", ".join(DTYPES))
    n_bytes = math.prod(shape) * DTYPES[dtype].itemsize
    if end - begin != n_bytes or data + end > size:
        raise ModelDamaged(f"{origin}: does not fit into its file", hint="fetch the file again")
    return _Stored(path, DTYPES[dtype], tuple(shape), data + begin, n_bytes)


def fingerprint(files: list[Path]) -> str:
    """Tells one model from another in milliseconds: sizes, the first 8 MiB and 64 samples of each file."""
    digest = hashlib.sha256()
    try:
        for path in files:
            with path.open("rb") as file:
                size = file.seek(0, 2)
                digest.update(f"{path.name}:{size};".encode())
                file.seek(0)
                digest.update(file.read(8 << 20))
                for sample in range(64):
                    file.seek(size * sample // 64)
                    digest.update(file.read(1 << 14))
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror}") from None
    return digest.hexdigest()[:12]
