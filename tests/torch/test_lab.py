"""A lab from its arguments to its end, and the default one."""

from __future__ import annotations

import copy
import gc
import pickle
import re
import threading
import weakref
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import sgl_lab as sgl
from sgl_lab.contracts.errors import BadArgument, EngineStopped, OutOfMemory, ProgramError
from sgl_lab.contracts.events import CellStarted, Event
from sgl_lab.contracts.ids import RunId
from sgl_lab.engine.compute import memory
from sgl_lab.engine.compute.models import load
from sgl_lab.labs import Labs

from ..pure.driving import forked_process
from .tiny import write_huge

DEADLINE_S = 60.0


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("model", None),
        ("model", ""),
        ("device", 0),
        ("dtype", 16),
        ("page_size", 0),
        ("page_size", None),
        ("threads", 0),
        ("threads", -2),
        ("cache_mib", 0),
        ("cache_tokens", 0),
        ("cache_tokens", 1.5),
        ("schedule", "lifo"),
        ("evict", "mru"),
        ("seed", "seven"),
        ("deterministic", 1),
        ("emit", "print"),
    ],
)
def test_an_argument_that_is_wrong_is_named_before_anything_is_loaded(name: str, value: Any) -> None:
    arguments: dict[str, Any] = {"model": "/nowhere/at/all"} | {name: value}
    with pytest.raises(BadArgument, match=f"^{name} must be"):
        sgl.Lab(**arguments)


def test_a_cache_smaller_than_a_page_is_refused(tiny_folder: Path) -> None:
    with pytest.raises(BadArgument, match="cache_tokens must be page_size"):
        sgl.Lab("/nowhere/at/all", cache_tokens=8, page_size=16)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_closed_lab_holds_no_weights_and_no_cache(tiny_folder: Path, dtype: str) -> None:
    lab = sgl.Lab(str(tiny_folder), dtype=dtype, cache_tokens=64)
    runner: Any = lab._resident.engine._runner
    model, keys = weakref.ref(runner._model), weakref.ref(runner.kv.keys[0])
    del runner
    assert model() is not None
    lab.close()
    gc.collect()
    assert (model(), keys()) == (None, None)
    lab.close()


def test_a_cache_larger_than_the_memory_is_refused_with_both_numbers_before_it_is_taken(tiny_folder: Path) -> None:
    with pytest.raises(OutOfMemory, match=r"a cache of [\d,]+ tokens needs [\d,]+ MiB, but only [\d,]+ MiB of memory are free") as caught:
        sgl.Lab(str(tiny_folder), cache_mib=1 << 30)
    assert "cache_mib" in caught.value.hint


def test_weights_larger_than_the_memory_are_refused_with_both_numbers_before_one_is_read(tmp_path: Path) -> None:
    folder = write_huge(tmp_path / "huge")
    with pytest.raises(OutOfMemory, match=r"huge with [\d,]+M parameters in \w+ needs [\d,]+ MiB, but only [\d,]+ MiB of memory are free"):
        sgl.Lab(str(folder))


def test_weights_and_cache_are_demanded_together_before_a_weight_is_read(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "free_bytes", lambda: 1_100_000)
    monkeypatch.setattr(load.Checkpoint, "read", lambda *_, **__: pytest.fail("a weight was read"))
    both = r"with \d+M parameters in float32 \(\d MiB\) with a cache of 2,000 tokens needs \d MiB, but only 1 MiB of memory are free"
    with pytest.raises(OutOfMemory, match=both) as caught:
        sgl.Lab(str(tiny_folder), dtype="float32", cache_tokens=2000)
    assert re.fullmatch(r"choose a smaller dtype \(.* needs \d MiB.*\) or a smaller model, or a smaller cache", caught.value.hint)


