"""What a model is, in numbers: read once from a `config.json`, checked, and frozen.

GGUF files are converted to the same configuration first (`convert`), so there is one reader a
family. A further family is a further entry in `FAMILIES`. Knows no torch and no weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ...contracts.errors import ModelError

# Far beyond any published model; a damaged file must not make us allocate by its numbers.
_MAX_LAYERS = 1024
_MAX_WIDTH = 1 << 20
_MAX_VOCAB = 1 << 21
_MAX_CONTEXT = 1 << 27


EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


@dataclass(frozen=True, slots=True)
class RopeScaling:
    """How rotary frequencies are stretched to a longer context: `linear` divides all of them, `llama3` the slow ones, and
    `longrope` each by a divisor of its own."""

    kind: str
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_context: int = 8192
    divisors: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class LlamaSpec:
    """The Llama architecture: pre-norm RMSNorm blocks, rotary positions, grouped-query attention, SwiGLU."""

    n_layers: int
    hidden: int
    ffn: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    vocab: int
    context: int
    """longest sequence in tokens; already the sliding window where a model has one"""
    norm_eps: float
    rope_theta: float
    rope_scaling: RopeScaling | None
    tied: bool
    """the output head is the embedding"""
    attention_bias: bool
    mlp_bias: bool

    def tensors(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of every tensor of a checkpoint in the Hugging Face layout."""
        q, kv = self.n_heads * self.head_dim, self.n_kv_heads * self.head_dim
        linears = {
            "self_attn.q_proj": (q, self.hidden, self.attention_bias),
            "self_attn.k_proj": (kv, self.hidden, self.attention_bias),
            "self_attn.v_proj": (kv, self.hidden, self.attention_bias),
            "self_attn.o_proj": (self.hidden, q, self.attention_bias),
            "mlp.gate_proj": (self.ffn, self.hidden, self.mlp_bias),
            "mlp.up_proj": (self.ffn, self.hidden, self.mlp_bias),
            "mlp.down_proj": (self.hidden, self.ffn, self.mlp_bias),
        }
        shapes: dict[str, tuple[int, ...]] = {EMBEDDING: (self.vocab, self.hidden), "model.norm.weight": (self.hidden,)}
        if not self.tied:
            shapes[HEAD] = (self.vocab, self.hidden)
        for layer in range(self.n_layers):
            prefix = f"model.layers.{layer}."
            shapes[prefix + "input_layernorm.weight"] = (self.hidden,)
            shapes[prefix + "post_attention_layernorm.weight"] = (self.hidden,)
            for name, (n_out, n_in, bias) in linears.items():
                shapes[f"{prefix}{name}.weight"] = (n_out, n_in)
                if bias:
                    shapes[f"{prefix}{name}.bias"] = (n_out,)
        return shapes

    def kv_bytes_per_token(self, itemsize: int) -> int:
        """Bytes of keys and values of one position over all layers."""
        return 2 * self.n_layers * self.n_kv_heads * self.head_dim * itemsize

    @property
    def n_params(self) -> int:
        return sum(math.prod(shape) for shape in self.tensors().values())


