"""What published configurations describe, layer by layer, and which executor refuses which of it."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from sgl_lab.contracts.errors import InvariantBroken, ModelError
from sgl_lab.engine.compute.models.executors import GPU, NATIVE, PACKED_GPU, TORCH, Executor, fitted, unfit
from sgl_lab.engine.compute.models.families import FAMILIES, Family, spec_from_config
from sgl_lab.engine.compute.models.families.common import QKV
from sgl_lab.engine.compute.models.spec import KvGroup, ModelSpec, RopeScaling, Rotary

from .family_models import TORCH_ALONE

PUBLISHED: dict[str, dict[str, Any]] = {
    name: json.loads(text)
    for name, text in {
        "Llama-3.1-8B": """{"architectures": ["LlamaForCausalLM"], "attention_bias": false, "attention_dropout": 0.0,
            "bos_token_id": 128000, "eos_token_id": 128001,
            "hidden_act": "silu", "hidden_size": 4096, "initializer_range": 0.02, "intermediate_size": 14336,
            "max_position_embeddings": 131072, "mlp_bias": false, "model_type": "llama", "num_attention_heads": 32,
            "num_hidden_layers": 32, "num_key_value_heads": 8, "pretraining_tp": 1, "rms_norm_eps": 1e-05, "rope_scaling": {
            "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192,
            "rope_type": "llama3"}, "rope_theta": 500000.0, "tie_word_embeddings": false, "torch_dtype": "bfloat16",
            "use_cache": true, "vocab_size": 128256}""",
        "Mistral-7B-v0.1": """{"architectures": ["MistralForCausalLM"], "bos_token_id": 1, "eos_token_id": 2, "hidden_act": "silu",
            "hidden_size": 4096, "initializer_range": 0.02, "intermediate_size": 14336, "max_position_embeddings": 32768,
            "model_type": "mistral", "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 8,
            "rms_norm_eps": 1e-05, "rope_theta": 10000.0, "sliding_window": 4096, "tie_word_embeddings": false,
            "torch_dtype": "bfloat16", "use_cache": true, "vocab_size": 32000}""",
        "Qwen2.5-0.5B": """{"architectures": ["Qwen2ForCausalLM"], "attention_dropout": 0.0, "bos_token_id": 151643,
            "eos_token_id": 151643, "hidden_act": "silu", "hidden_size": 896, "initializer_range": 0.02, "intermediate_size": 4864,
            "max_position_embeddings": 32768, "max_window_layers": 24, "model_type": "qwen2", "num_attention_heads": 14,
            "num_hidden_layers": 24, "num_key_value_heads": 2, "rms_norm_eps": 1e-06, "rope_theta": 1000000.0,
            "sliding_window": 32768, "tie_word_embeddings": true, "torch_dtype": "bfloat16", "use_cache": true, "use_mrope": false,
            "use_sliding_window": false, "vocab_size": 151936}""",
        "Qwen3-0.6B": """{"architectures": ["Qwen3ForCausalLM"], "attention_bias": false, "attention_dropout": 0.0,
            "bos_token_id": 151643, "eos_token_id": 151645, "head_dim": 128, "hidden_act": "silu", "hidden_size": 1024,
            "initializer_range": 0.02, "intermediate_size": 3072, "max_position_embeddings": 40960, "max_window_layers": 28,
            "model_type": "qwen3", "num_attention_heads": 16, "num_hidden_layers": 28, "num_key_value_heads": 8, "rms_norm_eps": 1e-06,
            "rope_scaling": null, "rope_theta": 1000000, "sliding_window": null, "tie_word_embeddings": true,
            "torch_dtype": "bfloat16", "use_cache": true, "use_sliding_window": false, "vocab_size": 151936}""",
        "gemma-2-2b": """{"architectures": ["Gemma2ForCausalLM"], "attention_bias": false, "attention_dropout": 0.0,
            "attn_logit_softcapping": 50.0, "bos_token_id": 2, "cache_implementation": "hybrid", "eos_token_id": 1,
            "final_logit_softcapping": 30.0, "head_dim": 256, "hidden_act": "gelu_pytorch_tanh",
            "hidden_activation": "gelu_pytorch_tanh", "hidden_size": 2304, "initializer_range": 0.02, "intermediate_size": 9216,
            "max_position_embeddings": 8192, "model_type": "gemma2", "num_attention_heads": 8, "num_hidden_layers": 26,
            "num_key_value_heads": 4, "pad_token_id": 0, "query_pre_attn_scalar": 256, "rms_norm_eps": 1e-06,
            "rope_theta": 10000.0, "sliding_window": 4096, "torch_dtype": "float32", "use_cache": true, "vocab_size": 256000}""",
        "Mixtral-8x7B-v0.1": """{"architectures": ["MixtralForCausalLM"], "attention_dropout": 0.0, "bos_token_id": 1, "eos_token_id": 2,
            "hidden_act": "silu", "hidden_size": 4096, "initializer_range": 0.02, "intermediate_size": 14336,
            "max_position_embeddings": 32768, "model_type": "mixtral", "num_attention_heads": 32, "num_experts_per_tok": 2,
            "num_hidden_layers": 32, "num_key_value_heads": 8, "num_local_experts": 8, "output_router_logits": false,
            "rms_norm_eps": 1e-05, "rope_theta": 1000000.0, "router_aux_loss_coef": 0.02, "sliding_window": null,
            "tie_word_embeddings": false, "torch_dtype": "bfloat16", "use_cache": true, "vocab_size": 32000}""",
        "Phi-3-mini-4k": """{"architectures": ["Phi3ForCausalLM"], "attention_bias": false, "attention_dropout": 0.0, "bos_token_id": 1,
            "embd_pdrop": 0.0, "eos_token_id": 32000, "hidden_act": "silu", "hidden_size": 3072, "initializer_range": 0.02,
            "intermediate_size": 8192, "max_position_embeddings": 4096, "model_type": "phi3", "num_attention_heads": 32,
            "num_hidden_layers": 32, "num_key_value_heads": 32, "original_max_position_embeddings": 4096, "pad_token_id": 32000,
            "resid_pdrop": 0.0, "rms_norm_eps": 1e-05, "rope_scaling": null, "rope_theta": 10000.0, "sliding_window": 2047,
            "tie_word_embeddings": false, "torch_dtype": "bfloat16", "use_cache": true, "vocab_size": 32064}""",
        "gemma-3-1b-it": """{"architectures": ["Gemma3ForCausalLM"], "attention_bias": false, "attention_dropout": 0.0,
            "attn_logit_softcapping": null, "bos_token_id": 2, "cache_implementation": "hybrid", "eos_token_id": [1, 106],
            "final_logit_softcapping": null, "head_dim": 256, "hidden_activation": "gelu_pytorch_tanh", "hidden_size": 1152,
            "initializer_range": 0.02, "intermediate_size": 6912, "max_position_embeddings": 32768, "model_type":
            "gemma3_text", "num_attention_heads": 4, "num_hidden_layers": 26, "num_key_value_heads": 1, "pad_token_id": 0,
            "query_pre_attn_scalar": 256, "rms_norm_eps": 1e-06, "rope_local_base_freq": 10000, "rope_scaling": null,
            "rope_theta": 1000000, "sliding_window": 512, "sliding_window_pattern": 6, "torch_dtype": "bfloat16",
            "use_cache": true, "vocab_size": 262144}""",
        "OLMo-2-7B": """{"architectures": ["Olmo2ForCausalLM"], "attention_bias": false, "attention_dropout": 0.0, "eos_token_id":
            100257, "hidden_act": "silu", "hidden_size": 4096, "initializer_range": 0.02, "intermediate_size": 11008,
            "max_position_embeddings": 4096, "model_type": "olmo2", "num_attention_heads": 32, "num_hidden_layers": 32,
            "num_key_value_heads": 32, "pad_token_id": 100277, "rms_norm_eps": 1e-06, "rope_scaling": null, "rope_theta":
            500000, "tie_word_embeddings": false, "torch_dtype": "float32", "use_cache": true, "vocab_size": 100352}""",
        "granite-3.1-2b": """{"architectures": ["GraniteForCausalLM"], "attention_bias": false, "attention_dropout": 0.1,
            "attention_multiplier": 0.015625, "bos_token_id": 0, "embedding_multiplier": 12.0, "eos_token_id": 0,
            "hidden_act": "silu", "hidden_size": 2048, "initializer_range": 0.02, "intermediate_size": 8192,
            "logits_scaling": 8.0, "max_position_embeddings": 131072, "mlp_bias": false, "model_type": "granite",
            "num_attention_heads": 32, "num_hidden_layers": 40, "num_key_value_heads": 8, "pad_token_id": 0,
            "residual_multiplier": 0.22, "rms_norm_eps": 1e-05, "rope_scaling": null, "rope_theta": 5000000.0,
            "tie_word_embeddings": true, "torch_dtype": "bfloat16", "use_cache": true, "vocab_size": 49155}""",
        "SmolLM3-3B": """{"architectures": ["SmolLM3ForCausalLM"], "attention_bias": false, "attention_dropout": 0.0, "bos_token_id":
            null, "eos_token_id": 128012, "hidden_act": "silu", "hidden_size": 2048, "initializer_range": 0.02,
            "intermediate_size": 11008, "layer_types": ["full_attention", "full_attention", "full_attention",
            "full_attention", "full_attention", "full_attention", "full_attention", "full_attention", "full_attention",
            "full_attention", "full_attention", "full_attention", "full_attention", "full_attention", "full_attention",
            "full_attention", "full_attention", "full_attention", "full_attention", "full_attention", "full_attention",
            "full_attention", "full_attention", "full_attention", "full_attention", "full_attention", "full_attention",
            "full_attention", "full_attention", "full_attention", "full_attention", "full_attention", "full_attention",
            "full_attention", "full_attention", "full_attention"], "max_position_embeddings": 65536, "max_window_layers":
            28, "mlp_bias": false, "model_type": "smollm3", "no_rope_layer_interval": 4, "no_rope_layers": [1, 1, 1, 0, 1,
            1, 1, 0, 1, 1, 1, 0, 1, 1, 1, 0, 1, 1, 1, 0, 1, 1, 1, 0, 1, 1, 1, 0, 1, 1, 1, 0, 1, 1, 1, 0],
            "num_attention_heads": 16, "num_hidden_layers": 36, "num_key_value_heads": 4, "pad_token_id": 128004,
            "pretraining_tp": 2, "rms_norm_eps": 1e-06, "rope_scaling": null, "rope_theta": 5000000.0, "sliding_window":
            null, "tie_word_embeddings": true, "torch_dtype": "bfloat16", "use_cache": false, "use_sliding_window": false,
            "vocab_size": 128256}""",
        "Qwen1.5-MoE-A2.7B": """{"architectures": ["Qwen2MoeForCausalLM"], "attention_dropout": 0.0, "bos_token_id": 151643,
            "decoder_sparse_step": 1, "eos_token_id": 151643, "hidden_act": "silu", "hidden_size": 2048,
            "initializer_range": 0.02, "intermediate_size": 5632, "max_position_embeddings": 8192, "max_window_layers": 21,
            "mlp_only_layers": [], "model_type": "qwen2_moe", "moe_intermediate_size": 1408, "norm_topk_prob": false,
            "num_attention_heads": 16, "num_experts": 60, "num_experts_per_tok": 4, "num_hidden_layers": 24,
            "num_key_value_heads": 16, "output_router_logits": false, "qkv_bias": true, "rms_norm_eps": 1e-06, "rope_theta":
            1000000.0, "router_aux_loss_coef": 0.001, "shared_expert_intermediate_size": 5632, "sliding_window": 32768,
            "tie_word_embeddings": false, "torch_dtype": "bfloat16", "use_cache": true, "use_sliding_window": false,
            "vocab_size": 151936}""",
        "Qwen3-30B-A3B": """{"architectures": ["Qwen3MoeForCausalLM"], "attention_bias": false, "attention_dropout": 0.0, "bos_token_id":
            151643, "decoder_sparse_step": 1, "eos_token_id": 151645, "head_dim": 128, "hidden_act": "silu", "hidden_size":
            2048, "initializer_range": 0.02, "intermediate_size": 6144, "max_position_embeddings": 40960,
            "max_window_layers": 48, "mlp_only_layers": [], "model_type": "qwen3_moe", "moe_intermediate_size": 768,
            "norm_topk_prob": true, "num_attention_heads": 32, "num_experts": 128, "num_experts_per_tok": 8,
            "num_hidden_layers": 48, "num_key_value_heads": 4, "output_router_logits": false, "rms_norm_eps": 1e-06,
            "rope_scaling": null, "rope_theta": 1000000.0, "router_aux_loss_coef": 0.001, "sliding_window": null,
            "tie_word_embeddings": false, "torch_dtype": "bfloat16", "use_cache": true, "use_sliding_window": false,
            "vocab_size": 151936}""",
        "phi-4": """{"architectures": ["Phi3ForCausalLM"], "attention_bias": false, "attention_dropout": 0.0, "bos_token_id":
            100257, "embd_pdrop": 0.0, "eos_token_id": 100265, "hidden_act": "silu", "hidden_size": 5120,
            "initializer_range": 0.02, "intermediate_size": 17920, "max_position_embeddings": 16384, "model_type": "phi3",
            "num_attention_heads": 40, "num_hidden_layers": 40, "num_key_value_heads": 10,
            "original_max_position_embeddings": 16384, "pad_token_id": 100349, "resid_pdrop": 0.0, "rms_norm_eps": 1e-05,
            "rope_scaling": null, "rope_theta": 250000, "sliding_window": null, "tie_word_embeddings": false, "torch_dtype":
            "bfloat16", "use_cache": true, "vocab_size": 100352}""",
    }.items()
}
PARAMETERS = {
    "Llama-3.1-8B": 8_030_261_248,
    "Mistral-7B-v0.1": 7_241_732_096,
    "Qwen2.5-0.5B": 494_032_768,
    "Qwen3-0.6B": 596_049_920,
    "gemma-2-2b": 2_614_341_888,
    "Mixtral-8x7B-v0.1": 46_702_792_704,
    "Phi-3-mini-4k": 3_821_079_552,
    "gemma-3-1b-it": 999_885_952,
    "OLMo-2-7B": 7_298_617_344,
    "granite-3.1-2b": 2_533_531_648,
    "SmolLM3-3B": 3_075_098_624,
    "Qwen1.5-MoE-A2.7B": 14_315_784_192,
    "Qwen3-30B-A3B": 30_532_122_624,
    "phi-4": 14_659_507_200,
}
"""as their makers count them"""


def spec(name: str, **changes: Any) -> ModelSpec:
    return spec_from_config(PUBLISHED[name] | changes, name)


def test_every_family_has_a_published_configuration() -> None:
    assert {family.model_type for family in FAMILIES} - {config["model_type"] for config in PUBLISHED.values()} == {"arcee"}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_configuration_describes_every_weight(name: str) -> None:
    assert spec(name).n_params == PARAMETERS[name]
    assert len(spec(name).layers) == PUBLISHED[name]["num_hidden_layers"]


LLAMA = Executor("a Llama's step", hint="use another")

SIZES = {"hidden_size": 128, "intermediate_size": 96, "num_hidden_layers": 4, "num_attention_heads": 32, "vocab_size": 1000}


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.model_type)
def test_what_a_configuration_leaves_out_is_what_transformers_has(family: Family) -> None:
    from transformers import CONFIG_MAPPING

    named = {"architectures": [family.architecture], "model_type": family.model_type}
    whole = CONFIG_MAPPING[family.model_type](**SIZES).to_dict() | named
    assert spec_from_config(SIZES | named) == spec_from_config(whole)


def test_a_default_that_transformers_does_not_have_is_an_error_that_names_the_key() -> None:
    config = PUBLISHED["Llama-3.1-8B"] | {"rms_norm_eps": None, "num_attention_heads": 3, "num_key_value_heads": 3, "head_dim": 128}
    with pytest.raises(ModelError, match=r"rms_norm_eps is missing, and transformers has no default for it .* not a multiple"):
        spec_from_config(config)


def test_a_configuration_that_leaves_nothing_out_does_not_load_transformers() -> None:
    config = PUBLISHED["Llama-3.1-8B"]
    script = f"""
