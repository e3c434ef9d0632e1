"""Pinned prefixes: what eviction never takes, and what then still fits beside them."""

from __future__ import annotations

import random

import pytest

from sgl_lab.contracts.errors import BadArgument, CacheFull, RequestFailed, Stopped
from sgl_lab.contracts.events import EngineFault, NodeEvicted, PrefixMatched, RequestPreempted
from sgl_lab.contracts.params import SamplingParams
from sgl_lab.contracts.port import GenJob

from .driving import SOAK, Bench, Listener, bench, expect_idle

PREFIX = tuple(b"the system prompt that all of them begin with; ")
N = len(PREFIX)


def refs(b: Bench) -> dict[bytes, int]:
    return {bytes(node.tokens): node.refs for node in b.engine.snapshot(0).nodes if node.parent}


@pytest.mark.parametrize("page_size", [1, 4])
def test_a_pinned_prefix_is_never_evicted_and_then_it_is(page_size: int) -> None:
    b = bench(page_size=page_size)
    pin, pinned = b.pin(PREFIX)
    b.drain()
    kept = N // page_size * page_size
    assert pinned.answer.prompt_tokens == N
    assert refs(b) == {bytes(PREFIX[:kept]): 1}
    b.engine.flush()
    assert (b.engine.stats()["pages_pinned"], b.engine.stats()["pins"]) == (kept // page_size, 1)
    b.gen((*PREFIX, 1, 2, 3), max_tokens=2, ignore_eos=True)
    b.drain()
    assert b.fold.of(PrefixMatched)[-1].n_hit == kept
    b.engine.unpin(pin)
    b.expect_books()
    assert b.engine.stats()["pages_pinned"] == 0
    expect_idle(b)


def test_two_pins_count_what_they_share_once_and_end_one_by_one() -> None:
    b = bench()
    (first, _), (second, _) = b.pin(PREFIX), b.pin((*PREFIX, 7))
    b.drain()
    assert b.engine.stats()["pages_pinned"] == N + 1
    b.engine.unpin(first)
    b.engine.flush()
    assert refs(b) == {bytes(PREFIX): 1, b"\x07": 1}
    b.engine.unpin(second)
    with pytest.raises(BadArgument, match=f"nothing is pinned as {second}"):
        b.engine.unpin(second)
    expect_idle(b)


def test_a_pinned_prefix_is_shown_locked_and_is_no_hit() -> None:
    b = bench()
    b.warm(PREFIX)
    b.drain()
    (before,) = (node for node in b.engine.snapshot(0).nodes if node.parent)
    b.pin(PREFIX)
    b.step()
    (after,) = (node for node in b.engine.snapshot(0).nodes if node.parent)
    assert (before.refs, after.refs) == (0, 1)
    assert after.hits == before.hits + 1  # its warm, which found it


def test_a_pin_that_does_not_fit_is_refused_with_need_and_capacity() -> None:
    b = bench(n_pages=60)
    with pytest.raises(CacheFull, match="needs 61 pages of 1 tokens, the pool has 60"):
        b.pin((1,) * 61)
    with pytest.raises(BadArgument, match="is shorter than a page of 16"):
        bench(page_size=16).pin((1,) * 15)
    waiting = b.gen((9,) * 20, max_tokens=21, ignore_eos=True)  # needs 40
    _, refused = b.pin((1,) * 21)
    _, held = b.pin((1,) * 20)
    b.drain()
    with pytest.raises(CacheFull, match="pinning 21 pages would leave too few of 60"):
        _ = refused.answer
    assert held.answer
    assert len(waiting.output.ids) == 21
    assert b.engine.stats()["pages_pinned"] == 20


def test_a_request_beside_pins_is_refused_unless_it_begins_with_them() -> None:
    b = bench(n_pages=60)
    b.pin((1,) * 40)
    b.drain()
    with pytest.raises(CacheFull, match="needs 21 pages of 1 tokens, the pool has 60, of which 40 are pinned") as refusal:
        b.gen((2,) * 20, max_tokens=2)
    assert "unpin" in refusal.value.hint
    beside = b.gen((2,) * 20, max_tokens=1)
    listener = [b.gen((1,) * n, max_tokens=20, ignore_eos=True) for n in (40, 41)]
    to_the_brim = b.gen((1,) * 41, max_tokens=None, ignore_eos=True)
    b.drain()
    assert [len(h.output.ids) for h in listener] == [20, 20]
    assert len(to_the_brim.output.ids) == 20
    assert beside.answers


def test_a_request_accepted_before_a_pin_is_answered_when_it_no_longer_fits() -> None:
    b = bench(n_pages=60)
    late = Listener()
    group = b.engine.gen(GenJob((2,) * 20, SamplingParams(max_tokens=30)), late)
    b.pin((1,) * 40)
    b.drain()
    b.engine.add(group)
    with pytest.raises(CacheFull, match="of which 40 are pinned"):
        _ = late.answer
    b.expect_books()
    assert not b.step()


def test_a_cancelled_pin_pins_nothing() -> None:
    b = bench()
    pin, listener = b.pin(PREFIX)
    b.engine.cancel(pin)
    with pytest.raises(Stopped):
        _ = listener.answer
    with pytest.raises(BadArgument, match="nothing is pinned at all"):
        b.engine.unpin(pin)
    expect_idle(b)


def test_pins_are_computed_again_when_the_books_were_wrong() -> None:
    b = bench()
    pin, _ = b.pin(PREFIX)
    b.drain()
    b.engine.recover(RequestFailed("damage"))
    assert b.engine.stats()["pins"] == 0
    b.drain()
    assert b.engine.stats()["pages_pinned"] == N
    b.engine.flush()
    b.engine.unpin(pin)
    assert [fault.message for fault in b.fold.of(EngineFault)] == ["RequestFailed: damage; the cache was flushed"]
    expect_idle(b)


@pytest.mark.parametrize("page_size", [1, 4])
def test_with_all_but_the_least_room_pinned_requests_still_run_to_their_end(page_size: int) -> None:
    draw = random.Random(page_size)
    b = bench(n_pages=128 // page_size, page_size=page_size, max_rows=6)
    pinned = tuple(draw.choices((3, 4), k=60))
    pins = [b.pin(pinned)[0], b.pin(pinned[:20] + (5,) * 16)[0]]
    b.drain()
    listener: list[Listener] = []
    for _ in range(60 * SOAK):
        prompt = (*pinned[: draw.randrange(61)], *draw.choices((3, 4), k=draw.randrange(1, 6)))
        listener.append(b.gen(prompt, max_tokens=draw.randrange(1, 30), ignore_eos=True, n=draw.choice((1, 1, 2))))
        for _ in range(draw.randrange(8)):
            b.step()
    b.drain()
    assert all(output.finish_reason == "length" for h in listener for output in h.answer)
    assert b.fold.of(NodeEvicted)
    assert b.fold.of(RequestPreempted)
    for pin in pins:
        b.engine.unpin(pin)
    expect_idle(b)
