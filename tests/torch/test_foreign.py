"""Decoders without a family here: transformers computes them over our pages, equal to its own logits; recurrent ones are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import sgl_lab as sgl
from sgl_lab.contracts.errors import ModelError
from sgl_lab.contracts.events import PrefixMatched
from sgl_lab.engine.compute.models.foreign import ForeignDecoder, is_foreign
from sgl_lab.engine.compute.runners.choose import make_runner
from sgl_lab.session import Lab

from .tiny import TOKENIZER, VOCAB, Sequences, load_tiny, scores, tokens

SMALL: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
    "bos_token_id": None,
    "eos_token_id": 96,
    "pad_token_id": None,
}
MODELS: dict[str, dict[str, Any]] = {
    "gpt2": {"activation_function": "gelu", "n_inner": 96},
    "gpt_neox": {"rotary_pct": 0.5},
    "starcoder2": {"num_key_value_heads": 2, "sliding_window": 20},
    "cohere": {"num_key_value_heads": 2, "logit_scale": 0.3},
    "opt": {"ffn_dim": 96, "word_embed_proj_dim": 64},
    "phi": {"num_key_value_heads": 4},
    "olmo": {"num_key_value_heads": 2},
    "nemotron": {"num_key_value_heads": 2},
    "glm": {"num_key_value_heads": 2, "head_dim": 16},
}
PROMPT = tokens(60)


def write(folder: Path, kind: str, **changes: Any) -> torch.Tensor:
    """A random model in a folder; its own logprobs of `PROMPT`."""
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **SMALL | changes)  # type: ignore[no-untyped-call]
    theirs: Any = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    with torch.inference_mode():
        for weight in theirs.parameters():
            weight.normal_(std=0.1).add_(weight.dim() == 1)
        wanted: torch.Tensor = theirs(torch.tensor([PROMPT])).logits[0].float().log_softmax(-1)
    theirs.save_pretrained(folder)
    (folder / "tokenizer.json").write_text(json.dumps(TOKENIZER))
    return wanted


@pytest.mark.parametrize("kind", MODELS)
def test_it_computes_what_transformers_computes(tmp_path: Path, kind: str) -> None:
    wanted = write(tmp_path, kind, **MODELS[kind])
    loaded = load_tiny(tmp_path)
    assert isinstance(loaded.model, ForeignDecoder)
    rows = Sequences(loaded, 4, runner=make_runner(loaded.model, None, 512, 4))  # type: ignore[arg-type]
    n = len(PROMPT)
    (whole,) = rows.run(rows.row(1, PROMPT, n_targets=n))
    assert torch.allclose(scores(whole), wanted, atol=2e-4)
    found = []
    for a, b in ((0, 9), (9, 10), (10, 11), (11, 60)):  # in chunks, beside another row
        _, output = rows.run(rows.row(50 + a, PROMPT[:5]), rows.row(2, PROMPT[a:b], n_targets=b - a))
        found.append(scores(output))
    assert torch.allclose(torch.cat(found), wanted, atol=2e-4)
    rows.run(rows.row(3, PROMPT[:40]))
    rows.adopt(4, 3)  # from the cache
    (cached,) = rows.run(rows.row(4, PROMPT[40:], n_targets=20))
    assert torch.allclose(scores(cached), wanted[40:], atol=2e-4)


def test_a_lab_over_it_has_the_radix_cache(tmp_path: Path) -> None:
    write(tmp_path, "gpt2", **MODELS["gpt2"])

    @sgl.function
    def program(s: sgl.ProgramState) -> None:
        s += "one two three four five six "
        s += sgl.gen("answer", max_tokens=5, temperature=0, ignore_eos=True)

    with Lab(tmp_path, device="cpu", cache_tokens=512) as lab:
        assert "transformers computes" in (lab.notice or "")
        answers, hits = set(), []
        for _ in range(2):
            with lab.record("run") as record:
                answers.add(program.run(backend=lab.backend)["answer"])
            hits.append([entry.event.n_hit for entry in record.entries if isinstance(entry.event, PrefixMatched)])
        assert len(answers) == 1
        assert hits[0] == [0]
        assert hits[1][0] > 10
        lab.check()
        with pytest.raises(ModelError, match="transformers computes this model"):
            lab.load_adapter(tmp_path)
        with pytest.raises(ModelError, match="transformers computes gpt2 in float32 or bfloat16"):
            Lab(tmp_path, device="cpu", dtype="int4")


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("mamba", {}, "mamba has recurrent layers"),
        ("jamba", {"num_key_value_heads": 2}, "jamba has recurrent layers"),
        ("qwen3_next", {}, "qwen3_next has recurrent layers"),
        ("falcon", {}, "falcon does not use transformers' attention interface"),
        ("bloom", {}, "bloom does not use transformers' attention interface"),
        ("gpt2", {"quantization_config": {"quant_method": "gptq", "bits": 4}}, "quantised safetensors of gpt2"),
        ("phi", {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10_000.0}}, "dynamic positions"),
    ],
)
def test_what_cannot_be_cached_by_prefix_is_refused_before_a_weight_is_read(
    tmp_path: Path, kind: str, changes: dict[str, Any], message: str
) -> None:
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    config = AutoConfig.for_model(kind, **SMALL | changes)  # type: ignore[no-untyped-call]
    config.architectures = [MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[kind]]
    config.save_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").write_text(json.dumps(TOKENIZER))
    with pytest.raises(ModelError, match=message):
        load_tiny(tmp_path)


def test_families_of_ours_and_unknown_architectures_are_not_left_to_transformers() -> None:
    assert not is_foreign({"architectures": ["LlamaForCausalLM"], "model_type": "llama"})
    assert not is_foreign({"architectures": ["SurpriseForCausalLM"], "model_type": "surprise"})
    assert not is_foreign({"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "auto_map": {"AutoModelForCausalLM": "evil.Model"}})
    assert is_foreign({"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2"})
