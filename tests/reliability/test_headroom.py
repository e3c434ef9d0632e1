"""A pool with one page more than the largest request: it goes on, and says at once what can never run."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

import pytest

from sgl_lab.contracts.errors import CacheFull
from sgl_lab.contracts.events import EngineFault, NodeEvicted, RequestPreempted
from sgl_lab.contracts.policies import SCHEDULES

from ..pure.driving import SOAK, Bench, Listener, bench, expect_idle

LARGEST = 48
"""tokens with KV of the largest request"""


def ask(b: Bench, draw: random.Random) -> Listener:
    n_prompt = draw.randrange(1, LARGEST - 2)
    prompt = (*draw.choices((3, 4), k=n_prompt // 2), *draw.choices(range(256), k=n_prompt - n_prompt // 2))
    kind = draw.random()
    if kind < 0.8:
        n_samples = draw.choice((1, 1, 2))
        return b.gen(prompt, max_tokens=draw.randrange(1, LARGEST - n_prompt + 2), n=n_samples, ignore_eos=True, seed=draw.randrange(9))
    return b.score(prompt, (1, 2), (1, 3), (4,)) if kind < 0.9 else b.warm(prompt)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("page_size", [1, 4])
def test_with_one_page_of_headroom_there_is_progress_every_four_steps(
    page_size: int, schedule: str, record_table: Callable[..., None]
) -> None:
    draw = random.Random(page_size)
    b = bench(n_pages=LARGEST // page_size + 1, page_size=page_size, max_rows=6, schedule=schedule)
    listener: list[Listener] = []
    done: list[int] = []
    """after each step: tokens generated and jobs answered"""
    n_steps = 5_000 * SOAK // 8
    for _ in range(n_steps):
        while sum(not h.answers for h in listener[-8:]) < 6:
            listener.append(ask(b, draw))
        assert b.step()
        done.append(b.engine.stats()["generated_tokens"] + sum(b.engine.stats()[f"requests_{reason}"] for reason in ("length", "stop")))
        if len(done) % 100 == 0:
            started = time.thread_time()
            with pytest.raises(CacheFull, match=f"needs {LARGEST // page_size + 2} pages of .*the pool has {LARGEST // page_size + 1}"):
                b.gen((1,) * (LARGEST + page_size + 1), max_tokens=1)
            assert time.thread_time() - started < 0.1
    assert min(later - now for now, later in zip(done, done[4:], strict=False)) > 0
    b.drain()
    record_table("R4", page_size=page_size, schedule=schedule, steps=n_steps, requests=len(listener))
    assert [h for h in listener if len(h.answers) != 1 or isinstance(h.answers[0], Exception)] == []
    assert len(listener) > n_steps // 40
    assert not b.fold.of(EngineFault)
    assert b.fold.of(NodeEvicted)
    assert b.fold.of(RequestPreempted)
    expect_idle(b)


def test_a_large_request_is_not_starved_by_small_ones() -> None:
    draw = random.Random(1)
    b = bench(n_pages=LARGEST + 1, max_rows=6)

    def ask_little() -> None:
        b.gen(tuple(draw.choices(range(256), k=8)), max_tokens=draw.randrange(2, 14), ignore_eos=True)

    for _ in range(6):
        ask_little()
        b.step()
    large = b.gen(tuple(draw.choices(range(256), k=LARGEST - 4)), max_tokens=4, ignore_eos=True)
    n_steps = 0
    while not large.answers:
        ask_little()
        b.step()
        n_steps += 1
        assert n_steps < 100
