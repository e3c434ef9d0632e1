"""What every engine behind an API that takes messages has in common.

A vendor's class says what the API offers (its card), and how a job becomes a request and a response
an answer: `_converse`, and `_decide` where the API decides. Both run on a thread of this room with
a `Call`. All else is done here and in `jobs.py`: threads, limits, deadlines, retries, budget, cost,
answers on disk, events, errors without keys. It knows no vendor.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from os import PathLike
from typing import cast

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
from ...contracts.errors import BackendUnsupported, RequestFailed, SglError, Stopped
from ...contracts.events import Emit, RequestQueued
from ...contracts.ids import RequestId
from ...contracts.params import Constraint, SamplingParams
from ...contracts.port import ModelCard, Usage
from ...contracts.tree import TreeSnapshot
from ...lang.backend.base_backend import BaseConversation
from ..trees.inferred import InferredTree
from ..trees.rules import rules_of
from ..trees.shadow import Shadow
from .answers import Answers
from .call import Call
from .endpoint import Endpoint
from .jobs import CallOptions, RemoteJobs, Task
from .prices import Listed, find_prices, most_of
from .stops import PastStops, Stops

Job = ChatJob | DecisionJob
Outcome = tuple[ChatOutput, ...] | DecisionOutput


class Options(CallOptions, total=False):
    """What the constructor of each of these backends takes besides what is its own."""

    cache: str | PathLike[str] | Answers
    """a folder where answers are kept, and found again"""


@dataclass(eq=False, kw_only=True)
class _Task(Task):
    job: Job
    listener: ChatListener | DecisionListener
    stops: Stops = field(default_factory=lambda: Stops(SamplingParams()))


class RemoteBackend(RemoteJobs[_Task, Outcome], BaseConversation, ABC):
    """A backend that calls a server.

    server     the server and its key (`find_endpoint`)
    card       its model and what it offers; prices and context are filled in from the table where
               the card has none
    options    see `Options`

    A subclass writes `_converse`, `_decide` if its capabilities say that choices are "decided" or
    by the "first token", and `_prepare` if it cannot follow every constraint of the kinds that it
    names. It sends through `client`, which keeps the deadlines and carries the key.
    """

    takes = Options
    mode = ""
    """of a class with several APIs, the one that it uses; answers on disk differ by it"""

    def __init__(self, server: Endpoint, card: ModelCard, options: Options) -> None:
        super().__init__(server, options, card.name)
        cache = options.get("cache")
        self.answers = cache if isinstance(cache, Answers) or cache is None else Answers(cache)
        self._be(card, options)

    def _be(self, card: ModelCard, options: Options) -> None:
        """Have this card, with what the table of prices knows. Other servers than the provider's
        have the prices that their user gives."""
        self.listed = find_prices(self.server.provider.name, card.name) if self.server.is_own else None
        if "prices" in options:
            listed = self.listed or Listed(options["prices"])
            self.listed = Listed(options["prices"], listed.context, listed.max_output, can=listed.can)
        if self.listed is not None:
            card = replace(card, capabilities=replace(card.capabilities, prices=self.listed.prices))
        self._card, self._name = card, card.name

    # ------------------------------------------------------------ for a vendor to write

    @abstractmethod
    def _converse(self, job: ChatJob, call: Call) -> tuple[ChatOutput, ...]:
        """Ask the server; stream to `call.delta(index, text)`. Of `Usage` fill the token counts;
        times and cost are added here.

        Raise whatever the SDK raises: `_fault` maps it. Raise `Unended` for a stream without its
        end, `Refused` for an error in it.
        """

    def _decide(self, job: DecisionJob, call: Call) -> DecisionOutput:
        raise self._card.capabilities.missing("choices", self._card.name)

    def _prepare(self, constraint: Constraint) -> None:
        """BackendUnsupported or BadArgument for a constraint that the API cannot follow, although
        it follows others of its kind."""

    def _refuse(self, job: Job) -> None:
        """BackendUnsupported or BadArgument for a job that the API cannot do, beyond what the
        capabilities tell."""

    def _about(self) -> dict[str, object]:
        """What decides an answer beside the job."""
        return {"class": type(self).__name__, "mode": self.mode, "url": self.server.base_url, "model": self._card.name}

    def rewind(self) -> None:
        """A cell begins: a call that it makes again finds the answer on disk that it had the last time."""
        if self.answers is not None:
            self.answers.rewind()

    # ------------------------------------------------------------ the tree of its cache

    tree: InferredTree | None = None

    @property
    def has_tree(self) -> bool:
        """Whether a tree of the server's cache is inferred: somebody listens, and the server counts
        cached tokens."""
        return self.tree is not None

    def shadowed(self, emit: Emit) -> Emit:
        """For a lab: `emit`, which also receives the events of the inferred tree."""
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
        self._card.capabilities.check_constraint(constraint, self._card.name)
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
        if self._card.capabilities.choices not in ("decided", "first token"):
            raise self._card.capabilities.missing("choices", self._card.name)
        return self._accept(job, listener, "score", 0)

    # ------------------------------------------------------------ a job

    def _accept(self, job: Job, listener: ChatListener | DecisionListener, kind: str, max_tokens: int) -> RequestId:
        check_prompt(job.prompt, self._card.capabilities, self._card.name)
        self._refuse(job)
        task = _Task(self._new_call(), time.monotonic(), job=job, listener=listener)
        request = task.call.request
        if isinstance(job, ChatJob) and not job.tools:
            task.stops = Stops(job.params)
            task.call.hears(lambda index, text: self._grew(task, index, text))
        return self._start(task, RequestQueued(request, job.fork, job.expr, kind, job.shown, max_tokens, request))

    def _grew(self, task: _Task, index: int, text: str) -> None:
        with self._lock:
            if task.is_answered:
                return
        if certain := task.stops.push(index, text):
            cast(ChatListener, task.listener).on_delta(index, certain)
        if task.stops.is_over:
            raise PastStops

    def _outcome(self, task: _Task) -> Outcome:
        """From the disk, or from the server."""
        if self.answers is None:
            return super()._outcome(task)
        key = self.answers.key(task.job, self._about())
        if (found := self.answers.find(key)) is not None:
            task.call.check()
            return self._replayed(task, found)
        outcome = super()._outcome(task)
        self.answers.keep(key, outcome)
        return outcome

    def _perform(self, task: _Task) -> Outcome:
        if isinstance(task.job, DecisionJob):
            return self._decide(task.job, task.call)
        try:
            return tuple(map(task.stops.cut, self._converse(task.job, task.call)))
        except PastStops:
            return task.stops.outputs(self._estimated(task, text) for text in task.call.partial)

    def _replayed(self, task: _Task, found: Outcome) -> Outcome:
        """What the disk had: as it was, for nothing."""
        if not isinstance(found, DecisionOutput):
            for index, output in enumerate(found):
                task.call.delta(index, output.text)
        return self._with_usages(found, tuple(replace(usage, cost=0.0) for usage in self._usages(found)))

    # ------------------------------------------------------------ the answer

    def _deliver(self, task: _Task, outcome: Outcome | SglError) -> None:
        job, listener, partial = task.job, task.listener, tuple(map(task.stops.before, task.call.partial))
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
            for index in range(len(outcome)):
                if rest := task.stops.rest(index):
                    cast(ChatListener, listener).on_delta(index, rest)
            cast(ChatListener, listener).on_done(outcome)

    # ------------------------------------------------------------ counts and cost

    def _usages(self, outcome: Outcome) -> tuple[Usage, ...]:
        return (outcome.usage,) if isinstance(outcome, DecisionOutput) else tuple(output.usage for output in outcome)

    def _with_usages(self, outcome: Outcome, usages: tuple[Usage, ...]) -> Outcome:
        if isinstance(outcome, DecisionOutput):
            return replace(outcome, usage=usages[0])
        return tuple(replace(output, usage=usage) for output, usage in zip(outcome, usages, strict=True))

    def _at_most(self, task: _Task) -> float | None:
        return self._most(task.job)

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

    def _used(self, task: _Task) -> tuple[Usage, ...]:
        return tuple(self._estimated(task, text) for text in task.call.partial or ("",))

    def _estimated(self, task: _Task, text: str) -> Usage:
        """Of a call that ended before the server counted: a token for four bytes."""
        if not task.call.has_begun:
            return Usage()
        return Usage(prompt_tokens=_size(task.job)[0] // 4, completion_tokens=len(text.encode("utf-8", "surrogatepass")) // 4)


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
