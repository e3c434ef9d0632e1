"""Calls every wrapper at the shapes of a model, to compile kernels ahead of time without a card and
to measure them on one.

On the device `meta` nothing has storage: kernels are recorded instead of launched.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from ..native.pack import Kind, quantise
from .cascade import attend_cascade
from .contexts import Contexts, Shared
from .decode import attend_decode, attend_invariant
from .experts import combine, experts_matmul, route, route_twin
from .gate import activate
from .linear import Packed, invariant_matmul, packed_matmul
from .norm import add_rms_norm, rms_norm
from .prefill import attend_prefill
from .rotary import rotate_and_write
from .sampling import sample
from .sampling_requests import SamplingRequests

ROWS, CONTEXT, PREFIX, GROUPS = 64, 1024, 512, 4
"""one-token rows, their tokens of context, and how many of these the rows of each of a few groups
have in common
"""
PROMPTS = 4


@dataclass(frozen=True, slots=True)
class Shape:
    """A model's, as far as kernels see it."""

    heads: int
    kv_heads: int
    dim: int
    hidden: int
    ffn: int
    vocab: int

    @property
    def linears(self) -> tuple[tuple[int, int], ...]:
        """(n_out, n_in) of a layer's products: query, key and value; their output; gate and up; down."""
        inner, kv = self.heads * self.dim, self.kv_heads * self.dim
        return (inner + 2 * kv, self.hidden), (self.hidden, inner), (2 * self.ffn, self.hidden), (self.hidden, self.ffn)


@dataclass(frozen=True, slots=True)
class Case:
    wrapper: Callable[..., object]
    call: Callable[[], Tensor]
    """extracts the result of the wrapper, or a part of it"""
    of: str = ""
    """distinguishes it from other cases of the same wrapper"""


def cases(shape: Shape, device: torch.device, dtype: torch.dtype = torch.bfloat16) -> Iterator[Case]:
    """All cases. The inputs of a case are created when it is taken."""
    yield from row_cases(shape, device, dtype)
    yield from attention_cases(shape, device, dtype)
    yield sampling_case(shape.vocab, device)
    for n_out, n_in in shape.linears:
        yield from linear_cases(n_out, n_in, device, dtype)


