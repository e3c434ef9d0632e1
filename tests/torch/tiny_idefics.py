"""An Idefics 3 and a SmolVLM with random weights, small enough to compute everything twice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from .tiny import CONFIG, TOKENIZER

SIDE, PATCH, SHUFFLE, MOST = 32, 8, 2, 4
N = (SIDE // PATCH // SHUFFLE) ** 2
"""positions of a tile"""
_SPECIALS = ["<image>", "<fake_token_around_image>", "<global-img>"]
_SPECIALS += [f"<row_{row}_col_{column}>" for row in range(1, MOST + 1) for column in range(1, MOST + 1)]
_ADDED = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False) | {"special": True}
FIRST = 99
"""the id of the first special token"""
WORDS = TOKENIZER | {
    "added_tokens": [*TOKENIZER["added_tokens"], *({"id": FIRST + i, "content": text} | _ADDED for i, text in enumerate(_SPECIALS))],
    "model": TOKENIZER["model"]
    | {"vocab": TOKENIZER["model"]["vocab"] | {"Ċ": 97, "ĊĊ": 98}, "merges": [*TOKENIZER["model"]["merges"], ["Ċ", "Ċ"]]},
}
VISION: dict[str, Any] = {
    "model_type": "idefics3_vision",
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": SIDE,
    "patch_size": PATCH,
}
IDEFICS: dict[str, Any] = {
    "model_type": "idefics3",
    "architectures": ["Idefics3ForConditionalGeneration"],
    "text_config": {key: value for key, value in CONFIG.items() if key != "architectures"}
    | {"vocab_size": FIRST + len(_SPECIALS), "pad_token_id": 0, "qk_layer_norms": False, "use_resampler": False},
    "vision_config": VISION,
    "image_token_id": FIRST,
    "scale_factor": SHUFFLE,
    "tie_word_embeddings": False,
}
SMOL: dict[str, Any] = {
    "model_type": "smolvlm",
    "architectures": ["SmolVLMForConditionalGeneration"],
    "vision_config": VISION | {"model_type": "smolvlm_vision"},
    "tie_word_embeddings": True,
}
"""what differs in a SmolVLM"""
PROCESSOR: dict[str, Any] = {
    "image_processor_type": "Idefics3ImageProcessor",
    "processor_class": "Idefics3Processor",
    "do_image_splitting": True,
    "size": {"longest_edge": MOST * SIDE},
    "max_image_size": {"longest_edge": SIDE},
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.4, 0.5],
}


def write_idefics(folder: Path, processor: dict[str, Any] | None = None, **changes: Any) -> Any:
    """Writes a folder in the Hugging Face layout; returns transformers' own model of it."""
    import transformers

    torch.manual_seed(0)
    config = IDEFICS | changes
    is_smol = config["model_type"] == "smolvlm"
    kind = transformers.SmolVLMConfig if is_smol else transformers.Idefics3Config
    model = getattr(transformers, config["architectures"][0])(kind.from_dict(config)).float().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(0, 0.2).add_("norm" in name and name.endswith("weight"))
    model.save_pretrained(folder)
    made = {"image_processor_type": "SmolVLMImageProcessor"} if is_smol else {}
    (folder / "preprocessor_config.json").write_text(json.dumps(PROCESSOR | made | (processor or {})))
    (folder / "processor_config.json").write_text(json.dumps({"image_seq_len": N}))
    (folder / "tokenizer.json").write_text(json.dumps(WORDS))
    return model
