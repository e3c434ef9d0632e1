"""The tokens of many gens as one output: bounded, linear, and no text left out."""

from __future__ import annotations

import re

import pytest

from sgl_lab.contracts.events import Sample
from sgl_lab.contracts.ids import ForkId, RequestId
from sgl_lab.viz.draw import asked as draw
from sgl_lab.viz.freeze import LIMIT
from sgl_lab.viz.views.asked import Asked

from .test_viz_draw import ATTRIBUTES, TAGS, Reader

SYSTEM = tuple(range(300))


def spell(token: int) -> str:
    return f" w{token}"


def gen(n: int, prompt: tuple[int, ...], n_said: int, fork: int = 0) -> Asked:
    samples = [Sample(RequestId(n), 10_000 + 20 * n + k, -0.5, (), None, False) for k in range(n_said)]
    return Asked(f"tip{n}", "gen", ForkId(fork), RequestId(n), prompt, n_hit=200, samples=samples, reason="length")


def chat(n_turns: int) -> list[Asked]:
    """Every turn's prompt is all that stood before and a question of five tokens; forks in turn."""
    prompts = [SYSTEM] * 4
    found = []
    for n in range(n_turns):
        prompts[n % 4] += tuple(1_000_000 + 5 * n + k for k in range(5))
        found.append(gen(n, prompts[n % 4], 6, n % 4))
    return found


def size(found: list[Asked]) -> tuple[int, str, str]:
    page, plain = draw.listing(found, spell, LIMIT)
    return len(page.source.encode()) + len(plain.encode()), page.source, plain


def test_a_few_tokens_have_all_their_details() -> None:
    found = [gen(n, SYSTEM[:20], 5) for n in range(3)]
    _, page, plain = size(found)
    assert plain == "\n\n".join(draw.text(one, spell) for one in found)
    assert page == "".join(draw.html(one, spell).source for one in found)


@pytest.mark.parametrize("found", [chat(400), [gen(0, tuple(range(4_000)), 1_500)]], ids=["400-gens", "one-long-gen"])
def test_within_the_limit_all_text_is_there_once_and_details_where_an_answer_begins(found: list[Asked]) -> None:
    n_bytes, page, plain = size(found)
    assert n_bytes <= LIMIT
    read = Reader(page)
    assert (read.stack, read.tags <= TAGS, {name for name, _ in read.attributes} <= ATTRIBUTES) == ([], True, True)
    said = {spell(token).strip() for one in found for token in (*one.prompt, *(sample.token for sample in one.samples))}
    for text in (plain, page):
        assert not said - set(re.findall(r"w\d+", text))
    if len(found) == 1:
        assert f"position {len(found[0].prompt)}" in page


def test_what_no_limit_can_hold_is_counted_and_the_work_is_linear() -> None:
    n_spelled = []
    for n in (1_000, 2_000):
        calls = 0

        def counting(token: int) -> str:
            nonlocal calls
            calls += 1
            return spell(token) * 10

        page, plain = draw.listing(chat(n), counting, LIMIT)
        assert len(page.source.encode()) + len(plain.encode()) <= LIMIT
        shown = plain.count(" came: length")
        assert f"… {n - shown:,} more: `%sgl tokens NAME`" in plain
        n_spelled.append(calls)
    assert n_spelled[1] < 1.5 * n_spelled[0]
