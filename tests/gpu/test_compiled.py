"""Every kernel compiles for cards that are not here, and uses no more of them than it is known to."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import compiled
import gpu_cases
from compiled import Use, complaints


def test_every_kernel_compiles_and_stays_within_its_budget(record_table: Callable[..., None]) -> None:
    outside = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    ran = subprocess.run([sys.executable, compiled.__file__], env=outside, capture_output=True, text=True)
    print(ran.stdout)
    assert ran.returncode == 0, ran.stderr
    record_table("GPU", compiled=ran.stdout.splitlines()[-1])


def test_use_above_the_budget_says_which_and_by_how_much() -> None:
    found = {"a, Llama-7B: kernel": {"sm_80": Use(64, 1024, 8), "sm_90": Use(60, 1024, 0)}, "b, Llama-7B: kernel": {"sm_80": Use(1, 1, 1)}}
    assert complaints(found, {"a, Llama-7B: kernel": {"sm_80": [64, 1000, 0], "sm_90": [99, 9999, 9]}, "c": {}}) == [
        "a, Llama-7B: kernel, sm_80: 1024 of shared, 24 above its budget of 1000",
        "a, Llama-7B: kernel, sm_80: 8 of stack, 8 above its budget of 0",
        "b, Llama-7B: kernel, sm_80: no budget is recorded",
        "c: there is a budget, but no such kernel",
    ]


def test_more_shared_memory_than_the_smallest_card_has_is_reported_for_any_budget() -> None:
    found = {"a": {"sm_80": Use(64, 101_377, 0), "sm_90": Use(64, 101_377, 0)}}
    assert complaints(found, {"a": {"sm_80": [64, 200_000, 0], "sm_90": [64, 200_000, 0]}}) == [
        "a, sm_80: 101377 of shared, more than a card has: 101376"
    ]


def test_a_run_of_many_steps_compiles_each_kernel_once() -> None:
    """Neither how many rows there are nor how long they are, where a batch ends or what a page is called makes another binary."""
    outside = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "tests.gpu.many_steps"]
    ran = subprocess.run(command, env=outside, cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    early, late, anew = map(int, ran.stdout.split())
    assert (early > 15, late - early, anew) == (True, 0, 0), ran.stdout


def test_a_wrapper_that_no_case_calls_is_reported() -> None:
    module = ModuleType("kernels")
    module.attend_twin = module.add_twin = module.add = lambda: None  # a twin that others share has no wrapper of its own
    module.add.__name__ = "add"
    assert gpu_cases.uncovered([module], set()) == ["add"]
    assert gpu_cases.uncovered([module], {module.add}) == []


def test_every_module_with_a_kernel_is_looked_at() -> None:
    with_kernels = {path.stem for path in Path(gpu_cases.gpu.__path__[0]).glob("*.py") if "triton.jit" in path.read_text(encoding="utf-8")}
    assert with_kernels <= {module.__name__.rpartition(".")[2] for module in gpu_cases.modules()}
