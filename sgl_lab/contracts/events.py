"""Everything that happens, each said once, on the line that changes the state.

An event is a frozen dataclass whose fields are ints, floats, strings, None and (nested)
tuples of these, so that it survives JSON unchanged: `from_json(to_json(e)) == e`.
Time is not in an event: the ring stamps each one as it arrives (`Entry`).

Who says what:

    session       CellStarted, CellFinished, ModelLoaded
    lang          ForkOpened, ExprStarted, ExprFinished, StreamExtended, ForkJoined
    backend       RequestQueued                 (the one place where a request meets its fork)
    scheduler     PrefixMatched, RequestPreempted, DraftVerified, StepRan
    radix tree    NodeInserted, NodeSplit, NodeEvicted, Touched, LocksChanged
    engine        TokensSampled, RequestFinished, EngineFault
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

from .ids import ExprId, ForkId, Namespace, NodeId, RequestId, RunId

# ---------------------------------------------------------------- session


@dataclass(frozen=True, slots=True)
class CellStarted:
    run: RunId
    title: str
    source: str


@dataclass(frozen=True, slots=True)
class CellFinished:
    run: RunId
    status: str
    """ok, error or stopped"""
    message: str


@dataclass(frozen=True, slots=True)
class ModelLoaded:
    model: str
    namespace: Namespace
    device: str
    dtype: str
    n_pages: int
    page_size: int
    context: int
    """longest sequence in tokens"""


# ---------------------------------------------------------------- lang


@dataclass(frozen=True, slots=True)
class ForkOpened:
    """A stream was born. The root stream of a run has no parent; a child starts with its parent's tokens."""

    run: RunId
    fork: ForkId
    parent: ForkId | None
    index: int
    """position among its siblings, 0-based"""
    label: str


@dataclass(frozen=True, slots=True)
class ExprStarted:
    fork: ForkId
    expr: ExprId
    kind: str
    """gen or select"""
    name: str
    line: int
    """line in the user's cell, 1-based; 0 when unknown"""
    role: str = ""
    """of the turn it stands in: system, user, assistant or empty"""


@dataclass(frozen=True, slots=True)
class ExprFinished:
    fork: ForkId
    expr: ExprId
    status: str
    """ok, error or stopped"""
    value: str


@dataclass(frozen=True, slots=True)
class StreamExtended:
    """The stream's token ids from position `start` on are now `tokens`; what stood there before is gone.

    kind: text (literal), generated, choice (the option a select picked), trim (nothing new, the end cut off).
    """

    fork: ForkId
    start: int
    tokens: tuple[int, ...]
    kind: str
    role: str
    """system, user, assistant, tool or empty"""
    n_healed: int = 0
    """the first so many of them, and no more of what follows, spell again what `healed` spelled: a seam"""
    healed: tuple[int, ...] = ()
    """tokens that stood at `start` until now"""


@dataclass(frozen=True, slots=True)
class ForkJoined:
    parent: ForkId
    children: tuple[ForkId, ...]
    mode: str


# ---------------------------------------------------------------- backend


@dataclass(frozen=True, slots=True)
class RequestQueued:
    request: RequestId
    fork: ForkId | None
    expr: ExprId | None
    kind: str
    """gen, score or warm"""
    prompt: tuple[int, ...]
    max_tokens: int
    group: RequestId
    """the first request of a family (n > 1 samples, choices of a select); itself for a single one"""
    reusable: int | None = None
    """how many leading tokens of the prompt may come from a cache, the others being computed in any case; None where nobody says"""


# ---------------------------------------------------------------- scheduler


@dataclass(frozen=True, slots=True)
class PrefixMatched:
    """A request was admitted: `n_hit` of its `n_prompt` tokens are taken from the tree.

    `n_prompt` counts everything that must be in KV before the next token is sampled: after a
    preemption it includes what had been generated.
    """

    request: RequestId
    n_hit: int
    n_prompt: int
    node: NodeId


@dataclass(frozen=True, slots=True)
class RequestPreempted:
    request: RequestId
    n_released: int
    """tokens whose KV has to be computed again, or found in the tree"""


@dataclass(frozen=True, slots=True)
class DraftVerified:
    """Of `n_drafted` guesses at a request's next tokens the first `n_accepted` were drawn; the others were computed in vain."""

    request: RequestId
    source: str
    """tree (what followed the same sequence), ngram (what followed the same few tokens) or seam (the end of the prompt as it was)"""
    n_drafted: int
    n_accepted: int


@dataclass(frozen=True, slots=True)
class StepRan:
    step: int
    prefill: tuple[tuple[RequestId, int], ...]
    """(request, prompt tokens computed in this step)"""
    decode: tuple[RequestId, ...]
    n_waiting: int
    free_pages: int
    ms: float


