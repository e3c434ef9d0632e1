"""The sampling requests of a step's rows, as the sampling kernels read them, and their results: one
copy each way per step.

`SamplingRequests` is a view of one buffer of bytes whose layout depends only on the sizes of the
batch. The host fills its own buffer through the same views and copies the bytes to the device's, so
a captured graph finds everything at fixed addresses. A buffer of zeros requests the most probable
token of each row. `engine/compute/runners/sampler.py` defines the numbers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from math import prod

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class SamplingRequests:
    """Sections in this order, each at a multiple of 16 bytes. The masks come last, so that a copy
    can stop after the masks in use.

    Row r's edits are those from `edit_ends[r - 1]` (0 for the first row) up to `edit_ends[r]`, in
    any order, each token at most once. An edit turns a positive logit into `x / factor` and any
    other into `x * factor`, subtracts the penalty and adds the bias, each rounded to float32.
    Tokens that a mask forbids stay forbidden.
    """

    points: Tensor
    """float64 [rows]: the point in [0, 1) of the cumulative probabilities at which to draw"""
    top_p: Tensor
    """float64 [rows]: in (0, 1]; like all that truncates, not read of a row of temperature 0"""
    temperature: Tensor
    """float32 [rows]: 0 takes the most probable token"""
    min_p: Tensor
    """float32 [rows]"""
    top_k: Tensor
    """int32 [rows]: 0 for all"""
    mask_of: Tensor
    """int32 [rows]: which of the masks, counted from 1; 0 for none"""
    edit_ends: Tensor
    """int32 [rows]"""
    tokens: Tensor
    """int32 [edits]: the token that is edited, inside the vocabulary"""
    factors: Tensor
    """float32 [edits]: 1 for none"""
    penalties: Tensor
    """float32 [edits]"""
    biases: Tensor
    """float32 [edits]: minus infinity for a ban"""
    masks: Tensor
    """int32 [masks, ceil(vocab / 32)]: token t may be drawn if bit t % 32 of word t // 32 is set"""

    @classmethod
    def over(cls, buffer: Tensor, *, n_rows: int, n_vocab: int, n_edits: int, n_masks: int) -> SamplingRequests:
        """Views of `buffer`, uint8 [at least `n_bytes`] on any device, for this number of rows and
        with capacity for these numbers of edits and masks.
        """
        views, start = [], 0
        for dtype, shape in _sections(n_rows, n_vocab, n_edits, n_masks):
            end = start + prod(shape) * dtype.itemsize
            views.append(buffer[start:end].view(dtype).view(shape))
            start = _aligned(end)
        return cls(*views)

    @staticmethod
    def n_bytes(*, n_rows: int, n_vocab: int, n_edits: int, n_masks: int) -> int:
        return sum(_aligned(prod(shape) * dtype.itemsize) for dtype, shape in _sections(n_rows, n_vocab, n_edits, n_masks))


def _sections(n_rows: int, n_vocab: int, n_edits: int, n_masks: int) -> Iterator[tuple[torch.dtype, tuple[int, ...]]]:
    """Of the fields, in their order."""
    for dtype, n in ((torch.float64, 2), (torch.float32, 2), (torch.int32, 3)):
        yield from [(dtype, (n_rows,))] * n
    yield from [(torch.int32, (n_edits,))] + [(torch.float32, (n_edits,))] * 3
    yield torch.int32, (n_masks, -(-n_vocab // 32))


def _aligned(n_bytes: int) -> int:
    return -(-n_bytes // 16) * 16


class Status(IntEnum):
    """Of a row's draw."""

    DRAWN = 0
    NOT_FINITE = 1
    """the logits, as they were given"""
    NOTHING_ALLOWED = 2


@dataclass(frozen=True, slots=True)
class Drawn:
    """One small tensor whose columns are read here."""

    packed: Tensor
    """int32 [rows, 4]: token, status, and the bits of the floats logprob and total"""

    @property
    def tokens(self) -> Tensor:
        """int32 [rows]: 0 of a row that failed"""
        return self.packed[:, 0]

    @property
    def statuses(self) -> Tensor:
        """int32 [rows]: see `Status`"""
        return self.packed[:, 1]

    @property
    def logprobs(self) -> Tensor:
        """float32 [rows]: of the tokens under the logits as they were given"""
        return self.packed[:, 2].view(torch.float32)

    @property
    def totals(self) -> Tensor:
        """float32 [rows]: log-sum-exp of the logits as they were given"""
        return self.packed[:, 3].view(torch.float32)
