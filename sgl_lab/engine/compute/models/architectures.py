"""The architectures of GGUF files: of each the `config.json` that its entries mean, the names of
its tensors, and how they are stored.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from ....contracts.errors import ModelDamaged, ModelError
from ...files.gguf_file import GgufFile, GgufTensor
from .spec import ModelSpec, Norm, Part

DIVISORS = "rope_freqs.weight"
SHORT_FACTORS, LONG_FACTORS = "rope_factors_short.weight", "rope_factors_long.weight"

_MAX_LIST = 1024
"""items of an array that is not the tokenizer's"""

_SAYS_NOTHING = {
    "vocab_size", "tensor_data_layout", "rope.scaling.original_context_length", "rope.scaling.finetuned", "rope.dimension_sections",
    "interleave_moe_layer_step", "rope.scaling.yarn_log_multiplier",
}  # fmt: skip
"""Entries on which no result depends: the embedding has its own size, and the rest belongs to
scalings that are refused.
"""


class Metadata:
    """The entries of a GGUF on its model, with arrays of numbers as lists. It records which of them
    were read.
    """

    def __init__(self, gguf: GgufFile) -> None:
        self.gguf = gguf
        self._left = {key: listed(value) for key, value in gguf.metadata.items() if not key.startswith("tokenizer.")}
        self.architecture = str(self._left.get("general.architecture"))

    def general(self, key: str, default: object = None) -> object:
        return self._left.get(key, default)

    def take(self, key: str, default: object = None) -> object:
        return self._left.pop(f"{self.architecture}.{key}", default)

    def number(self, key: str) -> float | None:
        """ModelDamaged if it is there and no number above 0."""
        value = self.take(key)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float) or not value > 0):
            raise ModelDamaged(f"{self.gguf.path}: {self.architecture}.{key} must be a number above 0, not {value!r:.40}")
        return None if value is None else float(value)

    def fail(self, what: str) -> ModelError:
        return ModelError(f"{self.gguf.path}: {what}")

    def expect_nothing_left(self) -> None:
        """ModelError for an entry that is set but was not read: it would change the result."""
        for key, value in self._left.items():
            family, _, name = key.partition(".")
            is_scale = name.endswith(("scale", "factor")) and value == 1
            if family == self.architecture and name not in _SAYS_NOTHING and value and not is_scale:
                raise self.fail(f"{key:.80} {value!r:.40} is not supported")


def listed(value: object) -> object:
    return value[:_MAX_LIST].tolist() if isinstance(value, np.ndarray) else value


Config = dict[str, object]
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
_QK_NORMS: dict[str, Part] = {"attn_q_norm": "q_norm", "attn_k_norm": "k_norm"}
_OUT_NORMS: dict[str, Part] = {"post_attention_norm": "attention_out_norm", "post_ffw_norm": "mlp_out_norm"}
_ROUTED: dict[str, Part] = {"ffn_gate_inp": "router", "ffn_gate_exps": "gate", "ffn_up_exps": "up", "ffn_down_exps": "down"}
_SHARED: dict[str, Part] = {
    "ffn_gate_inp_shexp": "shared_router",
    "ffn_gate_shexp": "shared_gate",
    "ffn_up_shexp": "shared_up",
    "ffn_down_shexp": "shared_down",
}
NORMS: frozenset[Norm | Part] = frozenset({"attention_norm", "attention_out_norm", "mlp_norm", "mlp_out_norm", "q_norm", "k_norm"})


@dataclass(frozen=True, slots=True)
class Architecture:
    """`class_name` and `model_type` are of the configuration.

    parts        of the tensors of a layer
    is_permuted  the rows of q and k are in another order: see `row_order`
    norm_offset  what the weights of norms have more than the Hugging Face layout's
    adds         further keys of the configuration
    """

    class_name: str
    model_type: str
    parts: Mapping[str, Part] = field(default_factory=lambda: _PARTS)
    is_permuted: bool = False
    norm_offset: float = 0.0
    adds: Callable[[Metadata, Config], Config] = lambda metadata, config: {}


