"""Everything that happens, emitted once, on the line that changes the state.

An event is a frozen dataclass. Its fields are ints, floats, strings, None and (nested) tuples of
these, so that it survives JSON unchanged: `from_json(to_json(e)) == e`. An event contains no time:
the ring stamps each one on arrival (`Entry`). Negative token ids are positions of embedded blocks
(`contracts.spans`); of an engine behind an API, ids are pieces of text (`contracts.pieces`).

Events by emitter:

    session       CellStarted, CellFinished, ModelLoaded
    cell          GridOpened, RowStarted, RowFinished   (of a cell that runs over data)
    lang          ForkOpened, ExprStarted, ExprAsked, ExprFinished, StreamExtended, ForkJoined,
                  Checked
    lang's graphs GraphStarted, NodesEntered    (of a compiled program)
    lang, backend TextArrived, RequestAnswered  (of an engine behind an API: of one that is sent
                  messages the language emits them, of one that is sent tokens the backend)
    backend       RequestQueued                 (the only event that links a request to its fork),
                  ForksEnded
    scheduler     PrefixMatched, RequestPreempted, DraftVerified, StepRan
    radix tree    NodeInserted, NodeSplit, NodeEvicted, Touched, LocksChanged
    engine        TokensSampled, ExpertsChosen, RequestFinished, EngineFault
    explore       ExplorationOpened, BranchChanged

`LocksChanged` comes once a step, with the net changes only, because single changes would flood the
stream. `TokensSampled` comes once a step: request, token, logprob, top-k, n_allowed, forced, drafted.
`StreamExtended` defines a fork's tokens: those from position `start` on are replaced by its own. It
also expresses a template that rewrites history, a stop that trims, and a choice that is picked. Of an
engine behind an API no step is seen: views show the time until the first text, and from then on.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import NamedTuple

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


# ---------------------------------------------------------------- cell


@dataclass(frozen=True, slots=True)
class GridOpened:
    """The run executes its body for each of some rows: those of one version and one model that have
    no result yet.
    """

    run: RunId
    name: str
    version: int
    """of the body under that name, from 1"""
    key: str
    """digest of the body, its options and the values that it reads"""
    model: str
    n_rows: int
    n_kept: int
    """rows whose results of an earlier run still hold"""


@dataclass(frozen=True, slots=True)
class RowStarted:
    run: RunId
    row: int
    """position in the data, from 0"""
    key: str
    """digest of the row; of equal rows each has its own"""
    given: tuple[tuple[str, str], ...]
    """its columns, and their values as text"""
    fork: ForkId | None
    """the root stream of its program; None if the body cannot run"""


@dataclass(frozen=True, slots=True)
class RowFinished:
    run: RunId
    row: int
    status: str
    """ok, error or stopped"""
    value: str
    """of the body's last expression, as text"""
    message: str
    line: int
    """of the cell, where it failed; 0 if that is unknown"""


# ---------------------------------------------------------------- lang


@dataclass(frozen=True, slots=True)
class ForkOpened:
    """A stream was created. The root stream of a run has no parent; a child starts with its
    parent's tokens.
    """

    run: RunId
    fork: ForkId
    parent: ForkId | None
    index: int
    """position among its siblings, 0-based"""
    label: str
    within: ForkId | None = None
    """of a root, the root of the program whose body started this one; None if none did"""


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
    """of its turn: system, user, assistant or empty"""


@dataclass(frozen=True, slots=True)
class ExprAsked:
    """What a gen or select is about to ask of its backend, after all defaults."""

    fork: ForkId
    expr: ExprId
    before: str
    """the end of the program's own text directly before it; empty after markup or generated text"""
    heals: bool | None
    """whether the end of that text may merge with what follows (`GenJob.heal`); None without tokens"""
    n: int = 1
    temperature: float = 0.0
    max_tokens: int | None = None
    has_limit: bool = True
    """whether the program or its run set `max_tokens`; False for the default of the language"""
    stop: tuple[str, ...] = ()
    """the program's own, without those of a chat template"""
    constraint: str = ""
    """its kind (`params.Constraint`); empty without one"""
    source: str = ""
    lead: str = ""


@dataclass(frozen=True, slots=True)
class ExprFinished:
    fork: ForkId
    expr: ExprId
    status: str
    """ok, error or stopped"""
    value: str
    is_complete: bool | None = None
    """whether the value is a complete text of its constraint; None without one"""