class _Config:
    """Typed access to a configuration of unknown origin; whatever is wrong becomes a ModelError that names the key."""

    def __init__(self, data: Mapping[Any, Any], origin: str) -> None:
        self._data = data
        self._origin = origin

    def fail(self, what: str) -> ModelError:
        return ModelError(f"{self._origin}: {what}")

    def get(self, key: str, default: object = None) -> Any:
        return self._data.get(key, default)

    def has(self, key: str) -> bool:
        return key in self._data

    def integer(self, key: str, most: int, default: int | None = None) -> int:
        value = self._data.get(key)
        value = default if value is None else value
        if type(value) is not int or not 1 <= value <= most:
            raise self.fail(f"{key} must be a whole number from 1 to {most}, not {value!r:.60}")
        return value

    def number(self, key: str | int, default: float | None = None) -> float:
        value = self._data.get(key)
        value = default if value is None else value
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e12:
            raise self.fail(f"{key} must be a number above 0, not {value!r:.60}")
        return float(value)

    def flag(self, key: str, default: bool = False) -> bool:
        value = self._data.get(key)
        value = default if value is None else value
        if not isinstance(value, bool):
            raise self.fail(f"{key} must be true or false, not {value!r:.60}")
        return value

    def numbers(self, key: str, n: int) -> tuple[float, ...]:
        value = self._data.get(key)
        if not isinstance(value, list) or len(value) != n:
            raise self.fail(f"{key} must be a list of {n} numbers")
        entries = _Config(dict(enumerate(value)), f"{self._origin}, {key}")
        return tuple(entries.number(index) for index in range(n))

    def expect(self, key: str, *values: object) -> None:
        """ModelError unless the key is missing or has one of these values, with which it changes nothing."""
        if key in self._data and self._data[key] not in values:
            raise self.fail(f"{key} {self._data[key]!r:.60} is not supported")

    def table(self, key: str) -> _Config | None:
        """None where it is missing or empty."""
        value = self._data.get(key)
        if value is None:
            return None
        if not isinstance(value, dict):
            raise self.fail(f"{key} must be an object, not {value!r:.60}")
        return _Config(value, f"{self._origin}, {key}") if value else None

    def tables(self) -> list[str]:
        """The keys whose values are objects."""
        return [str(key) for key, value in self._data.items() if isinstance(value, dict)]


