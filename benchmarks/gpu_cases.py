"""Every wrapper of a GPU kernel at the shapes of real models, on tensors without storage: nothing here runs a kernel.

`compiled.py` listens to what would be launched. A wrapper is known by its twin: `NAME` beside `NAME_twin`.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator
from dataclasses import dataclass
from importlib import import_module
from pkgutil import iter_modules
from types import ModuleType

import torch
from torch import Tensor

from sgl_lab.engine.kernels import gpu
from sgl_lab.engine.kernels.gpu import cascade, decode, gate, norm, prefill, rotary, sampling
from sgl_lab.engine.kernels.gpu.contexts import Contexts, Shared
from sgl_lab.engine.kernels.gpu.wants import Wants

BATCH = 64


@dataclass(frozen=True, slots=True)
class Model:
    heads: int
    kv_heads: int
    dim: int
    ffn: int
    vocab: int

    @property
    def hidden(self) -> int:
        return self.heads * self.dim


MODELS = {
    "SmolLM2-135M": Model(9, 3, 64, 1536, 49152),
    "Llama-7B": Model(32, 32, 128, 11008, 32000),
    "Llama-3-8B": Model(32, 8, 128, 14336, 128256),
}


@dataclass(frozen=True, slots=True)
class Case:
    wrapper: Callable[..., object]
    shape: str
    call: Callable[[], object]

    @property
    def name(self) -> str:
        return f"{self.wrapper.__name__}, {self.shape}"


def cases() -> Iterator[Case]:
    """What a later one shares with an earlier one is known by the earlier one."""
    for name, model in MODELS.items():
        yield from _of(name, model)
        yield from _attention(name, model, page_size=1)
    for name in ("SmolLM2-135M", "Llama-3-8B"):
        yield _sample(name, MODELS[name].vocab)
    yield from _attention("Llama-3-8B, pages of 16", MODELS["Llama-3-8B"], page_size=16)
    yield from _attention("SmolLM2-135M, float32", MODELS["SmolLM2-135M"], page_size=1, dtype=torch.float32)


def _of(name: str, model: Model) -> Iterator[Case]:
    x, weight = meta(BATCH, model.hidden), meta(model.hidden)
    yield Case(norm.rms_norm, name, lambda: norm.rms_norm(x, weight, 1e-5))
    yield Case(norm.add_rms_norm, name, lambda: norm.add_rms_norm(x, x, weight, 1e-5))
    yield Case(gate.silu_mul, name, lambda: gate.silu_mul(meta(BATCH, 2 * model.ffn)))
    yield Case(rotary.rotate_and_write, name, lambda: _rotate(model))


def _attention(name: str, model: Model, *, page_size: int, dtype: torch.dtype = torch.bfloat16) -> Iterator[Case]:
    """Contexts of up to 8,192 tokens; prompts of up to 512; four groups of rows share a prefix."""
    q = meta(BATCH, model.heads, model.dim, dtype=dtype)
    kv = (meta(1 << 16, model.kv_heads, model.dim, dtype=dtype),) * 2
    contexts = Contexts(ints(BATCH, 8192 // page_size), ints(BATCH), ints(BATCH), page_size)
    shared = Shared(ints(8, 2), ints(BATCH), ints(4), ints(4), ints(4), ints(BATCH), 16)
    scale = model.dim**-0.5
    yield Case(prefill.attend_prefill, name, lambda: prefill.attend_prefill(q, *kv, contexts, ints(BATCH + 1), 512, scale))
    yield Case(decode.attend_decode, name, lambda: decode.attend_decode(q, *kv, contexts, scale, n_splits=8))
    yield Case(decode.attend_invariant, name, lambda: decode.attend_invariant(q, *kv, contexts, scale))
    yield Case(cascade.attend_cascade, name, lambda: cascade.attend_cascade(q, *kv, contexts, shared, scale, n_splits=8))


def meta(*shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def ints(*shape: int) -> Tensor:
    return meta(*shape, dtype=torch.int32)


def _rotate(model: Model) -> None:
    qkv = meta(BATCH, (model.heads + 2 * model.kv_heads) * model.dim)
    tables = meta(8192, model.dim // 2, dtype=torch.float32), meta(8192, model.dim // 2, dtype=torch.float32)
    pool = meta(1 << 16, model.kv_heads, model.dim)
    rotary.rotate_and_write(qkv, ints(BATCH), ints(BATCH), tables, pool, pool, model.heads)


def _sample(name: str, n_vocab: int) -> Case:
    sizes = {"n_rows": BATCH, "n_vocab": n_vocab, "n_edits": 1024, "n_masks": BATCH}
    wants = Wants.over(meta(Wants.n_bytes(**sizes), dtype=torch.uint8), **sizes)
    return Case(sampling.sample, name, lambda: sampling.sample(meta(BATCH, n_vocab, dtype=torch.float32), wants))


def modules() -> list[ModuleType]:
    """All that have kernels."""
    return [import_module(f"{gpu.__name__}.{module.name}") for module in iter_modules(gpu.__path__)]


def uncovered(modules: Iterable[ModuleType], called: Container[Callable[..., object]]) -> list[str]:
    """The wrappers in `modules` that no case calls."""
    there = [getattr(module, name.removesuffix("_twin"), None) for module in modules for name in vars(module) if name.endswith("_twin")]
    return sorted({wrapper.__name__ for wrapper in there if wrapper is not None and wrapper not in called})
