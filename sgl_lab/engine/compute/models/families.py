"""The families: of each a function from its `config.json` to a `ModelSpec`, which has the names of its tensors.

GGUF files are converted to the same configuration first (`convert`), so there is one reader a family.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import NamedTuple

from ....contracts.errors import ModelError
from .config import MAX_CONTEXT, MAX_LAYERS, MAX_VOCAB, MAX_WIDTH, Config, rotary
from .spec import Activation, Attention, FeedForward, Layer, ModelSpec, Projection

QKV: frozenset[Projection] = frozenset(("q", "k", "v"))
QKVO: frozenset[Projection] = QKV | {"o"}

_ACTIVATIONS: dict[object, Activation] = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
    "relu": "relu",
}

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
"""Keys beyond those of `llama_like`, with the values that change nothing. A family that supports
such a key reads it. A model with another value of a key that was not read is refused.
"""

_QUANTISED = ("quantization_config", "quantization", "compression_config")


def llama_like(
    config: Config,
    *,
    splits_hidden: bool = True,
    activation: str = "hidden_act",
    biases: frozenset[Projection] = frozenset(),
    mlp_bias: bool = False,
    window: int | None = None,
) -> ModelSpec:
    """The common part of most families: RMS norms before the blocks, rotary positions,
    grouped-query attention, a gated feed-forward.

    `splits_hidden`: without a `head_dim`, heads share the hidden size. `activation` is the key of
    the activation.
    """
    named = config.get(activation) or config.default(activation)
    if not isinstance(named, str) or named not in _ACTIVATIONS:
        raise config.fail(f"activation {named!r:.60} is not supported ({', '.join(map(str, _ACTIVATIONS))} are)")
    hidden = config.integer("hidden_size", MAX_WIDTH)
    n_heads = config.integer("num_attention_heads", MAX_WIDTH)
    each_its_own = n_heads if config.has("num_key_value_heads") else None  # null
    n_kv_heads = config.integer("num_key_value_heads", n_heads, each_its_own, has_default=True)
    head_dim = config.integer("head_dim", MAX_WIDTH, max(1, hidden // n_heads) if splits_hidden else None, has_default=True)
    if n_heads % n_kv_heads:
        raise config.fail(f"num_attention_heads {n_heads} is not a multiple of num_key_value_heads {n_kv_heads}")
    if head_dim % 2:
        raise config.fail(f"head_dim must be even for rotary positions, not {head_dim}")
    trained = config.integer("max_position_embeddings", MAX_CONTEXT, has_default=True)
    attention = Attention(n_heads, n_kv_heads, head_dim, rotary(config, trained, head_dim), window=window, biases=biases)
    feed_forward = FeedForward(config.integer("intermediate_size", MAX_WIDTH), _ACTIVATIONS[named], has_bias=mlp_bias)
    return ModelSpec(
        layers=(Layer(attention, feed_forward),) * config.integer("num_hidden_layers", MAX_LAYERS),
        hidden=hidden,
        vocab=config.integer("vocab_size", MAX_VOCAB),
        context=trained,
        norm_eps=config.number("rms_norm_eps", has_default=True),
        tied=config.flag("tie_word_embeddings", None),
    )


def window_of(config: Config) -> int | None:
    """`sliding_window`; null means none."""
    window = config.get("sliding_window") if config.has("sliding_window") else config.default("sliding_window")
    if window is not None and (type(window) is not int or not 1 <= window <= MAX_CONTEXT):
        raise config.fail(f"sliding_window must be a whole number from 1 to {MAX_CONTEXT}, not {window!r:.60}")
    return window


def _llama(config: Config) -> ModelSpec:
    """No Llama slides; a window in the configuration of one comes from a converter, and no sequence gets longer than that."""
    spec = llama_like(config, biases=QKVO if config.flag("attention_bias") else frozenset(), mlp_bias=config.flag("mlp_bias"))
    window = window_of(config) if config.has("sliding_window") else None
    return replace(spec, context=min(spec.context, window or spec.context))


def _mistral(config: Config) -> ModelSpec:
    """As in transformers, without biases whatever the configuration contains."""
    return llama_like(config, window=window_of(config))


class Family(NamedTuple):
    architecture: str
    model_type: str
    read: Callable[[Config], ModelSpec]


FAMILIES = (Family("LlamaForCausalLM", "llama", _llama), Family("MistralForCausalLM", "mistral", _mistral))


def spec_from_config(data: Mapping[str, object], origin: str = "config.json", families: tuple[Family, ...] = FAMILIES) -> ModelSpec:
    """The spec that a `config.json` describes. ModelError names the architecture or the key that is not supported."""
    names = data.get("architectures")
    name = names[0] if isinstance(names, list) and names else None
    named = next((family for family in families if family.architecture == name), None)
    if named is None:
        hint = "supported: " + ", ".join(family.architecture for family in families)
        raise ModelError(f"{origin}: architecture {name!r:.80} is not supported", hint=hint)
    kind = data.get("model_type") or named.model_type
    family = next((family for family in families if family.model_type == kind), None)  # it decides in transformers
    if family is None:
        raise ModelError(f"{origin}: architecture {name} with model_type {kind!r:.60} is not supported")
    config = Config(data, origin, family.model_type)
    for key in _QUANTISED:
        if config.get(key) is not None:
            raise config.fail(f"quantised safetensors ({key}) are not supported; use the original weights or a GGUF file")
    spec = family.read(config)
    for key, values in _NEUTRAL.items():
        config.expect(key, *values)
    kinds = [] if config.was_read("layer_types") else config.get("layer_types") or []
    if not isinstance(kinds, list) or any(kind != "full_attention" for kind in kinds):
        raise config.fail("layer_types other than full_attention are not supported")
    return spec
