"""Computes a plan with the native step: one call that passes through the whole model, without the
GIL.

Python only prepares the outline of a step: a few numbers per row. Contexts are passed as addresses.
"""

from __future__ import annotations

import ctypes
from array import array
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate, chain
from pathlib import Path
from weakref import ref

import numpy as np
import torch

from ....contracts.errors import InvariantBroken
from ....contracts.spans import Block
from ...plan import Plan, Row, RowOutput
from ..kernels.native import build
from ..models.adapters import Loaded, read_adapter
from ..models.executors import NATIVE, check_block
from ..models.packed import PackedDecoder
from .kv import KvStore
from .native_model import Described, DescribedAdapter
from .routing import routing_of, with_experts
from .runner import row_outputs
from .sampling_requests import SamplingRequests


class _Underway:
    """A step in flight. It keeps the memory that the step reads and writes, and ends the step if
    its outputs are never collected.
    """

    def __init__(self, finish: Callable[[], None], outputs: Callable[[], tuple[RowOutput, ...]], kept: object) -> None:
        self._finish: Callable[[], None] | None = finish
        self._outputs = outputs
        self._kept = kept

    def __call__(self) -> tuple[RowOutput, ...]:
        self.finish()
        return self._outputs()

    def finish(self) -> None:
        finish, self._finish = self._finish, None
        if finish is not None:
            finish()

    def __del__(self) -> None:
        self.finish()


class NativeRunner:
    """`plan.Runner`, and `Launching`, over packed weights: `n_pages` pages of `page_size` tokens in
    bf16. OutOfMemory if they do not fit, BadArgument if the system does not provide that many
    threads.

    A row's logits depend only on its own tokens, bit for bit: not on the batch, the chunks or the
    pages.
    """

    is_exact = True

    def __init__(
        self,
        library: ctypes.CDLL,
        model: PackedDecoder,
        n_pages: int,
        page_size: int = 1,
        *,
        threads: int | None = None,
        notes_experts: bool = True,
    ) -> None:
        self.page_size = page_size
        self.kv = KvStore(model.spec, n_pages, page_size, device=model.device, dtype=model.dtype)
        self.routing = routing_of(model.spec) if notes_experts else None
        self._library = library
        self._model = model
        self.seconds = {"sampler": 0.0}
        self._adapters = Loaded[DescribedAdapter]()
        self._n_threads = threads or torch.get_num_threads()
        made = ctypes.c_void_p()
        self._described = Described(model, self.kv)
        library.sgl_new(self._described.model, self._n_threads, made)
        self._step: int | None = made.value
        self._underway: ref[_Underway] | None = None

    @property
    def model(self) -> PackedDecoder:
        return self._model

    def run(self, plan: Plan) -> tuple[RowOutput, ...]:
        return self.start(plan)()

    def start(self, plan: Plan) -> Callable[[], tuple[RowOutput, ...]]:
        """Start the other threads. The returned call joins them. InvariantBroken if the previous
        step is not joined yet.
        """
        if self._underway is not None and self._underway() is not None:
            raise InvariantBroken(f"step {plan.step} starts before the results of the one before are taken")
        rows = plan.rows
        ends = list(accumulate(len(row.tokens) for row in rows))
        tokens = array("i", chain.from_iterable(row.tokens for row in rows))
        offsets = array("i", (0, *ends))
        starts = array("i", [row.start for row in rows])
        pages = array("Q", [row.pages.buffer_info()[0] for row in rows])
        adapters = self._adapters_of(rows)
        parts = (tokens, offsets, starts, pages, adapters)
        described = build.Rows(len(rows), len(tokens), *(part.buffer_info()[0] if part else None for part in parts))
        requests = self._sampling_requests(rows, ends)

        def outputs() -> tuple[RowOutput, ...]:
            self.seconds["sampler"] += requests.seconds(self._n_threads)
            found = row_outputs(rows, requests.draws(), requests.scores())
            return found if self.routing is None else with_experts(rows, found, self._chosen(len(tokens)), offsets[:-1])

        underway = _Underway(self._finish, outputs, (*parts, requests))
        self._underway = ref(underway)
        try:
            self._library.sgl_start(self._step, described, requests.native)
            try:
                plan.before_draws()
            finally:
                self._library.sgl_release(self._step)
        except BaseException:
            underway.finish()  # an error that is kept keeps this frame
            raise
        return underway

    def _adapters_of(self, rows: Sequence[Row]) -> array[int]:
        """The address of each row's adapter, 0 without one; empty if no row has one."""
        if all(row.adapter is None for row in rows):
            return array("Q")
        of = self._adapters.by_key
        return array("Q", [0 if row.adapter is None else ctypes.addressof(of[row.adapter].products) for row in rows])

    @property
    def adapters(self) -> Mapping[str, str]:
        return self._adapters.names

    def add_adapter(self, folder: Path, name: str) -> None:
        """Read an adapter; a later one of the same name takes its place for new requests. ModelError."""
        adapter = read_adapter(folder, name, self._model.spec)
        self._adapters.add(adapter, DescribedAdapter(adapter, self._model.spec))

    def _chosen(self, n_tokens: int) -> np.typing.NDArray[np.int32]:
        """The experts of the last step's tokens, [tokens, layers that have some, top_k]."""
        assert self.routing is not None
        chosen = np.empty((n_tokens, len(self.routing.layers), self.routing.top_k), dtype=np.int32)
        self._library.sgl_experts(self._step, chosen.ctypes.data)
        return chosen

    def _sampling_requests(self, rows: Sequence[Row], ends: Sequence[int]) -> SamplingRequests:
        draws = [
            (token, sampling)
            for row, end in zip(rows, ends, strict=True)
            for token, sampling in zip(range(end - row.n_draws, end), row.samplings, strict=True)
        ]
        scored = [
            (token, target)
            for row, end in zip(rows, ends, strict=True)
            for token, target in zip(range(end - len(row.targets), end), row.scored, strict=True)
        ]
        return SamplingRequests(draws, scored, self._model.spec.vocab)

    def _finish(self) -> None:
        self._underway = None
        self._library.sgl_finish(self._step)

    def check_block(self, block: Block) -> None:
        check_block(block, self._model.spec, NATIVE)

    def copy_page(self, source: int, target: int) -> None:
        with torch.inference_mode():
            self.kv.copy_page(source, target)

    def close(self) -> None:
        if self._underway is not None and (underway := self._underway()) is not None:
            underway.finish()
        if self._step is not None:
            self._library.sgl_delete(self._step)
            self._step = None
        self.kv.release()
        del self._model, self._described
