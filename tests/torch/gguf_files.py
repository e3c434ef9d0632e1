"""Small GGUF files, written from a folder in the Hugging Face layout as llama.cpp's converter would."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
from gguf.quants import dequantize, quantize
from safetensors.numpy import load_file

NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
KINDS = gguf.GGMLQuantizationType.__members__


def _name(name: str) -> str:
    base, _, kind = name.rpartition(".")
    if base.startswith("model.layers."):
        _, _, block, part = base.split(".", 3)
        return f"blk.{block}.{NAMES[part]}.{kind}"
    return f"{NAMES[base]}.{kind}"


def _interleaved(weight: npt.NDArray[np.float32], heads: int) -> npt.NDArray[np.float32]:
    """The order in which GGUF keeps the rows of q and k."""
    return weight.reshape(heads, 2, -1, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)


def stored(weight: npt.NDArray[np.float32], kind: gguf.GGMLQuantizationType) -> npt.NDArray[np.uint8]:
    """The bytes of a matrix; where the library cannot quantise to that type, random ones that mean weights of the usual size."""
    try:
        return quantize(weight, kind)
    except NotImplementedError:
        block, n_bytes = gguf.GGML_QUANT_SIZES[kind]
        data = np.random.default_rng(weight.shape).integers(0, 256, (len(weight), weight.shape[1] // block, n_bytes), np.uint8)
        size = 1.0
        for _ in range(2):
            for at, scale in SCALES[kind.name].items():
                data[..., at : at + 2] = np.array([size * scale], np.float16).view(np.uint8)
            size *= 0.05 / float(dequantize(data.reshape(len(weight), -1), kind).std())
        return data.reshape(len(weight), -1)


SCALES = {"Q2_K": {80: 1.0, 82: 1.5}, "Q3_K": {108: 1.0}, "Q4_K": {0: 1.0, 2: 7.5}, "Q5_K": {0: 1.0, 2: 15.5}, "Q6_K": {208: 1.0}}
"""where a block has its scales of 16 bits, with what makes the mean of its weights nearly 0"""


def values(path: Path, heads: dict[str, int]) -> dict[str, npt.NDArray[np.float32]]:
    """What a file's tensors mean to the format's own library, under their Hugging Face names. `heads` is of q_proj and k_proj."""
    names = {name: ours for ours, name in NAMES.items()}
    found = {}
    for tensor in gguf.GGUFReader(path).tensors:
        *block, part, kind = tensor.name.split(".")
        weight = dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        name = names[part].rpartition(".")[2]
        if name in heads:
            weight = weight.reshape(heads[name], -1, 2, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)
        found[f"model.layers.{block[1]}.{names[part]}.{kind}" if block else f"{names[part]}.{kind}"] = weight
    return found


def _vocabulary(tokenizer: dict[str, Any]) -> dict[str, Any]:
    vocab = sorted(tokenizer["model"]["vocab"], key=tokenizer["model"]["vocab"].__getitem__)
    special = [token["content"] for token in tokenizer["added_tokens"]]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": [*vocab, *special],
        "tokenizer.ggml.token_type": [1] * len(vocab) + [3] * len(special),
        "tokenizer.ggml.merges": [" ".join(pair) for pair in tokenizer["model"]["merges"]],
        "tokenizer.ggml.eos_token_id": len(vocab),
        "tokenizer.chat_template": "{% for m in messages %}{{ m.content }}<|end|>{% endfor %}",
    }


def write_gguf(
    path: Path, folder: Path, kind: str = "F32", extra: dict[str, npt.NDArray[np.float32]] | None = None, **metadata: Any
) -> Path:
    """`kind` is the storage type of the matrices; `metadata` replaces or, where None, drops entries (dots spelled `__`)."""
    config = json.loads((folder / "config.json").read_text())
    entries: dict[str, Any] = {
        "general.name": "tiny",
        "llama.block_count": config["num_hidden_layers"],
        "llama.context_length": config["max_position_embeddings"],
        "llama.embedding_length": config["hidden_size"],
        "llama.feed_forward_length": config["intermediate_size"],
        "llama.attention.head_count": config["num_attention_heads"],
        "llama.attention.head_count_kv": config["num_key_value_heads"],
        "llama.attention.layer_norm_rms_epsilon": config["rms_norm_eps"],
        "llama.rope.freq_base": config["rope_theta"],
    }
    entries |= _vocabulary(json.loads((folder / "tokenizer.json").read_text()))
    entries |= {key.replace("__", "."): value for key, value in metadata.items()}
    writer = _writer(path, entries)
    heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}
    for name, weight in load_file(folder / "model.safetensors").items():
        part = name.split(".")[-2]
        weight = _interleaved(weight, heads[part]) if part in heads else weight
        if weight.ndim == 1 or kind == "F32":
            writer.add_tensor(_name(name), weight.astype(np.float32))
        else:
            writer.add_tensor(_name(name), stored(weight, KINDS[kind]), raw_dtype=KINDS[kind])
    for name, values in (extra or {}).items():
        writer.add_tensor(name, values)
    return _written(writer, path)


def _writer(path: Path, entries: dict[str, Any]) -> gguf.GGUFWriter:
    writer = gguf.GGUFWriter(path, entries.pop("general.architecture", "llama"))
    for key, value in entries.items():
        if isinstance(value, str):
            writer.add_string(key, value)
        elif isinstance(value, float):
            writer.add_float32(key, value)
        elif isinstance(value, bool):
            writer.add_bool(key, value)
        elif isinstance(value, int):
            writer.add_uint32(key, value)
        elif value is not None:
            writer.add_array(key, value)
    return writer


def _written(writer: gguf.GGUFWriter, path: Path) -> Path:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


# ------------------------------------------------------------ any family

PERMUTED = {"llama", "granite", "smollm3", "arcee"}
EXPERTS = re.compile(r"(.*\.experts)\.(\d+)\.(\w+)\.weight")
MORE: dict[str, str] = {
    "sliding_window": "attention.sliding_window",
    "head_dim": "attention.key_length",
    "attn_logit_softcapping": "attn_logit_softcapping",
    "final_logit_softcapping": "final_logit_softcapping",
    "attention_multiplier": "attention.scale",
    "embedding_multiplier": "embedding_scale",
    "residual_multiplier": "residual_scale",
    "logits_scaling": "logit_scale",
    "num_local_experts": "expert_count",
    "num_experts": "expert_count",
    "num_experts_per_tok": "expert_used_count",
    "moe_intermediate_size": "expert_feed_forward_length",
    "shared_expert_intermediate_size": "expert_shared_feed_forward_length",
    "original_max_position_embeddings": "rope.scaling.original_context_length",
    "sliding_window_pattern": "attention.sliding_window_pattern",
}


def write_family_gguf(path: Path, folder: Path, config: dict[str, Any], architecture: str, tokenizer: dict[str, Any]) -> Path:
    """A model of any family in float32, as llama.cpp's converter writes it, with the names that the format's own library gives."""
    entries: dict[str, Any] = {
        "general.architecture": architecture,
        f"{architecture}.block_count": config["num_hidden_layers"],
        f"{architecture}.context_length": config["max_position_embeddings"],
        f"{architecture}.embedding_length": config["hidden_size"],
        f"{architecture}.feed_forward_length": config["intermediate_size"],
        f"{architecture}.attention.head_count": config["num_attention_heads"],
        f"{architecture}.attention.head_count_kv": config["num_key_value_heads"],
        f"{architecture}.attention.layer_norm_rms_epsilon": config["rms_norm_eps"],
        f"{architecture}.rope.freq_base": config["rope_theta"],
    } | _vocabulary(tokenizer)
    entries |= {f"{architecture}.{stored}": config[key] for key, stored in MORE.items() if key in config}
    partial = config.get("partial_rotary_factor", 1.0)
    dim = config.get("head_dim", config["hidden_size"] // config["num_attention_heads"])
    entries[f"{architecture}.rope.dimension_count"] = int(dim * partial)
    writer = _writer(path, entries)
    kind = next(kind for kind, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture)
    names = gguf.get_tensor_name_map(kind, config["num_hidden_layers"])
    heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]} if architecture in PERMUTED else {}
    experts: dict[str, list[npt.NDArray[np.float32]]] = {}
    tensors = load_file(folder / "model.safetensors")
    for name, weight in sorted(tensors.items(), key=lambda item: [int(x) if x.isdigit() else 0 for x in item[0].split(".")]):
        part = name.split(".")[-2]
        if found := EXPERTS.fullmatch(name):
            experts.setdefault(f"{found[1]}.{found[3]}.weight", []).append(weight)
            continue
        weight = _interleaved(weight, heads[part]) if part in heads else weight
        if architecture.startswith("gemma") and "norm" in part:
            weight = weight + 1
        writer.add_tensor(names.get_name(name, (".weight", ".bias")), np.ascontiguousarray(weight.squeeze()))
    for name, weights in experts.items():
        writer.add_tensor(names.get_name(name, (".weight",)), np.stack(weights))
    for name in ("short", "long"):
        if factors := config.get("rope_scaling", {}).get(f"{name}_factor"):
            writer.add_tensor(f"rope_factors_{name}.weight", np.array(factors, np.float32))
    return _written(writer, path)
