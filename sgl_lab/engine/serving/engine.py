"""Token ids in, token ids out: one synchronous `step`, driven by whoever owns the engine.

Ties scheduler, runner and families together and says what happened. Knows no thread (`resident`
does), no program and no picture.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from ...contracts.errors import BadArgument, CacheFull, EngineStopped, RequestFailed
from ...contracts.events import Emit, EngineFault, RequestFinished, Sample, StepRan, TokensSampled, silent
from ...contracts.ids import Namespace, RequestId
from ...contracts.port import Usage, WarmJob
from ...contracts.tree import TreeSnapshot
from ...grammar.grammars import Grammars
from ..plan import Embedding, Following, Launching, Plan, Row, RowOutput, Runner, Timed
from .cache.pins import Pins
from .cache.policy import POLICIES
from .cache.pool import PagePool
from .cache.tree import RadixTree
from .config import EngineConfig
from .groups import Answer, Family, PinFamily, Vocabulary
from .intake import Intake
from .metrics import Account
from .processing import Filling, Process, Processing, process_here
from .scheduling.drafts import Drafts
from .scheduling.request import EXACT, Phase, Request
from .scheduling.scheduler import Batch, Scheduler


@dataclass(frozen=True, slots=True)
class _Flight:
    """A step that was started and not yet taken in."""

    batch: Batch
    prefilling: frozenset[RequestId]
    masks: Masks
    started: float
    result: Callable[[], tuple[RowOutput, ...]]

    @property
    def overrun(self) -> frozenset[RequestId]:
        """Those who turned out to have ended with the step before."""
        rows = zip(self.batch.requests, self.batch.plan.rows, strict=True)
        return frozenset(request.id for request, row in rows if row.follows and request.phase is not Phase.RUNNING)

    def known_rows(self) -> Iterator[Row | None]:
        """The rows with their tokens, now that all steps before are taken in; None where nothing is wanted any more."""
        for request, row in zip(self.batch.requests, self.batch.plan.rows, strict=True):
            if request.phase is not Phase.RUNNING:
                yield None
            else:
                yield replace(row, tokens=request.span(row.start, row.end), follows=False) if row.follows else row


class Masks:
    """Of a step's constrained rows: what each may draw, worked out when it is called, once, while the model computes."""

    def __init__(self, batch: Batch, process: Process = process_here) -> None:
        self._fillings = [
            Filling(request.id, request.guide, tuple(row.drafts))
            for request, row in zip(batch.requests, batch.plan.rows, strict=True)
            if request.guide is not None and row.sample is not None
        ]
        self._process = process
        self.errors: dict[RequestId, Exception] = {}
        """of rows that have none"""

    def __call__(self) -> None:
        fillings, self._fillings = self._fillings, []
        if fillings:
            self._process(fillings, until_done=True)
        self.errors |= {filling.request: filling.error for filling in fillings if filling.error is not None}


MAX_RECOVERIES = 3
"""Consecutive steps that may end in a flush before the open requests are failed."""