import sys
from sgl_lab.engine.compute.models.families import spec_from_config
spec_from_config({config!r})
assert "transformers" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", script], check=True)


def test_llama_3_stretches_its_positions() -> None:
    attention = spec("Llama-3.1-8B").only.attention
    assert attention.rotary == Rotary(500_000.0, 128, RopeScaling("llama3", 8.0, 1.0, 4.0, 8192))
    assert (attention.window, attention.biases, spec("Llama-3.1-8B").context) == (None, frozenset(), 131_072)


def test_mistral_slides_in_every_layer() -> None:
    found = spec("Mistral-7B-v0.1")
    assert found.only.attention.window == 4096
    assert found.kv_groups == (KvGroup(4096, tuple(range(32))),)
    assert found.context == 32_768


def test_qwen_2_has_biases_on_q_k_and_v_and_slides_from_a_layer_on_if_it_says_so() -> None:
    found = spec("Qwen2.5-0.5B")
    assert found.only.attention.biases == QKV
    names = [name for name in found.tensors() if name.startswith("model.layers.3.") and name.endswith("bias")]
    assert names == [f"model.layers.3.self_attn.{x}_proj.bias" for x in "qkv"]
    slides = spec("Qwen2.5-0.5B", use_sliding_window=True, max_window_layers=20)
    assert slides.kv_groups == (KvGroup(None, tuple(range(20))), KvGroup(32_768, tuple(range(20, 24))))
    with pytest.raises(InvariantBroken):
        _ = slides.only


