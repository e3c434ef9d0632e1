"""Families that the product does not read yet, each as the function that it will be: what a `ModelSpec` has to carry."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from sgl_lab.engine.compute.models.config import MAX_WIDTH, Config, rotary
from sgl_lab.engine.compute.models.families import FAMILIES, QKV, QKVO, Family, llama_like, window_of
from sgl_lab.engine.compute.models.spec import Experts, Layer, ModelSpec, Names


def each(spec: ModelSpec, change: Callable[[int, Layer], Layer]) -> ModelSpec:
    return replace(spec, layers=tuple(change(index, layer) for index, layer in enumerate(spec.layers)))


def attending(spec: ModelSpec, **changes: Any) -> ModelSpec:
    """Every layer's attention changed."""
    return each(spec, lambda _, layer: replace(layer, attention=replace(layer.attention, **changes)))


def sliding(spec: ModelSpec, window: int | None, slides: Callable[[int], bool]) -> ModelSpec:
    def change(index: int, layer: Layer) -> Layer:
        return replace(layer, attention=replace(layer.attention, window=window if slides(index) else None))

    return each(spec, change)


def number(config: Config, key: str) -> float | None:
    """Null is None."""
    return None if config.has(key) and config.get(key) is None else config.number(key, has_default=True)


def qwen2(config: Config, **options: Any) -> ModelSpec:
    spec = llama_like(config, **({"biases": QKV} | options))
    slides = config.flag("use_sliding_window")
    window, first = (window_of(config), config.integer("max_window_layers", MAX_WIDTH, has_default=True)) if slides else (None, 0)
    return sliding(spec, window, lambda index: index >= first)


def qwen3(config: Config) -> ModelSpec:
    return attending(qwen2(config, splits_hidden=False, biases=QKVO if config.flag("attention_bias") else frozenset()), qk_norm="head")


def gemma2(config: Config) -> ModelSpec:
    spec = llama_like(config, splits_hidden=False, activation="hidden_activation")
    cap, scalar = number(config, "attn_logit_softcapping"), config.number("query_pre_attn_scalar", has_default=True)
    spec = sliding(attending(spec, softcap=cap, scale=scalar**-0.5), window_of(config), lambda index: index % 2 == 0)
    return replace(
        each(spec, lambda _, layer: replace(layer, norms=("attention_norm", "attention_out_norm", "mlp_norm", "mlp_out_norm"))),
        norm_offset=1.0,
        embedding_scale=spec.hidden**0.5,
        logit_softcap=number(config, "final_logit_softcapping"),
        names=Names(mlp_norm="pre_feedforward_layernorm"),
    )


def mixtral(config: Config) -> ModelSpec:
    count, top_k = (config.integer(key, MAX_WIDTH, has_default=True) for key in ("num_local_experts", "num_experts_per_tok"))
    spec, experts = llama_like(config, window=window_of(config)), Experts(count, top_k)
    moe = "block_sparse_moe"
    return replace(
        each(spec, lambda _, layer: replace(layer, feed_forward=replace(layer.feed_forward, experts=experts))),
        names=Names(router=f"{moe}.gate", expert=f"{moe}.experts.{{}}", gate="w1", up="w3", down="w2"),
    )


def phi3(config: Config) -> ModelSpec:
    """Its q, k and v are stored as one tensor, and so are gate and up."""
    spec = llama_like(config, window=window_of(config))
    fused, both = "self_attn.qkv_proj", "mlp.gate_up_proj"
    spec = replace(spec, names=Names(q=fused, k=fused, v=fused, gate=both, up=both))
    head_dim = spec.only.attention.head_dim
    turning = replace(rotary(config, spec.context, head_dim), dims=int(head_dim * config.number("partial_rotary_factor", 1.0)))
    return attending(spec, rotary=turning)


def olmo2(config: Config) -> ModelSpec:
    return each(
        attending(llama_like(config), qk_norm="whole"), lambda _, layer: replace(layer, norms=("attention_out_norm", "mlp_out_norm"))
    )


def granite(config: Config) -> ModelSpec:
    return replace(
        attending(llama_like(config), scale=config.number("attention_multiplier", 1.0)),
        embedding_scale=config.number("embedding_multiplier", 1.0),
        residual_scale=config.number("residual_multiplier", 1.0),
        logit_scale=1 / config.number("logits_scaling", 1.0),
    )


def smollm3(config: Config) -> ModelSpec:
    spec = llama_like(config)
    turns = config.get("no_rope_layers") or config.default("no_rope_layers")
    return each(spec, lambda index, layer: layer if turns[index] else replace(layer, attention=replace(layer.attention, rotary=None)))


def arcee(config: Config) -> ModelSpec:
    spec = llama_like(config)
    return each(spec, lambda _, layer: replace(layer, feed_forward=replace(layer.feed_forward, is_gated=False)))


ALL = (
    *FAMILIES,
    Family("Qwen2ForCausalLM", "qwen2", qwen2),
    Family("Qwen3ForCausalLM", "qwen3", qwen3),
    Family("Gemma2ForCausalLM", "gemma2", gemma2),
    Family("MixtralForCausalLM", "mixtral", mixtral),
    Family("Phi3ForCausalLM", "phi3", phi3),
    Family("Olmo2ForCausalLM", "olmo2", olmo2),
    Family("GraniteForCausalLM", "granite", granite),
    Family("SmolLM3ForCausalLM", "smollm3", smollm3),
    Family("ArceeForCausalLM", "arcee", arcee),
)
