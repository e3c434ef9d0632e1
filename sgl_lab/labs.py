"""Which lab is the default one, which are on their way, and which are parked. Knows no IPython.

A lab that another model takes the place of is parked: weights, radix tree and KV stay as they are, so that going
back finds every prefix again. It is taken up again only if its files are those it was made of; a model that was
changed on disk is another generation, made anew with a tree of its own. What is parked may hold a quarter of the
machine's memory; who was used least recently is closed first.
"""

from __future__ import annotations

import gc
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Self

from .contracts.errors import EngineStopped, OutOfMemory
from .engine.gate import Reply
from .engine.model.memory import machine_bytes
from .lang.loop import SLICE_S
from .session import BUILT_IN, Lab, import_engine


class Loading:
    """A lab being made on a thread of its own, so that whoever waits for it can be interrupted."""

    def __init__(self, model: str, labs: Labs, ready: Lab | None = None) -> None:
        self.model = model
        self.text = f"loading {model}"
        self.share: float | None = None
        """how much of what `text` says is done, 0 to 1; None where that is not known"""
        self._labs = labs
        self._made: Reply[Lab] = Reply()
        if ready is not None:
            self._made.give(ready)

    def start(self) -> Self:
        threading.Thread(target=lambda: self._made.of(self._load), name="sgl-loading", daemon=True).start()
        return self

    def _load(self) -> Lab:
        _import_engine()
        lab = self._lab()
        if not self._labs.take(self, lab):
            lab.close()
            raise EngineStopped(f"{self.model} is no longer wanted: another model was asked for meanwhile", hint="load it again")
        return lab

    def _lab(self) -> Lab:
        try:
            return Lab(self.model, progress=self._progress)
        except OutOfMemory:
            if not self._labs.free():
                raise
        return Lab(self.model, progress=self._progress)

    def _progress(self, done: int, total: int | None, text: str) -> None:
        self.text, self.share = text, done / total if total else None

    def wait(self, seconds: float) -> bool:
        """Whether loading has ended, well or not, after waiting at most `seconds`."""
        return self._made.wait(seconds)

    def lab(self) -> Lab:
        """The lab once it is there; what went wrong instead is raised."""
        while not self.wait(SLICE_S):
            pass
        return self._made.result()


class Labs:
    """`parked_bytes` is what parked labs may hold together, weights and cache. All methods may be called from any thread."""

    def __init__(self, parked_bytes: int | None = None) -> None:
        self._parked_bytes = machine_bytes() // 4 if parked_bytes is None else parked_bytes
        self._lock = threading.Lock()
        self._default: Lab | None = None
        self._parked: list[Lab] = []
        """least recently used first"""
        self._wanted: Loading | None = None
        """what is to take the default lab's place, if nothing else is asked for meanwhile"""
        self._listeners: tuple[Callable[[Lab], None], ...] = ()

    @property
    def current(self) -> Lab | None:
        """The default lab if there is one; makes none."""
        return self._default

    @property
    def parked(self) -> tuple[Lab, ...]:
        """Those that were the default, least recently used first."""
        return tuple(self._parked)

    def loading(self, model: str | None = None, *, first: str = BUILT_IN) -> Loading:
        """The default lab on its way, begun now (of `first`) if there is none. Of another `model`, it takes the old one's place when ready.

        What was asked for last counts: a model that is still being loaded is dropped when it is there.
        """
        with self._lock:
            wanted, default = self._wanted, self._default
            if wanted is not None and not wanted.wait(0) and model in (None, wanted.model):
                return wanted
            if model is None and default is not None and default.is_open:
                self._wanted = None
                return Loading(default.model, self, default)
            name = model or (default.model if default is not None else first)
            found = next((lab for lab in (default, *self._parked) if lab is not None and lab.model == name and _is_usable(lab)), None)
            if found is None:
                self._wanted = Loading(name, self).start()
                return self._wanted
            closing = self._replace(found)
        self._tell(found)
        _close(closing)
        return Loading(name, self, found)

    def take(self, loaded: Loading, lab: Lab) -> bool:
        """Make `lab` the default one, unless something else was asked for since; whether it is."""
        with self._lock:
            if self._wanted is not loaded:
                return False
            closing = self._replace(lab)
        self._tell(lab)
        _close(closing)
        return True

    def _replace(self, lab: Lab) -> list[Lab]:
        """`lab` is the default, and the old one is parked if there is room; returns those to close, which takes its time."""
        others = [other for other in (*self._parked, self._default) if other is not None and other is not lab]
        self._default, self._wanted, self._parked = lab, None, []
        room = self._parked_bytes
        for other in reversed(others):
            if other.n_bytes <= room and other.model != lab.model and _may_park(other):
                self._parked.insert(0, other)
                room -= other.n_bytes
        return [other for other in others if other not in self._parked]

    def listen(self, listener: Callable[[Lab], None]) -> Callable[[], None]:
        """Call `listener` with every lab that becomes the default one; returns the function that ends it."""
        with self._lock:
            self._listeners += (listener,)

        def stop() -> None:
            with self._lock:
                self._listeners = tuple(other for other in self._listeners if other is not listener)

        return stop

    def _tell(self, lab: Lab) -> None:
        for listener in self._listeners:
            listener(lab)

    def stop(self) -> int:
        """Abort every request of every lab; returns how many there were."""
        n_stopped = 0
        for lab in (self._default, *self._parked):
            if lab is not None:
                with suppress(EngineStopped):
                    n_stopped += lab.stop()
        return n_stopped

    def free(self) -> int:
        """Close what is parked; returns how many bytes that gives back."""
        with self._lock:
            closing, self._parked = self._parked, []
        _close(closing)
        return sum(lab.n_bytes for lab in closing)

    def close(self) -> None:
        """Close all labs; the next use makes a new one. One that is being loaded is dropped."""
        with self._lock:
            closing = [*self._parked, *([] if self._default is None else [self._default])]
            self._default, self._wanted, self._parked = None, None, []
        _close(closing)


def _import_engine() -> None:
    """What the imports leave is taken out of the collector's sight.

    They make some 200,000 objects that live as long as the process. To look through them all, as Python does again and
    again while a run grows, stops every thread for a quarter of a second. What the user has made before is frozen with
    them, so nothing is where somebody else imported torch: there may be models, which a cycle would then keep.
    """
    with _IMPORTING:
        if "torch" not in sys.modules:
            import_engine()
            gc.collect()
            gc.freeze()


_IMPORTING = threading.Lock()


def _is_usable(lab: Lab) -> bool:
    return lab.is_open and lab.is_current


def _may_park(lab: Lab) -> bool:
    """Not on a GPU, of whose memory one cache takes most."""
    return lab.card.device == "cpu" and _is_usable(lab)


def _close(labs: list[Lab]) -> None:
    for lab in labs:
        lab.close()


LABS = Labs()
"""Those of this process: cells and programs without `backend=` run on its default."""


def default_lab() -> Lab:
    """The lab that programs without `backend=` and all cells run on; made on first use."""
    return LABS.loading().lab()
