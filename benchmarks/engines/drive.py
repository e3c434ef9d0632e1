"""The driver of `worker`: starts one, sends it one load after the other, and gives up if it dies or
hangs.

A figure's load runs once to warm up, then `reps` times with other tokens; it stops after `budget_s`
seconds. If the warm-up alone took longer, it is the only sample.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from .loads import Load, to_json

START_S = 300.0
CHECK_S = 300.0


class PeerFailed(Exception):
    """The worker could not be started, died, took too long (and was ended), or reported an error
    (and continues).
    """


class Peer:
    """A worker process. Output of the worker and its engine goes to `log`."""

    def __init__(self, command: Sequence[str], *, folder: Path, log: Path, threads: int, start_s: float = START_S) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        self._log = log
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        with log.open("w") as errors:
            self._process = subprocess.Popen(
                command,
                cwd=folder,
                env=os.environ | {name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                start_new_session=True,  # so that closing also ends its child processes
            )
        threading.Thread(target=self._read, daemon=True).start()
        self.version: str = self._answer(start_s)

    def run(self, load: Load, limit_s: float) -> dict[str, Any] | None:
        """`loads.Sample` as JSON; None if the engine does not support the load. Raises PeerFailed."""
        sample: dict[str, Any] | None = self._ask({"run": to_json(load)}, limit_s)
        return sample

    def call(self, name: str, **arguments: Any) -> Any:
        """Call a method that only some adapters have."""
        return self._ask({"call": name, "with": arguments}, CHECK_S)

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    def close(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put(None)

    def _ask(self, message: dict[str, Any], limit_s: float) -> Any:
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # the worker is dead; the answer reports it
            self._process.stdin.write(json.dumps(message) + "\n")
            self._process.stdin.flush()
        return self._answer(limit_s)

    def _answer(self, seconds: float) -> Any:
        try:
            line = self._lines.get(timeout=seconds)
        except queue.Empty:
            self.close()
            raise PeerFailed(f"more than {seconds:.0f} s") from None
        if line is None:
            raise PeerFailed(f"it died ({self._process.wait()}): {self._last_words()}")
        answer = json.loads(line)
        if "error" in answer:
            raise PeerFailed(answer["error"])
        return answer["result"]

    def _last_words(self) -> str:
        lines = self._log.read_text(errors="replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "without a word")[:200]


@dataclass(frozen=True)
class Measured:
    """The measurement of one figure."""

    seconds: list[float]
    """seconds of each repetition"""
    is_warm: bool
    answers: list[dict[str, Any]]
    """`loads.Said` of the last repetition"""


def measure(peer: Peer, load: Callable[[int], Load], *, reps: int, budget_s: float, limit_s: float) -> Measured | None:
    """Measure `load(rep)`, the load of each repetition, with `limit_s` seconds for each. None if
    the engine does not support it. Raises PeerFailed.
    """
    started = time.monotonic()
    sample = peer.run(load(0), limit_s)
    if sample is None:
        return None
    if time.monotonic() - started > budget_s:
        return Measured([sample["seconds"]], False, sample["answers"])
    samples, started = [], time.monotonic()
    for rep in range(1, reps + 1):
        sample = peer.run(load(rep), limit_s) or sample
        samples.append(sample["seconds"])
        if time.monotonic() - started > budget_s:
            break
    return Measured(samples, True, sample["answers"])
