"""Models come and go, some of them while a request fails: memory and threads are what they were."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

import sgl_lab as sgl
from sgl_lab.contracts.errors import RequestFailed

from ..pure.driving import SOAK
from ..torch.tiny import write_tiny
from .test_crowd import rss_bytes

N_LOADS = 50 if SOAK > 1 else 10
N_WARM_UP = 5
MOST_GROWTH = 16 * 2**20

pytestmark = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="counts resident memory in /proc")


@sgl.function
def ask(s: sgl.ProgramState) -> None:
    s += "The tide came in" + sgl.gen("answer", max_tokens=8, ignore_eos=True)


def load_and_unload(model: str, dtype: str | None, fails: bool) -> int:
    """Resident bytes when the model is gone again."""
    lab = sgl.Lab(model, dtype=dtype, cache_tokens=1024)
    if fails:
        lab._resident.engine._runner._model = None  # type: ignore[attr-defined]  # whatever runner: the forward pass raises
        state = ask.run(backend=lab.backend)
        with pytest.raises(RequestFailed):
            state["answer"]
    else:
        assert ask.run(temperature=0, backend=lab.backend).get_meta_info("answer")["completion_tokens"] == 8
    lab.close()
    del lab
    gc.collect()
    return rss_bytes()


def test_many_models_later_memory_and_threads_are_what_they_were(tmp_path: Path, record_table: Callable[..., None]) -> None:
    model = "smollm2" if SOAK > 1 else str(write_tiny(tmp_path / "model", hidden_size=512, intermediate_size=1024, head_dim=64))
    threads = threading.active_count()
    dtypes = ("float32", None)
    """None is packed for the native step, where that is built"""
    sizes = [load_and_unload(model, dtypes[number % 2], fails=number % 5 == 4) for number in range(N_LOADS + N_WARM_UP)]
    growth = sizes[-1] - sizes[N_WARM_UP - 1]
    record_table("R10", model=Path(model).name, loads=N_LOADS, raising=N_LOADS // 5, growth=f"{growth / 2**20:.1f} MiB")
    assert threading.active_count() <= threads  # one of an earlier test may have ended meanwhile
    assert growth <= MOST_GROWTH
