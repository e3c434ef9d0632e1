"""Converts a GGUF file to a folder in the Hugging Face layout, once.

The weights are dequantised exactly as ggml defines it (`gguf.quants`), GGUF's row order of q and k
is undone, and configuration, tokenizer and chat template come from the file's own metadata. The
folder is written completely or not at all; two processes take turns.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from ....contracts.errors import ModelDamaged, ModelError
from ...files.fetch import Progress
from ...files.gguf_file import GgufFile, GgufTensor
from ...files.weights import fingerprint
from ...text.vocab import tokenizer_files
from .families import spec_from_config
from .spec import ModelSpec, Names, Part

VERSION = "2"
"""Part of a converted folder's name: raise it when a conversion would come out differently."""

_KEPT = {0: ("F32", 4), 1: ("F16", 2), 30: ("BF16", 2)}
"""ggml's unquantised types are stored as they are; every other becomes F32."""

_NAMES = Names()
_AROUND = {"token_embd": _NAMES.embedding, "output_norm": _NAMES.norm, "output": _NAMES.head}
_PARTS: dict[str, Part] = {
    "attn_norm": "attention_norm",
    "ffn_norm": "mlp_norm",
    "attn_q": "q",
    "attn_k": "k",
    "attn_v": "v",
    "attn_output": "o",
    "ffn_gate": "gate",
    "ffn_up": "up",
    "ffn_down": "down",
}

_DIVISORS = "rope_freqs.weight"

_CHUNK_BYTES = 8 << 20
_MAX_LIST = 1024
"""items of an array that is not the tokenizer's"""


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
    tensors = _renamed(gguf, spec)
    files = {"config.json": config} | tokenizer_files(gguf.metadata, spec.vocab, str(path))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(target.with_name(target.name + ".lock")):
            if not target.is_dir():
                _write_folder(target, gguf, spec, tensors, files, progress)
    except (OSError, NotImplementedError) as error:  # the second from filelock, where a file system has no locks
        hint = "free some space, or set SGL_LAB_CACHE to a writable folder"
        raise CacheUnwritable(f"cannot write {target}: {getattr(error, 'strerror', None) or error}", hint=hint) from None
    return target


_SAYS_NOTHING = {"vocab_size", "tensor_data_layout", "rope.scaling.original_context_length", "rope.scaling.finetuned"}
"""Entries on which no result depends: the embedding has its own size, and the rest belongs to scalings that are refused."""


class _Metadata:
    """The entries of a GGUF on its model, with arrays of numbers as lists. It records which of them
    were read.
    """

    def __init__(self, gguf: GgufFile) -> None:
        self._left = {key: _listed(value) for key, value in gguf.metadata.items() if not key.startswith("tokenizer.")}
        self._path = gguf.path

    def general(self, key: str, default: object = None) -> object:
        return self._left.get(key, default)

    def take(self, key: str, default: object = None) -> object:
        return self._left.pop(f"llama.{key}", default)

    def expect_nothing_left(self) -> None:
        """ModelError for an entry that is set but was not read: it would change the result."""
        for key, value in self._left.items():
            family, _, name = key.partition(".")
            is_scale = name.endswith(("scale", "factor")) and value == 1
            if family == "llama" and name not in _SAYS_NOTHING and value and not is_scale:
                raise ModelError(f"{self._path}: {key:.80} {value!r:.40} is not supported")


def _listed(value: object) -> object:
    return value[:_MAX_LIST].tolist() if isinstance(value, np.ndarray) else value


