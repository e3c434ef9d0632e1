"""A LLaVA with random weights, small enough to compute everything twice."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .tiny import CONFIG, TOKENIZER

SIDE, PATCH = 24, 8
N = (SIDE // PATCH) ** 2
IMAGE_TOKEN = 95
VISION: dict[str, Any] = {
    "model_type": "clip_vision_model",
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": SIDE,
    "patch_size": PATCH,
}
LLAVA: dict[str, Any] = {
    "model_type": "llava",
    "architectures": ["LlavaForConditionalGeneration"],
    "text_config": {key: value for key, value in CONFIG.items() if key != "architectures"},
    "vision_config": VISION,
    "image_token_index": IMAGE_TOKEN,
    "image_seq_length": N,
    "vision_feature_layer": -2,
    "vision_feature_select_strategy": "default",
}
PROCESSOR: dict[str, Any] = {
    "image_processor_type": "CLIPImageProcessor",
    "size": {"shortest_edge": SIDE},
    "crop_size": {"height": SIDE, "width": SIDE},
    "image_mean": [0.48, 0.46, 0.41],
    "image_std": [0.27, 0.26, 0.28],
}


NEXT: dict[str, Any] = {
    "model_type": "llava_next",
    "architectures": ["LlavaNextForConditionalGeneration"],
    "image_grid_pinpoints": [[SIDE, 2 * SIDE], [2 * SIDE, SIDE], [2 * SIDE, 2 * SIDE], [3 * SIDE, SIDE]],
}
"""what differs in a LLaVA-NeXT"""


def write_llava(folder: Path, **changes: Any) -> Any:
    """Writes a folder in the Hugging Face layout; returns transformers' own model of it."""
    import transformers

    torch.manual_seed(0)
    config = LLAVA | changes
    kind = transformers.LlavaNextConfig if config["model_type"] == "llava_next" else transformers.LlavaConfig
    model = getattr(transformers, config["architectures"][0])(kind.from_dict(config)).float().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(0, 0.2).add_("norm" in name and name.endswith("weight"))
    model.save_pretrained(folder)
    made = {"image_processor_type": "LlavaNextImageProcessor"} if config["model_type"] == "llava_next" else {}
    (folder / "preprocessor_config.json").write_text(json.dumps(PROCESSOR | made))
    (folder / "tokenizer.json").write_text(json.dumps(TOKENIZER))
    return model


def png(width: int = 40, height: int = 30, seed: int = 0, **options: Any) -> bytes:
    """A picture of large coloured fields."""
    from PIL import Image

    fields = np.random.default_rng(seed).integers(0, 255, (3, 4, 3), np.uint8)
    into = io.BytesIO()
    Image.fromarray(fields).resize((width, height)).save(into, "PNG", **options)
    return into.getvalue()
