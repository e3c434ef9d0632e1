"""Repeats one computation on the same memory. On a GPU it is recorded as a CUDA graph and started
with one call.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

_log = logging.getLogger(__name__)


class Recorded(NamedTuple):
    results: tuple[Tensor, ...]
    """of the last `again`; always the same memory"""
    again: Callable[[], object]


class Recorder:
    """All graphs share one pool of memory: they never run at the same time."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._graphs: list[torch.cuda.CUDAGraph] = []
        self._beside = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]  # torch's own

    def recorded(self, compute: Callable[[], tuple[Tensor, ...]], what: str) -> Recorded:
        """`compute` reads fixed memory and always launches the same kernels; calling it twice
        changes nothing. Recording takes a second.
        """
        if self._beside is None:
            return _unrecorded(compute)
        _log.info("recording %s", what)
        started = time.perf_counter()
        # Kernels are compiled and workspaces found before the recording, which can do neither.
        current = torch.cuda.current_stream()
        self._beside.wait_stream(current)
        with torch.cuda.stream(self._beside):
            compute()
        current.wait_stream(self._beside)
        graph = torch.cuda.CUDAGraph()
        pool = self._graphs[0].pool() if self._graphs else None
        # Threads of others may use the GPU meanwhile.
        recording = torch.cuda.graph(graph, pool=pool, stream=self._beside, capture_error_mode="thread_local")
        try:
            with torch.cuda.stream(self._beside), recording:  # which does not leave its stream by itself if it fails
                results = compute()
        except RuntimeError as error:
            torch.cuda.set_stream(current)  # torch leaves its own where it cannot end a recording
            _log.warning("%s could not be recorded and is slower for it: %s", what, error)
            return _unrecorded(compute)
        self._graphs.append(graph)
        _log.info("recorded %s in %.1f s", what, time.perf_counter() - started)
        return Recorded(results, graph.replay)

    def release(self) -> None:
        """Forget all graphs; waits for those that still run."""
        if self._graphs:
            torch.cuda.synchronize(self._device)
        for graph in self._graphs:
            graph.reset()
        self._graphs.clear()


def _unrecorded(compute: Callable[[], tuple[Tensor, ...]]) -> Recorded:
    results = compute()
    return Recorded(results, lambda: [mine.copy_(new) for mine, new in zip(results, compute(), strict=True)])