def test_qwen_3_norms_q_and_k_head_by_head() -> None:
    found = spec("Qwen3-0.6B")
    assert (found.only.attention.qk_norm, found.only.attention.head_dim) == ("head", 128)
    assert found.tensors()["model.layers.0.self_attn.q_norm.weight"] == (128,)


def test_gemma_2_alternates_caps_and_norms_around() -> None:
    found = spec("gemma-2-2b")
    assert [layer.attention.window for layer in found.layers[:4]] == [4096, None, 4096, None]
    assert found.kv_groups == (KvGroup(4096, tuple(range(0, 26, 2))), KvGroup(None, tuple(range(1, 26, 2))))
    assert {(layer.attention.softcap, layer.attention.scale, layer.feed_forward.activation) for layer in found.layers} == {
        (50.0, 1 / 16, "gelu_tanh")
    }
    assert (found.logit_softcap, found.embedding_scale, found.norm_offset, found.tied) == (30.0, 48.0, 1.0, True)
    norms = [name.split(".")[3] for name in found.tensors() if name.startswith("model.layers.0.") and "norm" in name]
    assert norms == [
        "input_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm",
    ]  # fmt: skip


def test_gemma_3_turns_by_another_base_where_it_slides() -> None:
    found = spec("gemma-3-1b-it")
    kinds = [(layer.attention.window, layer.attention.rotary) for layer in found.layers[:6]]
    assert kinds == [(512, Rotary(10_000.0, 256))] * 5 + [(None, Rotary(1_000_000.0, 256))]
    assert {layer.attention.qk_norm for layer in found.layers} == {"head"}


