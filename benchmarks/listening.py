"""Runs a batch of greedy prompts through an engine, with a listener for each that records when its
tokens arrive. For `cpu.py` and `gpu.py`.
"""

from __future__ import annotations

import time

from sgl_lab.contracts.params import SamplingParams
from sgl_lab.contracts.port import GenJob, GenOutput
from sgl_lab.engine.serving.engine import Engine


class Listener:
    """Records when the tokens of one gen arrive."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.output: GenOutput | None = None

    def on_progress(self, index: int, text: str, ids: tuple[int, ...]) -> None:
        self.times += [time.perf_counter()] * len(ids)

    def on_done(self, outputs: tuple[GenOutput, ...]) -> None:
        (self.output,) = outputs

    def on_error(self, error: Exception) -> None:
        raise error


def generate(engine: Engine, prompts: list[tuple[int, ...]], n_new: int | list[int], temperature: float = 0) -> list[Listener]:
    """Generates `n_new` tokens after each prompt, all at once, on this thread."""
    listeners = [Listener() for _ in prompts]
    counts = n_new if isinstance(n_new, list) else [n_new] * len(prompts)
    for prompt, n, listener in zip(prompts, counts, listeners, strict=True):
        params = SamplingParams(temperature=temperature, ignore_eos=True, max_tokens=n)
        engine.add(engine.gen(GenJob(prompt, params), listener))
    while engine.step():
        pass
    return listeners
