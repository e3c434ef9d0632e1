"""onnxruntime-genai: static batches, padded on the left, without a cache between calls."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnxruntime_genai as genai

from .loads import Form, Ids, likeliest

PAD = 2
AT_ONCE = 8
"""long prompts of a select in one batch"""


class Engine:
    has_cache = False

    def __init__(self, threads: int, folder: str) -> None:
        self.version = genai.__version__
        path = Path(folder, "genai_config.json")
        config = json.loads(path.read_text())
        config["model"]["decoder"]["session_options"] |= {"intra_op_num_threads": threads, "inter_op_num_threads": 1}
        path.write_text(json.dumps(config))
        self._model = genai.Model(folder)

    def gen(self, prompts: list[Ids], n_new: int) -> list[Ids]:
        width = max(map(len, prompts))
        params = genai.GeneratorParams(self._model)
        params.set_search_options(max_length=width + n_new, min_length=width + n_new, batch_size=len(prompts), do_sample=False)
        generator = genai.Generator(self._model, params)
        generator.append_tokens(np.array([[PAD] * (width - len(ids)) + ids for ids in prompts], dtype=np.int32))
        for _ in range(n_new):
            generator.generate_next_token()
        return [[int(token) for token in generator.get_sequence(i)[width:]] for i in range(len(prompts))]

    def select(self, prompts: list[Ids], choices: Ids) -> Ids:
        batches = [prompts[start : start + AT_ONCE] for start in range(0, len(prompts), AT_ONCE)]
        return [token for batch in batches for token in likeliest(self, batch, choices)]

    def matching(self, prompts: list[Ids], form: Form, n_most: int) -> list[Ids]:
        raise NotImplementedError("it has no constraints of its own")

    def reset(self) -> None: ...
