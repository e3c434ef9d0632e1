"""Makes a Mixtral out of a dense Llama: each expert is the dense feed-forward with a little noise.

The weights of the chosen experts add up to 1, so without noise the model computes what the dense one
does, whatever its routers choose. Komatsuzaki et al., "Sparse Upcycling" (ICLR 2023), describe the method
as a beginning of training; here it gives a mixture that runs, speaks, and shows its routing.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from ....contracts.errors import BadArgument, ModelError
from ...files.fetch import Progress, unseen
from ...files.small import read_json
from ...files.weights import Checkpoint
from .families import spec_from_config

_KEPT = (
    *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads"),
    *("head_dim", "hidden_act", "max_position_embeddings", "rms_norm_eps", "rope_theta", "rope_scaling", "rope_parameters"),
    *("tie_word_embeddings", "bos_token_id", "eos_token_id", "pad_token_id", "torch_dtype", "dtype", "initializer_range"),
)
"""keys that mean in a Mixtral what they mean in a Llama"""
_TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json", "special_tokens_map.json")
_EXPERT = {"gate_proj": "w1", "down_proj": "w2", "up_proj": "w3"}
MAX_EXPERTS = 64


def upcycle(
    source: Path,
    target: Path,
    *,
    experts: int = 4,
    active: int = 2,
    noise: float = 0.02,
    seed: int = 0,
    progress: Progress = unseen,
) -> Path:
    """Write the mixture to the folder `target`, completely or not at all, and return it.

    source   a folder with a dense Llama in the layout of transformers
    experts  of each layer
    active   experts that a token takes
    noise    standard deviation of what is added to an expert's weights, relative to theirs

    BadArgument, ModelError if the source is no dense Llama or there is no room, ModelDamaged.
    """
    if not 2 <= experts <= MAX_EXPERTS or not 1 <= active <= experts:
        raise BadArgument(f"a mixture has 2 to {MAX_EXPERTS} experts and takes 1 to all of them, not {active} of {experts}")
    if not 0 <= noise < 1:
        raise BadArgument(f"noise is a share of the weights' own deviation, 0 or more and below 1, not {noise}")
    config = read_json(source / "config.json")
    if config.get("architectures") != ["LlamaForCausalLM"] or config.get("attention_bias") or config.get("mlp_bias"):
        raise ModelError(f"{source.name} is no dense Llama without biases", hint="only such a model can be made a Mixtral")
    spec = spec_from_config(config, str(source / "config.json"))
    part = target.with_name(target.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    with Checkpoint(source) as checkpoint:
        checkpoint.check(spec.tensors())
        n_layers = len(spec.layers)
        n_bytes = sum(file.stat().st_size for file in checkpoint.files) * experts
        target.parent.mkdir(parents=True, exist_ok=True)
        if n_bytes > (free := shutil.disk_usage(target.parent).free):
            raise ModelError(f"about {n_bytes >> 20} MiB are needed for {target.name}, {free >> 20} MiB are free", hint="free some space")
        part.mkdir()
        try:
            mixture = {key: config[key] for key in _KEPT if key in config} | {
                "architectures": ["MixtralForCausalLM"],
                "model_type": "mixtral",
                "num_local_experts": experts,
                "num_experts_per_tok": active,
                "sliding_window": None,
            }
            (part / "config.json").write_text(json.dumps(mixture, indent=1), encoding="utf-8")
            for name in _TOKENIZER:
                if (source / name).exists():
                    shutil.copyfile(source / name, part / name)
            _write(part, checkpoint, spec.tensors(), n_layers, experts, noise, seed, n_bytes, progress)
            shutil.rmtree(target, ignore_errors=True)
            part.rename(target)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    return target


def _write(
    folder: Path,
    checkpoint: Checkpoint,
    shapes: dict[str, tuple[int, ...]],
    n_layers: int,
    experts: int,
    noise: float,
    seed: int,
    n_bytes: int,
    progress: Progress,
) -> None:
    """A file for each layer, and one for what belongs to none: memory for one layer is enough."""
    from safetensors.torch import save_file

    random = torch.Generator().manual_seed(seed)
    where: dict[str, str] = {}
    in_layer = [f"model.layers.{layer}." for layer in range(n_layers)]
    ends = [name for name in shapes if not name.startswith("model.layers.")]
    done = 0
    for n, prefix in enumerate(["", *in_layer]):
        names = [name for name in shapes if name.startswith(prefix)] if prefix else ends
        tensors = dict(_tensors(checkpoint, names, prefix, experts, noise, random))
        file = f"model-{n + 1:05}-of-{n_layers + 1:05}.safetensors"
        save_file(tensors, folder / file, {"format": "pt"})
        where |= dict.fromkeys(tensors, file)
        done += sum(tensor.nbytes for tensor in tensors.values())
        progress(done, max(done, n_bytes), "writing experts")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}), encoding="utf-8")


def _tensors(
    checkpoint: Checkpoint, names: list[str], prefix: str, experts: int, noise: float, random: torch.Generator
) -> Iterator[tuple[str, Tensor]]:
    moe = f"{prefix}block_sparse_moe"
    for name in names:
        weight = checkpoint.read(name)
        role = name.removeprefix(f"{prefix}mlp.").removesuffix(".weight")
        if role not in _EXPERT:
            yield name, weight
            continue
        deviation = weight.float().std() * noise
        for expert in range(experts):
            added = torch.randn(weight.shape, generator=random) * deviation
            yield f"{moe}.experts.{expert}.{_EXPERT[role]}.weight", (weight.float() + added).to(weight.dtype) if noise else weight.clone()
        if role == "gate_proj":
            # Inputs have about unit size, so the routers' logits have too.
            hidden = weight.shape[1]
            yield f"{moe}.gate.weight", (torch.randn(experts, hidden, generator=random) * hidden**-0.5).to(weight.dtype)
