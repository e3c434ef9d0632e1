"""The gate of drafts learns what a step costs from synthetic times, and drafts where that pays."""

from __future__ import annotations

import random

import pytest

from sgl_lab.engine.plan import Plan, RowOutput
from sgl_lab.engine.serving.scheduling.costs import SHAPE, Costs, StepCosts
from sgl_lab.engine.tools.fake import HashRunner

from .driving import Bench, bench

CPUS = {"waits for memory": Costs(30, 1, 0.5), "waits for arithmetic": Costs(2, 3, 3), "long contexts": Costs(5, 4, 0.5)}


def learned(true: Costs, *, noise: float, n: int = 300) -> Costs:
    costs, draw = StepCosts(), random.Random(1)
    for _ in range(n):
        n_rows, n_drafts = draw.randint(1, 12), draw.choice((0, 0, 4, 8, 20))
        ms = (true.step + true.row * n_rows + true.token * n_drafts) * draw.uniform(1 - noise, 1 + noise)
        costs.observe(n_rows, n_drafts, ms * (20 if draw.random() < 0.01 else 1))
    return costs.costs


@pytest.mark.parametrize("true", CPUS.values(), ids=CPUS)
def test_costs_are_those_of_the_machine_in_spite_of_noise_and_hiccups(true: Costs) -> None:
    found = learned(true, noise=0.2)
    for n_rows in (1, 4, 8):
        wanted = true.price(n_rows, is_even=True)
        assert found.price(n_rows, is_even=True) == pytest.approx(wanted, rel=0.35, abs=0.04)
        assert found.price(n_rows, is_even=False) >= found.price(n_rows, is_even=True)


def test_what_no_step_tells_apart_keeps_the_shape_of_before() -> None:
    costs = StepCosts()
    assert (costs.costs.step, costs.costs.row, costs.costs.token) == SHAPE
    for _ in range(50):
        costs.observe(8, 0, 32.0)
    found = costs.costs
    assert found.step + 8 * found.row == pytest.approx(32, rel=0.02)
    assert found.token == pytest.approx(2 * SHAPE[2], rel=0.02)


def test_steps_of_another_load_replace_the_old_ones_and_short_ones_are_not_looked_at() -> None:
    costs = StepCosts()
    for true in (Costs(30, 1, 0.5), Costs(2, 3, 3)):
        for i in range(600):
            costs.observe(n := 1 + i % 8, k := 4 * (i % 3), true.step + true.row * n + true.token * k)
    assert costs.costs.price(4, is_even=True) == pytest.approx(Costs(2, 3, 3).price(4, is_even=True), rel=0.1)
    before = costs.costs
    costs.observe(1, 0, 0.01)
    assert costs.costs == before


class Priced(HashRunner):
    """Each step takes as long as `true` says, by a clock of its own."""

    def __init__(self, true: Costs) -> None:
        super().__init__(4096, 1)
        self._true = true
        self.now = 0.0

    def run(self, plan: Plan) -> tuple[RowOutput, ...]:
        n_drafts = sum(row.n_drafts for row in plan.rows)
        n_own = sum(len(row.tokens) for row in plan.rows) - n_drafts
        self.now += (self._true.step + self._true.row * n_own + self._true.token * n_drafts) / 1000
        return super().run(plan)


def drain(b: Bench) -> None:
    while b.engine.step():
        pass


def seconds(true: Costs, draft_tokens: int) -> float:
    """Of a load with little to draft, in batches of several sizes, and of the same again."""
    runner, draw = Priced(true), random.Random(3)
    b = bench(runner, clock=lambda: runner.now, n_pages=4096, draft_tokens=draft_tokens)
    jobs = [(n, tuple(draw.choices(range(60, 70), k=60))) for n in (1, 8, 8, 3, 16)]
    for is_again in (False, True):
        for n, prompt in jobs:
            for i in range(n):
                b.gen((*prompt, i), max_tokens=24 + (i % 3) * 8, ignore_eos=True, temperature=0 if is_again else 1, seed=i)
            drain(b)
    return runner.now


@pytest.mark.parametrize("true", CPUS.values(), ids=CPUS)
def test_the_default_is_never_far_behind_no_drafts(true: Costs) -> None:
    assert seconds(true, 64) <= 1.02 * seconds(true, 0)


def test_the_engine_reports_what_it_learned() -> None:
    true = Costs(30, 1, 0.5)
    runner = Priced(true)
    b = bench(runner, clock=lambda: runner.now, n_pages=4096)
    assert b.engine.stats()["step_token_ms"] == 0
    for i in range(6):
        for n in range(1 + i % 3):
            b.gen((1, 2, 3, n) * 6, max_tokens=60, ignore_eos=True)
        drain(b)
    stats = b.engine.stats()
    assert stats["step_base_ms"] == pytest.approx(true.step, rel=0.1)
    assert stats["step_token_ms"] == pytest.approx(true.token, rel=0.3)
