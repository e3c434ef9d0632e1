"""A live view that outlasts its cell. Any number of outputs can show it, and it is bound to one
source after another.

Its output in the notebook is plain HTML that carries a name. A page that has the widget shows a
view in every element of that name, including elements that are added later: after a reload, or in a
new view of the output. A page without the widget (another kernel, no kernel, an untrusted notebook)
shows the HTML as it is. A saved notebook is therefore always readable.

Importing this module imports ipywidgets: import it when something is shown. Knows no engine and no
magic.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Mapping

from ..contracts.tree import TreeSnapshot
from ..trace import Ring
from .live import Live, Pump, receive_while_busy
from .sender import Views


class Panel:
    """A live view that outlasts its cell; see the module.

    `on_message` is called with every message of the page except `hello`, on a thread of the kernel.
    It must be quick. All methods may be called from any thread.
    """

    def __init__(self, options: Mapping[str, object], on_message: Callable[[Mapping[str, object]], None]) -> None:
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
        """Show this source from now on, with its events since number `since`. The previous source
        is dropped.
        """
        with self._lock:
            self._end()
            if title is not None:
                self.set_options(title=title)
            pump = Pump(ring, views, snapshot=snapshot, send=self._widget.tell, store=self._widget.keep, since=since)
            pump.status(*self._status)
            pump.renew()
            self._pump = pump
            pump.start()

    def status(self, phase: str, text: str = "", progress: float | None = None) -> None:
        """See `LiveHandle.status`. It may be called before anything is bound."""
        with self._lock:
            self._status = (phase, text, progress)
            if self._pump is not None:
                self._pump.status(*self._status)
            else:
                self._send_status()

    def set_options(self, **options: object) -> None:
        """Set options for pages that open from now on."""
        with self._lock:
            self._widget.options = {**self._widget.options, **options}

    def tell(self, **content: object) -> None:
        """Send a message of the panel's owner to the pages, beside those of its views."""
        self._widget.send(dict(content))

    def stopping(self) -> None:
        """Confirm the Stop button to the page."""
        self._widget.send({"kind": "stopping"})

    def end(self) -> None:
        """Send the remaining changes. Pages that open later still show the last picture."""
        with self._lock:
            if self._pump is not None:
                self._pump.close()

    def close(self) -> None:
        """Remove the view from all pages."""
        with self._lock:
            self._end()
            self._widget.close()

    def _end(self) -> None:
        if self._pump is not None:
            self._pump.close()
            self._pump = None

    def _send_status(self) -> None:
        phase, text, progress = self._status
        self._widget.send({"seq": 0, "kind": "delta", "status": {"phase": phase, "text": text, "progress": progress}})

    def _on_message(self, _: object, content: Mapping[str, object], buffers: object) -> None:
        if content.get("kind") != "hello":
            self._on_page_message(content)
        elif (pump := self._pump) is not None:
            pump.hello()
        else:
            self._send_status()
