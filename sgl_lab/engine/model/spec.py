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


@dataclass(frozen=True, slots=True)
class RopeScaling:
    """How rotary frequencies are stretched to a longer context: `linear` divides all of them, `llama3` the slow ones."""

    kind: str
    factor: float
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_context: int = 8192


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
        shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (self.vocab, self.hidden), "model.norm.weight": (self.hidden,)}
        if not self.tied:
            shapes["lm_head.weight"] = (self.vocab, self.hidden)
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

    def __init__(self, data: Mapping[str, Any], origin: str) -> None:
        self._data = data
        self._origin = origin

    def fail(self, what: str) -> ModelError:
        return ModelError(f"{self._origin}: {what}")

    def get(self, key: str) -> Any:
        return self._data.get(key)

    def integer(self, key: str, most: int, default: int | None = None) -> int:
        value = self._data.get(key)
        value = default if value is None else value
        if type(value) is not int or not 1 <= value <= most:
            raise self.fail(f"{key} must be a whole number from 1 to {most}, not {value!r:.60}")
        return value

    def number(self, key: str, default: float | None = None) -> float:
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

    def table(self, key: str) -> _Config | None:
        value = self._data.get(key)
        if value is None:
            return None
        if not isinstance(value, dict):
            raise self.fail(f"{key} must be an object, not {value!r:.60}")
        return _Config(value, f"{self._origin}, {key}")


def _rope(config: _Config, context: int) -> tuple[float, RopeScaling | None]:
    """Theta and scaling, from either spelling: `rope_parameters` (transformers 5) or `rope_theta` with `rope_scaling`."""
    parameters = config.table("rope_parameters")
    theta = (parameters if parameters and parameters.get("rope_theta") is not None else config).number("rope_theta", 10_000.0)
    scaling = parameters or config.table("rope_scaling")
    if scaling is None:
        return theta, None
    match scaling.get("rope_type") or scaling.get("type"):
        case None | "default":
            return theta, None
        case "linear":
            return theta, RopeScaling("linear", scaling.number("factor"))
        case "llama3":
            low, high = scaling.number("low_freq_factor"), scaling.number("high_freq_factor")
            if low >= high:
                raise scaling.fail(f"low_freq_factor {low} must be below high_freq_factor {high}")
            original = scaling.integer("original_max_position_embeddings", _MAX_CONTEXT, context)
            return theta, RopeScaling("llama3", scaling.number("factor"), low, high, original)
        case other:
            raise scaling.fail(f"rotary scaling {other!r:.60} is not supported (linear and llama3 are)")


def _llama(config: _Config) -> LlamaSpec:
    activation = config.get("hidden_act") or "silu"
    if activation != "silu":
        raise config.fail(f"activation {activation!r:.60} is not supported (silu is)")
    if config.get("quantization_config") is not None:
        raise config.fail("quantised safetensors are not supported; use the original weights or a GGUF file")
    hidden = config.integer("hidden_size", _MAX_WIDTH)
    n_heads = config.integer("num_attention_heads", _MAX_WIDTH)
    n_kv_heads = config.integer("num_key_value_heads", n_heads, n_heads)
    head_dim = config.integer("head_dim", _MAX_WIDTH, max(1, hidden // n_heads))
    if n_heads % n_kv_heads:
        raise config.fail(f"num_attention_heads {n_heads} is not a multiple of num_key_value_heads {n_kv_heads}")
    if head_dim % 2:
        raise config.fail(f"head_dim must be even for rotary positions, not {head_dim}")
    trained = config.integer("max_position_embeddings", _MAX_CONTEXT, 2048)
    theta, scaling = _rope(config, trained)
    return LlamaSpec(
        n_layers=config.integer("num_hidden_layers", _MAX_LAYERS),
        hidden=hidden,
        ffn=config.integer("intermediate_size", _MAX_WIDTH),
        n_heads=n_heads,
        n_kv_heads=n_kv_heads,
        head_dim=head_dim,
        vocab=config.integer("vocab_size", _MAX_VOCAB),
        # Inside the window, sliding and full attention are the same thing.
        context=min(trained, config.integer("sliding_window", _MAX_CONTEXT, trained)),
        norm_eps=config.number("rms_norm_eps", 1e-6),
        rope_theta=theta,
        rope_scaling=scaling,
        tied=config.flag("tie_word_embeddings"),
        attention_bias=config.flag("attention_bias"),
        mlp_bias=config.flag("mlp_bias"),
    )


FAMILIES: dict[str, Callable[[_Config], LlamaSpec]] = {"LlamaForCausalLM": _llama, "MistralForCausalLM": _llama}


def spec_from_config(data: Mapping[str, Any], origin: str = "config.json") -> LlamaSpec:
    """The spec that a `config.json` describes. ModelError names the architecture or the key that is not supported."""
    names = data.get("architectures")
    name = names[0] if isinstance(names, list) and names else None
    family = FAMILIES.get(name) if isinstance(name, str) else None
    if family is None:
        raise ModelError(f"{origin}: architecture {name!r:.80} is not supported", hint="supported: " + ", ".join(FAMILIES))
    return family(_Config(data, origin))
