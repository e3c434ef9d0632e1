"""Attention of a batch over paged keys and values, in plain torch."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from ..models.decoder import capped
from ..models.spec import Attention, ModelSpec
from .batch import Batch
from .kv import KvStore


class PagedAttention:
    """The `attend` of one step: writes the step's keys and values, then reads the context of each
    row's layers.
    """

    def __init__(self, spec: ModelSpec, batch: Batch, kv: KvStore) -> None:
        self._kinds = [layer.attention for layer in spec.layers]
        self._batch = batch
        self._kv = kv

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        batch, kind, keys, values = self._batch, self._kinds[layer], self._kv.keys[layer], self._kv.values[layer]
        q, k, v = q.to(keys.dtype).to(q.dtype), k.to(keys.dtype), v.to(values.dtype)
        keys.index_copy_(0, batch.slots, k)
        values.index_copy_(0, batch.slots, v)
        parts = [self._singles(kind, q[: batch.n_single], keys, values)] if batch.n_single else []
        for row in batch.reach[kind.window].prefills:
            part = slice(row.begin, row.end)
            if row.mask is None:
                parts.append(_prefill(kind, q[part], k[part], v[part], None))
            else:
                parts.append(_prefill(kind, q[part], keys.index_select(0, row.slots), values.index_select(0, row.slots), row.mask))
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _singles(self, kind: Attention, q: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """All one-token rows at once. The query heads of a KV head are the queries of one attention
        over it.
        """
        reach = self._batch.reach[kind.window]
        n, n_heads, dim = q.shape
        n_kv = keys.shape[1]
        k = keys.index_select(0, reach.single_slots).view(n, -1, n_kv, dim).transpose(1, 2)
        v = values.index_select(0, reach.single_slots).view(n, -1, n_kv, dim).transpose(1, 2)
        mask = None if reach.single_mask is None else reach.single_mask[:, None, None, :]
        q = q.reshape(n, n_kv, n_heads // n_kv, dim)
        return attended(kind, q, k.to(q.dtype), v.to(q.dtype), mask).reshape(n, n_heads, dim)


def _prefill(kind: Attention, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """One row of several tokens; without a mask plainly causal."""
    q, k, v = (x.to(q.dtype).transpose(0, 1)[None] for x in (q, k, v))
    return attended(kind, q, k, v, mask, is_causal=mask is None, is_grouped=True)[0].transpose(0, 1)


def attended(
    kind: Attention, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, *, is_causal: bool = False, is_grouped: bool = False
) -> Tensor:
    """[..., heads, n, dim] of queries [..., heads, n, dim] over keys and values [..., kv_heads, m,
    dim].

    mask        bool, True where a query reads a key
    is_causal   query i reads the keys 0 to i
    is_grouped  whether there are more heads than KV heads
    """
    if kind.softcap is None:
        return scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=is_causal, scale=kind.scale, enable_gqa=is_grouped)
    if is_grouped:
        k, v = (x.repeat_interleave(q.shape[-3] // x.shape[-3], dim=-3) for x in (k, v))
    scores = capped(q @ k.transpose(-1, -2) * (kind.head_dim**-0.5 if kind.scale is None else kind.scale), kind.softcap)
    if is_causal:
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).tril()
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    return scores.softmax(-1, dtype=torch.float32).to(q.dtype) @ v
