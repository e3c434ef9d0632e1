"""A request group: the requests of one job, and their progress.

A group processes the results of its rows and determines when and how to answer its listener. It
knows nothing of pages, plans or threads.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator
from functools import partial
from typing import Any, NamedTuple, Protocol

from ...contracts.events import Sample
from ...contracts.ids import Counter, RequestId
from ...contracts.port import Usage
from ...grammar.grammars import Spelling
from ..plan import Row, RowOutput
from .scheduling.request import Request

_request_ids = Counter()

Answer = Callable[[], None]
"""A call of a listener, made when the step is over."""


class Deferring(Protocol):
    """A listener that calls another one on another thread, where the answer is also built."""

    def deliver(self, call: Callable[[Any], None]) -> None:
        """Have `call` called with the listener."""


def to(listener: object, call: Callable[[Any], None]) -> Answer:
    """`call` with the listener, on its own thread where it has one."""
    deliver: Callable[[Callable[[Any], None]], None] | None = getattr(listener, "deliver", None)  # a tenth of the time of isinstance
    return partial(call, listener) if deliver is None else partial(deliver, call)


class Vocabulary(Spelling, Protocol):
    """The engine's interface of a tokenizer. `eos_ids` end a gen unless it ignores them."""


class Accepted(NamedTuple):
    """The effect of a row's result on its request."""

    reason: str | None = None
    """of its end"""
    samples: tuple[Sample, ...] = ()
    """the tokens that the request has from here on"""
    n_kept: int = 0
    """the first of them whose KV the row computed, as accepted drafts"""


Following = Generator[None, None, Accepted]
"""Work on a row along a user's pattern. It yields before what could cost more than its thread's
bound, and may be continued on another thread.
"""


class RequestGroup(ABC):
    """`requests[0].id` names the group."""

    requests: tuple[Request, ...]
    follows_pattern = False
    """A user's pattern or constraint is followed: by `begin`, and by `follow` in place of `accept`."""
    is_bounded = True
    """`begin` and `follow` keep to their thread's bound, so that they may be begun on the engine's
    thread.
    """

    @property
    def id(self) -> RequestId:
        return self.requests[0].id

    def begin(self, request: Request, now: float) -> Following:
        """The tokens that `request` has before it has run."""
        return Accepted()
        yield

    @abstractmethod
    def accept(self, request: Request, row: Row, output: RowOutput, now: float) -> Accepted:
        """Process the result of a row."""

    def follow(self, request: Request, row: Row, output: RowOutput, now: float) -> Following:
        """As `accept`, along the pattern."""
        return self.accept(request, row, output, now)
        yield

    @abstractmethod
    def progress(self, request: Request) -> Answer | None:
        """The call of the listener with the progress of a running request; None without progress."""

    def close(self, request: Request, reason: str) -> str:
        """No more rows will come for `request`; returns the reason of its end as it turns out to be."""
        return reason

    @abstractmethod
    def finished(self, request: Request, reason: str, now: float) -> Answer | None:
        """One request is over; returns the answer when it was the last one."""

    @abstractmethod
    def failed(self, error: Exception) -> Answer:
        """The answer when one request failed; the others are then dropped."""


def new_request_id() -> RequestId:
    return RequestId(_request_ids.next())


def prompt_done(request: Request, row: Row) -> Accepted:
    """A request that draws nothing is over when its prompt is computed."""
    return Accepted("length" if row.start + len(row.tokens) == len(request.prompt) else None)


def usage_of(request: Request, now: float, n_prompt: int) -> Usage:
    return Usage(
        prompt_tokens=n_prompt + request.n_healed,
        completion_tokens=len(request.generated) - request.n_healed,
        cached_tokens=request.n_cached,
        computed_tokens=request.n_computed,
        forced_tokens=request.n_forced,
        drafted_tokens=request.n_drafted,
        accepted_tokens=request.n_drafted - request.n_rejected,
        rejected_tokens=request.n_rejected,
        model_steps=request.n_steps,
        preemptions=request.n_preemptions,
        queue_s=seconds_since(request.submitted, request.admitted, now),
        first_token_s=seconds_since(request.submitted, request.first_token, now),
        total_s=now - request.submitted,
    )


def seconds_since(submitted: float, then: float | None, now: float) -> float:
    return (now if then is None else then) - submitted
