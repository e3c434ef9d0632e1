"""Compiles every GPU kernel without a GPU, and checks registers, shared memory and stack against a
budget.

    python benchmarks/compiled.py [--record]

Compiles what the wrappers would launch at the shapes of real models (`gpu_cases.py`) for sm_80
(A100) and sm_90 (H100), with Triton's own compiler and assembler, and prints the resources of the
binaries. It fails if a binary exceeds `compiled.json`, needs more shared memory than a card has, or
if no case calls a wrapper. `--record` makes the result the new budget. There is a budget for each
minor version of Triton, because the compiler determines most of the result. Stack is what did not
fit into registers.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any, NamedTuple

import gpu_cases
import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from sgl_lab.engine.compute.kernels.gpu.launch import Launch, listening

BUDGETS = Path(__file__).with_suffix(".json")
CACHE = Path(__file__).resolve().parents[1] / "build" / "triton"
TOOL = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
CARDS = {"sm_80": 80, "sm_90": 90}
SHARED = {"sm_80": 99 << 10, "sm_90": 227 << 10}
"""bytes that a program can have; binaries for sm_80 also run on sm_86 and sm_89, which have least"""
OPTIONS = ("num_warps", "num_stages")
POINTEES = {
    torch.float32: "fp32", torch.float64: "fp64", torch.float16: "fp16", torch.bfloat16: "bf16",
    torch.int8: "i8", torch.uint8: "u8", torch.int32: "i32", torch.int64: "i64",
}  # fmt: skip


class Use(NamedTuple):
    registers: int
    """per thread"""
    shared: int
    """bytes per program"""
    stack: int
    """bytes per thread"""


@dataclass(frozen=True, slots=True)
class Variant:
    """One of the binaries of a kernel."""

    kernel: Any
    signature: tuple[tuple[str, str], ...]
    constants: tuple[tuple[str, Any], ...]
    aligned: tuple[str, ...]
    """pointers and numbers that are multiples of 16"""
    options: tuple[tuple[str, int], ...]


def variant(launch: Launch) -> Variant:
    """Specialised as in Triton: by types, numbers equal to 1, and divisibility by 16."""
    kernel: Any = launch.kernel
    parameters = {parameter.name: parameter for parameter in kernel.params}
    passed = dict(zip(parameters, launch.args, strict=False)) | {name: it for name, it in launch.constants.items() if name in parameters}
    special = {name for name, parameter in parameters.items() if not parameter.do_not_specialize}
    constants = {
        name: it for name, it in passed.items() if parameters[name].is_constexpr or (name in special and type(it) is int and it == 1)
    }
    types = {name: "constexpr" if name in constants else _type(passed[name]) for name in parameters}
    aligned = tuple(name for name, it in passed.items() if name in special and name not in constants and _is_aligned(it))
    options = tuple((name, it) for name in OPTIONS if type(it := launch.constants.get(name)) is int)
    return Variant(kernel, tuple(types.items()), tuple(constants.items()), aligned, options)


def _type(value: Any) -> str:
    match value:
        case torch.Tensor():
            return f"*{POINTEES[value.dtype]}"
        case bool():
            return "u1"
        case int():
            return "i32" if -(2**31) <= value < 2**31 else "i64"
        case float():
            return "fp32"
    raise TypeError(f"no kernel takes {value!r}")


def _is_aligned(value: Any) -> bool:
    address = value.data_ptr() if isinstance(value, torch.Tensor) else value
    return type(address) is int and address % 16 == 0


@cache
def variants() -> dict[str, Variant]:
    """The launches of all cases without duplicates, named by the first case and the kernel."""
    found: dict[Variant, str] = {}
    for case_name, case in gpu_cases.cases():
        launches: list[Launch] = []
        with listening(launches.append):
            case.call()
        for launch in launches:
            binary = variant(launch)
            found.setdefault(binary, f"{case_name}: {binary.kernel.fn.__name__}")
    assert len(set(found.values())) == len(found), "a case launches two variants of one kernel"
    return {name: it for it, name in found.items()}


def use(name: str, card: str) -> Use:
    """The resources of one binary."""
    it = variants()[name]
    place = {parameter: (i,) for i, (parameter, _) in enumerate(it.signature)}
    source = ASTSource(
        it.kernel,
        dict(it.signature),
        {place[parameter]: value for parameter, value in it.constants},
        {place[parameter]: [["tt.divisibility", 16]] for parameter in it.aligned},
    )
    compiled = triton.compile(source, target=GPUTarget("cuda", CARDS[card], 32), options=dict(it.options))
    with NamedTemporaryFile(suffix=".cubin") as binary:
        binary.write(compiled.asm["cubin"])
        binary.flush()
        reported = subprocess.run([TOOL, "--dump-resource-usage", binary.name], check=True, capture_output=True, text=True).stdout
    registers, stack = (int(re.search(rf"{what}:(\d+)", reported)[1]) for what in ("REG", "STACK"))  # type: ignore[index]
    return Use(registers, compiled.metadata.shared, stack)


def complaints(found: Mapping[str, Mapping[str, Use]], budget: Mapping[str, Mapping[str, Iterable[int]]]) -> list[str]:
    """One line for each resource that exceeds its budget or has none."""
    lines = [f"{name}: there is a budget, but no such kernel" for name in budget.keys() - found.keys()]
    for name, by_card in found.items():
        for card, used in by_card.items():
            if card not in budget.get(name, {}):
                lines.append(f"{name}, {card}: no budget is recorded")
                continue
            if used.shared > SHARED[card]:
                lines.append(f"{name}, {card}: {used.shared} of shared, more than a card has: {SHARED[card]}")
            for what, is_used, allowed in zip(Use._fields, used, budget[name][card], strict=True):
                if is_used > allowed:
                    lines.append(f"{name}, {card}: {is_used} of {what}, {is_used - allowed} above its budget of {allowed}")
    return sorted(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--record", action="store_true", help="make what is found the budget")
    options = parser.parse_args()
    if os.environ.get("TRITON_INTERPRET") == "1":
        parser.error("nothing is compiled under TRITON_INTERPRET=1: unset it")
    if uncovered := gpu_cases.uncovered(gpu_cases.modules(), {case.wrapper for _, case in gpu_cases.cases()}):
        print(f"no case calls {', '.join(uncovered)}: add some to benchmarks/gpu_cases.py", file=sys.stderr)
        return 1
    os.environ.setdefault("TRITON_CACHE_DIR", str(CACHE))
    names, began = list(variants()), time.perf_counter()
    jobs = [(name, card) for name in names for card in CARDS]
    with ProcessPoolExecutor(2) as pool:
        uses = dict(zip(jobs, pool.map(use, *zip(*jobs, strict=True)), strict=True))
    found = {name: {card: uses[name, card] for card in CARDS} for name in names}
    version = ".".join(triton.__version__.split(".")[:2])
    budgets = json.loads(BUDGETS.read_text(encoding="utf-8"))
    width = max(map(len, names))
    print(f"{'Triton ' + triton.__version__:<{width}}" + "".join(f"  {card + ' registers':>15}  shared  stack" for card in CARDS))
    for name, by_card in found.items():
        print(f"{name:<{width}}" + "".join(f"  {used.registers:>15}  {used.shared:>6}  {used.stack:>5}" for used in by_card.values()))
    most = ", ".join(f"{what} {max(used)}" for what, used in zip(Use._fields, zip(*uses.values(), strict=True), strict=True))
    print(f"{len(jobs)} binaries in {time.perf_counter() - began:.0f} s; at most: {most}")
    if options.record:
        BUDGETS.write_text(_written(budgets | {version: found}), encoding="utf-8")
        return 0
    wrong = complaints(found, budgets.get(version, {}))
    print("\n".join(wrong), file=sys.stderr, end="\n" * bool(wrong))
    return bool(wrong)


def _written(budgets: Mapping[str, Mapping[str, Mapping[str, Iterable[int]]]]) -> str:
    """One line per kernel."""
    parts = []
    for version, kernels in sorted(budgets.items()):
        lines = ",\n".join(f"    {json.dumps(name)}: {json.dumps(by_card)}" for name, by_card in sorted(kernels.items()))
        parts.append(f"  {json.dumps(version)}: {{\n{lines}\n  }}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


if __name__ == "__main__":
    sys.exit(main())
