"""Which kinds of layers each executor computes. Only this module rejects a model, before any weight
is read.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal, get_args

from ....contracts.errors import BackendUnsupported, BadArgument, ModelError
from ....contracts.spans import Block
from .spec import Layer, ModelSpec

Kind = Literal[
    "softcap", "qk_norm", "scale", "no_rotary", "partial_rotary", "norms", "experts", "gelu", "gelu_tanh", "relu", "relu2", "ungated",
    "norm_offset", "embedding_scale", "residual_scale", "logit_scale", "logit_softcap",
]  # fmt: skip
"""kinds that a Llama does not have; the first line applies to a layer"""
KINDS: tuple[Kind, ...] = get_args(Kind)
PORTED: frozenset[Kind] = frozenset((
    "softcap", "qk_norm", "scale", "no_rotary", "partial_rotary", "norms", "experts", "gelu", "gelu_tanh", "relu", "relu2", "ungated",
    "norm_offset", "embedding_scale", "residual_scale", "logit_scale", "logit_softcap",
))  # fmt: skip
"""those that the native step and the GPU step compute too; a new kind is torch's alone until it is written
there
"""


@dataclass(frozen=True, slots=True)
class Executor:
    """What it computes besides the layers of a Llama, with biases anywhere and any rotary frequencies.

    windows   whether layers may slide; else no sequence gets longer than the shortest window,
              within which nothing slides
    alike     whether all layers have to be alike; else only their heads, or nothing
    multiple  of what the widths have to be
    blocks    whether the embeddings of positions may be given, as those of an image's patches
    hint      what to do with a model that torch could compute
    """

    name: str
    computes: frozenset[Kind] = frozenset()
    windows: bool = False
    alike: Literal["layers", "heads"] | None = "layers"
    multiple: int = 1
    blocks: bool = False
    hint: str = ""


TORCH = Executor("torch", frozenset(KINDS), windows=True, alike=None, blocks=True)
FOREIGN = Executor("transformers", windows=True, alike=None)
NATIVE = Executor("the native step", PORTED, windows=True, alike="heads", multiple=32, hint="use dtype float32")
GPU = Executor("the GPU step", PORTED, windows=True, alike="heads", hint="use device cpu")
PACKED_GPU = replace(GPU, computes=GPU.computes - {"experts"}, multiple=32, hint="use dtype bfloat16")


def _kinds(layer: Layer) -> Iterator[tuple[Kind, str]]:
    """The features of a layer beyond a Llama's, each as a kind and in words."""
    attention, feed_forward = layer.attention, layer.feed_forward
    if attention.softcap is not None:
        yield "softcap", f"attention scores capped at {attention.softcap:g}"
    if attention.qk_norm is not None:
        yield "qk_norm", "norms of q and k"
    if attention.scale is not None:
        yield "scale", f"attention scores scaled by {attention.scale:g}"
    if attention.rotary is None:
        yield "no_rotary", "no rotary positions"
    elif attention.rotary.dims != attention.head_dim:
        yield "partial_rotary", f"rotary positions on {attention.rotary.dims} of {attention.head_dim} dimensions"
    if layer.norms != ("attention_norm", "mlp_norm"):
        yield "norms", f"the norms {', '.join(layer.norms)}"
    if feed_forward.experts is not None:
        yield "experts", f"{feed_forward.experts.count} experts"
    if feed_forward.activation != "silu":
        yield feed_forward.activation, f"the activation {feed_forward.activation}"
    if not feed_forward.is_gated:
        yield "ungated", "a feed-forward without a gate"


def _around(spec: ModelSpec) -> Iterator[tuple[Kind, str]]:
    """The same for what surrounds the layers."""
    if spec.norm_offset:
        yield "norm_offset", f"norms with weights beside {spec.norm_offset:g}"
    if spec.embedding_scale != 1:
        yield "embedding_scale", f"embeddings scaled by {spec.embedding_scale:g}"
    if spec.residual_scale != 1:
        yield "residual_scale", f"residuals scaled by {spec.residual_scale:g}"
    if spec.logit_scale != 1:
        yield "logit_scale", f"logits scaled by {spec.logit_scale:g}"
    if spec.logit_softcap is not None:
        yield "logit_softcap", f"logits capped at {spec.logit_softcap:g}"


def unfit(spec: ModelSpec, executor: Executor) -> str | None:
    """Why the executor cannot compute the model: the first unsupported layer and its kind. None if
    it can.
    """
    for index, layer in enumerate(spec.layers):
        for kind, words in _kinds(layer):
            if kind not in executor.computes:
                return f"layer {index} has {words}, which {executor.name} does not compute"
    for kind, words in _around(spec):
        if kind not in executor.computes:
            return f"it has {words}, which {executor.name} does not compute"
    layers = spec.layers if executor.windows else _without_windows(spec).layers
    for index, layer in enumerate(layers):
        if executor.alike == "layers" and layer != layers[0]:
            return f"layer {index} is not like layer 0, and {executor.name} computes layers that are all alike"
        if executor.alike == "heads" and _heads(layer) != _heads(layers[0]):
            return f"layer {index} has other heads than layer 0, which {executor.name} does not compute"
        widths = {"hidden_size": spec.hidden, "intermediate_size": layer.feed_forward.width, "head_dim": layer.attention.head_dim}
        if layer.feed_forward.experts is not None:
            widths |= {"shared_expert_intermediate_size": layer.feed_forward.experts.shared}
        for name, value in widths.items():
            if value % executor.multiple:
                return f"{name} {value} is not a multiple of {executor.multiple}, which {executor.name} needs"
    return None


def _heads(layer: Layer) -> tuple[int, int, int]:
    return layer.attention.n_heads, layer.attention.n_kv_heads, layer.attention.head_dim


def fitted(spec: ModelSpec, executor: Executor, name: str = "the model") -> ModelSpec:
    """The model as the executor computes it. ModelError names an unsupported layer and its kind."""
    if reason := unfit(spec, executor):
        raise ModelError(f"{name} cannot be computed: {reason}", hint=executor.hint if unfit(spec, TORCH) is None else "")
    return spec if executor.windows else _without_windows(spec)


def check_block(block: Block, spec: ModelSpec, executor: Executor) -> None:
    """BackendUnsupported if the executor computes no blocks; BadArgument if this one does not fit
    the model.
    """
    content, rows = block.content, block.embeddings
    if not executor.blocks:
        raise BackendUnsupported(f"{executor.name} does not compute embedded blocks, such as this {content.kind}", hint=executor.hint)
    if rows is None or rows.format != "f" or rows.shape != (content.n, spec.hidden) or not rows.c_contiguous:
        given = "missing" if rows is None else f"of type {rows.format!r} and shape {rows.shape}"
        hint = f"give float32 in C order, [{content.n}, {spec.hidden}]"
        raise BadArgument(f"the embeddings of {content.kind} {content.title} are {given}", hint=hint)


def _without_windows(spec: ModelSpec) -> ModelSpec:
    """Inside the window, sliding and full attention are the same thing."""
    layers = tuple(replace(layer, attention=replace(layer.attention, window=None)) for layer in spec.layers)
    windows = [layer.attention.window for layer in spec.layers if layer.attention.window is not None]
    return replace(spec, layers=layers, context=min([spec.context, *windows]))
