"""A lab from its arguments to its end, and the default one."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path
from typing import Any

import pytest

import sgl_lab as sgl
from sgl_lab.contracts.errors import BadArgument, OutOfMemory
from sgl_lab.contracts.events import CellStarted, Event
from sgl_lab.contracts.ids import RunId

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
    with pytest.raises(OutOfMemory, match=r"a cache of [\d,]+ tokens needs [\d,]+ MiB, [\d,]+ MiB of memory are free") as caught:
        sgl.Lab(str(tiny_folder), cache_mib=1 << 30)
    assert "cache_mib" in caught.value.hint


def test_weights_larger_than_the_memory_are_refused_with_both_numbers_before_one_is_read(tmp_path: Path) -> None:
    folder = write_huge(tmp_path / "huge")
    with pytest.raises(OutOfMemory, match=r"huge with [\d,]+M parameters in \w+ needs [\d,]+ MiB, [\d,]+ MiB of memory are free"):
        sgl.Lab(str(folder))


def test_a_listener_that_raises_is_heard_no_more_and_harms_nobody(tiny_folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    heard: list[Event] = []

    def listen(event: Event) -> None:
        heard.append(event)
        raise ZeroDivisionError("mine")

    with sgl.Lab(str(tiny_folder), cache_tokens=64, emit=listen) as lab:
        lab.emit(CellStarted(RunId(1), "a", ""))
        lab.pin([1, 2, 3])
        lab.check()
        assert len(heard) == 1
        assert len(lab.events()) > 3
    assert [record.exc_info is not None for record in caplog.records] == [True]
