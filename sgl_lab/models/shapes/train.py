"""Trains the model: `python -m sgl_lab.models.shapes.train FOLDER`.

First the tower alone learns to name what is in the cell of each patch, which needs few pictures.
Then all parts learn to answer. A run that is interrupted goes on from its last checkpoint.
"""

from __future__ import annotations

import argparse
import math
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional

from .batches import N_CLASSES, Batch, Rows, pictures
from .model import tokenizer, untrained

if TYPE_CHECKING:
    from transformers import LlavaForConditionalGeneration

Loss = Callable[[random.Random], tuple[torch.Tensor, str]]
"""a step's loss, and a line about it"""


class Trainer:
    def __init__(self, folder: Path, tower_steps: int, steps: int, rows: int, rate: float) -> None:
        self.folder, self.tower_steps, self.steps, self.rows, self.rate = folder, tower_steps, steps, rows, rate
        self.words = tokenizer()
        self.maker = Rows(self.words)
        self.model: LlavaForConditionalGeneration = untrained(self.words)
        self.heads = nn.ModuleList(nn.Linear(128, n + 1) for n in N_CLASSES)
        self.done = 0
        self._file = folder / "checkpoint.safetensors"
        self._began = time.process_time()

    def run(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        tower = [*self.model.model.vision_tower.parameters(), *self.heads.parameters()]
        self._stage(tower, self.tower_steps, 0, self.rate, self._tower_loss)
        everything = [*self.model.parameters(), *self.heads.parameters()]
        self._stage(everything, self.steps, self.tower_steps, self.rate, self._answer_loss)

    def _stage(self, parameters: list[nn.Parameter], steps: int, first: int, rate: float, loss_of: Loss) -> None:
        optimizer = torch.optim.AdamW(parameters, lr=rate, betas=(0.9, 0.98), weight_decay=0.01)
        if self.done == first:
            self._go_on(optimizer, first, first + steps)
        while self.done < first + steps:
            at = self.done - first
            for group in optimizer.param_groups:
                group["lr"] = rate * min((at + 1) / 100, 0.02 + 0.49 * (1 + math.cos(math.pi * at / steps)))
            loss, shown = loss_of(random.Random(self.done))
            optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            self.done += 1
            if self.done % 25 == 0:
                print(f"{self.done:6} {time.process_time() - self._began:7.0f} s  {shown}", flush=True)
            if self.done % 200 == 0 or self.done == first + steps:
                self._keep(optimizer)

    def _go_on(self, optimizer: torch.optim.Optimizer, first: int, end: int) -> None:
        """Read the last checkpoint, if this stage or a later one made it."""
        if not self._file.exists():
            return
        with safe_open(self._file, "pt") as kept:
            done = int(kept.metadata()["done"])
            if done < first:
                return
            tensors = {name: kept.get_tensor(name) for name in kept.keys()}  # noqa: SIM118 - it is no mapping
        for part, module in (("model.", self.model), ("heads.", self.heads)):
            module.load_state_dict({name.removeprefix(part): tensor for name, tensor in tensors.items() if name.startswith(part)})
        self.done = min(done, end)
        if first < done < end:
            state: dict[int, dict[str, torch.Tensor]] = {}
            for name, tensor in tensors.items():
                part, at, key = [*name.split(".", 2), ""][:3]
                if part == "adam":
                    state.setdefault(int(at), {})[key] = tensor
            optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})

    def _keep(self, optimizer: torch.optim.Optimizer) -> None:
        tensors = {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}
        tensors |= {f"heads.{name}": tensor for name, tensor in self.heads.state_dict().items()}
        tensors |= {f"adam.{at}.{key}": value for at, one in optimizer.state_dict()["state"].items() for key, value in one.items()}
        save_file(tensors, self._file.with_suffix(".new"), {"done": str(self.done)})
        self._file.with_suffix(".new").replace(self._file)

    def _seen(self, pixels: torch.Tensor) -> torch.Tensor:
        """[rows, 36, 128]"""
        seen: torch.Tensor = self.model.model.vision_tower(pixels).last_hidden_state[:, 1:]
        return seen

    def _naming(self, seen: torch.Tensor, patches: torch.Tensor) -> tuple[torch.Tensor, float]:
        """The loss of the heads, and the share of patches whose colour and shape are right."""
        logits = [head(seen) for head in self.heads]
        right = torch.stack([each.argmax(-1) == patches[:, i] for i, each in enumerate(logits)]).all(0)
        losses = [functional.cross_entropy(each.flatten(0, 1), patches[:, i].flatten()) for i, each in enumerate(logits)]
        return torch.stack(losses).sum(), right.float().mean().item()

    def _tower_loss(self, chance: random.Random) -> tuple[torch.Tensor, str]:
        _, pixels, patches = pictures(2 * self.rows, chance)
        loss, right = self._naming(self._seen(pixels), patches)
        return loss, f"tower {loss.item():.4f}, patches right {right:.4f}"

    def _answer_loss(self, chance: random.Random) -> tuple[torch.Tensor, str]:
        batch: Batch = self.maker.batch(self.rows, chance)
        inner = self.model.model
        seen = self._seen(batch.pixels)
        named, right = self._naming(seen, batch.patches)
        embedded = inner.language_model.embed_tokens(batch.tokens)
        image = (batch.tokens == self.model.config.image_token_id)[..., None]
        embedded = embedded.masked_scatter(image, inner.multi_modal_projector(seen))
        given = {"attention_mask": batch.mask, "position_ids": batch.positions, "use_cache": False}
        hidden = inner.language_model(inputs_embeds=embedded, **given).last_hidden_state
        asked = batch.targets >= 0
        logits, wanted = self.model.lm_head(hidden[asked]), batch.targets[asked]
        loss = functional.cross_entropy(logits, wanted)
        share = (logits.argmax(-1) == wanted).float().mean().item()
        return loss + 0.1 * named, f"answers {loss.item():.4f}, tokens right {share:.4f}, patches right {right:.4f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tower-steps", type=int, default=500)
    parser.add_argument("--steps", type=int, default=3700)
    parser.add_argument("--rows", type=int, default=32, help="pictures of a step; twice as many while the tower learns alone")
    parser.add_argument("--rate", type=float, default=1.5e-3)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    trainer = Trainer(args.folder, args.tower_steps, args.steps, args.rows, args.rate)
    print(f"{sum(p.numel() for p in trainer.model.parameters()):,} parameters, {trainer.words.get_vocab_size()} words", flush=True)
    trainer.run()


if __name__ == "__main__":
    main()
