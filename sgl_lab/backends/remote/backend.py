"""What every engine behind an API has in common.

A vendor's class says what the API offers (its card), and how a job becomes a request and a response an answer: `_converse`, and
`_decide` where the API decides. Both run on a thread of this room with a `Call`. All else is done here: threads, limits, deadlines,
retries, budget, cost, answers on disk, events, errors without keys. It knows no vendor.
"""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from os import PathLike
from typing import TYPE_CHECKING, NoReturn, TypedDict, TypeVar, cast

from ...contracts.capabilities import Prices
from ...contracts.conversation import (
    ChatJob,
    ChatListener,
    ChatOutput,
    DecisionJob,
    DecisionListener,
    DecisionOutput,
    ImagePart,
    ToolCallPart,
    ToolResultPart,
    check_prompt,
)
from ...contracts.errors import BackendUnsupported, BadArgument, EngineStopped, RequestFailed, SglError, Stopped
from ...contracts.events import Emit, RequestQueued, silent
from ...contracts.ids import Counter, RequestId
from ...contracts.params import Constraint
from ...contracts.port import ModelCard, Usage
from ...contracts.tree import TreeSnapshot
from ...lang.backend.base_backend import BaseConversation
from ..trees.inferred import InferredTree
from ..trees.rules import rules_of
from ..trees.shadow import Shadow
from .answers import Answers
from .attempts import attempted, cleaned, why_failed
from .budget import Account, Reservation
from .call import Call
from .deadlines import ALARMS, Deadlines
from .endpoint import Endpoint
from .faults import Fault, Target, fault_of
from .keys import with_secrets
from .limits import limits_of
from .prices import Listed, cost_of, find_prices, most_of
from .retries import Retries

if TYPE_CHECKING:
    import httpx2

T = TypeVar("T")
Job = ChatJob | DecisionJob
Outcome = tuple[ChatOutput, ...] | DecisionOutput

LINGER_S = 5.0
"""how long an idle worker waits for the next job"""
GRACE_S = 0.5
"""after its end a call's own thread has so long to answer before the clock's thread does"""

request_ids = Counter()


class Options(TypedDict, total=False):
    """What the constructor of each remote backend takes besides what is its own."""

    deadlines: Deadlines
    retries: int | Retries
    concurrency: int
    """calls at once to one server, from all backends of the process together"""
    requests_per_minute: int
    budget: float | Account
    """the most that this backend may spend, beside the budgets of the cell and the session"""
    prices: Prices
    """instead of the table's"""
    cache: str | PathLike[str] | Answers
    """a folder where answers are kept, and found again"""
    emit: Emit


@dataclass(eq=False)
class _Task:
    job: Job
    listener: ChatListener | DecisionListener
    call: Call
    queued_at: float
    started_at: float = 0.0
    is_answered: bool = False
    reservation: Reservation | None = None


