"""Runs a workload on a lab and counts: throughput, latency, cache hits against the optimum, right
answers.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, fields, replace

from ..contracts.errors import BadArgument, SglError
from ..contracts.events import Entry, ExprFinished, ForkOpened, ForksEnded, RequestQueued, TokensSampled
from ..contracts.ids import ForkId, RequestId
from ..contracts.policies import BELADY
from ..lang.state import ProgramState, start
from ..session import BUILT_IN, Lab
from ..trace import Record
from .data import Data, Row
from .workload import Item, Workload

Progress = Callable[[int, int, str], None]
"""done, in all (0 if unknown), and of what: bytes of a model that loads, items of a workload"""


def unseen(done: int, total: int, text: str) -> None:
    """Shows nothing."""


Watch = Callable[[Lab, Record], AbstractContextManager[object]]
"""entered while a workload runs"""


def unwatched(lab: Lab, record: Record) -> AbstractContextManager[object]:
    return nullcontext()


@dataclass(frozen=True, slots=True)
class Setup:
    """What is measured with. The defaults are those of a lab; `reuse`, `hint` and `overlap` exist to
    measure what they are worth.

    parallel  programs that run at once
    hint      whether a fork computes its parent's prefix before its children start
    overlap   whether a program's streams run in parallel; False waits for each expression
    """

    model: str = BUILT_IN
    device: str | None = None
    dtype: str | None = None
    parallel: int = 16
    schedule: str = "lpm"
    evict: str = "lru"
    reuse: str = "prefix"
    cache_tokens: int | None = None
    draft_tokens: int = 64
    jump_forward: bool = True
    hint: bool = True
    overlap: bool = True
    deterministic: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if type(self.parallel) is not int or not 1 <= self.parallel <= 256:
            raise BadArgument(f"parallel must be a whole number from 1 to 256, not {self.parallel!r}")

    def plain(self) -> Row:
        return asdict(self)

    @property
    def of_lab(self) -> Setup:
        """What of it decides the lab. The rest is how programs are run on one."""
        return replace(self, parallel=1, hint=True, overlap=True)

    def lab(self, progress: Progress) -> Lab:
        """A lab of its own. Errors as of `Lab`."""
        return Lab(
            self.model,
            device=self.device,
            dtype=self.dtype,
            schedule=self.schedule,
            evict=self.evict,
            reuse=self.reuse,
            cache_tokens=self.cache_tokens,
            draft_tokens=self.draft_tokens,
            jump_forward=self.jump_forward,
            deterministic=self.deterministic,
            seed=self.seed,
            progress=progress,
        )


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one run of a workload took. Lists have an entry for each item, in their order.

    hit_rate      share of the prompts' tokens that came from the cache, warmed prefixes included
    best_in_order the same for the best eviction policy (Belady) with a cache of this size and
                  requests in the order of this run
    best          the same for the best order of requests: every prefix is computed once
    latency_s     from the start of a program to its last value
    first_s       of each request, from its arrival to its first token
    right         None where nothing is right or wrong
    """

    workload: str
    data: str
    ids: list[str]
    seconds: float
    requests: int
    prompt_tokens: int
    cached_prompt_tokens: int
    computed_tokens: int
    generated_tokens: int
    steps: int
    hit_rate: float
    best_in_order: float
    best: float
    latency_s: list[float]
    first_s: list[float]
    right: list[bool | None]
    texts: list[str]
    failed: list[str]

    @property
    def programs_per_s(self) -> float:
        return len(self.ids) / self.seconds

    @property
    def accuracy(self) -> float | None:
        judged = [each for each in self.right if each is not None]
        return sum(judged) / len(judged) if judged else None

    @property
    def of_best(self) -> float:
        """The hit rate as a share of the best one; 1 if nothing can be hit."""
        return self.hit_rate / self.best if self.best else 1.0

    def plain(self) -> Row:
        return asdict(self)

    @classmethod
    def read(cls, value: Row) -> Outcome:
        """BadArgument unless all fields are there."""
        names = [each.name for each in fields(cls)]
        if missing := [name for name in names if name not in value]:
            raise BadArgument(f"the results of a workload have no {', '.join(missing)}")
        return cls(**{name: value[name] for name in names})


def check(workload: Workload, lab: Lab) -> None:
    """BackendUnsupported if the model of `lab` cannot run it."""
    for name in workload.needs:
        if not getattr(lab.card.capabilities, name):
            raise lab.card.capabilities.missing(name, lab.model, f"the workload {workload.name}")


