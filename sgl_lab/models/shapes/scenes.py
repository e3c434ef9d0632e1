"""Pictures of coloured shapes on a grid of three by three cells."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

SIDE = 96
"""pixels of a picture, in each direction"""
CELLS = 3
"""cells in each direction"""
CELL = SIDE // CELLS
COLOURS = {
    "red": (214, 40, 40),
    "green": (42, 157, 60),
    "blue": (40, 80, 210),
    "yellow": (245, 208, 40),
    "purple": (130, 50, 170),
    "orange": (245, 130, 30),
}
SHAPES = ("circle", "square", "triangle", "cross")
MOST = 4
"""shapes in a scene"""


class Item(NamedTuple):
    """A shape. `cell` counts from the top left, row by row; the centre and the radius are pixels."""

    cell: int
    colour: str
    shape: str
    x: float
    y: float
    radius: float

    @property
    def title(self) -> str:
        return f"{self.colour} {self.shape}"


Scene = tuple[Item, ...]
"""one to four shapes, by cell"""


def scene(chance: random.Random) -> Scene:
    """A scene by chance: each shape has a cell of its own, and does not leave it."""
    return tuple(
        placed(cell, chance.choice(list(COLOURS)), chance.choice(SHAPES), chance)
        for cell in sorted(chance.sample(range(CELLS**2), chance.randint(1, MOST)))
    )


def placed(cell: int, colour: str, shape: str, chance: random.Random | None = None) -> Item:
    """A shape in a cell; without `chance` in its middle and of the middle size."""
    row, column = divmod(cell, CELLS)
    x, y, radius = (chance.uniform(-3, 3), chance.uniform(-3, 3), chance.uniform(9, 12)) if chance else (0.0, 0.0, 10.5)
    return Item(cell, colour, shape, (column + 0.5) * CELL + x, (row + 0.5) * CELL + y, radius)


def picture(shapes: Mapping[int, str]) -> NDArray[np.uint8]:
    """A picture to ask about: `picture({0: "red circle", 8: "blue cross"})` has a shape in the
    first cell and one in the last.

    Cells count row by row, from 0 to 8. Bytes, [96, 96, 3]. ValueError for another cell, colour or shape.
    """
    items = []
    for cell, title in sorted(shapes.items()):
        colour, _, shape = title.partition(" ")
        if cell not in range(CELLS**2) or colour not in COLOURS or shape not in SHAPES:
            raise ValueError(f"{cell}: {title!r:.80} is no shape in a cell: 0 to 8, {', '.join((*COLOURS, *SHAPES))}")
        items.append(placed(cell, colour, shape))
    return drawn(tuple(items))


def drawn(items: Scene, chance: random.Random | None = None) -> NDArray[np.uint8]:
    """The picture, [96, 96, 3]; with `chance` its background and colours vary a little."""

    def vary(by: int) -> int:
        return chance.randint(-by, by) if chance else 0

    ground = 240 + vary(15)
    picture = np.full((SIDE, SIDE, 3), ground, np.float32)
    for item in items:
        top, left = (CELL * part for part in divmod(item.cell, CELLS))
        y, x = np.mgrid[top : top + CELL, left : left + CELL].astype(np.float32)
        cover = np.clip(0.5 - _distance(item.shape, x + 0.5 - item.x, y + 0.5 - item.y, item.radius), 0, 1)[..., None]
        colour = np.array([level + vary(12) for level in COLOURS[item.colour]], np.float32)
        part = picture[top : top + CELL, left : left + CELL]
        part += cover * (colour - part)
    made: NDArray[np.uint8] = np.clip(picture + 0.5, 0, 255).astype(np.uint8)
    return made


def _distance(shape: str, x: NDArray[np.float32], y: NDArray[np.float32], radius: float) -> NDArray[np.float32]:
    """How far each point lies outside of the shape, in pixels; below 0 inside."""
    across, down = np.abs(x), np.abs(y)
    if shape == "circle":
        return np.asarray(np.sqrt(x * x + y * y) - radius, np.float32)
    if shape == "square":
        return np.asarray(np.maximum(across, down) - radius * 0.9, np.float32)
    if shape == "triangle":
        return np.asarray(np.maximum(y - radius * 0.85, 0.87 * across - 0.5 * y - radius * 0.5), np.float32)
    arm = radius * 0.3
    made: NDArray[np.float32] = np.minimum(np.maximum(across - radius, down - arm), np.maximum(down - radius, across - arm))
    return made
