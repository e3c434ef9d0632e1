"""OpenVINO GenAI's continuous batching, with prefix caching. The cache cannot be cleared;
repetitions share no tokens.
"""

from __future__ import annotations

import numpy as np
import openvino as ov
import openvino_genai as genai

from .loads import Form, Ids, first_alone, likeliest


class Engine:
    has_cache = True

    def __init__(self, threads: int, folder: str, precision: str, end: str) -> None:
        self._end = int(end)
        self.version = genai.__version__.partition("-")[0]
        plan = genai.SchedulerConfig()
        plan.cache_size = 2
        plan.enable_prefix_caching = True
        plan.max_num_batched_tokens = 1024
        plan.max_num_seqs = 64
        plan.dynamic_split_fuse = True
        options = {"INFERENCE_NUM_THREADS": threads, "ENABLE_CPU_PINNING": False, "INFERENCE_PRECISION_HINT": precision}
        self._pipeline = genai.ContinuousBatchingPipeline(folder, plan, "CPU", options)

    def gen(self, prompts: list[Ids], n_new: int) -> list[Ids]:
        return first_alone(self._run, prompts, n_new)

    def select(self, prompts: list[Ids], choices: Ids) -> Ids:
        return likeliest(self, prompts, choices)

    def matching(self, prompts: list[Ids], form: Form, n_most: int) -> list[Ids]:
        config = genai.GenerationConfig()
        config.max_new_tokens = n_most
        config.eos_token_id = self._end
        config.stop_token_ids = {self._end}
        config.structured_output_config = genai.StructuredOutputConfig(regex=form.regex)
        return [[token for token in ids if token != self._end] for ids in self._generate(prompts, config)]

    def reset(self) -> None: ...

    def _run(self, prompts: list[Ids], n_new: int) -> list[Ids]:
        config = genai.GenerationConfig()
        config.max_new_tokens = n_new
        config.ignore_eos = True
        return [ids[:n_new] for ids in self._generate(prompts, config)]

    def _generate(self, prompts: list[Ids], config: genai.GenerationConfig) -> list[Ids]:
        results = self._pipeline.generate([ov.Tensor(np.array([ids], dtype=np.int64)) for ids in prompts], [config] * len(prompts))
        return [list(result.m_generation_ids[0]) for result in results]