def _llama(metadata: Metadata, config: Config) -> Config:
    return _biases(metadata)


def _mixtral(metadata: Metadata, config: Config) -> Config:
    return {"num_local_experts": metadata.take("expert_count"), "num_experts_per_tok": metadata.take("expert_used_count")}


def _biases(metadata: Metadata) -> Config:
    names = metadata.gguf.tensors
    return {"attention_bias": "blk.0.attn_q.bias" in names, "mlp_bias": "blk.0.ffn_up.bias" in names}


def _attention_bias(metadata: Metadata, config: Config) -> Config:
    return {"attention_bias": _biases(metadata)["attention_bias"]}


def _experts(metadata: Metadata) -> Config:
    return {
        "num_experts": metadata.take("expert_count"),
        "num_experts_per_tok": metadata.take("expert_used_count"),
        "moe_intermediate_size": metadata.take("expert_feed_forward_length"),
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
    }


def _qwen2moe(metadata: Metadata, config: Config) -> Config:
    shared = {"shared_expert_intermediate_size": metadata.take("expert_shared_feed_forward_length")}
    return _experts(metadata) | shared | {"norm_topk_prob": False, "qkv_bias": "blk.0.attn_q.bias" in metadata.gguf.tensors}


def _qwen3moe(metadata: Metadata, config: Config) -> Config:
    return _experts(metadata) | _attention_bias(metadata, config) | {"norm_topk_prob": True}


def _gemma(largest: int, metadata: Metadata, config: Config) -> Config:
    """Scores are scaled by the head's width but in the model of `largest` layers: the file does not
    say it.
    """
    width, heads, dim = config["hidden_size"], config["num_attention_heads"], config["head_dim"]
    is_largest = config["num_hidden_layers"] == largest and isinstance(width, int) and isinstance(heads, int) and heads > 0
    return {
        "hidden_activation": "gelu_pytorch_tanh",
        "query_pre_attn_scalar": width // heads if is_largest and isinstance(width, int) and isinstance(heads, int) else dim,
        "attn_logit_softcapping": metadata.number("attn_logit_softcapping"),
        "final_logit_softcapping": metadata.number("final_logit_softcapping"),
    } | _attention_bias(metadata, config)


def _gemma2(metadata: Metadata, config: Config) -> Config:
    return _gemma(46, metadata, config)


def _gemma3(metadata: Metadata, config: Config) -> Config:
    local = metadata.take("rope.freq_base_swa", 10_000.0)
    return _gemma(62, metadata, config) | {
        "rope_local_base_freq": local,
        "sliding_window_pattern": metadata.take("attention.sliding_window_pattern", 6),
    }


def _phi3(metadata: Metadata, config: Config) -> Config:
    original = metadata.take("rope.scaling.original_context_length", config["max_position_embeddings"])
    return {"original_max_position_embeddings": original}


def _granite(metadata: Metadata, config: Config) -> Config:
    scales = {
        "attention_multiplier": "attention.scale",
        "embedding_multiplier": "embedding_scale",
        "residual_multiplier": "residual_scale",
        "logits_scaling": "logit_scale",
    }
    return {key: metadata.number(stored) for key, stored in scales.items()} | _biases(metadata)


def _smollm3(metadata: Metadata, config: Config) -> Config:
    """The file does not say which layers do not turn."""
    return _biases(metadata) | {"no_rope_layer_interval": 4, "use_sliding_window": False}


def _arcee(metadata: Metadata, config: Config) -> Config:
    return _biases(metadata) | {"hidden_act": "relu2"}


