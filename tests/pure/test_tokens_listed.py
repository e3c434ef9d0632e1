"""The tokens of many gens as one output: bounded, linear, and no text left out."""

from __future__ import annotations

import re

import pytest

from sgl_lab.contracts.events import Sample
from sgl_lab.contracts.ids import ForkId, RequestId
from sgl_lab.viz.draw import inspection as draw
from sgl_lab.viz.freeze import LIMIT
from sgl_lab.viz.views.inspection import Inspection

from .test_viz_draw import ATTRIBUTES, TAGS, Reader

SYSTEM = tuple(range(300))


def spell(token: int) -> str:
    return f" w{token}"


def gen(n: int, prompt: tuple[int, ...], n_said: int, fork: int = 0) -> Inspection:
    samples = [Sample(RequestId(n), 10_000 + 20 * n + k, -0.5, (), None, False) for k in range(n_said)]
    return Inspection(f"tip{n}", "gen", ForkId(fork), RequestId(n), prompt, n_hit=200, samples=samples, reason="length")


def chat(n_turns: int) -> list[Inspection]:
    """Every turn's prompt is all that stood before and a question of five tokens; forks in turn."""
    prompts = [SYSTEM] * 4
    found = []
    for n in range(n_turns):
        prompts[n % 4] += tuple(1_000_000 + 5 * n + k for k in range(5))
        found.append(gen(n, prompts[n % 4], 6, n % 4))
    return found


def words(found: list[Inspection]) -> set[str]:
    """The words of all prompts and answers; the last prompts contain the earlier ones."""
    return {spell(token).strip() for one in found[-4:] for token in one.prompt} | {
        spell(sample.token).strip() for one in found for sample in one.samples
    }


def size(found: list[Inspection]) -> tuple[int, str, str]:
    page, plain = draw.listing(found, spell, LIMIT)
    return len(page.source.encode()) + len(plain.encode()), page.source, plain


def test_a_few_tokens_have_all_their_details() -> None:
    found = [gen(n, SYSTEM[:20], 5) for n in range(3)]
    _, page, plain = size(found)
    assert plain == "\n\n".join(draw.text(one, spell) for one in found)
    assert page == "".join(draw.html(one, spell).source for one in found)


@pytest.mark.parametrize("found", [chat(400), [gen(0, tuple(range(2_000)), 1_500)]], ids=["400-gens", "one-long-gen"])
def test_within_the_limit_all_text_is_there_once_and_details_where_an_answer_begins(found: list[Inspection]) -> None:
    n_bytes, page, plain = size(found)
    assert n_bytes <= LIMIT
    read = Reader(page)
    assert (read.stack, read.tags <= TAGS, {name for name, _ in read.attributes} <= ATTRIBUTES) == ([], True, True)
    listed = words(found)
    for text in (plain, page):
        assert not listed - set(re.findall(r"w\d+", text))
    if len(found) == 1:
        assert f"position {len(found[0].prompt)}" in page


def test_of_many_gens_every_text_is_one_line_and_the_work_is_linear() -> None:
    n_spelled = []
    for n in (750, 1_500):
        calls = 0

        def counting(token: int) -> str:
            nonlocal calls
            calls += 1
            return spell(token)

        found = chat(n)
        page, plain = draw.listing(found, counting, LIMIT)
        n_spelled.append(calls)
        assert len(page.source.encode()) + len(plain.encode()) <= LIMIT
        listed = words(found)
        for text in (page.source, draw.listing(found, spell, LIMIT, is_text=True)[1]):
            assert not listed - set(re.findall(r"w\d+", text))
    assert n_spelled[1] < 2.5 * n_spelled[0]


def test_what_exceeds_every_limit_is_counted() -> None:
    _, plain = draw.listing(chat(2_000), lambda token: spell(token) * 16, LIMIT, is_text=True)
    shown = plain.count("⟶")
    assert 0 < shown < 2_000
    assert f"… {2_000 - shown:,} more: `%sgl tokens NAME`" in plain
    assert len(plain.encode()) <= 4 * LIMIT + 500


@pytest.mark.parametrize("n", [2, 40, 2_000])
def test_a_healed_seam_is_named_however_many_gens_there_are(n: int) -> None:
    found = [gen(k, tuple(range(20 * k, 20 * k + 20)), 5) for k in range(n)]
    found[0].seams.append(((7, 8), (9,)))
    _, page, plain = size(found)
    assert "healed seam: ␣w7 (7) ␣w8 (8) became ␣w9 (9)" in re.sub(r"<[^>]*>", "", page)
    assert "healed seam" in plain
