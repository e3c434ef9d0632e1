"""Eviction policies that others published, by their published rules, for `eviction.py`.

Each is made for one recording. What their systems know of a workload is taken from it: which token
is of which kind, how long the next turn of a conversation is, at which step of its program a text is
read again. Where a rule has a number that depends on the deployment, it is named here.
"""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace

from sgl_lab.contracts.events import Event, Foreseen, ForkOpened, RequestQueued, StreamExtended
from sgl_lab.contracts.ids import ForkId, NodeId, RequestId, RunId
from sgl_lab.engine.serving.cache.node import Node
from sgl_lab.engine.serving.cache.policy import Following, Key, Policy, Used
from sgl_lab.engine.serving.cache.programs import Program
from sgl_lab.engine.serving.cache.tree import TRIM
from sgl_lab.engine.tools.simulate import Job, Recording

EXCESS = 128
"""T-LRU: tokens that a turn may compute before it counts as slow"""
RATE, DECAY = 0.1, 0.5
"""SAECache: how fast a kind's weight follows what became of its tokens; power of the position"""
FIRST_AND_REST = 64
"""SAECache: positions are counted in so many tokens"""


class TailOptimised(Program):
    """T-LRU: W. Zhang et al., "Tail-optimized caching for LLM inference", 2025 (arXiv:2510.15152).

    First the end of a conversation whose next turn computes no more than `EXCESS` tokens without it:
    its length, and the mean length of a turn, less what stays cached. Then as LRU.
    """

    def __init__(self, recording: Recording) -> None:
        super().__init__()
        turns = defaultdict[ForkId | None, list[Job]](list)
        for job in recording.jobs:
            turns[job.queued.fork].append(job)
        new = [len(b.queued.prompt) - len(a.sequence) for jobs in turns.values() for a, b in itertools.pairwise(jobs)]
        self._turn = sum(new) // max(1, len(new))
        self._length: dict[NodeId, int] = {}
        self._before: dict[NodeId, int] = {}
        """tokens above a node"""
        self._free: dict[NodeId, bool] = {}

    def key(self, node: Used) -> Key:
        return 0 if self._free[node.id] else 1, node.last_used

    def _is_free(self, node: Node) -> bool:
        """Its end, of which it loses `TRIM` tokens at a time."""
        n_kept = self._before[node.id] + max(0, len(node.tokens) - TRIM)
        return self._length[node.id] + self._turn - n_kept <= EXCESS

    def grown(self, node: Node) -> None:
        parent = node.parent
        self._before[node.id] = self._before.get(parent.id, 0) + len(parent.tokens) if parent else 0
        self._length[node.id] = self._before[node.id] + len(node.tokens)
        self._free[node.id] = self._is_free(node)

    def split(self, node: Node, upper: Node) -> None:
        super().split(node, upper)
        self._before[upper.id], self._length[upper.id] = self._before[node.id], self._length[node.id]
        self._before[node.id] += len(upper.tokens)
        self._free[upper.id] = self._is_free(upper)

    def left(self, fork: ForkId, path: Sequence[Node], foreseen: Foreseen | None = None) -> Collection[Node]:
        n = sum(len(node.tokens) for node in path)
        for node in path:
            if node.parent is not None:
                self._length[node.id] = max(self._length[node.id], n)
                self._free[node.id] = self._is_free(node)
        return path

    def asked(self, request: RequestId, number: int, path: Sequence[Node]) -> Collection[Node]:
        return ()

    def served(self, request: RequestId) -> Collection[Node]:
        return ()

    def ended(self, forks: Iterable[ForkId], *, is_all: bool, batch: int = 0) -> Collection[Node]:
        return ()


class StepsToExecution(Program):
    """KVFlow: Z. Pan et al., NeurIPS 2025 (arXiv:2507.07400). What no later step of a program reads
    goes first, then the farthest from its next step. It knows the steps that the recording took, so
    it knows each program perfectly, and nothing of when it gets its turn.
    """

    def __init__(self, recording: Recording) -> None:
        super().__init__()

    def key(self, node: Used) -> Key:
        marks = self._marks.get(node.id)
        n_steps = self._until_next_use(marks) if marks is not None else None
        return (0, 0, node.last_used) if n_steps is None else (1, -n_steps, node.last_used)


def with_steps(recording: Recording, roots: Mapping[ForkId, ForkId]) -> Recording:
    """The recording in which each request says when a request of the same program next continues its
    prompt.
    """
    programs = defaultdict[ForkId | None, list[Job]](list)
    for job in recording.jobs:
        programs[roots.get(job.queued.fork) if job.queued.fork is not None else None].append(job)
    foreseen: dict[RequestId, Foreseen] = {}
    for root, jobs in programs.items():
        for step, job in enumerate(jobs, 1):
            prompt = job.queued.prompt
            later = (n for n in range(step, len(jobs)) if jobs[n].queued.prompt[: len(prompt)] == prompt)
            foreseen[job.queued.request] = Foreseen(RunId(int(root or 0)), step, next((n + 1 for n in later), 0), 0)
    known = tuple(job._replace(queued=replace(job.queued, foreseen=foreseen[job.queued.request])) for job in recording.jobs)
    return replace(recording, jobs=known)


