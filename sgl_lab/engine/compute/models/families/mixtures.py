"""Families with sparse experts: Mixtral, Qwen 2 and 3 MoE."""

from __future__ import annotations

from dataclasses import replace

from ..config import MAX_LAYERS, MAX_WIDTH, Config
from ..spec import Experts, Layer, ModelSpec, Names
from .common import QKV, attending, biased, each_layer, llama_like, sliding, window_of

MAX_EXPERTS = 1024


def mixtral(config: Config) -> ModelSpec:
    spec, experts = llama_like(config, window=window_of(config)), _experts(config, "num_local_experts")
    moe = "block_sparse_moe"
    return replace(
        each_layer(spec, lambda _, layer: replace(layer, feed_forward=replace(layer.feed_forward, experts=experts))),
        names=Names(router=f"{moe}.gate", expert=f"{moe}.experts.{{}}", expert_gate="w1", expert_up="w3", expert_down="w2"),
    )


def qwen2_moe(config: Config) -> ModelSpec:
    spec = llama_like(config, biases=QKV if config.flag("qkv_bias", None) else frozenset())
    window, last = None, 0
    if config.flag("use_sliding_window"):
        window, last = window_of(config), config.integer("max_window_layers", MAX_WIDTH, least=0, has_default=True)
    spec = sliding(config, spec, window, lambda index: index < last and index % 2 == 0)
    return _sparse(config, spec, config.integer("shared_expert_intermediate_size", MAX_WIDTH, has_default=True))


def qwen3_moe(config: Config) -> ModelSpec:
    window = window_of(config) if config.flag("use_sliding_window") else None
    spec = llama_like(config, biases=biased(config), window=window)
    return _sparse(config, attending(spec, lambda attention: replace(attention, qk_norm="head")), 0)


def _experts(config: Config, count: str, shared: int = 0, *, is_normalised: bool = True) -> Experts:
    n, top_k = config.integer(count, MAX_EXPERTS, has_default=True), config.integer("num_experts_per_tok", MAX_EXPERTS, has_default=True)
    if top_k > n:
        raise config.fail(f"num_experts_per_tok {top_k} is more than {count} {n}")
    return Experts(n, top_k, shared, is_normalised)


def _sparse(config: Config, spec: ModelSpec, shared: int) -> ModelSpec:
    """Some layers keep a plain feed-forward."""
    key = "num_local_experts" if config.has("num_local_experts") else "num_experts"
    experts = _experts(config, key, shared, is_normalised=config.flag("norm_topk_prob", None))
    width = config.integer("moe_intermediate_size", MAX_WIDTH, has_default=True)
    step, plain = config.integer("decoder_sparse_step", MAX_LAYERS, has_default=True), config.get("mlp_only_layers") or []
    if not isinstance(plain, list):
        raise config.fail(f"mlp_only_layers must be a list, not {plain!r:.60}")

    def change(index: int, layer: Layer) -> Layer:
        is_plain = index in plain or (index + 1) % step
        return layer if is_plain else replace(layer, feed_forward=replace(layer.feed_forward, width=width, experts=experts))

    return each_layer(spec, change)
