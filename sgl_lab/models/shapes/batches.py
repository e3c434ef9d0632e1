"""Batches of scenes with questions.

A picture with many questions is one row: all questions see the picture and none sees another, except
where they are turns of one conversation. So the picture is read once for all of them.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from tokenizers import Tokenizer

from .model import ASSISTANT, END, IMAGE, N_PATCHES, USER
from .questions import KINDS, Question
from .scenes import CELLS, COLOURS, SHAPES, Scene, drawn, scene

MIX = ("describe", *("colour",) * 3, "shape", *("count",) * 3, *("presence",) * 5)
"""kinds of the questions about one picture"""
Row = tuple[list[int], list[int], list[int], list[int]]
"""token ids, positions, the conversation of each token (0 for what all see), targets"""
N_CLASSES = len(COLOURS), len(SHAPES)


@dataclass(frozen=True)
class Batch:
    """Rows are padded at their ends.

    pixels     float32 [rows, 3, 96, 96], from -1 to 1
    tokens     int64 [rows, length]; the picture's positions have the id of <image>
    positions  int64 [rows, length]
    mask       float32 [rows, 1, length, length], 0 where a token attends, else -inf
    targets    int64 [rows, length]: the token after each one of an answer, -100 elsewhere
    patches    int64 [rows, 2, 36]: the colour and the shape in the cell of each patch, 0 for none
    """

    pixels: torch.Tensor
    tokens: torch.Tensor
    positions: torch.Tensor
    mask: torch.Tensor
    targets: torch.Tensor
    patches: torch.Tensor
    chains: torch.Tensor
    """int64 [rows, length]: the conversation of each token, from 1; 0 for what all of them see, -1
    beyond the end
    """


def pixels_of(pictures: list[np.ndarray]) -> torch.Tensor:
    """What the processor makes of pictures of the model's own size."""
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float().div(127.5).sub(1)


def patches_of(items: Scene) -> np.ndarray:
    grid = np.zeros((2, CELLS, CELLS), np.int64)
    for item in items:
        grid[:, item.cell // CELLS, item.cell % CELLS] = 1 + list(COLOURS).index(item.colour), 1 + SHAPES.index(item.shape)
    return grid.repeat(2, 1).repeat(2, 2).reshape(2, N_PATCHES)


def pictures(n: int, chance: random.Random) -> tuple[list[Scene], torch.Tensor, torch.Tensor]:
    """Scenes, their pixels, and what is in each patch."""
    scenes = [scene(chance) for _ in range(n)]
    return scenes, pixels_of([drawn(each, chance) for each in scenes]), torch.from_numpy(np.stack(list(map(patches_of, scenes))))


class Rows:
    """Makes batches out of chance."""

    def __init__(self, words: Tokenizer) -> None:
        self._ids = lru_cache(maxsize=None)(lambda text: tuple(words.encode(text, add_special_tokens=False).ids))

    def batch(self, n: int, chance: random.Random) -> Batch:
        scenes, pixels, patches = pictures(n, chance)
        return self._batch([self._row(each, chance) for each in scenes], pixels, patches)

    def of(self, questions: list[list[Question]], pixels: torch.Tensor) -> Batch:
        """Each picture with these questions, each of them asked alone."""
        rows = [self._built([[question] for question in asked], as_chat=True) for asked in questions]
        return self._batch(rows, pixels, torch.zeros(0, dtype=torch.int64))

    def _batch(self, rows: list[Row], pixels: torch.Tensor, patches: torch.Tensor) -> Batch:
        n, length = len(rows), max(len(row[0]) for row in rows)
        tokens = torch.zeros(n, length, dtype=torch.int64)
        positions, chains = torch.zeros_like(tokens), torch.full_like(tokens, -1)
        targets = torch.full_like(tokens, -100)
        for at, columns in enumerate(rows):
            for into, column in zip((tokens, positions, chains, targets), columns, strict=True):
                into[at, : len(column)] = torch.tensor(column)
        seen = ((chains[:, :, None] == chains[:, None, :]) | (chains[:, None, :] == 0)).tril()
        mask = torch.zeros(n, 1, length, length).masked_fill_(~seen[:, None], float("-inf"))
        return Batch(pixels, tokens, positions, mask, targets, patches, chains)

    def _row(self, items: Scene, chance: random.Random) -> Row:
        asked = [found for kind in MIX if (found := KINDS[kind](items, chance))]
        chance.shuffle(asked)
        as_chat = chance.random() < 0.85
        chains: list[list[Question]] = []
        while asked:
            n = 2 if chance.random() < 0.2 else 1
            chains.append(asked[:n])
            asked = asked[n:]
        return self._built(chains, as_chat)

    def _built(self, conversations: list[list[Question]], as_chat: bool) -> Row:
        tokens = [*(self._ids(USER) if as_chat else ()), *self._ids(IMAGE) * N_PATCHES]
        start = len(tokens)
        positions, chains, targets = list(range(start)), [0] * start, [-100] * start
        for chain, turns in enumerate(conversations, 1):
            first = len(tokens)
            for turn, question in enumerate(turns):
                before, answer = self._turn(question, as_chat, turn)
                tokens += (*before, *answer)
                targets += (*[-100] * (len(before) - 1), *answer, -100)
            positions += range(start, start + len(tokens) - first)
            chains += [chain] * (len(tokens) - first)
        return tokens, positions, chains, targets

    def _turn(self, question: Question, as_chat: bool, turn: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        ids, line = self._ids, self._ids("\n")
        if not as_chat:
            return (*ids(question.text), *line), (*ids(question.answer), *line)
        again = ids(USER) if turn else ()
        return (*again, *ids(question.text), *ids(END), *ids(ASSISTANT)), (*ids(question.answer), *ids(END))