def test_qwen_moe_has_a_shared_expert_and_layers_without_experts() -> None:
    sparse = spec("Qwen1.5-MoE-A2.7B", mlp_only_layers=[1])
    assert [layer.feed_forward.experts is None for layer in sparse.layers[:3]] == [False, True, False]
    assert [layer.feed_forward.width for layer in sparse.layers[:2]] == [1408, 5632]
    names = [name for name in sparse.tensors() if name.startswith("model.layers.0.mlp.") and ".experts." not in name]
    assert names == [
        f"model.layers.0.mlp.{part}.weight"
        for part in ("gate", "shared_expert_gate", "shared_expert.gate_proj", "shared_expert.up_proj", "shared_expert.down_proj")
    ]


def test_long_positions_end_where_a_models_other_factors_begin() -> None:
    factors = {"type": "longrope", "short_factor": [1.0] * 48, "long_factor": [2.0] * 48}
    found = spec("Phi-3-mini-4k", rope_scaling=factors, max_position_embeddings=131_072)
    assert found.context == 4096
    assert spec("Phi-3-mini-4k", rope_scaling=factors | {"long_factor": [1.0] * 48}, max_position_embeddings=131_072).context == 131_072


def test_mixtral_has_experts() -> None:
    feed_forward = spec("Mixtral-8x7B-v0.1").only.feed_forward
    assert feed_forward.experts is not None
    assert (feed_forward.experts.count, feed_forward.experts.top_k, feed_forward.width) == (8, 2, 14_336)
    shapes = spec("Mixtral-8x7B-v0.1").tensors()
    assert shapes["model.layers.31.block_sparse_moe.experts.7.w2.weight"] == (4096, 14_336)
    assert shapes["model.layers.31.block_sparse_moe.gate.weight"] == (8, 4096)


