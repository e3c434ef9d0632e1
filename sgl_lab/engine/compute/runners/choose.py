"""Selects the runner of a model: kernels on a GPU; the native step if it is built and the model is
packed for it; otherwise torch.
"""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING

from ..models.decoder import Decoder
from ..models.foreign import ForeignDecoder
from ..models.packed import PackedDecoder
from .native import NativeRunner
from .runner import TorchRunner

if TYPE_CHECKING:
    from .gpu.device import DeviceRunner

    AnyRunner = TorchRunner | NativeRunner | DeviceRunner


def make_runner(
    model: Decoder | PackedDecoder | ForeignDecoder,
    library: ctypes.CDLL | None,
    n_pages: int,
    page_size: int = 1,
    *,
    threads: int | None = None,
    notes_experts: bool = True,
) -> AnyRunner:
    """A runner with a pool of `n_pages` pages of `page_size` tokens. OutOfMemory if they do not
    fit, DeviceUnfit.

    `notes_experts` is whether it reports the experts of each token; one on a GPU never does.
    """
    match model:
        case PackedDecoder() if library is not None:
            return NativeRunner(library, model, n_pages, page_size, threads=threads, notes_experts=notes_experts)
        case PackedDecoder():
            return TorchRunner(model.twin(), n_pages, page_size, threads=threads, kv_dtype=model.dtype, notes_experts=notes_experts)
        case Decoder() if model.device.type == "cuda":
            from .gpu.device import DeviceRunner  # loads Triton

            runner = DeviceRunner(model, n_pages, page_size)
            runner.try_out()
            return runner
        case Decoder() | ForeignDecoder():
            return TorchRunner(model, n_pages, page_size, threads=threads, notes_experts=notes_experts)
