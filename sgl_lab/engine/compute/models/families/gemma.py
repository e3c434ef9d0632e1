"""Gemma 2 and 3 (text): scaled embeddings, norms around each block with 1 added to their weights,
and windows in most layers.
"""

from __future__ import annotations

from dataclasses import replace

from ..config import MAX_LAYERS, Config, rotary, scaled_rotary
from ..spec import ModelSpec, Names, Rotary
from .common import attending, biased, each_layer, llama_like, number_or_none, sliding, window_of


def gemma2(config: Config) -> ModelSpec:
    spec = llama_like(config, splits_hidden=False, activation="hidden_activation", biases=biased(config))
    cap = number_or_none(config, "attn_logit_softcapping")
    spec = attending(spec, lambda attention: replace(attention, softcap=cap))
    return _gemma(config, spec, 2)


def gemma3(config: Config) -> ModelSpec:
    """Layers that slide turn by another base, and their positions are not stretched."""
    if config.flag("use_bidirectional_attention"):
        raise config.fail("attention in both directions is not supported")

    def turning(config: Config, context: int, head_dim: int) -> Rotary:
        return _turning(config, "full_attention", "rope_theta", context, head_dim)

    spec = llama_like(config, splits_hidden=False, activation="hidden_activation", biases=biased(config), turning=turning)
    spec = attending(spec, lambda attention: replace(attention, qk_norm="head"))
    spec = _gemma(config, spec, config.integer("sliding_window_pattern", MAX_LAYERS, 6))
    local = _turning(config, "sliding_attention", "rope_local_base_freq", spec.context, spec.layers[0].attention.head_dim)
    slides = [layer.attention.window is not None for layer in spec.layers]
    return each_layer(
        spec, lambda index, layer: replace(layer, attention=replace(layer.attention, rotary=local)) if slides[index] else layer
    )


def _gemma(config: Config, spec: ModelSpec, period: int) -> ModelSpec:
    """Every `period`-th layer reads the whole context."""
    scale = config.number("query_pre_attn_scalar", has_default=True) ** -0.5
    spec = attending(spec, lambda attention: replace(attention, scale=scale))
    spec = sliding(config, spec, window_of(config), lambda index: (index + 1) % period != 0)
    return replace(
        each_layer(spec, lambda _, layer: replace(layer, norms=("attention_norm", "attention_out_norm", "mlp_norm", "mlp_out_norm"))),
        norm_offset=1.0,
        embedding_scale=spec.hidden**0.5,
        logit_softcap=number_or_none(config, "final_logit_softcapping"),
        names=Names(mlp_norm="pre_feedforward_layernorm"),
    )


def _turning(config: Config, kind: str, key: str, context: int, head_dim: int) -> Rotary:
    """The rotation of one kind of layer: of its own in `rope_parameters`, or by the base `key` and,
    where a layer reads the whole context, `rope_scaling`.
    """
    parameters = config.table("rope_parameters")
    mine = None if parameters is None else parameters.table(kind)
    if mine is None and parameters is not None and not parameters.tables():
        return rotary(config, context, head_dim)
    stretched = config.table("rope_scaling") if kind == "full_attention" else None
    if mine is not None and mine.has("rope_theta"):
        theta = mine.number("rope_theta")
    elif config.get(key) is not None:
        theta = config.number(key)
    else:
        defaults = config.default("rope_parameters")
        of_kind = defaults.get(kind) if isinstance(defaults, dict) else None
        theta = Config(of_kind if isinstance(of_kind, dict) else {}, "transformers").number("rope_theta")
    return scaled_rotary(config, stretched or mine, theta, context, head_dim)
