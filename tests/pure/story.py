"""A believable run as events, with the true tree kept beside it by other code than the views.

`Stage` plays the parts of language, backend, scheduler, tree and engine with a fake clock and a
script instead of a model; `story()` is one whole run on it: roles, a gen, a select, a fork of three
in one batch, evictions.
"""

from __future__ import annotations

import json
import math
import random
import re
from dataclasses import dataclass, field

from sgl_lab.contracts.events import (
    CellFinished,
    CellStarted,
    Entry,
    Event,
    ExprFinished,
    ExprStarted,
    ForkJoined,
    ForkOpened,
    LocksChanged,
    ModelLoaded,
    NodeEvicted,
    NodeInserted,
    NodeSplit,
    PrefixMatched,
    RequestFinished,
    RequestQueued,
    Sample,
    StepRan,
    StreamExtended,
    TokensSampled,
    Touched,
)
from sgl_lab.contracts.ids import Counter, ExprId, ForkId, NodeId, RequestId, RunId
from sgl_lab.contracts.tree import TreeNode, TreeSnapshot
from sgl_lab.trace import Record
from sgl_lab.viz.sender import Message, Packet, Sender

NAMESPACE = ("smollm2",)


@dataclass
class Leaf:
    """One node of the true tree."""

    node: NodeId
    parent: NodeId | None
    tokens: tuple[int, ...]
    leases: int = 0
    used: int = 0
    hits: int = 0
    born: int = 0


@dataclass
class Job:
    request: RequestId
    fork: ForkId | None
    expr: ExprId | None
    kind: str
    prompt: tuple[int, ...]
    answer: tuple[int, ...]
    role: str = ""
    node: NodeId | None = None
    n_hit: int = 0
    out: list[Sample] = field(default_factory=list)

    @property
    def sequence(self) -> tuple[int, ...]:
        return (*self.prompt, *(sample.token for sample in self.out))