def config_from_gguf(gguf: GgufFile) -> dict[str, object]:
    """The `config.json` that is equivalent to this file's metadata. ModelError names an entry that
    is not supported.
    """
    metadata = _Metadata(gguf)
    architecture, kind = metadata.general("general.architecture"), metadata.general("general.type", "model")
    if architecture != "llama" or kind != "model":
        what = f"architecture {architecture!r:.80}" if architecture != "llama" else f"a GGUF of type {kind!r:.40}"
        raise ModelError(f"{gguf.path}: {what} is not supported", hint="supported: models of architecture llama")
    if (n_files := metadata.general("split.count", 0)) not in (0, 1):
        raise ModelError(
            f"{gguf.path} is one of the {n_files!r:.20} files of a model that was split", hint="join them: llama-gguf-split --merge"
        )
    if metadata.general("general.quantization_version", 2) != 2:
        raise ModelError(f"{gguf.path}: its blocks are of an older version of ggml", hint="fetch a newer file")
    if metadata.take("expert_count"):
        raise ModelError(f"{gguf.path}: architecture 'llama' with experts is not supported", hint="supported: llama")
    metadata.take("expert_used_count")
    if metadata.take("attention.causal", True) is not True:
        raise ModelError(f"{gguf.path}: llama.attention.causal False is not supported")
    embedding = gguf.tensors.get("token_embd.weight")
    rotary = metadata.take("rope.dimension_count")
    head_dim = metadata.take("attention.key_length", rotary)
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "dtype": "float32",
        "vocab_size": embedding.shape[0] if embedding and embedding.shape else None,
        "hidden_size": metadata.take("embedding_length"),
        "intermediate_size": metadata.take("feed_forward_length"),
        "num_hidden_layers": metadata.take("block_count"),
        "num_attention_heads": metadata.take("attention.head_count"),
        "num_key_value_heads": metadata.take("attention.head_count_kv"),
        "head_dim": head_dim,
        "max_position_embeddings": metadata.take("context_length"),
        "sliding_window": metadata.take("attention.sliding_window"),
        "rms_norm_eps": metadata.take("attention.layer_norm_rms_epsilon"),
        "rope_theta": metadata.take("rope.freq_base", 10_000.0),
        "tie_word_embeddings": "output.weight" not in gguf.tensors,
        "attention_bias": "blk.0.attn_q.bias" in gguf.tensors,
        "mlp_bias": "blk.0.ffn_gate.bias" in gguf.tensors,
        "bos_token_id": _listed(gguf.metadata.get("tokenizer.ggml.bos_token_id")),
        "eos_token_id": _listed(gguf.metadata.get("tokenizer.ggml.eos_token_id")),
    }
    if rotary not in (None, head_dim):
        raise ModelError(f"{gguf.path}: rotary positions on {rotary!r:.20} of {head_dim!r:.20} dimensions are not supported")
    if (value_dim := metadata.take("attention.value_length", head_dim)) != head_dim:
        raise ModelError(f"{gguf.path}: values of {value_dim!r:.20} dimensions beside keys of {head_dim!r:.20} are not supported")
    config["rope_scaling"] = _rope_scaling(gguf, metadata, config["max_position_embeddings"])
    metadata.expect_nothing_left()
    return {key: value for key, value in config.items() if value is not None}


def _rope_scaling(gguf: GgufFile, metadata: _Metadata, context: object) -> dict[str, object] | None:
    """The scaling as llama.cpp reads it: a factor alone is linear, and a divisor per frequency
    applies in addition.
    """
    kind = metadata.take("rope.scaling.type", "linear")
    factor, older = metadata.take("rope.scaling.factor"), metadata.take("rope.scale_linear")
    factor = 1.0 if kind == "none" else factor or older or 1.0  # 0 is none
    if kind not in ("linear", "none"):
        raise ModelError(f"{gguf.path}: rotary scaling {kind!r:.40} is not supported (linear and llama3 are)")
    stored = gguf.tensors.get(_DIVISORS)
    if stored is None:
        return None if factor == 1 else {"rope_type": "linear", "factor": factor}
    if stored.kind != 0 or len(stored.shape) != 1 or not isinstance(factor, float):
        raise ModelDamaged(f"{gguf.path}: {_DIVISORS} must be a row of F32, and a factor a number")
    # The effect of llama3 scaling: one divisor for each frequency, as transformers writes them.
    divisors = (gguf.raw(stored).view("<f4").astype(np.float64) * factor).tolist()
    return {
        "rope_type": "longrope",
        "short_factor": divisors,
        "long_factor": divisors,
        "attention_factor": 1.0,
        "original_max_position_embeddings": context,
    }


