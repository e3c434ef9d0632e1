"""Manages labs: the default one, those being loaded, and those that are parked. Knows no IPython.

A lab that another model replaces is parked: its weights, radix tree and KV remain, so a later
switch back finds every prefix. A parked lab is reused only if its files are unchanged. A model that
changed on disk is loaded again, with a new tree. Parked labs may hold a quarter of the machine's
memory; the least recently used one is closed first.
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

from .backends.names import LOCAL, make, parsed
from .contracts.conversation import AnyBackend
from .contracts.errors import DeviceUnfit, EngineStopped, OutOfMemory, SglError
from .elsewhere import BackendLab, lab_over, opened
from .engine.compute.memory import machine_bytes
from .engine.files import store
from .engine.serving.forked import check_not_forked
from .engine.serving.gate import Reply
from .lang import default
from .lang.loop import SLICE_S
from .recorded import RecordedLab
from .session import BUILT_IN, Lab, import_engine

_log = logging.getLogger(__name__)

CPU_SERVES = "; the CPU serves instead"


class Loading:
    """A lab that is loaded on a thread of its own, so that waiting for it can be interrupted."""

    def __init__(self, model: str, labs: Labs, device: str | None = None, ready: Lab | None = None) -> None:
        self.model = model
        self.device = device
        """the requested device; None selects the best one"""
        self.remark: str | None = None
        """why the model runs on the CPU, in one line, if that was not requested or expected"""
        self.text = f"loading {model}"
        self.share: float | None = None
        """share of the task in `text` that is done, 0 to 1; None if it is unknown"""
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
            raise EngineStopped(f"loading {self.model} was dropped: another model was requested meanwhile", hint="load it again")
        return lab

    def _lab(self) -> Lab:
        """Load on the GPU if one is requested or available and large enough, otherwise on the CPU."""
        from .engine.compute.models.devices import find_device, give_back

        # nothing is closed for a name that resolves to nothing
        store.resolve(self.model, progress=self._progress)
        try:
            target, self.remark = find_device(self.device)
        except DeviceUnfit as error:
            self._serve_on_cpu(error)
        else:
            if target.type == "cuda":
                try:
                    return self._on(str(target))
                except (OutOfMemory, DeviceUnfit) as error:
                    self._serve_on_cpu(error)
                give_back()  # only here are the error, and everything loaded, released
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
        """Wait at most `seconds`. Returns whether loading has ended, successfully or not."""
        return self._made.wait(seconds)

    def lab(self) -> Lab:
        """The loaded lab. Raises the error if loading failed."""
        while not self.wait(SLICE_S):
            check_not_forked()
        return self._made.result()


class Labs:
    """All labs of this process. All methods may be called from any thread.

    parked_bytes  maximum size of all parked labs together, weights and cache
    """

    def __init__(self, parked_bytes: int | None = None) -> None:
        self._parked_bytes = machine_bytes() // 4 if parked_bytes is None else parked_bytes
        self._lock = threading.Lock()
        self._default: Lab | None = None
        self._parked: list[Lab] = []
        """least recently used first"""
        self._wanted: Loading | None = None
        """the lab that will replace the default one, unless another is requested before"""
        self._listeners: tuple[Callable[[Lab], None], ...] = ()
        self._serving: dict[str, str] = {}
        """requested device -> device in use"""

    def renew(self) -> None:
        """Renew the lock in a forked process, because threads that held it or loaded a model do not
        exist there.
        """
        self._lock = threading.Lock()
        self._wanted = None

    @property
    def current(self) -> Lab | None:
        """The default lab, or None. Loads nothing."""
        return self._default

    @property
    def parked(self) -> tuple[Lab, ...]:
        """Former default labs, least recently used first."""
        return tuple(self._parked)

    def loading(
        self, model: str | None = None, device: str | None = None, *, first: str = BUILT_IN, first_device: str | None = None
    ) -> Loading:
        """The default lab as a `Loading`. If there is none, loading starts now (of model `first`,
        on `first_device`).

        A lab of another `model`, or on another `device`, replaces the old one when it is ready. The
        latest request counts: a model that is still loading is dropped when it is ready.
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
        """Record that `device` serves what `loading` requests. Returns the lab that already does
        so, if any.
        """
        with self._lock:
            if loading.device is not None:
                self._serving[loading.device] = device
            labs = [lab for lab in (self._default, *self._parked) if lab is not None and lab.model == loading.model]
        return next((lab for lab in labs if lab.card.device == device and _is_usable(lab)), None)

    def leave(self, device: str) -> None:
        """Close the default lab if it is idle on that GPU: one cache takes most of the memory of a
        GPU.
        """
        with self._lock:
            lab = self._default
        if lab is not None and lab.is_open and lab.card.device == device and not lab.is_busy:
            lab.close()

    def take(self, loaded: Loading, lab: Lab) -> bool:
        """Make `lab` the default one, unless another was requested since. Returns whether it is."""
        with self._lock:
            if self._wanted is not loaded:
                return False
            closing = self._replace(lab)
        self._notify(lab)
        _close(closing)
        return True

    def _replace(self, lab: Lab) -> list[Lab]:
        """Make `lab` the default, and park the old one if there is room. Returns the labs to close,
        which takes time.
        """
        others = [other for other in (*self._parked, self._default) if other is not None and other is not lab]
        self._default, self._wanted, self._parked = lab, None, []
        room = self._parked_bytes
        for other in reversed(others):
            if other.n_bytes <= room and other.model != lab.model and _may_park(other):
                self._parked.insert(0, other)
                room -= other.n_bytes
        return [other for other in others if other not in self._parked]

    def stored(self) -> tuple[store.StoredModel, ...]:
        """The content of the model cache, by name."""
        return store.stored()

    def listen(self, listener: Callable[[Lab], None]) -> Callable[[], None]:
        """Call `listener` with every lab that becomes the default one. Returns a function that
        removes it.
        """
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
        """Abort every request of every lab. Returns how many there were."""
        n_stopped = 0
        for lab in (self._default, *self._parked):
            if lab is not None:
                with suppress(EngineStopped):
                    n_stopped += lab.stop()
        return n_stopped

    def free(self) -> int:
        """Close the parked labs. Returns how many bytes that frees."""
        with self._lock:
            closing, self._parked = self._parked, []
        _close(closing)
        return sum(lab.n_bytes for lab in closing)

    def close(self) -> None:
        """Close all labs; the next use loads a new one. A lab that is still loading is dropped."""
        with self._lock:
            closing = [*self._parked, *([] if self._default is None else [self._default])]
            self._default, self._wanted, self._parked = None, None, []
        _close(closing)


