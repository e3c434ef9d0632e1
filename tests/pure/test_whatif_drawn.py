"""What-if and hit rate, drawn: the engine's numbers on every surface, and nothing that a notebook
would drop.
"""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET

import pytest

from sgl_lab.engine.serving.config import EngineConfig
from sgl_lab.engine.tools.simulate import Outcome, Recording, what_if
from sgl_lab.magics.commands import whatif as command
from sgl_lab.magics.options import OptionError
from sgl_lab.trace import Record
from sgl_lab.viz.draw import chart, stats, whatif
from sgl_lab.viz.draw import diff as draw_diff
from sgl_lab.viz.draw import why as draw_why
from sgl_lab.viz.explain.diff import diff
from sgl_lab.viz.explain.why import why
from sgl_lab.viz.views.hits import hits

from .recording import Session
from .test_viz_draw import ATTRIBUTES, HOSTILE, SVG_TAGS, TAGS, Reader

SIZES = (40, 64, 128, 200, 300)


def pressed() -> Session:
    """A session whose cache was too small."""
    session = Session(n_pages=200)
    for n, city in enumerate(("Porto", "Lisbon", "Faro", "Porto", "Lisbon")):
        session.run(f"In[{n + 1}]", ("a", f"Tell me about {city}. " * 4, 6), ("b", f"And now: what of {city}?", 3))
    return session


def outcomes(session: Session, record: Record, sizes: tuple[int, ...] = SIZES) -> tuple[Outcome, ...]:
    recording = Recording.of((entry.event for entry in record.entries), record.snapshot, record.namespace or ())
    return what_if(recording, EngineConfig(n_pages=200), n_pages=sizes)


def test_figure_picture_and_table_hold_the_simulations_own_numbers() -> None:
    session = pressed()
    found = whatif.WhatIf("In[5]", outcomes(session, session.records[-1]), 1, 200)
    assert found.policies[-1] == "belady"
    figure = whatif.figure(found)
    lines = {line["name"]: line for line in figure["data"]}
    drawn = whatif.alike(found)
    assert sorted(policy for _, group in drawn for policy in group) == sorted(found.policies)
    for title, policy in ((title, policy) for title, group in drawn for policy in group):
        line, points = lines[title], found.of(policy)
        assert list(line["x"]) == [one.n_pages for one in points]
        assert list(line["y"]) == [one.hit_rate for one in points]
    text = whatif.text(found)
    for one in found.outcomes:
        counts = f"{one.cached_prompt_tokens:,} +{one.computed_tokens:,} +{one.evicted_tokens:,}"
        assert re.search(rf"^ *{one.n_pages}( ◂ actual)? .* {counts}", text, re.MULTILINE)
    assert "200 ◂ actual" in text
    cells = {cell for row in whatif.rows(found) for cell in row}
    page = Reader(whatif.html(found).source)
    assert page.tags <= TAGS
    assert all(cell in page.text for cell in cells)
    root = ET.fromstring(whatif.picture(found).source)
    assert {element.tag.removeprefix("{http://www.w3.org/2000/svg}") for element in root.iter()} <= SVG_TAGS
    assert root.findtext("{http://www.w3.org/2000/svg}title") == "What if: hit rate against the size of the cache in tokens, In[5]"


def test_the_size_that_the_run_had_gives_the_hit_rate_that_it_had() -> None:
    session = pressed()
    record = session.records[-1]
    reason = why(record, session.records)
    found = whatif.WhatIf("In[5]", outcomes(session, record), 1, 200)
    (mine,) = (one for one in found.of("lru") if one.n_pages == 200)
    assert (mine.cached_prompt_tokens, mine.prompt_tokens) == (reason.n_cached, reason.n_prompt)
    for one in found.outcomes:
        (best,) = (other for other in found.outcomes if other.evict == "belady" and other.n_pages == one.n_pages)
        assert one.cached_tokens <= best.cached_tokens


def test_policies_that_agree_are_one_line_and_empty_columns_are_left_out() -> None:
    def found(*hits: tuple[str, int, int]) -> whatif.WhatIf:
        return whatif.WhatIf("In[5]", tuple(Outcome(one, size, 100, n, n, 120 - n, 0, 0, 0, 0) for one, size, n in hits), 1, None)

    policies = ("lru", "lfu", "fifo", "belady")
    same = found(*((policy, size, n) for policy in policies for size, n in ((64, 50), (128, 70))))
    assert [row[:3] for row in whatif.rows(same)] == [
        ("cache", "policy", "hit rate"),
        ("64", "all 4 policies", "50 %"),
        ("128", "all 4 policies", "70 %"),
    ]
    assert whatif.rows(same)[0][-1] == "computed"
    assert "all 4 policies agree at every size" in whatif.text(same)
    assert [line["name"] for line in whatif.figure(same)["data"]] == ["all 4 policies"]
    best = found(*((policy, 64, 60 if policy == "belady" else 50) for policy in policies))
    assert [row[1] for row in whatif.rows(best)] == ["policy", "lru, lfu, fifo", "optimum (Belady)"]
    assert "agree" not in whatif.text(best)


def test_a_lower_hit_rate_of_a_larger_cache_is_explained() -> None:
    def found(*cached: int) -> str:
        served = [Outcome("lru", size, 100, n, n, 120 - n, 0, 0, 0, 0) for size, n in zip((64, 128, 256), cached, strict=True)]
        return whatif.text(whatif.WhatIf("In[5]", (*served, Outcome("belady", 64, 100, 90, 90, 30, 0, 0, 0, 0)), 1, None))

    assert "a larger cache can have a lower hit rate" in found(50, 70, 60)
    assert "a larger cache can have a lower hit rate" not in found(50, 70, 70)


