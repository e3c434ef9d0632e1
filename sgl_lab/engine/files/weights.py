"""Tensors of a folder of safetensors files. All are found and checked before any is read.

Only safetensors are read, never a pickle. Format: the safetensors README (8-byte length, JSON,
data). A tensor that is read is the reader's own memory; the buffers for files never leave this
module.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol, Self

import torch
from torch import Tensor

from ...contracts.errors import ModelDamaged, ModelError, ModelMissing
from .small import MAX_JSON, json_object, read_json

DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_NUMBERS = {"I32": torch.int32}
_CHUNK_BYTES = 8 << 20
_DERIVED = re.compile(r"(model\.layers\.\d+\.self_attn|model)\.rotary_emb\.inv_freq")
"""Tensors of old checkpoints that repeat the configuration; transformers does not read them either."""


class Read(Protocol):
    """A source of a model's weights, by their Hugging Face names."""

    def __call__(self, *names: str, dtype: torch.dtype | None = None) -> Tensor:
        """These tensors stacked along their rows. With dtype None they keep their stored type;
        tensors of different types become float32.
        """


@dataclass(frozen=True, slots=True)
class _Stored:
    path: Path
    dtype: torch.dtype
    shape: tuple[int, ...]
    offset: int
    n_bytes: int


class Checkpoint:
    """The tensors of a folder: `model.safetensors`, the shards its index names, or all
    `*.safetensors` there are.

    A context manager: it holds open the files that it reads from. `numbers` is whether tensors may
    be whole numbers, as in a quantised model.
    """

    def __init__(self, folder: Path, *, numbers: bool = False) -> None:
        self.folder = folder
        self.files, wanted = _files(folder)
        self._tensors: dict[str, _Stored] = {}
        for path in self.files:
            for name, stored in _header(path, DTYPES | _NUMBERS if numbers else DTYPES).items():
                if name in self._tensors:
                    raise ModelDamaged(f"{folder}: tensor {name} is in {self._tensors[name].path.name} and in {path.name}")
                self._tensors[name] = stored
        for name, file in wanted.items():
            if name not in self._tensors or self._tensors[name].path.name != file:
                raise ModelDamaged(f"{folder}: tensor {name:.200} is not in {file}, where the index has it", hint="fetch the model again")
        self._open: dict[Path, BinaryIO] = {}
        self._chunk = torch.empty(0, dtype=torch.uint8)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._open.values():
            file.close()
        self._open.clear()

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._tensors)

    def is_whole(self, name: str) -> bool:
        """Whether a tensor has whole numbers."""
        return self._tensors[name].dtype in _NUMBERS.values()

    def rename(self, stored: str, name: str) -> None:
        self._tensors[name] = self._tensors.pop(stored)

    def part(self, names: Mapping[str, str]) -> Checkpoint:
        """Another checkpoint over the same files, with these tensors under new names. This one has
        them no longer.
        """
        made = copy(self)
        made._open = {}
        made._tensors = {name: self._tensors.pop(stored) for stored, name in names.items()}
        return made

    def check(self, expected: Mapping[str, tuple[int, ...]]) -> None:
        """ModelDamaged unless every expected tensor is there in its shape, ModelError if there is
        another.
        """
        for name, shape in expected.items():
            stored = self._tensors.get(name)
            if stored is None:
                raise ModelDamaged(f"{self.folder}: tensor {name} is missing")
            if stored.shape != shape:
                raise ModelDamaged(f"{self.folder}: tensor {name} has shape {stored.shape}, the configuration says {shape}")
        unread = [name for name in self._tensors if name not in expected and not _DERIVED.fullmatch(name)]
        if unread:
            more = f" and {len(unread) - 1} more are" if len(unread) > 1 else " is"
            raise ModelError(
                f"{self.folder}: tensor {unread[0]:.200}{more} stored, and a model of this configuration reads no such tensor",
                hint="config.json must name the architecture that the weights are of, and whether it has biases",
            )

    def read(self, *names: str, dtype: torch.dtype | None = None) -> Tensor:
        """As `Read`, in memory that belongs to the caller."""
        parts = [self._tensors[name] for name in names]
        types = {part.dtype for part in parts}
        dtype = dtype or (types.pop() if len(types) == 1 else torch.float32)
        whole = torch.empty((sum(part.shape[0] for part in parts), *parts[0].shape[1:]), dtype=dtype)
        at = 0
        for part in parts:
            target = whole[at : at + part.shape[0]].view(-1)
            at += part.shape[0]
            if part.dtype == dtype:
                self._fill(target, part, 0)
            else:
                for begin, values in self._chunks(part):
                    target[begin : begin + len(values)] = values
        return whole

    def rows(self, name: str, indices: Sequence[int]) -> Tensor:
        """Some rows of a matrix, in float32."""
        part = self._tensors[name]
        n, width = part.shape
        if any(not 0 <= index < n for index in indices):
            raise ModelDamaged(f"{self.folder}: tensor {name} has {n} rows, none numbered {max(indices, key=abs)}")
        return torch.stack([self._piece(part, index * width, width).float() for index in indices])

    def equal(self, name: str, other: str) -> bool:
        """Whether two tensors have the same shape and values."""
        one, two = self._tensors[name], self._tensors[other]
        return one.shape == two.shape and all(
            torch.equal(values.float(), self._piece(two, begin, len(values)).float()) for begin, values in self._chunks(one)
        )

    def _chunks(self, part: _Stored) -> Iterator[tuple[int, Tensor]]:
        """A tensor's values in pieces, each with its position. The next piece overwrites the
        previous one.
        """
        n_values, step = math.prod(part.shape), _CHUNK_BYTES // part.dtype.itemsize
        if not len(self._chunk):
            self._chunk = torch.empty(_CHUNK_BYTES, dtype=torch.uint8)
        for begin in range(0, n_values, step):
            values = self._chunk[: min(step, n_values - begin) * part.dtype.itemsize].view(part.dtype)
            self._fill(values, part, begin)
            yield begin, values

    def _piece(self, part: _Stored, begin: int, n: int) -> Tensor:
        values = torch.empty(n, dtype=part.dtype)
        self._fill(values, part, begin)
        return values

    def _fill(self, target: Tensor, part: _Stored, begin: int) -> None:
        """A part's stored values from the one numbered `begin` on."""
        try:
            file = self._open.get(part.path) or self._open.setdefault(part.path, part.path.open("rb", buffering=0))
            file.seek(part.offset + begin * part.dtype.itemsize)
            bytes_left = target.view(torch.uint8).numpy().data
            while bytes_left and (n_read := file.readinto(bytes_left)):  # type: ignore[attr-defined]
                bytes_left = bytes_left[n_read:]
        except OSError as error:
            raise ModelError(f"cannot read {part.path}: {error.strerror}") from None
        if bytes_left:
            raise ModelDamaged(f"{part.path} has become shorter while it was read")


