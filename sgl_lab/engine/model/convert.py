"""A GGUF file becomes a folder in the Hugging Face layout, once.

The weights are dequantised exactly as ggml defines it (`gguf.quants`), the row order that GGUF
gives to q and k is undone, and configuration, tokenizer and chat template come from the file's
own metadata. The folder appears whole or not at all; two processes take turns.
"""

from __future__ import annotations

import json
import re
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from ...contracts.errors import ModelDamaged, ModelError
from .fetch import Progress
from .gguf_file import GgufFile, GgufTensor
from .spec import LlamaSpec, spec_from_config
from .vocab import tokenizer_files
from .weights import fingerprint

VERSION = "1"
"""Part of a converted folder's name: raise it when a conversion would come out differently."""

_KEPT = {0: ("F32", 4), 1: ("F16", 2), 30: ("BF16", 2)}
"""ggml's unquantised types are stored as they are; every other becomes F32."""

_NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}

_CHUNK_BYTES = 8 << 20


def convert(path: Path, name: str, cache_dir: Path, progress: Progress) -> Path:
    """The converted folder of a GGUF file, made now if it is not there yet. ModelError, ModelDamaged."""
    from filelock import FileLock

    label = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.")[:80] or "model"
    target = cache_dir / "converted" / f"{label}-{fingerprint([path])}-v{VERSION}"
    if target.is_dir():
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
    except OSError as error:
        raise ModelError(f"cannot write {target}: {error.strerror or error}", hint="free some space or choose another cache") from None
    return target


def config_from_gguf(gguf: GgufFile) -> dict[str, Any]:
    """The `config.json` that says what this file's metadata say."""
    metadata = gguf.metadata
    architecture = metadata.get("general.architecture")
    if architecture != "llama" or metadata.get("llama.expert_count"):
        known = f"{architecture!r:.80}" + (" with experts" if architecture == "llama" else "")
        raise ModelError(f"{gguf.path}: architecture {known} is not supported", hint="supported: llama")
    embedding = gguf.tensors.get("token_embd.weight")
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "dtype": "float32",
        "vocab_size": embedding.shape[0] if embedding and embedding.shape else None,
        "hidden_size": metadata.get("llama.embedding_length"),
        "intermediate_size": metadata.get("llama.feed_forward_length"),
        "num_hidden_layers": metadata.get("llama.block_count"),
        "num_attention_heads": metadata.get("llama.attention.head_count"),
        "num_key_value_heads": metadata.get("llama.attention.head_count_kv"),
        "head_dim": metadata.get("llama.attention.key_length", metadata.get("llama.rope.dimension_count")),
        "max_position_embeddings": metadata.get("llama.context_length"),
        "sliding_window": metadata.get("llama.attention.sliding_window"),
        "rms_norm_eps": metadata.get("llama.attention.layer_norm_rms_epsilon"),
        "rope_theta": metadata.get("llama.rope.freq_base"),
        "tie_word_embeddings": "output.weight" not in gguf.tensors,
        "attention_bias": "blk.0.attn_q.bias" in gguf.tensors,
        "mlp_bias": "blk.0.ffn_gate.bias" in gguf.tensors,
        "bos_token_id": metadata.get("tokenizer.ggml.bos_token_id"),
        "eos_token_id": metadata.get("tokenizer.ggml.eos_token_id"),
    }
    rotary = metadata.get("llama.rope.dimension_count", config["head_dim"])
    if rotary != config["head_dim"]:
        raise ModelError(f"{gguf.path}: rotary positions on {rotary!r:.20} of {config['head_dim']!r:.20} dimensions are not supported")
    if (scaling := _rope_scaling(gguf)) is not None:
        config["rope_scaling"] = scaling
    return {key: value for key, value in config.items() if value is not None}


def _rope_scaling(gguf: GgufFile) -> dict[str, Any] | None:
    kind = gguf.metadata.get("llama.rope.scaling.type", "none")
    if kind == "linear":
        return {"rope_type": "linear", "factor": gguf.metadata.get("llama.rope.scaling.factor")}
    if kind != "none":
        raise ModelError(f"{gguf.path}: rotary scaling {kind!r:.40} is not supported (linear and llama3 are)")
    factors = gguf.tensors.get("rope_freqs.weight")
    if factors is None:
        return None
    # llama3 scaling is stored as its result, one divisor a frequency. The slowest frequency is divided by the
    # full factor; the other three constants are the same in every published model.
    if factors.kind != 0 or not factors.n_bytes:
        raise ModelDamaged(f"{gguf.path}: rope_freqs.weight must be F32")
    constants = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
    return {"rope_type": "llama3", "factor": float(gguf.raw(factors).view("<f4").max())} | constants


def _renamed(gguf: GgufFile, spec: LlamaSpec) -> dict[str, GgufTensor]:
    """The file's tensors under their Hugging Face names, exactly those the spec asks for, in its shapes."""
    found: dict[str, GgufTensor] = {}
    for name, tensor in gguf.tensors.items():
        if renamed := hugging_face_name(name):
            found[renamed] = tensor
    expected = spec.tensors()
    for name, shape in expected.items():
        if name not in found:
            raise ModelDamaged(f"{gguf.path}: tensor {name} is missing")
        if found[name].shape != shape or (len(shape) == 1 and found[name].kind not in _KEPT):
            raise ModelDamaged(f"{gguf.path}: tensor {name} has shape {found[name].shape}, the metadata say {shape}")
    return {name: found[name] for name in expected}


def hugging_face_name(name: str) -> str | None:
    """What a tensor of a GGUF is called in the Hugging Face layout; None for those that it does not have."""
    match = re.fullmatch(r"(?:blk\.(\d{1,4})\.)?(\w+)\.(weight|bias)", name, re.ASCII)
    if match is None or match[2] not in _NAMES:
        return None
    return ("" if match[1] is None else f"model.layers.{int(match[1])}.") + f"{_NAMES[match[2]]}.{match[3]}"


def row_order(n_rows: int, heads: int) -> npt.NDArray[np.int64]:
    """Rows of a rotated projection: GGUF stores the two halves of each head interleaved, the Hugging Face layout one after the other."""
    return np.arange(n_rows).reshape(heads, -1, 2).swapaxes(1, 2).ravel()


def _write_folder(
    target: Path, gguf: GgufFile, spec: LlamaSpec, tensors: dict[str, GgufTensor], files: dict[str, dict[str, Any]], progress: Progress
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


def _write_tensors(out: BinaryIO, gguf: GgufFile, spec: LlamaSpec, tensors: dict[str, GgufTensor], progress: Progress) -> None:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
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
        raise ModelError(f"{n_total >> 20} MiB are needed to unpack {gguf.path.name}, {free >> 20} MiB are free", hint="free some space")
    out.write(struct.pack("<Q", len(text)) + text)
    for name, tensor in tensors.items():
        heads = spec.n_heads if ".q_proj." in name else spec.n_kv_heads if ".k_proj." in name else None
        try:
            for chunk in _values(gguf, tensor, heads):
                out.write(chunk.data)
        except NotImplementedError as error:
            raise ModelError(f"{gguf.path}: {error}", hint="use another quantisation of the model") from None
        progress(out.tell(), n_total, "unpacking weights")


def _values(gguf: GgufFile, tensor: GgufTensor, heads: int | None) -> Iterator[npt.NDArray[Any]]:
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
