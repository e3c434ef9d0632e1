"""Computes a plan with torch: batch, forward pass, sampling, scores."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from ...contracts.errors import RequestFailed
from ..model.llama import Llama
from ..plan.plan import Plan, RowOutput
from .attention import PagedAttention
from .batch import Batch
from .kv import KvStore
from .sampler import Draw, sample

SCORED_AT_ONCE = 128
"""positions whose logits are held together while scoring"""


class TorchRunner:
    """`plan.Runner` over a model: `n_pages` pages of `page_size` tokens, allocated at birth. CacheFull if they do not fit.

    `threads` is how many of the CPU's cores torch may use, in this whole process; None leaves its own choice.
    Keys and values are kept in `kv_dtype`, by default the model's.
    """

    def __init__(
        self, model: Llama, n_pages: int, page_size: int = 1, *, threads: int | None = None, kv_dtype: torch.dtype | None = None
    ) -> None:
        if threads is not None:
            torch.set_num_threads(threads)
        self.page_size = page_size
        self.kv = KvStore(model.spec, n_pages, page_size, device=model.device, dtype=kv_dtype or model.dtype)
        self._model = model

    def run(self, plan: Plan) -> tuple[RowOutput, ...]:
        with torch.inference_mode():
            batch = Batch.of(plan, self.page_size, self._model.device)
            hidden = self._model.forward(batch.ids, batch.positions, PagedAttention(batch, self.kv))
            samplings = [row.sample for row in plan.rows if row.sample is not None]
            draws = iter(sample(self._model.logits(hidden[batch.sampled]), samplings) if samplings else [])
            scores = self._scores(hidden, batch.scored, [target for row in plan.rows for target in row.targets])
            return tuple(
                row_output(NO_DRAW if row.sample is None else next(draws), tuple(next(scores) for _ in row.targets)) for row in plan.rows
            )

    def copy_page(self, source: int, target: int) -> None:
        with torch.inference_mode():
            self.kv.copy_page(source, target)

    def close(self) -> None:
        self.kv.release()
        del self._model

    def _scores(self, hidden: Tensor, positions: Tensor, targets: Sequence[tuple[int, ...]]) -> Iterator[tuple[float, ...]]:
        """Logprobs of each position's candidate tokens, position after position."""
        for start in range(0, len(targets), SCORED_AT_ONCE):
            some = targets[start : start + SCORED_AT_ONCE]
            logits = self._model.logits(hidden[positions[start : start + len(some)]])
            index = torch.tensor([i for i, tokens in enumerate(some) for _ in tokens], dtype=torch.int64, device=logits.device)
            token = torch.tensor([token for tokens in some for token in tokens], dtype=torch.int64, device=logits.device)
            values = iter((logits[index, token] - logits.logsumexp(-1)[index]).tolist())
            for tokens in some:
                yield tuple(next(values) for _ in tokens)


NO_DRAW = Draw(None, None, (), None)


def row_output(draw: Draw, targets: tuple[tuple[float, ...], ...]) -> RowOutput:
    """What was drawn and scored for one row; logprobs that are no numbers make it a failure."""
    error = draw.error
    if any(value != value for values in targets for value in values):
        error = RequestFailed("the model's logits are not finite")
    return RowOutput(draw.token, draw.logprob, draw.top, () if error else targets, error)
