"""Transfers a step's numbers: all of them in one copy to the device, and its results in one copy
back.

The host waits only for results. Pinned memory comes from torch's cache, which reuses a piece only
after the copies that read it. A step may therefore be written while the previous one still reads
its own numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Array = npt.NDArray[np.generic]

_ALIGNED = 16
"""bytes; Triton compiles a kernel again for pointers with another alignment"""


def gathered(arrays: Sequence[Array], device: torch.device) -> Tensor:
    """All arrays in one piece of the host's memory, uint8, which is copied to `device` while the
    host continues.
    """
    starts = _starts(arrays)
    host = torch.empty(starts[-1], dtype=torch.uint8, pin_memory=device.type == "cuda")
    bytes_of = host.numpy()
    for array, start in zip(arrays, starts, strict=False):
        bytes_of[start : start + array.nbytes] = array.reshape(-1).view(np.uint8)
    return host


def views(buffer: Tensor, arrays: Sequence[Array]) -> tuple[Tensor, ...]:
    """The arrays as they lie in `buffer`, which `gathered` filled, or in a copy of it."""
    return tuple(
        buffer[start : start + array.nbytes].view(_TYPES[array.dtype.str]).view(array.shape)
        for array, start in zip(arrays, _starts(arrays), strict=False)
    )


def sent(arrays: Sequence[Array], device: torch.device) -> tuple[Tensor, ...]:
    """The arrays on the device."""
    return views(gathered(arrays, device).to(device, non_blocking=True), arrays)


def _starts(arrays: Sequence[Array]) -> list[int]:
    """Where each array begins, and where the last one ends."""
    return [0, *accumulate(-(-array.nbytes // _ALIGNED) * _ALIGNED for array in arrays)]


_TYPES = {"|u1": torch.uint8, "<i4": torch.int32, "<i8": torch.int64}


def fetched(tensors: Sequence[Tensor], device: torch.device) -> Callable[[], list[Array]]:
    """Copies of the tensors, of 4-byte types, in flight to the host. Calling the result waits for
    them.
    """
    parts = [tensor.contiguous().view(-1).view(torch.int32) for tensor in tensors]
    if not parts:
        return list
    there = torch.cat(parts)
    here = torch.empty(there.shape, dtype=torch.int32, pin_memory=device.type == "cuda").copy_(there, non_blocking=True)
    over = torch.cuda.Event() if device.type == "cuda" else None  # type: ignore[no-untyped-call]  # torch's own
    if over is not None:
        over.record()

    def arrived() -> list[Array]:
        if over is not None:
            over.synchronize()
        pieces = torch.split(here, [part.numel() for part in parts])
        return [piece.view(tensor.dtype).view(tensor.shape).numpy() for piece, tensor in zip(pieces, tensors, strict=True)]

    return arrived
