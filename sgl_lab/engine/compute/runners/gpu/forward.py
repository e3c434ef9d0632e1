"""Passes over the model on the device: their numbers are sent, their kernels launched, their logits
left there.

A pass of rows of one token each, all of which are read, is padded to one of a few sizes and uses
fixed buffers. On a GPU its kernels are recorded once for each such size and then launched with one
call (`graphs`): launches take most of the time of decoding with a small model. Elsewhere the same
buffers are used without recordings.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ....plan import Row, Sampling
from ...kernels.gpu.cascade import attend_cascade
from ...kernels.gpu.contexts import Contexts, Shared
from ...kernels.gpu.decode import attend_decode, attend_invariant, splits_for
from ...kernels.gpu.prefill import attend_prefill
from ...kernels.gpu.sampling import sample
from ...kernels.gpu.sampling_requests import SamplingRequests
from ...models.adapters import Adapter
from ...models.device_adapters import AdaptedTokens, DeviceAdapters
from ...models.device_decoder import Attend, DeviceDecoder, fast, invariant
from ..kv import KvStore
from .edits import edits_of, is_plain, write
from .graphs import Recorder
from .numbers import Inputs, Pass, Shape, one_pass, padded
from .sharing import LEAST, Sharing
from .table import PageTable, Tables
from .transfer import Array, gathered, sent, views

SIZES = (1, 2, 4, 8, 16, 32, 64)
"""rows of the passes that are recorded"""

READ_AT_ONCE = 128
"""tokens whose logits are in memory together"""

PAGES = 1024
"""initial capacity of the page table per context; recordings are lost when it grows"""

_QUERIES = 64
"""heads of a tile that attends to a shared prefix"""
_PROCESSORS = 1
"""multiprocessors of a device that does not report them"""


class Part(NamedTuple):
    """Valid until the next part is requested or another pass starts."""

    logits: Tensor
    """float32 [n, vocab]"""
    drawn: Tensor
    """int64 [n]: see `Inputs.drawn`"""
    packed: Tensor | None = None
    """of tokens that were drawn with the pass: see `sampling_requests.Drawn`"""


@dataclass(frozen=True, slots=True)
class _Fixed:
    """The buffers of all passes of one shape."""

    numbers: Tensor
    drawn: Tensor
    results: tuple[Tensor, ...]
    """logits and, if tokens are sampled, the sampled tokens"""
    run: Callable[[], object]


class Forward:
    """A common prefix of at least `shared_from` tokens is attended to once for all one-token rows
    that share it.
    """

    def __init__(self, model: DeviceDecoder, kv: KvStore, *, sizes: Sequence[int] = SIZES, shared_from: int = LEAST) -> None:
        self._model = model
        self._kv = kv
        self._sizes = sizes
        self._table = PageTable(model.device, width=min(PAGES, len(kv.keys[0]) // kv.page_size))
        self._sharing = Sharing(kv.page_size, shared_from)
        self._kinds = [layer.attention for layer in model.spec.layers]
        """whose heads are alike"""
        self._tile = max(4, _QUERIES * self._kinds[0].n_kv_heads // self._kinds[0].n_heads)
        self._fixed: dict[Shape, _Fixed] = {}
        self._fixed_to = self._table.tables
        """the tables that they read; a table that has grown is a different one"""
        self._adapters = self._fixed_with = DeviceAdapters((), model.spec, model.device, model.dtype)
        """the second are those that recordings read"""
        self._recorder = Recorder(model.device)
        is_cuda = model.device.type == "cuda"
        self._processors = torch.cuda.get_device_properties(model.device).multi_processor_count if is_cuda else _PROCESSORS

    def adapt(self, adapters: Sequence[Adapter]) -> None:
        """These are on the device from the next pass on. From any thread."""
        self._adapters = DeviceAdapters(adapters, self._model.spec, self._model.device, self._model.dtype)

    def make_room(self, n_rows: int) -> None:
        """Prepare the rows of all passes of a step, so that none of them loses the token that a row
        of the next step continues from.
        """
        self._table.make_room(n_rows)

    def start(self, rows: Sequence[Row], needed: Sequence[int], samplings: Sequence[Sampling]) -> Iterator[Part]:
        """Compute `rows`, in `numbers.order`; either all of them are exact or none.

        Returns the logits of the tokens `needed` of the flat batch, in ascending order. `samplings`
        are the sampling requests after each.
        """
        try:
            written = self._table.update(rows)
            singles = [row for row in rows if len(row.tokens) == 1]
            shared = () if rows[0].is_exact else self._sharing.of(singles, written.only_grew)
            adapters = self._adapters
            described = one_pass(rows, written, needed, shared, self._tile, self._kv.page_size, adapters.places)
            size = next((size for size in self._sizes if size >= len(rows)), None)
            if size is not None and len(singles) == len(rows) == len(needed):
                return iter((self._on_fixed(described, size, samplings, adapters),))
            inputs = Inputs(*sent(described.arrays, self._model.device))
            return self._parts(self._hidden(self._table.tables, inputs, described.shape, adapters), inputs.drawn, described.shape)
        except BaseException:
            self.forget()  # what was written to the table may not have come to the device
            raise

    def forget(self) -> None:
        """All requests, and the tokens that they drew last."""
        self._table.forget()

    def keep(self, part: Part, tokens: Tensor) -> None:
        """`tokens`, int32 [n], were drawn after those of the part, for rows of the next step."""
        self._table.tables.flat.index_copy_(0, part.drawn, tokens)

    def _parts(self, hidden: Tensor, drawn: Tensor, shape: Shape) -> Iterator[Part]:
        for start in range(0, len(hidden), READ_AT_ONCE):
            some = slice(start, start + READ_AT_ONCE)
            yield Part(self._logits(hidden[some], shape), drawn[some])

    def _logits(self, hidden: Tensor, shape: Shape) -> Tensor:
        return self._model.logits(hidden, invariant if shape.is_exact else fast)

    def _hidden(self, tables: Tables, inputs: Inputs[Tensor], shape: Shape, adapters: DeviceAdapters) -> Tensor:
        """Everything of a pass but the head."""
        tables.flat.index_copy_(0, inputs.where, inputs.what)
        return self._model.forward(
            inputs.ids if len(inputs.ids) else tables.drawn.index_select(0, inputs.lines),
            inputs.positions,
            inputs.slots,
            None if shape.needs_all else inputs.needed,
            self._kv.keys,
            self._kv.values,
            self._attend(tables.pages, inputs, shape),
            invariant if shape.is_exact else fast,
            AdaptedTokens(adapters, inputs.adapters) if shape.is_adapted else None,
        )

    def _attend(self, pages: Tensor, inputs: Inputs[Tensor], shape: Shape) -> Attend:
        n, size = shape.n_rows, self._kv.page_size
        single = Contexts(pages, inputs.lines, inputs.lengths, size)
        longer = Contexts(pages, inputs.longer_lines, inputs.longer_lengths, size)
        shared = Shared(*inputs[-6:], self._tile) if shape.is_shared else None
        # Sized by the capacity of the table and not by lengths: in a recording only the contents
        # that it reads may change.
        n_splits = splits_for(n, self._kinds[0].n_kv_heads, pages.shape[1] * size, self._processors) if n else 0

        def attend(layer: int, q: Tensor, keys: Tensor, values: Tensor) -> Tensor:
            kind = self._kinds[layer]
            scale, cap, window = kind.head_dim**-0.5 if kind.scale is None else kind.scale, kind.softcap or 0.0, kind.window or 0
            if shape.is_exact:
                return attend_invariant(q, keys, values, single, scale, window=window, softcap=cap)
            out = torch.empty_like(q)
            if shared is not None and not window:
                attend_cascade(q[:n], keys, values, single, shared, scale, n_splits=n_splits, out=out[:n], softcap=cap)
            elif n:
                attend_decode(q[:n], keys, values, single, scale, n_splits=n_splits, out=out[:n], window=window, softcap=cap)
            if shape.longest:
                attend_prefill(q[n:], keys, values, longer, inputs.offsets, shape.longest, scale, out=out[n:], window=window, softcap=cap)
            return out

        return attend

    # ------------------------------------------------------------ passes on buffers that stay

    def _on_fixed(self, described: Pass, size: int, samplings: Sequence[Sampling], adapters: DeviceAdapters) -> Part:
        """`samplings` are those of the rows. Plain sampling is part of the pass: one call launches
        all kernels of a step.
        """
        arrays, device, n = described.arrays, self._model.device, len(samplings)
        if len(arrays.where) > 2 * size:  # a request came with more pages than the page it needs next
            self._table.tables.flat.index_copy_(0, *sent((arrays.where, arrays.what), device))
            described = Pass(arrays._replace(where=arrays.where[:0], what=arrays.what[:0]), described.shape)
        described = padded(described, size)
        shape = described.shape._replace(draws=all(map(is_plain, samplings)))
        requests = [self._plain_requests(samplings, size)] if shape.draws else []
        host = gathered((*described.arrays, *requests), device)
        if self._fixed_to is not self._table.tables or self._fixed_with is not adapters:
            self.release()
            self._fixed_to, self._fixed_with = self._table.tables, adapters
        fixed = self._fixed.get(shape)
        if fixed is None:
            fixed = self._fixed[shape] = self._made(shape, host.to(device, copy=True), (*described.arrays, *requests))
        else:
            fixed.numbers.copy_(host, non_blocking=True)
        fixed.run()
        return Part(fixed.results[0][:n], fixed.drawn[:n], fixed.results[1][:n] if shape.draws else None)

    def _plain_requests(self, samplings: Sequence[Sampling], size: int) -> Array:
        n_vocab = self._model.spec.vocab
        found = np.empty(SamplingRequests.n_bytes(n_rows=size, n_vocab=n_vocab, n_edits=0, n_masks=0), np.uint8)
        write(plain_requests(torch.from_numpy(found), size, n_vocab), samplings, edits_of(samplings, n_vocab))
        return found

    def _made(self, shape: Shape, numbers: Tensor, arrays: Sequence[Array]) -> _Fixed:
        found = views(numbers, arrays)
        inputs = Inputs(*found[: len(Inputs._fields)])
        requests = plain_requests(found[-1], shape.n_rows, self._model.spec.vocab) if shape.draws else None

        tables, adapters = self._fixed_to, self._fixed_with

        def compute() -> tuple[Tensor, ...]:
            logits = self._logits(self._hidden(tables, inputs, shape, adapters), shape)
            # The caller keeps the sampled tokens: stored here, they would be continued from if this
            # were called twice.
            return (logits,) if requests is None else (logits, sample(logits, requests).packed)

        return _Fixed(numbers, inputs.drawn, *self._recorder.recorded(compute, f"decoding of {shape.n_rows} rows"))

    def release(self) -> None:
        """Free the recordings; they are recorded again when they are needed."""
        self._fixed.clear()
        self._recorder.release()


def plain_requests(buffer: Tensor, n_rows: int, n_vocab: int) -> SamplingRequests:
    return SamplingRequests.over(buffer, n_rows=n_rows, n_vocab=n_vocab, n_edits=0, n_masks=0)
