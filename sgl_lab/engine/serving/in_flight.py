"""Steps in flight: steps that the runner computes and that have not been collected."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial

from ...contracts.events import Emit, EngineFault
from ...contracts.ids import RequestId
from ..plan import Launching, Overlapping, Plan, Row, RowOutput, Runner
from .metrics import Metrics
from .processing import Filling, Process, process_here
from .scheduling.request import Phase
from .scheduling.scheduler import ScheduledStep


class Masks:
    """The masks of a step's constrained rows. One call computes them, while the model computes: on other
    threads what has no bound.
    """

    def __init__(self, step: ScheduledStep, process: Process = process_here) -> None:
        self._fillings = [
            Filling(request.id, request.matcher, tuple(row.drafts))
            for request, row in zip(step.requests, step.plan.rows, strict=True)
            if request.matcher is not None and row.sample is not None
        ]
        self._process = process
        self.errors: dict[RequestId, Exception] = {}
        """of rows that have no masks"""

    def __call__(self) -> None:
        fillings, self._fillings = self._fillings, []
        if unbounded := [filling for filling in fillings if not filling.attempt()]:
            self._process(unbounded, until_done=True)
        self.errors |= {filling.request: filling.error for filling in fillings if filling.error is not None}


@dataclass(frozen=True, slots=True)
class InFlightStep:
    step: ScheduledStep
    prefilling: frozenset[RequestId]
    masks: Masks
    started: float
    result: Callable[[], tuple[RowOutput, ...]]

    @property
    def overrun(self) -> frozenset[RequestId]:
        """Requests that ended with the step before."""
        rows = zip(self.step.requests, self.step.plan.rows, strict=True)
        return frozenset(request.id for request, row in rows if row.is_overlapped and request.phase is not Phase.RUNNING)

    def known_rows(self) -> Iterator[Row | None]:
        """The rows with their tokens, now that all earlier steps are collected; None if no result
        is needed any more.
        """
        for request, row in zip(self.step.requests, self.step.plan.rows, strict=True):
            if request.phase is not Phase.RUNNING:
                yield None
            else:
                yield replace(row, tokens=request.span(row.start, row.end), is_overlapped=False) if row.is_overlapped else row


class InFlight:
    """Starts steps on the runner and collects them, the oldest first."""

    def __init__(self, runner: Runner, metrics: Metrics, emit: Emit, clock: Callable[[], float]) -> None:
        self._runner = runner
        self._launcher = runner if isinstance(runner, Launching) else None
        self._overlapper = runner if isinstance(runner, Overlapping) else None
        self._metrics = metrics
        self._emit = emit
        self._clock = clock
        self._steps: list[InFlightStep] = []

    def __bool__(self) -> bool:
        return bool(self._steps)

    @property
    def latest(self) -> ScheduledStep | None:
        return self._steps[-1].step if self._steps else None

    @property
    def can_compute_meanwhile(self) -> bool:
        """Whether the runner computes in parallel to the engine."""
        return self._launcher is not None

    @property
    def can_overlap(self) -> bool:
        """Whether the step after the latest can be started before the latest is collected."""
        return self._overlapper is not None

    def start(self, step: ScheduledStep, started: float, process: Process) -> None:
        prefilling = frozenset(request.id for request in step.requests if request.is_prefilling)
        masks = Masks(step, process)
        plan = replace(step.plan, before_draws=self._metrics.timed("masks", masks))
        self._steps.append(InFlightStep(step, prefilling, masks, started, self._started(plan)))

    def _started(self, plan: Plan) -> Callable[[], tuple[RowOutput, ...]]:
        if self._launcher is not None:
            try:
                return self._launcher.start(plan)
            except Exception as error:
                self._emit(EngineFault(None, f"step {plan.step}: {described(error)}"))
        return partial(self._runner.run, plan)

    def overlap(self, step: ScheduledStep) -> None:
        """Start a step whose tokens the latest step samples. If that fails, the step is scheduled
        again when they are known.
        """
        if self._overlapper is None:
            return
        try:
            result = self._overlapper.overlap(step.plan)
        except Exception as error:
            self._emit(EngineFault(None, f"step {step.plan.step}: {described(error)}"))
            return
        self._steps.append(InFlightStep(step, frozenset(), Masks(step), self._clock(), result))
        self._metrics.lap("model")

    def collect(self) -> tuple[InFlightStep, Sequence[RowOutput]]:
        """The oldest step and the results of its rows."""
        oldest = self._steps.pop(0)
        errors = oldest.masks.errors
        outputs = [
            RowOutput(error=errors[row.request]) if row.request in errors else output
            for row, output in zip(oldest.step.plan.rows, self._outputs(oldest), strict=True)
        ]
        return oldest, outputs

    def _outputs(self, oldest: InFlightStep) -> tuple[RowOutput, ...]:
        """The results of the rows. If all fail at once, each is run by itself, so that only the
        faulty ones fail.
        """
        plan = oldest.step.plan
        try:
            return oldest.result()
        except Exception as error:
            self._emit(EngineFault(None, f"step {plan.step}: {described(error)}"))
            self._drop_overlapped()
            if len(plan.rows) == 1:
                return (RowOutput(error=error),)
        oldest.masks()
        outputs: list[RowOutput] = []
        for row in oldest.known_rows():
            try:
                outputs += self._runner.run(Plan(plan.step, (row,))) if row is not None else (RowOutput(),)
            except Exception as error:
                outputs.append(RowOutput(error=error))
        return tuple(outputs)

    def _drop_overlapped(self) -> None:
        """Steps that were started upon one that failed are worth nothing."""
        steps, self._steps = self._steps, []
        for step in steps:
            with suppress(Exception):
                step.result()

    def clear(self) -> None:
        self._steps.clear()


def described(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
