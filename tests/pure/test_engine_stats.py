"""What the engine says of itself: counts that add up, time that is spent once, and text that Prometheus reads."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from sgl_lab.contracts.events import Event, StepRan
from sgl_lab.engine.plan import Plan, RowOutput
from sgl_lab.engine.serving.config import EngineConfig
from sgl_lab.engine.serving.engine import Engine
from sgl_lab.engine.serving.prometheus import METRICS, prometheus
from sgl_lab.engine.tools.fake import ByteTokenizer, HashRunner

from .driving import Bench, Fold, bench

PARTS = ("scheduler_s", "model_s", "sampler_s", "commit_s", "listeners_s", "events_s")


class Clock:
    """Moves only when a test moves it."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Slow(HashRunner):
    """Takes 100 seconds a step, 30 of them to sample."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(1024, 1)
        self._clock = clock
        self.seconds: Mapping[str, float] = {"sampler": 0.0}

    def run(self, plan: Plan) -> tuple[RowOutput, ...]:
        self._clock.now += 100.0
        self.seconds = {"sampler": self.seconds["sampler"] + 30.0}
        return super().run(plan)


def test_time_is_put_down_once_and_where_it_was_spent() -> None:
    clock, fold = Clock(), Fold()

    def slow_emit(event: Event) -> None:
        clock.now += 1.0
        fold(event)

    engine = Engine(EngineConfig(n_pages=1024), Slow(clock), ByteTokenizer(), context=4096, emit=slow_emit, clock=clock)
    b = Bench(engine, fold)
    b.gen(tuple(b"how long does it take?"), max_tokens=4, ignore_eos=True)
    n_before = len(fold.events)
    n_steps = b.drain()
    stats = engine.stats()
    assert n_steps == stats["steps"] == 4
    assert {part: stats[part] for part in PARTS} == {
        "scheduler_s": 0.0,
        "model_s": 280.0,
        "sampler_s": 120.0,
        "commit_s": 0.0,
        "listeners_s": 0.0,
        "events_s": float(len(fold.events) - n_before),
    }
    assert stats["step_ms"] == sum(stats[part] for part in PARTS) * 1000 / 4
    assert [step.ms >= 100_000 for step in fold.of(StepRan)] == [True] * 4


def test_a_runner_that_says_nothing_of_its_sampler_has_no_such_number() -> None:
    b = bench()
    b.gen((1, 2, 3))
    b.drain()
    stats = b.engine.stats()
    assert "sampler_s" not in stats
    assert "sampler" not in prometheus(stats)
    assert all(stats[part] > 0 for part in PARTS if part != "sampler_s")


def busy() -> Bench:
    b = bench(n_pages=64, max_rows=4)
    for i in range(12):
        b.gen(tuple(f"{i} of a dozen".encode()), max_tokens=12, ignore_eos=True)
    b.warm((1, 2, 3))
    b.pin((7,) * 5)
    b.step()
    b.engine.cancel(b.engine._groups.all[0].id)
    b.drain()
    return b


def test_counts_are_of_what_the_events_say() -> None:
    b = busy()
    stats, steps = b.engine.stats(), b.fold.of(StepRan)
    assert stats["steps"] == len(steps)
    assert stats["step_rows"] == sum(len(step.prefill) + len(step.decode) for step in steps) / len(steps)
    assert (stats["requests_length"], stats["requests_abort"], stats["requests_stop"], stats["requests_error"]) == (13, 1, 0, 0)
    assert stats["evictions"] == sum(type(event).__name__ == "NodeEvicted" for event in b.fold.events) > 0
    assert stats["nodes"] == len(b.fold.nodes)


def test_prometheus_reads_the_text_and_finds_every_number() -> None:
    parser = pytest.importorskip("prometheus_client.parser")
    stats = busy().engine.stats() | {"sampler_s": 0.5}
    families = list(parser.text_string_to_metric_families(prometheus(stats)))
    assert [family.type for family in families] == [metric.kind for metric in METRICS]
    assert all(family.documentation for family in families)
    found = {(sample.name, *sample.labels.values()): sample.value for family in families for sample in family.samples}
    assert all(name.startswith("sgl_lab_") for name, *_ in found)
    assert len(found) == sum(len(metric.samples) for metric in METRICS)
    assert found["sgl_lab_prompt_tokens_total",] == stats["prompt_tokens"]
    assert found["sgl_lab_requests_total", "abort"] == 1
    assert found["sgl_lab_pages_pinned",] == 5
    assert found["sgl_lab_step_seconds_total", "model"] == stats["model_s"] > 0
    assert found["sgl_lab_hit_ratio",] == stats["hit_rate"]


def test_every_metric_is_named_once_and_every_count_is_one_of_the_engine_s() -> None:
    stats = bench().engine.stats() | {"sampler_s": 0.0}
    keys = [key for metric in METRICS for key in metric.samples.values()]
    assert set(keys) == stats.keys()
    assert len(keys) == len(set(keys))
    assert len({metric.name for metric in METRICS}) == len(METRICS)
