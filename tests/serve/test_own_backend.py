"""A program on `OpenAI` whose server is this project's door: the real model behind a real socket, with the vendor's SDK between."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import sgl_lab.lang.surface as sgl
from sgl_lab.backends.openai import OpenAI
from sgl_lab.lang.surface import gen
from sgl_lab.serve import Door
from sgl_lab.session import Lab


def test_a_program_gives_the_same_through_the_door(door: Door, lab: Lab) -> None:
    @sgl.function
    def program(s: Any) -> None:
        s += sgl.system("Answer in few words.") + sgl.user("Name a color of the sky.")
        s += sgl.assistant(gen("color", regex="[a-z]{6}", temperature=0))
        s += sgl.user("Is ice hot? yes or no") + sgl.assistant(sgl.select("ice", ["yes", "no"]))
        s += sgl.user("A number?") + sgl.assistant(gen("number", regex=r"[0-9]{3}", temperature=0))

    away = OpenAI(**door.client)
    card = away.describe()
    assert (card.name, card.context) == (Path(lab.card.name).name, lab.card.context)
    here, there = program.run(backend=lab.backend), program.run(backend=away)
    assert (there["color"], there["number"]) == (here["color"], here["number"])
    assert there["ice"] in ("yes", "no")
    meta = there.get_meta_info("number")
    assert meta["cached_tokens"] > 0
    assert meta["completion_tokens"] >= 3
    assert meta["cost"] is None
    away.close()