_FUSED: dict[str, Part] = {key: part for key, part in _PARTS.items() if part not in ("q", "k", "v", "gate")} | {"attn_qkv": "q"}
_GEMMA = _PARTS | _OUT_NORMS
_OLMO = {key: part for key, part in _PARTS.items() if part not in NORMS} | _QK_NORMS | _OUT_NORMS
ARCHITECTURES: Mapping[str, Architecture] = {
    "llama": Architecture("LlamaForCausalLM", "llama", is_permuted=True, adds=_llama),
    "qwen2": Architecture("Qwen2ForCausalLM", "qwen2"),
    "qwen3": Architecture("Qwen3ForCausalLM", "qwen3", _PARTS | _QK_NORMS, adds=_attention_bias),
    "gemma2": Architecture("Gemma2ForCausalLM", "gemma2", _GEMMA, norm_offset=1.0, adds=_gemma2),
    "gemma3": Architecture("Gemma3ForCausalLM", "gemma3_text", _GEMMA | _QK_NORMS, norm_offset=1.0, adds=_gemma3),
    "phi3": Architecture("Phi3ForCausalLM", "phi3", _FUSED, adds=_phi3),
    "olmo2": Architecture("Olmo2ForCausalLM", "olmo2", _OLMO, adds=_attention_bias),
    "granite": Architecture("GraniteForCausalLM", "granite", is_permuted=True, adds=_granite),
    "smollm3": Architecture("SmolLM3ForCausalLM", "smollm3", is_permuted=True, adds=_smollm3),
    "arcee": Architecture("ArceeForCausalLM", "arcee", is_permuted=True, adds=_arcee),
    "qwen2moe": Architecture("Qwen2MoeForCausalLM", "qwen2_moe", _PARTS | _ROUTED | _SHARED, adds=_qwen2moe),
    "qwen3moe": Architecture("Qwen3MoeForCausalLM", "qwen3_moe", _PARTS | _ROUTED | _QK_NORMS, adds=_qwen3moe),
}
MIXTRAL = Architecture("MixtralForCausalLM", "mixtral", _PARTS | _ROUTED, is_permuted=True, adds=_mixtral)


def architecture_of(gguf: GgufFile) -> Architecture:
    """ModelError if it is not supported."""
    name, kind = gguf.metadata.get("general.architecture"), gguf.metadata.get("general.type", "model")
    if not isinstance(name, str) or name not in ARCHITECTURES or kind != "model":
        what = f"a GGUF of type {kind!r:.40}" if kind != "model" else f"architecture {name!r:.80}"
        raise ModelError(f"{gguf.path}: {what} is not supported", hint="supported: models of architecture " + ", ".join(ARCHITECTURES))
    return MIXTRAL if name == "llama" and gguf.metadata.get("llama.expert_count") else ARCHITECTURES[name]


