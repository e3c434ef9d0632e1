"""The families: of each a function from its `config.json` to a `ModelSpec`, which has the names of
its tensors.

GGUF files are converted to the same configuration first (`convert`), so there is one reader a family.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from .....contracts.errors import ModelError
from ..config import Config
from ..spec import ModelSpec
from .dense import arcee, granite, llama, mistral, olmo2, phi3, smollm3
from .gemma import gemma2, gemma3
from .mixtures import mixtral, qwen2_moe, qwen3_moe
from .qwen import qwen2, qwen3

_NEUTRAL: dict[str, tuple[object, ...]] = {
    "add_cross_attention": (None, False),
    "alibi": (None, False),
    "attention_multiplier": (None,),
    "attn_logit_softcapping": (None,),
    "clip_qkv": (None,),
    "embedding_multiplier": (None, 1),
    "final_logit_softcapping": (None,),
    "is_encoder_decoder": (None, False),
    "logit_scale": (None, 1),
    "logits_scaling": (None, 1),
    "no_rope_layers": (None, []),
    "n_routed_experts": (None, 0),
    "num_experts": (None, 0),
    "num_local_experts": (None, 0),
    "parallel_attn": (None, False),
    "partial_rotary_factor": (None, 1),
    "query_pre_attn_scalar": (None,),
    "residual_multiplier": (None, 1),
    "rope_interleaved": (None, False),
    "rotary_pct": (None, 1),
    "use_parallel_residual": (None, False),
    "use_qk_norm": (None, False),
}
"""Keys beyond those of `common.llama_like`, with the values that change nothing. A family that supports
such a key reads it. A model with another value of a key that was not read is refused.
"""

_QUANTISED = ("quantization_config", "quantization", "compression_config")


class Family(NamedTuple):
    architecture: str
    model_type: str
    read: Callable[[Config], ModelSpec]


FAMILIES = (
    Family("LlamaForCausalLM", "llama", llama),
    Family("MistralForCausalLM", "mistral", mistral),
    Family("Qwen2ForCausalLM", "qwen2", qwen2),
    Family("Qwen3ForCausalLM", "qwen3", qwen3),
    Family("Gemma2ForCausalLM", "gemma2", gemma2),
    Family("Gemma3ForCausalLM", "gemma3_text", gemma3),
    Family("Phi3ForCausalLM", "phi3", phi3),
    Family("Olmo2ForCausalLM", "olmo2", olmo2),
    Family("GraniteForCausalLM", "granite", granite),
    Family("SmolLM3ForCausalLM", "smollm3", smollm3),
    Family("ArceeForCausalLM", "arcee", arcee),
    Family("MixtralForCausalLM", "mixtral", mixtral),
    Family("Qwen2MoeForCausalLM", "qwen2_moe", qwen2_moe),
    Family("Qwen3MoeForCausalLM", "qwen3_moe", qwen3_moe),
)
_OLDER = {"LLaMAForCausalLM": "LlamaForCausalLM"}
"""architecture names of the first converted checkpoints"""


def spec_from_config(data: Mapping[str, object], origin: str = "config.json") -> ModelSpec:
    """The spec that a `config.json` describes. ModelError names the architecture or the key that is
    not supported.
    """
    names = data.get("architectures")
    name = names[0] if isinstance(names, list) and names else None
    named = next((family for family in FAMILIES if family.architecture == _OLDER.get(str(name), name)), None)
    if named is None:
        hint = "supported: " + ", ".join(family.architecture for family in FAMILIES)
        raise ModelError(f"{origin}: architecture {name!r:.80} is not supported", hint=hint)
    kind = data.get("model_type") or named.model_type
    family = next((family for family in FAMILIES if family.model_type == kind), None)  # it decides in transformers
    if family is None:
        raise ModelError(f"{origin}: architecture {name} with model_type {kind!r:.60} is not supported")
    config = Config(data, origin, family.model_type)
    for key in _QUANTISED:
        if config.get(key) is not None:
            raise config.fail(f"weights quantised so ({key}) are not supported; use the original weights or a GGUF file")
    spec = family.read(config)
    for key, values in _NEUTRAL.items():
        config.expect(key, *values)
    kinds = [] if config.was_read("layer_types") else config.get("layer_types") or []
    if not isinstance(kinds, list) or any(kind != "full_attention" for kind in kinds):
        raise config.fail("layer_types other than full_attention are not supported")
    return spec