def _renamed(gguf: GgufFile, spec: ModelSpec) -> dict[str, GgufTensor]:
    """The file's tensors under their Hugging Face names, exactly those the spec asks for, in its shapes."""
    expected = spec.tensors()
    found: dict[str, GgufTensor] = {}
    for name, tensor in gguf.tensors.items():
        renamed = hugging_face_name(name)
        if renamed in expected:
            found[renamed] = tensor
        elif name != _DIVISORS:
            raise ModelError(
                f"{gguf.path}: tensor {name!r:.80} is stored, and a model of this configuration reads no such tensor",
                hint="the file must name the architecture that its weights are of",
            )
    for name, shape in expected.items():
        if name not in found:
            raise ModelDamaged(f"{gguf.path}: tensor {name} is missing")
        if found[name].shape != shape:
            raise ModelDamaged(f"{gguf.path}: tensor {name} has shape {found[name].shape}, the metadata say {shape}")
        if len(shape) == 1 and found[name].kind not in _KEPT:
            raise ModelError(f"{gguf.path}: tensor {name} is a row stored as type {found[name].kind}, not as F32, F16 or BF16")
    return {name: found[name] for name in expected}


def hugging_face_name(name: str) -> str | None:
    """The name of a GGUF tensor in the Hugging Face layout; None if it has none."""
    match = re.fullmatch(r"(?:blk\.(\d{1,4})\.)?(\w+)\.(weight|bias)", name, re.ASCII)
    if match is None or match[2] not in (_AROUND if match[1] is None else _PARTS):
        return None
    stem = _AROUND[match[2]] if match[1] is None else _NAMES.of(int(match[1]), _PARTS[match[2]])
    return f"{stem}.{match[3]}"


def interleaved(spec: ModelSpec) -> dict[str, int]:
    """The tensors whose rows GGUF reorders, each with its number of heads."""
    heads: dict[str, int] = {}
    for index, layer in enumerate(spec.layers):
        rotated: dict[Part, int] = {"q": layer.attention.n_heads, "k": layer.attention.n_kv_heads}
        for part, n_heads in rotated.items():
            name = spec.names.of(index, part)
            heads |= {f"{name}.weight": n_heads, f"{name}.bias": n_heads}
    return heads


def row_order(n_rows: int, heads: int) -> npt.NDArray[np.int64]:
    """Reorder the rows of a rotated projection. GGUF interleaves the two halves of each head; the
    Hugging Face layout stores one half after the other.
    """
    return np.arange(n_rows).reshape(heads, -1, 2).swapaxes(1, 2).ravel()


def _write_folder(
    target: Path, gguf: GgufFile, spec: ModelSpec, tensors: dict[str, GgufTensor], files: dict[str, dict[str, object]], progress: Progress
) -> None:
    part = target.with_name(target.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    try:
        for name, content in files.items():
            (part / name).write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
        with (part / "model.safetensors").open("wb") as out:
            _write_tensors(out, gguf, spec, tensors, progress)
        part.rename(target)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _write_tensors(out: BinaryIO, gguf: GgufFile, spec: ModelSpec, tensors: dict[str, GgufTensor], progress: Progress) -> None:
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, tensor in tensors.items():
        dtype, width = _KEPT.get(tensor.kind, ("F32", 4))
        begin, end = end, end + int(np.prod(tensor.shape)) * width
        header[name] = {"dtype": dtype, "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    n_total = 8 + len(text) + end
    free = shutil.disk_usage(Path(out.name).parent).free
    if n_total > free:
        raise CacheUnwritable(
            f"{n_total >> 20} MiB are needed to unpack {gguf.path.name}, {free >> 20} MiB are free", hint="free some space"
        )
    out.write(struct.pack("<Q", len(text)) + text)
    heads = interleaved(spec)
    for name, tensor in tensors.items():
        try:
            for chunk in _values(gguf, tensor, heads.get(name)):
                out.write(chunk.data)
        except NotImplementedError as error:
            raise ModelError(f"{gguf.path}: {error}", hint="use another quantisation of the model") from None
        progress(out.tell(), n_total, "unpacking weights")


def _values(gguf: GgufFile, tensor: GgufTensor, heads: int | None) -> Iterator[npt.NDArray[np.generic]]:
    """The tensor's values in chunks of rows, as they go into the safetensors file."""
    from gguf.constants import GGMLQuantizationType
    from gguf.quants import dequantize

    rows = gguf.raw(tensor).reshape(tensor.shape[0], -1)
    if heads is not None:
        rows = rows[row_order(len(rows), heads)]
    step = max(1, _CHUNK_BYTES // rows.shape[1])
    for start in range(0, len(rows), step):
        chunk = rows[start : start + step]
        yield np.ascontiguousarray(chunk if tensor.kind in _KEPT else dequantize(chunk, GGMLQuantizationType(tensor.kind)).astype("<f4"))
