"""Computes rows independently of their surroundings: the same bits for every batch, chunking, page
size and cache.

A kernel chooses the order of its sums by the shape of its input. Here every shape is therefore
constant, or a function of one token alone: tokens pass through the model in tiles of a fixed
number, attention processes each token separately over exactly its own context, and each row of
logits is sampled separately.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from ....contracts.errors import RequestFailed
from ....contracts.spans import Block
from ...plan import Draw, Row, Sampling, Score
from ..models.adapters import Adapted, Adapter
from ..models.decoder import Attend, Decoder
from ..models.foreign import ForeignDecoder
from .attention import attended
from .batch import context_slots, taken_out
from .kv import KvStore
from .sampler import scored

TILE = 16
"""Tokens that go through the model together. A whole tile costs about two single tokens, as the
weights are read once.
"""

PROBES = (1, 7, 40)
"""lengths of the contexts that tiles are tried with"""


_NONE: Mapping[str, Adapter] = {}


@dataclass(frozen=True, slots=True)
class _Span:
    """One row's tokens in a tile, from `begin` on. `slots` is the context of the last of them."""

    begin: int
    tokens: tuple[int, ...]
    start: int
    slots: Tensor
    blocks: tuple[Block, ...]
    adapter: str | None

    @property
    def end(self) -> int:
        return self.begin + len(self.tokens)


class ExactRows:
    """Computes rows that are exact, on the pages of `kv`; draws are made by `draw`."""

    def __init__(
        self,
        model: Decoder | ForeignDecoder,
        kv: KvStore,
        draw: Callable[[Tensor, Sequence[Sampling]], list[Draw | RequestFailed]],
    ) -> None:
        self._model = model
        self._kv = kv
        self._draw = draw
        self._n: int | None = None

    @property
    def tile(self) -> int:
        """Tokens of a tile; one if this machine's kernels do not treat all rows of a larger tile
        equally.
        """
        if self._n is None:
            self._n = TILE if is_uniform(self._model, TILE) else 1
        return self._n

    def run(
        self,
        rows: Sequence[Row],
        before_draws: Callable[[], None],
        routed: list[Tensor] | None = None,
        adapters: Mapping[str, Adapter] = _NONE,
    ) -> tuple[list[Draw | RequestFailed], Iterator[Score]]:
        """The sampled tokens and, if requested, the scores, in the order of `Row.samplings` and
        `Row.targets`. `routed` receives the experts of the tokens, int64 [tokens, layers, top_k] in parts.
        """
        hidden = torch.cat([self._forward(spans, routed, adapters) for spans in self._tiles(rows)])
        before_draws()
        ends = torch.tensor([len(row.tokens) for row in rows]).cumsum(0).tolist()
        samplings = [row.samplings for row in rows]
        drawn = [flat for mine, end in zip(samplings, ends, strict=True) for flat in range(end - len(mine), end)]
        read = [flat for row, end in zip(rows, ends, strict=True) for flat in range(end - len(row.targets), end)]
        every = (sampling for mine in samplings for sampling in mine)
        draws = [self._draw(logits, [sampling])[0] for logits, sampling in zip(self._logits(hidden[drawn]), every, strict=True)]
        targets = (target for row in rows for target in row.scored)
        scores = (score for logits, target in zip(self._logits(hidden[read]), targets, strict=True) for score in scored(logits, [target]))
        return draws, scores

    def _tiles(self, rows: Sequence[Row]) -> Iterator[list[_Span]]:
        """The tokens of the rows in sequence, split into tiles. Tokens of one row stay in order."""
        spans: list[_Span] = []
        n_free = self.tile
        for row in rows:
            slots = torch.from_numpy(context_slots(row, self._kv.page_size)).to(self._model.device)
            done = 0
            while done < len(row.tokens):
                tokens = tuple(row.tokens[done : done + n_free])
                start = row.start + done
                spans.append(_Span(self.tile - n_free, tokens, start, slots[: start + len(tokens)], row.blocks, row.adapter))
                done += len(tokens)
                n_free -= len(tokens)
                if not n_free:
                    yield spans
                    spans, n_free = [], self.tile
        if spans:
            yield spans

    def _forward(self, spans: Sequence[_Span], routed: list[Tensor] | None, adapters: Mapping[str, Adapter]) -> Tensor:
        """Hidden states of a tile's tokens. Padding is computed and dropped."""
        device, n_tokens = self._model.device, spans[-1].end
        ids = np.zeros(self.tile, dtype=np.int64)
        positions = torch.zeros(self.tile, dtype=torch.int64)
        ids[:n_tokens] = [token for span in spans for token in span.tokens]
        embedded = taken_out(ids, (block for span in spans for block in span.blocks), device)
        positions[:n_tokens] = torch.cat([torch.arange(span.start, span.start + len(span.tokens)) for span in spans])
        chosen: list[Tensor] | None = None if routed is None else []
        adapted = Adapted([
            (torch.tensor([at], device=device), adapters[span.adapter])
            for span in spans if span.adapter is not None for at in range(span.begin, span.end)
        ])  # fmt: skip
        attend = self._attend(spans)
        hidden = self._model.forward(torch.from_numpy(ids).to(device), positions.to(device), attend, embedded, chosen, adapted)
        if routed is not None and chosen:
            routed.append(torch.stack(chosen, 1)[:n_tokens])
        return hidden[:n_tokens]

    def _attend(self, spans: Sequence[_Span]) -> Attend:
        new = torch.cat([span.slots[span.start :] for span in spans])

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            keys, values, kind = self._kv.keys[layer], self._kv.values[layer], self._model.spec.layers[layer].attention
            q = q.to(keys.dtype).to(q.dtype)
            keys.index_copy_(0, new, k[: len(new)].to(keys.dtype))
            values.index_copy_(0, new, v[: len(new)].to(values.dtype))
            queries = grouped(q, keys.shape[1])
            mixed = []
            for span in spans:
                k, v = (x.index_select(0, span.slots).to(q.dtype).transpose(0, 1)[None] for x in (keys, values))
                for i, end in enumerate(range(span.start, span.start + len(span.tokens)), span.begin):
                    read = slice(0 if kind.window is None else max(0, end + 1 - kind.window), end + 1)
                    mixed.append(attended(kind, queries[i], k[:, :, read], v[:, :, read]))
            mixed += [torch.zeros_like(queries[0])] * (self.tile - len(mixed))
            return torch.cat(mixed).view(q.shape)

        return attend

    def _logits(self, hidden: Tensor) -> Iterator[Tensor]:
        """Of each row of `hidden` [n, hidden], logits [1, vocab] in memory of their own."""
        for first in range(0, len(hidden), self.tile):
            part = hidden[first : first + self.tile]
            tile = hidden.new_zeros(self.tile, hidden.shape[1])
            tile[: len(part)] = part
            for logits in islice(self._model.logits(tile), len(part)):
                yield logits[None].clone()


