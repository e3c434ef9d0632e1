"""The same computation again and again on the same memory: on a GPU recorded as a CUDA graph and started with one call."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

_log = logging.getLogger(__name__)


class Recorded(NamedTuple):
    result: Tensor
    """of the last `again`; always the same memory"""
    again: Callable[[], object]


class Recorder:
    """All graphs share one pool of memory: they never run at the same time."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._graphs: list[torch.cuda.CUDAGraph] = []

    def recorded(self, compute: Callable[[], Tensor], what: str) -> Recorded:
        """`compute` reads memory that stays, starts the same kernels whenever it is called, and may be called twice. Takes a second."""
        if self._device.type != "cuda":
            result = compute()
            return Recorded(result, lambda: result.copy_(compute()))
        _log.info("recording %s", what)
        started = time.perf_counter()
        # Kernels are compiled and workspaces found before the recording, which can do neither.
        current, beside = torch.cuda.current_stream(), torch.cuda.Stream()  # type: ignore[no-untyped-call]  # torch's own
        beside.wait_stream(current)
        with torch.cuda.stream(beside):
            compute()
        current.wait_stream(beside)
        graph = torch.cuda.CUDAGraph()
        pool = self._graphs[0].pool() if self._graphs else None
        with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):  # others' threads may use the GPU meanwhile
            result = compute()
        self._graphs.append(graph)
        _log.info("recorded %s in %.1f s", what, time.perf_counter() - started)
        return Recorded(result, graph.replay)

    def release(self) -> None:
        """No graph may run any more."""
        for graph in self._graphs:
            graph.reset()
        self._graphs.clear()
