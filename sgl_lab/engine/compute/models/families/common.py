"""What families share: the common part of a decoder, and how one differs from it layer by layer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from ..config import MAX_CONTEXT, MAX_LAYERS, MAX_VOCAB, MAX_WIDTH, Config, rotary
from ..spec import Activation, Attention, FeedForward, Layer, ModelSpec, Projection, Rotary

QKV: frozenset[Projection] = frozenset(("q", "k", "v"))
QKVO: frozenset[Projection] = QKV | {"o"}

_ACTIVATIONS: dict[object, Activation] = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
    "relu": "relu",
    "relu2": "relu2",
}


def llama_like(
    config: Config,
    *,
    splits_hidden: bool = True,
    activation: str = "hidden_act",
    biases: frozenset[Projection] = frozenset(),
    mlp_bias: bool = False,
    window: int | None = None,
    turning: Callable[[Config, int, int], Rotary] = rotary,
) -> ModelSpec:
    """The common part of most families: RMS norms before the blocks, rotary positions,
    grouped-query attention, a gated feed-forward.

    `splits_hidden`: without a `head_dim`, heads share the hidden size. `activation` is the key of
    the activation. `turning` reads the rotary positions.
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
    turns = turning(config, trained, head_dim)
    limit = turns.scaling.original_context if turns.scaling is not None and turns.scaling.kind == "longrope" else trained
    attention = Attention(n_heads, n_kv_heads, head_dim, turns, window=window, biases=biases)
    feed_forward = FeedForward(config.integer("intermediate_size", MAX_WIDTH), _ACTIVATIONS[named], has_bias=mlp_bias)
    return ModelSpec(
        layers=(Layer(attention, feed_forward),) * config.integer("num_hidden_layers", MAX_LAYERS),
        hidden=hidden,
        vocab=config.integer("vocab_size", MAX_VOCAB),
        context=limit,
        norm_eps=config.number("rms_norm_eps", has_default=True),
        tied=config.flag("tie_word_embeddings", None),
    )


def window_of(config: Config) -> int | None:
    """`sliding_window`; null means none."""
    window = config.get("sliding_window") if config.has("sliding_window") else config.default("sliding_window")
    if window is not None and (type(window) is not int or not 1 <= window <= MAX_CONTEXT):
        raise config.fail(f"sliding_window must be a whole number from 1 to {MAX_CONTEXT}, not {window!r:.60}")
    return window


def biased(config: Config) -> frozenset[Projection]:
    """The projections with biases of a family that has `attention_bias`."""
    return QKVO if config.flag("attention_bias") else frozenset()


def number_or_none(config: Config, key: str) -> float | None:
    """Null is None."""
    value = config.get(key) if config.has(key) else config.default(key)
    return None if value is None else config.number(key, has_default=True)


def each_layer(spec: ModelSpec, change: Callable[[int, Layer], Layer]) -> ModelSpec:
    return replace(spec, layers=tuple(change(index, layer) for index, layer in enumerate(spec.layers)))


def attending(spec: ModelSpec, change: Callable[[Attention], Attention]) -> ModelSpec:
    """Every layer's attention changed."""
    return each_layer(spec, lambda _, layer: replace(layer, attention=change(layer.attention)))


def sliding(config: Config, spec: ModelSpec, window: int | None, slides: Callable[[int], bool]) -> ModelSpec:
    """The layers that `layer_types` names, or without it those that `slides` names, attend to
    `window` tokens.
    """
    kinds = config.get("layer_types")
    if kinds is not None:
        n = len(spec.layers)
        if not isinstance(kinds, list) or len(kinds) != n or not {*map(str, kinds)} <= {"full_attention", "sliding_attention"}:
            raise config.fail(f"layer_types must be {n} times full_attention or sliding_attention, not {kinds!r:.80}")
        marked = [kind == "sliding_attention" for kind in kinds]
        slides = marked.__getitem__

    def change(index: int, layer: Layer) -> Layer:
        return replace(layer, attention=replace(layer.attention, window=window if slides(index) else None))

    return each_layer(spec, change)