@dataclass(frozen=True, slots=True)
class StreamExtended:
    """The stream's token ids from position `start` on are now `tokens`; earlier ones there are
    replaced.

    kind: text (literal), block (`contracts.spans`), generated, choice (the option that a select
    picked), trim (no new tokens, the end is cut off).
    """

    fork: ForkId
    start: int
    tokens: tuple[int, ...]
    kind: str
    role: str
    """system, user, assistant, tool or empty"""
    n_healed: int = 0
    """number of leading tokens that, alone or with the text after it, spell the text of `healed`
    again: a seam
    """
    healed: tuple[int, ...] = ()
    """tokens that were at `start` until now"""


@dataclass(frozen=True, slots=True)
class Checked:
    """A program expected something of a value."""

    fork: ForkId
    """the root stream of the program"""
    name: str
    kind: str
    """truth, equals, contains, regex, schema, predicate or judge"""
    passed: bool | None
    """None if the check itself raised"""
    value: str
    expected: str
    message: str
    """why it did not pass"""
    line: int
    judge: ForkId | None = None
    """the root stream of the program that decided"""


@dataclass(frozen=True, slots=True)
class ForksEnded:
    """No request of these streams will come any more, as far as the program knows: what they left
    in the cache is not waited for. A request that comes all the same makes its stream go on.
    """

    forks: tuple[ForkId, ...]
    is_all: bool
    """whether they are all streams of a program; False for children that were joined"""
    batch: int = 0
    """of which no item will come any more; 0: none"""


@dataclass(frozen=True, slots=True)
class ForkJoined:
    parent: ForkId
    children: tuple[ForkId, ...]
    mode: str


class GraphNode(NamedTuple):
    """A node of a dataflow graph as views show it: neighbouring literal texts are one."""

    kind: str
    """text, read (text of the model), gen, select, warm, opens (fork, program inside) or other"""
    strand: int
    label: str
    """a few words"""
    words: str
    """what the program says there, cut if it is long"""
    after: tuple[int, ...]
    """the nodes before it: on its strand, or where its strand begins"""
    reads: tuple[int, ...]
    """nodes whose results it reads"""


@dataclass(frozen=True, slots=True)
class GraphStarted:
    """A compiled program begins. Nothing of its Python runs."""

    run: RunId
    execution: int
    graph: int
    """the execution with the same graph that began first; it carries the nodes"""
    name: str
    nodes: tuple[GraphNode, ...]
    """in the program's order; empty if `graph` is another execution"""


@dataclass(frozen=True, slots=True)
class NodesEntered:
    """These nodes are given to a stream, in this order. Each is done when the stream has passed it:
    a gen or select with its ExprFinished, everything else as soon as those before it are.
    """

    execution: int
    nodes: tuple[int, ...]
    fork: ForkId


# ---------------------------------------------------------------- backend


class Again(NamedTuple):
    """What later items of a batch read of a prompt."""

    n_tokens: int
    """leading tokens of the prompt"""
    next: int
    """the place that reads them next"""
    last: int
    """the last place that does"""


class InBatch(NamedTuple):
    """A request in the timeline of its batch. A place is a step of an item; items that run at once
    have the same places.
    """

    batch: int
    place: int
    again: tuple[Again, ...] = ()


class Foreseen(NamedTuple):
    """What a traced program knows of a request, in its own steps: a step is a gen or select after
    all that it waits for.
    """

    program: RunId
    step: int
    """of the request"""
    next: int
    """the step that reads again what it leaves in the cache; 0: none does"""
    n_after: int
    """steps that wait for it, one after the other"""
    in_batch: InBatch | None = None


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
    """the first request of a group (n > 1 samples, choices of a select); the request itself if it
    is single
    """
    reusable: int | None = None
    """leading tokens of the prompt that may come from a cache; the others are computed in any case.
    None if it is not specified
    """
    is_elsewhere: bool = False
    """whether its engine is behind an API, which reports counts (RequestAnswered) and no steps; a
    prompt in pieces of text always goes to one
    """
    goes_on: bool = False
    """whether its stream may ask again, until ForksEnded; False if that is not known"""
    foreseen: Foreseen | None = None
    """of a traced program"""
    choices: tuple[tuple[int, ...], ...] = ()
    """of the first request of a score: the tokens of each choice after its first `reusable + 1` ones"""


# ---------------------------------------------------------------- scheduler


@dataclass(frozen=True, slots=True)
class PrefixMatched:
    """A request was admitted: `n_hit` of its `n_prompt` tokens are taken from the tree.

    `n_prompt` counts everything that must be in KV before the next token is sampled. After a
    preemption it includes the tokens generated so far.
    """

    request: RequestId
    n_hit: int
    n_prompt: int
    node: NodeId


