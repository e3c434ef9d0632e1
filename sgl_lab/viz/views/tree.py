"""The radix tree as its own events describe it, with the private tokens of running requests below
it.

`nodes` equals the real tree after every step, node by node; a late joiner starts from a snapshot
(`load`). The view covers the engine's whole cache, whichever run filled it; each node records
whether it belongs to the run.

Knows no page and no policy.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from typing import NotRequired, TypedDict

from ...contracts.events import (
    Entry,
    ForkOpened,
    LocksChanged,
    NodeEvicted,
    NodeInserted,
    NodeSplit,
    PrefixMatched,
    RequestAnswered,
    RequestFinished,
    RequestPreempted,
    RequestQueued,
    StepRan,
    TextArrived,
    TokensSampled,
    Touched,
)
from ...contracts.ids import ForkId, Namespace, NodeId, RequestId, RunId
from ...contracts.legible import clipped, legible
from ...contracts.spans import blocks_in, has_blocks, is_inside, spelled
from ...contracts.tree import TreeNode, TreeSnapshot
from .pictures import Pictures

LABEL = 64
"""characters of a node's text that are sent with its row"""
TEXT = 320
"""characters of its full text, which is sent once for closer inspection, with a quarter as many ids"""
USERS = 6
"""requests that a node remembers"""


_MARKUP = re.compile(r"<\|[^|<>\s]{1,40}\|>")
"""chat markup, which would fill the labels with the same text in every node"""


class NodeRow(TypedDict):
    id: int
    parent: int | None
    label: str
    title: str
    """the beginnings of the digests of its blocks; mostly empty"""
    n: int
    refs: int
    hits: int
    used: int
    born: int
    """a logical clock, like `used`: policies evict by these"""
    state: str
    """root; running: a request leases exactly this node; locked: leased below; cached: may be
    evicted
    """
    fresh: bool
    """whether it was inserted after the first snapshot"""
    by: list[int]
    """the newest requests that computed it or found it, newest last"""
    mine: bool
    """whether a request of the run computed it or found it"""
    reused: int
    """how often the run reused it from the cache; without a run, how often any request did"""


LEAST_BYTES = 140
"""of a node's row as JSON"""


class TailRow(TypedDict):
    request: int
    node: int
    n: int
    label: str


class TextRow(TypedDict):
    id: int
    text: str
    ids: list[int]
    picture: NotRequired[str]
    """the first image in it, small, as a data URL"""


class TreePicture(TypedDict):
    nodes: list[NodeRow]
    texts: list[TextRow]
    """of nodes whose tokens have not been sent yet"""
    ends: list[tuple[int, int]]
    """(fork, the deepest node that holds its tokens), where it changed"""
    gone: list[int]
    clock: int
    tails: list[TailRow]


@dataclass(slots=True)
class _Node:
    """A `TreeNode` that changes in place: each request touches and leases a whole path, and paths
    in a deep tree are long.
    """

    node: NodeId
    parent: NodeId | None
    tokens: tuple[int, ...]
    namespace: Namespace
    refs: int
    last_used: int
    hits: int
    born: int


@dataclass(slots=True)
class _Request:
    id: RequestId
    tokens: list[int]
    """prompt and samples"""
    fork: ForkId | None = None
    """the fork whose stream it carries"""
    mine: bool = True
    """whether it belongs to the run"""
    node: NodeId | None = None
    """deepest node that it leases; None while it waits"""
    depth: int = 0
    """tokens from the root to the end of `node`"""
    done: int = 0
    """tokens in KV, including the newest sample"""


