"""The card's limits, and every kernel beside its twin and beside those limits, at the shapes of one
model. For `gpu.py`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from gpu_loads import dtype_of
from torch import Tensor

from sgl_lab.engine.compute.kernels.gpu import cascade, decode, experts, gate, linear, norm, prefill, rotary, sampling
from sgl_lab.engine.compute.kernels.gpu.contexts import Contexts, Shared
from sgl_lab.engine.compute.kernels.gpu.sampling_requests import SamplingRequests
from sgl_lab.engine.compute.kernels.native.pack import Kind, quantise
from sgl_lab.engine.compute.models.rotation import inverse_frequencies
from sgl_lab.engine.compute.models.spec import ModelSpec

TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 1e-2}
"""tolerance: norm of the difference between kernel and twin, over the norm of the twin's result"""

SLEEP = 20_000_000
"""cycles, about ten milliseconds, in which the host queues the measured work, so that the host's
time is not measured
"""


@dataclass(frozen=True, slots=True)
class Card:
    copied: float
    """bytes per second, read and written"""
    multiplied: float
    """floating-point operations per second"""

    def __str__(self) -> str:
        return f"copies {self.copied / 1e9:,.0f} GB/s (read and written), multiplies {self.multiplied / 1e12:,.1f} TFLOP/s"


