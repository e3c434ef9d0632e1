"""Recovery from an internal inconsistency: the engine drops all KV and computes again."""

from __future__ import annotations

from collections.abc import Callable

from ...contracts.errors import RequestFailed
from ...contracts.events import Emit, EngineFault
from ...contracts.port import Usage, WarmJob
from .cache.pins import Pins
from .in_flight import described
from .open_groups import OpenGroups
from .scheduling.scheduler import Scheduler
from .warm_group import PinGroup

MAX_RECOVERIES = 3
"""Consecutive steps that may end in a flush before the open requests are failed."""


class Recovery:
    def __init__(
        self, scheduler: Scheduler, pins: Pins, groups: OpenGroups, page_size: int, emit: Emit, clock: Callable[[], float]
    ) -> None:
        self._scheduler = scheduler
        self._pins = pins
        self._groups = groups
        self._page_size = page_size
        self._emit = emit
        self._clock = clock

    def recover(self, error: Exception) -> None:
        """Flush the cache, return all requests to the queue and pin again. After too many attempts
        all groups fail.
        """
        self._emit(EngineFault(None, f"{described(error)}; the cache was flushed"))
        self._scheduler.restart()
        lost = self._pins.forget()
        self._groups.finish_ended()
        for pin in lost:
            job = WarmJob(pin.tokens, blocks=pin.blocks)
            self._groups.add(PinGroup(job, _Repin(self._emit), pin.namespace, self._page_size, self._clock(), pin.handle))
        self._groups.n_recoveries += 1
        if self._groups.n_recoveries > MAX_RECOVERIES:
            self._groups.fail_all(RequestFailed(f"the engine cannot continue: {described(error)}", hint="please report this"))


class _Repin:
    """The listener of a pin that is computed again after a flush; its owner was answered long ago."""

    def __init__(self, emit: Emit) -> None:
        self._emit = emit

    def on_done(self, usage: Usage) -> None:
        pass

    def on_error(self, error: Exception) -> None:
        self._emit(EngineFault(None, f"a pin was lost: {error}"))
