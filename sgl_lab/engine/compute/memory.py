"""How much memory there is, and the one error for when it is not enough. Knows no torch."""

from __future__ import annotations

import os
from pathlib import Path

from ...contracts.errors import OutOfMemory

ASSUMED = 4 << 30
"""The memory assumed for a machine that does not report it."""

_CONTAINER = Path("/sys/fs/cgroup")
"""Linux's files for the limits of a container; the whole machine has no such file."""


def free_bytes() -> int | None:
    """How much memory this process can still allocate without being killed; None if the system does
    not report it (not Linux).
    """
    try:
        lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        machine = int(lines["MemAvailable"].split()[0]) << 10
    except (OSError, KeyError, ValueError):
        return None
    try:
        cached = dict(line.split() for line in (_CONTAINER / "memory.stat").read_text().splitlines())["inactive_file"]
        used = int((_CONTAINER / "memory.current").read_text())
        return min(machine, max(0, _limit() - used + int(cached)))
    except (OSError, KeyError, ValueError):
        return machine


def machine_bytes() -> int:
    """The total memory of the machine; 4 GiB are assumed if the system does not report it."""
    try:
        machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return ASSUMED
    try:
        return min(machine, _limit())
    except (OSError, ValueError):
        return machine


def _limit() -> int:
    """The limit of a container. OSError without a container, ValueError without a limit."""
    return int((_CONTAINER / "memory.max").read_text())


def mib(n_bytes: int) -> str:
    return f"{n_bytes / 2**20:,.0f} MiB"


def demand(n_bytes: int, what: str, *, hint: str) -> None:
    """OutOfMemory unless the CPU's memory has room for `n_bytes` more: Linux grants more than there
    is, and kills the process that uses it.
    """
    free = free_bytes()
    if free is not None and n_bytes > free:
        raise OutOfMemory(f"{what} needs {mib(n_bytes)}, but only {mib(free)} of memory are free", hint=hint)
