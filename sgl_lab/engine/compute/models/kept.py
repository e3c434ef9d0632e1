"""A GGUF's weights as they were packed for the native step, kept in the model cache, so that they
are packed once.

A kept file is derived from one GGUF, one type, and the code that packs: if any of these changes, it
has another name. It is written completely or not at all, and whatever is wrong with it, the GGUF is
read again.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from glob import escape
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from ...files.weights import fingerprint
from ...text.tokenizer import Files
from ..kernels.native.pack import Kind, Packed
from .packed import PackedDecoder
from .spec import ModelSpec

_MARK = b"sgl_lab packed\n"
_DIGEST = 64
_MAKERS = ("kernels/native/pack.py", *(f"models/{name}.py" for name in ("architectures", "gguf_weights", "grouped", "kept", "packed")))
"""the code on which a kept file depends, under compute/, besides the reader of tokenizers"""
_LEAST_FREE = 3
"""a file is kept if the disk has this many times its size"""


@dataclass(frozen=True, slots=True)
class Kept:
    path: Path
    config: dict[str, object]
    files: Files
    dtype: str
    _parts: Sequence[tuple[str, str, list[int]]]
    """name, type, shape of each tensor in the file"""
    _packed: Mapping[str, tuple[int, int, int]]
    """weight -> kind, outputs, inputs"""
    _begin: int

    def read(self, spec: ModelSpec, kind: Kind) -> PackedDecoder | None:
        """None if the file is not what its beginning says."""
        tensors: dict[str, Tensor] = {}
        with suppress(OSError), self.path.open("rb") as file:
            file.seek(self._begin)
            for name, dtype, shape in self._parts:
                tensor = torch.empty(shape, dtype=getattr(torch, dtype))
                if tensor.numel() and file.readinto(tensor.view(-1).view(torch.uint8).numpy().data) != tensor.nbytes:
                    return None
                tensors[name] = tensor
        if len(tensors) < len(self._parts):
            return None
        weights = {
            name: Packed(Kind(of), n_out, n_in, tensors.pop(name), tensors.pop(f"{name} bias", None))
            for name, (of, n_out, n_in) in self._packed.items()
        }
        return PackedDecoder(spec, kind, weights, tensors)


def place(gguf: Path, dtype: str | None, cache_dir: Path) -> Path:
    """Where it is kept in that type; None is the file's own."""
    label = re.sub(r"[^A-Za-z0-9._-]+", "-", gguf.stem).strip("-.")[:80] or "model"
    digest = hashlib.sha256(f"{fingerprint([gguf], times=True)} {_made_by()}".encode()).hexdigest()[:12]
    return cache_dir / "converted" / f"{label}-{digest}-{dtype or 'own'}.packed"


@cache
def _made_by() -> str:
    root = Path(__file__).parents[1]
    found = hashlib.sha256()
    for file in (*(root / name for name in _MAKERS), root.parent / "text" / "vocab.py"):
        found.update(file.read_bytes())
    return found.hexdigest()


def find(path: Path) -> Kept | None:
    """What is kept there, if it is whole."""
    try:
        with path.open("rb") as file:
            head = file.read(len(_MARK) + _DIGEST + 16)
            digest, length = head[len(_MARK) : -16].decode(), int(head[-16:], 16)
            about = file.read(length) if head.startswith(_MARK) and length < 64 << 20 else b""
            tokenizer = file.read(json.loads(about)["tokenizer"]) if about else b""
            begin, size = file.tell(), os.fstat(file.fileno()).st_size
        if hashlib.sha256(about + tokenizer).hexdigest() != digest:
            return None
        data = json.loads(about)
        if begin + data["size"] != size:
            return None
        files = Files(data["origin"], tokenizer, data["tokenizer_config"], data["ends"], data["template"])
        return Kept(path, data["config"], files, data["dtype"], data["parts"], data["packed"], begin)
    except (OSError, ValueError, KeyError, TypeError, OverflowError):
        return None


def keep(path: Path, model: PackedDecoder, config: Mapping[str, object], files: Files, dtype: str) -> None:
    """Write the file and delete those that it replaces. Without room or permission nothing happens."""
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        size = sum(tensor.nbytes for _, tensor in _tensors(model))
        if shutil.disk_usage(path.parent).free < _LEAST_FREE * size:
            return
        part = path.with_name(f"{path.name}.{os.getpid()}.part")
        try:
            with part.open("wb") as file:
                _write(file, model, config, files, dtype, size)
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
        label, _, end = path.name.rsplit("-", 2)
        for other in path.parent.glob(f"{escape(label)}-{'[0-9a-f]' * 12}-{end}"):
            if other != path:
                other.unlink(missing_ok=True)


def _tensors(model: PackedDecoder) -> Iterator[tuple[str, Tensor]]:
    for name, weight in model.weights.items():
        yield name, weight.data
        if weight.bias is not None:
            yield f"{name} bias", weight.bias
    yield from model.vectors.items()


def _write(file: BinaryIO, model: PackedDecoder, config: Mapping[str, object], files: Files, dtype: str, size: int) -> None:
    about = json.dumps({
        "config": config,
        "dtype": dtype,
        "origin": files.origin,
        "tokenizer": len(files.text),
        "tokenizer_config": files.config,
        "ends": files.ends,
        "template": files.template,
        "packed": {name: (int(weight.kind), weight.n_out, weight.n_in) for name, weight in model.weights.items()},
        "parts": [(name, str(tensor.dtype).removeprefix("torch."), list(tensor.shape)) for name, tensor in _tensors(model)],
        "size": size,
    }).encode()  # fmt: skip
    file.write(_MARK + hashlib.sha256(about + files.text).hexdigest().encode() + f"{len(about):016x}".encode())
    file.write(about)
    file.write(files.text)
    for _, tensor in _tensors(model):
        if tensor.numel():
            file.write(tensor.contiguous().view(-1).view(torch.uint8).numpy().data)
