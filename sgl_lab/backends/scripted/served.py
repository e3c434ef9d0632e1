"""The common part of scripted backends: a script, a thread that answers step by step, and controls
for tests.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from ...contracts.errors import BadArgument, EngineStopped
from ...contracts.events import Emit
from ...contracts.ids import Counter, RequestId
from ...contracts.params import SamplingParams
from ...lang.ahead import first_stop
from .constraints import satisfies

Answer = str | Exception
Answers = Answer | Callable[[str], Answer] | Iterable[Answer] | Mapping[str, Answer]
Likes = Callable[[str, str], float | Sequence[float]]

request_ids = Counter()
J = TypeVar("J")
K = TypeVar("K")


class Listener(Protocol):
    """Of a job of either port. What it takes follows from the job."""

    @property
    def on_done(self) -> Callable[..., None]: ...

    def on_error(self, error: Exception) -> None: ...


class Trie(dict[int, "Trie"]):
    """Prefixes of token ids."""


@dataclass
class Sample:
    """One answer, decided when the request starts, and its progress."""

    text: str
    reason: str
    matched: str | int | None
    is_complete: bool | None = None
    n_given: int = 0

    @property
    def done(self) -> bool:
        return self.n_given >= len(self.text)

    def take(self) -> str:
        """The next character."""
        self.n_given += 1
        return self.text[self.n_given - 1]


@dataclass(eq=False)
class Running(Generic[J]):
    request: RequestId
    job: J
    listener: Listener
    n_cached: int = 0
    samples: list[Sample] = field(default_factory=list)
    n_steps: int = 0
    cancelled: bool = False


class Served(ABC, Generic[J]):
    """A step adds one character to each running request. A test may hold steps, release single
    ones, or let the backend die.
    """

    def __init__(self, answers: Answers, emit: Emit, held: bool) -> None:
        self.emit = emit
        self.jobs: list[J] = []
        """every accepted job, in order"""
        self.n_cancelled = 0
        self._answer = _chooser(answers)
        self._seen = Trie()
        self._changed = threading.Condition()
        self._waiting: list[Running[J]] = []
        self._running: list[Running[J]] = []
        self._n_allowed: int | None = 0 if held else None
        self._stopped: EngineStopped | None = None
        self._thread = threading.Thread(target=self._serve, name="sgl-scripted", daemon=True)
        self._thread.start()

    @abstractmethod
    def _advance(self, running: Running[J]) -> bool:
        """One step of one request. Returns whether it was its last."""

    # ------------------------------------------------------------ a test's hand

    def hold(self) -> None:
        """Hold all steps until `step` or `resume`."""
        with self._changed:
            self._n_allowed = 0

    def step(self, n: int = 1) -> None:
        """Allow `n` more steps."""
        with self._changed:
            self._n_allowed = (self._n_allowed or 0) + n
            self._changed.notify_all()

    def resume(self) -> None:
        with self._changed:
            self._n_allowed = None
            self._changed.notify_all()

    def close(self) -> None:
        """End the thread. Open requests fail with EngineStopped."""
        self._end(answer=True)

    def die(self) -> None:
        """End the thread silently, like an engine that crashed: only `poll` reports it."""
        self._end(answer=False)

    def _end(self, answer: bool) -> None:
        with self._changed:
            self._stopped = EngineStopped("the scripted backend was closed")
            left = self._waiting + self._running if answer else []
            self._waiting, self._running = [], []
            self._changed.notify_all()
        if threading.current_thread() is not self._thread:
            self._thread.join(10)
        for running in left:
            running.listener.on_error(self._stopped)

    def jobs_of(self, kind: type[K]) -> list[K]:
        return [job for job in self.jobs if isinstance(job, kind)]

    # ------------------------------------------------------------ what both ports have

    def cancel(self, request: RequestId) -> None:
        with self._changed:
            for running in self._waiting + self._running:
                if running.request == request and not running.cancelled:
                    running.cancelled = True
                    self.n_cancelled += 1
            self._changed.notify_all()

    def poll(self) -> None:
        if self._stopped:
            raise self._stopped

    def flush(self) -> None:
        with self._changed:
            self._seen.clear()

    def _accept(self, job: J, listener: Listener, queued: Callable[[RequestId], None]) -> RequestId:
        """Emit that the job was `queued`."""
        request = RequestId(request_ids.next())
        with self._changed:
            if self._stopped:
                raise self._stopped
            self.jobs.append(job)
            queued(request)
            self._waiting.append(Running(request, job, listener))
            self._changed.notify_all()
        return request

    # ------------------------------------------------------------ the thread

    def _serve(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(self._may_step)
                if self._stopped:
                    return
                self._running += self._waiting
                self._waiting = []
                # A hold stops steps; a cancelled request still ends.
                step = [running for running in self._running if running.cancelled]
                if not step:
                    step = list(self._running)
                    self._n_allowed = None if self._n_allowed is None else self._n_allowed - 1
            finished = [running for running in step if self._advance(running)]
            with self._changed:
                self._running = [running for running in self._running if running not in finished]

    def _may_step(self) -> bool:
        work = self._waiting + self._running
        return self._stopped is not None or any(running.cancelled for running in work) or (bool(work) and self._n_allowed != 0)

    def _begin(self, running: Running[J], prompt: str, params: SamplingParams) -> bool:
        """Decide the answers. Returns False if the script has no valid one; the request has then
        failed.
        """
        for _ in range(params.n):
            answer = self._answer(prompt)
            constraint = params.constraint
            if constraint is not None and isinstance(answer, str) and not satisfies(constraint, answer):
                answer = BadArgument(f"the script says {answer!r:.80}, which the {constraint.kind} forbids: {constraint.source:.200}")
            if isinstance(answer, Exception):
                running.listener.on_error(answer)
                return False
            running.samples.append(_sample(answer, params))
        return True

    def _remember(self, ids: Sequence[int]) -> int:
        """Keep the prefix. Returns how many of its tokens were known."""
        node, n_known = self._seen, 0
        for n, id in enumerate(ids, 1):
            if id in node:
                n_known = n
            node = node.setdefault(id, Trie())
        return n_known


def _sample(text: str, params: SamplingParams) -> Sample:
    """The part of `text` that is returned under these parameters: up to the first stop, at most
    `max_tokens` characters.
    """
    end, matched = first_stop(text, params) or (len(text), None)
    reason = "stop"
    if params.max_tokens is not None and end > params.max_tokens:
        end, matched, reason = params.max_tokens, None, "length"
    constraint = params.constraint
    return Sample(text[:end], reason, matched, None if constraint is None else satisfies(constraint, text[:end]))


def _chooser(answers: Answers) -> Callable[[str], Answer]:
    if isinstance(answers, str | Exception):
        return lambda prompt: answers
    if callable(answers):
        return answers
    if isinstance(answers, Mapping):
        return lambda prompt: answers[max(answers, key=prompt.rfind)] if answers else ""
    script: Iterator[Answer] = iter(answers)
    return lambda prompt: next(script, BadArgument("the script has no more answers"))
