"""The whole language on this project's door, through the vendors' SDKs and SGLang's protocol: each backend does what it declares, and gives
what the engine itself gives.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest

import sgl_lab.lang.surface as sgl
from sgl_lab.backends.anthropic import Anthropic
from sgl_lab.backends.openai import OpenAI
from sgl_lab.backends.sglang import RuntimeEndpoint
from sgl_lab.contracts.capabilities import Capabilities
from sgl_lab.contracts.conversation import AnyBackend
from sgl_lab.lang.surface import gen
from sgl_lab.serve import Door
from sgl_lab.session import Lab

from ..partners.surface import FEATURES, Feature, Verdict, is_declared, table, tried, tried_all

BACKENDS: Mapping[str, Callable[[Door], AnyBackend]] = {
    "chat": lambda door: OpenAI(**door.client),
    "responses": lambda door: OpenAI(api="responses", **door.client),
    "completions": lambda door: OpenAI(api="completions", **door.client),
    "anthropic": lambda door: Anthropic("tiny", base_url=door.url, api_key=door.token),
    "sglang": lambda door: RuntimeEndpoint(door.url, api_key=door.token),
}


HALF = {"responses": slice(0, None, 2), "sglang": slice(1, None, 2)}
"""`python -m tests.partners` runs all features everywhere."""


@pytest.mark.parametrize("name", BACKENDS)
def test_each_feature_works_or_is_refused_as_the_backend_declares(name: str, door: Door) -> None:
    found = tried_all(BACKENDS[name](door), FEATURES[HALF.get(name, slice(None))], together=name == "responses")
    assert {feature: (str(verdict), verdict.reason) for feature, verdict in found.items() if not verdict.agrees} == {}
    assert all(verdict.reason for verdict in found.values() if verdict.outcome == "refused")


def test_a_backend_that_declares_too_much_or_too_little_is_found(lab: Lab) -> None:
    (regex,) = [feature for feature in FEATURES if feature.name == "regex"]
    for needs, wanted in ((lambda can: False, "works, undeclared"), (regex.needs, "works")):
        assert str(tried(Feature("regex", regex.does, needs), lab.backend)) == wanted
    (image,) = [feature for feature in FEATURES if feature.name == "image"]
    assert str(tried(Feature("image", image.does), lab.backend)) == "refused, though declared"
    assert not is_declared(regex, Capabilities())


def test_a_table_has_a_cell_for_each_verdict_and_each_reason_once() -> None:
    works, refused = Verdict("works", True), Verdict("refused", False, "a offers no b")
    found = table({"`x`": {"one": works, "two": refused}, "`y`": {"one": works, "two": refused}})
    head, rows = "| feature | `x` | `y` |\n| --- | --- | --- |\n", "| one | works | works |\n| two | refused | refused |\n"
    assert found == f"{head}{rows}\n* a offers no b: two (`x`, `y`)\n"


def test_a_program_gives_the_same_through_the_door(door: Door, lab: Lab) -> None:
    @sgl.function
    def program(s: Any) -> None:
        s += sgl.system("Answer in few words.") + sgl.user("Name a color of the sky.")
        s += sgl.assistant(gen("color", regex="[a-z]{6}", temperature=0))
        s += sgl.user("Is ice hot? yes or no") + sgl.assistant(sgl.select("ice", ["yes", "no"]))
        s += sgl.user("A number?") + sgl.assistant(gen("number", regex=r"[0-9]{3}", temperature=0))

    away = OpenAI(**door.client)
    assert (away.describe().name, away.describe().context) == ("tiny", lab.card.context)
    here, there = program.run(backend=lab.backend), program.run(backend=away)
    assert (there["color"], there["number"]) == (here["color"], here["number"])
    meta = there.get_meta_info("number")
    assert meta["cached_tokens"] > 0
    assert meta["cost"] is None
    away.close()
