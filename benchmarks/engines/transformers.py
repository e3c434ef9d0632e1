"""transformers' generate: one padded batch, without a cache between calls."""

from __future__ import annotations

from typing import Any

import torch
import transformers

from .loads import Form, Ids

PAD = 2
AT_ONCE = 8
"""long prompts of a select in one batch; more would only cost memory traffic"""


class Engine:
    has_cache = False

    def __init__(self, threads: int, folder: str, dtype: str) -> None:
        torch.set_num_threads(threads)
        self.version = transformers.__version__
        self._model: Any = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype))
        self._model.generation_config.eos_token_id = None
        self._model.generation_config.pad_token_id = PAD

    @torch.inference_mode()
    def gen(self, prompts: list[Ids], n_new: int) -> list[Ids]:
        ids, mask = padded(prompts)
        whole = self._model.generate(ids, attention_mask=mask, max_new_tokens=n_new, do_sample=False)
        new: list[Ids] = whole[:, ids.shape[1] :].tolist()
        return new

    @torch.inference_mode()
    def select(self, prompts: list[Ids], choices: Ids) -> Ids:
        chosen: Ids = []
        for start in range(0, len(prompts), AT_ONCE):
            ids, mask = padded(prompts[start : start + AT_ONCE])
            logits = self._model(ids, attention_mask=mask, logits_to_keep=1, use_cache=False).logits[:, -1, choices]
            chosen += [choices[best] for best in logits.argmax(-1).tolist()]
        return chosen

    def matching(self, prompts: list[Ids], form: Form, n_most: int) -> list[Ids]:
        raise NotImplementedError("it has no constraints of its own")

    def reset(self) -> None: ...


def padded(prompts: list[Ids]) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and mask, padded on the left."""
    width = max(map(len, prompts))
    rows = [(width - len(prompt), prompt) for prompt in prompts]
    return torch.tensor([[PAD] * n + ids for n, ids in rows]), torch.tensor([[0] * n + [1] * len(ids) for n, ids in rows])