def test_phi_3_stores_as_one_what_is_multiplied_as_one() -> None:
    shapes = spec("Phi-3-mini-4k").tensors()
    assert shapes["model.layers.0.self_attn.qkv_proj.weight"] == (9216, 3072)
    assert shapes["model.layers.0.mlp.gate_up_proj.weight"] == (16_384, 3072)
    assert spec("Phi-3-mini-4k").only.attention.window == 2047


def test_a_key_that_a_family_gives_no_meaning_is_refused_by_its_name() -> None:
    for name, changes, message in (
        ("Phi-3-mini-4k", {"rope_scaling": {"type": "linear", "factor": 2.0, "partial_rotary_factor": 0.001}}, "partial_rotary_factor"),
        ("Qwen2.5-0.5B", {"attn_logit_softcapping": 50.0}, "attn_logit_softcapping 50.0"),
        ("Mistral-7B-v0.1", {"num_local_experts": 8}, "num_local_experts 8"),
        ("Llama-3.1-8B", {"layer_types": ["sliding_attention"] * 32}, "layer_types"),
        ("gemma-2-2b", {"hidden_activation": "mish"}, "mish"),
    ):
        with pytest.raises(ModelError, match=message):
            spec(name, **changes)


REFUSED: list[tuple[str, Executor, str]] = [
    ("Mixtral-8x7B-v0.1", PACKED_GPU, "layer 0 has 8 experts, which the GPU step does not compute"),
    ("gemma-2-2b", LLAMA, "layer 0 has attention scores capped at 50, which a Llama's step does not compute"),
    ("Qwen3-0.6B", LLAMA, "layer 0 has norms of q and k, which a Llama's step does not compute"),
]