@dataclass(frozen=True, slots=True)
class RequestPreempted:
    request: RequestId
    n_released: int
    """tokens whose KV has to be computed again or found in the tree"""


@dataclass(frozen=True, slots=True)
class DraftVerified:
    """Of `n_drafted` draft tokens of a request the first `n_accepted` were drawn. The others were
    rejected.
    """

    request: RequestId
    source: str
    """tree (what followed the same sequence), ngram (what followed the same few tokens) or seam
    (the original end of the prompt)
    """
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
    """A new leaf, without leases or hits. Its birth and last use are the clock of the latest
    Touched.

    The root of a namespace has no parent and no tokens, and carries the namespace. It is never
    evicted.
    """

    node: NodeId
    parent: NodeId | None
    tokens: tuple[int, ...]
    namespace: Namespace


@dataclass(frozen=True, slots=True)
class NodeSplit:
    """`upper` was inserted between `node` and its parent and took the first `n_upper` tokens of
    `node`.

    `node` keeps its id, its children and its leases; `upper` inherits its refs, birth, last use and
    hits.
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
    """These nodes were hit: their last use becomes `clock`, and their hits increase by one."""

    nodes: tuple[NodeId, ...]
    clock: int


@dataclass(frozen=True, slots=True)
class LocksChanged:
    """Net change of a step: (node, current leases on it or below it)."""

    refs: tuple[tuple[NodeId, int], ...]


# ---------------------------------------------------------------- engine


class Sample(NamedTuple):
    """One generated token: drawn or forced."""

    request: RequestId
    token: int
    logprob: float | None
    """None if it was forced, or replaced a draw that would have left too few tokens for a complete
    text
    """
    top: tuple[tuple[int, float], ...]
    """(token, logprob), best first; empty unless requested"""
    n_allowed: int | None
    """tokens that a constraint allowed here; None without a constraint"""
    forced: bool
    """whether a constraint left no choice, so that it was not drawn and has no logprob here"""
    drafted: bool = False
    """whether it was drafted, and computed before it was drawn"""


@dataclass(frozen=True, slots=True)
class TokensSampled:
    step: int
    samples: tuple[Sample, ...]


@dataclass(frozen=True, slots=True)
class ExpertsChosen:
    """The experts through which the tokens of a step passed, in a model that has some.

    Of each token `top_k` experts a layer are written as characters, `chr(FIRST_EXPERT + number)`,
    the one with the largest weight first: all of its first such layer, then of the next. Rejected
    drafts are left out.
    """

    step: int
    count: int
    """experts of a layer"""
    top_k: int
    layers: tuple[int, ...]
    """the layers that have experts"""
    chosen: tuple[tuple[RequestId, int, str], ...]
    """(request, position of the first token, experts of this and the following tokens)"""


FIRST_EXPERT = 48
"""so that the first ten are written as digits"""


@dataclass(frozen=True, slots=True)
class RequestFinished:
    """Counts of one request: `n_cached + n_computed == n_prompt + n_completion - 1 + n_rejected`
    for a gen that ran to its end.

    Forced samples after the last drawn one are subtracted from the right side: no step computed
    them.
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


# ---------------------------------------------------------------- of an engine behind an API


@dataclass(frozen=True, slots=True)
class TextArrived:
    """A part of an answer came: pieces of text (`contracts.pieces`), or tokens where the prompt is
    in tokens.
    """

    request: RequestId
    index: int
    """which of several samples"""
    samples: tuple[Sample, ...]
    is_whole: bool = False
    """whether these are all of the answer, in place of what came before"""


@dataclass(frozen=True, slots=True)
class RequestAnswered:
    """The end of a request, and what the engine reports of it. What it does not report is None."""

    request: RequestId
    reason: str
    """stop, length, abort, error, or a word of the server's own"""
    n_prompt: int
    """tokens, as the server counts them"""
    n_completion: int
    """of all samples"""
    n_cached: int | None
    cost: float | None
    """None if a price is unknown"""
    currency: str


# ---------------------------------------------------------------- explore


class PromptPiece(NamedTuple):
    """A part of an explored prompt that one line of the program appended."""

    start: int
    n: int
    """tokens from `start` on"""
    role: str
    kind: str
    """text (literal), ids (tokens by their ids) or template"""


