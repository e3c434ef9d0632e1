"""BackendLab: a lab over a backend whose engine is elsewhere, behind an API or in a test's script.

It has a log, records and counts as `Lab` has, so cells and views work the same way. Imports no
engine.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Protocol, runtime_checkable

from .contracts.conversation import AnyBackend, takes_tokens
from .contracts.errors import EngineStopped
from .contracts.events import Emit, Entry, Event, RequestAnswered, RequestFinished, RequestQueued, silent
from .contracts.ids import RequestId
from .contracts.pieces import is_piece, spelled
from .contracts.spans import shown_at
from .contracts.tree import TreeSnapshot
from .lang.default import Reached, checked
from .lang.keywords import all_suggest
from .recorded import RecordedLab
from .trace.record import EMPTY, Record

REASONS = ("stop", "length", "abort", "error")


@runtime_checkable
class SeesTree(Protocol):
    """A backend that knows the tree of its engine, or infers it."""

    def snapshot(self, cursor: Callable[[], int]) -> TreeSnapshot:
        """The tree. `cursor()` is the number of the next event, for `seq`; called under the lock
        under which the backend emits.
        """


@runtime_checkable
class _Rewinds(Protocol):
    """A backend that keeps answers on disk. In each cell equal calls count from one again."""

    def rewind(self) -> None: ...


@runtime_checkable
class _Shadowed(Protocol):
    """A backend whose tree is inferred from its requests."""

    def shadowed(self, emit: Emit) -> Emit: ...


@runtime_checkable
class _Spells(Protocol):
    def spell(self, token: int) -> str: ...


@runtime_checkable
class _Flushable(Protocol):
    def flush(self) -> None: ...


@all_suggest
class BackendLab(RecordedLab):
    """The log and the records of a backend.

    backend  any backend, of either port, or what has one as its `endpoint`
    name     what the views call the place, such as openai; by default the backend's class
    emit     called with every event, as that of `Lab`

    A backend has one lab: use `lab_of`. What it emits goes to the lab's log from then on, and to
    where it went before.
    """

    def __init__(self, backend: AnyBackend | Reached, *, name: str = "", emit: Emit | None = None) -> None:
        super().__init__(emit)
        self.backend = checked(backend)
        self.card = self.backend.describe()
        self.model = self.card.name
        self.name = name or type(self.backend).__name__
        self._counts = _Counts()
        self.ring.listen(self._counts.fold)
        before = getattr(self.backend, "emit", silent)
        out = self.emit if before is silent else _both(before, self.emit)
        # what a cell's program says goes the same way: an inferred tree learns of answers by it
        self.emit = self.backend.shadowed(out) if isinstance(self.backend, _Shadowed) else out
        self.backend.emit = self.emit  # type: ignore[union-attr]  # backends that say events have it

    def __repr__(self) -> str:
        return f"<BackendLab {self.title}>"

    @contextmanager
    def record(self, title: str, source: str = "", *, is_guest: bool = False) -> Iterator[Record]:
        if isinstance(self.backend, _Rewinds):
            self.backend.rewind()
        with super().record(title, source, is_guest=is_guest) as record:
            yield record

    def backend_for(self, *, deterministic: bool = False) -> AnyBackend:
        if deterministic and not self.card.capabilities.deterministic:
            raise self.card.capabilities.missing("deterministic", self.card.name, "--deterministic")
        return self.backend

    @property
    def title(self) -> str:
        where = (self.model, self.name, *(word for word in (self.card.device,) if word not in ("none", "remote", "", self.name)))
        return " · ".join(dict.fromkeys(where))

    @property
    def has_tree(self) -> bool:  # type: ignore[override]  # it follows from the backend
        return isinstance(self.backend, SeesTree) and bool(getattr(self.backend, "has_tree", True))

    @property
    def is_open(self) -> bool:
        try:
            self.backend.poll()
        except EngineStopped:
            return False
        return True

    def snapshot(self) -> TreeSnapshot:
        if self.has_tree and isinstance(self.backend, SeesTree):
            return self.backend.snapshot(lambda: self.ring.cursor)
        return replace(EMPTY, seq=self.ring.cursor)

    def spell(self, token: int) -> str:
        if token < 0:
            return shown_at(token)
        if is_piece(token):
            return spelled(token)
        if isinstance(self.backend, _Spells):
            return self.backend.spell(token)
        return self.backend.decode((token,)) if takes_tokens(self.backend) else f"<{token}>"

    def stats(self) -> dict[str, Any]:
        """Counts since the lab was created: tokens as the server reports them, requests, and cost
        as far as prices are known.
        """
        return self._counts.read()

    def flush(self) -> None:
        """Drop what the backend can drop. BackendUnsupported if it has no cache to flush."""
        if not isinstance(self.backend, _Flushable):
            raise self.card.capabilities.missing("cached_counts", self.card.name, "flush")
        self.backend.flush()

    def stop(self) -> int:
        running = self._counts.running()
        for request in running:
            self.backend.cancel(request)
        return len(running)

    def close(self) -> None:
        for name in ("close", "shutdown"):
            if callable(end := getattr(self.backend, name, None)):
                end()
                break
        if self._follower is not None:
            self._follower.close()
        with _lock:
            _opened[:] = [lab for lab in _opened if lab is not self]


class _Counts:
    """A fold of the log. Requests of a backend that says no end of them are not running."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: set[RequestId] = set()
        self._found: dict[str, int] = dict.fromkeys(("prompt_tokens", "cached_prompt_tokens", "generated_tokens"), 0)
        self._ends = dict.fromkeys((f"requests_{reason}" for reason in REASONS), 0)
        self._answered = self._unpriced = self._uncounted = 0
        self._cost, self._currency = 0.0, ""

    def fold(self, entry: Entry) -> None:
        with self._lock:
            match entry.event:
                case RequestQueued(request=request):
                    self._running.add(request)
                case RequestFinished(request=request) as ended if request in self._running:
                    self._running.discard(request)
                    free = RequestAnswered(request, ended.reason, ended.n_prompt, ended.n_completion, ended.n_cached, 0.0, "")
                    self._answer(free)
                case RequestAnswered(request=request) as answered:
                    self._running.discard(request)
                    self._answer(answered)
                case _:
                    pass

    def _answer(self, answered: RequestAnswered) -> None:
        self._answered += 1
        self._found["prompt_tokens"] += answered.n_prompt
        self._found["cached_prompt_tokens"] += min(answered.n_cached or 0, answered.n_prompt)
        self._found["generated_tokens"] += answered.n_completion
        self._uncounted += answered.n_cached is None and answered.n_prompt > 0
        self._ends[f"requests_{answered.reason if answered.reason in REASONS else 'stop'}"] += 1
        if answered.cost is None:
            self._unpriced += 1
        else:
            self._cost, self._currency = self._cost + answered.cost, answered.currency

    def read(self) -> dict[str, Any]:
        with self._lock:
            found = dict(self._found)
            rate = found["cached_prompt_tokens"] / max(1, found["prompt_tokens"])
            requests = {"requests_running": len(self._running), "requests_waiting": 0, "answered": self._answered, **self._ends}
            requests["uncounted"] = self._uncounted
            return found | {"hit_rate": rate} | requests | {"cost": self._cost, "currency": self._currency, "unpriced": self._unpriced}

    def running(self) -> tuple[RequestId, ...]:
        with self._lock:
            return tuple(self._running)


def _both(first: Emit, second: Emit) -> Emit:
    def emit(event: Event) -> None:
        first(event)
        second(event)

    return emit


_opened: list[BackendLab] = []
_lock = threading.Lock()


def opened() -> tuple[BackendLab, ...]:
    """The labs that `lab_over` made and that are not closed."""
    return tuple(_opened)


def lab_over(backend: AnyBackend | Reached, name: str = "") -> BackendLab:
    """The lab of a backend: the one that it has, or a new one."""
    found = checked(backend)
    with _lock:
        lab = next((lab for lab in _opened if lab.backend is found), None)
        if lab is None:
            lab = BackendLab(found, name=name)
            _opened.append(lab)
    return lab
