"""What a graph will compute, before a token is spent.

The graph runs on a stand-in for its backend: the same tokenizer and templates, no model. A gen gives
as many tokens as it may at most, a select its first choice. So prompts are exact where the lengths
of answers are, and bounds elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise

from ...contracts.events import silent
from ...contracts.ids import Counter, RequestId
from ...contracts.params import Constraint
from ...contracts.port import (
    Backend,
    GenJob,
    GenListener,
    GenOutput,
    Message,
    ModelCard,
    ScoreJob,
    ScoreListener,
    ScoreOutput,
    Segment,
    TokenLogprob,
    Usage,
    WarmJob,
    WarmListener,
)
from ...contracts.spans import Block
from ..sampling import GenDefaults
from ..state import start
from .dataflow import Graph
from .feeder import Feeder, Gate

FIELDS = ("requests", "prompt_tokens", "cached_tokens", "computed_tokens", "completion_tokens")


@dataclass
class Planned:
    """Counts in tokens, as a run's meta info has them. `completion_tokens` are at most."""

    requests: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    computed_tokens: int = 0
    completion_tokens: int = 0
    decoded_tokens: int = 0
    """of the computed ones, those of answers"""
    is_bound: bool = False
    """whether the length of an answer that a later prompt contains is not known"""

    def counts(self) -> dict[str, int]:
        return {name: getattr(self, name) for name in FIELDS}


class Prefixes:
    """The tokens that are cached, as a trie."""

    def __init__(self, paths: Iterable[Sequence[int]] = ()) -> None:
        self._root: dict[int, object] = {}
        for path in paths:
            self.add(path)

    def add(self, tokens: Sequence[int]) -> None:
        node = self._root
        for token in tokens:
            node = node.setdefault(token, {})  # type: ignore[assignment]  # a trie: each value is one

    def n_known(self, tokens: Sequence[int]) -> int:
        node, n = self._root, 0
        for token in tokens:
            if token not in node:
                break
            node, n = node[token], n + 1  # type: ignore[assignment]
        return n


