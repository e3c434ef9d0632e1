"""Measures a trained model on scenes that it has not seen: `python -m
sgl_lab.models.shapes.evaluate FOLDER`.

An answer counts when every token of it, and its end, is the likeliest one after the right beginning:
then greedy decoding gives exactly this answer.
"""

from __future__ import annotations

import argparse
import json
import random
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from .batches import Rows, pictures
from .questions import KINDS

if TYPE_CHECKING:
    from transformers import LlavaForConditionalGeneration

SEED = "unseen"
"""training draws its scenes from whole numbers"""


def accuracy(model: LlavaForConditionalGeneration, rows: Rows, n_scenes: int) -> dict[str, tuple[int, int]]:
    """Of each kind of question: right answers and questions, one of each kind to a scene that allows it."""
    right, asked = Counter[str](), Counter[str]()
    chance = random.Random(SEED)
    model.train(False)
    for _ in range(0, n_scenes, 50):
        scenes, pixels, _ = pictures(min(50, n_scenes), chance)
        questions = [[found for make in KINDS.values() if (found := make(items, chance))] for items in scenes]
        batch = rows.of(questions, pixels)
        with torch.inference_mode():
            seen = model.model.get_image_features(batch.pixels).pooler_output
            embedded = model.model.language_model.embed_tokens(batch.tokens)
            image = (batch.tokens == model.config.image_token_id)[..., None]
            embedded = embedded.masked_scatter(image, torch.cat(list(seen)))
            hidden = model.model.language_model(
                inputs_embeds=embedded, attention_mask=batch.mask, position_ids=batch.positions, use_cache=False
            ).last_hidden_state
            best = model.lm_head(hidden).argmax(-1)
        wrong = (batch.targets >= 0) & (best != batch.targets)
        for row, questions_here in enumerate(questions):
            for chain, question in enumerate(questions_here, 1):
                asked[question.kind] += 1
                right[question.kind] += not bool(wrong[row][batch.chains[row] == chain].any())
    return {kind: (right[kind], asked[kind]) for kind in KINDS}


def main() -> None:
    from tokenizers import Tokenizer
    from transformers import LlavaForConditionalGeneration

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--scenes", type=int, default=1000)
    args = parser.parse_args()
    model = LlavaForConditionalGeneration.from_pretrained(args.folder, dtype=torch.float32)
    found = accuracy(model, Rows(Tokenizer.from_file(str(args.folder / "tokenizer.json"))), args.scenes)
    print(json.dumps({kind: f"{right}/{asked} = {right / asked:.1%}" for kind, (right, asked) in found.items()}, indent=1))


if __name__ == "__main__":
    main()
