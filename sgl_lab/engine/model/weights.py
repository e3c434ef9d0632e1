"""Tensors of a folder of safetensors files, found and checked before any is touched.

Only safetensors are read: never a pickle. The files are mapped, so a tensor costs memory when
it is copied out and not before. Format: the safetensors README (8-byte length, JSON, data).
"""

from __future__ import annotations

import hashlib
import json
import math
import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ...contracts.errors import ModelDamaged, ModelError, ModelMissing

DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_MAX_JSON = 8 << 20


def read_json(path: Path, *, most: int = _MAX_JSON) -> dict[str, Any]:
    """A JSON object from a file of at most `most` bytes. ModelMissing, ModelDamaged."""
    try:
        size = path.stat().st_size
        if size > most:
            raise ModelDamaged(f"{path} has {size} bytes, at most {most} are read")
        return _json_object(path.read_bytes(), str(path))
    except FileNotFoundError:
        raise ModelMissing(f"{path} does not exist") from None
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror}") from None


def _json_object(text: bytes, origin: str) -> dict[str, Any]:
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ModelDamaged(f"{origin} is not JSON: {error}") from None
    if not isinstance(data, dict):
        raise ModelDamaged(f"{origin} is not a JSON object")
    return data


@dataclass(frozen=True, slots=True)
class _Stored:
    file: mmap.mmap
    dtype: torch.dtype
    shape: tuple[int, ...]
    offset: int


class Checkpoint:
    """The tensors of a folder: `model.safetensors`, the shards its index names, or all `*.safetensors` there are."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files = _files(folder)
        self._tensors: dict[str, _Stored] = {}
        for path in self.files:
            self._open(path)

    def check(self, expected: Mapping[str, tuple[int, ...]]) -> None:
        """ModelDamaged unless every expected tensor is there in its shape; further tensors are ignored."""
        for name, shape in expected.items():
            stored = self._tensors.get(name)
            if stored is None:
                raise ModelDamaged(f"{self.folder}: tensor {name} is missing")
            if stored.shape != shape:
                raise ModelDamaged(f"{self.folder}: tensor {name} has shape {stored.shape}, the configuration says {shape}")

    def tensor(self, name: str) -> torch.Tensor:
        """A view into the mapped file, in the type it is stored in: copy it, do not keep it."""
        stored = self._tensors[name]
        return torch.frombuffer(stored.file, dtype=stored.dtype, count=math.prod(stored.shape), offset=stored.offset).view(stored.shape)

    def _open(self, path: Path) -> None:
        try:
            with path.open("rb") as file:
                # A private, writable mapping: torch warns of read-only buffers. Nothing writes to it.
                mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        except FileNotFoundError:
            raise ModelMissing(f"{path} does not exist", hint="fetch the model again") from None
        except ValueError:
            raise ModelDamaged(f"{path} is empty") from None
        except OSError as error:
            raise ModelError(f"cannot read {path}: {error.strerror}") from None
        n_header = struct.unpack_from("<Q", mapped)[0] if len(mapped) >= 8 else len(mapped)
        if n_header > min(len(mapped) - 8, _MAX_JSON):
            raise ModelDamaged(f"{path}: a header of {n_header} bytes does not fit", hint="fetch the file again")
        header = _json_object(mapped[8 : 8 + n_header], f"{path}, header")
        for name, entry in header.items():
            if name != "__metadata__":
                self._tensors[name] = _stored(mapped, 8 + n_header, entry, f"{path}, tensor {name!r:.80}")


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


def _stored(file: mmap.mmap, data: int, entry: Any, origin: str) -> _Stored:
    """One entry of a header, held against the size of its file."""
    try:
        dtype, shape, (begin, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
    except (KeyError, TypeError, ValueError):
        raise ModelDamaged(f"{origin}: malformed entry") from None
    if not isinstance(shape, list) or len(shape) > 8 or any(type(n) is not int or n < 0 for n in [*shape, begin, end]):
        raise ModelDamaged(f"{origin}: malformed shape or offsets")
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise ModelError(f"{origin}: stored as {dtype!r:.20}, not supported", hint="supported: " + ", ".join(DTYPES))
    if end - begin != math.prod(shape) * DTYPES[dtype].itemsize or data + end > len(file):
        raise ModelDamaged(f"{origin}: does not fit into its file", hint="fetch the file again")
    return _Stored(file, DTYPES[dtype], tuple(shape), data + begin)


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