def config_from_gguf(gguf: GgufFile) -> Config:
    """The `config.json` that is equivalent to this file's metadata. ModelError names an entry that
    is not supported.
    """
    architecture, metadata = architecture_of(gguf), Metadata(gguf)
    if (n_files := metadata.general("split.count", 0)) not in (0, 1):
        raise ModelError(
            f"{gguf.path} is one of the {n_files!r:.20} files of a model that was split", hint="join them: llama-gguf-split --merge"
        )
    if metadata.general("general.quantization_version", 2) != 2:
        raise ModelError(f"{gguf.path}: its blocks are of an older version of ggml", hint="fetch a newer file")
    if metadata.take("attention.causal", True) is not True:
        raise metadata.fail(f"{metadata.architecture}.attention.causal False is not supported")
    embedding = gguf.tensors.get("token_embd.weight")
    rotary = metadata.take("rope.dimension_count")
    heads, width = metadata.take("attention.head_count"), metadata.take("embedding_length")
    shared = width // heads if isinstance(heads, int) and isinstance(width, int) and heads > 0 else None
    turns_in_part = architecture.model_type == "phi3"
    head_dim = metadata.take("attention.key_length", shared if turns_in_part else rotary)
    config: Config = {
        "architectures": [architecture.class_name],
        "model_type": architecture.model_type,
        "hidden_act": "silu",
        "dtype": "float32",
        "vocab_size": embedding.shape[0] if embedding and embedding.shape else None,
        "hidden_size": width,
        "intermediate_size": metadata.take("feed_forward_length"),
        "num_hidden_layers": metadata.take("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": metadata.take("attention.head_count_kv"),
        "head_dim": head_dim if head_dim is not None else shared,
        "max_position_embeddings": metadata.take("context_length"),
        "sliding_window": metadata.take("attention.sliding_window") or None,
        "rms_norm_eps": metadata.take("attention.layer_norm_rms_epsilon"),
        "rope_theta": metadata.take("rope.freq_base", 10_000.0),
        "tie_word_embeddings": "output.weight" not in gguf.tensors,
        "bos_token_id": listed(gguf.metadata.get("tokenizer.ggml.bos_token_id")),
        "eos_token_id": listed(gguf.metadata.get("tokenizer.ggml.eos_token_id")),
    }
    if rotary not in (None, config["head_dim"]):
        if not turns_in_part or not isinstance(rotary, int) or not isinstance(shared, int) or not 0 < rotary < shared:
            raise metadata.fail(f"rotary positions on {rotary!r:.20} of {head_dim!r:.20} dimensions are not supported")
        config["partial_rotary_factor"] = rotary / shared
    if (value_dim := metadata.take("attention.value_length", config["head_dim"])) != config["head_dim"]:
        raise metadata.fail(f"values of {value_dim!r:.20} dimensions beside keys of {head_dim!r:.20} are not supported")
    config["rope_scaling"] = _rope_scaling(metadata, config)
    config |= architecture.adds(metadata, config)
    if architecture.class_name != MIXTRAL.class_name and "num_experts" not in config:
        metadata.take("expert_used_count")
        if metadata.take("expert_count"):
            raise metadata.fail(f"architecture {metadata.architecture!r} with experts is not supported")
    metadata.expect_nothing_left()
    return {key: value for key, value in config.items() if value is not None}


def _rope_scaling(metadata: Metadata, config: Config) -> Config | None:
    """The scaling as llama.cpp reads it: a factor alone is linear, and a divisor per frequency
    applies in addition.
    """
    tensors = metadata.gguf.tensors
    kind = metadata.take("rope.scaling.type", "linear")
    factor, older = metadata.take("rope.scaling.factor"), metadata.take("rope.scale_linear")
    factor = 1.0 if kind == "none" else factor or older or 1.0  # 0 is none
    context = config["max_position_embeddings"]
    if SHORT_FACTORS in tensors or LONG_FACTORS in tensors:
        amplitude = metadata.number("rope.scaling.attn_factor")
        found: Config = {
            "rope_type": "longrope",
            "short_factor": _row(metadata, SHORT_FACTORS),
            "long_factor": _row(metadata, LONG_FACTORS),
        }
        return found | ({} if amplitude is None else {"attention_factor": amplitude})
    if kind == "yarn":
        original = metadata.take("rope.scaling.original_context_length", context)
        return {"rope_type": "yarn", "factor": factor, "original_max_position_embeddings": original}
    if kind not in ("linear", "none"):
        raise metadata.fail(f"rotary scaling {kind!r:.40} is not supported (linear, llama3, yarn and longrope are)")
    if DIVISORS not in tensors:
        return None if factor == 1 else {"rope_type": "linear", "factor": factor}
    if not isinstance(factor, float):
        raise ModelDamaged(f"{metadata.gguf.path}: the rotary factor must be a number, not {factor!r:.40}")
    # The effect of llama3 scaling: one divisor for each frequency, as transformers writes them.
    divisors = [divisor * factor for divisor in _row(metadata, DIVISORS)]
    return {
        "rope_type": "longrope",
        "short_factor": divisors,
        "long_factor": divisors,
        "attention_factor": 1.0,
        "original_max_position_embeddings": context,
    }


def _row(metadata: Metadata, name: str) -> list[float]:
    stored = metadata.gguf.tensors.get(name)
    if stored is None or stored.kind != 0 or len(stored.shape) != 1:
        raise ModelDamaged(f"{metadata.gguf.path}: {name} must be a row of F32")
    values: list[float] = metadata.gguf.raw(stored).view("<f4").astype(np.float64).tolist()
    return values


# ------------------------------------------------------------ tensors


@dataclass(frozen=True, slots=True)
class Stored:
    """A tensor of the Hugging Face layout, and how its file has it."""

    tensor: GgufTensor
    heads: int = 0
    """whose rows are in another order; 0 if they are not"""
    offset: float = 0.0
    """what its values have more"""


def stored_tensors(gguf: GgufFile, spec: ModelSpec) -> dict[str, Stored]:
    """The file's tensors under their Hugging Face names. ModelError if it has one that no such
    model reads.
    """
    architecture, expected, found = architecture_of(gguf), spec.tensors(), dict[str, Stored]()
    for name, tensor in gguf.tensors.items():
        mine = dict(_named(architecture, spec, name, tensor))
        is_read = mine.keys() <= expected.keys() if mine else name in (DIVISORS, SHORT_FACTORS, LONG_FACTORS)
        if not is_read:
            raise ModelError(
                f"{gguf.path}: tensor {name!r:.80} is stored, and a model of this configuration reads no such tensor",
                hint="the file must name the architecture that its weights are of",
            )
        found |= mine
    return found


def _named(architecture: Architecture, spec: ModelSpec, name: str, tensor: GgufTensor) -> Iterator[tuple[str, Stored]]:
    names, offset = spec.names, architecture.norm_offset
    around = {"token_embd": names.embedding, "output_norm": names.norm, "output": names.head}
    match = re.fullmatch(r"(?:blk\.(\d{1,4})\.)?(\w+)\.(weight|bias)", name, re.ASCII)
    if match is None:
        return
    block, stem, kind = match.groups()
    if block is None:
        if stem in around:
            yield f"{around[stem]}.{kind}", Stored(tensor, offset=offset if stem == "output_norm" else 0.0)
        return
    index = int(block)
    if stem not in architecture.parts or index >= len(spec.layers):
        return
    part, attention = architecture.parts[stem], spec.layers[index].attention
    if stem.endswith("_exps"):
        n = tensor.shape[0] if len(tensor.shape) == 3 else 0
        for expert in range(n):
            n_bytes = tensor.n_bytes // n
            one = GgufTensor(tensor.shape[1:], tensor.kind, tensor.offset + expert * n_bytes, n_bytes)
            yield f"{names.of(index, part, expert)}.{kind}", Stored(one)
        return
    if part == "shared_router" and len(tensor.shape) == 1:
        tensor = GgufTensor((1, *tensor.shape), tensor.kind, tensor.offset, tensor.n_bytes)
    heads = {"q": attention.n_heads, "k": attention.n_kv_heads}.get(part, 0) if architecture.is_permuted else 0
    yield f"{names.of(index, part)}.{kind}", Stored(tensor, heads, offset if part in NORMS else 0.0)


def row_order(n_rows: int, heads: int) -> npt.NDArray[np.int64]:
    """Reorder the rows of a rotated projection. Some architectures interleave the two halves of
    each head; the Hugging Face layout stores one half after the other.
    """
    return np.arange(n_rows).reshape(heads, -1, 2).swapaxes(1, 2).ravel()


def rows_of(gguf: GgufFile, stored: Stored) -> npt.NDArray[np.uint8]:
    """The stored bytes of each row, in the order of the Hugging Face layout."""
    rows = gguf.raw(stored.tensor).reshape(stored.tensor.shape[0], -1)
    return rows[row_order(len(rows), stored.heads)] if stored.heads else rows
