"""The history of all recorded runs, request by request: what was requested and what the cache kept.

It is a fold of the entries of all records of one ring, and of the other entries that the ring still
holds. For stretches without a recording, the snapshot at the beginning of the next run shows what
changed in the tree. Knows no tokenizer and no policy.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from ...contracts.events import (
    Entry,
    ExprStarted,
    ForkOpened,
    NodeEvicted,
    NodeInserted,
    NodeSplit,
    PrefixMatched,
    RequestAnswered,
    RequestFinished,
    RequestQueued,
    StepRan,
    StreamExtended,
    TextArrived,
    TokensSampled,
)
from ...contracts.ids import ExprId, ForkId, Namespace, NodeId, RequestId, RunId
from ...contracts.legible import finite
from ...contracts.tree import TreeSnapshot
from ...trace import Record
from ..views.inspection import STEP
from ..views.names import unnamed

Tokens = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Origin:
    """The origin of one token of a stream."""

    kind: str
    """text, generated or choice"""
    role: str
    expr: ExprStarted | None = None
    """the gen or select that produced it"""


TEXT = Origin("text", "")


@dataclass(slots=True)
class Served:
    """A request, as far as it has progressed."""

    run: RunId | None
    """run of the recording; None if nothing was recording"""
    queued: RequestQueued
    expr: ExprStarted | None
    origins: list[Origin]
    """of the prompt's tokens, as far as they are known"""
    namespace: Namespace = ()
    n_hit: int | None = None
    """tokens found in the cache when the request was first admitted"""
    matched: int | None = None
    """number of the event that admitted it"""
    t_ns: int = 0
    """time of that event"""
    generated: list[int] = field(default_factory=list)
    reason: str = ""
    """finish reason; empty while it runs"""
    path: str = ""
    """path of its fork, such as `s[0] › `; empty in the main one"""
    ms: float = 0.0
    """its share, by tokens, of the time of the steps that computed its prompt"""
    n_prefilled: int = 0
    """prompt tokens that those steps computed"""

    @property
    def name(self) -> str:
        return self.path + ((self.expr.name if self.expr else "") or unnamed(self.queued.kind))

    @property
    def prompt(self) -> Tokens:
        """The prompt, without the choice of a select."""
        reusable = self.queued.reusable
        return self.queued.prompt if self.queued.kind != "score" or reusable is None else self.queued.prompt[: reusable + 1]

    @property
    def n_reusable(self) -> int:
        """Leading tokens that may come from the cache. The last token of a gen's prompt is always
        computed.
        """
        n_prompt = len(self.queued.prompt)
        return self.queued.reusable if self.queued.reusable is not None else n_prompt - (self.queued.kind == "gen")

    @property
    def computed(self) -> Tokens:
        """All tokens that were computed or found for it. The last sampled token is not among them."""
        return self.queued.prompt + tuple(self.generated[:-1])

    def origin(self, position: int) -> Origin:
        if position >= len(self.queued.prompt):
            return Origin("generated", self.expr.role if self.expr else "", self.expr)
        return self.origins[position] if position < len(self.origins) else TEXT


@dataclass(frozen=True, slots=True)
class Path:
    """A node with all its ancestors. A split creates new paths and leaves this one unchanged."""

    above: Path | None
    tokens: Tokens
    namespace: Namespace
    end: int
    """tokens from the root to the end of this node"""

    @property
    def start(self) -> int:
        return self.end - len(self.tokens)

    def holds(self, tokens: Tokens, position: int) -> bool:
        """Whether the token at `position` is in this node, after the same prefix."""
        if not self.start <= position < self.end:
            return False
        at: Path | None = self
        end = position + 1
        while at is not None and at.tokens[: end - at.start] == tokens[at.start : end]:
            end = at.start
            at = at.above
        return at is None

    @property
    def sequence(self) -> Tokens:
        parts, at = [], self if self.tokens else None
        while at is not None:
            parts.append(at.tokens)
            at = at.above
        return tuple(token for part in reversed(parts) for token in part)