class RemoteBackend(BaseConversation, ABC):
    """A backend that calls a server.

    server     the server and its key (`find_endpoint`)
    card       its model and what it offers; prices and context are filled in from the table where the card has none
    options    see `Options`

    A subclass writes `_converse`, `_decide` if its capabilities say that choices are "decided", and `_prepare` if it cannot follow
    every constraint of the kinds that it names. It sends through `client`, which keeps the deadlines and carries the key.
    """

    mode = ""
    """of a class with several APIs, the one that it uses; answers on disk differ by it"""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "__init__" in vars(cls):
            setattr(cls, "__init__", with_secrets(vars(cls)["__init__"]))  # noqa: B010

    def __init__(self, server: Endpoint, card: ModelCard, options: Options) -> None:
        self.server = server
        self._card = card
        if unknown := sorted(options.keys() - Options.__annotations__.keys()):
            raise BadArgument(
                f"{type(self).__name__} has no argument {', '.join(unknown)}", hint=f"it takes {', '.join(Options.__annotations__)}"
            )
        self.deadlines = options.get("deadlines", Deadlines())
        retries = options.get("retries", Retries())
        self.retries = retries if isinstance(retries, Retries) else Retries(retries)
        budget = options.get("budget")
        self.budget = budget if isinstance(budget, Account) or budget is None else Account(f"backend {card.name}", budget)
        cache = options.get("cache")
        self.answers = cache if isinstance(cache, Answers) or cache is None else Answers(cache)
        self.emit: Emit = options.get("emit", silent)
        self.limits = limits_of(server.origin)
        self.limits.set(options.get("concurrency"), options.get("requests_per_minute"))
        self._be(card, options)
        self._lock = threading.Condition()
        self._queue: deque[_Task] = deque()
        self._tasks: dict[RequestId, _Task] = {}
        self._n_idle = self._n_workers = 0
        self._closed: EngineStopped | None = None

    def _be(self, card: ModelCard, options: Options) -> None:
        """Have this card, with what the table of prices knows. Other servers than the provider's have the prices that their user gives."""
        self.listed = find_prices(self.server.provider.name, card.name) if self.server.is_own else None
        """its line in the table"""
        if "prices" in options:
            listed = self.listed or Listed(options["prices"])
            self.listed = Listed(options["prices"], listed.context, listed.max_output, can=listed.can)
        if self.listed is not None:
            card = replace(card, capabilities=replace(card.capabilities, prices=self.listed.prices))
        self._card = card

    def __repr__(self) -> str:
        if "_card" not in vars(self):
            return f"<{type(self).__name__} that is being made>"
        return f"<{type(self).__name__} {self._card.name} at {self.server.place}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a remote backend cannot be pickled; make it again where it is used")

    # ------------------------------------------------------------ for a vendor to write

    @abstractmethod
    def _converse(self, job: ChatJob, call: Call) -> tuple[ChatOutput, ...]:
        """Ask the server; stream to `call.delta(index, text)`. Of `Usage` fill the token counts; times and cost are added here.

        Raise whatever the SDK raises: `_fault` maps it. Raise `Unended` for a stream without its end, `Refused` for an error in it.
        """

    def _decide(self, job: DecisionJob, call: Call) -> DecisionOutput:
        raise self._card.capabilities.missing("choices", self._card.name)

    def _prepare(self, constraint: Constraint) -> None:
        """BackendUnsupported or BadArgument for a constraint that the API cannot follow, although it follows others of its kind."""

    def _refuse(self, job: Job) -> None:
        """BackendUnsupported or BadArgument for a job that the API cannot do, beyond what the capabilities tell."""

    def _fault(self, error: Exception, call: Call) -> Fault:
        """What an exception of the SDK means."""
        return fault_of(error, Target(self.server.place, self._card.name, self.server.key.source if self.server.key else ""))

    def _about(self) -> dict[str, object]:
        """What decides an answer beside the job."""
        return {"class": type(self).__name__, "mode": self.mode, "url": self.server.base_url, "model": self._card.name}

    @cached_property
    def client(self) -> httpx2.Client:
        """For an SDK: it carries the key, keeps a call's deadlines, and ends its reads on a cancel."""
        from .wire import client_for

        return client_for(self.server)

    def answer_of(self, ask: Callable[[Call], T]) -> T:
        """What `ask` returns of what is no job, such as a list of models: on this thread, with deadlines, raising our errors."""
        call = Call(RequestId(0), self.server.place, replace(self.deadlines, total=min(30.0, self.deadlines.total)), _ignored)
        try:
            with call.works():
                return ask(call)
        except Exception as error:
            failure = cleaned(self._meant(error, call).error)
        raise failure  # not inside the handler, which would attach the SDK's error and its variables

    # ------------------------------------------------------------ the tree of its cache

    tree: InferredTree | None = None

    @property
    def has_tree(self) -> bool:
        """Whether a tree of the server's cache is inferred: somebody listens, and the server counts cached tokens."""
        return self.tree is not None

    def shadowed(self, emit: Emit) -> Emit:
        """For a lab: `emit`, which is also told the events of the inferred tree."""
        if not self._card.capabilities.cached_counts:
            return emit
        rules = rules_of(self.server.provider.name, self.server.place, is_own=self.server.is_own)
        self.tree = InferredTree((self._card.name, self.server.place, "inferred"), rules, emit)
        return Shadow(self.tree, emit)

    def snapshot(self, cursor: Callable[[], int] = lambda: 0) -> TreeSnapshot:
        """The inferred tree; empty without one."""
        return TreeSnapshot((), 0, 0, cursor()) if self.tree is None else self.tree.snapshot(cursor)

    # ------------------------------------------------------------ the port

    def describe(self) -> ModelCard:
        return self._card

    def prepare(self, constraint: Constraint) -> None:
        if constraint.kind not in self._card.capabilities.constraints:
            raise self._card.capabilities.missing(
                "constraints", self._card.name, f"{constraint.kind}=", f"constraint of kind {constraint.kind}"
            )
        self._check_constraint(constraint)

    def _check_constraint(self, constraint: Constraint) -> None:
        if constraint.lead or constraint.seam:
            what = f"{self._card.name} follows a constraint from the first character only"
            raise BackendUnsupported(what, hint="leave out separate_reasoning around this gen")
        self._prepare(constraint)

    def converse(self, job: ChatJob, listener: ChatListener) -> RequestId:
        can, name = self._card.capabilities, self._card.name
        can.check(job.params, name, is_tool_call=bool(job.tools))
        if job.tools and not can.tools:
            raise can.missing("tools", name)
        if job.params.constraint is not None:
            self._check_constraint(job.params.constraint)
        return self._accept(job, listener, "gen", job.params.max_tokens or 0)

    def decide(self, job: DecisionJob, listener: DecisionListener) -> RequestId:
        if self._card.capabilities.choices != "decided":
            raise self._card.capabilities.missing("choices", self._card.name)
        return self._accept(job, listener, "score", 0)

    def cancel(self, request: RequestId) -> None:
        with self._lock:
            task = self._tasks.get(request)
        if task is not None:
            self._end(task, Stopped("the request was cancelled"))

    def poll(self) -> None:
        if self._closed:
            raise self._closed

    def close(self) -> None:
        """Cancel what runs and take no more. Requests in flight fail with EngineStopped."""
        with self._lock:
            self._closed = EngineStopped(f"the backend of {self._card.name} was closed")
            tasks = list(self._tasks.values())
            self._lock.notify_all()
        for task in tasks:
            self._end(task, self._closed)

    def shutdown(self) -> None:
        self.close()

    # ------------------------------------------------------------ a job

    def _accept(self, job: Job, listener: ChatListener | DecisionListener, kind: str, max_tokens: int) -> RequestId:
        check_prompt(job.prompt, self._card.capabilities, self._card.name)
        self._refuse(job)
        request = RequestId(request_ids.next())
        task = _Task(job, listener, Call(request, self.server.place, self.deadlines, _ignored), time.monotonic())
        if isinstance(job, ChatJob) and not job.tools:
            task.call.hears(lambda index, text: self._deliver(task, index, text))
        with self._lock:
            self.poll()
            self.emit(RequestQueued(request, job.fork, job.expr, kind, job.shown, max_tokens, request))
            self._tasks[request] = task
            self._queue.append(task)
            if self._n_idle < len(self._queue) and self._n_workers < self.limits.concurrency:
                self._n_workers += 1
                threading.Thread(target=self._work, name="sgl-remote", daemon=True).start()
            self._lock.notify()
        return request

    def _deliver(self, task: _Task, index: int, text: str) -> None:
        with self._lock:
            if task.is_answered:
                return
        cast(ChatListener, task.listener).on_delta(index, text)

    # ------------------------------------------------------------ the workers

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

    def _run(self, task: _Task) -> None:
        call = task.call
        task.started_at = time.monotonic()
        try:
            outcome = self._outcome(task)
        except Exception as error:
            fault = self._meant(error, call)
            self._answer(task, cleaned(fault.error))
        else:
            self._answer(task, outcome)

    def _outcome(self, task: _Task) -> Outcome:
        """From the disk, or from the server. The clock's thread answers at the deadline, whatever this thread is stuck in."""
        job, call = task.job, task.call
        call.check()
        key = "" if self.answers is None else self.answers.key(job, self._about())
        if self.answers is not None and (found := self.answers.find(key)) is not None:
            return self._replayed(task, found)
        task.reservation = Reservation(self._card.name, self._most(job), self.budget)
        call.restart()
        off = ALARMS.at(time.monotonic() + call.remaining_s, lambda: self._end(task, call.too_late()))
        try:
            outcome = attempted(lambda: self._ask(job, call), call, self.limits, self.retries, self._meant)
        finally:
            off()
        outcome = self._counted(task, outcome)
        if self.answers is not None:
            self.answers.keep(key, outcome)
        return outcome

    def _ask(self, job: Job, call: Call) -> Outcome:
        return self._converse(job, call) if isinstance(job, ChatJob) else self._decide(job, call)

    def _meant(self, error: Exception, call: Call) -> Fault:
        return why_failed(error, call, self._fault)

    # ------------------------------------------------------------ the answer

    def _end(self, task: _Task, reason: SglError) -> None:
        """Its reads end at once, so its thread answers. If that is stuck elsewhere, or has not begun, the clock's thread does."""
        task.call.end(reason)
        delay = GRACE_S if task.started_at else 0.0
        ALARMS.at(time.monotonic() + delay, lambda: self._answer(task, task.call.ended or reason))

    def _answer(self, task: _Task, outcome: Outcome | SglError) -> None:
        """Answer exactly once; a second call does nothing."""
        with self._lock:
            if task.is_answered:
                return
            task.is_answered = True
            self._tasks.pop(task.call.request, None)
        job, listener, partial = task.job, task.listener, task.call.partial
        if isinstance(outcome, SglError):
            self._settle(task)
            if isinstance(outcome, RequestFailed) and any(partial):
                outcome.partial = partial
            if isinstance(outcome, Stopped) and isinstance(job, ChatJob):
                texts = [*partial, *[""] * (job.params.n - len(partial))]
                is_complete = None if job.params.constraint is None else False
                outcome = tuple(ChatOutput(text, "abort", self._estimated(task, text), is_complete=is_complete) for text in texts)
        if isinstance(outcome, SglError):
            listener.on_error(outcome)
        elif isinstance(outcome, DecisionOutput):
            cast(DecisionListener, listener).on_done(outcome)
        else:
            cast(ChatListener, listener).on_done(outcome)

    # ------------------------------------------------------------ counts and cost

    def _most(self, job: Job) -> float | None:
        """The most that a call may cost; None where that is not known."""
        n_bytes, n_images = _size(job)
        prices = self._prices(n_bytes)
        n_tokens = 0
        if isinstance(job, ChatJob):
            most = job.params.max_tokens or (self.listed.max_output if self.listed else None)
            if most is None:
                return None
            n_tokens = most * job.params.n
        return most_of(n_bytes, n_images, n_tokens, prices)

    def _prices(self, n_prompt: int) -> Prices | None:
        return self._card.capabilities.prices if self.listed is None else self.listed.prices_of(n_prompt)

    def _counted(self, task: _Task, outcome: Outcome) -> Outcome:
        """With times and cost; the budget's books are settled."""
        call, now = task.call, time.monotonic()

        def counted(usage: Usage, *, with_prompt: bool) -> Usage:
            return replace(
                usage,
                cost=cost_of(usage, self._prices(usage.prompt_tokens), with_prompt=with_prompt) if usage.cost is None else usage.cost,
                queue_s=task.started_at - task.queued_at,
                first_token_s=(call.first_at or now) - task.queued_at,
                total_s=now - task.queued_at,
            )

        if isinstance(outcome, DecisionOutput):
            outcome = replace(outcome, usage=counted(outcome.usage, with_prompt=True))
            usages: tuple[Usage, ...] = (outcome.usage,)
        else:
            outcome = tuple(replace(output, usage=counted(output.usage, with_prompt=not i)) for i, output in enumerate(outcome))
            usages = tuple(output.usage for output in outcome)
        costs = [usage.cost for usage in usages]
        if task.reservation is not None:
            task.reservation.settle(usages, None if None in costs else sum(cost for cost in costs if cost is not None))
        return outcome

    def _replayed(self, task: _Task, found: Outcome) -> Outcome:
        """What the disk had: as it was, for nothing."""
        if isinstance(found, DecisionOutput):
            return replace(found, usage=replace(found.usage, cost=0.0))
        outputs = tuple(replace(output, usage=replace(output.usage, cost=0.0)) for output in found)
        for index, output in enumerate(outputs):
            task.call.delta(index, output.text)
        return outputs

    def _estimated(self, task: _Task, text: str) -> Usage:
        """Of a call that ended before the server counted: a token for four bytes."""
        if not task.call.has_begun:
            return Usage()
        return Usage(prompt_tokens=_size(task.job)[0] // 4, completion_tokens=len(text.encode("utf-8", "surrogatepass")) // 4)

    def _settle(self, task: _Task) -> None:
        """The books of a call that failed or was cancelled: what had begun is counted by an estimate, what had not costs nothing."""
        if task.reservation is None:
            return
        usages = tuple(self._estimated(task, text) for text in task.call.partial or ("",)) if task.call.has_begun else ()
        costs = [cost_of(usage, self._prices(usage.prompt_tokens), with_prompt=not i) for i, usage in enumerate(usages)]
        task.reservation.settle(usages, None if None in costs else sum(cost for cost in costs if cost is not None))


def _size(job: Job) -> tuple[int, int]:
    """Bytes of all the text that a job sends, and how many images."""
    prompt = job.prompt
    texts = [prompt] if isinstance(prompt, str) else []
    n_images = 0
    for message in () if isinstance(prompt, str) else prompt:
        texts.append("        ")  # the marks of a turn
        for part in message.parts:
            if isinstance(part, ImagePart):
                n_images += 1
            elif isinstance(part, ToolCallPart):
                texts += [part.id, part.name, part.arguments]
            elif isinstance(part, ToolResultPart):
                texts += [part.id, part.text]
            else:
                texts.append(part.text)
    if isinstance(job, ChatJob):
        texts += [text for tool in job.tools for text in (tool.name, tool.description, tool.parameters)]
        texts.append(job.params.constraint.source if job.params.constraint else "")
    else:
        texts += job.choices
    return sum(len(text.encode("utf-8", "surrogatepass")) for text in texts), n_images


def _ignored(index: int, text: str) -> None:
    """No one follows it."""
