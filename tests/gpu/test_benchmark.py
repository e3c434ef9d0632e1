"""`benchmarks/gpu.py` runs from a bare checkout: with torch, triton and transformers, and without a GPU on a model that is tiny."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

BENCHMARK = Path(__file__).resolve().parents[2] / "benchmarks" / "gpu.py"
ABSENT = (
    "IPython", "anywidget", "gguf", "graphviz", "ipykernel", "ipywidgets", "jsonschema", "jupyterlab", "llguidance", "nbclient",
    "nbconvert", "plotly", "pydantic", "referencing", "traitlets",
)  # fmt: skip
"""what the project needs and a bare machine may lack; a name that is None there cannot be imported"""

BARE = f"""
import runpy, sys
sys.modules.update(dict.fromkeys({ABSENT!r}))
sys.argv = sys.argv[1:]
sys.path.insert(0, {str(BENCHMARK.parent)!r})
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    outside = {name: value for name, value in os.environ.items() if name not in ("TRITON_INTERPRET", "PYTHONPATH")}
    return subprocess.run([sys.executable, "-c", BARE, str(BENCHMARK), *arguments], env=outside, capture_output=True, text=True)


def test_every_part_runs_on_a_tiny_model_without_what_a_bare_machine_lacks() -> None:
    ran = run("--tiny")
    assert ran.returncode == 0, ran.stderr + ran.stdout
    lines = ran.stdout.splitlines()
    assert lines[-1] == "every kernel is its twin"
    kernels = "attend_decode, ", "attend_cascade, ", "experts_matmul, ", "sample, "
    loads = "decode, batch  1: ", "prefill, ", "first token, ", "cascade: ", "yardstick, "
    peers = "transformers generate, batch  3: ", "transformers continuous batching, batch  3, its own choice: "
    for begin in (*kernels, *loads, *peers):
        assert any(line.startswith(begin) for line in lines), begin
    assert "Error" not in ran.stdout


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_one_line_says_so() -> None:
    ran = run()
    assert ran.returncode == 2
    assert ran.stdout.startswith("no figures: device cuda is not available: torch ")
    assert ran.stdout.count("\n") == 1