def _files(folder: Path) -> tuple[list[Path], dict[str, str]]:
    """The files with weights, and the file of each tensor according to the index."""
    index = folder / "model.safetensors.index.json"
    single = folder / "model.safetensors"
    if index.exists():
        shards = read_json(index).get("weight_map")
        if not isinstance(shards, dict) or not shards or any(not isinstance(x, str) or Path(x).name != x for x in shards.values()):
            raise ModelDamaged(f"{index}: weight_map must map tensors to file names of this folder")
        # If both exist, transformers uses the single file.
        return ([single], {}) if single.exists() else ([folder / name for name in sorted(set(shards.values()))], shards)
    if single.exists():
        return [single], {}
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ModelMissing(f"{folder} has no safetensors", hint="only safetensors and GGUF are read, never pickled weights")
    return files, {}


def _header(path: Path, dtypes: Mapping[str, torch.dtype]) -> dict[str, _Stored]:
    """The tensors in the header of one file, each checked against the size of the file."""
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            n_header = int.from_bytes(file.read(8), "little")
            if n_header > min(size - 8, MAX_JSON):
                raise ModelDamaged(f"{path}: a header of {n_header} bytes does not fit", hint="fetch the file again")
            text = file.read(n_header)
    except FileNotFoundError:
        raise ModelMissing(f"{path} does not exist", hint="fetch the model again") from None
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror}") from None
    entries = json_object(text, f"{path}, header").items()
    data = 8 + n_header
    found = {
        name: _stored(path, data, size, entry, dtypes, f"{path}, tensor {name!r:.80}") for name, entry in entries if name != "__metadata__"
    }
    end = data
    for name, stored in sorted(found.items(), key=lambda item: (item[1].offset, item[1].n_bytes)):
        if stored.offset != end:
            raise ModelDamaged(f"{path}: tensor {name!r:.80} does not begin where the one before it ends", hint="fetch the file again")
        end += stored.n_bytes
    if end != size:
        raise ModelDamaged(f"{path}: {size - end} bytes belong to no tensor", hint="fetch the file again")
    return found


def _stored(path: Path, data: int, size: int, entry: object, dtypes: Mapping[str, torch.dtype], origin: str) -> _Stored:
    match entry:
        case {"dtype": dtype, "shape": list(shape), "data_offsets": [int(begin), int(end)]}:
            pass
        case _:
            raise ModelDamaged(f"{origin}: malformed entry")
    if len(shape) > 8 or any(type(n) is not int or n < 0 for n in [*shape, begin, end]):
        raise ModelDamaged(f"{origin}: malformed shape or offsets")
    if not isinstance(dtype, str) or dtype not in dtypes:
        raise ModelError(f"{origin}: stored as {dtype!r:.20}, not supported", hint="supported: " + ", ".join(DTYPES))
    n_bytes = math.prod(shape) * dtypes[dtype].itemsize
    if end - begin != n_bytes or data + end > size:
        raise ModelDamaged(f"{origin}: does not fit into its file", hint="fetch the file again")
    return _Stored(path, dtypes[dtype], tuple(shape), data + begin, n_bytes)


def fingerprint(files: list[Path], *, times: bool = False) -> str:
    """A fingerprint of a model, computed in milliseconds from the size, the first 8 MiB and 64
    samples of each file; with `times`, also from the modification time.
    """
    digest = hashlib.sha256()
    try:
        for path in files:
            with path.open("rb") as file:
                size = file.seek(0, 2)
                digest.update(f"{path.name}:{size};".encode())
                if times:
                    digest.update(f"{os.fstat(file.fileno()).st_mtime_ns};".encode())
                file.seek(0)
                digest.update(file.read(8 << 20))
                for sample in range(64):
                    file.seek(size * sample // 64)
                    digest.update(file.read(1 << 14))
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror}") from None
    return digest.hexdigest()[:12]
