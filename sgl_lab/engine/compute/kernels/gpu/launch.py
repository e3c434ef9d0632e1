"""Launches kernels. All wrappers launch theirs here and nowhere else.

One place therefore sees kernel, grid, arguments and constants together. The check that compiles
every kernel ahead of time for other cards records them here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple, Protocol


class Kernel(Protocol):
    """A function under `triton.jit`."""

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., object]: ...


class Launch(NamedTuple):
    kernel: Kernel
    """a `triton.jit` function"""
    grid: tuple[int, ...]
    args: tuple[object, ...]
    """tensors and numbers, in the order of the kernel's parameters"""
    constants: dict[str, object]
    """its `tl.constexpr` parameters, and `num_warps` and `num_stages`"""


_listener: ContextVar[Callable[[Launch], None] | None] = ContextVar("listener", default=None)


def launch(kernel: Kernel, grid: tuple[int, ...], *args: object, **constants: object) -> None:
    """Run `kernel[grid](*args, **constants)` on the current stream; nothing is done for an empty grid."""
    if 0 in grid:
        return
    if (listener := _listener.get()) is not None:
        listener(Launch(kernel, grid, args, constants))
    else:
        kernel[grid](*args, **constants)


@contextmanager
def listening(listener: Callable[[Launch], None]) -> Iterator[None]:
    """Launches inside this block are reported instead of executed."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)