def card(device: torch.device) -> Card:
    is_cuda = device.type == "cuda"
    source = torch.randint(256, (1 << (32 if is_cuda else 24),), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    n = 8192 if is_cuda else 256
    a, b = (torch.randn(n, n, device=device, dtype=dtype_of(device)) for _ in "ab")
    copied = 2 * source.numel() / seconds(lambda: target.copy_(source), device)
    return Card(copied, 2 * n**3 / seconds(lambda: a @ b, device))


def seconds(call: Callable[[], object], device: torch.device, reps: int = 10) -> float:
    """Device time: the median of `reps` calls after three warm-up calls. All of them are queued
    before the first begins.
    """
    for _ in range(3 if device.type == "cuda" else 0):
        call()
    if device.type != "cuda":
        started = time.perf_counter()
        call()
        return time.perf_counter() - started
    events = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(reps)]  # type: ignore[no-untyped-call]
    torch.cuda._sleep(SLEEP)  # type: ignore[no-untyped-call]  # torch's own
    for start, end in events:
        start.record()
        call()
        end.record()
    torch.cuda.synchronize(device)
    return float(sorted(start.elapsed_time(end) for start, end in events)[reps // 2]) / 1000


@dataclass(frozen=True, slots=True)
class Try:
    """A kernel and its twin on the same arguments, and the bytes or operations that it needs."""

    name: str
    kernel: Callable[..., Any]
    twin: Callable[..., Any]
    arguments: Callable[[], tuple[tuple[Any, ...], dict[str, Any]]]
    """creates the arguments anew for each call, because some are modified"""
    n_bytes: float = 0
    flops: float = 0
    read: Callable[[Any, tuple[Any, ...]], tuple[Tensor, ...]] = lambda result, _: (result,)
    """extracts from the result and the arguments what has to agree"""


def check(spec: ModelSpec, device: torch.device, card: Card, *, is_tiny: bool) -> int:
    """Print one line for each kernel. Returns how many disagree with their twin."""
    n_wrong = 0
    for attempt in tries(spec, device, is_tiny):
        results = []
        for function in (attempt.kernel, attempt.twin):
            torch.manual_seed(0)
            arguments, named = attempt.arguments()
            results.append([x.float() for x in attempt.read(function(*arguments, **named), arguments)])
        wrong = max(apart(ours, twins) for ours, twins in zip(*results, strict=True))
        tolerance = TOLERANCE[dtype_of(device)]
        n_wrong += not wrong <= tolerance
        arguments, named = attempt.arguments()
        spent = seconds(partial(attempt.kernel, *arguments, **named), device)
        limit, work = ("copy", attempt.n_bytes / card.copied) if attempt.n_bytes else ("product", attempt.flops / card.multiplied)
        verdict = "" if wrong <= tolerance else "   NOT ITS TWIN"
        print(f"{attempt.name:<44} error {wrong:.1e}  {spent * 1e6:9.1f} us  {work / spent:5.0%} of the {limit}{verdict}", flush=True)
    return n_wrong


def apart(ours: Tensor, twins: Tensor) -> float:
    return float((ours - twins).norm() / twins.norm().clamp(min=1e-20))


def tries(spec: ModelSpec, device: torch.device, is_tiny: bool) -> Iterator[Try]:
    dtype = dtype_of(device)
    size = dtype.itemsize
    n, context = (3, 40) if is_tiny else (64, 2048)
    kind, hidden, ffn = spec.only.attention, spec.hidden, spec.only.feed_forward.width
    heads, kv_heads, dim, turning = kind.n_heads, kind.n_kv_heads, kind.head_dim, kind.rotary
    assert turning is not None

    def floats(*shape: int, dtype: torch.dtype = dtype) -> Tensor:
        return torch.randn(shape, device=device, dtype=dtype)

    def ints(*values: int) -> Tensor:
        return torch.tensor(values, dtype=torch.int32, device=device)

    yield Try("rms_norm", norm.rms_norm, norm.rms_norm_twin, lambda: ((floats(n, hidden), floats(hidden), 1e-5), {}), 2 * n * hidden * size)
    yield Try(
        "add_rms_norm",
        norm.add_rms_norm,
        norm.add_rms_norm_twin,
        lambda: ((floats(n, hidden), floats(n, hidden), floats(hidden), 1e-5), {}),
        4 * n * hidden * size,
        read=lambda result, arguments: (result, arguments[1]),
    )
    yield Try("activate", gate.activate, gate.activate_twin, lambda: ((floats(n, 2 * ffn),), {}), 3 * n * ffn * size)

    angles = torch.outer(torch.arange(context, device=device).float(), inverse_frequencies(turning).to(device))
    rotation = angles.cos(), angles.sin()

    def turned() -> tuple[tuple[Any, ...], dict[str, Any]]:
        slots = torch.randperm(context, device=device)[:n].int()
        pools = (torch.zeros(context, kv_heads, dim, device=device, dtype=dtype) for _ in "kv")
        return (floats(n, (heads + 2 * kv_heads) * dim), slots, slots, rotation, *pools, heads), {}

    moved = 2 * n * (heads + 2 * kv_heads) * dim * size
    yield Try("rotate_and_write", rotary.rotate_and_write, rotary.rotate_and_write_twin, turned, moved, read=lambda q, a: (q, a[4], a[5]))

    for page_size in (1, 16):
        yield from attention(spec, n, context, page_size, floats, ints)

    for bits, stored, format in ((4, 5.0, Kind.Q4), (8, 8.5, Kind.Q8)):
        packed = linear.Packed(quantise(torch.randn(2 * ffn, hidden), format), device)
        for m in (1, n):
            yield Try(
                f"packed_matmul, {bits} bits, {m} rows",
                linear.packed_matmul,
                linear.packed_matmul_twin,
                partial(lambda m, packed: ((floats(m, hidden), packed), {}), m, packed),
                2 * ffn * hidden * stored / 8,
            )
    yield Try(
        f"invariant_matmul, {n} rows",
        linear.invariant_matmul,
        linear.invariant_matmul_twin,
        lambda: ((floats(n, hidden), floats(2 * ffn, hidden)), {}),
        2 * ffn * hidden * size,
    )
    experts_of = 4 if is_tiny else 8
    weights = floats(experts_of, ffn, hidden)
    yield Try(
        f"experts_matmul, {experts_of} experts",
        lambda x, logits: experts.experts_matmul(x, weights, experts.route(logits, 2)),
        lambda x, logits: experts.experts_matmul_twin(x, weights, experts.route_twin(logits, 2)),
        lambda: ((floats(n, hidden), floats(n, experts_of)), {}),
        experts_of * ffn * hidden * size,
    )
    yield Try(
        f"sample, {n} rows, top-p 0.9",
        sampling.sample,
        sampling.sample_twin,
        lambda: ((4 * floats(n, spec.vocab, dtype=torch.float32), wants(n, spec.vocab, device)), {}),
        4 * n * spec.vocab,
        read=lambda drawn, _: (drawn.tokens, drawn.logprobs),
    )


def attention(
    spec: ModelSpec, n: int, context: int, page_size: int, floats: Callable[..., Tensor], ints: Callable[..., Tensor]
) -> Iterator[Try]:
    kind = spec.only.attention
    heads, kv_heads, dim = kind.n_heads, kind.n_kv_heads, kind.head_dim
    width = -(-context // page_size)
    slots = (n + 1) * width * page_size
    scale, label = dim**-0.5, f", pages of {page_size}"
    device = ints(0).device
    prefix = context * 3 // 4 // page_size * page_size

    def paged(rows: int, *, is_shared: bool = False) -> tuple[Tensor, Tensor, Contexts]:
        pages = torch.randperm((n + 1) * width, device=device)[: rows * width].int().view(rows, width)
        if is_shared:
            pages[:, : prefix // page_size] = pages[0, : prefix // page_size].clone()
        contexts = Contexts(pages, ints(*range(rows)), ints(*[context] * rows), page_size)
        return floats(slots, kv_heads, dim), floats(slots, kv_heads, dim), contexts

    token = 2 * kv_heads * dim * floats(1).element_size()

    def decoded() -> tuple[tuple[Any, ...], dict[str, Any]]:
        return (floats(n, heads, dim), *paged(n), scale), {"n_splits": 4}

    def together() -> tuple[tuple[Any, ...], dict[str, Any]]:
        tile = max(4, 64 * kv_heads // heads)
        firsts = [*range(0, n, tile)]
        shared = Shared(
            torch.stack((ints(*[0] * len(firsts)), ints(*firsts)), 1).contiguous(),
            ints(*range(n)), ints(n), ints(0), ints(prefix), ints(*[prefix] * n), tile,
        )  # fmt: skip
        return (floats(n, heads, dim), *paged(n, is_shared=True), shared, scale), {"n_splits": 4}

    def prompted() -> tuple[tuple[Any, ...], dict[str, Any]]:
        rows, new = 2, context // 2
        return (floats(rows * new, heads, dim), *paged(rows), ints(0, new, 2 * new), new, scale), {}

    yield Try(f"attend_decode{label}", decode.attend_decode, decode.attend_decode_twin, decoded, n * context * token)
    yield Try(
        f"attend_invariant{label}",
        decode.attend_invariant,
        decode.attend_invariant_twin,
        lambda: (decoded()[0], {}),
        n * context * token,
    )
    moved = (prefix + n * (context - prefix)) * token
    yield Try(f"attend_cascade, {prefix:,} shared{label}", cascade.attend_cascade, cascade.attend_cascade_twin, together, moved)
    pairs = 2 * (context // 2) * (context * 3 // 4)
    yield Try(f"attend_prefill{label}", prefill.attend_prefill, prefill.attend_prefill_twin, prompted, flops=4 * pairs * heads * dim)


def wants(n: int, n_vocab: int, device: torch.device) -> SamplingRequests:
    sizes = {"n_rows": n, "n_vocab": n_vocab, "n_edits": 0, "n_masks": 0}
    made = SamplingRequests.over(torch.zeros(SamplingRequests.n_bytes(**sizes), dtype=torch.uint8, device=device), **sizes)
    made.points.uniform_()
    made.temperature.fill_(0.8)
    made.top_p.fill_(0.9)
    return made