@pytest.mark.parametrize(("name", "executor", "message"), REFUSED)
def test_what_an_executor_cannot_compute_is_refused_by_layer_and_kind(name: str, executor: Executor, message: str) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        fitted(spec(name), executor, name)
    assert name in str(caught.value)
    assert caught.value.hint == executor.hint


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_executor_computes_every_kind_or_refuses_it(name: str) -> None:
    assert fitted(spec(name), TORCH) == spec(name)
    if PUBLISHED[name]["model_type"] in TORCH_ALONE:
        assert "does not compute" in str(unfit(spec(name), NATIVE))
        assert "does not compute" in str(unfit(spec(name), GPU))
    else:
        assert fitted(spec(name), NATIVE) == fitted(spec(name), GPU) == spec(name)


def test_an_executor_of_layers_that_are_alike_stays_within_the_window() -> None:
    assert unfit(spec("Llama-3.1-8B"), LLAMA) is None
    assert unfit(spec("Qwen2.5-0.5B"), LLAMA) is None
    inside = fitted(spec("Mistral-7B-v0.1"), LLAMA)
    assert (inside.context, inside.only.attention.window) == (4096, None)
    partly = fitted(spec("Qwen2.5-0.5B", use_sliding_window=True, sliding_window=1000, max_window_layers=20), LLAMA)
    assert (partly.context, partly.kv_groups) == (1000, (KvGroup(None, tuple(range(24))),))
    assert fitted(spec("Mistral-7B-v0.1"), TORCH).context == 32_768
    reason = unfit(spec("Llama-3.1-8B", hidden_size=4100), NATIVE)
    assert reason is not None
    assert "hidden_size 4100 is not a multiple of 32" in reason