# ---------------------------------------------------------------- radix tree


@dataclass(frozen=True, slots=True)
class NodeInserted:
    """A new leaf, without leases or hits; it was born, and last used, at the clock of the latest Touched.

    The root of a namespace has no parent, no tokens, and carries the namespace; it is never evicted.
    """

    node: NodeId
    parent: NodeId | None
    tokens: tuple[int, ...]
    namespace: Namespace


@dataclass(frozen=True, slots=True)
class NodeSplit:
    """`upper` was put between `node` and its parent and took the first `n_upper` tokens of `node`.

    `node` keeps its id, its children and its leases; `upper` inherits its refs, birth, last use and hits.
    """

    node: NodeId
    upper: NodeId
    n_upper: int


@dataclass(frozen=True, slots=True)
class NodeEvicted:
    node: NodeId
    n_tokens: int


@dataclass(frozen=True, slots=True)
class Touched:
    """These nodes were hit: last use becomes `clock`, hits go up by one."""

    nodes: tuple[NodeId, ...]
    clock: int


@dataclass(frozen=True, slots=True)
class LocksChanged:
    """Net change of a step: (node, leases on it or below it now)."""

    refs: tuple[tuple[NodeId, int], ...]


# ---------------------------------------------------------------- engine


class Sample(NamedTuple):
    """One token that was said: drawn, or forced."""

    request: RequestId
    token: int
    logprob: float | None
    """None if it was forced, or took the place of a draw that came too late for a whole text"""
    top: tuple[tuple[int, float], ...]
    """(token, logprob), best first; empty unless asked for"""
    n_allowed: int | None
    """tokens a constraint allowed here; None without a constraint"""
    forced: bool
    """a constraint left no choice, so it was not drawn and has no logprob here"""
    drafted: bool = False
    """it was guessed, and computed before it was drawn"""


@dataclass(frozen=True, slots=True)
class TokensSampled:
    step: int
    samples: tuple[Sample, ...]


@dataclass(frozen=True, slots=True)
class RequestFinished:
    """Counts of one request: `n_cached + n_computed == n_prompt + n_completion - 1 + n_rejected` for a gen that ran to its end.

    Forced samples after the last one that is none have to be taken off the right side: no step computed them.
    """

    request: RequestId
    reason: str
    """stop, length, abort or error"""
    n_prompt: int
    n_completion: int
    n_cached: int
    n_computed: int
    n_steps: int
    n_drafted: int = 0
    n_rejected: int = 0


@dataclass(frozen=True, slots=True)
class EngineFault:
    request: RequestId | None
    message: str


Event = (
    CellStarted
    | CellFinished
    | ModelLoaded
    | ForkOpened
    | ExprStarted
    | ExprFinished
    | StreamExtended
    | ForkJoined
    | RequestQueued
    | PrefixMatched
    | RequestPreempted
    | DraftVerified
    | StepRan
    | NodeInserted
    | NodeSplit
    | NodeEvicted
    | Touched
    | LocksChanged
    | TokensSampled
    | RequestFinished
    | EngineFault
)

Emit = Callable[[Event], None]


def silent(event: Event) -> None:
    """The default listener."""


class Entry(NamedTuple):
    """An event as the ring keeps it: its number (from 0, without gaps) and when it was said."""

    seq: int
    t_ns: int
    """nanoseconds of a monotonic clock since the ring was made"""
    event: Event


# ---------------------------------------------------------------- JSON

KINDS: dict[str, type[Any]] = {kind.__name__: kind for kind in Event.__args__}


def _plain(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value


def _frozen(value: Any) -> Any:
    return tuple([_frozen(item) if isinstance(item, list) else item for item in value]) if isinstance(value, list) else value


def to_dict(event: Event) -> dict[str, Any]:
    """Plain JSON values: `event` names the kind, the rest are the fields."""
    return {"event": type(event).__name__} | {f.name: _plain(getattr(event, f.name)) for f in fields(event)}


def from_dict(data: dict[str, Any]) -> Event:
    """The event that `to_dict` wrote. ValueError on an unknown kind or on missing or extra fields."""
    kind = KINDS.get(str(data.get("event")))
    if kind is None:
        raise ValueError(f"unknown event {data.get('event')!r}")
    given = {name: _frozen(value) for name, value in data.items() if name != "event"}
    if kind is TokensSampled and isinstance(given.get("samples"), tuple):
        given["samples"] = tuple(Sample(*sample) for sample in given["samples"])
    try:
        event: Event = kind(**given)
    except TypeError as error:
        raise ValueError(f"malformed {kind.__name__}: {error}") from None
    return event


def to_json(event: Event) -> str:
    return json.dumps(to_dict(event), separators=(",", ":"), allow_nan=False)


def from_json(text: str) -> Event:
    return from_dict(json.loads(text))
