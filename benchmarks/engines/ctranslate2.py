"""CTranslate2: static batches. The common prefix of a batch is its static prompt, which is computed
once and kept.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ctranslate2

from .loads import Form, Ids, common_prefix, likeliest


class Engine:
    has_cache = False

    def __init__(self, threads: int, folder: str) -> None:
        self.version = ctranslate2.__version__
        self._generator = ctranslate2.Generator(folder, device="cpu", compute_type="int8", inter_threads=1, intra_threads=threads)
        self._spelled: list[str] = json.loads(Path(folder, "vocabulary.json").read_text())

    def gen(self, prompts: list[Ids], n_new: int) -> list[Ids]:
        shared, options = common_prefix([ids[:-1] for ids in prompts]) if len(prompts) > 1 else [], dict[str, Any]()
        if len(shared) >= 64:
            options = {"static_prompt": self._words(shared), "cache_static_prompt": True}
            prompts = [ids[len(shared) :] for ids in prompts]
        results = self._generator.generate_batch(
            [self._words(ids) for ids in prompts],
            max_length=n_new,
            min_length=n_new,
            sampling_topk=1,
            include_prompt_in_result=False,
            max_batch_size=64,
            **options,
        )
        return [list(result.sequences_ids[0])[:n_new] for result in results]

    def select(self, prompts: list[Ids], choices: Ids) -> Ids:
        return likeliest(self, prompts, choices)

    def matching(self, prompts: list[Ids], form: Form, n_most: int) -> list[Ids]:
        raise NotImplementedError("it has no constraints of its own")

    def reset(self) -> None: ...

    def _words(self, ids: Ids) -> list[str]:
        return [self._spelled[token] for token in ids]
