"""Whatever goes wrong in one request, wherever it stands: that request fails, typed, and no other request changes."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from sgl_lab.contracts.errors import RequestFailed
from sgl_lab.contracts.params import Constraint, SamplingParams
from sgl_lab.contracts.port import GenJob, ScoreJob, WarmJob
from sgl_lab.engine.plan import Plan, Row, RowOutput
from sgl_lab.engine.serving.group import RequestGroup
from sgl_lab.engine.tools.fake import HashRunner

from ..pure.driving import SOAK, Bench, Late, Listener, Stream, bench, expect_idle

N_SEEDS = 3 if SOAK == 1 else 20
FORM = Constraint("json_schema", '{"type": "array", "items": {"enum": ["one thing", "another", 3]}, "minItems": 4}')
FIRST = 255
"""the token that the culprit alone begins with"""


class OutOfMemoryError(RuntimeError):
    """As torch raises it."""


HOW: Mapping[str, Exception] = {
    "nan": RequestFailed("the model's logits are not finite"),
    "memory": MemoryError("out of memory"),
    "device": OutOfMemoryError("CUDA out of memory"),
    "bug": ZeroDivisionError("division by zero"),
}

Predicate = Callable[[Row, RequestGroup], bool]


def draws(position: int) -> Predicate:
    return lambda row, group: any(sampling.position == position for sampling in row.samplings)


def in_no_row(row: Row, group: RequestGroup) -> bool:
    """The fault is not in the model, but where a constraint works out what may be drawn."""
    return False


WHERE: Mapping[str, tuple[str, Predicate]] = {
    "the first chunk": ("gen", lambda row, group: row.start == 0),
    "the last chunk": ("gen", draws(0)),
    "the second token": ("gen", draws(1)),
    "the ninth token": ("gen", draws(8)),
    "one sample of three": ("samples", lambda row, group: row.request == group.requests[1].id and draws(3)(row, group)),
    "a mask": ("constrained", in_no_row),
    "a score": ("score", lambda row, group: bool(row.targets)),
    "a warm": ("warm", lambda row, group: row.start > 0),
}
LISTENERS = ("on_progress", "on_done")
POINTS = [(where, how) for where in WHERE for how in HOW] + [("a listener", method) for method in LISTENERS]


class Faulty(HashRunner):
    """Fails on the culprit's rows that `is_hit` says: alone where that is the kind of fault, else with the whole step."""

    group: RequestGroup
    is_hit: Predicate = staticmethod(in_no_row)
    error: Exception
    n_faults = 0

    def run(self, plan: Plan) -> tuple[RowOutput, ...]:
        plan.before_draws()
        outputs = [self._run(row) for row in plan.rows]  # written first, as by a kernel that fails late
        for i, row in enumerate(plan.rows):
            if any(row.request == request.id for request in self.group.requests) and self.is_hit(row, self.group):
                self.n_faults += 1
                if not isinstance(self.error, RequestFailed):
                    raise self.error
                outputs[i] = RowOutput(error=self.error)
        return tuple(outputs)


class LateFaulty(Late, Faulty):
    """The same while the results of others are delivered: a fault shows when the results are asked for."""


class StreamFaulty(Stream, Faulty):
    """The same with a step started before the last is taken in: what was built upon a step that failed comes to nothing."""


class FaultyGuide:
    """A matcher that fails at its second mask."""

    def __init__(self, runner: Faulty) -> None:
        (request,) = runner.group.requests
        self._runner, self._matcher, request.matcher, self._n_filled = runner, request.matcher, self, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._matcher, name)

    def fill(self, draft: tuple[int, ...]) -> None:
        self._n_filled += 1
        if self._n_filled == 2:
            self._runner.n_faults += 1
            raise self._runner.error
        self._matcher.fill(draft)  # type: ignore[union-attr]