@dataclass(frozen=True, slots=True)
class ExplorationOpened:
    """A gen of another run, as it was when it was opened: what branches begin from. A later one of the
    same exploration replaces the first.
    """

    run: RunId
    """of the exploration"""
    of: str
    """title of the run that has the gen"""
    name: str
    """of the gen, preceded by the forks that contain it"""
    prompt: tuple[int, ...]
    pieces: tuple[PromptPiece, ...]
    answer: tuple[Sample, ...]
    request: RequestId | None = None
    """of a gen that still runs: what it samples from here on belongs to the answer"""


@dataclass(frozen=True, slots=True)
class BranchChanged:
    """A branch was opened or changed. Its prompt and its tokens are those of the requests of `fork`."""

    run: RunId
    branch: int
    """number in its exploration, from 1"""
    fork: ForkId
    parent: int
    """the branch that it left; 0 is the explored answer"""
    how: str
    """token (an alternative was chosen), more (sampled again from there) or edit (of the prompt)"""
    forced: tuple[int, ...]
    """the first tokens of its answer: kept from the parent or chosen, not drawn"""
    label: str
    is_pinned: bool
    is_deleted: bool
    temperature: float
    seed: int | None
    piece: int | None
    """the piece of the prompt that was edited"""
    text: str
    """its new text"""


Event = (
    CellStarted
    | CellFinished
    | ModelLoaded
    | GridOpened
    | RowStarted
    | RowFinished
    | ForkOpened
    | ExprStarted
    | ExprAsked
    | ExprFinished
    | StreamExtended
    | ForkJoined
    | GraphStarted
    | NodesEntered
    | Checked
    | ForksEnded
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
    | ExpertsChosen
    | RequestFinished
    | EngineFault
    | TextArrived
    | RequestAnswered
    | ExplorationOpened
    | BranchChanged
)

Emit = Callable[[Event], None]


def silent(event: Event) -> None:
    """The default listener; does nothing."""


class Entry(NamedTuple):
    """An event in the ring, with its number (from 0, without gaps) and its time."""

    seq: int
    t_ns: int
    """nanoseconds of a monotonic clock since the ring was made"""
    event: Event


# ---------------------------------------------------------------- JSON

KINDS: dict[str, type[Event]] = {kind.__name__: kind for kind in Event.__args__}


def _plain(value: object) -> object:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value


def _frozen(value: object) -> object:
    return tuple([_frozen(item) if isinstance(item, list) else item for item in value]) if isinstance(value, list) else value


def to_dict(event: Event) -> dict[str, object]:
    """Plain JSON values: `event` is the kind, the others are the fields."""
    return {"event": type(event).__name__} | {f.name: _plain(getattr(event, f.name)) for f in fields(event)}


def from_dict(data: Mapping[str, object]) -> Event:
    """The event that `to_dict` wrote. ValueError on an unknown kind or on missing or extra fields."""
    kind = KINDS.get(str(data.get("event")))
    if kind is None:
        raise ValueError(f"unknown event {data.get('event')!r}")
    given: dict[str, object] = {name: _frozen(value) for name, value in data.items() if name != "event"}
    if kind in (TokensSampled, TextArrived) and isinstance(samples := given.get("samples"), tuple):
        given["samples"] = tuple(Sample(*sample) for sample in samples)
    if kind is RequestQueued and isinstance(foreseen := given.get("foreseen"), tuple):
        given["foreseen"] = _foreseen(*foreseen)
    if kind is ExplorationOpened and isinstance(pieces := given.get("pieces"), tuple) and isinstance(answer := given.get("answer"), tuple):
        given["pieces"] = tuple(PromptPiece(*piece) for piece in pieces)
        given["answer"] = tuple(Sample(*sample) for sample in answer)
    if kind is GraphStarted and isinstance(nodes := given.get("nodes"), tuple):
        given["nodes"] = tuple(GraphNode(*node) for node in nodes)
    try:
        make: Callable[..., Event] = kind
        event = make(**given)
    except TypeError as error:
        raise ValueError(f"malformed {kind.__name__}: {error}") from None
    return event


def _foreseen(
    program: RunId, step: int, following: int, n_after: int, in_batch: tuple[int, int, tuple[tuple[int, int, int], ...]] | None = None
) -> Foreseen:
    batched = None if in_batch is None else InBatch(*in_batch[:2], tuple(Again(*each) for each in in_batch[2]))
    return Foreseen(program, step, following, n_after, batched)


def to_json(event: Event) -> str:
    return json.dumps(to_dict(event), separators=(",", ":"), allow_nan=False)


def from_json(text: str) -> Event:
    return from_dict(json.loads(text))
