"""Attention of a batch over paged keys and values, in plain torch."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from .batch import Batch
from .kv import KvStore


class PagedAttention:
    """The `attend` of one step: writes the step's keys and values, then reads each row's context."""

    def __init__(self, batch: Batch, kv: KvStore) -> None:
        self._batch = batch
        self._kv = kv

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        batch, keys, values = self._batch, self._kv.keys[layer], self._kv.values[layer]
        q, k, v = q.to(keys.dtype).to(q.dtype), k.to(keys.dtype), v.to(values.dtype)
        keys.index_copy_(0, batch.slots, k)
        values.index_copy_(0, batch.slots, v)
        parts = [self._singles(q[: batch.n_single], keys, values)] if batch.n_single else []
        for row in batch.prefills:
            part = slice(row.begin, row.end)
            if row.mask is None:
                parts.append(_attend(q[part], k[part], v[part], None))
            else:
                parts.append(_attend(q[part], keys.index_select(0, row.slots), values.index_select(0, row.slots), row.mask))
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _singles(self, q: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """All one-token rows at once. The query heads of a KV head are the queries of one attention over it."""
        batch = self._batch
        n, n_heads, dim = q.shape
        n_kv = keys.shape[1]
        k = keys.index_select(0, batch.single_slots).view(n, -1, n_kv, dim).transpose(1, 2)
        v = values.index_select(0, batch.single_slots).view(n, -1, n_kv, dim).transpose(1, 2)
        mask = None if batch.single_mask is None else batch.single_mask[:, None, None, :]
        q = q.reshape(n, n_kv, n_heads // n_kv, dim)
        return scaled_dot_product_attention(q, k.to(q.dtype), v.to(q.dtype), attn_mask=mask).reshape(n, n_heads, dim)


def _attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """One row of several tokens; without a mask plainly causal."""
    q, k, v = (x.to(q.dtype).transpose(0, 1)[None] for x in (q, k, v))
    return scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None, enable_gqa=True)[0].transpose(0, 1)
