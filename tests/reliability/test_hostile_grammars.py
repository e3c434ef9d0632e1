"""C4: whatever grammar comes, it is answered or refused in 2 s and 256 MiB, and nothing is asked of the network."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from .hostile import MEMORY, SECONDS

pytestmark = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="limits the memory of a process, as Linux does")


def test_sixty_hostile_grammars_are_answered_or_refused_in_time(record_table: Callable[..., None]) -> None:
    ran = subprocess.run([sys.executable, "-m", "tests.reliability.hostile"], capture_output=True, text=True, cwd=Path(__file__).parents[2])
    results = [json.loads(line) for line in ran.stdout.splitlines()]
    answered = [name for name, what, _ in results if what == "answered"]
    refused = [name for name, what, _ in results if what.startswith("refused: ")]
    slowest = max(results, key=lambda result: result[2])
    record_table(
        "C4",
        grammars=len(results),
        answered=len(answered),
        refused=len(refused),
        limits=f"{SECONDS} s of CPU, {MEMORY >> 20} MiB",
        slowest=f"{slowest[2]:.2f} s ({slowest[0]})",
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    assert [result for result in results if result[0] not in answered + refused] == []
    assert len(results) >= 60
