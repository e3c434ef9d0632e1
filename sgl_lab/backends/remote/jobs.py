"""The jobs of a backend as calls to its server, whatever the port: threads, limits, deadlines,
retries, budget, one answer for each.

A subclass accepts a job of its port (`_start`), asks the server on a worker's thread (`_perform`)
and gives the outcome to the job's listener (`_deliver`). An outcome has the usage of each of its
samples; times and cost are added here.
"""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Generic, NoReturn, TypedDict, TypeVar

from ...contracts.capabilities import Prices
from ...contracts.errors import BadArgument, EngineStopped, SglError, Stopped
from ...contracts.events import Emit, RequestQueued, silent
from ...contracts.ids import Counter, RequestId
from ...contracts.port import Usage
from .attempts import attempted, cleaned, why_failed
from .budget import Account, Reservation
from .call import Call
from .deadlines import ALARMS, Deadlines
from .endpoint import Endpoint
from .faults import Fault, Target, fault_of
from .keys import with_secrets
from .limits import limits_of
from .prices import Listed, cost_of
from .retries import Retries

if TYPE_CHECKING:
    import httpx2

LINGER_S = 5.0
"""how long an idle worker waits for the next job"""
GRACE_S = 0.5
"""after its end a call's own thread has so long to answer before the clock's thread does"""

request_ids = Counter()


class CallOptions(TypedDict, total=False):
    """What the constructor of each backend behind an API takes besides what is its own."""

    deadlines: Deadlines
    retries: int | Retries
    concurrency: int
    """calls at once to one server, from all backends of the process together"""
    requests_per_minute: int
    budget: float | Account
    """the most that this backend may spend, beside the budgets of the cell and the session"""
    prices: Prices
    """instead of the table's"""
    emit: Emit


@dataclass(eq=False)
class Task:
    """A job that is accepted and not forgotten yet. A subclass has the job and its listener."""

    call: Call
    queued_at: float
    started_at: float = 0.0
    is_answered: bool = False
    reservation: Reservation | None = None


T = TypeVar("T", bound=Task)
O = TypeVar("O")  # noqa: E741
R = TypeVar("R")