class TokenKinds(Following):
    """SAECache (arXiv:2605.18825), after its abstract: the value of a kind of token is learned from
    what becomes of it, falls with its position by a power, and ages as in greedy-dual caches. What it
    learns of the times between turns is left out: recordings have no times.
    """

    trims = False

    def __init__(self, recording: Recording, kinds: Mapping[RequestId, Sequence[str]]) -> None:
        self._next: dict[tuple[int, int], int] = {}
        self._kind = [""]
        for job in recording.jobs:
            at, known = 0, kinds.get(job.queued.request, ())
            for position, token in enumerate(job.sequence):
                if (at, token) not in self._next:
                    self._next[at, token] = len(self._kind)
                    self._kind.append(known[position] if position < len(known) else "generated")
                at = self._next[at, token]
        self._weight: dict[str, float] = dict.fromkeys(self._kind, 1.0)
        self._ends: dict[int, int] = {}
        self._starts: dict[int, int] = {}
        self._gone: Counter[int] = Counter()
        self._age = 0.0
        self._values: dict[int, tuple[int, int]] = {}
        """by node: its value, and the hits that it had then"""

    def key(self, node: Used) -> Key:
        value, hits = self._values[node.id]
        if node.hits != hits:
            self._learn(self._kind[self._ends[node.id]], 1.0)
            value = self._value(node.id)
            self._values[node.id] = value, node.hits
        return value, node.last_used

    def spares(self, node: Used) -> bool:
        return False

    def _learn(self, kind: str, was_used: float) -> None:
        self._weight[kind] += RATE * (was_used - self._weight[kind])

    def _value(self, node: int) -> int:
        position = 1 + self._starts[node] // FIRST_AND_REST
        return int(1e6 * (self._age + self._weight[self._kind[self._ends[node]]] / position**DECAY))

    def _place(self, node: Node, above: int, start: int) -> None:
        self._starts[node.id] = start
        for token in node.tokens:
            above = self._next.get((above, token), 0)
        self._ends[node.id] = above

    def grown(self, node: Node) -> None:
        parent = node.parent
        start = self._starts.get(parent.id, 0) + len(parent.tokens) if parent else 0
        self._place(node, self._ends.get(parent.id, 0) if parent else 0, start)
        if self._gone.pop(self._ends[node.id], 0):
            self._learn(self._kind[self._ends[node.id]], 1.0)
        self._values[node.id] = self._value(node.id), node.hits

    def split(self, node: Node, upper: Node) -> None:
        above = upper.parent
        self._place(upper, self._ends.get(above.id, 0) if above else 0, self._starts[node.id])
        self._starts[node.id] += len(upper.tokens)
        self._values[upper.id] = self._values[node.id]

    def evicted(self, node: Node, parent: Node) -> None:
        value, hits = self._values.pop(node.id)
        self._age = max(self._age, value / 1e6)
        if hits == 0:
            self._learn(self._kind[self._ends[node.id]], 0.0)
        self._gone[self._ends[node.id]] += 1


class Knowledge:
    """What of the events the published policies know: the program of each stream, and the kind of
    each token of each prompt.
    """

    def __init__(self, events: Iterable[Event]) -> None:
        self.roots: dict[ForkId, ForkId] = {}
        self.kinds: dict[RequestId, tuple[str, ...]] = {}
        streams: dict[ForkId, list[str]] = {}
        for event in events:
            match event:
                case ForkOpened(fork=fork, parent=parent):
                    self.roots[fork] = fork if parent is None else self.roots.get(parent, fork)
                    streams[fork] = list(streams.get(parent, ())) if parent is not None else []
                case StreamExtended(fork=fork, start=start, tokens=tokens, kind=kind, role=role):
                    streams.setdefault(fork, [])[start:] = [f"{kind} {role}"] * len(tokens)
                case RequestQueued(request=request, fork=fork) if fork is not None:
                    self.kinds[request] = tuple(streams.get(fork, ()))
                case _:
                    pass

    def served(self, recording: Recording) -> Mapping[str, tuple[Recording, Callable[[], Policy]]]:
        """By name: the recording as the policy knows it, and the policy."""
        return {
            "t-lru": (recording, lambda: TailOptimised(recording)),
            "kvflow": (with_steps(recording, self.roots), lambda: StepsToExecution(recording)),
            "saecache": (recording, lambda: TokenKinds(recording, self.kinds)),
        }
