"""Auto-tuning: what is measured, what is chosen, and what is refused. Time is a number that the test sets."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

import sgl_lab as sgl
from sgl_lab.backends.scripted import ScriptedBackend
from sgl_lab.contracts.errors import BadArgument
from sgl_lab.contracts.knobs import Knobs, Place
from sgl_lab.contracts.policies import EVICTIONS
from sgl_lab.contracts.port import Usage, WarmJob
from sgl_lab.lang.graph.tuning import LEAST_ROWS, Setting, Tuned, grid, load_tuning, search
from sgl_lab.trace import Ring

from .generated import LONG
from .words import lab

KNOBS = Knobs(512, 64, "lpm", "lru")
HERE = Place("m", "float32", "2 cores", 1000)


class Engine:
    """An engine whose runs take the time that `cost` gives, with a jitter that repeats."""

    def __init__(self, cost: dict[str, float], jitter: tuple[float, ...] = (1.0,)) -> None:
        self.at, self.now, self.n_runs, self.n_computed = KNOBS, 0.0, 0, 0
        self.cost, self.jitter = cost, jitter
        self.turned: list[Knobs] = []
        self.replay: dict[str, int] = {}
        self.asked: tuple[str, ...] = ()

    def knobs(self) -> Knobs:
        return self.at

    def turn(self, knobs: Knobs) -> None:
        self.at = knobs
        self.turned.append(knobs)

    def place(self) -> Place:
        return HERE

    def flush(self) -> None:
        pass

    def computed(self) -> int:
        return self.n_computed

    def replayed(self, run: Callable[[], None], evict: Sequence[str]) -> Mapping[str, int]:
        self.asked = tuple(evict)
        return self.replay

    def run(self, n: int, width: int) -> None:
        self.n_runs += 1
        words = Setting(width, self.at).words(Setting(64, KNOBS))
        self.now += n * self.cost.get(words, 1.0) * self.jitter[self.n_runs % len(self.jitter)]
        self.n_computed += 10 * n

    def search(self, seconds: float, n_rows: int = 8) -> Tuned:
        return search("p", self.run, self, 64, n_rows, seconds, clock=lambda: self.now)


def test_a_setting_that_is_better_beyond_the_noise_is_chosen() -> None:
    engine = Engine({"step tokens 1024": 0.5, "draft tokens 0": 0.8}, (1.0, 1.01, 0.99))
    tuned = engine.search(10_000)
    assert tuned.choice == Setting(64, replace(KNOBS, step_tokens=1024))
    assert tuned.gain == pytest.approx(0.5, abs=0.02)
    assert tuned.noise < 0.03
    assert engine.at == KNOBS  # the engine is as it was
    assert tuned.trials[0].setting == tuned.choice
    assert "chosen: step tokens 1024 (0.50 of the default's time" in str(tuned)
    assert tuned.default_computed == 80


def test_candidates_are_halved_and_measured_beside_the_default() -> None:
    engine = Engine({"step tokens 1024": 0.5, "draft tokens 0": 0.8})
    tuned = engine.search(10_000)
    rounds = [trial.rounds for trial in tuned.trials]
    assert len(rounds) == len(grid(Setting(64, KNOBS)))
    assert rounds == sorted(rounds, reverse=True)
    of_round = [sum(each >= number for each in rounds) for number in range(1, max(rounds) + 1)]
    assert all(later == max(1, earlier // 2) for earlier, later in pairwise(of_round))
    assert of_round[-1] == 1
    pairs = {trial.rounds: len(trial.ratios) for trial in tuned.trials}
    assert [pairs[number] for number in sorted(pairs)] == [2**number for number in sorted(pairs)]
    measured = engine.turned[4:-1]
    assert set(measured[::2]) == {KNOBS}  # the default comes before each


def test_the_default_stays_where_it_differs_from_itself_by_more() -> None:
    chance = random.Random(4)
    noisy = Engine({"step tokens 1024": 0.97}, tuple(chance.uniform(0.6, 1.4) for _ in range(211)))
    tuned = noisy.search(10_000)
    assert tuned.choice == Setting(64, KNOBS)
    assert tuned.noise > 0.1
    same = Engine({}).search(10_000)
    assert same.choice == same.default
    assert same.gain == 0
    assert same.verdict().startswith("the default stays: chance is worth 0.0 % here")


def test_the_search_ends_with_its_budget_and_measures_fewer_rows_if_they_take_long() -> None:
    engine = Engine({"step tokens 1024": 0.5})
    tuned = engine.search(100, n_rows=1000)
    assert tuned.n_rows == 5
    assert tuned.seconds <= 110
    short = Engine({"width 4": 0.5}).search(1, n_rows=1000)
    assert short.trials == ()
    assert short.choice == short.default
    assert short.n_rows == LEAST_ROWS
    with pytest.raises(BadArgument, match="seconds must be more than 0"):
        engine.search(0)


def test_a_tuning_is_saved_loaded_and_refused_elsewhere(tmp_path: Path) -> None:
    tuned = Engine({"step tokens 1024": 0.5}).search(10_000)
    tuned.save(tmp_path / "tuning.json")
    assert load_tuning(tmp_path / "tuning.json") == tuned
    tuned.check("p", HERE)
    for place, words in (
        (HERE._replace(model="other"), "measured with model m, and here it is other"),
        (HERE._replace(device="8 cores"), "measured with device 2 cores, and here it is 8 cores"),
    ):
        with pytest.raises(BadArgument, match=words):
            tuned.check("p", place)
    with pytest.raises(BadArgument, match="this tuning is of p, not of q"):
        tuned.check("q", HERE)


def test_of_the_evictions_only_the_best_two_of_a_replay_are_measured() -> None:
    engine = Engine({"evict s3-fifo": 0.5})
    engine.replay = {"lru": 900, "lfu": 800, "fifo": 950, "s3-fifo": 500, "program": 600}
    tuned = engine.search(10_000)
    assert engine.asked == EVICTIONS
    assert {trial.setting.knobs.evict for trial in tuned.trials} == {"lru", "s3-fifo", "program"}
    assert tuned.choice.knobs.evict == "s3-fifo"
    line = "what-if, tokens of one run by eviction: lru 900, lfu 800, fifo 950, s3-fifo 500, program 600; to be measured: program, s3-fifo"
    assert line in str(tuned)
    assert any(trial.setting == Setting(64, replace(KNOBS, schedule="dfs-weight", evict="s3-fifo")) for trial in tuned.trials)
    same = Engine({})
    same.replay = dict.fromkeys(EVICTIONS, 900)
    assert {trial.setting.knobs.evict for trial in same.search(10_000).trials} == {"lru"}
    assert {trial.setting.knobs.evict for trial in Engine({}).search(10_000).trials} == set(EVICTIONS)


def damages(document: dict[str, Any]) -> Iterator[tuple[object, str]]:
    yield document | {"format": "sgl_lab.tuning/9"}, "is no tuning of version"
    yield {name: value for name, value in document.items() if name != "noise"}, "is damaged"
    yield document | {"place": ["m"]}, "is damaged"
    yield document | {"choice": document["choice"] | {"width": "4"}}, "is damaged"
    yield document | {"replayed": [["lru", "many"]]}, "is damaged"
    yield document | {"choice": document["choice"] | {"width": 5}}, "its choice was not measured"
    yield document | {"trials": [{"ratios": []}]}, "is damaged"
    yield [], "is no tuning"


def test_a_damaged_file_is_refused_in_a_line(tmp_path: Path) -> None:
    path = tmp_path / "tuning.json"
    Engine({"step tokens 1024": 0.5}).search(10_000).save(path)
    cases = list(damages(json.loads(path.read_text())))
    assert len(cases) == 8
    for document, words in cases:
        path.write_text(json.dumps(document))
        with pytest.raises(BadArgument, match=words) as caught:
            load_tuning(path)
        assert "\n" not in str(caught.value)
    path.write_text("{")
    with pytest.raises(BadArgument, match="is damaged"):
        load_tuning(path)


@sgl.function
def ask(s: Any, question: str) -> None:
    s += "Answer in a word. " + question + sgl.gen("a", max_tokens=3)


def ticks() -> Iterator[float]:
    now = 0.0
    while True:
        yield now
        now += 1.0


def test_a_program_is_tuned_on_an_engine_and_gives_the_same_text(tmp_path: Path) -> None:
    backend = lab(tmp_path, max_rows=8)
    rows = [{"question": f"{number}?"} for number in range(4)]
    compiled = ask.compile()
    expected = [state.text() for state in compiled.run_batch(rows, backend=backend, temperature=0)]
    clock = ticks()
    tuned = compiled.tune(rows, seconds=300, backend=backend, clock=lambda: next(clock))
    assert tuned.program == "ask"
    assert tuned.trials
    assert tuned.choice == tuned.default  # every run takes one tick
    assert backend.knobs() == tuned.default.knobs
    other = replace(tuned, choice=Setting(2, Knobs(256, 0, "dfs-weight", "program")))
    compiled.use(other, backend=backend)
    assert backend.knobs() == other.choice.knobs
    assert [state.text() for state in compiled.run_batch(rows, backend=backend, temperature=0)] == expected
    backend._resident.check()
    with pytest.raises(BadArgument, match="evict must be"):
        backend.turn(replace(tuned.default.knobs, evict="random"))
    assert backend.knobs() == other.choice.knobs
    with pytest.raises(BadArgument, match="there are no rows"):
        compiled.tune([], backend=backend)
    with pytest.raises(BadArgument, match="has no engine in this process"):
        compiled.tune(rows, backend=ScriptedBackend())
    backend._resident.close()


@sgl.function
def agent(s: Any, rules: str, talk: str) -> None:
    s += rules + talk + sgl.gen("answer", max_tokens=4)


@sgl.function
def panel(s: Any, task: str) -> None:
    for who in range(4):
        task = agent(rules=f"{who}. {LONG}", talk=task)["answer"]
    s += task


def test_what_was_replayed_is_what_the_engine_computes_under_each_eviction(tmp_path: Path) -> None:
    ring = Ring()
    backend = lab(tmp_path, ring.emit, n_pages=80, evict="lru", draft_tokens=0)
    backend._listen = ring.listen
    compiled = panel.compile(without=["prefetch"])  # how far that is depends on time
    rows = [{"task": f"Task {number}. "} for number in range(4)]

    def run() -> None:
        compiled.run_batch(rows, num_threads=1, by="items", backend=backend, temperature=0)

    counts = backend.replayed(run, EVICTIONS)
    assert list(counts) == list(EVICTIONS)
    for evict, n_tokens in counts.items():
        backend.turn(replace(backend.knobs(), evict=evict))
        before = backend.computed()
        run()
        assert backend.computed() - before == pytest.approx(n_tokens, abs=16)  # the first tokens of answers
    assert counts["program"] < 0.8 * counts["lru"]
    tuned = compiled.tune(rows, seconds=60, backend=backend, clock=partial(next, ticks()))
    measured = {trial.setting.knobs.evict for trial in tuned.trials}
    assert "program" in measured
    assert len(measured - {"lru"}) <= 2
    assert "to be measured: " in str(tuned)
    backend._resident.close()


class Unheard:
    """A listener without interest."""

    def on_done(self, usage: Usage) -> None:
        pass

    def on_error(self, error: Exception) -> None:
        raise error


def test_an_engine_is_not_tuned_while_it_works(tmp_path: Path) -> None:
    backend = lab(tmp_path)
    engine = backend._resident.engine

    def busy() -> None:
        engine.add(engine.warm(WarmJob((1, 2, 3)), Unheard()))
        engine.turn(KNOBS)

    with pytest.raises(BadArgument, match="while requests run or wait"):
        backend._resident.call(busy)
    backend._resident.close()
