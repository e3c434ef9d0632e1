"""Random models of every family: transformers' own, saved by it and read as ours. `edge(seed)` are configurations around their edges."""

from __future__ import annotations

import json
import random
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from sgl_lab.contracts.errors import ModelError
from sgl_lab.engine.compute.models.decoder import Decoder
from sgl_lab.engine.compute.models.executors import TORCH, fitted
from sgl_lab.engine.compute.models.families import FAMILIES, spec_from_config
from sgl_lab.engine.compute.runners.runner import TorchRunner
from sgl_lab.engine.files.weights import Checkpoint

from .tiny import CONFIG, Sequences, scores, tokens

WINDOW = {"sliding_window": 16}
CONFIGS: dict[str, dict[str, Any]] = {
    "mistral, sliding": {"model_type": "mistral"} | WINDOW,
    "qwen2": {"model_type": "qwen2"},
    "qwen2, sliding from a layer on": {"model_type": "qwen2", "use_sliding_window": True, "max_window_layers": 1} | WINDOW,
    "qwen3": {"model_type": "qwen3", "head_dim": 32},
    "gemma2": {"model_type": "gemma2", "head_dim": 32, "query_pre_attn_scalar": 24, "hidden_activation": "gelu_pytorch_tanh"} | WINDOW,
    "gemma2, low caps": {"model_type": "gemma2", "attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0, "head_dim": 16} | WINDOW,
    "phi3, sliding": {"model_type": "phi3", "pad_token_id": 0} | WINDOW,
    "phi3, turning in part": {"model_type": "phi3", "pad_token_id": 0, "partial_rotary_factor": 0.5},
    "phi3, longrope": {
        "model_type": "phi3",
        "pad_token_id": 0,
        "original_max_position_embeddings": 128,
        "rope_scaling": {"type": "longrope", "short_factor": [1.0 + i / 8 for i in range(8)], "long_factor": [2.0 + i for i in range(8)]},
    },
    "gemma3": {"model_type": "gemma3_text", "head_dim": 32, "query_pre_attn_scalar": 24, "sliding_window_pattern": 2}
    | {"num_hidden_layers": 3}
    | WINDOW,
    "gemma3, stretched": {"model_type": "gemma3_text", "head_dim": 32, "rope_scaling": {"rope_type": "linear", "factor": 8.0}}
    | {"sliding_window_pattern": 2, "rope_local_base_freq": 500.0}
    | WINDOW,
    "mixtral": {"model_type": "mixtral", "num_local_experts": 5},
    "mixtral, sliding": {"model_type": "mixtral", "num_local_experts": 4, "num_experts_per_tok": 3} | WINDOW,
    "qwen2_moe": {"model_type": "qwen2_moe", "num_experts": 6, "moe_intermediate_size": 32, "shared_expert_intermediate_size": 64},
    "qwen3_moe": {"model_type": "qwen3_moe", "num_experts": 6, "num_experts_per_tok": 3, "moe_intermediate_size": 32}
    | {"norm_topk_prob": True, "mlp_only_layers": [0]},
    "qwen2, yarn": {"model_type": "qwen2", "rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}},
    "llama 1": {"model_type": "llama", "num_key_value_heads": 4, "rms_norm_eps": 1e-6, "attention_bias": True, "mlp_bias": True},
    "olmo2": {"model_type": "olmo2"},
    "granite": {
        "model_type": "granite",
        "attention_multiplier": 0.1,
        "embedding_multiplier": 3.0,
        "residual_multiplier": 0.5,
        "logits_scaling": 2.0,
    },
    "smollm3": {"model_type": "smollm3", "no_rope_layers": [1, 0], "pad_token_id": 0},
    "smollm3, sliding": {"model_type": "smollm3", "no_rope_layer_interval": 2, "pad_token_id": 0, "use_sliding_window": True} | WINDOW,
    "arcee": {"model_type": "arcee"},
    "llama, gelu": {"model_type": "llama", "hidden_act": "gelu"},
    "llama, gelu by tanh": {"model_type": "llama", "hidden_act": "gelu_pytorch_tanh"},
}
PROMPT = tokens(100)
TORCH_ALONE: set[str] = set()
"""types of models with a kind of layer that only torch computes"""


def config_of(changes: dict[str, Any]) -> dict[str, Any]:
    (name,) = (family.architecture for family in FAMILIES if family.model_type == changes["model_type"])
    return CONFIG | {"architectures": [name]} | ({"hidden_act": "relu2"} if name.startswith("Arcee") else {}) | changes


def theirs_of(config: dict[str, Any]) -> Any:
    """A random model of transformers."""
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    theirs: Any = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config), attn_implementation="eager").eval()  # type: ignore[no-untyped-call]
    with torch.inference_mode():
        for weight in theirs.parameters():
            weight.normal_(std=0.2).add_(weight.dim() == 1 and not config["model_type"].startswith("gemma"))
    return theirs


def made(folder: Path, changes: dict[str, Any]) -> tuple[Decoder, torch.Tensor]:
    """A random model as ours, and transformers' logprobs [position, vocab] of `PROMPT`."""
    config = config_of(changes)
    theirs = theirs_of(config)
    with torch.inference_mode():
        wanted = theirs(torch.tensor([PROMPT])).logits[0].float().log_softmax(-1)
    theirs.save_pretrained(folder)
    spec = fitted(spec_from_config(json.loads((folder / "config.json").read_text())), TORCH)
    assert spec == spec_from_config(json.loads(json.dumps(config)))
    with Checkpoint(folder) as checkpoint:
        checkpoint.check(spec.tensors())
        return Decoder(spec, checkpoint.read, device=torch.device("cpu"), dtype=torch.float32), wanted