@dataclass(slots=True)
class Eviction:
    seq: int
    t_ns: int
    path: Path
    run: RunId | None
    by: Served | None = None
    """the request that needed the room"""
    how: str = "room"
    """room; flush (no request was active); gone (between two recordings, not observed)"""


@dataclass(slots=True)
class History:
    requests: list[Served]
    """in the order in which they were queued"""
    evictions: list[Eviction]
    found: list[tuple[int, Path]]
    """the leaves of the tree at the beginning of each recording, with the number of its first event"""


def history_of(records: Sequence[Record], others: Iterable[Entry] = ()) -> History:
    """The history of `records`, all of one ring. `others` are further entries of that ring, which
    fill the gaps between records.
    """
    return _Fold(sorted(records, key=lambda record: record.snapshot.seq), others).history


class _Fold:
    def __init__(self, records: Sequence[Record], others: Iterable[Entry]) -> None:
        self.history = History([], [], [])
        self._streams: dict[ForkId, list[Origin]] = {}
        self._paths: dict[ForkId, str] = {}
        self._runs: dict[ForkId, RunId] = {}
        """of forks: several runs may go on at the same time"""
        self._recorded = {record.run for record in records}
        self._scoped = {record.run for record in records if record.scope is not None}
        self._running: dict[ForkId, ExprStarted] = {}
        self._exprs: dict[ExprId, ExprStarted] = {}
        self._nodes: dict[NodeId, Path] = {}
        self._active: dict[RequestId, Served] = {}
        self._blamed: list[Eviction] = []
        """evictions that have not been attributed to a request yet"""
        merged = {entry.seq: entry for entry in others}
        merged |= {entry.seq: entry for record in records for entry in record.entries}
        starting = [record for record in reversed(records) if record.entries]
        open_ones: list[Record] = []
        last = -1
        for seq in sorted(merged):
            while starting and starting[-1].snapshot.seq <= seq:
                open_ones.append(starting.pop())
                self._begin(open_ones[-1].snapshot, merged[seq].t_ns, unseen=last != seq - 1)
            last = seq
            open_ones = [record for record in open_ones if record.entries[-1].seq >= seq]
            # of two overlapping runs, the later one is the inner one
            self._run = open_ones[-1].run if open_ones else None
            self._fold(merged[seq])

    def _begin(self, snapshot: TreeSnapshot, t_ns: int, *, unseen: bool) -> None:
        """The tree at the beginning of a recording. Nodes that are missing from it were evicted
        `unseen`.
        """
        before, self._nodes = self._nodes, {}
        for node in snapshot.nodes:
            above = self._nodes.get(node.parent) if node.parent is not None else None
            end = (above.end if above else 0) + len(node.tokens)
            self._nodes[node.node] = Path(above, node.tokens, node.namespace, end)
        inner = {node.parent for node in snapshot.nodes}
        self.history.found += [(snapshot.seq, self._nodes[node.node]) for node in snapshot.nodes if node.node not in inner]
        if unseen:
            gone = (path for node, path in before.items() if node not in self._nodes)
            self.history.evictions += [Eviction(snapshot.seq, t_ns, path, None, how="gone") for path in gone]

    def _run_of(self, fork: ForkId | None) -> RunId | None:
        """The recorded run of a fork's request; None if it belongs to a run of its own that was not
        recorded.
        """
        own = self._runs.get(fork) if fork is not None else None
        if own in self._recorded:
            return own
        return self._run if own is None or self._run not in self._scoped else None

    def _fold(self, entry: Entry) -> None:
        match entry.event:
            case ForkOpened(run=run, fork=fork, parent=parent, index=index, label=label):
                self._runs[fork] = run
                self._streams[fork] = list(self._streams.get(parent, ())) if parent is not None else []
                steps = self._paths.get(parent, "") if parent is not None else ""
                self._paths[fork] = f"{steps}{label or f'fork {index + 1}'}{STEP}" if parent is not None else ""
            case ExprStarted(fork=fork, expr=expr) as event:
                self._exprs[expr] = self._running[fork] = event
            case StreamExtended(fork=fork, start=start, tokens=tokens, kind=kind, role=role):
                stream = self._streams.setdefault(fork, [])
                merged = Origin(kind, role, self._running.get(fork) if kind in ("generated", "choice") else None)
                if start <= len(stream):  # otherwise its beginning was not recorded
                    stream[start:] = [merged] * len(tokens)
            case RequestQueued(request=request, fork=fork, expr=expr) as queued:
                origins = list(self._streams.get(fork, ())) if fork is not None else []
                served = Served(self._run_of(fork), queued, self._exprs.get(expr) if expr is not None else None, origins)
                served.path = self._paths.get(fork, "") if fork is not None else ""
                self._active[request] = served
                self.history.requests.append(served)
            case PrefixMatched(request=request, n_hit=n_hit, node=node) if request in self._active:
                served = self._active[request]
                self._blame(served)
                if served.n_hit is None:
                    served.n_hit, served.matched, served.t_ns = n_hit, entry.seq, entry.t_ns
                    served.namespace = self._nodes[node].namespace if node in self._nodes else ()
            case StepRan(prefill=prefill, decode=decode, ms=ms):
                per_token = (finite(ms) or 0.0) / max(1, sum(n for _, n in prefill) + len(decode))
                for request, n in prefill:
                    if request in self._active:
                        self._active[request].ms += n * per_token
                        self._active[request].n_prefilled += n
                worked = next((self._active[r] for r in (*decode, *(r for r, _ in prefill)) if r in self._active), None)
                self._blame(worked)
            case TokensSampled(samples=samples):
                for sample in samples:
                    if sample.request in self._active:
                        self._active[sample.request].generated.append(sample.token)
            case TextArrived(request=request, index=0, samples=samples) as arrived if request in self._active:
                before = [] if arrived.is_whole else self._active[request].generated
                self._active[request].generated = [*before, *(sample.token for sample in samples)]
            case RequestFinished(request=request, reason=reason) | RequestAnswered(request=request, reason=reason) if (
                request in self._active
            ):
                self._active.pop(request).reason = reason
            case NodeInserted(node=node, parent=parent, tokens=tokens, namespace=namespace):
                above = self._nodes.get(parent) if parent is not None else None
                self._nodes[node] = Path(above, tokens, namespace, (above.end if above else 0) + len(tokens))
            case NodeSplit(node=node, upper=upper, n_upper=n_upper) if node in self._nodes:
                old = self._nodes[node]
                above = self._nodes[upper] = Path(old.above, old.tokens[:n_upper], old.namespace, old.start + n_upper)
                self._nodes[node] = Path(above, old.tokens[n_upper:], old.namespace, old.end)
            case NodeEvicted(node=node) if node in self._nodes:
                eviction = Eviction(entry.seq, entry.t_ns, self._nodes.pop(node), self._run, how="room" if self._active else "flush")
                self.history.evictions.append(eviction)
                if self._active:
                    self._blamed.append(eviction)
            case _:
                pass

    def _blame(self, served: Served | None) -> None:
        for eviction in self._blamed:
            eviction.by = served
        self._blamed.clear()


def shared(a: Sequence[object], b: Sequence[object]) -> int:
    """How many leading items of both sequences are equal."""
    low, high = 0, min(len(a), len(b))
    if a[:high] == b[:high]:
        return high
    while high - low > 1:
        middle = (low + high) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle
    return low


def grams(tokens: Sequence[int], n: int) -> Iterator[Tokens]:
    """Every run of `n` neighbours."""
    return zip(*(tokens[i:] for i in range(n)), strict=False)
