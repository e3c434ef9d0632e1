"""Where one token looked: the attention of every head of every layer, recomputed by the torch twin.

It computes a sequence once more, alone, outside of the engine's steps and without its cache, so a
run is neither slowed nor changed. Twins and torch models on a CPU can be read; what cannot is
refused by name.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ....contracts.errors import BackendUnsupported
from ....contracts.spans import Block, blocks_in
from ..memory import demand
from ..models.decoder import Decoder, Embedded, capped
from ..models.foreign import ForeignDecoder
from ..models.packed import PackedDecoder
from ..models.spec import Attention
from .attention import attended

MOST_TOKENS = 8_192
"""of a sequence; its attention is computed without pages, so the memory of a layer grows with the square"""


def readable(model: object, name: str, device: str) -> Decoder:
    """The decoder in torch whose attention can be read: the model itself, or the twin of a packed
    one. BackendUnsupported for a model on a GPU and one that transformers computes; OutOfMemory if
    a twin has no room.
    """
    if isinstance(model, ForeignDecoder):
        raise BackendUnsupported(f"transformers computes {name}, whose attention is not read here", hint="use a family of this engine")
    if device != "cpu" or not isinstance(model, PackedDecoder | Decoder):
        raise BackendUnsupported(f"{name} is on {device}: its attention is not read there", hint="load it with device cpu")
    if isinstance(model, Decoder):
        return model
    demand(4 * model.spec.n_params, f"the twin of {name} in float32", hint="use a smaller model")
    return model.twin()


def attention_of(model: Decoder, ids: Sequence[int], blocks: Sequence[Block] = ()) -> Tensor:
    """The attention of the last of `ids` over all of them: float32 [layers, heads, len(ids)], each
    row a distribution; 0 outside of a layer's window. The embeddings of `blocks` stand at their ids.

    BackendUnsupported for more than `MOST_TOKENS`.
    """
    n = len(ids)
    if n > MOST_TOKENS:
        raise BackendUnsupported(f"the attention of {n:,} tokens would take too much memory", hint=f"at most {MOST_TOKENS:,} are read")
    weights: list[Tensor] = []

    def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        kind = model.spec.layers[layer].attention
        weights.append(_weights(kind, q[-1], k))
        mask = None if kind.window is None else _within(n, kind.window)
        q, k, v = (x.transpose(0, 1)[None] for x in (q, k, v))
        return attended(kind, q, k, v, mask, is_causal=mask is None, is_grouped=True)[0].transpose(0, 1)

    with torch.inference_mode():
        tokens = torch.tensor([max(token, 0) for token in ids], dtype=torch.int64)
        model.forward(tokens, torch.arange(n), attend, _embedded(ids, blocks))
        return torch.stack(weights)


def _weights(kind: Attention, q: Tensor, k: Tensor) -> Tensor:
    """[heads, n] of one query [heads, dim] over keys [n, kv_heads, dim], the last of which is its own."""
    keys = k.float().repeat_interleave(kind.n_heads // kind.n_kv_heads, dim=1)
    scores = torch.einsum("hd,nhd->hn", q.float(), keys) * (kind.head_dim**-0.5 if kind.scale is None else kind.scale)
    scores = scores if kind.softcap is None else capped(scores, kind.softcap)
    if kind.window is not None:
        scores[:, : max(0, len(k) - kind.window)] = -torch.inf
    return scores.softmax(-1)


def _within(n: int, window: int) -> Tensor:
    """[n, n]: whether query i reads key j."""
    behind = torch.arange(n)[:, None] - torch.arange(n)
    return (behind >= 0) & (behind < window)


def _embedded(ids: Sequence[int], blocks: Sequence[Block]) -> Embedded | None:
    rows = {block.content: block.embeddings for block in blocks}
    at: list[int] = []
    parts: list[Tensor] = []
    for start, end, place in blocks_in(ids):
        if (embeddings := rows.get(place.content)) is None:
            raise BackendUnsupported(
                f"the embeddings of {place.content.kind} {place.content.title} are no longer kept", hint="run it again"
            )
        at += range(start, end)
        parts.append(torch.tensor(embeddings, dtype=torch.float32)[place.offset : place.offset + end - start])
    return Embedded(torch.tensor(at), torch.cat(parts)) if at else None
