"""Eviction that knows what programs do: which streams go on, which have ended, which requests wait.

The knowledge is data that comes with requests (`goes_on`) and from the language (`ForksEnded`). Of a
request that says nothing, nothing is assumed: its nodes are evicted by last use.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from ....contracts.ids import ForkId, NodeId, RequestId
from .node import Node
from .policy import Key, Used

OVER, UNKNOWN, OPEN, WAITED = range(4)
"""In this order they are evicted."""


class Marks:
    """What is known of a node."""

    __slots__ = ("n_over", "open", "waiting")

    def __init__(self) -> None:
        self.open: set[ForkId] = set()
        """streams that go on, and whose text runs through the node"""
        self.waiting: dict[RequestId, int] = {}
        """requests that wait and read the node, with their numbers, oldest first"""
        self.n_over = 0
        """programs that read the node and will not do so again"""

    def copy(self) -> Marks:
        new = Marks()
        new.open, new.waiting, new.n_over = set(self.open), dict(self.waiting), self.n_over
        return new


class Program:
    """First what one program left behind, the least recently used of it first; then all of which
    nothing is known and what ended programs shared, likewise; then what streams that go on have
    left, the most recently used first, because the others ask sooner; last what waiting requests
    read, the prefix of the one that waits longest after all others.

    A long leaf loses its end only, as far as room is needed.
    """

    trims = True

    def __init__(self) -> None:
        self._marks: dict[NodeId, Marks] = {}
        self._streams: dict[ForkId, Node] = {}
        """where the text of a stream ends that goes on"""
        self._requests: dict[RequestId, Node] = {}
        """where the prompt of a waiting request leaves the tree"""

    def key(self, node: Used) -> Key:
        marks = self._marks.get(node.id)
        if marks is None:
            return UNKNOWN, node.last_used
        if marks.waiting:
            return WAITED, -next(iter(marks.waiting.values()))
        if marks.open:
            return OPEN, -node.last_used
        return (OVER if marks.n_over == 1 else UNKNOWN), node.last_used

    # ------------------------------------------------------------ what programs do

    def asked(self, request: RequestId, number: int, path: Sequence[Node]) -> Collection[Node]:
        """A request waits that reads `path`, root first. Returns the nodes whose keys may have
        changed, as all of these do.
        """
        for node in path:
            self._marked(node).waiting[request] = number
        self._requests[request] = path[-1]
        return path

    def served(self, request: RequestId) -> Collection[Node]:
        """It no longer waits."""
        path = _path(self._requests.pop(request, None))
        for node in path:
            self._marked(node).waiting.pop(request, None)
        return path

    def left(self, fork: ForkId, path: Sequence[Node]) -> Collection[Node]:
        """A request of a stream that goes on is over, and left `path`."""
        before = _path(self._streams.get(fork))
        for node in path:
            self._marked(node).open.add(fork)
        self._streams[fork] = path[-1]
        kept = {node.id for node in path}
        gone = [node for node in before if node.id not in kept]
        self._close(fork, gone)
        return [*path, *gone]

    def ended(self, forks: Iterable[ForkId], *, is_all: bool) -> Collection[Node]:
        """As the event ForksEnded says."""
        read: dict[NodeId, Node] = {}
        for fork in forks:
            path = _path(self._streams.pop(fork, None))
            read |= {node.id: node for node in path}
            if is_all:
                for node in path:
                    self._marked(node).open.discard(fork)
            else:
                self._close(fork, path)
        if is_all:
            for node in read.values():
                self._marked(node).n_over += 1
        return read.values()

    def _close(self, fork: ForkId, nodes: Iterable[Node]) -> None:
        """A part of a program has left `nodes`. Where no other part is, the program has."""
        for node in nodes:
            marks = self._marked(node)
            marks.open.discard(fork)
            marks.n_over += not marks.open

    def _marked(self, node: Node) -> Marks:
        return self._marks.setdefault(node.id, Marks())

    # ------------------------------------------------------------ what the tree does

    def split(self, node: Node, upper: Node) -> None:
        if (marks := self._marks.get(node.id)) is not None:
            self._marks[upper.id] = marks.copy()

    def evicted(self, node: Node, parent: Node) -> None:
        """A leaf is gone: what ended there ends at its parent."""
        if (marks := self._marks.pop(node.id, None)) is not None:
            self._streams.update(dict.fromkeys(marks.open, parent))
            self._requests.update(dict.fromkeys(marks.waiting, parent))

    def reset(self) -> None:
        self._marks.clear()
        self._streams.clear()
        self._requests.clear()


def _path(node: Node | None) -> list[Node]:
    """From `node` up to the root."""
    path = []
    while node is not None:
        path.append(node)
        node = node.parent
    return path