def grouped(q: Tensor, n_kv: int) -> Tensor:
    """q [n, heads, dim] as n batches of one, [n, 1, kv_heads, heads of each, dim]: the query heads
    of a KV head are its queries.
    """
    n, n_heads, dim = q.shape
    return q.reshape(n, 1, n_kv, n_heads // n_kv, dim)


def is_uniform(model: Decoder | ForeignDecoder, n: int) -> bool:
    """Whether a tile that repeats one token has bitwise equal results in every row."""
    kinds, device = [layer.attention for layer in model.spec.layers], model.device
    generator = torch.Generator().manual_seed(0)
    for n_context in PROBES:
        contexts = {
            (heads, dim): torch.randn((2, 1, heads, n_context, dim), generator=generator).to(device, model.dtype)
            for heads, dim in sorted({(kind.n_kv_heads, kind.head_dim) for kind in kinds})
        }
        token = int(torch.randint(model.spec.vocab, (), generator=generator))

        def attend(layer: int, q: Tensor, _k: Tensor, _v: Tensor, contexts: Mapping[tuple[int, int], Tensor] = contexts) -> Tensor:
            kind = kinds[layer]
            k, v = contexts[kind.n_kv_heads, kind.head_dim]
            return torch.cat([attended(kind, row, k, v) for row in grouped(q, kind.n_kv_heads)]).view(q.shape)

        hidden = model.forward(torch.full((n,), token, device=device), torch.full((n,), n_context - 1, device=device), attend)
        if any(not torch.equal(x, x[:1].expand_as(x)) for x in (hidden, model.logits(hidden))):
            return False
    return True
