"""The page's side of saved pictures whose runs the kernel still holds: they get an Explore button.

A picture carries the name of its door and its run as an attribute, which a page without this
kernel's widget does not read. So a saved notebook shows no button that does nothing.

Importing this module imports ipywidgets: import it when something is shown.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Mapping
from typing import ClassVar

import anywidget
import traitlets

from . import bundle
from .live import receive_while_busy

ATTRIBUTE = "data-sgl-run"
"""attribute of the element that holds the picture of a run"""


class _Widget(anywidget.AnyWidget):
    _esm: ClassVar[str] = bundle.esm(bundle.DOOR)  # type: ignore[misc, unused-ignore]  # a trait of the base
    layout = traitlets.Any(None).tag(sync=True)
    door = traitlets.Unicode("").tag(sync=True)
    held = traitlets.List(traitlets.Int()).tag(sync=True)
    """runs that have a button"""


class Door:
    """A button on the picture of each held run.

    `on_press` is called with the run and the page's message, on a thread of the kernel. It must be
    quick.
    """

    def __init__(self, on_press: Callable[[int, Mapping[str, object]], None]) -> None:
        self._name, self._on_press = secrets.token_hex(8), on_press
        self._widget = _Widget(door=self._name)
        receive_while_busy(self._widget)
        self._widget.on_msg(self._on_message)

    def attributes(self, run: int) -> dict[str, str]:
        """Of the element that holds the picture of this run."""
        return {ATTRIBUTE: f"{self._name}-{run}"}

    def hold(self, runs: Iterable[int]) -> None:
        """These runs have a button from now on, and no others."""
        self._widget.held = sorted(runs)

    def opened(self, run: int, place: str) -> None:
        """Tell the page that what was asked for is in the element of this name."""
        self._widget.send({"run": run, "place": place})

    def refused(self, run: int, text: str) -> None:
        """Tell the page in one line why nothing opens."""
        self._widget.send({"run": run, "text": text})

    def close(self) -> None:
        """Take the buttons away."""
        self._widget.close()

    def _on_message(self, _: object, content: Mapping[str, object], buffers: object) -> None:
        run = content.get("run")
        if content.get("kind") == "explore" and type(run) is int and run in self._widget.held:
            self._on_press(run, content)