@dataclass
class _NoModel:
    """A backend that answers at once, with the tokenizer of another."""

    real: Backend
    cached: Prefixes
    planned: Planned = field(default_factory=Planned)
    prompts: list[tuple[int, ...]] = field(default_factory=list)
    _requests: Counter = field(default_factory=Counter)

    def submit(self, job: GenJob, listener: GenListener) -> RequestId:
        request = RequestId(self._requests.next())
        most = min(job.params.max_tokens or 0, self.describe().context - len(job.prompt))
        outputs = tuple(self._output(job, most, int(request), sample) for sample in range(job.params.n))
        n_decoded = max(0, most - 1) * job.params.n
        usage = self._count(job.prompt, most * job.params.n, extra=n_decoded)
        self.planned.decoded_tokens += n_decoded
        self.planned.is_bound |= bool(job.params.constraint or job.params.stop or not job.params.ignore_eos)
        for output in outputs:
            self.cached.add((*job.prompt, *output.ids[:-1]))
        listener.on_done(tuple(replace(output, usage=usage) for output in outputs))
        return request

    def _output(self, job: GenJob, most: int, request: int, sample: int) -> GenOutput:
        """Tokens that no other answer has, as far as the vocabulary allows."""
        text = "".join(f" {(request * 7 + sample * 3 + index) % 97}" for index in range(most))
        ids = self.real.encode(text)[:most]
        return GenOutput(self.real.decode(ids), ids, "length", None, (), Usage(), True if job.params.constraint else None)

    def score(self, job: ScoreJob, listener: ScoreListener) -> RequestId:
        request = RequestId(self._requests.next())
        usage = self._count(job.prompt, 0, extra=sum(map(len, job.choices)))
        rows = tuple(tuple(TokenLogprob(token, -1.0 - index) for token in choice) for index, choice in enumerate(job.choices))
        for choice in job.choices:
            self.cached.add((*job.prompt, *choice))
        listener.on_done(ScoreOutput(rows, usage))
        return request

    def warm(self, job: WarmJob, listener: WarmListener) -> RequestId:
        listener.on_done(self._count(job.prompt, 0))
        return RequestId(self._requests.next())

    def _count(self, prompt: Sequence[int], completion: int, extra: int = 0) -> Usage:
        known = min(self.cached.n_known(prompt), max(0, len(prompt) - 1))
        self.cached.add(prompt)
        self.prompts.append(tuple(prompt))
        planned, computed = self.planned, len(prompt) - known + extra
        planned.requests += 1
        planned.prompt_tokens += len(prompt)
        planned.cached_tokens += known
        planned.computed_tokens += computed
        planned.completion_tokens += completion
        return Usage(prompt_tokens=len(prompt), completion_tokens=completion, cached_tokens=known, computed_tokens=computed)

    # ------------------------------------------------------------ the other's own

    def describe(self) -> ModelCard:
        return self.real.describe()

    def prepare(self, constraint: Constraint) -> None:
        """Nothing is generated."""

    def cancel(self, request: RequestId) -> None:
        """Nothing is running."""

    def poll(self) -> None:
        """It never ends."""

    def at_once(self) -> AbstractContextManager[object]:
        return nullcontext()

    def encode(self, text: str, *, markup: bool = False) -> tuple[int, ...]:
        return self.real.encode(text, markup=markup)

    def encode_all(self, segments: Sequence[Segment]) -> tuple[int, ...]:
        return self.real.encode_all(segments)

    def decode(self, ids: Sequence[int], *, special: bool = True) -> str:
        return self.real.decode(ids, special=special)

    def see(self, image: bytes) -> Block:
        return self.real.see(image)

    def n_open(self, ids: Sequence[int]) -> int:
        return 0

    def render_chat(self, messages: Sequence[Message], *, add_generation_prompt: bool) -> tuple[Segment, ...]:
        return self.real.render_chat(messages, add_generation_prompt=add_generation_prompt)

    def render_text(self, text: str) -> tuple[Segment, ...]:
        return self.real.render_text(text)

    def render_start(self) -> tuple[Segment, ...]:
        return self.real.render_start()


def plan(
    graph: Graph,
    rows: Sequence[Mapping[str, str]],
    backend: Backend,
    cached: Iterable[Sequence[int]] = (),
    defaults: GenDefaults | None = None,
) -> Planned:
    """What runs of the graph with these arguments would compute, one after the other, given the
    token sequences that are `cached` now.
    """
    stand_in = _NoModel(backend, Prefixes(cached))
    for row in rows:
        _run(graph, row, stand_in, defaults or GenDefaults(), ())
    return stand_in.planned


def requests(
    graph: Graph, row: Mapping[str, str], backend: Backend, steps: Mapping[int, int], defaults: GenDefaults
) -> list[list[tuple[int, ...]]]:
    """The prompts of one run, by the step in which they are asked."""
    stand_in = _NoModel(backend, Prefixes())
    ends = _run(graph, row, stand_in, defaults, [Gate(steps, step) for step in sorted(set(steps.values()))])
    return [stand_in.prompts[first:end] for first, end in pairwise((0, *ends))]


def _run(graph: Graph, row: Mapping[str, str], stand_in: _NoModel, defaults: GenDefaults, gates: Sequence[Gate]) -> list[int]:
    """Run the graph. Returns how many prompts were asked by the end of each gate."""
    state = start(stand_in, silent, None, defaults, graph.name)
    feeder, ends = Feeder(graph, state, row), []
    with state.running():
        for gate in gates:
            state._run.wait(partial(feeder.advance, gate))
            ends.append(len(stand_in.prompts))
        state._run.wait(feeder.advance)
        state.wait()
    state.finish()
    return ends