def _rope(config: _Config, context: int, head_dim: int) -> tuple[float, RopeScaling | None]:
    """Theta and scaling, from either spelling: `rope_parameters` (transformers 5) or `rope_theta` with `rope_scaling`, which wins."""
    scaling = next((found for key in ("rope_scaling", "rope_parameters") if (found := config.table(key))), None)
    if scaling is None:
        return config.number("rope_theta", 10_000.0), None
    if nested := scaling.tables():
        raise scaling.fail(f"rotary positions that differ from layer to layer are not supported ({', '.join(nested):.80})")
    scaling.expect("partial_rotary_factor", None, 1)
    theta = (scaling if scaling.get("rope_theta") is not None else config).number("rope_theta", 10_000.0)
    original = config if config.get(_ORIGINAL) is not None else scaling
    match scaling.get("rope_type", scaling.get("type", "default")):
        case "default":
            return theta, None
        case "dynamic":  # stretches beyond the trained context only, and no sequence is longer
            scaling.number("factor")
            return theta, None
        case "linear":
            return theta, RopeScaling("linear", scaling.number("factor"))
        case "llama3":
            low, high = scaling.number("low_freq_factor"), scaling.number("high_freq_factor")
            if low >= high:
                raise scaling.fail(f"low_freq_factor {low} must be below high_freq_factor {high}")
            return theta, RopeScaling("llama3", scaling.number("factor"), low, high, original.integer(_ORIGINAL, _MAX_CONTEXT, context))
        case "longrope" if scaling.get("short_factor") == scaling.get("long_factor") and scaling.get("attention_factor") == 1:
            return theta, RopeScaling("longrope", divisors=scaling.numbers("long_factor", head_dim // 2))
        case other:
            raise scaling.fail(
                f"rotary scaling {other!r:.60} is not supported (linear, dynamic, llama3, and longrope with one list of factors are)"
            )


_NEUTRAL: dict[str, tuple[object, ...]] = {
    "add_cross_attention": (None, False),
    "alibi": (None, False),
    "attention_multiplier": (None,),
    "attn_logit_softcapping": (None,),
    "clip_qkv": (None,),
    "embedding_multiplier": (None, 1),
    "final_logit_softcapping": (None,),
    "is_encoder_decoder": (None, False),
    "logit_scale": (None, 1),
    "logits_scaling": (None, 1),
    "no_rope_layers": (None, []),
    "n_routed_experts": (None, 0),
    "num_experts": (None, 0),
    "num_local_experts": (None, 0),
    "parallel_attn": (None, False),
    "partial_rotary_factor": (None, 1),
    "query_pre_attn_scalar": (None,),
    "residual_multiplier": (None, 1),
    "rope_interleaved": (None, False),
    "rotary_pct": (None, 1),
    "use_parallel_residual": (None, False),
    "use_qk_norm": (None, False),
}
"""What relatives of the family are configured by, with the values that leave it the family."""

_ORIGINAL = "original_max_position_embeddings"
_QUANTISED = ("quantization_config", "quantization", "compression_config")


def _llama(config: _Config) -> LlamaSpec:
    return _common(
        config, window=config.get("sliding_window"), attention_bias=config.flag("attention_bias"), mlp_bias=config.flag("mlp_bias")
    )


def _mistral(config: _Config) -> LlamaSpec:
    """As transformers, without biases whatever the configuration says; and its defaults are others."""
    return _common(config, kv_heads=8, context=4096 * 32, window=config.get("sliding_window", 4096))


def _common(
    config: _Config,
    *,
    window: object,
    kv_heads: int | None = None,
    context: int = 2048,
    attention_bias: bool = False,
    mlp_bias: bool = False,
) -> LlamaSpec:
    """`kv_heads` and `context` are what the family has where its configuration says nothing."""
    activation = config.get("hidden_act") or "silu"
    if activation not in ("silu", "swish"):
        raise config.fail(f"activation {activation!r:.60} is not supported (silu is)")
    for key in _QUANTISED:
        if config.get(key) is not None:
            raise config.fail(f"quantised safetensors ({key}) are not supported; use the original weights or a GGUF file")
    for key, values in _NEUTRAL.items():
        config.expect(key, *values)
    kinds = config.get("layer_types")
    if kinds is not None and (not isinstance(kinds, list) or any(kind != "full_attention" for kind in kinds)):
        raise config.fail("layer_types other than full_attention are not supported")
    hidden = config.integer("hidden_size", _MAX_WIDTH)
    n_heads = config.integer("num_attention_heads", _MAX_WIDTH)
    n_kv_heads = config.integer(
        "num_key_value_heads", n_heads, n_heads if kv_heads is None or config.has("num_key_value_heads") else kv_heads
    )
    head_dim = config.integer("head_dim", _MAX_WIDTH, max(1, hidden // n_heads))
    if n_heads % n_kv_heads:
        raise config.fail(f"num_attention_heads {n_heads} is not a multiple of num_key_value_heads {n_kv_heads}")
    if head_dim % 2:
        raise config.fail(f"head_dim must be even for rotary positions, not {head_dim}")
    trained = config.integer("max_position_embeddings", _MAX_CONTEXT, context)
    theta, scaling = _rope(config, trained, head_dim)
    if window is not None and (type(window) is not int or not 1 <= window <= _MAX_CONTEXT):
        raise config.fail(f"sliding_window must be a whole number from 1 to {_MAX_CONTEXT}, not {window!r:.60}")
    return LlamaSpec(
        n_layers=config.integer("num_hidden_layers", _MAX_LAYERS),
        hidden=hidden,
        ffn=config.integer("intermediate_size", _MAX_WIDTH),
        n_heads=n_heads,
        n_kv_heads=n_kv_heads,
        head_dim=head_dim,
        vocab=config.integer("vocab_size", _MAX_VOCAB),
        # Inside the window, sliding and full attention are the same thing.
        context=trained if window is None else min(trained, window),
        norm_eps=config.number("rms_norm_eps", 1e-6),
        rope_theta=theta,
        rope_scaling=scaling,
        tied=config.flag("tie_word_embeddings"),
        attention_bias=attention_bias,
        mlp_bias=mlp_bias,
    )


FAMILIES: dict[str, str] = {"LlamaForCausalLM": "llama", "MistralForCausalLM": "mistral"}
"""architecture -> its model_type"""

_READERS: dict[str, Callable[[_Config], LlamaSpec]] = {"llama": _llama, "mistral": _mistral}


def spec_from_config(data: Mapping[str, Any], origin: str = "config.json") -> LlamaSpec:
    """The spec that a `config.json` describes. ModelError names the architecture or the key that is not supported."""
    names = data.get("architectures")
    name = names[0] if isinstance(names, list) and names else None
    if not isinstance(name, str) or name not in FAMILIES:
        raise ModelError(f"{origin}: architecture {name!r:.80} is not supported", hint="supported: " + ", ".join(FAMILIES))
    kind = data.get("model_type") or FAMILIES[name]
    if not isinstance(kind, str) or kind not in _READERS:  # it decides in transformers
        raise ModelError(f"{origin}: architecture {name} with model_type {kind!r:.60} is not supported")
    return _READERS[kind](_Config(data, origin))
