"""The same model and loads with transformers: `generate` and its continuous batching. For `gpu.py`."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

import torch
import transformers
from gpu_loads import dtype_of, prompts_of

from sgl_lab.engine.compute.models.spec import ModelSpec

BLOCK = 256
"""size of the cache of continuous batching in tokens: its default"""


class Bench:
    def __init__(self, spec: ModelSpec, device: torch.device, *, is_tiny: bool) -> None:
        self._spec, self._device = spec, device
        self._batches: tuple[int, ...] = (1, 3) if is_tiny else (1, 8, 64)
        self._short, self._new = (16, 3) if is_tiny else (512, 128)
        kind = spec.only.attention
        config = transformers.LlamaConfig(
            num_hidden_layers=len(spec.layers),
            hidden_size=spec.hidden,
            intermediate_size=spec.only.feed_forward.width,
            num_attention_heads=kind.n_heads,
            num_key_value_heads=kind.n_kv_heads,
            head_dim=kind.head_dim,
            vocab_size=spec.vocab,
            max_position_embeddings=spec.context,
            rms_norm_eps=spec.norm_eps,
            tie_word_embeddings=spec.tied,
            bos_token_id=None,
            eos_token_id=None,
            pad_token_id=0,
        )
        torch.manual_seed(0)
        with torch.device(device):
            self._model: Any = transformers.AutoModelForCausalLM.from_config(config, dtype=dtype_of(device)).eval()  # type: ignore[no-untyped-call]
        self._config = transformers.GenerationConfig(max_new_tokens=self._new, do_sample=False, eos_token_id=-1, pad_token_id=0)  # type: ignore[no-untyped-call]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        del self._model

    def generate(self) -> Iterator[str]:
        """One batch of prompts of equal length. Decode time is the whole time minus that of a run
        with one token.
        """
        for n in self._batches:
            prompts = torch.tensor(prompts_of(self._spec, n, self._short, n), device=self._device)

            def run(n_new: int, prompts: torch.Tensor = prompts) -> float:
                config = transformers.GenerationConfig(  # type: ignore[no-untyped-call]
                    max_new_tokens=n_new, min_new_tokens=n_new, do_sample=False, eos_token_id=None, pad_token_id=0
                )
                started = time.perf_counter()
                with torch.inference_mode():
                    whole = self._model.generate(prompts, attention_mask=torch.ones_like(prompts), generation_config=config)
                if whole.shape[1] != self._short + n_new:
                    raise RuntimeError(f"{whole.shape[1] - self._short} tokens came, not {n_new}")
                whole.cpu()
                return time.perf_counter() - started

            run(2)
            step = (run(self._new) - run(1)) / (self._new - 1)
            yield f"transformers generate, batch {n:>2}: {n / step:>9,.0f} tok/s, {step * 1000:.3f} ms a step"

    def continuous(self) -> Iterator[str]:
        """All prompts of a batch submitted at once; the time until all are answered, including
        their prefill.

        One manager serves all runs of a batch, with a cache twice as large as they need. It is
        measured with its own default and with CUDA graphs.
        """
        for n in self._batches:
            for how, graphs in ((", its own choice", None), (", CUDA graphs", True))[: 2 if self._device.type == "cuda" else 1]:
                yield f"transformers continuous batching, batch {n:>2}{how}: {self._answered(n, graphs):>9,.0f} tok/s, prefill included"

    def _answered(self, n: int, graphs: bool | None) -> float:
        """Tokens per second."""
        blocks = 2 * n * -(-(self._short + self._new) // BLOCK)
        sizes = transformers.ContinuousBatchingConfig(block_size=BLOCK, num_blocks=blocks, max_batch_tokens=8192, use_cuda_graph=graphs)
        with torch.no_grad(), self._manager(sizes) as manager:

            def run(seed: int) -> float:
                """Different prompts each time, because the manager caches their beginnings."""
                prompts = [list(prompt) for prompt in prompts_of(self._spec, n, self._short, seed + n)]
                started = time.perf_counter()
                manager.add_requests(inputs=prompts, max_new_tokens=self._new)
                n_left, n_tokens = n, 0
                while n_left:
                    result = manager.get_result(timeout=1)
                    if result is None and not manager.is_running():
                        raise RuntimeError("it stopped before all were answered")
                    if result is not None and result.is_finished():
                        n_left, n_tokens = n_left - 1, n_tokens + len(result.generated_tokens)
                if n_tokens != n * self._new:
                    raise RuntimeError(f"{n_tokens} tokens came, not {n * self._new}")
                return n_tokens / (time.perf_counter() - started)

            run(500)
            return run(900)

    @contextmanager
    def _manager(self, sizes: Any) -> Iterator[Any]:
        manager = self._model.init_continuous_batching(generation_config=self._config, continuous_batching_config=sizes)
        manager.warmup()
        manager.start()
        try:
            yield manager
        finally:
            manager.stop(block=True, timeout=5)
            manager.destroy()
