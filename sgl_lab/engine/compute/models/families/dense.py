"""Families that differ from a Llama in a few numbers: Llama, Mistral, Phi-3 and 4, OLMo 2, Granite,
SmolLM 3, Arcee.
"""

from __future__ import annotations

from dataclasses import replace

from ..config import Config
from ..spec import ModelSpec, Names
from .common import attending, biased, each_layer, llama_like, sliding, window_of


def llama(config: Config) -> ModelSpec:
    """No Llama slides; a window in the configuration of one comes from a converter, and no sequence
    gets longer than that.
    """
    spec = llama_like(config, biases=biased(config), mlp_bias=config.flag("mlp_bias"))
    window = window_of(config) if config.has("sliding_window") else None
    return replace(spec, context=min(spec.context, window or spec.context))


def mistral(config: Config) -> ModelSpec:
    """As in transformers, without biases whatever the configuration contains."""
    return llama_like(config, window=window_of(config))


def phi3(config: Config) -> ModelSpec:
    """Its q, k and v are stored as one tensor, and so are gate and up. Phi-4 is of this family too."""
    fused, both = "self_attn.qkv_proj", "mlp.gate_up_proj"
    return replace(llama_like(config, window=window_of(config)), names=Names(q=fused, k=fused, v=fused, gate=both, up=both))


def olmo2(config: Config) -> ModelSpec:
    spec = attending(llama_like(config, biases=biased(config)), lambda attention: replace(attention, qk_norm="whole"))
    spec = each_layer(spec, lambda _, layer: replace(layer, norms=("attention_out_norm", "mlp_out_norm")))
    return replace(spec, names=Names(attention_out_norm="post_attention_layernorm"))


def granite(config: Config) -> ModelSpec:
    scale = config.number("attention_multiplier", 1.0)
    spec = llama_like(config, biases=biased(config), mlp_bias=config.flag("mlp_bias"))
    return replace(
        attending(spec, lambda attention: replace(attention, scale=scale)),
        embedding_scale=config.number("embedding_multiplier", 1.0),
        residual_scale=config.number("residual_multiplier", 1.0),
        logit_scale=1 / config.number("logits_scaling", 1.0),
    )


def smollm3(config: Config) -> ModelSpec:
    """Some layers have no rotary positions, and only those slide."""
    spec = llama_like(config, biases=biased(config), mlp_bias=config.flag("mlp_bias"))
    interval, given = config.get("no_rope_layer_interval"), config.get("no_rope_layers")
    turns = given if given is not None else config.default("no_rope_layers")
    if not isinstance(turns, list) or len(turns) != len(spec.layers) or any(turn not in (0, 1) for turn in turns):
        raise config.fail(f"no_rope_layers must be {len(spec.layers)} times 0 or 1, not {turns!r:.60} (interval {interval!r:.20})")
    window = window_of(config) if config.flag("use_sliding_window") else None
    spec = sliding(config, spec, window, lambda index: not turns[index])
    return each_layer(spec, lambda index, layer: layer if turns[index] else replace(layer, attention=replace(layer.attention, rotary=None)))


def arcee(config: Config) -> ModelSpec:
    spec = llama_like(config, biases=biased(config), mlp_bias=config.flag("mlp_bias"))
    return each_layer(spec, lambda _, layer: replace(layer, feed_forward=replace(layer.feed_forward, is_gated=False)))
