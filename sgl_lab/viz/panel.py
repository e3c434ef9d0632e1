"""A live view that lasts: shown in any number of outputs, bound to one source after another.

Its output in the notebook is plain HTML with a name in it. A page that has the widget puts views in all places of that name,
also in those that come later: when it is loaded again, or in a view of the output that was made for a panel of its own. A page
that has none (another kernel, no kernel, an untrusted notebook) shows the HTML as it is. So nothing is ever saved that cannot be read.

Importing this module imports ipywidgets: do it when something is shown. Knows no engine and no magic.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Mapping
from typing import Any

from ..contracts.tree import TreeSnapshot
from ..trace import Ring
from .live import Live, Pump, receive_while_busy
from .sender import Message, Views


class Panel:
    """`on_message` is called with what the page says beside `hello`, on a thread of the kernel: it must be quick.

    All methods may be called from any thread.
    """

    def __init__(self, options: Mapping[str, Any], on_message: Callable[[Mapping[str, Any]], None]) -> None:
        self.mount = secrets.token_hex(8)
        """the name that its outputs carry"""
        self._on_page_message = on_message
        self._lock = threading.RLock()
        self._pump: Pump | None = None
        self._status: tuple[str, str, float | None] = ("loading", "", None)
        self._widget = Live(options={**options, "place": self.mount})
        receive_while_busy(self._widget)
        self._widget.on_msg(self._on_message)

    def bind(
        self, ring: Ring, views: Views, snapshot: Callable[[], TreeSnapshot | None], *, since: int | None = None, title: str | None = None
    ) -> None:
        """Show this from now on, and what was said since event number `since`; what was shown before is forgotten."""
        with self._lock:
            self._end()
            if title is not None:
                self.set_options(title=title)
            pump = Pump(ring, views, snapshot=snapshot, send=self._widget.send, store=self._store, since=since)
            pump.status(*self._status)
            pump.renew()
            self._pump = pump
            pump.start()

    def status(self, phase: str, text: str = "", progress: float | None = None) -> None:
        """See `LiveHandle.status`; also before anything is bound."""
        with self._lock:
            self._status = (phase, text, progress)
            if self._pump is not None:
                self._pump.status(*self._status)
            else:
                self._send_status()

    def set_options(self, **options: Any) -> None:
        """Pages that come from now on find these."""
        with self._lock:
            self._widget.options = {**self._widget.options, **options}

    def stopping(self) -> None:
        """Let the page know that its Stop button was heard."""
        self._widget.send({"kind": "stopping"})

    def end(self) -> None:
        """Send what is left; pages that come back later still see the last picture."""
        with self._lock:
            if self._pump is not None:
                self._pump.close()

    def close(self) -> None:
        """No page shows it any more."""
        with self._lock:
            self._end()
            self._widget.close()

    def _store(self, state: Message) -> None:
        self._widget.set_trait("snapshot", state)

    def _end(self) -> None:
        if self._pump is not None:
            self._pump.close()
            self._pump = None

    def _send_status(self) -> None:
        phase, text, progress = self._status
        self._widget.send({"seq": 0, "kind": "delta", "status": {"phase": phase, "text": text, "progress": progress}})

    def _on_message(self, _: object, content: Mapping[str, Any], buffers: object) -> None:
        if content.get("kind") != "hello":
            self._on_page_message(content)
        elif (pump := self._pump) is not None:
            pump.hello()
        else:
            self._send_status()
