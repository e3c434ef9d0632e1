"""Questions about a scene and their right answers, each kind with several wordings."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

from .scenes import COLOURS, MOST, SHAPES, Item, Scene


class Question(NamedTuple):
    kind: str
    text: str
    answer: str


DESCRIBE = ("Describe the picture.", "Describe the image.", "What is in the picture?", "What is in the image?", "What do you see?")
COLOUR = ("What colour is the {}?", "What color is the {}?", "Which colour is the {}?")
SHAPE = ("What shape is {}?", "Which shape is {}?", "What shape is the {} one?")
COUNT = (
    *("How many {} are there?", "How many {} do you see?", "How many {} are in the picture?", "How many {} are in the image?"),
    "Count the {}.",
)
PRESENCE = ("Is there {}?", "Do you see {}?", "Can you see {}?", "Is {} in the picture?")
MANY = {shape: shape + ("es" if shape == "cross" else "s") for shape in SHAPES}


def with_article(words: str) -> str:
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def described(items: Scene) -> str:
    """All shapes, row by row: "a red circle, a blue cross and an orange square"."""
    titles = [with_article(item.title) for item in items]
    return titles[0] if len(titles) == 1 else f"{', '.join(titles[:-1])} and {titles[-1]}"


def describe(items: Scene, chance: random.Random) -> Question:
    return Question("describe", chance.choice(DESCRIBE), described(items))


def colour(items: Scene, chance: random.Random) -> Question | None:
    """The colour of a shape that is there once; None where there is none such."""
    once = _once(items, lambda item: item.shape)
    item = chance.choice(once) if once else None
    return item and Question("colour", chance.choice(COLOUR).format(item.shape), item.colour)


def shape(items: Scene, chance: random.Random) -> Question | None:
    """The shape of a colour that is there once; None where there is none such."""
    once = _once(items, lambda item: item.colour)
    item = chance.choice(once) if once else None
    return item and Question("shape", chance.choice(SHAPE).format(item.colour), item.shape)


def count(items: Scene, chance: random.Random) -> Question:
    """How many shapes, shapes of one kind or of one colour. What is there is asked more often."""
    of = chance.choice(("all", "shape", "shape", "colour"))
    if of == "all":
        return Question("count", chance.choice(COUNT).format("shapes"), str(len(items)))
    there = chance.random() < 0.8
    if of == "shape":
        kind = chance.choice(items).shape if there else chance.choice(SHAPES)
        return Question("count", chance.choice(COUNT).format(MANY[kind]), str(sum(item.shape == kind for item in items)))
    tone = chance.choice(items).colour if there else chance.choice(list(COLOURS))
    return Question("count", chance.choice(COUNT).format(f"{tone} shapes"), str(sum(item.colour == tone for item in items)))


def presence(items: Scene, chance: random.Random) -> Question:
    """Half of the answers are yes. Of the others most are near misses: the colour or the shape is
    there, and both if the scene allows, but not in one.
    """
    wanted = chance.random() < 0.5
    whole = chance.random() < 0.6
    there = {(item.colour, item.shape) for item in items}
    if not whole:
        by_colour = chance.random() < 0.5
        names = {item.colour if by_colour else item.shape for item in items}
        others = [name for name in (COLOURS if by_colour else SHAPES) if name not in names]
        if wanted or others:
            name = chance.choice(sorted(names) if wanted else others)
            return Question("presence", _presence(f"{name} shape" if by_colour else name, chance), "yes" if wanted else "no")
    if wanted:
        return Question("presence", _presence(" ".join(chance.choice(sorted(there))), chance), "yes")
    absent = [(tone, kind) for tone in COLOURS for kind in SHAPES if (tone, kind) not in there]
    tones, kinds = {tone for tone, _ in there}, {kind for _, kind in there}
    near = [pair for pair in absent if pair[0] in tones and pair[1] in kinds]
    near = near or [pair for pair in absent if pair[0] in tones or pair[1] in kinds]
    return Question("presence", _presence(" ".join(chance.choice(near if chance.random() < 0.75 else absent)), chance), "no")


def _presence(name: str, chance: random.Random) -> str:
    return chance.choice(PRESENCE).format(with_article(name))


def _once(items: Scene, of: Callable[[Item], str]) -> list[Item]:
    counted = Counter(map(of, items))
    return [item for item in items if counted[of(item)] == 1]


KINDS: dict[str, Callable[[Scene, random.Random], Question | None]] = {
    "describe": describe,
    "colour": colour,
    "shape": shape,
    "count": count,
    "presence": presence,
}


def every_text() -> list[str]:
    """Texts with every word that questions and answers have."""
    things = ["shapes", *MANY.values(), *(f"{tone} shapes" for tone in COLOURS)]
    pairs = [f"{tone} {kind}" for tone in COLOURS for kind in SHAPES]
    return [
        *DESCRIBE,
        *(form.format(kind) for form in COLOUR for kind in SHAPES),
        *(form.format(tone) for form in SHAPE for tone in COLOURS),
        *(form.format(thing) for form in COUNT for thing in things),
        *(form.format(with_article(pair)) for form in PRESENCE for pair in (*pairs, *SHAPES, *(f"{tone} shape" for tone in COLOURS))),
        *(f"{with_article(one)}, {with_article(one)} and {with_article(one)}" for one in pairs),
        *SHAPES,
        *COLOURS,
        *map(str, range(MOST + 1)),
        "yes",
        "no",
    ]
