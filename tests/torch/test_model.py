"""The forward pass is that of transformers, for every shape of the family, and so is every token of the built-in model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from sgl_lab.contracts.params import SamplingParams
from sgl_lab.contracts.port import GenJob, GenOutput, Message
from sgl_lab.engine.compute.kernels.linear import Linear
from sgl_lab.engine.compute.models.load import LoadedModel
from sgl_lab.engine.compute.runners.kv import pages_for
from sgl_lab.engine.compute.runners.runner import TorchRunner
from sgl_lab.engine.serving.config import EngineConfig
from sgl_lab.engine.serving.engine import Engine

from ..pure.driving import SOAK
from .tiny import Sequences, load_tiny, scores, tokens, write_tiny

LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}
SHAPES: dict[str, dict[str, Any]] = {
    "grouped queries": {},
    "one head for all": {"num_key_value_heads": 1},
    "a head each": {"num_key_value_heads": 4},
    "tied embedding": {"tie_word_embeddings": True},
    "biases": {"attention_bias": True, "mlp_bias": True},
    "wide heads": {"head_dim": 32},
    "linear scaling": {"rope_scaling": {"type": "linear", "factor": 4.0}},
    "llama3 scaling": {"rope_scaling": LLAMA3, "rope_theta": 500_000.0},
    "rope_parameters": {"rope_parameters": LLAMA3 | {"rope_theta": 1000.0}},
    "scaling beside empty parameters": {"rope_parameters": {}, "rope_scaling": {"type": "linear", "factor": 4.0}},
    "scaling beside other parameters": {"rope_parameters": {"rope_theta": 100.0}, "rope_scaling": {"type": "linear", "factor": 4.0}},
    "dynamic scaling": {"rope_scaling": {"rope_type": "dynamic", "factor": 4.0}},
    "a divisor each": {
        "rope_scaling": {
            "rope_type": "longrope",
            "short_factor": [1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 4.5],
            "long_factor": [1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 4.5],
            "attention_factor": 1.0,
            "original_max_position_embeddings": 256,
        }
    },
    "origin outside": {"rope_scaling": LLAMA3 | {"original_max_position_embeddings": 8}, "original_max_position_embeddings": 64},
    "swish": {"hidden_act": "swish"},
    "defaults": {"head_dim": None, "num_key_value_heads": None, "rms_norm_eps": 1e-6},
    "mistral's biases": {"architectures": ["MistralForCausalLM"], "model_type": "mistral", "attention_bias": False, "sliding_window": None},
    "mistral": {"architectures": ["MistralForCausalLM"], "model_type": "mistral", "sliding_window": None},
}


@pytest.mark.parametrize("changes", SHAPES.values(), ids=SHAPES.keys())
def test_every_shape_of_the_family_computes_as_in_transformers(tmp_path: Path, changes: dict[str, Any]) -> None:
    from transformers import AutoModelForCausalLM

    folder = write_tiny(tmp_path, **changes)
    prompt = tokens(100)
    rows = Sequences(load_tiny(folder), 4)
    rows.run(rows.row(1, prompt[:30]))
    found = scores(rows.run(rows.row(1, prompt[30:], n_targets=70))[0])
    with torch.inference_mode():
        theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)(torch.tensor([prompt])).logits[0, 30:]
    torch.testing.assert_close(found, theirs.log_softmax(-1), rtol=0, atol=1e-4)


def test_a_sliding_window_limits_the_context(tmp_path: Path) -> None:
    folder = write_tiny(tmp_path, architectures=["MistralForCausalLM"], sliding_window=64)
    assert load_tiny(folder).spec.context == 64


@pytest.mark.parametrize(("dtype", "close"), [(torch.float32, 1e-5), (torch.bfloat16, 0.05)], ids=str)
@pytest.mark.parametrize("n_rows", [1, 3, 17, 200])
@pytest.mark.parametrize("bias", [True, False])
def test_a_packed_linear_equals_its_plain_twin(dtype: torch.dtype, close: float, n_rows: int, bias: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    weight, offset, x = (torch.randn(shape, generator=generator).to(dtype) for shape in ((96, 64), (96,), (n_rows, 64)))
    packed, plain = (Linear(weight, offset if bias else None, pack=pack) for pack in (True, False))
    weight.zero_()
    assert plain(x).abs().max() > 1
    torch.testing.assert_close(packed(x), plain(x), rtol=close, atol=close)


def test_a_budget_is_a_number_of_pages(tiny: LoadedModel) -> None:
    cpu = torch.device("cpu")
    assert pages_for(tiny.spec, torch.float32, cpu, 1, budget_bytes=10 * 2 * 2 * 2 * 16 * 4) == 10
    assert pages_for(tiny.spec, torch.bfloat16, cpu, 16, budget_bytes=10 * 2 * 2 * 2 * 16 * 4) == 1
    assert 1 <= pages_for(tiny.spec, torch.float32, cpu, 16) * 16 * 512 <= 1 << 30


# ---------------------------------------------------------------- the built-in model

N_TOKENS = 64 if SOAK > 1 else 32
PROMPTS = [
    "The capital of France is",
    "Write a short poem about the sea.",
    "def fibonacci(n):\n    ",
    "Q: What is 17 + 25?\nA:",
    "Once upon a time, in a village by the river,",
    "Explain photosynthesis to a ten-year-old.",
    "Translate into French: The cat sleeps on the chair.",
    "SELECT name, age FROM users WHERE",
    "List three uses of a paperclip:\n1.",
    "The three laws of robotics are",
    '{"name": "Ada", "born": 1815, "known_for": "',
    "To make an omelette, first",
    "日本の首都は",
    "La plus grande ville d'Espagne est",
    "In 1969, Apollo 11",
    "Why is the sky blue? Answer in one sentence.",
    "import numpy as np\n\n# the mean of each column\n",
    "Dear Sir or Madam,\n\nI am writing to",
    "Roses are red,\nviolets are blue,\n",
    "user: hi\nassistant: hello! how can I help?\nuser: tell me a joke\nassistant:",
]


class Kept:
    """A listener that keeps the answer."""

    def __init__(self) -> None:
        self.outputs: tuple[GenOutput, ...] = ()

    def on_progress(self, index: int, text: str, ids: tuple[int, ...]) -> None: ...

    def on_done(self, outputs: tuple[GenOutput, ...]) -> None:
        self.outputs = outputs

    def on_error(self, error: Exception) -> None:
        raise error


@pytest.fixture(scope="module")
def prompts(smollm2: LoadedModel) -> list[tuple[int, ...]]:
    """Every other prompt as a chat."""

    def chat(text: str) -> tuple[int, ...]:
        segments = smollm2.tokenizer.render_chat([Message("user", text)], add_generation_prompt=True)
        return tuple(token for segment in segments for token in smollm2.tokenizer.encode(segment.text, markup=segment.markup))

    return [chat(text) if i % 2 else smollm2.tokenizer.encode(text) for i, text in enumerate(PROMPTS)]


@pytest.fixture(scope="module")
def generated(smollm2_folder: Path, prompts: list[tuple[int, ...]]) -> list[list[int]]:
    """What transformers' `generate` makes of the prompts, greedily, in one left-padded batch."""
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(smollm2_folder, dtype=torch.float32)
    longest = max(map(len, prompts))
    ids = torch.tensor([[0] * (longest - len(prompt)) + list(prompt) for prompt in prompts])
    mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    with torch.inference_mode():
        out = model.generate(ids, attention_mask=mask, max_new_tokens=N_TOKENS, do_sample=False, eos_token_id=-1, pad_token_id=0)
    return [row[longest:] for row in out.tolist()]


