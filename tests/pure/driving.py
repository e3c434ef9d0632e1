"""What the engine's tests share: a listener that remembers, a fold of the events, an engine over the hash model."""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any

from sgl_lab.contracts.events import (
    Event,
    LocksChanged,
    NodeEvicted,
    NodeInserted,
    NodeSplit,
    RequestFinished,
    TokensSampled,
    Touched,
    from_json,
    to_json,
)
from sgl_lab.contracts.ids import NodeId, RequestId
from sgl_lab.contracts.params import Constraint, SamplingParams
from sgl_lab.contracts.port import GenJob, GenOutput, ScoreJob, WarmJob
from sgl_lab.contracts.tree import TreeNode, TreeSnapshot
from sgl_lab.engine.plan import Plan, RowOutput, Runner
from sgl_lab.engine.serving.config import EngineConfig
from sgl_lab.engine.serving.engine import Engine
from sgl_lab.engine.tools.fake import ByteTokenizer, HashModel, HashRunner
from sgl_lab.grammar.grammars import Grammars

SOAK = int(os.environ.get("SGL_LAB_SOAK", "1"))
"""How many times the CI size the random tests run."""


SLOW = Grammars(ByteTokenizer(), jump=False)


def mask_after(constraint: Constraint | None) -> Callable[[Sequence[int]], tuple[memoryview, ...] | None]:
    """For `HashModel.reply`: worked out anew for every token, and nothing is forced. None when the text is over."""

    def mask(generated: Sequence[int]) -> tuple[memoryview, ...] | None:
        if constraint is None:
            return ()
        if generated and generated[-1] in ByteTokenizer.eos_ids:
            return None
        matcher = SLOW.start(constraint)
        for token in generated:
            matcher.take(token)
        if matcher.is_over:
            return None
        masks = matcher.masks(1)
        matcher.fill(())
        return masks

    return mask


def expect_lawful(events: Sequence[Event]) -> None:
    """Every gen that ran to its end counted every position once; of what it was forced to say at the end none."""
    forced: dict[RequestId, list[bool]] = {}
    for event in events:
        if isinstance(event, TokensSampled):
            for sample in event.samples:
                forced.setdefault(sample.request, []).append(sample.forced)
        elif isinstance(event, RequestFinished) and event.request in forced and event.reason in ("stop", "length"):
            given = forced[event.request]
            assert len(given) == event.n_completion
            n_unread = len(given) if all(given) else given[::-1].index(False)
            n_all = event.n_prompt + event.n_completion
            is_read = not all(given) or event.n_steps > 0  # of a text that is forced as a whole the prompt may be scored
            n_positions = n_all - (0 if all(given) else 1 + n_unread) if is_read else 0
            assert event.n_cached + event.n_computed == n_positions + event.n_rejected


class Late(HashRunner):
    """Computes when its results are asked for: whatever happened to a page meanwhile shows."""

    def start(self, plan: Plan) -> Callable[[], tuple[RowOutput, ...]]:
        return lambda: self.run(plan)


class Stream(HashRunner):
    """As a GPU's stream: does what it was asked for in order, as late as it can, and knows what it drew."""

    def __init__(self, n_pages: int, page_size: int, model: HashModel | None = None) -> None:
        super().__init__(n_pages, page_size, model)
        self.n_overlapped = 0
        self._asked: list[Callable[[], None]] = []
        self._drawn: dict[RequestId, int] = {}

    def run(self, plan: Plan) -> tuple[RowOutput, ...]:
        return self.start(plan)()

    def start(self, plan: Plan) -> Callable[[], tuple[RowOutput, ...]]:
        outputs: list[RowOutput] = []

        def work() -> None:
            drawn, self._drawn = self._drawn, {}
            rows = tuple(replace(row, tokens=(drawn[row.request],)) if row.is_overlapped else row for row in plan.rows)
            outputs.extend(super(Stream, self).run(replace(plan, rows=rows)))
            self._drawn = {row.request: output.draws[-1].token for row, output in zip(rows, outputs, strict=True) if output.draws}

        def result() -> tuple[RowOutput, ...]:
            while len(outputs) < len(plan.rows):
                self._asked.pop(0)()
            return tuple(outputs)

        self._asked.append(work)
        return result

    def overlap(self, plan: Plan) -> Callable[[], tuple[RowOutput, ...]]:
        assert all(row.is_overlapped for row in plan.rows)
        assert self._asked, "the step that it follows was taken in already"
        self.n_overlapped += 1
        return self.start(plan)

    def copy_page(self, source: int, target: int) -> None:
        self._asked.append(lambda: super(Stream, self).copy_page(source, target))


class Listener:
    """A listener of any job."""

    def __init__(self) -> None:
        self.progress: list[tuple[int, str, tuple[int, ...]]] = []
        self.answers: list[Any] = []

    def on_progress(self, index: int, text: str, ids: tuple[int, ...]) -> None:
        self.progress.append((index, text, ids))

    def on_done(self, answer: Any) -> None:
        self.answers.append(answer)

    def on_error(self, error: Exception) -> None:
        self.answers.append(error)

    @property
    def answer(self) -> Any:
        """The one answer; an error is raised."""
        (answer,) = self.answers
        if isinstance(answer, Exception):
            raise answer
        return answer

    @property
    def output(self) -> GenOutput:
        output = self.answer[0]
        assert isinstance(output, GenOutput)
        return output