def test_a_listener_that_raises_is_removed_without_other_effects(tiny_folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    listener: list[Event] = []

    def listen(event: Event) -> None:
        listener.append(event)
        raise ZeroDivisionError("mine")

    with sgl.Lab(str(tiny_folder), cache_tokens=64, emit=listen) as lab:
        lab.emit(CellStarted(RunId(1), "a", ""))
        lab.pin([1, 2, 3])
        lab.check()
        assert len(lab.events()) > 3
    assert len(listener) == 1
    assert [record.exc_info is not None for record in caplog.records] == [True]


def test_a_listener_may_call_the_lab_and_take_its_time_and_hears_everything_in_order(tiny_folder: Path) -> None:
    listener: list[Event] = []
    let_go = threading.Event()

    def listen(event: Event) -> None:
        assert let_go.wait(DEADLINE_S)
        listener.append(event)
        if len(listener) == 3:
            assert lab.events()
            assert lab.snapshot().nodes
            lab.flush()
            lab.emit(CellStarted(RunId(7), "from the listener", ""))

    lab = sgl.Lab(str(tiny_folder), cache_tokens=64, emit=listen)
    lab.pin([1, 2, 3])
    lab.pin([4, 5, 6])
    let_go.set()
    while len(listener) < 5:
        lab.check()
    lab.close()
    assert listener == [entry.event for entry in lab.events()]


def test_a_lab_to_which_nothing_refers_is_closed_but_not_while_a_program_runs_on_it(tiny_folder: Path) -> None:
    @sgl.function
    def program(s: sgl.ProgramState, n: int) -> None:
        s += "on and on" + sgl.gen("answer", max_tokens=n, ignore_eos=True)

    before = set(threading.enumerate())
    held: list[weakref.ref[Any]] = []
    lab = None
    for _ in range(3):
        lab = sgl.Lab(str(tiny_folder), cache_tokens=256)
        runner: Any = lab._resident.engine._runner
        held.append(weakref.ref(runner._model))
        del runner
        assert program.run(n=3, backend=lab.backend).get_meta_info("answer")["completion_tokens"] == 3
    state = program.run(n=100, backend=lab.backend, stream=True)
    del lab
    assert state.get_meta_info("answer")["completion_tokens"] == 100
    del state
    gc.collect()
    for thread in set(threading.enumerate()) - before:
        thread.join(DEADLINE_S)
    gc.collect()
    assert [found() for found in held] == [None] * 3
    assert set(threading.enumerate()) <= before


def test_records_may_be_read_while_others_are_added(tiny_folder: Path) -> None:
    with sgl.Lab(str(tiny_folder), cache_tokens=64) as lab:
        for n in range(60):
            before = tuple(lab.records)
            for i, record in enumerate(lab.records):
                if i == 1:
                    with lab.record("meanwhile"):
                        pass
                assert record in before
            with lab.record(f"run {n}"):
                pass
        assert len(lab.records) == 50


def test_in_a_forked_process_a_lab_says_at_once_what_to_do(tiny_folder: Path) -> None:
    lab = sgl.Lab(str(tiny_folder), cache_tokens=64)

    @sgl.function
    def program(s: sgl.ProgramState) -> None:
        s += "a" + sgl.gen("answer", max_tokens=2)

    state = program.run(backend=lab.backend)

    def child() -> str:
        checks = []
        for action in (
            lambda: program.run(backend=lab.backend)["answer"],
            lambda: sgl.Lab(str(tiny_folder), cache_tokens=64),
            lab.stats,
            lambda: lab.pin([1, 2, 3]),
            lambda: Labs().loading(str(tiny_folder)).lab(),
        ):
            with pytest.raises(EngineStopped, match="spawn") as caught:
                action()
            checks.append(str(caught.value) == str(pickle.loads(pickle.dumps(caught.value))))  # noqa: S301
        lab.close()
        return f"{checks} {state['answer'] == answer} {lab.is_open}"

    answer = state["answer"]
    with state._run.lock:
        assert forked_process(child, DEADLINE_S) == f"{[True] * 5} True False"
    assert lab.is_open
    lab.close()


def test_what_cannot_be_carried_to_another_process_says_so(tiny_folder: Path) -> None:
    @sgl.function
    def program(s: sgl.ProgramState) -> None:
        s += "a" + sgl.gen("answer", max_tokens=2)
        forks.append(s.fork(2))

    forks: list[Any] = []
    with sgl.Lab(str(tiny_folder), cache_tokens=64) as lab:
        state = program.run(backend=lab.backend)
        for thing in (lab, lab.backend, state, forks[0], [state]):
            with pytest.raises(ProgramError, match="pickled"):
                pickle.dumps(thing)
        with pytest.raises(ProgramError, match="copied"):
            copy.deepcopy(state)


@pytest.mark.parametrize("prefix", [None, 5, 1.5, [None], ["a"], [[1]], object()])
def test_a_prefix_that_is_none_is_refused(shared: sgl.Lab, prefix: Any) -> None:
    with pytest.raises(BadArgument, match="a prefix cannot be"):
        shared.pin(prefix)


@pytest.mark.parametrize(
    "arguments",
    [
        {"cache_tokens": [0]},
        {"cache_tokens": [-5]},
        {"cache_tokens": [1.5]},
        {"cache_tokens": "64"},
        {"cache_tokens": [True]},
        {"evict": "mru"},
        {"evict": [None]},
        {"evict": 3},
        {"record": None},
    ],
)
def test_a_what_if_that_asks_for_nothing_sensible_is_refused(shared: sgl.Lab, arguments: dict[str, Any]) -> None:
    with shared.record("a") as record:
        pass
    with pytest.raises(BadArgument):
        shared.what_if(**({"record": record} | arguments))


def test_what_if_takes_one_value_or_several_and_no_more_memory_than_the_recording_touches(shared: sgl.Lab) -> None:
    with shared.record("a") as record:
        shared.unpin(shared.pin(list(range(40))))
    one, huge = shared.what_if(record, evict="lru", cache_tokens=64), shared.what_if(record, evict=["lru"], cache_tokens=[10**12])
    assert [replace(outcome, n_pages=0) for outcome in one] == [replace(outcome, n_pages=0) for outcome in huge]
    assert huge[0].n_pages == 10**12


@pytest.fixture(scope="module")
def shared(tiny_folder: Path) -> Iterator[sgl.Lab]:
    with sgl.Lab(str(tiny_folder), cache_tokens=256) as lab:
        yield lab
