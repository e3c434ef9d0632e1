"""vLLM's CPU build in process, prefix caching on."""

from __future__ import annotations

import os
from typing import Any

from .loads import Form, Ids, first_alone

os.environ |= {
    "VLLM_CPU_KVCACHE_SPACE": "2",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
}


class Engine:
    has_cache = True

    def __init__(self, threads: int, folder: str, dtype: str, end: str) -> None:
        self._end = int(end)
        os.environ["VLLM_CPU_OMP_THREADS_BIND"] = f"0-{threads - 1}" if threads > 1 else "0"
        import vllm

        self.version = vllm.__version__
        self._params = vllm.SamplingParams
        self._llm = vllm.LLM(
            model=folder, dtype=dtype, enable_prefix_caching=True, max_model_len=2048, max_num_seqs=64, disable_log_stats=True
        )

    def gen(self, prompts: list[Ids], n_new: int) -> list[Ids]:
        return first_alone(self._run, prompts, n_new, ignore_eos=True)

    def select(self, prompts: list[Ids], choices: Ids) -> Ids:
        return [tokens[0] for tokens in first_alone(self._run, prompts, 1, allowed_token_ids=choices)]

    def matching(self, prompts: list[Ids], form: Form, n_most: int) -> list[Ids]:
        from vllm.sampling_params import StructuredOutputsParams

        texts = self._run(prompts, n_most, structured_outputs=StructuredOutputsParams(regex=form.regex))
        return [[token for token in ids if token != self._end] for ids in texts]

    def reset(self) -> None:
        self._llm.reset_prefix_cache()

    def _run(self, prompts: list[Ids], n_new: int, **options: Any) -> list[Ids]:
        params = self._params(temperature=0, max_tokens=n_new, detokenize=False, **options)
        outputs = self._llm.generate([{"prompt_token_ids": ids} for ids in prompts], params, use_tqdm=False)
        return [list(output.outputs[0].token_ids) for output in outputs]
