"""Keys and values of every page, one pair of tensors per layer.

Knows where a slot is, but not its owner: pages are allocated elsewhere. Position p of a request is
in slot `pages[p // page_size] * page_size + p % page_size`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ....contracts.errors import OutOfMemory
from ..memory import ASSUMED, demand, free_bytes, mib
from ..models.spec import ModelSpec


class KvStore:
    """`keys[layer]` and `values[layer]` are [n_pages * page_size, kv_heads, head_dim],
    uninitialised. OutOfMemory if they do not fit.
    """

    def __init__(self, spec: ModelSpec, n_pages: int, page_size: int, *, device: torch.device, dtype: torch.dtype) -> None:
        kinds = [layer.attention for layer in spec.layers]
        shapes = [(n_pages * page_size, kind.n_kv_heads, kind.head_dim) for kind in kinds]
        self.page_size = page_size
        self.n_bytes = n_pages * page_size * spec.kv_bytes_per_token(dtype.itemsize)
        what, hint = f"a cache of {n_pages * page_size:,} tokens", "use a smaller cache_tokens or cache_mib"
        if device.type == "cpu":
            demand(self.n_bytes, what, hint=hint)
        self.release()
        try:
            self.keys = [torch.empty(shape, device=device, dtype=dtype) for shape in shapes]
            self.values = [torch.empty(shape, device=device, dtype=dtype) for shape in shapes]
        except RuntimeError:
            self.release()  # the error's frames hold on to this
            raise OutOfMemory(f"{what} needs {mib(self.n_bytes)}, more than {device} has left", hint=hint) from None

    def copy_page(self, source: int, target: int) -> None:
        size = self.page_size
        for store in (*self.keys, *self.values):
            store[target * size : (target + 1) * size] = store[source * size : (source + 1) * size]

    def poison(self, pages: Sequence[int]) -> None:
        """Fill pages with NaN, so that a read of a freed page cannot go unnoticed."""
        for page in pages:
            for store in (*self.keys, *self.values):
                store[page * self.page_size : (page + 1) * self.page_size] = torch.nan

    def release(self) -> None:
        self.keys = []
        self.values = []


GPU_CONTEXTS = 64
"""that a pool on a GPU has room for by default"""


def pages_for(spec: ModelSpec, dtype: torch.dtype, device: torch.device, page_size: int, *, budget_bytes: int | None = None) -> int:
    """How many pages a budget holds.

    By default it is an eighth of the memory that is free on a CPU, at most 1 GiB, or four fifths of
    a GPU's, at most `GPU_CONTEXTS` full contexts.
    """
    n_bytes = spec.kv_bytes_per_token(dtype.itemsize)
    if budget_bytes is None and device.type == "cpu":
        budget_bytes = min(1 << 30, (free_bytes() or ASSUMED) // 8)
    elif budget_bytes is None:
        budget_bytes = min(torch.cuda.mem_get_info(device)[0] * 4 // 5, GPU_CONTEXTS * spec.context * n_bytes)
    return max(1, budget_bytes // (n_bytes * page_size))
