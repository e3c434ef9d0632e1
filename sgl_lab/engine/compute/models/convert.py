"""Converts a GGUF file to a folder in the Hugging Face layout, once, for programs that read such
folders: peers, and tests.

Configuration, tokenizer and chat template come from the file's own metadata. The folder is written
completely or not at all; two processes take turns.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import struct
from pathlib import Path
from typing import BinaryIO

import numpy as np

from ....contracts.errors import ModelError
from ...files.fetch import Progress
from ...files.gguf_file import GgufFile
from ...files.weights import fingerprint
from ...text.vocab import tokenizer_files
from .architectures import Stored, config_from_gguf
from .families import spec_from_config
from .gguf_weights import stored_type, values, wanted

VERSION = "2"
"""Part of a converted folder's name: raise it when a conversion would come out differently."""


class CacheUnwritable(ModelError):
    """The converted folder cannot be written to its place."""


def convert(path: Path, name: str, cache_dir: Path, progress: Progress) -> Path:
    """The converted folder of a GGUF file, created if necessary. ModelError, ModelDamaged,
    CacheUnwritable.
    """
    from filelock import FileLock

    label = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.")[:80] or "model"
    target = cache_dir / "converted" / f"{label}-{fingerprint([path], times=True)}-v{VERSION}"
    if os.path.isdir(target):
        return target
    gguf = GgufFile(path)
    config = config_from_gguf(gguf)
    spec = spec_from_config(config, str(path))
    tensors = wanted(gguf, spec)
    files = {"config.json": config} | tokenizer_files(gguf.metadata, spec.vocab, str(path))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(target.with_name(target.name + ".lock")):
            if not target.is_dir():
                _write_folder(target, gguf, tensors, files, progress)
    except (OSError, NotImplementedError) as error:  # the second from filelock, where a file system has no locks
        hint = "free some space, or set SGL_LAB_CACHE to a writable folder"
        raise CacheUnwritable(f"cannot write {target}: {getattr(error, 'strerror', None) or error}", hint=hint) from None
    return target


def _write_folder(
    target: Path, gguf: GgufFile, tensors: dict[str, Stored], files: dict[str, dict[str, object]], progress: Progress
) -> None:
    part = target.with_name(target.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    try:
        for name, content in files.items():
            (part / name).write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
        with (part / "model.safetensors").open("wb") as out:
            _write_tensors(out, gguf, tensors, progress)
        part.rename(target)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _write_tensors(out: BinaryIO, gguf: GgufFile, tensors: dict[str, Stored], progress: Progress) -> None:
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, tensor in tensors.items():
        dtype, width = stored_type(tensor)
        begin, end = end, end + int(np.prod(tensor.tensor.shape)) * width
        header[name] = {"dtype": dtype, "shape": list(tensor.tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    n_total = 8 + len(text) + end
    free = shutil.disk_usage(Path(out.name).parent).free
    if n_total > free:
        raise CacheUnwritable(
            f"{n_total >> 20} MiB are needed to unpack {gguf.path.name}, {free >> 20} MiB are free", hint="free some space"
        )
    out.write(struct.pack("<Q", len(text)) + text)
    for tensor in tensors.values():
        for chunk in values(gguf, tensor):
            out.write(chunk.data)
        progress(out.tell(), n_total, "unpacking weights")