def _import_engine() -> None:
    """Import the engine, and hide the objects of the imports from the garbage collector.

    The imports create some 200,000 objects that live as long as the process. A full collection,
    which Python repeats while a run grows, scans them for a quarter of a second and stops every
    thread. Objects that the user created before are frozen with them. Nothing is frozen if torch
    was imported before: a reference cycle could then keep an existing model alive.
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
    """Whether it may be parked. A lab on a GPU may not, because one cache takes most of the memory."""
    return lab.card.device == "cpu" and _is_usable(lab)


def _close(labs: list[Lab]) -> None:
    for lab in labs:
        try:
            lab.close()
        except SglError as error:  # a step is still running; the lab closes when it is done
            _log.warning("%s: %s", lab.model, error)


LABS = Labs()
"""The labs of this process. Cells and programs without `backend=` run on its default."""
os.register_at_fork(after_in_child=LABS.renew)


def default_lab() -> Lab:
    """The lab with an engine in this process. It is loaded on first use."""
    return LABS.loading().lab()


# ---------------------------------------------------------------- labs of any backend

_named: dict[str, BackendLab] = {}
_naming = threading.Lock()


def lab_of(backend: AnyBackend) -> RecordedLab:
    """The lab of a backend, also of one that has no engine in this process."""
    ours = (lab for lab in (LABS.current, *LABS.parked) if lab is not None)
    return next((lab for lab in ours if backend in (lab.backend, lab.deterministic_backend)), None) or lab_over(backend)


def lab_named(text: str) -> RecordedLab:
    """The lab of the backend with this name. The same name gives the same lab, until it is closed.

    BadArgument for a name that is not known, and what the backend's constructor raises.
    """
    named = parsed(text)
    if named.name == LOCAL:
        return LABS.loading(named.model or None).lab()
    with _naming:
        lab = _named.get(str(named))
        if lab is None or lab not in opened() or not lab.is_open:
            lab = _named[str(named)] = lab_over(make(named), named.name)
        return lab


def current_lab() -> RecordedLab:
    """The lab of cells, and of programs without `backend=`: that of the backend that was set as the
    default, else the one with an engine in this process.
    """
    chosen = default.chosen()
    return default_lab() if chosen is None else lab_of(chosen)


def close_all() -> None:
    """Close every lab of this process that was not made by the user."""
    for lab in opened():
        if lab.backend is default.chosen():
            default.set_default_backend(None)
        lab.close()
    _named.clear()
    LABS.close()
