"""The same model and loads under transformers: `generate` and its continuous batching. For `gpu.py`."""

from __future__ import annotations

import time
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Self

import torch
import transformers
from gpu_loads import dtype_of, prompts_of

from sgl_lab.engine.model.spec import LlamaSpec


class Bench:
    def __init__(self, spec: LlamaSpec, device: torch.device, *, is_tiny: bool) -> None:
        self._spec, self._device = spec, device
        self._batches, self._short, self._new = ((1, 3), 16, 3) if is_tiny else ((1, 8, 64), 512, 128)
        config = transformers.LlamaConfig(
            num_hidden_layers=spec.n_layers,
            hidden_size=spec.hidden,
            intermediate_size=spec.ffn,
            num_attention_heads=spec.n_heads,
            num_key_value_heads=spec.n_kv_heads,
            head_dim=spec.head_dim,
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
            self._model: Any = transformers.AutoModelForCausalLM.from_config(config, dtype=dtype_of(device)).eval()
        self._config = transformers.GenerationConfig(max_new_tokens=self._new, do_sample=False, eos_token_id=-1, pad_token_id=0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        del self._model

    def generate(self) -> Iterator[str]:
        """One batch of prompts of the same length; decoding is the whole less a run of one token."""
        for n in self._batches:
            prompts = torch.tensor(prompts_of(self._spec, n, self._short, n), device=self._device)

            def run(n_new: int, prompts: torch.Tensor = prompts) -> float:
                config = transformers.GenerationConfig(
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
        """All prompts of a batch handed over at once; the time until all are answered, their prefill included."""
        for n in self._batches:
            prompts = [list(prompt) for prompt in prompts_of(self._spec, n, self._short, 500 + n)]

            def run(prompts: list[list[int]] = prompts) -> float:
                started = time.perf_counter()
                found = self._model.generate_batch(inputs=prompts, generation_config=self._config)
                n_tokens = sum(len(result.generated_tokens) for result in found.values())
                if n_tokens != len(prompts) * self._new:
                    raise RuntimeError(f"{n_tokens} tokens came, not {len(prompts) * self._new}")
                return time.perf_counter() - started

            run()
            yield f"transformers continuous batching, batch {n:>2}: {n * self._new / run():>9,.0f} tok/s, prefill included"
