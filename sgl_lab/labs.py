"""Which lab is the default one, which are on their way, and which are parked. Knows no IPython.

A lab that another model takes the place of is parked: weights, radix tree and KV stay as they are, so that going
back finds every prefix again. It is taken up again only if its files are those it was made of; a model that was
changed on disk is another generation, made anew with a tree of its own. What is parked may hold a quarter of the
machine's memory; who was used least recently is closed first.
"""

from __future__ import annotations

import gc
import logging
import os
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Self

from .contracts.errors import DeviceUnfit, EngineStopped, OutOfMemory, SglError
from .engine.forked import check_not_forked
from .engine.gate import Reply
from .engine.model import store
from .engine.model.memory import machine_bytes
from .lang.loop import SLICE_S
from .session import BUILT_IN, Lab, import_engine

_log = logging.getLogger(__name__)

CPU_SERVES = "; the CPU serves instead"


class Loading:
    """A lab being made on a thread of its own, so that whoever waits for it can be interrupted."""

    def __init__(self, model: str, labs: Labs, device: str | None = None, ready: Lab | None = None) -> None:
        self.model = model
        self.device = device
        """as it was asked for; None is wherever it runs best"""
        self.remark: str | None = None
        """why the model runs on the CPU, where that is not as asked or as expected, in one line"""
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
        """On the GPU if that is what is wanted, there and large enough, else on the CPU."""
        from .engine.model.place import find_place, give_back

        store.resolve(self.model, progress=self._progress)  # nothing is closed for a name that stands for nothing
        try:
            place, self.remark = find_place(self.device)
        except DeviceUnfit as error:
            self._serve_on_cpu(error)
        else:
            if place.type == "cuda":
                try:
                    return self._on(str(place))
                except (OutOfMemory, DeviceUnfit) as error:
                    self._serve_on_cpu(error)
                give_back()  # only here has the error, and with it what was loaded, gone
            elif self.remark:
                self.remark += CPU_SERVES
        return self._on("cpu")

    def _serve_on_cpu(self, error: SglError) -> None:
        self.remark = error.message + CPU_SERVES

    def _on(self, device: str) -> Lab:
        if (running := self._labs.served(self, device)) is not None:
            return running
        if device != "cpu":
            self._labs.leave(device)
        try:
            return Lab(self.model, device=device, progress=self._progress)
        except OutOfMemory:
            if device != "cpu" or not self._labs.free():
                raise
        return Lab(self.model, device=device, progress=self._progress)

    def _progress(self, done: int, total: int | None, text: str) -> None:
        self.text, self.share = text, done / total if total else None

    def wait(self, seconds: float) -> bool:
        """Whether loading has ended, well or not, after waiting at most `seconds`."""
        return self._made.wait(seconds)

    def lab(self) -> Lab:
        """The lab once it is there; what went wrong instead is raised."""
        while not self.wait(SLICE_S):
            check_not_forked()
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
        self._serving: dict[str, str] = {}
        """the device that was asked for -> that which serves"""

    def renew(self) -> None:
        """In a forked process: whoever held the lock or was loading is not there."""
        self._lock = threading.Lock()
        self._wanted = None

    @property
    def current(self) -> Lab | None:
        """The default lab if there is one; makes none."""
        return self._default

    @property
    def parked(self) -> tuple[Lab, ...]:
        """Those that were the default, least recently used first."""
        return tuple(self._parked)

    def loading(
        self, model: str | None = None, device: str | None = None, *, first: str = BUILT_IN, first_device: str | None = None
    ) -> Loading:
        """The default lab on its way, begun now if there is none (of model `first`, on `first_device`).

        Of another `model`, or on another `device`, it takes the old one's place when ready. What was asked for last counts: a
        model that is still being loaded is dropped when it is there.
        """
        with self._lock:
            wanted, default = self._wanted, self._default
            if wanted is not None and not wanted.wait(0) and model in (None, wanted.model) and device in (None, wanted.device):
                return wanted
            if default is not None and default.is_open and model is None and self._is_on(default, device):
                self._wanted = None
                return Loading(default.model, self, device, default)
            name = model or (default.model if default is not None else first)
            labs = [lab for lab in (default, *self._parked) if lab is not None and lab.model == name and self._is_on(lab, device)]
            found = next(filter(_is_usable, labs), None)
            if found is None:
                self._wanted = Loading(name, self, device or first_device).start()
                return self._wanted
            closing = self._replace(found)
        self._notify(found)
        _close(closing)
        return Loading(name, self, device, found)

    def _is_on(self, lab: Lab, device: str | None) -> bool:
        return device is None or self._serving.get(device, device) == lab.card.device

    def served(self, loading: Loading, device: str) -> Lab | None:
        """`device` serves what `loading` asks for. The lab that does so already, if there is one."""
        with self._lock:
            if loading.device is not None:
                self._serving[loading.device] = device
            labs = [lab for lab in (self._default, *self._parked) if lab is not None and lab.model == loading.model]
        return next((lab for lab in labs if lab.card.device == device and _is_usable(lab)), None)

    def leave(self, device: str) -> None:
        """Close the default lab if it is on that GPU and idle: of its memory one cache takes most."""
        with self._lock:
            lab = self._default
        if lab is not None and lab.is_open and lab.card.device == device and not lab.is_busy:
            lab.close()

    def take(self, loaded: Loading, lab: Lab) -> bool:
        """Make `lab` the default one, unless something else was asked for since; whether it is."""
        with self._lock:
            if self._wanted is not loaded:
                return False
            closing = self._replace(lab)
        self._notify(lab)
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

    def stored(self) -> tuple[store.StoredModel, ...]:
        """What is in the model cache, by name."""
        return store.stored()

    def listen(self, listener: Callable[[Lab], None]) -> Callable[[], None]:
        """Call `listener` with every lab that becomes the default one; returns the function that ends it."""
        with self._lock:
            self._listeners += (listener,)

        def stop() -> None:
            with self._lock:
                self._listeners = tuple(other for other in self._listeners if other is not listener)

        return stop

    def _notify(self, lab: Lab) -> None:
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
        try:
            lab.close()
        except SglError as error:  # it computes still, and closes when it is done
            _log.warning("%s: %s", lab.model, error)


LABS = Labs()
"""Those of this process: cells and programs without `backend=` run on its default."""
os.register_at_fork(after_in_child=LABS.renew)


def default_lab() -> Lab:
    """The lab that programs without `backend=` and all cells run on; made on first use."""
    return LABS.loading().lab()