def row_cases(shape: Shape, device: torch.device, dtype: torch.dtype) -> Iterator[Case]:
    """Cases of operations on single tokens."""

    def random(*size: int) -> Tensor:
        return torch.randn(size, dtype=dtype, device=device)

    x, weight, gate_up = random(ROWS, shape.hidden), random(shape.hidden), random(ROWS, 2 * shape.ffn)
    qkv, pool = random(ROWS, (shape.heads + 2 * shape.kv_heads) * shape.dim), random(2, ROWS, shape.kv_heads, shape.dim)
    tables = torch.randn(2, ROWS, shape.dim // 2, device=device)
    at, nothing = _ints(range(ROWS), device), torch.zeros_like(x)
    yield Case(rms_norm, lambda: rms_norm(x, weight, 1e-5))
    yield Case(add_rms_norm, lambda: add_rms_norm(nothing, x, weight, 1e-5))
    yield Case(activate, lambda: activate(gate_up))
    yield Case(rotate_and_write, lambda: rotate_and_write(qkv, at, at, (tables[0], tables[1]), pool[0], pool[1], shape.heads))


def attention_cases(shape: Shape, device: torch.device, dtype: torch.dtype, page_size: int = 1) -> Iterator[Case]:
    n_pages, scale = CONTEXT // page_size, shape.dim**-0.5
    q = torch.randn(ROWS, shape.heads, shape.dim, dtype=dtype, device=device)
    prompts = torch.randn(PROMPTS * PREFIX, shape.heads, shape.dim, dtype=dtype, device=device)
    keys, values = (torch.randn(ROWS * CONTEXT, shape.kv_heads, shape.dim, dtype=dtype, device=device) for _ in range(2))
    table = torch.arange(ROWS * n_pages, dtype=torch.int32, device=device).view(ROWS, n_pages)
    contexts = Contexts(table, _ints(range(ROWS), device), _ints([CONTEXT] * ROWS, device), page_size)
    few = Contexts(table, _ints(range(PROMPTS), device), _ints([CONTEXT] * PROMPTS, device), page_size)
    offsets = _ints(range(0, (PROMPTS + 1) * PREFIX, PREFIX), device)
    shared = _shared(device)
    yield Case(attend_prefill, lambda: attend_prefill(prompts, keys, values, few, offsets, PREFIX, scale))
    yield Case(attend_decode, lambda: attend_decode(q, keys, values, contexts, scale, n_splits=8))
    yield Case(attend_invariant, lambda: attend_invariant(q, keys, values, contexts, scale))
    yield Case(attend_cascade, lambda: attend_cascade(q, keys, values, contexts, shared, scale, n_splits=8))


def kind_cases(shape: Shape, device: torch.device, dtype: torch.dtype) -> Iterator[Case]:
    """What a Llama does not have: windows, capped scores, norms of q and k, heads that turn in
    part, GELU.
    """
    window, cap, scale = CONTEXT // 2, 50.0, shape.dim**-0.5

    def random(*size: int) -> Tensor:
        return torch.randn(size, dtype=dtype, device=device)

    q, prompts = random(ROWS, shape.heads, shape.dim), random(PROMPTS * PREFIX, shape.heads, shape.dim)
    keys, values = (random(ROWS * CONTEXT, shape.kv_heads, shape.dim) for _ in range(2))
    table = torch.arange(ROWS * CONTEXT, dtype=torch.int32, device=device).view(ROWS, CONTEXT)
    contexts, few = (Contexts(table, _ints(range(n), device), _ints([CONTEXT] * n, device), 1) for n in (ROWS, PROMPTS))
    offsets = _ints(range(0, (PROMPTS + 1) * PREFIX, PREFIX), device)
    qkv, at, angles = random(ROWS, (shape.heads + 2 * shape.kv_heads) * shape.dim), _ints(range(ROWS), device), shape.dim // 4
    half = (torch.randn(ROWS, angles, device=device), torch.randn(ROWS, angles, device=device))
    norms, up = (random(shape.dim), random(shape.dim), 1e-6), random(ROWS, shape.ffn)
    yield Case(attend_prefill, lambda: attend_prefill(prompts, keys, values, few, offsets, PREFIX, scale, window=window, softcap=cap))
    yield Case(attend_decode, lambda: attend_decode(q, keys, values, contexts, scale, n_splits=8, window=window, softcap=cap))
    yield Case(attend_cascade, lambda: attend_cascade(q, keys, values, contexts, _shared(device), scale, n_splits=8, softcap=cap))
    yield Case(rotate_and_write, lambda: rotate_and_write(qkv, at, at, half, keys, values, shape.heads, norms))
    yield Case(activate, lambda: activate(up, "gelu_tanh", is_gated=False))


def linear_cases(n_out: int, n_in: int, device: torch.device, dtype: torch.dtype) -> Iterator[Case]:
    """Packed and dense, of one row and of many."""
    weight = torch.randn(n_out, n_in, dtype=dtype, device=device)
    packed = {"4 bits": Packed(quantise(weight, Kind.Q4), device), "8 bits": Packed(quantise(weight, Kind.Q8), device)}
    for n_rows in (1, PROMPTS * PREFIX):
        x, rows = torch.randn(n_rows, n_in, dtype=dtype, device=device), "1 row" if n_rows == 1 else f"{n_rows} rows"
        for bits, these in packed.items():
            yield Case(packed_matmul, partial(packed_matmul, x, these), f"{bits}, {rows}")
        yield Case(invariant_matmul, partial(invariant_matmul, x, weight), rows)


def expert_cases(n_experts: int, n_out: int, n_in: int, device: torch.device, dtype: torch.dtype) -> Iterator[Case]:
    """Of tokens that go to two experts each."""
    weights, x = (torch.randn(*size, n_in, dtype=dtype, device=device) for size in ((n_experts, n_out), (ROWS,)))
    logits = torch.randn(ROWS, n_experts, device=device)
    routing = route_twin(logits, 2)
    pairs = torch.randn(2 * ROWS, n_out, dtype=dtype, device=device)
    yield Case(route, lambda: route(logits, 2).weights)
    yield Case(experts_matmul, lambda: experts_matmul(x, weights, routing))
    yield Case(combine, lambda: combine(pairs, routing))


def _shared(device: torch.device) -> Shared:
    size = ROWS // GROUPS
    firsts = range(0, ROWS, size)
    tiles = torch.tensor(list(enumerate(firsts)), dtype=torch.int32, device=device)
    ends, lengths = _ints([first + size for first in firsts], device), _ints([PREFIX] * GROUPS, device)
    return Shared(tiles, _ints(range(ROWS), device), ends, _ints(firsts, device), lengths, _ints([PREFIX] * ROWS, device), size)


def sampling_case(n_vocab: int, device: torch.device) -> Case:
    sizes = {"n_rows": ROWS, "n_vocab": n_vocab, "n_edits": 1024, "n_masks": 1}
    requests = SamplingRequests.over(torch.zeros(SamplingRequests.n_bytes(**sizes), dtype=torch.uint8, device=device), **sizes)
    requests.temperature.fill_(1)
    requests.top_p.fill_(0.9)
    requests.points.fill_(0.5)
    logits = 4 * torch.randn(ROWS, n_vocab, device=device)
    return Case(sample, lambda: sample(logits, requests).tokens)


def _ints(values: Iterable[int], device: torch.device) -> Tensor:
    return torch.tensor(list(values), dtype=torch.int32, device=device)
