"""Launches kernels. All wrappers launch theirs here and nowhere else.

One place therefore sees kernel, grid, arguments and constants together. The check that compiles
every kernel ahead of time for other cards records them here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple


class Launch(NamedTuple):
    kernel: Any
    """a `triton.jit` function"""
    grid: tuple[int, ...]
    args: tuple[Any, ...]
    """tensors and numbers, in the order of the kernel's parameters"""
    constants: dict[str, Any]
    """its `tl.constexpr` parameters, and `num_warps` and `num_stages`"""


_heard: ContextVar[Callable[[Launch], None] | None] = ContextVar("heard", default=None)


def launch(kernel: Any, grid: tuple[int, ...], *args: Any, **constants: Any) -> None:
    """Run `kernel[grid](*args, **constants)` on the current stream; nothing is done for an empty grid."""
    if 0 in grid:
        return
    if (hear := _heard.get()) is not None:
        hear(Launch(kernel, grid, args, constants))
    else:
        kernel[grid](*args, **constants)


@contextmanager
def hearing(hear: Callable[[Launch], None]) -> Iterator[None]:
    """Launches inside this block are reported instead of executed."""
    token = _heard.set(hear)
    try:
        yield
    finally:
        _heard.reset(token)
