"""What clients do is recorded as a cell's programs are: a run for each client, a lane for each request.

So the live views, `%sgl why` and `%sgl timeline` show requests from outside as they show forks.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

from ..contracts.events import Emit, ExprFinished, ExprStarted, ForkOpened, StreamExtended
from ..contracts.ids import ExprId, ForkId
from ..contracts.legible import legible
from ..contracts.port import GenOutput
from ..lang.ids import expr_ids, fork_ids

if TYPE_CHECKING:
    from ..session import Lab
    from ..trace import Record

MAX_OPEN = 8
"""runs that are recorded at the same time: each keeps every event"""
MAX_ENTRIES = 50_000
"""events after which an idle client's next request begins another run; a busy one's after four
times as many"""
IDLE_S = 300.0
"""seconds without a request after which a client's run ends"""
OTHERS = "other-clients"


class Lane:
    """One request as a fork of its client's run."""

    def __init__(self, client: Client, label: str, index: int, prompt: tuple[int, ...], kind: str) -> None:
        self.fork = ForkId(fork_ids.next())
        self.expr = ExprId(expr_ids.next())
        self._client = client
        self._emit: Emit = client.emit
        self._n_prompt = len(prompt)
        self._emit(ForkOpened(client.record.run, self.fork, client.root, index, f"{label} {index + 1}"))
        self._emit(StreamExtended(self.fork, 0, prompt, "text", "user"))
        self._emit(ExprStarted(self.fork, self.expr, kind, label, 0, "assistant"))

    def generated(self, outputs: Sequence[GenOutput]) -> None:
        first = outputs[0]
        if first.ids:
            self._emit(StreamExtended(self.fork, self._n_prompt, first.ids, "generated", "assistant"))
        stopped = any(output.finish_reason == "abort" for output in outputs)
        self._end("stopped" if stopped else "ok", first.text)

    def scored(self) -> None:
        self._end("ok", "")

    def failed(self, error: Exception) -> None:
        self._end("error", str(error))

    def _end(self, status: str, value: str) -> None:
        self._emit(ExprFinished(self.fork, self.expr, status, value))
        self._client.left()


class Client:
    """A client's run."""

    def __init__(self, lab: Lab, name: str) -> None:
        self.name = name
        self.emit: Emit = lab.emit
        self._recording = ExitStack()
        self.record: Record = self._recording.enter_context(lab.record(name, is_guest=True))
        self.root = ForkId(fork_ids.next())
        self.n_requests = 0
        self.n_open = 0
        self.used = time.monotonic()
        self._lock = threading.Lock()
        self.emit(ForkOpened(self.record.run, self.root, None, 0, name))

    def lane(self, label: str, prompt: tuple[int, ...], kind: str = "gen") -> Lane:
        with self._lock:
            index = self.n_requests
            self.n_requests += 1
            self.n_open += 1
        return Lane(self, label, index, prompt, kind)

    def left(self) -> None:
        with self._lock:
            self.n_open -= 1
            self.used = time.monotonic()

    @property
    def is_long(self) -> bool:
        n = len(self.record.entries)
        return n > 4 * MAX_ENTRIES or (n > MAX_ENTRIES and not self.n_open)

    def end(self) -> None:
        self._recording.close()


class Clients:
    """The open runs, by client. `of`, `sweep` and `close` may wait for a step of the engine: not
    for the loop's thread."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._open: dict[str, Client] = {}
        self._lock = threading.Lock()

    def of(self, name: str) -> Client:
        """The run of the client of that name. Clients beyond `MAX_OPEN` that are all busy share one."""
        name = legible(name)
        with self._lock:
            client = self._open.get(name)
            if client is None and len(self._open) >= MAX_OPEN:
                idle = [one for one in self._open.values() if not one.n_open]
                if idle:
                    self._end(min(idle, key=lambda one: one.used))
                else:
                    name = OTHERS
                    client = self._open.get(name)
            if client is not None and client.is_long:
                self._end(client)
                client = None
            if client is None:
                client = self._open[name] = Client(self._lab, name)
            client.used = time.monotonic()
            return client

    def sweep(self) -> None:
        """End the runs of clients that have been idle for long."""
        with self._lock:
            for client in tuple(self._open.values()):
                if not client.n_open and time.monotonic() - client.used > IDLE_S:
                    self._end(client)

    def close(self) -> None:
        with self._lock:
            for client in tuple(self._open.values()):
                self._end(client)

    def counts(self) -> list[tuple[str, int, int]]:
        """(client, requests of its run, of which in flight)."""
        return [(client.name, client.n_requests, client.n_open) for client in tuple(self._open.values())]

    def _end(self, client: Client) -> None:
        del self._open[client.name]
        client.end()
