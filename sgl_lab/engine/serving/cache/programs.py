"""Eviction that knows what programs do: which streams go on, which have ended, which requests wait.

The knowledge is data that comes with requests (`goes_on`, `foreseen`) and from the language
(`ForksEnded`). Of a request that says nothing, nothing is assumed: its nodes are evicted by last use.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from ....contracts.events import Foreseen, InBatch
from ....contracts.ids import ForkId, NodeId, RequestId, RunId
from .node import Node
from .policy import Following, Key, Used

OVER, UNKNOWN, OPEN, WAITED = range(4)
"""In this order they are evicted."""


class Marks:
    """What is known of a node."""

    __slots__ = ("coming", "n_over", "open", "waiting")

    def __init__(self) -> None:
        self.open: dict[ForkId, Foreseen | None] = {}
        """streams that go on, and whose text runs through the node, and what is known of their next
        use
        """
        self.waiting: dict[RequestId, int] = {}
        """requests that wait and read the node, with their numbers, oldest first"""
        self.coming: dict[int, tuple[int, int]] = {}
        """batches with later items that read the node: the next and the last of their places"""
        self.n_over = 0
        """programs that read the node and will not do so again"""

    def copy(self) -> Marks:
        new = Marks()
        new.open, new.waiting, new.n_over, new.coming = dict(self.open), dict(self.waiting), self.n_over, dict(self.coming)
        return new


class Program(Following):
    """First what one program left behind, the least recently used of it first; then all of which
    nothing is known and what ended programs shared, likewise; then what streams that go on have
    left, and what later items of a batch read, the farthest from its next use first where a traced
    program says when that is, then the most recently used first, because the others ask sooner; last
    what waiting requests read, the prefix of the one that waits longest after all others.

    A long leaf loses its end only, as far as room is needed.

    With `by_prefix`, requests are served by what the cache has of them, so what was used last is
    asked for next: of what streams that go on have left, the least recently used goes first, and
    leaves go whole, because what is left of one draws no request.
    """

    trims = True

    def __init__(self, *, by_prefix: bool = False) -> None:
        self.trims = not by_prefix
        self._recent = 1 if by_prefix else -1
        self._marks: dict[NodeId, Marks] = {}
        self._streams: dict[ForkId, Node] = {}
        """where the text of a stream ends that goes on"""
        self._requests: dict[RequestId, Node] = {}
        """where the prompt of a waiting request leaves the tree"""
        self._step: dict[RunId, int] = {}
        """how far each traced program is"""
        self._place: dict[int, int] = {}
        """how far each batch is"""
        self._awaited: dict[int, dict[NodeId, Node]] = {}
        """what later items of each batch read"""

    def key(self, node: Used) -> Key:
        marks = self._marks.get(node.id)
        if marks is None:
            return UNKNOWN, node.last_used
        if marks.waiting:
            return WAITED, -next(iter(marks.waiting.values()))
        if (n_steps := self._until_next_use(marks)) is not None:
            return OPEN, -n_steps, self._recent * node.last_used
        return (OVER if marks.n_over + bool(marks.open) == 1 else UNKNOWN), node.last_used

    def spares(self, node: Used) -> bool:
        return False

    def _until_next_use(self, marks: Marks) -> int | None:
        """Steps until a stream that goes on, or a later item of a batch, reads the node again: 1 if
        that is not known, None if none does.
        """
        known = [each for each in marks.open.values() if each is None or each.next]
        found = [1 if each is None else each.next - self._step.get(each.program, 0) for each in known]
        for batch, (following, last) in marks.coming.items():
            if (place := self._place[batch]) <= last:
                found.append(max(0, following - place))
        return min((n_steps for n_steps in found if n_steps >= 0), default=None)

    # ------------------------------------------------------------ what programs do

    def advanced(self, foreseen: Foreseen | None) -> Collection[Node]:
        """A traced program asks. Returns the nodes whose keys may have changed."""
        if foreseen is None:
            return ()
        nodes: dict[NodeId, Node] = {}
        if (here := foreseen.in_batch) is not None and here.place > self._place.get(here.batch, -1):
            self._place[here.batch] = here.place
            nodes |= self._awaited.get(here.batch, {})
        if foreseen.step > self._step.get(foreseen.program, 0):
            self._step[foreseen.program] = foreseen.step
            ends = [end for fork, end in self._streams.items() if self._program_of(fork, end) == foreseen.program]
            nodes |= {node.id: node for end in ends for node in _path(end)}
        return nodes.values()

    def _program_of(self, fork: ForkId, end: Node) -> RunId | None:
        known = self._marked(end).open.get(fork)
        return None if known is None else known.program

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

    def left(self, fork: ForkId, path: Sequence[Node], foreseen: Foreseen | None = None) -> Collection[Node]:
        """A request of a stream that goes on is over, and left `path`."""
        before = _path(self._streams.get(fork))
        for node in path:
            self._marked(node).open[fork] = foreseen
        if foreseen is not None and foreseen.in_batch is not None:
            self._await(path, foreseen.in_batch)
        self._streams[fork] = path[-1]
        kept = {node.id for node in path}
        gone = [node for node in before if node.id not in kept]
        self._close(fork, gone)
        return [*path, *gone]

    def _await(self, path: Sequence[Node], here: InBatch) -> None:
        """Later items of the batch read the beginning of `path`, as it says, and no more of it."""
        if here.batch not in self._place:  # it has ended
            return
        awaited, end = self._awaited.setdefault(here.batch, {}), 0
        for node in path:
            end += node.n_tokens
            coming = self._marked(node).coming
            if (known := coming.get(here.batch)) is not None and known[1] <= here.place:
                del coming[here.batch]
                awaited.pop(node.id, None)
            if reads := [again for again in here.again if end <= again.n_tokens]:
                coming[here.batch] = min(again.next for again in reads), max(again.last for again in reads)
                awaited[node.id] = node

    def ended(self, forks: Iterable[ForkId], *, is_all: bool, batch: int = 0) -> Collection[Node]:
        """As the event ForksEnded says."""
        read = self._awaited.pop(batch, {})
        self._place.pop(batch, None)
        for node in read.values():
            self._marked(node).coming.pop(batch, None)
        streams = self._ended(forks, is_all=is_all)
        return (read | streams).values()

    def _ended(self, forks: Iterable[ForkId], *, is_all: bool) -> dict[NodeId, Node]:
        read: dict[NodeId, Node] = {}
        for fork in forks:
            end = self._streams.pop(fork, None)
            if is_all and end is not None:
                self._step.pop(self._program_of(fork, end), None)  # type: ignore[arg-type]  # None is in no dict
            path = _path(end)
            read |= {node.id: node for node in path}
            if is_all:
                for node in path:
                    self._marked(node).open.pop(fork, None)
            else:
                self._close(fork, path)
        if is_all:
            for node in read.values():
                self._marked(node).n_over += 1
        return read

    def _close(self, fork: ForkId, nodes: Iterable[Node]) -> None:
        """A part of a program has left `nodes`. Where no other part is, the program has."""
        for node in nodes:
            marks = self._marked(node)
            marks.open.pop(fork, None)
            marks.n_over += not marks.open

    def _marked(self, node: Node) -> Marks:
        return self._marks.setdefault(node.id, Marks())

    # ------------------------------------------------------------ what the tree does

    def split(self, node: Node, upper: Node) -> None:
        if (marks := self._marks.get(node.id)) is not None:
            self._marks[upper.id] = marks.copy()
            for batch in marks.coming:
                self._awaited[batch][upper.id] = upper

    def evicted(self, node: Node, parent: Node) -> None:
        """A leaf is gone: what ended there ends at its parent."""
        if (marks := self._marks.pop(node.id, None)) is not None:
            self._streams.update(dict.fromkeys(marks.open, parent))
            self._requests.update(dict.fromkeys(marks.waiting, parent))
            for batch in marks.coming:
                del self._awaited[batch][node.id]

    def reset(self) -> None:
        self._marks.clear()
        self._streams.clear()
        self._requests.clear()
        self._step.clear()
        self._place.clear()
        self._awaited.clear()


def _path(node: Node | None) -> list[Node]:
    """From `node` up to the root."""
    path = []
    while node is not None:
        path.append(node)
        node = node.parent
    return path