def edge(seed: int) -> dict[str, Any]:
    """A configuration with odd sizes, windows, caps, scalings, experts and layers, of the families in turn."""
    deal = random.Random(seed)
    kind = FAMILIES[seed % len(FAMILIES)].model_type
    n_kv, group, n_layers = deal.choice([1, 2, 3]), deal.choice([1, 2, 3]), deal.choice([1, 2, 3])
    head_dim = deal.choice([8, 12, 16, 32])
    changes: dict[str, Any] = {
        "model_type": kind,
        "num_hidden_layers": n_layers,
        "num_key_value_heads": n_kv,
        "num_attention_heads": n_kv * group,
        "head_dim": head_dim,
        "hidden_size": n_kv * group * deal.choice([head_dim, 12]),
        "intermediate_size": deal.choice([24, 56]),
        "rms_norm_eps": deal.choice([1e-6, 1e-2]),
        "rope_theta": deal.choice([100.0, 1e4, 1e6]),
        "tie_word_embeddings": deal.random() < 0.5,
        "pad_token_id": 0,
    }
    window = deal.choice([1, 3, 16, 99, 100, 300])
    types = [deal.choice(["full_attention", "sliding_attention"]) for _ in range(n_layers)]
    scaling = deal.choice(
        [
            None,
            {"rope_type": "linear", "factor": 3.0},
            {"rope_type": "dynamic", "factor": 2.0},
            {"rope_type": "yarn", "factor": deal.choice([2.0, 16.0]), "original_max_position_embeddings": 64},
            {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
            | {"original_max_position_embeddings": 64},
        ]
    )
    factors = [1.0 + deal.random() for _ in range(head_dim // 2)]
    experts = deal.choice([1, 2, 5])
    of_kind: dict[str, dict[str, Any]] = {
        "llama": {"attention_bias": deal.random() < 0.5, "mlp_bias": deal.random() < 0.5, "hidden_act": deal.choice(["silu", "gelu"])},
        "mistral": {"sliding_window": deal.choice([None, window])},
        "qwen2": {"use_sliding_window": True, "sliding_window": window, "max_window_layers": deal.choice([0, 1, 9])},
        "qwen3": {"use_sliding_window": True, "sliding_window": window, "layer_types": types, "attention_bias": deal.random() < 0.5},
        "gemma2": {"sliding_window": window, "attn_logit_softcapping": deal.choice([None, 0.5, 50.0]), "query_pre_attn_scalar": 7}
        | {"final_logit_softcapping": deal.choice([None, 2.0])},
        "gemma3_text": {"sliding_window": window, "sliding_window_pattern": deal.choice([1, 2, 6]), "rope_local_base_freq": 77.0}
        | {"query_pre_attn_scalar": 9},
        "phi3": {"sliding_window": deal.choice([None, window]), "original_max_position_embeddings": 128},
        "olmo2": {"attention_bias": deal.random() < 0.5},
        "granite": {"attention_multiplier": 0.3, "embedding_multiplier": 7.0, "residual_multiplier": 0.1, "logits_scaling": 0.5},
        "smollm3": {"no_rope_layers": [deal.choice([0, 1]) for _ in range(n_layers)], "use_sliding_window": True, "sliding_window": window},
        "arcee": {"mlp_bias": deal.random() < 0.5},
        "mixtral": {"num_local_experts": experts, "num_experts_per_tok": deal.randint(1, experts), "sliding_window": window},
        "qwen2_moe": {"num_experts": experts, "num_experts_per_tok": deal.randint(1, experts), "moe_intermediate_size": 24}
        | {"shared_expert_intermediate_size": 40, "norm_topk_prob": deal.random() < 0.5, "decoder_sparse_step": deal.choice([1, 2])},
        "qwen3_moe": {"num_experts": experts, "num_experts_per_tok": deal.randint(1, experts), "moe_intermediate_size": 40}
        | {"norm_topk_prob": deal.random() < 0.5, "mlp_only_layers": deal.choice([[], [0]])},
    }
    if kind == "phi3":
        longer = deal.choice([factors, [9.0] * len(factors)])
        longrope: dict[str, object] = {"rope_type": "longrope", "short_factor": factors, "long_factor": longer}
        scaling = deal.choice([None, longrope])
    if kind in ("qwen2_moe", "phi3", "mixtral", "olmo2") and deal.random() < 0.5:
        del changes["head_dim"]
        changes["hidden_size"] = changes["num_attention_heads"] * head_dim
    return changes | of_kind[kind] | ({} if scaling is None else {"rope_scaling": scaling})


def largest_difference(folder: Path, changes: dict[str, Any]) -> float | None:
    """Between our logprobs and transformers', whole, in chunks and cached; None if we refuse the configuration by name."""
    try:
        spec_from_config(json.loads(json.dumps(config_of(changes))))
    except ModelError:
        return None
    model, wanted = made(folder, changes)
    found = 0.0
    for cuts in ((0, len(PROMPT)), (0, 1, 2, 30, 61, len(PROMPT))):
        rows = Sequences(None, 4, 256, runner=TorchRunner(model, 256, 4))  # type: ignore[arg-type]
        for start, end in pairwise(cuts):
            output = rows.run(rows.row(1, PROMPT[start:end], n_targets=end - start), rows.row(10 + start, PROMPT[:5]))[0]
            found = max(found, float((scores(output) - wanted[start:end]).abs().max()))
    return found