class Fold:
    """The tree as the events tell it, each of them through JSON first."""

    def __init__(self) -> None:
        self.nodes: dict[NodeId, TreeNode] = {}
        self.clock = 0
        self.events: list[Event] = []

    def __call__(self, given: Event) -> None:
        event = from_json(to_json(given))
        assert event == given
        self.events.append(event)
        nodes = self.nodes
        match event:
            case NodeInserted(node, parent, tokens, namespace):
                assert node not in nodes
                assert (parent is None) == (not tokens)
                nodes[node] = TreeNode(node, parent, tokens, namespace, 0, self.clock, 0, self.clock)
            case NodeSplit(node, upper, n_upper):
                old = nodes[node]
                nodes[upper] = replace(old, node=upper, tokens=old.tokens[:n_upper])
                nodes[node] = replace(old, parent=upper, tokens=old.tokens[n_upper:])
            case NodeEvicted(node, n_tokens):
                assert len(nodes.pop(node).tokens) == n_tokens
                assert all(other.parent != node for other in nodes.values())
            case Touched(touched, clock):
                self.clock = clock
                for node in touched:
                    old = nodes[node]
                    nodes[node] = replace(old, last_used=clock, hits=old.hits + 1)
            case LocksChanged(refs):
                for node, n in refs:
                    old = nodes[node]
                    assert old.refs != n
                    nodes[node] = replace(old, refs=n)
            case _:
                pass

    def expect(self, snapshot: TreeSnapshot) -> None:
        assert self.nodes == {node.node: node for node in snapshot.nodes}

    def of(self, *kinds: type) -> list[Any]:
        return [event for event in self.events if isinstance(event, kinds)]


@dataclass
class Bench:
    """An engine over the hash model. After every step the fold must equal the tree, and the books must add up."""

    engine: Engine
    fold: Fold
    model: HashModel = field(default_factory=HashModel)

    def step(self) -> bool:
        went = self.engine.step()
        self.expect_books()
        return went

    def expect_books(self) -> None:
        self.engine.check()
        self.fold.expect(self.engine.snapshot(0))

    def drain(self, limit: int = 10_000 * SOAK) -> int:
        """Step until nothing is left to do; returns the number of steps."""
        for n in range(limit):
            if not self.step():
                return n
        raise AssertionError(f"still busy after {limit} steps")

    def gen(self, prompt: tuple[int, ...], **params: Any) -> Listener:
        listener = Listener()
        self.engine.add(self.engine.gen(GenJob(prompt, SamplingParams(**({"max_tokens": 8, "temperature": 0.0} | params))), listener))
        return listener

    def score(self, prompt: tuple[int, ...], *choices: tuple[int, ...]) -> Listener:
        listener = Listener()
        self.engine.add(self.engine.score(ScoreJob(prompt, choices), listener))
        return listener

    def warm(self, prompt: tuple[int, ...]) -> Listener:
        listener = Listener()
        self.engine.add(self.engine.warm(WarmJob(prompt), listener))
        return listener

    def pin(self, prefix: tuple[int, ...]) -> tuple[RequestId, Listener]:
        listener = Listener()
        group = self.engine.pin(WarmJob(prefix), listener)
        self.engine.add(group)
        return group.handle, listener


def bench(runner: Runner | None = None, context: int = 4096, clock: Callable[[], float] | None = None, **config: Any) -> Bench:
    chosen = EngineConfig(**({"n_pages": 1024} | config))
    fold = Fold()
    runner = runner or HashRunner(chosen.n_pages, chosen.page_size)
    ticks = count()  # of less than a microsecond: what is drafted must not depend on how busy the machine is
    clock = clock or (lambda: next(ticks) / 1e7)
    return Bench(Engine(chosen, runner, ByteTokenizer(), context=context, namespace=("test",), emit=fold, clock=clock), fold)


def expect_idle(bench: Bench) -> None:
    """Nothing runs, nothing waits, nothing is leased, and eviction gets every page back."""
    stats = bench.engine.stats()
    assert (stats["requests_running"], stats["requests_waiting"]) == (0, 0)
    assert all(node.refs == 0 for node in bench.engine.snapshot(0).nodes)
    bench.engine.flush()
    bench.expect_books()
    assert bench.engine.stats()["pages_free"] == stats["pages_total"]


def forked_process(child: Callable[[], str], deadline_s: float = 20.0) -> str:
    """What `child` returns, or raises, in a process forked from this one; it is killed when it hangs."""
    reader, writer = os.pipe()
    process = os.fork()
    if process == 0:
        try:
            given = child()
        except BaseException as error:
            given = f"{type(error).__name__}: {error}"
        os.write(writer, given.encode())
        os._exit(0)
    os.close(writer)
    ready, _, _ = select.select([reader], [], [], deadline_s)
    if not ready:
        os.kill(process, signal.SIGKILL)
    given = os.read(reader, 65_536).decode() if ready else "it hangs"
    os.close(reader)
    os.waitpid(process, 0)
    return given