class Stage:
    def __init__(self, n_pages: int = 420, seed: int = 7) -> None:
        self.entries: list[Entry] = []
        self.n_pages = n_pages
        self.tree: dict[NodeId, Leaf] = {}
        self.streams: dict[ForkId, list[int]] = {}
        self.run = RunId(1)
        self._words: dict[str, int] = {}
        self._texts: list[str] = []
        self._t_ns = 0
        self._clock = 0
        self._step = 0
        self._random = random.Random(seed)
        self._nodes, self._forks, self._exprs, self._requests = Counter(), Counter(), Counter(), Counter()
        self.emit(ModelLoaded("smollm2", NAMESPACE, "cpu", "float32", n_pages, 1, 2048))
        self.root = self._add(None, ())

    # -- words

    def encode(self, text: str) -> tuple[int, ...]:
        ids = []
        for word in re.findall(r"<\|\w+\|>|\n| ?\w+| ?[^\w\s]|\s", text):
            if word not in self._words:
                self._words[word] = len(self._texts)
                self._texts.append(word)
            ids.append(self._words[word])
        return tuple(ids)

    def spell(self, token: int) -> str:
        return self._texts[token]

    # -- time, and the emission of events

    def emit(self, event: Event) -> None:
        self.entries.append(Entry(len(self.entries), self._t_ns, event))

    def wait(self, ms: float) -> None:
        self._t_ns += int(ms * 1e6)

    # -- the program

    def open(self, parent: ForkId | None = None, index: int = 0, label: str = "") -> ForkId:
        fork = ForkId(self._forks.next())
        self.streams[fork] = list(self.streams[parent]) if parent is not None else []
        self.emit(ForkOpened(self.run, fork, parent, index, label))
        return fork

    def say(self, fork: ForkId, text: str, role: str = "") -> None:
        self.extend(fork, self.encode(text), "text", role)

    def role(self, fork: ForkId, role: str, text: str) -> None:
        self.begin(fork, role)
        self.say(fork, text, role)
        self.end(fork)

    def begin(self, fork: ForkId, role: str) -> None:
        self.say(fork, f"<|im_start|>{role}\n")

    def end(self, fork: ForkId) -> None:
        self.say(fork, "<|im_end|>\n")

    def extend(self, fork: ForkId, tokens: tuple[int, ...], kind: str, role: str, start: int | None = None) -> None:
        stream = self.streams[fork]
        start = len(stream) if start is None else start
        stream[start:] = tokens
        self.emit(StreamExtended(fork, start, tokens, kind, role))

    def gen(self, *parts: tuple[ForkId, str, str], role: str = "assistant", alternatives: int = 3) -> None:
        """Several generations in one batch: (fork, name, text)."""
        jobs = [self._start(fork, name, "gen", self.encode(text), role) for fork, name, text in parts]
        self._serve(jobs, alternatives)
        for job in jobs:
            assert job.fork is not None
            self.extend(job.fork, job.answer, "generated", role)
            if job.expr is not None:
                self.emit(ExprFinished(job.fork, job.expr, "ok", "".join(map(self.spell, job.answer))))

    def select(self, fork: ForkId, name: str, options: list[str], chosen: int, role: str = "assistant") -> None:
        expr = ExprId(self._exprs.next())
        self.emit(ExprStarted(fork, expr, "select", name, 6, "assistant"))
        prompt = tuple(self.streams[fork])
        group = None
        jobs = []
        for option in options:
            request = RequestId(self._requests.next())
            group = group or request
            job = Job(request, fork, expr, "score", (*prompt, *self.encode(option)), (), role)
            self.emit(RequestQueued(request, fork, expr, "score", job.prompt, 0, group))
            jobs.append(job)
        self._serve(jobs, 0)
        self.extend(fork, self.encode(options[chosen]), "choice", role)
        self.emit(ExprFinished(fork, expr, "ok", options[chosen]))

    def warm(self, fork: ForkId) -> None:
        request = RequestId(self._requests.next())
        job = Job(request, fork, None, "warm", tuple(self.streams[fork]), ())
        self.emit(RequestQueued(request, fork, None, "warm", job.prompt, 0, request))
        self._serve([job], 0)

    def _start(self, fork: ForkId, name: str, kind: str, answer: tuple[int, ...], role: str) -> Job:
        expr = ExprId(self._exprs.next())
        self.emit(ExprStarted(fork, expr, kind, name, 5, "assistant"))
        job = Job(RequestId(self._requests.next()), fork, expr, kind, tuple(self.streams[fork]), answer, role)
        self.emit(RequestQueued(job.request, fork, expr, kind, job.prompt, 64, job.request))
        return job

    # -- scheduler and engine

    def _serve(self, jobs: list[Job], alternatives: int, chunk: int = 48) -> None:
        self.wait(1.5)
        for job in jobs:
            self.match(job)
        left = {job.request: len(job.prompt) - job.n_hit for job in jobs}
        running = list(jobs)
        while running:
            prefill = tuple((job.request, min(left[job.request], chunk)) for job in running if left[job.request])
            decode = tuple(job.request for job in running if not left[job.request])
            for request, n_tokens in prefill:
                left[request] -= n_tokens
            ms = 4 + 0.35 * sum(n for _, n in prefill) + 6 * len(decode) ** 0.5
            self.wait(ms)
            self._step += 1
            self.emit(StepRan(self._step, prefill, decode, 0, self.free_pages, ms))
            samples = []
            for job in running:
                if not left[job.request]:
                    if len(job.out) == 0:
                        self.commit(job, job.prompt)
                    if len(job.out) < len(job.answer):
                        samples.append(self._sample(job, alternatives))
            if samples:
                self.emit(TokensSampled(self._step, tuple(samples)))
                job_of = {job.request: job for job in running}
                for sample in samples:
                    job_of[sample.request].out.append(sample)
            for job in [job for job in running if not left[job.request] and len(job.out) == len(job.answer)]:
                running.remove(job)
                self.finish(job)

    def _sample(self, job: Job, alternatives: int) -> Sample:
        token = job.answer[len(job.out)]
        p = 0.35 + 0.64 * self._random.random() ** 0.5
        others = [self._random.randrange(len(self._texts)) for _ in range(max(alternatives - 1, 0))]
        top = [(token, math.log(p))] + [(other, math.log((1 - p) / 2**n)) for n, other in enumerate(others, 1)]
        return Sample(job.request, token, math.log(p), tuple(top) if alternatives else (), None, False)

    # -- the true tree

    @property
    def free_pages(self) -> int:
        return self.n_pages - sum(len(leaf.tokens) for leaf in self.tree.values())

    def snapshot(self) -> TreeSnapshot:
        ordered: list[Leaf] = []
        level: list[NodeId | None] = [None]
        while level:
            found = [leaf for leaf in self.tree.values() if leaf.parent in level]
            ordered += found
            level = [leaf.node for leaf in found]
        nodes = tuple(TreeNode(n.node, n.parent, n.tokens, NAMESPACE, n.leases, n.used, n.hits, n.born) for n in ordered)
        return TreeSnapshot(nodes, self.n_pages, self.free_pages, len(self.entries))

    def match(self, job: Job) -> None:
        """Admit: lease the longest prefix; its last token is computed again."""
        node, depth = self._walk(job.prompt)
        self._clock += 1
        path = self._path(node)
        for at in path:
            self.tree[at].used = self._clock
            self.tree[at].hits += 1
        self.emit(Touched(tuple(path), self._clock))
        self._lease(node, 1)
        job.node = node
        job.n_hit = min(depth, len(job.prompt) - 1)
        self.emit(PrefixMatched(job.request, job.n_hit, len(job.prompt), node))

    def commit(self, job: Job, tokens: tuple[int, ...]) -> None:
        """The computed part of the job becomes a node of the tree, which the job leases."""
        node, depth = self._walk(tokens)
        if depth < len(tokens):
            self.evict(len(tokens) - depth - self.free_pages)
            node = self._add(node, tokens[depth:])
        assert job.node is not None
        if node != job.node:
            self._lease(node, 1)
            self._lease(job.node, -1)
            job.node = node

    def finish(self, job: Job) -> None:
        if job.out:
            self.commit(job, job.sequence[:-1])
        assert job.node is not None
        self._lease(job.node, -1)
        n_prompt, n_out = len(job.prompt), len(job.out)
        self.emit(RequestFinished(job.request, "stop", n_prompt, n_out, job.n_hit, n_prompt + max(n_out - 1, 0) - job.n_hit, 1 + n_out))

    def evict(self, n_tokens: int) -> None:
        while n_tokens > 0:
            parents = {leaf.parent for leaf in self.tree.values()}
            free = [leaf for leaf in self.tree.values() if leaf.node not in parents and not leaf.leases and leaf.parent is not None]
            victim = min(free, key=lambda leaf: (leaf.used, leaf.node))
            del self.tree[victim.node]
            n_tokens -= len(victim.tokens)
            self.emit(NodeEvicted(victim.node, len(victim.tokens)))

    def _walk(self, tokens: tuple[int, ...]) -> tuple[NodeId, int]:
        """The node at which the longest known prefix of `tokens` ends, split there if it ends inside one."""
        at, depth = self.root, 0
        while True:
            below = [leaf for leaf in self.tree.values() if leaf.parent == at and leaf.tokens[0] in tokens[depth : depth + 1]]
            if not below:
                return at, depth
            (leaf,) = below
            n_same = 0
            while n_same < len(leaf.tokens) and leaf.tokens[n_same : n_same + 1] == tokens[depth + n_same : depth + n_same + 1]:
                n_same += 1
            depth += n_same
            if n_same < len(leaf.tokens):
                return self._split(leaf, n_same), depth
            at = leaf.node

    def _split(self, leaf: Leaf, n_upper: int) -> NodeId:
        upper = NodeId(self._nodes.next())
        self.tree[upper] = Leaf(upper, leaf.parent, leaf.tokens[:n_upper], leaf.leases, leaf.used, leaf.hits, leaf.born)
        leaf.parent, leaf.tokens = upper, leaf.tokens[n_upper:]
        self.emit(NodeSplit(leaf.node, upper, n_upper))
        return upper

    def _add(self, parent: NodeId | None, tokens: tuple[int, ...]) -> NodeId:
        node = NodeId(self._nodes.next())
        self.tree[node] = Leaf(node, parent, tokens, used=self._clock, born=self._clock)
        self.emit(NodeInserted(node, parent, tokens, NAMESPACE))
        return node

    def _path(self, node: NodeId) -> list[NodeId]:
        path = []
        at: NodeId | None = node
        while at is not None:
            path.append(at)
            at = self.tree[at].parent
        return path[::-1]

    def _lease(self, node: NodeId, by: int) -> None:
        path = self._path(node)
        for at in path:
            self.tree[at].leases += by
        self.emit(LocksChanged(tuple((at, self.tree[at].leases) for at in path)))


