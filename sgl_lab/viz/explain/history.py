"""What was asked and what was kept, request by request, over all the runs that were recorded.

A fold of the entries of many records of one ring (and of what else the ring still holds). Where nothing was recorded, the
snapshot with which the next run began says what had become of the tree. Knows no tokenizer and no policy.
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
    RequestFinished,
    RequestQueued,
    StepRan,
    StreamExtended,
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
    """Where a token of a stream is from."""

    kind: str
    """text, generated or choice"""
    role: str
    expr: ExprStarted | None = None
    """the gen or select that brought it"""


TEXT = Origin("text", "")


@dataclass(slots=True)
class Served:
    """A request, as far as it has come."""

    run: RunId | None
    """of the recording; None where nobody recorded"""
    queued: RequestQueued
    expr: ExprStarted | None
    origins: list[Origin]
    """of the prompt's tokens, as far as they are known"""
    namespace: Namespace = ()
    n_hit: int | None = None
    """tokens found in the cache when it was first let in"""
    matched: int | None = None
    """number of the event that let it in"""
    t_ns: int = 0
    """when that was"""
    generated: list[int] = field(default_factory=list)
    reason: str = ""
    """why it ended; empty while it runs"""
    path: str = ""
    """of its fork, as `s[0] › `; empty in the main one"""
    ms: float = 0.0
    """of the steps that computed its prompt, its share by tokens"""
    n_prefilled: int = 0
    """prompt tokens that those steps computed"""

    @property
    def name(self) -> str:
        return self.path + ((self.expr.name if self.expr else "") or unnamed(self.queued.kind))

    @property
    def prompt(self) -> Tokens:
        """Without a choice that is scored."""
        reusable = self.queued.reusable
        return self.queued.prompt if self.queued.kind != "score" or reusable is None else self.queued.prompt[: reusable + 1]

    @property
    def n_reusable(self) -> int:
        """Leading tokens that may come from the cache; the last one of a gen is computed for what comes next."""
        n_prompt = len(self.queued.prompt)
        return self.queued.reusable if self.queued.reusable is not None else n_prompt - (self.queued.kind == "gen")

    @property
    def computed(self) -> Tokens:
        """All that was computed or found for it: the last token sampled is not."""
        return self.queued.prompt + tuple(self.generated[:-1])

    def origin(self, position: int) -> Origin:
        if position >= len(self.queued.prompt):
            return Origin("generated", self.expr.role if self.expr else "", self.expr)
        return self.origins[position] if position < len(self.origins) else TEXT


@dataclass(frozen=True, slots=True)
class Path:
    """A node with all above it. A split makes new ones and leaves this as it is."""

    above: Path | None
    tokens: Tokens
    namespace: Namespace
    end: int
    """tokens from the root to here"""

    @property
    def start(self) -> int:
        return self.end - len(self.tokens)

    def holds(self, tokens: Tokens, position: int) -> bool:
        """Whether the token at `position` lies in this node, at the end of the very same prefix."""
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
    """who needed the room"""
    how: str = "room"
    """room; flush (nobody asked for anything); gone (between two recordings, unseen)"""


@dataclass(slots=True)
class History:
    requests: list[Served]
    """in the order in which they were queued"""
    evictions: list[Eviction]
    found: list[tuple[int, Path]]
    """what lay in the tree when a recording began, leaf by leaf, with the number of its first event"""


def history_of(records: Sequence[Record], others: Iterable[Entry] = ()) -> History:
    """All that `records`, of one ring, tell; `others` are further entries of it, to fill what lies between them."""
    return _Fold(sorted(records, key=lambda record: record.snapshot.seq), others).history


class _Fold:
    def __init__(self, records: Sequence[Record], others: Iterable[Entry]) -> None:
        self.history = History([], [], [])
        self._streams: dict[ForkId, list[Origin]] = {}
        self._paths: dict[ForkId, str] = {}
        self._running: dict[ForkId, ExprStarted] = {}
        self._exprs: dict[ExprId, ExprStarted] = {}
        self._nodes: dict[NodeId, Path] = {}
        self._active: dict[RequestId, Served] = {}
        self._blamed: list[Eviction] = []
        """evictions of which it is not known yet who needed the room"""
        said = {entry.seq: entry for entry in others}
        said |= {entry.seq: entry for record in records for entry in record.entries}
        starting = [record for record in reversed(records) if record.entries]
        open_ones: list[Record] = []
        last = -1
        for seq in sorted(said):
            while starting and starting[-1].snapshot.seq <= seq:
                open_ones.append(starting.pop())
                self._begin(open_ones[-1].snapshot, said[seq].t_ns, unseen=last != seq - 1)
            last = seq
            open_ones = [record for record in open_ones if record.entries[-1].seq >= seq]
            self._run = open_ones[-1].run if open_ones else None  # of two that overlap the later one is inside
            self._fold(said[seq])

    def _begin(self, snapshot: TreeSnapshot, t_ns: int, *, unseen: bool) -> None:
        """The tree with which a recording began; what is missing in it went `unseen`."""
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

    def _fold(self, entry: Entry) -> None:
        match entry.event:
            case ForkOpened(fork=fork, parent=parent, index=index, label=label):
                self._streams[fork] = list(self._streams.get(parent, ())) if parent is not None else []
                steps = self._paths.get(parent, "") if parent is not None else ""
                self._paths[fork] = f"{steps}{label or f'fork {index + 1}'}{STEP}" if parent is not None else ""
            case ExprStarted(fork=fork, expr=expr) as event:
                self._exprs[expr] = self._running[fork] = event
            case StreamExtended(fork=fork, start=start, tokens=tokens, kind=kind, role=role):
                stream = self._streams.setdefault(fork, [])
                said = Origin(kind, role, self._running.get(fork) if kind in ("generated", "choice") else None)
                if start <= len(stream):  # else its beginning was not recorded
                    stream[start:] = [said] * len(tokens)
            case RequestQueued(request=request, fork=fork, expr=expr) as queued:
                origins = list(self._streams.get(fork, ())) if fork is not None else []
                served = Served(self._run, queued, self._exprs.get(expr) if expr is not None else None, origins)
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
            case RequestFinished(request=request, reason=reason) if request in self._active:
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
    """How many leading tokens, or characters, are the same."""
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