class RemoteJobs(ABC, Generic[T, O]):
    """Of a backend that calls a server. `T` is a task of it, `O` what a job comes to.

    server       the server and its key (`find_endpoint`)
    options      see `CallOptions`
    concurrency  calls at once to a server of this kind if nothing else is asked for
    """

    takes: type = CallOptions
    """the options of its constructor"""
    server: Endpoint
    listed: Listed | None = None
    """its model's line in the table of prices"""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "__init__" in vars(cls):
            setattr(cls, "__init__", with_secrets(vars(cls)["__init__"]))  # noqa: B010

    def __init__(self, server: Endpoint, options: CallOptions, name: str, *, concurrency: int | None = None) -> None:
        """`name` is what messages call the model."""
        self.server = server
        self._name = name
        if unknown := sorted(options.keys() - self.takes.__annotations__.keys()):
            known = ", ".join(self.takes.__annotations__)
            raise BadArgument(f"{type(self).__name__} has no argument {', '.join(unknown)}", hint=f"it takes {known}")
        self.deadlines = options.get("deadlines", Deadlines())
        retries = options.get("retries", Retries())
        self.retries = retries if isinstance(retries, Retries) else Retries(retries)
        budget = options.get("budget")
        self.budget = budget if isinstance(budget, Account) or budget is None else Account(f"backend {name}", budget)
        self.emit: Emit = options.get("emit", silent)
        self.limits = limits_of(server.origin)
        self.limits.set(options.get("concurrency"), options.get("requests_per_minute"), default=concurrency)
        self._lock = threading.Condition()
        self._queue: deque[T] = deque()
        self._tasks: dict[RequestId, T] = {}
        self._n_idle = self._n_workers = 0
        self._closed: EngineStopped | None = None

    def __repr__(self) -> str:
        kind, mine = type(self).__name__, vars(self)
        return f"<{kind} {self._name} at {self.server.place}>" if "_closed" in mine else f"<{kind} that is being made>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a remote backend cannot be pickled; make it again where it is used")

    # ------------------------------------------------------------ for a subclass to write

    @abstractmethod
    def _perform(self, task: T) -> O:
        """Ask the server, on a worker's thread. Raise whatever comes: `_fault` maps it."""

    @abstractmethod
    def _deliver(self, task: T, outcome: O | SglError) -> None:
        """Give the outcome to the job's listener, once."""

    @abstractmethod
    def _usages(self, outcome: O) -> tuple[Usage, ...]:
        """Of each sample."""

    @abstractmethod
    def _with_usages(self, outcome: O, usages: tuple[Usage, ...]) -> O: ...

    def _used(self, task: T) -> tuple[Usage, ...]:
        """Of a call that ended early: what it has used, by an estimate; empty if it has not begun."""
        return ()

    def _at_most(self, task: T) -> float | None:
        """The most that a call may cost; None where that is not known."""
        return None

    def _stop_remote(self, task: T) -> None:
        """The call was ended here before it was answered: tell the server, if its API has a way."""

    def _fault(self, error: Exception, call: Call) -> Fault:
        """What an exception of the SDK means."""
        return fault_of(error, Target(self.server.place, self._name, self.server.key.source if self.server.key else ""))

    def _prices(self, n_prompt: int) -> Prices | None:
        return None if self.listed is None else self.listed.prices_of(n_prompt)

    # ------------------------------------------------------------ http

    @cached_property
    def client(self) -> httpx2.Client:
        """For an SDK: it carries the key, keeps a call's deadlines, and ends its reads on a cancel."""
        from .wire import client_for

        return client_for(self.server)

    def answer_of(self, ask: Callable[[Call], R], deadlines: Deadlines | None = None) -> R:
        """What `ask` returns of what is no job, such as a list of models: on this thread, with
        deadlines, raising our errors."""
        deadlines = deadlines or replace(self.deadlines, total=min(30.0, self.deadlines.total))
        call = Call(RequestId(0), self.server.place, deadlines, ignored)
        try:
            with call.works():
                return ask(call)
        except Exception as error:
            failure = cleaned(self._meant(error, call).error)
        raise failure  # not inside the handler, which would attach the SDK's error and its variables

    # ------------------------------------------------------------ the port

    def cancel(self, request: RequestId) -> None:
        with self._lock:
            task = self._tasks.get(request)
        if task is not None:
            self._end(task, Stopped("the request was cancelled"))

    def poll(self) -> None:
        if self._closed:
            raise self._closed

    def close(self) -> None:
        """Cancel the requests in flight, which fail with EngineStopped, and refuse new ones. The
        server continues to run."""
        with self._lock:
            self._closed = EngineStopped(f"the backend of {self._name} was closed")
            tasks = list(self._tasks.values())
            self._lock.notify_all()
        for task in tasks:
            self._end(task, self._closed)

    def shutdown(self) -> None:
        self.close()

    # ------------------------------------------------------------ the workers

    def _new_call(self) -> Call:
        return Call(RequestId(request_ids.next()), self.server.place, self.deadlines, ignored)

    def _announce(self, queued: RequestQueued) -> None:
        self.emit(queued)

    def _start(self, task: T, queued: RequestQueued) -> RequestId:
        with self._lock:
            self.poll()
            self._announce(queued)
            self._tasks[queued.request] = task
            self._queue.append(task)
            if self._n_idle < len(self._queue) and self._n_workers < self.limits.concurrency:
                self._n_workers += 1
                threading.Thread(target=self._work, name="sgl-remote", daemon=True).start()
            self._lock.notify()
        return queued.request

    def _work(self) -> None:
        while True:
            with self._lock:
                self._n_idle += 1
                try:
                    self._lock.wait_for(lambda: self._queue or self._closed, LINGER_S)
                finally:
                    self._n_idle -= 1
                if not self._queue:
                    self._n_workers -= 1
                    return
                task = self._queue.popleft()
            if not task.is_answered:
                self._run(task)

    def _run(self, task: T) -> None:
        task.started_at = time.monotonic()
        try:
            outcome = self._outcome(task)
        except Exception as error:
            self._answer(task, cleaned(self._meant(error, task.call).error))
        else:
            self._answer(task, outcome)

    def _outcome(self, task: T) -> O:
        """The server's. The clock's thread answers at the deadline, whatever this thread is stuck in."""
        call = task.call
        call.check()
        task.reservation = Reservation(self._name, self._at_most(task), self.budget)
        call.restart()
        off = ALARMS.at(time.monotonic() + call.remaining_s, lambda: self._end(task, call.too_late()))
        try:
            outcome = attempted(lambda: self._perform(task), call, self.limits, self.retries, self._meant)
        finally:
            off()
        return self._counted(task, outcome)

    def _meant(self, error: Exception, call: Call) -> Fault:
        return why_failed(error, call, self._fault)

    # ------------------------------------------------------------ the answer

    def _end(self, task: T, reason: SglError) -> None:
        """Its reads end at once, so its thread answers. If that is stuck elsewhere, or has not
        begun, the clock's thread does."""
        task.call.end(reason)
        if task.started_at and not task.is_answered:
            self._stop_remote(task)
        delay = GRACE_S if task.started_at else 0.0
        ALARMS.at(time.monotonic() + delay, lambda: self._answer(task, task.call.ended or reason))

    def _answer(self, task: T, outcome: O | SglError) -> None:
        """Answer exactly once; a second call does nothing."""
        with self._lock:
            if task.is_answered:
                return
            task.is_answered = True
            self._tasks.pop(task.call.request, None)
        if isinstance(outcome, SglError):
            self._settle(task, self._used(task) if task.call.has_begun else ())
        self._deliver(task, outcome)

    # ------------------------------------------------------------ counts and cost

    def _counted(self, task: T, outcome: O) -> O:
        """With times and cost; the budget's books are settled."""
        usages = tuple(self._timed(task, usage, n) for n, usage in enumerate(self._usages(outcome)))
        self._settle(task, usages)
        return self._with_usages(outcome, usages)

    def _timed(self, task: T, usage: Usage, n: int) -> Usage:
        """The usage of the `n`-th sample; the samples of one prompt pay for it once."""
        now, prices = time.monotonic(), self._prices(usage.prompt_tokens)
        return replace(
            usage,
            cost=cost_of(usage, prices, with_prompt=not n) if usage.cost is None else usage.cost,
            queue_s=usage.queue_s + task.started_at - task.queued_at,
            first_token_s=(task.call.first_at or now) - task.queued_at,
            total_s=now - task.queued_at,
        )

    def _settle(self, task: T, usages: tuple[Usage, ...]) -> None:
        """Close the books of a call: what had begun is counted, what had not costs nothing."""
        if task.reservation is None:
            return
        costs = [cost_of(u, self._prices(u.prompt_tokens), with_prompt=not n) if u.cost is None else u.cost for n, u in enumerate(usages)]
        task.reservation.settle(usages, None if None in costs else sum(cost for cost in costs if cost is not None))


def ignored(index: int, text: str) -> None:
    """For a call that does not stream."""