SYSTEM = "You are a travel writer. You answer in one or two plain sentences and never repeat yourself."
ASK = "I have one free day in Lisbon, and it may rain. What should I look at first?"
PORTO = "Name three dishes that a visitor to Porto should not leave without tasting."
DISHES = "Francesinha, bacalhau à Brás and a bowl of caldo verde, each of them better after a long walk by the river."
TRAM = "Translate to French: The tram climbs the hill slowly, and the rain follows it all the way up.\n"
TIPS = (
    ("food", "Where do I eat nearby?", "Walk ten minutes to a tasca in Avenidas Novas and order the fish of the day."),
    ("rain", "And if it pours all day?", "Stay with the tiles: the Azulejo museum is quiet,\ndry and blue."),
    ("views", "Which view is worth the climb?", "Senhora do Monte at dusk, when the bridge lights up & the city hums."),
)


def story(n_pages: int = 250) -> Stage:
    """One cell: a root with system, user, gen and select, then `fork(3)`, on a cache that is nearly full."""
    stage = Stage(n_pages)
    old = stage.open()
    stage.role(old, "system", SYSTEM)
    stage.role(old, "user", PORTO)
    stage.begin(old, "assistant")
    stage.gen((old, "dishes", DISHES))
    other = stage.open()
    stage.say(other, TRAM)
    stage.gen((other, "french", "Le tram monte lentement la colline, et la pluie le suit jusqu'en haut."), role="")

    stage.wait(900)
    stage.run = RunId(2)
    stage.emit(CellStarted(stage.run, "lisbon", "%%sgl\n..."))
    main = stage.open()
    stage.role(main, "system", SYSTEM)
    stage.role(main, "user", ASK)
    stage.begin(main, "assistant")
    stage.gen((main, "plan", "Begin at the Gulbenkian: its garden is lovely between showers, and the collection keeps you dry."))
    stage.end(main)
    stage.role(main, "user", "Is that a plan for the morning or the afternoon?")
    stage.begin(main, "assistant")
    stage.select(main, "when", ["morning", "afternoon"], 0)
    stage.end(main)
    stage.warm(main)
    forks = [stage.open(main, index, label) for index, (label, _, _) in enumerate(TIPS)]
    for fork, (_, question, _) in zip(forks, TIPS, strict=True):
        stage.role(fork, "user", question)
        stage.begin(fork, "assistant")
    stage.gen(*[(fork, "tip", answer) for fork, (_, _, answer) in zip(forks, TIPS, strict=True)])
    stage.emit(ForkJoined(main, tuple(forks), "gather_variable"))
    stage.emit(CellFinished(stage.run, "ok", ""))
    return stage


def record_of(stage: Stage) -> Record:
    """The stage's entries as a record of its newest run."""
    record = Record(stage.run)
    for entry in stage.entries:
        record.append(entry)
    return record


def decoded(packet: Packet) -> Message:
    """A message as a page reads it."""
    body: Message = json.loads(packet.body)
    return {"seq": packet.seq, "kind": packet.kind} | body


def poll(sender: Sender, now_ns: int, *, flush: bool = False) -> list[Message]:
    return [decoded(packet) for packet in sender.poll(now_ns, flush=flush)]
