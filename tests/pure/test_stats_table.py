"""`%sgl stats`: every counter of the engine, once, in its order."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Any

from sgl_lab.viz.draw import stats
from sgl_lab.viz.draw.numbers import percent

from .driving import Bench, bench
from .test_viz_draw import ATTRIBUTES, HOSTILE, TAGS


def used() -> dict[str, Any]:
    b: Bench = bench()
    for _ in range(2):
        b.gen(tuple(b"what is counted"), max_tokens=5, ignore_eos=True)
        b.drain()
    return b.engine.stats()


def numbers(counts: dict[str, Any]) -> list[str]:
    return [row.value for section in stats.sections(counts) for row in section.rows]


def test_every_counter_of_the_engine_is_in_the_table_once_with_its_value() -> None:
    counts = used()
    whole = sorted(f"{n:,}" for n in counts.values() if isinstance(n, int))
    shown = numbers(counts)
    assert len(shown) == len(counts)
    assert sorted(value for value in shown if re.fullmatch(r"[\d,]+", value)) == whole
    rows = {(section.name, row.name): row for section in stats.sections(counts) for row in section.rows}
    assert rows["tokens", "prompt cached"].value == str(counts["cached_prompt_tokens"]) != "0"
    assert rows["tokens", "prompt cached"].share == counts["hit_rate"] == counts["cached_prompt_tokens"] / counts["prompt_tokens"]
    assert rows["requests", "ended by length"].value == "2"
    time = [row.share for (section, _), row in rows.items() if section == "time"]
    assert abs(sum(share for share in time if share is not None) - 1) < 1e-9


def test_an_unknown_counter_is_shown_in_the_section_of_its_name() -> None:
    counts = {"drafted_tokens": 8, "accepted_tokens": 6, "oracle_s": 0.25, "requests_paused": 3, "moons": 2, "luck_rate": 0.5}
    found = {section.name: [(row.name, row.value, row.share) for row in section.rows] for section in stats.sections(counts)}
    assert found == {
        "tokens": [("drafted", "8", None), ("accepted", "6", 0.75), ("luck rate", "50 %", None)],
        "time": [("oracle", "250 ms", 1.0)],
        "cache": [("moons", "2", None)],
        "requests": [("paused", "3", None)],
    }


def test_an_engine_that_has_done_nothing_has_a_table_too() -> None:
    counts = bench().engine.stats()
    assert len(numbers(counts)) == len(counts)
    assert stats.text("idle", counts).startswith("idle\n")


def test_page_and_text_are_equal_and_hold_nothing_that_a_notebook_would_drop() -> None:
    counts = used()
    cells: list[str] = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            assert tag in TAGS
            assert {name for name, _ in attrs} <= ATTRIBUTES

        def handle_data(self, data: str) -> None:
            cells.append(data)

    for title in ("smollm2 · cpu · int4", *HOSTILE):
        Reader().feed(stats.html(title, counts).source)
    text = stats.text("smollm2 · cpu · int4", counts)
    for section in stats.sections(counts):
        assert section.name in text
        for row in section.rows:
            assert re.search(rf"{re.escape(row.name)} +{re.escape(row.value)}", text)
            assert {row.name, row.value} <= set(cells)


def test_a_negligible_share_is_shown_as_such() -> None:
    assert [percent(share) for share in (0, 1e-5, 0.0006, 0.5, 0.9999)] == ["0 %", "<0.1 %", "0.06 %", "50 %", "100 %"]