class TreeView:
    """The whole cache. `spell` returns the text of one token id. Without `forks` the view does not
    report where each fork's tokens end.

    With a `run`, nodes are marked that the run used; without one, all nodes are.
    """

    def __init__(self, spell: Callable[[int], str], run: RunId | None = None, *, forks: bool = True) -> None:
        self._spell, self._run, self._tells_forks = spell, run, forks
        self._streams: set[ForkId] = set()
        self._taken: dict[NodeId, int] = {}
        """for nodes of the run: how often one of its requests found them in the cache"""
        self._nodes: dict[NodeId, _Node] = {}
        self._clock = 0
        self._requests: dict[RequestId, _Request] = {}
        self._fresh: set[NodeId] = set()
        self._newest: NodeId | None = None
        """highest node id of the snapshots so far"""
        self._labels: dict[NodeId, tuple[str, str]] = {}
        """and titles"""
        self._users: dict[NodeId, tuple[RequestId, ...]] = {}
        self._ends: dict[ForkId, NodeId] = {}
        self._new_ends: dict[ForkId, None] = {}
        self._unsent: dict[NodeId, None] = {}
        """nodes whose text has not been sent yet"""
        self._changed: dict[NodeId, None] = {}
        self._gone: dict[NodeId, None] = {}
        self._stale = False
        self._pictures = Pictures()

    @property
    def nodes(self) -> Mapping[NodeId, TreeNode]:
        return {number: TreeNode(*_fields(node)) for number, node in self._nodes.items()}

    def load(self, snapshot: TreeSnapshot) -> None:
        """Replace the tree by this one. Folding continues from `snapshot.seq`."""
        old, newest = self._nodes, self._newest
        self._nodes = {node.node: _Node(*_fields(node)) for node in snapshot.nodes}
        self._fresh = {node for node in self._nodes if node in self._fresh or (newest is not None and node > newest)}
        self._newest = max(self._nodes, default=NodeId(0))
        self._clock = max((node.last_used for node in snapshot.nodes), default=0)
        self._labels.clear()
        self._users = {node: users for node, users in self._users.items() if node in self._nodes}
        self._taken = {node: n for node, n in self._taken.items() if node in self._nodes}
        self._ends = {fork: node for fork, node in self._ends.items() if node in self._nodes}
        self._changed = dict.fromkeys(self._nodes)
        self._unsent = dict.fromkeys(self._nodes)
        self._gone = dict.fromkeys(node for node in (*old, *self._gone) if node not in self._nodes)
        self._stale = True
        for request in self._requests.values():
            if request.node is not None:
                self._lease(request, request.node if request.node in self._nodes else None)

    def fold(self, entry: Entry) -> None:
        match entry.event:
            case ForkOpened(run=run, fork=fork) if run == self._run:
                self._streams.add(fork)
            case NodeInserted() as event:
                self._insert(event)
            case NodeSplit() as event:
                self._split(event)
            case NodeEvicted(node=evicted):
                self._evict(evicted)
            case Touched(nodes=nodes, clock=clock):
                self._clock = clock
                for number in nodes:
                    node = self._nodes[number]
                    node.last_used, node.hits = clock, node.hits + 1
                    self._changed[number] = None
            case LocksChanged(refs=changes):
                for number, refs in changes:
                    self._nodes[number].refs = refs
                    self._changed[number] = None
            case RequestQueued(request=request, prompt=prompt, fork=fork, group=group):
                is_mine = self._run is None or fork in self._streams
                self._requests[request] = _Request(request, list(prompt), fork if group == request else None, is_mine)
            case PrefixMatched(request=request, n_hit=n_hit, node=found) if request in self._requests:
                self._requests[request].done = n_hit
                self._lease(self._requests[request], found, taken=1)
            case StepRan(prefill=prefill):
                for request, n_tokens in prefill:
                    if mine := self._requests.get(request):
                        mine.done = min(mine.done + n_tokens, len(mine.tokens))
                        self._stale = True
            case TokensSampled(samples=samples) | TextArrived(index=0, samples=samples, is_whole=False):
                for sample in samples:
                    if mine := self._requests.get(sample.request):
                        mine.tokens.append(sample.token)
                        mine.done = len(mine.tokens)
                        self._stale = True
            case RequestPreempted(request=request) if request in self._requests:
                self._lease(self._requests[request], None)
            case RequestFinished(request=request) | RequestAnswered(request=request) if request in self._requests:
                self._lease(self._requests.pop(request), None)

    def delta(self, n_texts: int | None = None) -> TreePicture | None:
        """The changes since the last call, or None. It includes at most `n_texts` of the pending
        texts.
        """
        if not (self._changed or self._gone or self._stale or self._unsent):
            return None
        due = list(islice(self._unsent, n_texts))
        picture = self._picture(self._changed, due, self._new_ends, list(self._gone))
        self._changed = {}
        for node in due:
            del self._unsent[node]
        self._new_ends = {}
        self._gone = {}
        self._stale = False
        return picture

    def full(self) -> TreePicture:
        """Everything, in the shape of a delta."""
        return self._picture(self._nodes, self._nodes, self._ends, [])

    def least_bytes(self) -> int:
        """A lower bound of the size of `full` as JSON."""
        return LEAST_BYTES * len(self._nodes)

    def outline(self) -> TreePicture:
        """Everything except the texts, which the next deltas include."""
        self._unsent = dict.fromkeys(self._nodes)
        return self._picture(self._nodes, (), self._ends, [])

    @property
    def is_behind(self) -> bool:
        """Whether some texts have not been sent yet."""
        return bool(self._unsent)

    # ------------------------------------------------------------ events

    def _insert(self, event: NodeInserted) -> None:
        self._set(_Node(event.node, event.parent, event.tokens, event.namespace, 0, self._clock, 0, self._clock))
        self._unsent[event.node] = None
        self._fresh.add(event.node)
        between = {event.parent: 0}  # tokens from the end of an ancestor to the new node
        at, n_between = event.parent, 0
        while at is not None:
            n_between, at = n_between + len(self._nodes[at].tokens), self._nodes[at].parent
            between[at] = n_between
        tokens = [*event.tokens]
        for request in self._requests.values():
            # Tokens that a request has computed become a node, which the request leases from now
            # on.
            if request.node is None or request.node not in between:
                continue
            start = request.depth + between[request.node]
            if request.tokens[start : start + len(tokens)] != tokens:
                continue
            path = self._below(request.node, event.node)
            if path and tuple(request.tokens[request.depth : request.depth + len(path)]) == path:
                self._lease(request, event.node)

    def _below(self, top: NodeId | None, node: NodeId | None) -> tuple[int, ...]:
        """The tokens on the path from the end of `top` down to the end of `node`. Empty if `node`
        is not below `top`.
        """
        parts: list[tuple[int, ...]] = []
        while top is not None and node is not None:
            if node == top:
                return tuple(token for part in reversed(parts) for token in part)
            parts.append(self._nodes[node].tokens)
            node = self._nodes[node].parent
        return ()

    def _split(self, event: NodeSplit) -> None:
        node = self._nodes[event.node]
        self._set(replace(node, node=event.upper, tokens=node.tokens[: event.n_upper]))
        node.parent, node.tokens = event.upper, node.tokens[event.n_upper :]
        self._set(node)
        self._labels.pop(event.node, None)
        self._unsent |= {event.upper: None, event.node: None}
        if users := self._users.get(event.node):
            self._users[event.upper] = users
        if event.node in self._taken:
            self._taken[event.upper] = self._taken[event.node]
        if event.node in self._fresh:
            self._fresh.add(event.upper)

    def _evict(self, node: NodeId) -> None:
        parent = self._nodes.pop(node).parent
        for known in (self._labels, self._users, self._taken, self._changed, self._unsent):
            known.pop(node, None)
        self._fresh.discard(node)
        self._gone[node] = None
        for fork in [fork for fork, end in self._ends.items() if end == node]:
            self._end(fork, parent)

    def _end(self, fork: ForkId, node: NodeId | None) -> None:
        if node is not None and self._tells_forks:
            self._ends[fork] = node
            self._new_ends[fork] = None

    def _set(self, node: _Node) -> None:
        self._nodes[node.node] = node
        self._changed[node.node] = None

    def _lease(self, request: _Request, node: NodeId | None, taken: int = 0) -> None:
        for touched in (request.node, node):
            if touched in self._nodes:
                self._changed[touched] = None
        self._stale = True
        request.node = node
        request.depth = 0
        if request.fork is not None:
            self._end(request.fork, node)
        while node is not None:
            request.depth += len(self._nodes[node].tokens)
            users = self._users.get(node, ())
            if request.id not in users:
                self._users[node] = (*users, request.id)[-USERS:]
                self._changed[node] = None
            if request.mine and (taken or node not in self._taken):
                self._taken[node] = self._taken.get(node, 0) + taken
                self._changed[node] = None
            node = self._nodes[node].parent

    # ------------------------------------------------------------ JSON

    def _picture(
        self, nodes: Mapping[NodeId, object], untold: Iterable[NodeId], ends: Mapping[ForkId, object], gone: list[NodeId]
    ) -> TreePicture:
        leased = {request.node for request in self._requests.values()}
        tails: list[TailRow] = []
        for request, mine in self._requests.items():
            if mine.node is not None and mine.done > mine.depth:
                text = self._text(mine.tokens[mine.depth : mine.done], LABEL // 2)
                tails.append({"request": request, "node": mine.node, "n": mine.done - mine.depth, "label": text})
        rows = [self._row(self._nodes[node], node in leased) for node in self._parents_first(nodes)]
        return {
            "nodes": rows,
            "texts": [self._words(self._nodes[node]) for node in untold if self._nodes[node].tokens],
            "ends": [(fork, self._ends[fork]) for fork in ends if fork in self._ends],
            "gone": [*gone],
            "clock": self._clock,
            "tails": tails,
        }

    def _parents_first(self, nodes: Mapping[NodeId, object]) -> list[NodeId]:
        ordered: dict[NodeId, None] = {}
        for start in nodes:
            path: list[NodeId] = []
            node: NodeId | None = start
            while node is not None and node in nodes and node not in ordered:
                path.append(node)
                node = self._nodes[node].parent
            ordered.update(dict.fromkeys(reversed(path)))
        return list(ordered)

    def _row(self, node: _Node, leased: bool) -> NodeRow:
        state = "root" if node.parent is None else "running" if leased else "locked" if node.refs else "cached"
        label, title = self._label(node)
        return {
            "id": node.node,
            "parent": node.parent,
            "label": label,
            "title": title,
            "n": len(node.tokens),
            "refs": node.refs,
            "hits": node.hits,
            "used": node.last_used,
            "born": node.born,
            "state": state,
            "fresh": node.node in self._fresh,
            "by": [*self._users.get(node.node, ())],
            "mine": self._run is None or node.node in self._taken,
            "reused": node.hits if self._run is None else self._reused(node.node),
        }

    def _reused(self, node: NodeId) -> int:
        """How often the node was reused. A node from before the run is found once and reused from
        then on.
        """
        return max(0, self._taken.get(node, 0) - (node not in self._fresh))

    def _words(self, node: _Node) -> TextRow:
        text = spelled(node.tokens, self._spell, TEXT)
        ids = [token for token in node.tokens[:TEXT] if not is_inside(token)][: TEXT // 4]
        row: TextRow = {"id": node.node, "text": legible(text if len(text) <= TEXT else text[:TEXT] + "…"), "ids": ids}
        shown = (self._pictures.of(place.content) for _, _, place in (blocks_in(node.tokens) if has_blocks(node.tokens) else ()))
        if picture := next(filter(None, shown), ""):
            row["picture"] = picture
        return row

    def _label(self, node: _Node) -> tuple[str, str]:
        if node.node not in self._labels:
            name = " · ".join(part.replace("\\", "/").rsplit("/", 1)[-1] for part in node.namespace if part)
            label = clipped(name or "root", LABEL) if node.parent is None else self._text(node.tokens)
            blocks = blocks_in(node.tokens) if has_blocks(node.tokens) else ()
            self._labels[node.node] = label, " ".join(dict.fromkeys(place.content.title for _, _, place in blocks))
        return self._labels[node.node]

    def _text(self, tokens: tuple[int, ...] | list[int], length: int = LABEL) -> str:
        text = spelled(tokens, self._spell, 2 * length)
        return clipped(_MARKUP.sub("", text) or text, length)


def _fields(node: TreeNode | _Node) -> tuple[NodeId, NodeId | None, tuple[int, ...], Namespace, int, int, int, int]:
    return (node.node, node.parent, node.tokens, node.namespace, node.refs, node.last_used, node.hits, node.born)