def test_greedy_tokens_are_those_of_transformers_alone_batched_and_cached(
    smollm2: LoadedModel, prompts: list[tuple[int, ...]], generated: list[list[int]]
) -> None:
    config = EngineConfig(n_pages=8192, page_size=1)
    engine = Engine(config, TorchRunner(smollm2.model, config.n_pages), smollm2.tokenizer, context=smollm2.spec.context)
    params = SamplingParams(temperature=0, max_tokens=N_TOKENS, ignore_eos=True)

    def answers(*some: tuple[int, ...]) -> list[GenOutput]:
        kept = [Kept() for _ in some]
        for prompt, listener in zip(some, kept, strict=True):
            engine.add(engine.gen(GenJob(prompt, params), listener))
        while engine.step():
            pass
        return [listener.outputs[0] for listener in kept]

    alone = [answer for prompt in prompts[::5] for answer in answers(prompt)]
    assert [list(answer.ids) for answer in alone] == generated[::5]
    engine.flush()
    batched = answers(*prompts)
    assert [list(answer.ids) for answer in batched] == generated
    assert sum(answer.usage.computed_tokens for answer in batched) > sum(map(len, prompts))
    cached = answers(*prompts)
    assert [list(answer.ids) for answer in cached] == generated
    assert [answer.usage.cached_tokens for answer in cached] == [len(prompt) - 1 for prompt in prompts]
    engine.check()
    engine.close()
