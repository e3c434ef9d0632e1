"""Waiting and running request groups: how their requests begin and end, and which answers are due."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from ...contracts.errors import CacheFull, RequestFailed
from ...contracts.events import Emit, EngineFault, RequestFinished, Sample, TokensSampled
from ...contracts.ids import RequestId
from ..plan import Row, RowOutput
from .cache.pins import Pins
from .config import EngineConfig
from .group import Accepted, Answer, RequestGroup
from .in_flight import described
from .metrics import Metrics
from .processing import Process, Processing, as_failure, process_here
from .scheduling.request import Phase, Request
from .scheduling.scheduler import ScheduledStep, Scheduler
from .warm_group import PinGroup


class OpenGroups:
    """`refusal` returns why a request could not run even alone. `report_raised` receives exceptions
    of listeners.
    """

    def __init__(
        self,
        config: EngineConfig,
        scheduler: Scheduler,
        pins: Pins,
        refusal: Callable[[Request], CacheFull | None],
        metrics: Metrics,
        emit: Emit,
        report_raised: Callable[[Exception], None],
        clock: Callable[[], float],
    ) -> None:
        self._config = config
        self._scheduler = scheduler
        self._pins = pins
        self._refusal = refusal
        self._metrics = metrics
        self._emit = emit
        self._report_raised = report_raised
        self._clock = clock
        self._groups: dict[RequestId, RequestGroup] = {}
        self._answers: list[Answer] = []
        self._ended: list[tuple[Request, str]] = []
        """requests that came to their end in this step, and why"""
        self._late: list[Processing] = []
        self.process: Process = process_here
        """for rows along a user's pattern that would cost more than the engine's thread spends on one"""
        self.wake: Callable[[], object] = lambda: None
        """called from another thread when such a row is done late, so that `Engine.step` is called again"""
        self.n_recoveries = 0
        """since a row was last taken in"""

    def of(self, request: Request) -> RequestGroup:
        return self._groups[request.id]

    def find(self, request: RequestId) -> RequestGroup | None:
        return self._groups.get(request)

    @property
    def all(self) -> tuple[RequestGroup, ...]:
        return tuple({group.id: group for group in self._groups.values()}.values())

    # ------------------------------------------------------------ how they begin

    def add(self, group: RequestGroup) -> None:
        for request in group.requests:
            self._groups[request.id] = group
            self._scheduler.add(request)
        if error := next(filter(None, map(self._refusal, group.requests)), None):  # something was pinned since it was made
            self._drop(group, error)
        step, now = self._metrics.n_steps, self._clock()
        begun = [Processing(group, request, step, now, None, RowOutput()) for request in group.requests if request.phase is Phase.WAITING]
        self._process(begun)
        for processing in begun:
            self._take_in(processing)
        self.answer()

    # ------------------------------------------------------------ what their rows gave

    def take_in(self, step: ScheduledStep, outputs: Sequence[RowOutput]) -> None:
        """Apply the results of a step's rows. Where a pattern of the user's takes long, the result is
        applied later.
        """
        groups, now, samples = self._groups, self._clock(), list[Sample]()
        patterned: list[Processing] = []
        for request, row, output in zip(step.requests, step.plan.rows, outputs, strict=True):
            if request.phase is not Phase.RUNNING or request.is_processed:
                # It failed with a sibling, was cancelled, or draws this token again because an earlier
                # one is still processed.
                continue
            group = groups[request.id]
            if group.follows_pattern:
                patterned.append(Processing(group, request, step.plan.step, now, row, output))
                continue
            answer = None
            try:
                if output.error is not None:
                    raise output.error
                accepted = group.accept(request, row, output, now)
                if accepted.reason is None:
                    answer = group.progress(request)
            except BaseException as error:
                self.fail(group, request, as_failure(error))
            else:
                self._apply(request, row, accepted, answer, samples)
        if patterned:
            self._process(patterned)
            for processing in patterned:
                self._take(processing, samples)
        self._sampled(step.plan.step, samples)

    def take_in_late(self) -> bool:
        """Act upon what was not done in time; whether any of it is done now."""
        late, self._late = self._late, []
        for processing in late:
            self._take_in(processing)
        return len(self._late) < len(late)

    def _process(self, processings: Sequence[Processing]) -> None:
        if unbounded := [processing for processing in processings if not processing.attempt()]:
            self.process(unbounded)

    def _take_in(self, processing: Processing) -> None:
        samples: list[Sample] = []
        self._take(processing, samples)
        self._sampled(processing.step, samples)

    def _take(self, processing: Processing, samples: list[Sample]) -> None:
        """A request whose processing is not done takes no part in steps until it is."""
        request = processing.request
        if not processing.is_done:
            request.is_processed = True
            processing.notify = self.wake
            if not processing.is_done:  # it may be by now, and then nothing was woken
                self._late.append(processing)
                return
        request.is_processed = False
        if request.phase is Phase.FINISHED:
            return  # a sibling failed
        if processing.error is not None:
            self.fail(processing.group, request, processing.error)
            return
        self._apply(request, processing.row, processing.accepted, processing.answer, samples, processing.is_aborted)

    def _apply(
        self, request: Request, row: Row | None, accepted: Accepted, answer: Answer | None, samples: list[Sample], is_aborted: bool = False
    ) -> None:
        if row is not None and request.phase is Phase.RUNNING:
            self._scheduler.advance(request, row, accepted.n_kept, is_over=accepted.reason is not None)
            self.n_recoveries = 0
        samples += accepted.samples
        if accepted.reason is not None or is_aborted:
            self._ended.append((request, accepted.reason or "abort"))
        elif answer is not None:
            self._answers.append(answer)

    def _sampled(self, step: int, samples: Sequence[Sample]) -> None:
        if samples:
            self._metrics.tokens["generated"] += len(samples)
            self._emit(TokensSampled(step, tuple(samples)))
        self.finish_ended()

    # ------------------------------------------------------------ how they end

    def end_later(self, ended: Iterable[tuple[Request, str]]) -> None:
        """Requests that came to their end, and why; `finish_ended` finishes them."""
        self._ended += ended

    def finish_ended(self) -> None:
        while self._ended:
            request, reason = self._ended.pop(0)
            if request.phase is not Phase.FINISHED:
                self.finish(self.of(request), request, reason)

    def finish(self, group: RequestGroup, request: Request, reason: str) -> None:
        """End a request, completed or cancelled. Its KV stays in the tree."""
        try:
            self._scheduler.finish(request)
        finally:
            reason = group.close(request, reason)
            self._emit_finished(request, reason)
            refused = self._hold(group, request) if isinstance(group, PinGroup) and reason == "length" else None
            if refused is not None:
                self.answer_later(group.failed(refused))
            else:
                self.answer_later(group.progress(request))
                self.answer_later(group.finished(request, reason, self._clock()))

    def _hold(self, group: PinGroup, request: Request) -> CacheFull | None:
        """Pin the computed prefix, unless a previously accepted request could then not run."""
        self._pins.hold(group.handle, request.namespace, request.prompt, request.blocks)
        open_requests = (other for opened in self._groups.values() for other in opened.requests if other.phase is not Phase.FINISHED)
        if not any(map(self._refusal, open_requests)):
            return None
        self._pins.let_go(group.handle)
        n_pages = len(request.prompt) // self._config.page_size
        return CacheFull(
            f"pinning {n_pages} pages would leave too few of {self._config.n_pages} for waiting or running requests",
            hint="pin less, or wait until they are done",
        )

    def cancel(self, group: RequestGroup) -> None:
        late = {processing.request: processing for processing in self._late}
        for request in group.requests:
            if request.is_processed:
                late[request].is_aborted = True
            elif request.phase is not Phase.FINISHED:
                self.finish(group, request, "abort")

    def fail(self, group: RequestGroup, culprit: Request, error: Exception) -> None:
        """Answer the group of a failed request with the error. Other groups are not affected."""
        self._emit(EngineFault(culprit.id, described(error)))
        if not isinstance(error, RequestFailed):
            failure = RequestFailed(f"request {culprit.id} failed: {described(error)}")
            failure.__cause__ = error
            error = failure
        self._drop(group, error)

    def fail_all(self, error: Exception) -> None:
        for group in self.all:
            self._drop(group, error)

    def _drop(self, group: RequestGroup, error: Exception) -> None:
        """Answer a group with `error` and drop the rest of it."""
        self.answer_later(group.failed(error))
        for request in group.requests:
            if request.phase is not Phase.FINISHED:
                self._emit_finished(request, "error")
                self._scheduler.fail(request)

    def _emit_finished(self, request: Request, reason: str) -> None:
        del self._groups[request.id]
        self._metrics.count(request, reason)
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

    # ------------------------------------------------------------ answers

    def answer_later(self, answer: Answer | None) -> None:
        if answer is not None:
            self._answers.append(answer)

    def answer(self) -> None:
        """Call the listeners after the step's state is complete. An error of one listener does not
        affect others.
        """
        answers, self._answers = self._answers, []
        for answer in answers:
            try:
                answer()
            except Exception as error:
                self._report_raised(error)
