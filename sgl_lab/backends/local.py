"""The backend in this process: jobs of the language become requests of the resident engine."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import NoReturn

from ..contracts.errors import ProgramError
from ..contracts.events import Emit, Entry, Event, ForksEnded, RequestQueued, silent
from ..contracts.ids import ForkId, RequestId
from ..contracts.knobs import Knobs, Place
from ..contracts.machine import cores, processor
from ..contracts.params import Constraint
from ..contracts.port import GenJob, GenListener, ModelCard, ScoreJob, ScoreListener, WarmJob, WarmListener
from ..contracts.spans import Block
from ..engine.serving.group import RequestGroup
from ..engine.serving.resident import Resident
from .tokenized import TokenizedBackend, Tokenizes


class LocalBackend(TokenizedBackend):
    """`contracts.port.Backend` over a resident engine. It emits RequestQueued, which links a
    request to its fork.

    Listeners are called on threads of their own, in order: none of them holds up the engine. An
    engine may have two backends: a fast one, and one whose card declares it deterministic.
    """

    def __init__(
        self,
        resident: Resident,
        tokenizer: Tokenizes,
        card: ModelCard,
        emit: Emit = silent,
        see: Callable[[bytes], Block] | None = None,
        listen: Callable[[Callable[[Entry], None]], Callable[[], None]] | None = None,
    ) -> None:
        self._resident = resident
        self._tokenizer = tokenizer
        self._card = card
        self._see = see
        self.emit = emit
        """where programs on this backend emit their events"""
        self._listen = listen
        """gives all events of the engine, from a call until the call of what it returns"""

    def __reduce__(self) -> NoReturn:
        raise ProgramError("a backend belongs to the engine of this process and cannot be pickled", hint="make a lab in each process")

    def describe(self) -> ModelCard:
        return self._card

    @property
    def cache_tokens(self) -> int:
        return self._resident.engine.config.cache_tokens

    def unwarmed(self) -> LocalBackend:
        """The same engine, declared not to compute prefixes ahead: to measure what that is worth."""
        less = replace(self._card.capabilities, warms=False)
        return LocalBackend(self._resident, self._tokenizer, replace(self._card, capabilities=less), self.emit, None, self._listen)

    def prepare(self, constraint: Constraint) -> None:
        self._resident.engine.prepare(constraint)

    def allowed(self, constraint: Constraint, begun: tuple[int, ...], tokens: tuple[int, ...]) -> tuple[bool, ...]:
        """Which of `tokens` may follow the first tokens of a text. BadArgument if no text begins so."""
        return self._resident.engine.allowed(constraint, begun, tokens)

    def submit(self, job: GenJob, listener: GenListener) -> RequestId:
        group = self._resident.engine.gen(job, self._resident.on_own_thread(listener), exact=self._card.capabilities.deterministic)
        return self._queue(group, job)

    def score(self, job: ScoreJob, listener: ScoreListener) -> RequestId:
        group = self._resident.engine.score(job, self._resident.on_own_thread(listener), exact=self._card.capabilities.deterministic)
        return self._queue(group, job)

    def warm(self, job: WarmJob, listener: WarmListener) -> RequestId:
        group = self._resident.engine.warm(job, self._resident.on_own_thread(listener), exact=self._card.capabilities.deterministic)
        return self._queue(group, job)

    def pin(self, job: WarmJob, listener: WarmListener) -> RequestId:
        """Like `warm`, and the result is not evicted until `unpin` with the returned number."""
        group = self._resident.engine.pin(job, self._resident.on_own_thread(listener), exact=self._card.capabilities.deterministic)
        return self._queue(group, job)

    def unpin(self, handle: RequestId) -> None:
        """BadArgument if there is no pin of that number."""
        self._resident.unpin(handle)

    def ended(self, forks: tuple[ForkId, ...], *, is_all: bool, batch: int = 0) -> None:
        self.emit(ForksEnded(forks, is_all, batch))
        self._resident.ended(forks, is_all=is_all, batch=batch)

    def _queue(self, group: RequestGroup, job: GenJob | ScoreJob | WarmJob) -> RequestId:
        self._resident.poll()
        expr = None if isinstance(job, WarmJob) else job.expr
        for one in group.requests:
            one.fork = job.fork if job.goes_on else None
            queued = RequestQueued(one.id, job.fork, expr, one.kind, one.prompt, one.limit, group.id, one.first_needed)
            one.foreseen = job.foreseen
            if isinstance(job, ScoreJob) and one is group.requests[0]:
                queued = replace(queued, choices=job.choices)
            self.emit(replace(queued, goes_on=True, foreseen=job.foreseen) if job.goes_on else queued)
        self._resident.submit(group)
        return group.id

    def at_once(self) -> AbstractContextManager[object]:
        return self._resident.at_once()

    def cancel(self, request: RequestId) -> None:
        self._resident.cancel(request)

    def flush(self) -> None:
        """Drop every prefix that no request uses."""
        self._resident.flush()

    def knobs(self) -> Knobs:
        """What may be tuned, as it is."""
        config = self._resident.engine.config
        return Knobs(config.step_tokens, config.draft_tokens, config.schedule, config.evict)

    def turn(self, knobs: Knobs) -> None:
        """Tune the engine; its cache is then empty. BadArgument for an unknown value, or while
        requests run or wait.
        """
        self._resident.call(lambda: self._resident.engine.turn(knobs))

    def place(self) -> Place:
        card = self._card
        device = f"{cores()} cores of {processor()}" if card.device in ("cpu", "none") else card.device
        return Place(card.name, card.dtype, device, self.cache_tokens)

    def computed(self) -> int:
        return int(self._resident.stats()["computed_tokens"])

    def replayed(self, run: Callable[[], None], evict: Sequence[str]) -> Mapping[str, int]:
        """As `Tunable` says."""
        from ..engine.tools.simulate import Recording, what_if

        if self._listen is None:
            return {}
        events: list[Event] = []
        before, stop = self._resident.snapshot(), self._listen(lambda entry: events.append(entry.event))
        try:
            run()
        finally:
            stop()
        recording = Recording.of(events, before, self._card.namespace)
        return {found.evict: found.computed_tokens for found in what_if(recording, self._resident.engine.config, evict=evict)}

    def shutdown(self) -> None:
        """Stop the engine's thread and free its memory. Requests that still run fail with
        EngineStopped.
        """
        self._resident.close()

    def poll(self) -> None:
        self._resident.poll()

    def see(self, image: bytes) -> Block:
        return super().see(image) if self._see is None else self._see(image)

    def n_open(self, ids: Sequence[int]) -> int:
        return self._resident.engine.spellings.n_open(ids)
