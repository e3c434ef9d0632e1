"""Reads the results of a step's logits on the device: sampled tokens, scores and the likeliest
tokens.

Every row passes through the sampling kernels, also if it is only scored: they produce the sum over
the vocabulary that all logprobs need, with the same bits whatever else is computed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice, repeat
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from .....contracts.errors import RequestFailed
from .....contracts.params import SamplingParams
from ....plan import Draw, Sampling, Score, Target, Top
from ...kernels.gpu.sampling import sample
from ...kernels.gpu.sampling_requests import SamplingRequests, Status
from ..sampler import failure
from .edits import edits_of, write
from .transfer import Array, sent

ANYTHING = Sampling(SamplingParams(temperature=0), 0, 0, (), ())
"""of a row whose sampled token is not read"""


class RowRequest(NamedTuple):
    """Of one row of logits."""

    sampling: Sampling = ANYTHING
    target: Target = ((), 0)

    @property
    def n_top(self) -> int:
        return max(self.sampling.params.top_logprobs, self.target[1])


class Read(NamedTuple):
    draw: Draw | RequestFailed
    score: Score


class Reading:
    """Start to read `logits` [rows, vocab] float32; `tensors` are those to copy to the host.

    `packed` is the result of sampling (see `sampling_requests.Drawn`), if it was part of the pass.
    """

    def __init__(self, wanted: Sequence[RowRequest], logits: Tensor, packed: Tensor | None) -> None:
        self._wanted = wanted
        n_vocab = logits.shape[1]
        if packed is None:
            packed = sample(logits, _requests([row.sampling for row in wanted], n_vocab, logits.device)).packed
        self.tokens = packed[:, 0]
        """that were drawn, int32 [rows]"""
        self.tensors = [packed]
        places = [i * n_vocab + token for i, row in enumerate(wanted) for token in row.target[0]]
        self._n_scores, self._n_top = len(places), min(max(row.n_top for row in wanted), n_vocab)
        if places:
            (at,) = sent([np.array(places, np.int64)], logits.device)
            self.tensors.append(logits.view(-1).index_select(0, at))
        if self._n_top:
            values, tokens = logits.topk(self._n_top)
            self.tensors += [values, tokens.int()]

    def read(self, arrays: Sequence[Array]) -> Iterator[Read]:
        """`arrays` are the tensors."""
        left = iter(arrays)
        packed = next(left)
        values = iter(next(left).tolist() if self._n_scores else ())
        tops = zip(next(left).tolist(), next(left).tolist(), strict=True) if self._n_top else repeat(((), ()))
        for (sampling, target), ints, floats, likeliest in zip(
            self._wanted, packed.tolist(), packed.view(np.float32).tolist(), tops, strict=False
        ):
            (token, status), (logprob, total) = ints[:2], floats[2:]
            top: Top = tuple((token, value - total) for value, token in zip(*likeliest, strict=True))
            yield Read(
                Draw(token, logprob, top[: sampling.params.top_logprobs])
                if status == Status.DRAWN
                else failure(sampling, is_finite=status != Status.NOT_FINITE),
                Score(tuple(value - total for value in islice(values, len(target[0]))), top[: target[1]]),
            )


def _requests(samplings: Sequence[Sampling], n_vocab: int, device: torch.device) -> SamplingRequests:
    """Filled on the host, copied to the device at once."""
    edits = edits_of(samplings, n_vocab)
    sizes = {"n_rows": len(samplings), "n_vocab": n_vocab, "n_edits": len(edits)}
    sizes["n_masks"] = sum(sampling.mask is not None for sampling in samplings)
    buffer = torch.empty(SamplingRequests.n_bytes(**sizes), dtype=torch.uint8, pin_memory=device.type == "cuda")
    write(SamplingRequests.over(buffer, **sizes), samplings, edits)
    return SamplingRequests.over(buffer.to(device, non_blocking=True), **sizes)
