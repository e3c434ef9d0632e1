"""llama.cpp through llama-cpp-python: one stream, which reuses the prefix that it shares with the
previous request.
"""

from __future__ import annotations

import os
from itertools import islice, takewhile

import numpy as np

from .loads import Form, Ids, common_prefix


class Engine:
    has_cache = False

    def __init__(self, threads: int, gguf: str, libraries: str, end: str) -> None:
        self._end = int(end)
        os.environ["LLAMA_CPP_LIB_PATH"] = libraries
        import llama_cpp

        self.version = llama_cpp.__version__
        self._llama = llama_cpp.Llama(
            gguf, n_ctx=2048, n_batch=512, n_threads=threads, n_threads_batch=threads, flash_attn=True, verbose=False
        )

    def gen(self, prompts: list[Ids], n_new: int) -> list[Ids]:
        return [list(islice(self._llama.generate(ids, temp=0.0, repeat_penalty=1.0), n_new)) for ids in prompts]

    def select(self, prompts: list[Ids], choices: Ids) -> Ids:
        return [choices[int(np.argmax(self._logits(ids)[choices]))] for ids in prompts]

    def matching(self, prompts: list[Ids], form: Form, n_most: int) -> list[Ids]:
        from llama_cpp import LlamaGrammar

        grammar = LlamaGrammar.from_string(form.gbnf, verbose=False)
        texts = []
        for ids in prompts:
            tokens = self._llama.generate(ids, temp=0.0, repeat_penalty=1.0, reset=True, grammar=grammar)
            texts.append(list(takewhile(lambda token: token != self._end, islice(tokens, n_most))))
        return texts

    def reset(self) -> None:
        self._llama.reset()
        self._llama._ctx.kv_cache_clear()

    def _logits(self, prompt: Ids) -> np.ndarray:
        llama = self._llama
        known = [int(token) for token in llama._input_ids[: llama.n_tokens]]
        llama.n_tokens = len(common_prefix([known, prompt[:-1]]))
        llama._ctx.kv_cache_seq_rm(-1, llama.n_tokens, -1)
        llama.eval(prompt[llama.n_tokens :])
        return np.ctypeslib.as_array(llama._ctx.get_logits_ith(-1), shape=(llama.n_vocab(),))
