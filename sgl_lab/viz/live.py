"""The live view of one run: a widget, and the thread that feeds it from the ring.

`open_live` starts both. `LiveHandle.close` sends the remaining changes and ends the thread. The
widget outlives its run for a while, because a page that is reloaded during a run can request it
only when the kernel is idle again. The thread sleeps until an event arrives and never prints. An
error in a picture ends the picture, not the run.

Importing this module imports ipywidgets: import it when a cell runs, not when the extension loads.
Knows no engine and no magic.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import ClassVar

import anywidget
import traitlets

from ..contracts.events import Entry
from ..contracts.tree import TreeSnapshot
from ..trace import Ring
from . import bundle
from .sender import Packet, Sender, Views

BATCH = 4096
"""entries read from the ring at a time"""
TICK_S = 1 / 30
KEPT = 8
"""widgets of ended runs that remain open for reloaded pages"""


class Live(anywidget.AnyWidget):
    """The widget of the page. Its state travels as custom messages, each with its body as JSON in a
    buffer, which the comm sends as it is; `snapshot`, JSON too, is for pages that load during a
    run.
    """

    _esm = bundle.esm()
    _css = bundle.css()
    layout = traitlets.Any(None).tag(sync=True)
    """None, because a page applies a layout some time after it has shown the view, and a short run
    may have closed it by then
    """
    snapshot = traitlets.Unicode("").tag(sync=True)
    options = traitlets.Dict().tag(sync=True)
    """views      which of tokens, graph, tree, timeline are open at first
    title      the heading
    kernel_id  the kernel to interrupt
    vocab      size of the model's vocabulary in tokens
    evict      the cache's eviction policy
    place      the name of the elements that show a `Panel`
    """

    def tell(self, packet: Packet) -> None:
        self.send({"seq": packet.seq, "kind": packet.kind}, [packet.body.encode("ascii")])

    def keep(self, snapshot: str) -> None:
        self.set_trait("snapshot", snapshot)


class Pump:
    """The thread between a ring and a page.

    send   called with every message, on the pump's thread
    store  called with every snapshot, on the pump's thread
    since  number of the first event to fold; by default the next one

    All methods may be called from any thread. After its end the pump holds only the last picture,
    and no reference to the ring, the views or the engine.
    """

    def __init__(
        self,
        ring: Ring,
        views: Views,
        *,
        snapshot: Callable[[], TreeSnapshot | None],
        send: Callable[[Packet], None],
        store: Callable[[str], None],
        since: int | None = None,
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._send, self._store, self._clock = send, store, clock
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._hello = threading.Event()
        self._statuses: deque[tuple[str, str, float | None]] = deque(maxlen=1)
        self._last: list[Packet] = []
        """the complete final picture"""
        self.error: Exception | None = None
        """the error that ended the picture early"""
        cursor, sender = ring.cursor if since is None else since, Sender(views)
        if (tree := snapshot()) is not None:
            sender.load(tree)
        # A thread drops its arguments when it ends.
        self._thread = threading.Thread(target=self._run, args=(ring, cursor, sender, snapshot), name="sgl-live", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def hello(self) -> None:
        """A page requests the complete picture. The thread sends it, or this method does after the
        thread's end.
        """
        self.renew()
        if self._closing.is_set():
            self._thread.join(timeout=5)
            for packet in self._last:
                self._send(packet)
            self._last = [packet._replace(seq=packet.seq + len(self._last)) for packet in self._last]

    def renew(self) -> None:
        """Make the next message the complete picture."""
        self._hello.set()
        self._wake.set()

    def status(self, phase: str, text: str, progress: float | None) -> None:
        self._statuses.append((phase, text, progress))
        self._wake.set()

    def close(self) -> None:
        """Send the remaining changes, then end the thread."""
        self._closing.set()
        self._wake.set()
        self._thread.join(timeout=5)

    def _on_entry(self, entry: Entry) -> None:
        if not self._wake.is_set():
            self._wake.set()

    def _run(self, ring: Ring, cursor: int, sender: Sender, snapshot: Callable[[], TreeSnapshot | None]) -> None:
        stop_listening = ring.listen(self._on_entry)
        try:
            closing = False
            while not closing:
                closing = self._closing.is_set()
                self._wake.clear()
                cursor = _read(ring, cursor, sender, snapshot)
                self._send_due(sender, closing)
                if not closing:
                    # A busy engine emits hundreds of events a second; the page is updated thirty
                    # times.
                    self._closing.wait(TICK_S)
                    pause = sender.pause_ns(self._clock())
                    self._wake.wait(None if pause is None else pause / 1e9)
            sender.hello()
            self._last = sender.poll(self._clock(), flush=True)
        except Exception as error:  # the run continues without its picture
            self.error = error.with_traceback(None)
        finally:
            stop_listening()

    def _send_due(self, sender: Sender, closing: bool) -> None:
        """Send the messages that are due, or all of them when closing."""
        if self._hello.is_set():
            self._hello.clear()
            sender.hello()
        while self._statuses:
            sender.status(*self._statuses.popleft())
        for packet in sender.poll(self._clock(), flush=closing):
            self._send(packet)
        if not closing and (state := sender.snapshot(self._clock())) is not None:
            self._store(state)


def _read(ring: Ring, cursor: int, sender: Sender, snapshot: Callable[[], TreeSnapshot | None]) -> int:
    """Fold the events since `cursor`; returns the cursor after them."""
    end = ring.cursor
    while cursor < end:
        batch = ring.read(cursor, BATCH)
        if batch.n_missed and (tree := snapshot()) is not None:
            sender.load(tree)
        sender.fold(batch.entries)
        cursor = batch.cursor
    return cursor


class LiveHandle:
    """An open live view. Display `widget`, and call `close` when the run has ended."""

    _ended: ClassVar[deque[LiveHandle]] = deque()

    def __init__(self, widget: Live, pump: Pump, on_stop: Callable[[], None]) -> None:
        self.widget = widget
        self._pump = pump
        self._on_stop: Callable[[], None] | None = on_stop
        self._n_hellos = 0

    @property
    def error(self) -> Exception | None:
        """The error that ended the picture early, or None."""
        return self._pump.error

    def status(self, phase: str, text: str = "", progress: float | None = None) -> None:
        """Show the state of the run.

        phase     loading, running, done, stopped or error
        progress  from 0 to 1 while loading, None if it is not known
        """
        self._pump.status(phase, text, progress)

    def hello(self) -> None:
        self._n_hellos += 1
        self._pump.hello()

    def stop(self) -> None:
        """The Stop button. If the kernel receives the click only after the run has ended, it must
        not stop the next run.
        """
        if self._on_stop is not None:
            self.widget.send({"kind": "stopping"})
            self._on_stop()

    def close(self) -> None:
        """Send the remaining changes and end the thread. The widget closes later, unless a second
        page requests it.
        """
        self._on_stop = None
        self._pump.close()
        self._ended.append(self)
        while len(self._ended) > KEPT:
            oldest = self._ended.popleft()
            if oldest._n_hellos < 2:
                oldest.widget.close()


def open_live(
    ring: Ring,
    views: Views,
    *,
    snapshot: Callable[[], TreeSnapshot | None],
    options: Mapping[str, object],
    on_stop: Callable[[], None],
) -> LiveHandle:
    """A widget that shows the events of `ring` from now on.

    snapshot   returns the current cache, or None if there is no engine; called here and, after a
               loss of events, on the pump's thread
    options    see `Live.options`
    on_stop    called on a thread of the kernel when Stop is pressed; it must only set an event
    """
    widget = Live(options=dict(options))
    receive_while_busy(widget)
    pump = Pump(ring, views, snapshot=snapshot, send=widget.tell, store=widget.keep)

    def on_message(_: object, content: Mapping[str, object], buffers: object) -> None:
        if content.get("kind") == "hello":
            live.hello()
        elif content.get("kind") == "stop":
            live.stop()

    live = LiveHandle(widget, pump, on_stop)
    widget.on_msg(on_message)
    pump.start()
    return live


def receive_while_busy(widget: Live) -> None:
    """Let clicks reach the kernel while a cell runs.

    JupyterLab sends them on a subshell. ipykernel 7.4 returns them to the shell that created the
    widget, which is busy. If that rule can be changed, every message stays on the shell that
    received it.
    """
    if hasattr(widget.comm, "_reply_subshell_for"):
        widget.comm._reply_subshell_for = lambda data, default: default
