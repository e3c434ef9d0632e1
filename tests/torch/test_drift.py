"""How far logprobs move with the way they are computed: measured, and nothing where it is promised."""

from __future__ import annotations

from pathlib import Path

import pytest

import sgl_lab as sgl
from sgl_lab.engine.compute.kernels.native import build
from sgl_lab.engine.files import store
from sgl_lab.engine.tools.drift import Drift, measure

from .tiny import write_tiny

OTHERS = ("He said that he would come.", "One, two, three,", "for i in range(10):", "The end is", "A B C D")


@pytest.mark.parametrize(("dtype", "most"), [("float32", 1e-3), ("bfloat16", 2.0)])
def test_on_torch_there_is_drift_and_no_flip_over_a_gap_twice_as_wide(tiny_folder: Path, dtype: str, most: float) -> None:
    with sgl.Lab(str(tiny_folder), dtype=dtype, cache_tokens=4096) as lab:  # too narrow for the native step
        assert not lab.card.capabilities.deterministic
        drift = lab.drift()
        other = measure(lab.backend, lab.flush, OTHERS)
    assert drift.n_compared > 2000
    assert 0 < drift.largest < most
    assert other.widest_flip < 2 * drift.largest  # of texts that had no part in measuring it
    for found in (drift, other):
        assert found.n_flips > 0 or found.widest_flip == 0  # tokens of equal logits flip over no gap at all


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_deterministic_lab_has_none(tiny_folder: Path, dtype: str) -> None:
    with sgl.Lab(str(tiny_folder), dtype=dtype, cache_tokens=4096, deterministic=True) as lab:
        assert lab.card.capabilities.deterministic
        assert lab.backend is lab.deterministic_backend
        drift = lab.drift()
    assert drift == Drift(drift.n_compared, 0.0, 0, 0.0)
    assert str(drift).startswith("none: ")


@pytest.mark.skipif(build.obstacle() is not None, reason=f"no native step here: {build.obstacle()}")
def test_the_native_step_has_none_asked_or_not(tmp_path: Path) -> None:
    build.build(store.cache_dir())
    folder = write_tiny(tmp_path / "model", hidden_size=128, intermediate_size=160, head_dim=32)
    with sgl.Lab(str(folder), dtype="int8", cache_tokens=4096) as lab:
        assert lab.card.capabilities.deterministic
        assert lab.backend is lab.deterministic_backend
        assert lab.drift().largest == 0.0