def run(
    workload: Workload,
    data: Data,
    lab: Lab,
    setup: Setup,
    n: int | None = None,
    notify: Progress = unseen,
    watch: Watch = unwatched,
) -> Outcome:
    """Run the workload's program for `n` items, from an empty cache. An item that fails does not
    affect the others. Errors of the data are raised before anything runs.
    """
    check(workload, lab)
    items = list(workload.read(data, n))
    if not items:
        raise BadArgument("there is nothing to run", hint="n is 1 or more")
    backend = lab.backend if setup.hint else lab.backend.unwarmed()
    lab.flush()
    before, began = lab.stats(), time.perf_counter()
    states: list[ProgramState | Exception] = []
    with (
        workload.around(lab) if workload.around else nullcontext({}) as more,
        lab.record(workload.title) as record,
        watch(lab, record),
        start(backend, lab.emit, record.run).running(),
    ):
        notify(0, len(items), workload.name)
        results = workload.program.run_batch(
            [{**item.arguments, **more} for item in items],
            num_threads=setup.parallel if setup.overlap else 1,
            generator_style=True,
            return_exceptions=True,
            backend=backend,
            use_thread=setup.overlap,
            temperature=workload.temperature,
        )
        for state in results:
            states.append(state)
            notify(len(states), len(items), workload.name)
    seconds = time.perf_counter() - began
    after = lab.stats()
    counts = {name: int(after[name] - before[name]) for name in ("prompt_tokens", "cached_prompt_tokens", "computed_tokens", "steps")}
    in_order, best = best_hits(lab, record)
    times = Times.of(record.entries)
    return Outcome(
        workload.name,
        data.name,
        [item.id for item in items],
        seconds,
        times.n_requests,
        **counts,
        generated_tokens=int(after["generated_tokens"] - before["generated_tokens"]),
        hit_rate=counts["cached_prompt_tokens"] / max(1, counts["prompt_tokens"]),
        best_in_order=in_order,
        best=best,
        latency_s=[times.of_program(state) for state in states],
        first_s=times.first,
        right=[_right(workload, item, state) for item, state in zip(items, states, strict=True)],
        texts=["" if isinstance(state, Exception) else state.text() for state in states],
        failed=[f"{item.id}: {state}" for item, state in zip(items, states, strict=True) if isinstance(state, Exception)],
    )


def _right(workload: Workload, item: Item, state: ProgramState | Exception) -> bool | None:
    if isinstance(state, Exception):
        return None
    try:
        return workload.judge(item, state)
    except SglError:
        return False


def best_hits(lab: Lab, record: Record) -> tuple[float, float]:
    """The hit rates of the optimum in the order of the record, and of the best order.

    In the best order no prefix is evicted before its last use (the tree in depth first), so that
    order computes what an unbounded cache would: each distinct prefix once.
    """
    here, unbounded = lab.what_if(record, evict=BELADY, cache_tokens=(record.snapshot.n_pages * lab.page_size, 1 << 40))
    return here.hit_rate, unbounded.hit_rate


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds, by the stamps of the events."""

    n_requests: int
    first: list[float]
    """of each request that drew a token: from its arrival to its first one"""
    programs: Mapping[ForkId, float]
    """of the program with this root: from its first event to its last value, or to its end if it has
    no value
    """

    @classmethod
    def of(cls, entries: Iterable[Entry]) -> Times:
        roots: dict[ForkId, ForkId] = {}
        queued: dict[RequestId, int] = {}
        first: dict[RequestId, float] = {}
        began: dict[ForkId, int] = {}
        ended: dict[ForkId, int] = {}
        over: dict[ForkId, int] = {}
        for entry in entries:
            match entry.event:
                case ForkOpened(fork=fork, parent=parent):
                    root = roots[fork] = fork if parent is None else roots.get(parent, fork)
                    began.setdefault(root, entry.t_ns)
                case RequestQueued(request=request, kind=kind) if kind != "warm":
                    queued[request] = entry.t_ns
                case TokensSampled(samples=samples):
                    for sample in samples:
                        if sample.request in queued:
                            first.setdefault(sample.request, (entry.t_ns - queued[sample.request]) / 1e9)
                case ExprFinished(fork=fork) if fork in roots:
                    ended[roots[fork]] = entry.t_ns
                case ForksEnded(forks=forks):
                    over |= {fork: entry.t_ns for fork in forks if roots.get(fork) == fork}
                case _:
                    pass
        ended = began | over | ended
        return cls(len(queued), list(first.values()), {root: (ended[root] - at) / 1e9 for root, at in began.items()})

    def of_program(self, state: ProgramState | Exception) -> float:
        return 0.0 if isinstance(state, Exception) else self.programs.get(ForkId(int(state.stream_executor.sid)), 0.0)


ABLATIONS: Mapping[str, Callable[[Setup], Setup]] = {
    "full": lambda setup: setup,
    "no cache": lambda setup: replace(setup, reuse="none"),
    "no tree": lambda setup: replace(setup, reuse="sequence"),
    "FCFS": lambda setup: replace(setup, schedule="fcfs"),
    "random order": lambda setup: replace(setup, schedule="random"),
    "no parallelism": lambda setup: replace(setup, overlap=False),
    "no fork hint": lambda setup: replace(setup, hint=False),
    "no drafts": lambda setup: replace(setup, draft_tokens=0),
    "no forced tokens": lambda setup: replace(setup, jump_forward=False),
}
"""what is left out; the first six of them as in the paper"""


def median(values: Sequence[float]) -> float:
    return statistics.median(values) if values else 0.0


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` of them do not exceed; 0 if there are none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0
