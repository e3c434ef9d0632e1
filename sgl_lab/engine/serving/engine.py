"""Token ids in, token ids out: one synchronous `step`, driven by the owner of the engine.

Connects scheduler, runner and request groups, and emits events. Knows no thread (`resident` does),
no program and no picture.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial

from ...contracts.errors import BadArgument, EngineStopped
from ...contracts.events import Emit, EngineFault, ExpertsChosen, StepRan, silent
from ...contracts.ids import ForkId, Namespace, RequestId
from ...contracts.knobs import Knobs
from ...contracts.tree import TreeSnapshot
from ...grammar.grammars import Grammars
from ..plan import Adapting, Embedding, Routed, RowOutput, Runner
from .cache.pins import Pins
from .cache.policies import policy
from .cache.pool import PagePool
from .cache.tree import RadixTree
from .config import EngineConfig
from .group import Vocabulary
from .in_flight import InFlight, InFlightStep, described
from .intake import Intake
from .metrics import Metrics
from .open_groups import OpenGroups
from .processing import Process
from .recovery import Recovery
from .scheduling.costs import StepCosts
from .scheduling.drafts import Drafts
from .scheduling.request import EXACT
from .scheduling.scheduler import ScheduledStep, Scheduler


class Engine:
    """`gen`, `score`, `warm`, `pin` and `prepare` (see `Intake`) may be called from any thread,
    everything else from one thread only.

    `add` (see `OpenGroups`) queues the requests that they return.
    """

    def __init__(
        self,
        config: EngineConfig,
        runner: Runner,
        vocabulary: Vocabulary,
        *,
        context: int,
        namespace: Namespace = (),
        emit: Emit = silent,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.config = config
        self.context = context
        self.namespace = namespace
        self.exact_namespace = namespace if runner.is_exact else (*namespace, EXACT)
        self._runner = runner
        self._routing = runner.routing if isinstance(runner, Routed) else None
        self._clock = clock
        self._metrics = Metrics(clock)
        self.report_raised = partial(_report_raised, emit)
        self._emit = emit = self._metrics.timed("events", emit)
        self._pool = PagePool(config.n_pages, config.page_size)
        self._tree = RadixTree(self._pool, policy(config.evict, config.schedule), emit)
        self._pins = pins = Pins(self._tree)
        grammars = Grammars(vocabulary, jump=config.jump_forward)
        embedding = runner if isinstance(runner, Embedding) else None
        self.adapting = adapting = runner if isinstance(runner, Adapting) else None
        intake = Intake(config, vocabulary, context, namespace, self.exact_namespace, pins, grammars, clock, embedding, adapting)
        self.spellings = intake.spellings
        self.gen, self.score, self.warm, self.pin, self.prepare = intake.gen, intake.score, intake.warm, intake.pin, intake.prepare
        self.n_shortest, self.allowed = intake.n_shortest, intake.allowed
        self._costs = StepCosts()
        self._drafts = Drafts(config.draft_tokens, self._costs)
        drafts = self._drafts if config.draft_tokens else None
        self._scheduler = scheduler = Scheduler(config, self._pool, self._tree, runner.copy_page, emit, drafts)
        self._groups = OpenGroups(config, scheduler, pins, intake.refusal, self._metrics, emit, self.report_raised, clock)
        self.add = self._groups.add
        self._in_flight = InFlight(runner, self._metrics, emit, clock)
        self._recovery = Recovery(scheduler, pins, self._groups, config.page_size, emit, clock)
        self._collected = 0.0
        """when the last step was collected, by `clock`"""

    # ------------------------------------------------------------ the step

    def step(self) -> bool:
        """Collect the step in flight, schedule and start the next one, and answer listeners while
        it computes.

        If the runner allows it, the next step starts before the last one is collected, provided
        that it only needs the sampled tokens. A runner that cannot compute in parallel runs a step
        and returns its result at once. Returns False when there was nothing to do.
        """
        metrics, in_flight = self._metrics, self._in_flight
        metrics.start()
        has_run = bool(in_flight)
        try:
            has_run |= self._groups.take_in_late()
            self._overlap()
            self._collect()
            if not in_flight:
                step = self._scheduler.schedule()
                metrics.lap("scheduler")
                if step is not None:
                    has_run = True
                    self._start(step)
            if not in_flight.can_compute_meanwhile:
                self._collect()
            elif in_flight.latest is not None:
                self._scheduler.admit_ahead(in_flight.latest.plan)
                metrics.lap("scheduler")
        except Exception as error:  # the runner's are caught in InFlight: this one is ours
            self.recover(error)
        self._tree.report_locks()
        metrics.lap("commit")
        self._groups.answer()
        metrics.lap("listeners")
        return has_run

    def _start(self, step: ScheduledStep) -> None:
        now = self._clock()
        for request in (*step.requests, *step.complete):
            if request.admitted is None:
                request.admitted = now
        self._groups.end_later((request, "length") for request in step.complete)
        self._groups.finish_ended()
        if step.plan.rows:
            self._in_flight.start(step, now, self.process)
            self._metrics.lap("model")

    def _overlap(self) -> None:
        """Start the step after the one in flight, if it can be started now."""
        latest = self._in_flight.latest
        if latest is None or not self._in_flight.can_overlap:
            return
        step = self._scheduler.overlap(latest)
        self._metrics.lap("scheduler")
        if step is not None:
            self._in_flight.overlap(step)

    def _collect(self) -> None:
        """Collect the result of the oldest step in flight, if there is one."""
        if not self._in_flight:
            return
        done, outputs = self._in_flight.collect()
        self._metrics.lap("model")
        overrun = done.overrun
        self._groups.take_in(done.step, outputs)
        self._report_experts(done, outputs)
        self._report(done, overrun)
        self._metrics.lap("commit")

    def _report_experts(self, done: InFlightStep, outputs: Sequence[RowOutput]) -> None:
        if (routing := self._routing) is not None:
            plan = done.step.plan
            rows = zip(plan.rows, outputs, strict=True)
            chosen = tuple((row.request, row.start, output.experts) for row, output in rows if output.experts)
            self._emit(ExpertsChosen(plan.step, routing.count, routing.top_k, routing.layers, chosen))

    def _report(self, done: InFlightStep, overrun: frozenset[RequestId]) -> None:
        plan, now = done.step.plan, self._clock()
        since, self._collected = max(done.started, self._collected), now
        self._metrics.n_steps += 1
        self._metrics.n_rows += len(plan.rows)
        self._metrics.tokens["overrun"] += len(overrun)
        self._costs.observe(len(plan.rows), sum(len(row.tokens) - 1 for row in plan.rows), (now - since) * 1000)
        self._emit(
            StepRan(
                plan.step,
                tuple((row.request, len(row.tokens) - row.n_drafts) for row in plan.rows if row.request in done.prefilling),
                tuple(row.request for row in plan.rows if row.request not in done.prefilling | overrun),
                len(self._scheduler.waiting),
                self._pool.n_free,
                (now - since) * 1000,
            )
        )

    # ------------------------------------------------------------ between steps

    @property
    def process(self) -> Process:
        """For rows along a user's pattern that would cost more than the engine's thread spends on one."""
        return self._groups.process

    @process.setter
    def process(self, process: Process) -> None:
        self._groups.process = process

    def wake_with(self, wake: Callable[[], object]) -> None:
        """`wake` is called from another thread when such a row completes late, so that `step` is
        called again.
        """
        self._groups.wake = wake

    def cancel(self, request: RequestId) -> None:
        """End the whole group of `request` now; ids that are unknown or finished are ignored."""
        if (group := self._groups.find(request)) is not None:
            self._groups.cancel(group)
            self._settle()

    def ended(self, forks: tuple[ForkId, ...], *, is_all: bool, batch: int = 0) -> None:
        """As the event ForksEnded says."""
        self._tree.ended(forks, is_all=is_all, batch=batch)

    def abort_all(self) -> int:
        """Cancel every open group; returns how many there were."""
        groups = self._groups.all
        for group in groups:
            self._groups.cancel(group)
            self._settle()
        return len(groups)

    def fail_all(self, error: Exception) -> None:
        """Answer every open group with `error`; nothing is left waiting or running."""
        self._groups.fail_all(error)
        self._settle()

    def _settle(self) -> None:
        self._tree.report_locks()
        self._groups.answer()

    def recover(self, error: Exception) -> None:
        """The engine's books are wrong: compute again, from an empty cache."""
        self._recovery.recover(error)
        self._settle()

    def unpin(self, handle: RequestId) -> None:
        """Release a pin: its prefix may be evicted again. BadArgument if there is no such pin."""
        if not self._pins.let_go(handle):
            known = ", ".join(str(pin.handle) for pin in self._pins.pinned)
            raise BadArgument(f"nothing is pinned as {handle!r}", hint=f"pinned are {known}" if known else "nothing is pinned at all")
        self._tree.report_locks()

    def flush(self) -> int:
        """Evict everything that is not pinned and that no running request reads, and stop drafting
        from it. Returns the pages freed.
        """
        self._drafts.forget()
        return self._tree.flush()

    def turn(self, knobs: Knobs) -> None:
        """Use other settings from now on, with what the cache may drop dropped. BadArgument for a value
        that is not known, or while a request runs or waits.
        """
        config = replace(self.config, **asdict(knobs))
        if self._scheduler.running or self._scheduler.waiting:
            raise BadArgument("the engine cannot be tuned while requests run or wait", hint="wait until they have ended")
        self.flush()
        if (config.evict, config.schedule) != (self.config.evict, self.config.schedule):
            if self._pins.pinned:
                raise BadArgument("the eviction cannot be tuned while prefixes are pinned", hint="lab.unpin first")
            self._tree.turn(policy(config.evict, config.schedule))
        self._drafts = Drafts(config.draft_tokens, self._costs)
        self._scheduler.turn(config, self._drafts if config.draft_tokens else None)
        self.config = config

    def snapshot(self, seq: int) -> TreeSnapshot:
        """The tree as it is; `seq` is the number of the next event."""
        return self._tree.snapshot(seq)

    def check(self) -> None:
        """Recount tree and pool from scratch; InvariantBroken if they do not add up."""
        self._scheduler.check(pin.lease for pin in self._pins.pinned)

    def stats(self) -> dict[str, float]:
        return self._metrics.stats(self._runner, self._tree, self._scheduler, self._pins) | self._costs.stats()

    def close(self) -> None:
        """Answer open requests with EngineStopped and free the runner's memory."""
        self.fail_all(EngineStopped("the engine was closed", hint="make a new lab"))
        self._in_flight.clear()
        self._runner.close()


def _report_raised(emit: Emit, error: Exception) -> None:
    """A listener raised. May be called from any thread."""
    emit(EngineFault(None, f"a listener raised {described(error)}"))