def test_a_size_too_small_for_a_request_has_no_hit_rate_and_says_so() -> None:
    session = pressed()
    found = whatif.WhatIf("In[5]", outcomes(session, session.records[-1], (40, 200)), 1, None)
    assert [one.n_pages for one in found.of("lru")] == [200]
    assert "a size too small for 1 request has no hit rate" in whatif.text(found)
    assert "40" not in [tick for trace in whatif.figure(found)["data"] for tick in map(str, trace["x"])]


def test_the_figure_fetches_nothing_and_holds_no_name_from_outside() -> None:
    session = pressed()
    found = whatif.WhatIf("<a href='http://outside.test'>x</a>", outcomes(session, session.records[-1]), 1, 200)
    assert "outside" not in json.dumps(whatif.figure(found))
    assert "http" not in json.dumps(whatif.figure(found))


@pytest.mark.parametrize("payload", HOSTILE)
def test_hostile_names_stay_text(payload: str) -> None:
    session = pressed()
    found = whatif.WhatIf(payload, outcomes(session, session.records[-1], (200,)), 1, None)
    page = Reader(whatif.html(found).source)
    assert page.tags <= TAGS
    whatif.text(found)
    line = chart.Series(payload, ((1.0, 0.5), (2.0, 0.7)))
    for drawn in (whatif.picture(found), chart.shares(payload, payload, [line], lambda x: payload)):
        root = ET.fromstring(drawn.source)
        for element in root.iter():
            assert element.tag.removeprefix("{http://www.w3.org/2000/svg}") in SVG_TAGS
            assert not [name for name in element.attrib if name.startswith("on") or "href" in name]


def test_the_curve_ends_at_the_engines_hit_rate_also_when_the_ring_forgot_the_beginning() -> None:
    session = pressed()
    with session.recording("In[6]") as record:
        session.select(record.run, "when", "Tell me about Porto. ", ("day", "night"))
    counts = session.engine.stats()
    entries = session.ring.read(0).entries
    whole = hits(entries, counts["prompt_tokens"], counts["cached_prompt_tokens"])
    assert (whole[-1].all_prompt, whole[-1].all_cached) == (counts["prompt_tokens"], counts["cached_tokens"])
    assert whole[-1].rate == counts["hit_rate"]
    assert (whole[0].all_prompt, whole[0].all_cached) == (whole[0].n_prompt, whole[0].n_cached)
    late = hits(entries[len(entries) // 2 :], counts["prompt_tokens"], counts["cached_prompt_tokens"])
    assert 0 < len(late) < len(whole)
    assert late[-1].rate == counts["hit_rate"]
    page = Reader(stats.html("smollm2", counts, whole).source)
    (picture,) = page.images
    assert f"{len(whole)} requests" in picture


def test_untrusted_notebooks_keep_every_style_of_these_too() -> None:
    """The rule of the frozen views: no variable, no function but rgba, no keyword that JupyterLab does not know."""
    session = pressed()
    a, b = session.records[0], session.records[-1]
    found = whatif.WhatIf("In[5]", outcomes(session, b), 1, 200)
    counts = session.engine.stats()
    points = hits(session.ring.read(0).entries, counts["prompt_tokens"], counts["cached_prompt_tokens"])
    reason = why(b, session.records)
    parts = [whatif.html(found), stats.html("t", counts, points), draw_why.html(reason, b.spell)]
    parts.append(draw_diff.html(diff(a, b), a.spell, b.spell))
    value = r"[\w#.%, -]+|rgba\(\d+,\d+,\d+,[\d.]+\)|1px solid (#\w+|rgba\(\d+,\d+,\d+,[\d.]+\))"
    for part in parts:
        page = Reader(part.source)
        assert {name for name, _ in page.attributes} <= ATTRIBUTES
        declarations = {one for name, value in page.attributes if name == "style" for one in value.split(";")}
        assert declarations
        assert [one for one in declarations if not re.fullmatch(rf"[a-z-]+:({value})", one)] == []


@pytest.mark.parametrize(("text", "sizes"), [("64..256", [64, 128, 256]), ("64,32,64", [32, 64]), ("9..9", [9]), ("5..12", [5, 10, 12])])
def test_sizes_are_a_range_or_a_list(text: str, sizes: list[int]) -> None:
    assert command._sizes("--tokens", text, 1) == sizes


@pytest.mark.parametrize("text", ["", "x", "64..", "-1", "0", "9..3", "1,,2", "64...96", "1e3", "0..5", "9" * 30, ",".join(["7"] * 99)])
def test_invalid_sizes_are_one_line(text: str) -> None:
    with pytest.raises(OptionError) as caught:
        command._sizes("--tokens", text, 1)
    assert "\n" not in str(caught.value)


def test_sizes_are_whole_pages() -> None:
    assert command._sizes("--tokens", "20,64,70", 16) == command._sizes("--pages", "1,4", 16) == [16, 64]
    with pytest.raises(OptionError, match="of a page"):
        command._sizes("--tokens", "8", 16)


def test_default_sizes_reach_from_the_largest_request_to_no_evictions() -> None:
    session = pressed()
    record = session.records[-1]
    sizes = command._usual(record, 1, 200)
    assert sizes == sorted(set(sizes))
    assert 200 in sizes
    assert all(one.n_refused == 0 for one in outcomes(session, record, tuple(sizes)))
    assert max(one.n_pages for one in outcomes(session, record, tuple(sizes))) <= 200
