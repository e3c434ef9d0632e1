"""Decode, prefill, first token and shared prefixes through the engine, on a model with random
weights. For `gpu.py`.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Self

import torch
from listening import generate
from torch import Tensor
from yardstick import LEAST as LEAST_INPUT
from yardstick import VOCABULARY, sequences

from sgl_lab.engine.compute.models.decoder import Decoder
from sgl_lab.engine.compute.models.spec import Attention, FeedForward, Layer, ModelSpec, Rotary
from sgl_lab.engine.compute.runners.gpu.device import DeviceRunner
from sgl_lab.engine.compute.runners.gpu.sharing import LEAST
from sgl_lab.engine.serving.config import EngineConfig
from sgl_lab.engine.serving.engine import Engine
from sgl_lab.engine.tools.fake import ByteTokenizer

if TYPE_CHECKING:
    from gpu_kernels import Card

REPS = 3
"""repetitions after the warm-up"""


def _spec(n_layers: int, hidden: int, ffn: int, n_heads: int, n_kv_heads: int, vocab: int, *, tied: bool) -> ModelSpec:
    head_dim = hidden // n_heads
    layer = Layer(Attention(n_heads, n_kv_heads, head_dim, Rotary(10_000.0, head_dim)), FeedForward(ffn))
    return ModelSpec((layer,) * n_layers, hidden=hidden, vocab=vocab, context=8192, norm_eps=1e-5, tied=tied)


SPECS = {
    "SmolLM2-135M": _spec(30, 576, 1536, 9, 3, 49_152, tied=True),
    "Llama-7B": _spec(32, 4096, 11_008, 32, 32, 32_000, tied=False),
    "tiny": _spec(2, 64, 96, 4, 2, 260, tied=True),
}


def dtype_of(device: torch.device) -> torch.dtype:
    return torch.bfloat16 if device.type == "cuda" else torch.float32


def random_llama(spec: ModelSpec, device: torch.device) -> Decoder:
    """Random weights with useful logits: neither flat nor infinite."""
    shapes = spec.tensors()
    torch.manual_seed(0)

    def read(*names: str, dtype: torch.dtype | None = None) -> Tensor:
        made = [torch.randn(shapes[name], device=device, dtype=dtype) * 0.02 for name in names]
        return torch.cat([x + 1 for x in made] if len(shapes[names[0]]) == 1 else made)

    return Decoder(spec, read, device=device, dtype=dtype_of(device))


def prompts_of(spec: ModelSpec, n: int, length: int, seed: int) -> list[tuple[int, ...]]:
    deal = random.Random(seed)
    return [tuple(deal.choices(range(spec.vocab), k=length)) for _ in range(n)]


class Ids(ByteTokenizer):
    """A tokenizer without texts."""

    eos_ids = frozenset[int]()
    special_ids = frozenset[int]()

    def __init__(self, n_vocab: int) -> None:
        self.n_vocab = n_vocab

    def token_bytes(self, token: int) -> bytes:
        return b"."


class Bench:
    """One model and one pool. Yields lines of figures, part by part."""

    def __init__(self, spec: ModelSpec, device: torch.device, card: Card, *, is_tiny: bool) -> None:
        self._spec, self._device, self._card = spec, device, card
        self._batches: tuple[int, ...] = (1, 3) if is_tiny else (1, 8, 64)
        self._long, self._new = (24, 3) if is_tiny else (4096, 128)
        self._reps = 1 if is_tiny else REPS
        self._short = 16 if is_tiny else 512
        self._model = random_llama(spec, device)
        self._n_pages = 1024 if is_tiny else 64 * (self._short + self._new) + 4 * self._long
        self._runner: DeviceRunner | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._close()
        del self._model

    def _close(self) -> None:
        if self._runner is not None:
            self._runner.close()
            self._runner = None

    def _engine(self, shared_from: int = LEAST) -> Engine:
        """A new engine with an empty cache."""
        self._close()
        self._runner = DeviceRunner(self._model, self._n_pages, shared_from=shared_from)
        config = EngineConfig(n_pages=self._n_pages, step_tokens=max(64 + 1, self._long), draft_tokens=0)
        return Engine(config, self._runner, Ids(self._spec.vocab), context=self._spec.context)

    # ------------------------------------------------------------ parts

    def decode(self) -> Iterator[str]:
        """Tokens per second at each batch size once all prompts have their first token, and the
        share of the bandwidth.
        """
        engine = self._engine()
        for n in self._batches:
            warm_up, step = self._best(partial(self._step_seconds, engine, n))
            context = self._short + self._new / 2
            n_bytes = self._weight_bytes() + n * context * self._kv_bytes()
            share = n_bytes / step / self._card.copied
            yield (
                f"decode, batch {n:>2}: {n / step:>9,.0f} tok/s, {step * 1000:7.3f} ms a step, {share:4.0%} of the bandwidth "
                f"(context {context:.0f}; first time {warm_up:.1f} s); {n * self._new / self._whole(engine, n):,.0f} tok/s with its prefill"
            )
        stats = engine.stats()
        each = {part: stats[f"{part}_s"] / stats["steps"] * 1000 for part in ("scheduler", "model", "sampler", "commit", "listeners")}
        parts = ", ".join(f"{part} {ms:.3f}" for part, ms in each.items())
        yield f"of the host's {stats['step_ms']:.3f} ms a step: {parts} (`model` is waiting for the device)"

    def _step_seconds(self, engine: Engine, n: int, rep: int) -> float:
        engine.flush()
        listeners = generate(engine, prompts_of(self._spec, n, self._short, 100 * rep + n), self._new)
        first = max(listener.times[0] for listener in listeners)
        last = max(listener.times[-1] for listener in listeners)
        n_steps = sum(when > first for when in listeners[0].times)
        return (last - first) / n_steps

    def _whole(self, engine: Engine, n: int) -> float:
        """Seconds from the prompts to the last token, without a cache."""
        engine.flush()
        return spent(engine, prompts_of(self._spec, n, self._short, 5000 + n), self._new)

    def prefill(self) -> Iterator[str]:
        engine = self._engine()

        def once(rep: int) -> float:
            engine.flush()
            return spent(engine, prompts_of(self._spec, 1, self._long, 7000 + rep), 1)

        warm_up, best = self._best(once)
        kind = self._spec.only.attention
        flops = 2 * self._multiplied() * self._long + 2 * self._long**2 * len(self._spec.layers) * kind.n_heads * kind.head_dim
        yield (
            f"prefill, {self._long:,} tokens: {self._long / best:,.0f} tok/s, {flops / best / 1e12:,.1f} TFLOP/s, "
            f"{flops / best / self._card.multiplied:.0%} of the peak (first time {warm_up:.1f} s)"
        )

    def first(self) -> Iterator[str]:
        engine = self._engine()
        prefix = prompts_of(self._spec, 1, self._long, 1)[0]
        generate(engine, [prefix], 1)
        new = 24 if self._long > 24 else 4
        _, best = self._best(lambda rep: spent(engine, [prefix + tail for tail in prompts_of(self._spec, 1, new, 8000 + rep)], 1))
        yield f"first token, {self._long:,} cached + {new}: {best * 1000:.2f} ms"

    def shared(self) -> Iterator[str]:
        """As many rows as the largest batch, all with one long prefix, with and without cascade
        attention.
        """
        prefix, n = prompts_of(self._spec, 1, self._long, 2)[0], self._batches[-1]
        steps = {}
        for name, least in (("each row alone", 1 << 30), ("prefix once (cascade)", min(256, self._long // 2))):
            engine = self._engine(shared_from=least)

            def once(rep: int, engine: Engine = engine) -> float:
                tails = prompts_of(self._spec, n, 8, 9000 + rep)
                generate(engine, [prefix], 1)
                listeners = generate(engine, [prefix + tail for tail in tails], self._new)
                first, last = (max(listener.times[i] for listener in listeners) for i in (0, -1))
                return (last - first) / sum(when > first for when in listeners[0].times)

            _, steps[name] = self._best(once)
            yield f"{n} rows on {self._long:,} shared tokens, {name}: {n / steps[name]:,.0f} tok/s, {steps[name] * 1000:.3f} ms a step"
        alone, together = steps.values()
        yield f"cascade: {alone / together:.2f} times as fast"

    def yardstick(self) -> Iterator[str]:
        """That of `yardstick.py`, whole; on the tiny model with a few short sequences."""
        engine = self._engine()
        is_tiny = self._short < LEAST_INPUT
        work = sequences(2, 64, self._spec.vocab) if is_tiny else sequences(vocabulary=min(VOCABULARY, self._spec.vocab))
        generate(engine, [work[0].prompt], 2)
        engine.flush()
        started = time.perf_counter()
        generate(engine, [each.prompt for each in work], [each.n_new for each in work], temperature=0.6)
        seconds = time.perf_counter() - started
        n_in, n_out = sum(len(each.prompt) for each in work), sum(each.n_new for each in work)
        yield f"yardstick, {len(work)} sequences, {n_in:,} in, {n_out:,} out: {n_out / seconds:,.0f} tok/s, {seconds:.1f} s"

    # ------------------------------------------------------------ arithmetic

    def _best(self, measure: Callable[[int], float]) -> tuple[float, float]:
        """Seconds of the first time, and the best of the later ones."""
        started = time.perf_counter()
        measure(0)
        warm_up = time.perf_counter() - started
        return warm_up, min(measure(rep) for rep in range(1, self._reps + 1))

    def _multiplied(self) -> int:
        """Weights that a token is multiplied with, except the head, which only the last token
        needs.
        """
        return self._spec.n_params - self._spec.vocab * self._spec.hidden * (1 if self._spec.tied else 2)

    def _weight_bytes(self) -> int:
        """Bytes of every weight that a step reads: the head included, the embedding's rows
        negligible.
        """
        return (self._multiplied() + self._spec.vocab * self._spec.hidden) * dtype_of(self._device).itemsize

    def _kv_bytes(self) -> int:
        return self._spec.kv_bytes_per_token(dtype_of(self._device).itemsize)


def spent(engine: Engine, prompts: list[tuple[int, ...]], n_new: int) -> float:
    started = time.perf_counter()
    generate(engine, prompts, n_new)
    return time.perf_counter() - started