class Raising(Listener):
    def __init__(self, method: str) -> None:
        super().__init__()
        self._method = method

    def on_progress(self, index: int, text: str, ids: tuple[int, ...]) -> None:
        if self._method == "on_progress":
            raise ZeroDivisionError("mine")

    def on_done(self, answer: Any) -> None:
        super().on_done(answer)
        if self._method == "on_done":
            raise ZeroDivisionError("mine")


def serve(seed: int, kind: str, listener: Listener, arm: Callable[[Faulty], None]) -> tuple[Bench, Faulty, list[Any]]:
    """A culprit among others; what the others were answered."""
    draw = random.Random(seed)
    runner = (Faulty, LateFaulty, StreamFaulty)[seed % 3](512, 1)
    b = bench(runner, n_pages=512, max_rows=8, step_tokens=24)
    shared = tuple(draw.choices(range(200), k=40))
    others = []

    def ask(n: int) -> None:
        for _ in range(n):
            prompt = shared[: draw.randrange(10, 40)] + tuple(draw.choices(range(200), k=draw.randrange(8)))
            if draw.random() < 0.2:
                others.append(b.score(prompt, (1, 2), (1, 3)))
            else:
                constraint = draw.choice((None, FORM))
                sampled: dict[str, Any] = {"temperature": draw.choice((0.0, 1.0)), "seed": draw.randrange(9), "n": draw.choice((1, 1, 2))}
                sampled["constraint"] = constraint
                others.append(b.gen(prompt, max_tokens=draw.randrange(1, 30), **sampled))

    prompt = (FIRST, *shared)
    engine = b.engine
    ask(draw.randrange(6))
    match kind:
        case "score":
            runner.group = engine.score(ScoreJob(prompt, ((1, 2), (3,))), listener)
        case "warm":
            runner.group = engine.warm(WarmJob(prompt), listener)
        case _:
            constraint = FORM if kind == "constrained" else None
            params = SamplingParams(max_tokens=20, n=3 if kind == "samples" else 1, seed=1, ignore_eos=True, constraint=constraint)
            runner.group = engine.gen(GenJob(prompt, params), listener)
    arm(runner)
    for _ in range(draw.randrange(4)):
        b.step()
    engine.add(runner.group)
    ask(draw.randrange(1, 6))
    b.drain()
    return b, runner, [answer_of(other) for other in others]


def answer_of(listener: Listener) -> Any:
    """What was answered, without what it cost."""
    if isinstance(listener.answer, tuple):
        return [(output.text, output.ids, output.finish_reason, output.logprobs) for output in listener.answer]
    return listener.answer.logprobs


@pytest.mark.parametrize("seed", range(N_SEEDS))
@pytest.mark.parametrize(("where", "how"), POINTS)
def test_a_fault_fails_its_own_request_and_nothing_else(where: str, how: str, seed: int) -> None:
    threads = threading.enumerate()
    kind, is_hit = WHERE.get(where, ("gen", None))
    healthy = Listener()
    _, _, wanted = serve(seed, kind, healthy, lambda runner: None)
    assert not isinstance(healthy.answers[0], Exception)

    def arm(runner: Faulty) -> None:
        if is_hit is not None:
            runner.is_hit, runner.error = is_hit, HOW[how]
        if is_hit is in_no_row:
            FaultyGuide(runner)

    culprit = Listener() if is_hit else Raising(how)
    b, runner, found = serve(seed, kind, culprit, arm)
    assert found == wanted
    assert len(wanted) >= 1
    assert len(culprit.answers) == 1
    if is_hit:
        assert runner.n_faults > 0
        error = culprit.answers[0]
        assert isinstance(error, RequestFailed)
        assert HOW[how] in (error, error.__cause__)
    expect_idle(b)
    assert set(threading.enumerate()) <= set(threads)  # idle workers of other tests may end meanwhile


def test_the_table_of_faults_is_as_long_as_it_promises(record_table: Callable[..., None]) -> None:
    assert len(POINTS) >= 30
    record_table("F1", points=len(POINTS), seeds=N_SEEDS)
