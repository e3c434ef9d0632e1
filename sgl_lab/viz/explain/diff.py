"""Two runs side by side. The same gen of the same fork in both runs is a pair, compared token by
token. Knows no tokenizer and draws nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from difflib import unified_diff

from ...contracts.events import Sample, StepRan
from ...contracts.legible import finite
from ...trace import Record
from ..views.inspection import Inspection, inspections
from ..views.metrics import MetricsView
from .history import shared


@dataclass(frozen=True, slots=True)
class Pair:
    """A gen or select of both runs, or of one of them."""

    name: str
    """the name, preceded by the fork's name if there are forks"""
    kind: str
    a: Inspection | None
    b: Inspection | None
    n_prompt_same: int = 0
    n_answer_same: int = 0

    @property
    def has_equal_prompts(self) -> bool:
        """Whether both runs have it after exactly the same tokens."""
        return self.a is not None and self.b is not None and self.a.prompt == self.b.prompt

    @property
    def has_equal_answers(self) -> bool:
        """Whether both runs have the same answer: equal tokens for a gen, an equal choice for a
        select.
        """
        if self.a is None or self.b is None:
            return False
        n = self.n_answer_same
        return n == len(self.a.samples) == len(self.b.samples) and (self.kind == "gen" or self.a.value == self.b.value)

    def parting(self) -> tuple[Sample | None, Sample | None]:
        """The first tokens of the answers that differ; None for an answer that ended before."""
        one, other = (side.samples[self.n_answer_same :] if side else [] for side in (self.a, self.b))
        return (one[0] if one else None, other[0] if other else None)


def runner_up(sample: Sample) -> tuple[int, float] | None:
    """The likeliest token other than the sampled one, with its logprob. None if no alternatives
    were recorded.
    """
    return next(((token, logprob) for token, logprob in sample.top if token != sample.token and finite(logprob) is not None), None)


@dataclass(frozen=True, slots=True)
class Costs:
    """Counts of the whole recording, including programs that its cell started."""

    cached: int
    computed: int
    generated: int
    forced: int
    evicted: int
    steps: int
    step_ms: float
    ms: float
    """milliseconds from the first event to the last"""


@dataclass(frozen=True, slots=True)
class Diff:
    a: str
    b: str
    edits: tuple[str, ...]
    """lines of the cells that differ, prefixed with - or +"""
    costs: tuple[Costs, Costs]
    pairs: tuple[Pair, ...]


def diff(a: Record, b: Record) -> Diff:
    lines = unified_diff(a.source.split("\n"), b.source.split("\n"), lineterm="", n=0)
    edits = tuple(line for line in list(lines)[2:] if not line.startswith("@@"))
    return Diff(a.title, b.title, edits, (_costs(a), _costs(b)), tuple(_pairs(a, b)))


def _pairs(a: Record, b: Record) -> Iterator[Pair]:
    """Pairs in the order of `b`, then what only `a` has."""
    mine, others = _named(a), _named(b)
    for name in dict.fromkeys([*others, *mine]):
        one, other = mine.get(name), others.get(name)
        known = other or one
        if known is None or one is None or other is None:
            yield Pair(name, known.kind if known else "gen", one, other)
            continue
        drawn = [tuple(sample.token for sample in side.samples) for side in (one, other)]
        yield Pair(name, other.kind, one, other, shared(one.prompt, other.prompt), shared(drawn[0], drawn[1]))


def _named(record: Record) -> dict[str, Inspection]:
    """Every gen and select under a stable name: the fork's name, its own name, and a number if the
    name repeats. The same program gives it the same name again.
    """
    found: dict[str, Inspection] = {}
    n_of: dict[str, int] = {}
    for one in inspections(record.entries):
        name = one.title
        while name in found:
            n_of[one.title] = n = n_of.get(one.title, 1) + 1
            name = f"{one.title} ({n})"
        found[name] = one
    return found


def _costs(record: Record) -> Costs:
    view = MetricsView()
    view.load(record.snapshot)
    n_steps, step_ms = 0, 0.0
    for entry in record.entries:
        view.fold(entry)
        if isinstance(entry.event, StepRan):
            n_steps, step_ms = n_steps + 1, step_ms + (finite(entry.event.ms) or 0.0)
    strip = view.full()
    times = [entry.t_ns for entry in record.entries]
    ms = (times[-1] - times[0]) / 1e6 if times else 0.0
    return Costs(strip["cached"], strip["computed"], strip["generated"], strip["forced"], strip["evicted"], n_steps, step_ms, ms)
