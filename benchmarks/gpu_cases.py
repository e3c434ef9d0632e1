"""Every wrapper of a GPU kernel at the shapes of real models, on tensors without storage. No kernel
runs here.

A wrapper is recognised by its twin: `NAME` beside `NAME_twin`.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator
from importlib import import_module
from pkgutil import iter_modules
from types import ModuleType

import torch

from sgl_lab.engine.compute.kernels import gpu
from sgl_lab.engine.compute.kernels.gpu.cases import (
    Case,
    Shape,
    attention_cases,
    expert_cases,
    kind_cases,
    linear_cases,
    row_cases,
    sampling_case,
)

SMOLLM2 = Shape(9, 3, 64, 576, 1536, 49152)
LLAMA_7B = Shape(32, 32, 128, 4096, 11008, 32000)
LLAMA_3_8B = Shape(32, 8, 128, 4096, 14336, 128256)
WIDE = Shape(16, 1, 256, 4096, 14336, 32000)
"""not a real model: the widest heads, all sharing one KV head"""
GEMMA_2_9B = Shape(16, 8, 256, 3584, 14336, 256_000)
META = torch.device("meta")


def cases() -> Iterator[tuple[str, Case]]:
    """The cases by name. A shape that an earlier case has too is listed only there."""
    for model, shape in (("SmolLM2-135M", SMOLLM2), ("Llama-7B", LLAMA_7B), ("Llama-3-8B", LLAMA_3_8B)):
        yield from _named(model, row_cases(shape, META, torch.bfloat16))
        yield from _named(model, attention_cases(shape, META, torch.bfloat16))
    yield from _named("Llama-3-8B, pages of 16", attention_cases(LLAMA_3_8B, META, torch.bfloat16, page_size=16))
    yield from _named("heads of 256", attention_cases(WIDE, META, torch.bfloat16))
    yield from _named("Gemma-2-9B, window, caps, norms of heads", kind_cases(GEMMA_2_9B, META, torch.bfloat16))
    yield from _named("SmolLM2-135M, float32", attention_cases(SMOLLM2, META, torch.float32))
    yield from _named("Llama-3-8B, float32", attention_cases(LLAMA_3_8B, META, torch.float32))
    yield from _named("SmolLM2-135M", [sampling_case(SMOLLM2.vocab, META)])
    yield from _named("Llama-3-8B", [sampling_case(LLAMA_3_8B.vocab, META)])
    yield from _named("Llama-3-8B", linear_cases(2 * LLAMA_3_8B.ffn, LLAMA_3_8B.hidden, META, torch.bfloat16))
    yield from _named("8 experts as in Mixtral", expert_cases(8, 14336, 4096, META, torch.bfloat16))


def _named(name: str, cases: Iterable[Case]) -> Iterator[tuple[str, Case]]:
    return ((", ".join(filter(None, (case.wrapper.__name__, case.of, name))), case) for case in cases)


def modules() -> list[ModuleType]:
    """All modules with kernels."""
    return [import_module(f"{gpu.__name__}.{module.name}") for module in iter_modules(gpu.__path__)]


def uncovered(modules: Iterable[ModuleType], called: Container[Callable[..., object]]) -> list[str]:
    """The wrappers in `modules` that no case calls."""
    there = [getattr(module, name.removesuffix("_twin"), None) for module in modules for name in vars(module) if name.endswith("_twin")]
    return sorted({wrapper.__name__ for wrapper in there if wrapper is not None and wrapper not in called})
