"""Computes a plan with torch: batch, forward pass, sampling, scores."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import accumulate
from pathlib import Path

import torch
from torch import Tensor

from ....contracts.errors import ModelError, RequestFailed
from ....contracts.spans import Block
from ...plan import Draw, Plan, Row, RowOutput, Sampling, Score, Target, output_of
from ..models.adapters import Adapted, Adapter, Loaded, read_adapter
from ..models.decoder import Decoder
from ..models.executors import FOREIGN, TORCH, check_block
from ..models.foreign import ForeignDecoder
from .attention import PagedAttention
from .batch import Batch
from .exact import ExactRows
from .kv import KvStore
from .routing import routing_of, with_experts
from .sampler import sample, scored

SCORED_AT_ONCE = 128
"""positions whose logits are in memory together while scoring"""


class TorchRunner:
    """`plan.Runner` over a model: `n_pages` pages of `page_size` tokens, allocated at birth.
    OutOfMemory if they do not fit.

    `threads` is how many of the CPU's cores torch may use, in this whole process; None leaves its
    own choice. Keys and values are kept in `kv_dtype`, by default the model's. With `notes_experts`
    it reports those of each token.
    """

    is_exact = False

    def __init__(
        self,
        model: Decoder | ForeignDecoder,
        n_pages: int,
        page_size: int = 1,
        *,
        threads: int | None = None,
        kv_dtype: torch.dtype | None = None,
        notes_experts: bool = True,
    ) -> None:
        if threads is not None:
            torch.set_num_threads(threads)
        self.page_size = page_size
        self.kv = KvStore(model.spec, n_pages, page_size, device=model.device, dtype=kv_dtype or model.dtype)
        self.seconds = {"sampler": 0.0}  # on a GPU with the wait for the forward pass
        self.routing = routing_of(model.spec) if notes_experts else None
        self._adapters = Loaded[Adapter]()
        self._model = model
        self._exact = ExactRows(model, self.kv, self._draws)

    @property
    def model(self) -> Decoder | ForeignDecoder:
        return self._model

    def run(self, plan: Plan) -> tuple[RowOutput, ...]:
        with torch.inference_mode():
            exact = tuple(row for row in plan.rows if row.is_exact)
            others = tuple(row for row in plan.rows if not row.is_exact)
            exact_outputs = iter(self._run_exact(exact, plan.before_draws) if exact else ())
            outputs = iter(self._run(replace(plan, rows=others)) if others else ())
            return tuple(next(exact_outputs if row.is_exact else outputs) for row in plan.rows)

    def _run(self, plan: Plan) -> tuple[RowOutput, ...]:
        batch = Batch.of(plan, self.page_size, self._model.device, self._model.spec.kv_groups)
        attend, chosen = PagedAttention(self._model.spec, batch, self.kv), self._noted()
        hidden = self._model.forward(batch.ids, batch.positions, attend, batch.embedded, chosen, self._adapted(plan.rows, batch.begins))
        plan.before_draws()
        samplings = [sampling for row in plan.rows for sampling in row.samplings]
        draws = self._draws(self._model.logits(hidden[batch.sampled]), samplings) if samplings else []
        scores = self._scores(hidden, batch.scored, [target for row in plan.rows for target in row.scored])
        outputs = row_outputs(plan.rows, draws, scores)
        return with_experts(plan.rows, outputs, torch.stack(chosen, 1).numpy(force=True), batch.begins) if chosen else outputs

    def _run_exact(self, rows: tuple[Row, ...], before_draws: Callable[[], None]) -> tuple[RowOutput, ...]:
        chosen = self._noted()
        outputs = row_outputs(rows, *self._exact.run(rows, before_draws, chosen, self._adapters.by_key))
        begins = accumulate((len(row.tokens) for row in rows[:-1]), initial=0)
        return with_experts(rows, outputs, torch.cat(chosen).numpy(force=True), begins) if chosen else outputs

    def _adapted(self, rows: Sequence[Row], begins: Sequence[int]) -> Adapted | None:
        """The adapters of a batch, each with the tokens of its rows."""
        of: dict[str, list[int]] = {}
        for row, begin in zip(rows, begins, strict=True):
            if row.adapter is not None:
                of.setdefault(row.adapter, []).extend(range(begin, begin + len(row.tokens)))
        device, adapters = self._model.device, self._adapters.by_key
        return Adapted([(torch.tensor(tokens, device=device), adapters[key]) for key, tokens in of.items()]) if of else None

    @property
    def adapters(self) -> Mapping[str, str]:
        return self._adapters.names

    def add_adapter(self, folder: Path, name: str) -> None:
        """Read an adapter; a later one of the same name takes its place for new requests. ModelError."""
        if isinstance(self._model, ForeignDecoder):
            raise ModelError("transformers computes this model, and adapters are for the families that are computed here")
        adapter = read_adapter(folder, name, self._model.spec, self._model.dtype)
        self._adapters.add(adapter, adapter)

    def _noted(self) -> list[Tensor] | None:
        return None if self.routing is None else []

    def check_block(self, block: Block) -> None:
        check_block(block, self._model.spec, TORCH if isinstance(self._model, Decoder) else FOREIGN)

    def copy_page(self, source: int, target: int) -> None:
        with torch.inference_mode():
            self.kv.copy_page(source, target)

    def close(self) -> None:
        self.kv.release()
        del self._model, self._exact

    def _draws(self, logits: Tensor, samplings: Sequence[Sampling]) -> list[Draw | RequestFailed]:
        started = time.perf_counter()
        draws = sample(logits, samplings)
        self.seconds["sampler"] += time.perf_counter() - started
        return draws

    def _scores(self, hidden: Tensor, positions: Tensor, targets: Sequence[Target]) -> Iterator[Score]:
        """The requested results of each position, one after the other."""
        for start in range(0, len(targets), SCORED_AT_ONCE):
            some = targets[start : start + SCORED_AT_ONCE]
            logits = self._model.logits(hidden[positions[start : start + len(some)]])
            yield from scored(logits, some)


def row_outputs(rows: Sequence[Row], draws: Sequence[Draw | RequestFailed], scores: Iterator[Score]) -> tuple[RowOutput, ...]:
    """The sampled tokens and scores, row after row, in the order of `Row.samplings` and
    `Row.targets`.
    """
    left = iter(draws)
    outputs = []
    for row in rows:
        mine = [next(left) for _ in range(row.n_draws)]
        outputs.append(output_of(row, mine.__getitem__, tuple(next(scores) for _ in row.targets)))
    return tuple(outputs)
