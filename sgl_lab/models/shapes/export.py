"""Writes a trained model as a folder that any loader of LLaVA reads: `python -m
sgl_lab.models.shapes.export RUN FOLDER`.

The weights are float16, which takes 2.7 MB.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from safetensors import safe_open
from tokenizers import Tokenizer

from .model import CONTEXT, END, PAD, tokenizer, untrained
from .scenes import SIDE

TEMPLATE = (
    "{% for message in messages %}{{ '<|assistant|>' if message['role'] == 'assistant' else '<|user|>' }}"
    "{{ message['content'] }}<|end|>{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
PROCESSOR = {
    "image_processor_type": "CLIPImageProcessor",
    "size": {"shortest_edge": SIDE},
    "crop_size": {"height": SIDE, "width": SIDE},
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
}


def export(weights: dict[str, torch.Tensor], words: Tokenizer, folder: Path) -> None:
    """`weights` are a state of the model that `untrained(words)` makes."""
    folder.mkdir(parents=True, exist_ok=True)
    model = untrained(words)
    model.load_state_dict(weights)
    torch.nn.Module.to(model, dtype=torch.float16)
    model.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    words.save(str(folder / "tokenizer.json"))
    about = {"eos_token": END, "pad_token": PAD, "model_max_length": CONTEXT, "chat_template": TEMPLATE}
    for name, data in (("tokenizer_config.json", about), ("preprocessor_config.json", PROCESSOR)):
        (folder / name).write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="the folder of sgl_lab.models.shapes.train")
    parser.add_argument("folder", type=Path)
    args = parser.parse_args()
    with safe_open(args.run / "checkpoint.safetensors", "pt") as kept:
        names = [name for name in kept.keys() if name.startswith("model.")]  # noqa: SIM118 - it is no mapping
        weights = {name.removeprefix("model."): kept.get_tensor(name) for name in names}
    export(weights, tokenizer(), args.folder)


if __name__ == "__main__":
    main()
