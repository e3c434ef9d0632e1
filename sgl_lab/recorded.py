"""What a recorded and displayed run needs of the place where it runs: a backend, a log of events, a tree.

`Lab` is this with an engine in the process, `BackendLab` with an engine elsewhere. Cells, views and
commands know no more than what is here, unless they ask for an engine.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, NoReturn, Self

from .contracts.conversation import AnyBackend
from .contracts.errors import ProgramError, Stopped
from .contracts.events import CellFinished, CellStarted, Emit, Entry
from .contracts.ids import RunId
from .contracts.port import ModelCard
from .contracts.tree import TreeSnapshot
from .lang.ids import run_ids
from .trace import Follower, Record, Ring

MAX_RECORDS = 50
MAX_RECORD_BYTES = 256 * 2**20
MAX_GUESTS = 20
MAX_GUEST_BYTES = 128 * 2**20


class RecordedLab(ABC):
    """The log of one backend's events, and the records of its last runs."""

    model: str
    card: ModelCard
    notice: str | None = None
    """a notice on what would make this lab faster, in one line; None if there is nothing to say"""
    evict = ""
    """policy of the cache that is seen; empty if none is"""
    n_bytes = 0
    """of memory in this process"""
    has_tree = True
    """whether a radix tree is seen, or inferred"""

    def __init__(self, emit: Emit | None = None) -> None:
        self.ring = Ring()
        self.emit: Emit = self.ring.emit
        self._follower = None if emit is None else Follower(self.ring, emit)
        self.records: tuple[Record, ...] = ()
        """records of the last runs, oldest first"""
        self.guests: tuple[Record, ...] = ()
        """records of runs that clients of a door began, oldest first, also those that go on"""
        self._recording = threading.Lock()

    # ------------------------------------------------------------ what a lab is over

    @abstractmethod
    def backend_for(self, *, deterministic: bool = False) -> AnyBackend:
        """The backend that programs run on. BackendUnsupported if it cannot be deterministic."""

    @property
    def title(self) -> str:
        """Where it runs, in a few words: the heading of a view."""
        return f"{self.model} · {self.card.device} · {self.card.dtype}"

    @property
    @abstractmethod
    def is_open(self) -> bool:
        """Whether it answers requests."""

    @abstractmethod
    def snapshot(self) -> TreeSnapshot:
        """The current tree; without nodes if none is seen."""

    @abstractmethod
    def spell(self, token: int) -> str:
        """The text of one token or piece."""

    @abstractmethod
    def stats(self) -> dict[str, Any]:
        """Counts since the lab was created."""

    @abstractmethod
    def flush(self) -> None:
        """Drop every prefix that can be dropped."""

    @abstractmethod
    def stop(self) -> int:
        """Abort every request, running or waiting. Returns how many there were."""

    @abstractmethod
    def close(self) -> None:
        """Requests that still run fail with EngineStopped."""

    # ------------------------------------------------------------ what happened

    def events(self) -> tuple[Entry, ...]:
        """The last events, oldest first, as many as the ring holds."""
        return self.ring.read(0).entries

    @contextmanager
    def record(self, title: str, source: str = "", *, is_guest: bool = False) -> Iterator[Record]:
        """Record everything from here to the end of the block as one run, without loss. The last
        runs remain in `records`; those of guests, from their beginning, in `guests`.
        """
        run = RunId(run_ids.next())
        record = Record(run)
        if is_guest:
            with self._recording:
                self.guests = (*_last(self.guests, MAX_GUESTS - 1, MAX_GUEST_BYTES), record)
        stop = self.ring.listen(record.append)
        try:
            record.begin(self.snapshot())
            self.emit(CellStarted(run, title, source))
            try:
                yield record
            except (KeyboardInterrupt, Stopped):
                self.emit(CellFinished(run, "stopped", ""))
                raise
            except BaseException as error:
                self.emit(CellFinished(run, "error", f"{type(error).__name__}: {error}"))
                raise
            self.emit(CellFinished(run, "ok", ""))
        finally:
            stop()
            record.end(self.spell)
            if not is_guest:
                with self._recording:
                    self.records = _last((*self.records, record), MAX_RECORDS, MAX_RECORD_BYTES)

    def __reduce__(self) -> NoReturn:
        raise ProgramError("a lab belongs to this process and cannot be pickled", hint="make a lab in each process")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.close()


def _last(records: tuple[Record, ...], n_most: int, n_bytes: int) -> tuple[Record, ...]:
    """The last of them, as many as are allowed, and at least one."""
    kept = records[-n_most:]
    while len(kept) > 1 and sum(one.n_bytes for one in kept) > n_bytes:
        kept = kept[1:]
    return kept
