"""Models small enough to compute everything twice, and plans made by hand."""

from __future__ import annotations

import json
import math
import random
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from sgl_lab.contracts.ids import RequestId
from sgl_lab.contracts.params import SamplingParams
from sgl_lab.engine.compute.models.decoder import Decoder
from sgl_lab.engine.compute.models.families import spec_from_config
from sgl_lab.engine.compute.models.load import LoadedModel, load_model
from sgl_lab.engine.compute.runners.native import NativeRunner
from sgl_lab.engine.compute.runners.runner import TorchRunner
from sgl_lab.engine.plan import Plan, Row, RowOutput, Sampling

VOCAB = 97
GREEDY = SamplingParams(temperature=0)
ALL = tuple(range(VOCAB))
CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_act": "silu",
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": VOCAB,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10_000.0,
    "tie_word_embeddings": False,
}
TOKENIZER: dict[str, Any] = {
    "version": "1.0",
    "added_tokens": [
        {"id": 96, "content": "<|end|>", "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    ],
    "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
    "decoder": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
    "model": {"type": "BPE", "vocab": {chr(33 + i): i for i in range(94)} | {"Ġ": 94, "he": 95}, "merges": [["h", "e"]]},
}


def write_tiny(folder: Path, *, dtype: torch.dtype = torch.float32, seed: int = 0, scale: float = 0.2, **changes: Any) -> Path:
    """A folder in the Hugging Face layout with random weights; `changes` go into its configuration."""
    config = CONFIG | changes
    generator = torch.Generator().manual_seed(seed)
    tensors = {
        name: (torch.randn(shape, generator=generator) * scale + ("norm" in name)).to(dtype)
        for name, shape in spec_from_config(config).tensors().items()
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text(json.dumps(TOKENIZER))
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def write_huge(folder: Path) -> Path:
    """A whole model with terabytes of weights, all of them zero: its file is one hole."""
    write_tiny(folder)
    config = json.loads((folder / "config.json").read_text()) | {"hidden_size": 1 << 18, "intermediate_size": 1 << 18}
    (folder / "config.json").write_text(json.dumps(config))
    header: dict[str, Any] = {}
    end = 0
    for name, shape in spec_from_config(config).tensors().items():
        begin, end = end, end + 4 * math.prod(shape)
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
    return folder


def load_tiny(folder: Path, dtype: str = "float32") -> LoadedModel:
    return load_model(folder, name="tiny", device="cpu", dtype=dtype, cache_dir=folder)


class Sequences:
    """Requests whose pages are dealt from a shuffled pool: page numbers are in no order, and each page has one owner."""

    def __init__(
        self, loaded: LoadedModel, page_size: int, n_pages: int = 512, *, runner: TorchRunner | NativeRunner | None = None
    ) -> None:
        if runner is None:
            assert isinstance(loaded.model, Decoder), "a packed model needs its own runner"
            runner = TorchRunner(loaded.model, n_pages, page_size)
        self.runner = runner
        self.runner.kv.poison(range(n_pages))
        self.page_size = page_size
        self._free = list(range(n_pages))
        random.Random(page_size).shuffle(self._free)
        self._pages: dict[int, array[int]] = {}
        self._n_done: dict[int, int] = {}

    def row(self, request: int, tokens: Sequence[int], *, sample: SamplingParams | None = None, n_targets: int = 0) -> Row:
        """The next tokens of a request; `n_targets` of the last positions are scored against the whole vocabulary."""
        start = self._n_done.get(request, 0)
        pages = self._pages.setdefault(request, array("i"))
        while len(pages) * self.page_size < start + len(tokens):
            pages.append(self._free.pop())
        self._n_done[request] = start + len(tokens)
        sampling = None if sample is None else Sampling(sample, 0, 0, tokens, ())
        return Row(RequestId(request), tuple(tokens), start, pages, sampling, (ALL,) * n_targets)

    def run(self, *rows: Row) -> tuple[RowOutput, ...]:
        return self.runner.run(Plan(0, rows))

    def adopt(self, request: int, other: int) -> None:
        """Let `request` go on where `other` is, on its full pages; what is left of the last one is computed again by the caller."""
        n_pages = self._n_done[other] // self.page_size
        self._pages[request] = self._pages[other][:n_pages]
        self._n_done[request] = n_pages * self.page_size

    def pages(self, request: int) -> array[int]:
        return self._pages[request]


def scores(output: RowOutput) -> torch.Tensor:
    """Logprobs [positions, vocab] of a row whose targets were the whole vocabulary."""
    assert output.error is None
    return torch.tensor(output.target_logprobs)


def tokens(n: int, seed: int = 1) -> list[int]:
    return random.Random(seed).choices(range(VOCAB), k=n)