class Engine:
    """`gen`, `score`, `warm`, `pin` and `prepare` (see `Intake`) may be called from any thread; everything else from one."""

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
        self._runner = runner
        self._clock = clock
        self._account = Account(clock)
        self._say = emit
        self._emit = emit = self._account.timed("events", emit)
        self._pool = PagePool(config.n_pages, config.page_size)
        self._tree = RadixTree(self._pool, POLICIES[config.evict](), emit)
        self._pins = Pins(self._tree)
        self.exact_namespace = namespace if runner.is_exact else (*namespace, EXACT)
        grammars = Grammars(vocabulary, jump=config.jump_forward)
        embedding = runner if isinstance(runner, Embedding) else None
        self._intake = intake = Intake(config, vocabulary, context, namespace, self.exact_namespace, self._pins, grammars, clock, embedding)
        self.spellings = intake.spellings
        self.gen, self.score, self.warm, self.pin, self.prepare = intake.gen, intake.score, intake.warm, intake.pin, intake.prepare
        self._drafts = Drafts(config.draft_tokens)
        drafts = self._drafts if config.draft_tokens else None
        self._scheduler = Scheduler(config, self._pool, self._tree, runner.copy_page, emit, drafts)
        self._families: dict[RequestId, Family] = {}
        self._answers: list[Answer] = []
        self._ended: list[tuple[Request, str]] = []
        """requests that came to their end in this step, and why"""
        self._n_recoveries = 0
        self.process: Process = process_here
        """for rows that have to pass a user's pattern"""
        self.wake: Callable[[], object] = lambda: None
        """called from another thread when such a row is done late, so that `step` is called again"""
        self._late: list[Processing] = []
        self._flights: list[_Flight] = []
        self._landed = 0.0
        """when the last step was taken in, by `clock`"""
        self._launcher = runner if isinstance(runner, Launching) else None
        self._follower = runner if isinstance(runner, Following) else None

    # ------------------------------------------------------------ in and out

    def add(self, family: Family) -> None:
        """Let the family's requests wait for their turn."""
        for request in family.requests:
            self._families[request.id] = family
            self._scheduler.add(request)
        if error := next(filter(None, map(self._intake.refusal, family.requests)), None):  # something was pinned since it was made
            self._drop(family, error)
        step, now = self._account.n_steps, self._clock()
        begun = [
            Processing(family, request, step, now, None, RowOutput()) for request in family.requests if request.phase is Phase.WAITING
        ]
        self._process(begun)
        for processing in begun:
            self._take_in((processing,))
        self._answer()

    def _process(self, processings: Sequence[Processing]) -> None:
        """Have them done, on another thread where a user's pattern is in the way."""
        patterned = []
        for processing in processings:
            if processing.family.follows_pattern:
                patterned.append(processing)
            else:
                processing()
        if patterned:
            self.process(patterned)

    def _take_in(self, processings: Sequence[Processing]) -> None:
        """Act upon what is processed. The requests of the others take no part in steps until they are."""
        samples: list[Sample] = []
        for processing in processings:
            request = processing.request
            if not processing.is_done:
                request.is_processed = True
                processing.notify = self.wake
                if not processing.is_done:  # it may be by now, and then nobody was woken
                    self._late.append(processing)
                    continue
            request.is_processed = False
            if request.phase is Phase.FINISHED:
                continue  # a sibling failed
            if processing.error is not None:
                self._fail(processing.family, request, processing.error)
                continue
            accepted, row = processing.accepted, processing.row
            if row is not None and request.phase is Phase.RUNNING:
                self._scheduler.advance(request, row, accepted.n_kept, is_over=accepted.reason is not None)
                self._n_recoveries = 0
            samples += accepted.samples
            if accepted.reason is not None or processing.is_aborted:
                self._ended.append((request, accepted.reason or "abort"))
            elif processing.answer is not None:
                self._answers.append(processing.answer)
        if samples:
            self._tell(processings[0].step, samples)
        self._finish_ended()

    def _take_in_late(self) -> bool:
        """As `_take_in`, of what was not done in time; whether any of it is."""
        late, self._late = self._late, []
        for processing in late:
            self._take_in((processing,))
        return len(self._late) < len(late)

    def _tell(self, step: int, samples: Sequence[Sample]) -> None:
        if samples:
            self._account.tokens["generated"] += len(samples)
            self._emit(TokensSampled(step, tuple(samples)))

    def cancel(self, request: RequestId) -> None:
        """End the whole family of `request` now; ids that are unknown or finished are ignored."""
        family = self._families.get(request)
        if family is None:
            return
        late = {processing.request: processing for processing in self._late}
        for member in family.requests:
            if member.is_processed:
                late[member].is_aborted = True
            elif member.phase is not Phase.FINISHED:
                self._finish(family, member, "abort")
        self._tree.report_locks()
        self._answer()

    def abort_all(self) -> int:
        """Cancel every open family; returns how many there were."""
        names = {family.id for family in self._families.values()}
        for name in names:
            self.cancel(name)
        return len(names)

    # ------------------------------------------------------------ the step

    def step(self) -> bool:
        """Take in what the last step gave, schedule and start the next, and tell of the former while the latter computes.

        With a runner that can, the next is started before the last is taken in, where all it needs of it is the tokens drawn. With
        one that cannot compute meanwhile a step is started and taken in at once. False when there was nothing to do.
        """
        account = self._account
        account.start()
        went = bool(self._flights)
        try:
            went |= self._take_in_late()
            self._follow()
            self._land()
            if not self._flights:
                batch = self._scheduler.schedule()
                account.lap("scheduler")
                if batch is not None:
                    went = True
                    self._launch(batch)
            if self._launcher is None:
                self._land()
            elif self._flights:
                self._scheduler.prepare(self._flights[-1].batch.plan)
                account.lap("scheduler")
        except Exception as error:  # the runner's are caught in _outputs: this one is ours
            self.recover(error)
        self._tree.report_locks()
        account.lap("commit")
        self._answer()
        account.lap("listeners")
        return went

    def _launch(self, batch: Batch) -> None:
        now, plan = self._clock(), batch.plan
        for request in (*batch.requests, *batch.complete):
            if request.admitted is None:
                request.admitted = now
        self._ended += [(request, "length") for request in batch.complete]
        self._finish_ended()
        if not plan.rows:
            return
        prefilling = frozenset(request.id for request in batch.requests if request.is_prefilling)
        masks = Masks(batch, self.process)
        plan = replace(plan, before_draws=self._account.timed("masks", masks))
        self._flights.append(_Flight(batch, prefilling, masks, now, self._started(plan)))
        self._account.lap("model")

    def _follow(self) -> None:
        """Start the step after the one under way, if it can be started now."""
        if self._follower is None or not self._flights:
            return
        batch = self._scheduler.follow(self._flights[-1].batch)
        self._account.lap("scheduler")
        if batch is None:
            return
        try:
            result = self._follower.follow(batch.plan)
        except Exception as error:  # it is scheduled again, when its tokens are known
            self._emit(EngineFault(None, f"step {batch.plan.step}: {_said(error)}"))
            return
        self._flights.append(_Flight(batch, frozenset(), Masks(batch), self._clock(), result))
        self._account.lap("model")

    def _started(self, plan: Plan) -> Callable[[], tuple[RowOutput, ...]]:
        if self._launcher is not None:
            try:
                return self._launcher.start(plan)
            except Exception as error:
                self._emit(EngineFault(None, f"step {plan.step}: {_said(error)}"))
        return partial(self._runner.run, plan)

    def _land(self) -> None:
        """Take in what the first step under way gives, if there is one."""
        if not self._flights:
            return
        flight = self._flights.pop(0)
        errors = flight.masks.errors
        outputs = [
            RowOutput(error=errors[row.request]) if row.request in errors else output
            for row, output in zip(flight.batch.plan.rows, self._outputs(flight), strict=True)
        ]
        self._account.lap("model")
        overrun = flight.overrun
        self._commit(flight.batch, outputs)
        self._report(flight, overrun)
        self._account.lap("commit")

    def _outputs(self, flight: _Flight) -> tuple[RowOutput, ...]:
        """What the rows gave; if all fail at once, each is run by itself, so that only the culprits do."""
        plan = flight.batch.plan
        try:
            return flight.result()
        except Exception as error:
            self._emit(EngineFault(None, f"step {plan.step}: {_said(error)}"))
            self._forget_followers()
            if len(plan.rows) == 1:
                return (RowOutput(error=error),)
        flight.masks()
        outputs: list[RowOutput] = []
        for row in flight.known_rows():
            try:
                outputs += self._runner.run(Plan(plan.step, (row,))) if row is not None else (RowOutput(),)
            except Exception as error:
                outputs.append(RowOutput(error=error))
        return tuple(outputs)

    def _forget_followers(self) -> None:
        """What was started upon a step that failed comes to nothing."""
        flights, self._flights = self._flights, []
        for flight in flights:
            with suppress(Exception):
                flight.result()

    def _commit(self, batch: Batch, outputs: Sequence[RowOutput]) -> None:
        now = self._clock()
        processings = [
            Processing(self._families[request.id], request, batch.plan.step, now, row, output)
            for request, row, output in zip(batch.requests, batch.plan.rows, outputs, strict=True)
            # The others failed with a sibling, were cancelled, or are to draw this token once more: an earlier one is still processed.
            if request.phase is Phase.RUNNING and not request.is_processed
        ]
        self._process(processings)
        self._take_in(processings)

    def _finish_ended(self) -> None:
        while self._ended:
            request, reason = self._ended.pop(0)
            if request.phase is not Phase.FINISHED:
                self._finish(self._families[request.id], request, reason)

    def _report(self, flight: _Flight, overrun: frozenset[RequestId]) -> None:
        plan, now = flight.batch.plan, self._clock()
        since, self._landed = max(flight.started, self._landed), now
        self._account.n_steps += 1
        self._account.n_rows += len(plan.rows)
        self._account.tokens["overrun"] += len(overrun)
        self._emit(
            StepRan(
                plan.step,
                tuple((row.request, len(row.tokens) - row.n_drafts) for row in plan.rows if row.request in flight.prefilling),
                tuple(row.request for row in plan.rows if row.request not in flight.prefilling | overrun),
                len(self._scheduler.waiting),
                self._pool.n_free,
                (now - since) * 1000,
            )
        )

    # ------------------------------------------------------------ ends

    def _finish(self, family: Family, request: Request, reason: str) -> None:
        """End a request, completed or cancelled. Its KV stays in the tree."""
        try:
            self._scheduler.finish(request)
        finally:
            reason = family.close(request, reason)
            self._said_finished(request, reason)
            refused = self._hold(family, request) if isinstance(family, PinFamily) and reason == "length" else None
            if refused is not None:
                answers: tuple[Answer | None, ...] = (family.failed(refused),)
            else:
                answers = family.progress(request), family.finished(request, reason, self._clock())
            self._answers += [answer for answer in answers if answer is not None]

    def _hold(self, family: PinFamily, request: Request) -> CacheFull | None:
        """Pin what was just computed, unless somebody who was let in could then not run."""
        self._pins.hold(family.handle, request.namespace, request.prompt, request.blocks)
        open_requests = (other for opened in self._families.values() for other in opened.requests if other.phase is not Phase.FINISHED)
        if not any(map(self._intake.refusal, open_requests)):
            return None
        self._pins.let_go(family.handle)
        n_pages = len(request.prompt) // self.config.page_size
        return CacheFull(
            f"pinning {n_pages} pages leaves too few of {self.config.n_pages} to requests that wait or run",
            hint="pin less, or when they are done",
        )

    def _fail(self, family: Family, culprit: Request, error: Exception) -> None:
        """One request failed: its family is answered with the error, nobody else notices."""
        self._emit(EngineFault(culprit.id, _said(error)))
        if not isinstance(error, RequestFailed):
            failure = RequestFailed(f"request {culprit.id} failed: {_said(error)}")
            failure.__cause__ = error
            error = failure
        self._drop(family, error)

    def _drop(self, family: Family, error: Exception) -> None:
        """Answer a family with `error` and forget what is left of it."""
        self._answers.append(family.failed(error))
        for request in family.requests:
            if request.phase is not Phase.FINISHED:
                self._said_finished(request, "error")
                self._scheduler.fail(request)

    def _said_finished(self, request: Request, reason: str) -> None:
        del self._families[request.id]
        self._account.count(request, reason)
        self._emit(
            RequestFinished(
                request.id,
                reason,
                len(request.prompt),
                len(request.generated),
                request.n_cached,
                request.n_computed,
                request.n_steps,
                request.n_drafted,
                request.n_rejected,
            )
        )

    def _answer(self) -> None:
        """Call the listeners, now that the books are closed; one that raises harms nobody else."""
        answers, self._answers = self._answers, []
        for answer in answers:
            try:
                answer()
            except Exception as error:
                self.say_raised(error)

    def say_raised(self, error: Exception) -> None:
        """A listener raised. May be called from any thread."""
        self._say(EngineFault(None, f"a listener raised {_said(error)}"))

    # ------------------------------------------------------------ care

    def recover(self, error: Exception) -> None:
        """Our books are wrong: forget all KV, let everybody wait, compute again. If that was in vain, fail them all."""
        self._emit(EngineFault(None, f"{_said(error)}; the cache was flushed"))
        self._scheduler.restart()
        lost = self._pins.forget()
        self._finish_ended()
        for pin in lost:
            job = WarmJob(pin.tokens, blocks=pin.blocks)
            self.add(PinFamily(job, _Repin(self._emit), pin.namespace, self.config.page_size, self._clock(), pin.handle))
        self._n_recoveries += 1
        if self._n_recoveries > MAX_RECOVERIES:
            self.fail_all(RequestFailed(f"the engine cannot go on: {_said(error)}", hint="please report this"))

    def fail_all(self, error: Exception) -> None:
        """Answer every open family with `error`; nothing is left waiting or running."""
        for family in {family.id: family for family in self._families.values()}.values():
            self._drop(family, error)
        self._tree.report_locks()
        self._answer()

    def unpin(self, handle: RequestId) -> None:
        """Release a pin: its prefix may be evicted again. BadArgument if there is no such pin."""
        if not self._pins.let_go(handle):
            known = ", ".join(str(pin.handle) for pin in self._pins.pinned)
            raise BadArgument(f"nothing is pinned as {handle!r}", hint=f"pinned are {known}" if known else "nothing is pinned at all")
        self._tree.report_locks()

    def flush(self) -> int:
        """Evict everything that is not pinned and that no running request reads, and guess nothing from it; returns the pages freed."""
        self._drafts.forget()
        return self._tree.flush()

    def snapshot(self, seq: int) -> TreeSnapshot:
        """The tree as it is; `seq` is the number of the next event."""
        return self._tree.snapshot(seq)

    def check(self) -> None:
        """Recount tree and pool from scratch; InvariantBroken if they do not add up."""
        self._scheduler.check(pin.lease for pin in self._pins.pinned)

    def stats(self) -> dict[str, Any]:
        """Counts since the engine was made; tokens, but those generated, are of requests that are over.

        `*_s` are seconds spent in the parts of steps, none of them counted twice: `model` is waiting for the runner, less the
        `sampler` where the runner says what that took; `commit` is taking in what it gave; `listeners` are those who asked.
        """
        account, n_steps = self._account, max(1, self._account.n_steps)
        seconds = dict(account.seconds)
        if isinstance(self._runner, Timed):
            seconds["sampler"] = self._runner.seconds["sampler"]
            seconds["model"] -= seconds["sampler"]
        return {
            **{f"{name}_tokens": n for name, n in account.tokens.items()},
            "evicted_tokens": self._tree.n_evicted_tokens,
            "evictions": self._tree.n_evicted,
            "hit_rate": account.tokens["cached_prompt"] / max(1, account.tokens["prompt"]),
            "preemptions": self._scheduler.n_preempted,
            "steps": account.n_steps,
            "step_ms": sum(seconds.values()) * 1000 / n_steps,
            "step_rows": account.n_rows / n_steps,
            **{f"{part}_s": spent for part, spent in seconds.items()},
            "nodes": self._tree.n_nodes,
            "pages_total": self._pool.n_pages,
            "pages_free": self._pool.n_free,
            "pages_pinned": self._pins.n_pages,
            "pins": len(self._pins.pinned),
            **{f"requests_{reason}": n for reason, n in account.requests.items()},
            "requests_running": len(self._scheduler.running),
            "requests_waiting": len(self._scheduler.waiting),
        }

    def close(self) -> None:
        """Answer open requests with EngineStopped and free the runner's memory."""
        self.fail_all(EngineStopped("the engine was closed", hint="make a new lab"))
        self._flights.clear()
        self._runner.close()


class _Repin:
    """Listens to a pin that is computed again after a flush; its owner was answered long ago."""

    def __init__(self, emit: Emit) -> None:
        self._emit = emit

    def on_done(self, usage: Usage) -> None:
        pass

    def on_error(self, error: Exception) -> None:
        self._emit(EngineFault(None, f"a pin was lost: {error}"))


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
