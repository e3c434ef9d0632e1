"""A model that looks: programs over drawn pictures, and its answers. The weights are those of the package."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

import sgl_lab as sgl
from sgl_lab.models.shapes.evaluate import SEED
from sgl_lab.models.shapes.questions import KINDS
from sgl_lab.models.shapes.scenes import COLOURS, Scene, drawn, picture, scene

pytest.importorskip("PIL")
N_SCENES = 16


@pytest.fixture(scope="module")
def lab() -> Iterator[sgl.Lab]:
    with sgl.Lab("shapes", cache_tokens=16_384) as made:
        yield made


def asked(s: Any, question: str, **form: Any) -> str:
    """The answer to a question about the picture of an open turn."""
    s += question + sgl.user_end() + sgl.assistant(sgl.gen("answer", max_tokens=40, temperature=0, **form))
    return s["answer"]


def looking(lab: sgl.Lab, *pictures: Any) -> Any:
    s = sgl.start(lab.backend)
    s += sgl.user_begin()
    for each in pictures:
        s += sgl.image(each)
    return s


def test_it_answers_every_kind_of_question_about_unseen_scenes(lab: sgl.Lab) -> None:
    chance, right, n_asked = random.Random(SEED), Counter[str](), Counter[str]()
    for _ in range(N_SCENES):
        items: Scene = scene(chance)
        s = looking(lab, drawn(items, chance))
        questions = [made for ask in KINDS.values() if (made := ask(items, chance))]
        for fork, (kind, text, answer) in zip(s.fork(len(questions)), questions, strict=True):
            n_asked[kind] += 1
            right[kind] += asked(fork, text) == answer
    assert n_asked.total() - right.total() <= 2, (right, n_asked)
    assert (lab.stats()["images_encoded"], lab.stats()["image_hits"]) == (N_SCENES, 0)


def test_colours_counts_and_presence_of_a_drawn_picture(lab: sgl.Lab) -> None:
    seen = {0: "red circle", 4: "blue square", 8: "blue cross"}
    questions = {
        "Describe the picture.": "a red circle, a blue square and a blue cross",
        "What colour is the circle?": "red",
        "What shape is red?": "circle",
        "How many shapes are there?": "3",
        "How many blue shapes are there?": "2",
        "Is there a blue cross?": "yes",
        "Is there a red cross?": "no",
    }
    for text, answer in questions.items():
        assert asked(looking(lab, picture(seen)), text) == answer
    moved = looking(lab, picture({0: "green circle"}))
    assert asked(moved, "What colour is the circle?") == "green"


def test_select_and_a_regex_choose_what_is_in_the_picture(lab: sgl.Lab) -> None:
    for colour in COLOURS:
        s = looking(lab, picture({2: f"{colour} triangle"}))
        s += "What colour is the triangle?" + sgl.user_end() + sgl.assistant(sgl.select("colour", choices=list(COLOURS)))
        assert s["colour"] == colour
    s = looking(lab, picture({2: "red circle", 3: "red cross", 5: "green cross"}))
    assert asked(s, "How many crosses are there?", regex="[0-9]") == "2"


def test_a_video_of_one_frame_is_a_picture_and_a_second_turn_still_sees_it(lab: sgl.Lab) -> None:
    s = looking(lab)
    s += sgl.video([picture({1: "orange square"})], 1)
    assert asked(s, "What colour is the square?") == "orange"
    s += sgl.user("What shape is orange?") + sgl.assistant(sgl.gen("again", max_tokens=10, temperature=0))
    assert s["again"] == "square"


def test_a_picture_that_fails_leaves_the_program_and_the_engine_as_they_were(lab: sgl.Lab) -> None:
    s = looking(lab, picture({4: "purple cross"}))
    before = s.token_ids()
    for bad in (b"\x89PNG\r\n\x1a\n" + bytes(99), "missing.png"):
        with pytest.raises(sgl.SglError):
            s += sgl.image(bad)
    assert s.token_ids() == before
    assert asked(s, "What shape is purple?") == "cross"


def test_shapes_that_are_none_are_refused() -> None:
    for wrong in ({9: "red circle"}, {0: "pink circle"}, {0: "red"}):
        with pytest.raises(ValueError, match="is no shape in a cell"):
            picture(wrong)
