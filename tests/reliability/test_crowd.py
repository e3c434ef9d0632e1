"""Thousands of requests, some cancelled, some failing, in a pool that is much too small: at the end nothing is held."""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sgl_lab.backends.local import LocalBackend
from sgl_lab.contracts.capabilities import TOKEN_LEVEL
from sgl_lab.contracts.errors import RequestFailed
from sgl_lab.contracts.events import EngineFault, Event, NodeEvicted, RequestPreempted, silent
from sgl_lab.contracts.params import Constraint, SamplingParams
from sgl_lab.contracts.port import GenJob, ModelCard, ScoreJob, WarmJob
from sgl_lab.engine.plan import Plan, RowOutput
from sgl_lab.engine.serving.config import EngineConfig
from sgl_lab.engine.serving.engine import Engine
from sgl_lab.engine.serving.resident import Resident
from sgl_lab.engine.tools.fake import ByteTokenizer, HashModel, HashRunner

from ..pure.driving import SOAK

N_REQUESTS = 1_000 * SOAK
N_PAGES = 128
FORM = Constraint("regex", "([a-z]{2} list of things: [a-z]{3,9}(, [a-z]{3,9}){3,}){5}")
POISON, RAISING = 250, 251
"""tokens that the model itself never says"""

DEADLINE_S = 60.0
CARD = ModelCard("hash", (), 4096, ByteTokenizer.n_vocab, "none", "none", replace(TOKEN_LEVEL, chat_template=True))


class Brittle(HashRunner):
    """A row with POISON fails, one with RAISING takes the whole step down."""

    def run(self, plan: Plan) -> tuple[RowOutput, ...]:
        if any(RAISING in row.tokens for row in plan.rows):
            raise MemoryError("out of memory in the forward pass")
        plan.before_draws()
        return tuple(RowOutput(error=ValueError("NaN")) if POISON in row.tokens else self._run(row) for row in plan.rows)


class Client:
    """Hears one job's answer, cancels it from within where that is its fate, and makes room for the next."""

    def __init__(self, room: threading.Semaphore, after: int | None) -> None:
        self.answers: list[Any] = []
        self.cancel: Any = None
        self._room = room
        self._after = after

    def on_progress(self, index: int, text: str, ids: tuple[int, ...]) -> None:
        if self._after is not None and self.cancel is not None:
            self._after -= 1
            if self._after < 0:
                self.cancel()

    def on_done(self, answer: Any) -> None:
        self.answers.append(answer)
        self._room.release()

    def on_error(self, error: Exception) -> None:
        self.on_done(error)


def rss_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_when_thousands_came_and_some_were_cancelled_and_some_failed_nothing_is_held(record_table: Callable[..., None]) -> None:
    draw = random.Random(3)
    threads = set(threading.enumerate())
    n_events = {NodeEvicted: 0, RequestPreempted: 0, EngineFault: 0}
    faults: list[str] = []

    def emit(event: Event) -> None:
        if type(event) in n_events:
            n_events[type(event)] += 1
        if isinstance(event, EngineFault) and "flushed" in event.message:
            faults.append(event.message)

    config = EngineConfig(n_pages=N_PAGES, max_rows=10, step_tokens=64)
    resident = Resident(Engine(config, Brittle(N_PAGES, 1, HashModel(250)), ByteTokenizer(), context=4096, emit=emit))
    backend = LocalBackend(resident, ByteTokenizer(), CARD, silent)
    room = threading.Semaphore(32)
    clients: list[Client] = []
    fates: list[str] = []
    n_bytes = 0
    for number in range(N_REQUESTS):
        assert room.acquire(timeout=DEADLINE_S)
        if number == N_REQUESTS // 4:
            n_bytes = rss_bytes()
        prompt = (*draw.choices((3, 4), k=5 * draw.randrange(1, 8)), *draw.choices(range(250), k=draw.randrange(4)))
        fate = draw.choices(("", "cancelled", "cancelled within", "failing"), (65, 20, 10, 5))[0]
        if fate == "failing":
            prompt = (*prompt, draw.choice((POISON, RAISING)))
        client = Client(room, draw.randrange(12) if fate == "cancelled within" else None)
        clients.append(client)
        fates.append(fate)
        kind = "gen" if fate == "cancelled within" else draw.choices(("gen", "score", "warm"), (8, 1, 1))[0]
        if kind == "gen":
            constraint = draw.choice((None, None, FORM))
            n = draw.choice((1, 1, 1, 2))
            params = SamplingParams(max_tokens=draw.randrange(1, 50), n=n, seed=number, ignore_eos=True, constraint=constraint)
            name = backend.submit(GenJob(prompt, params), client)
        elif kind == "score":
            name = backend.score(ScoreJob(prompt, ((1, 2, 3), (1, 4), (5,))), client)
        else:
            name = backend.warm(WarmJob(prompt), client)
        client.cancel = lambda name=name: backend.cancel(name)
        if fate == "cancelled":
            backend.cancel(name)
    for _ in range(32):
        assert room.acquire(timeout=DEADLINE_S)

    resident.check()
    stats = resident.stats()
    assert (stats["requests_running"], stats["requests_waiting"]) == (0, 0)
    assert {node.refs for node in resident.snapshot().nodes} == {0}
    resident.flush()
    resident.check()
    assert resident.stats()["pages_free"] == N_PAGES
    resident.close()
    growth = rss_bytes() - n_bytes
    record_table(
        "R3",
        requests=N_REQUESTS,
        aborted=stats["requests_abort"],
        failed=fates.count("failing"),
        evictions=n_events[NodeEvicted],
        preemptions=n_events[RequestPreempted],
        growth=f"{growth / 2**20:.1f} MiB",
    )
    assert set(threading.enumerate()) <= threads
    assert growth <= 32 * 2**20

    assert not faults
    assert [len(client.answers) for client in clients] == [1] * N_REQUESTS
    for fate, client in zip(fates, clients, strict=True):
        if fate == "failing":
            assert isinstance(client.answers[0], RequestFailed)
        elif not fate:
            assert not isinstance(client.answers[0], Exception)
    assert fates.count("failing") > N_REQUESTS // 40
    assert stats["requests_abort"] > N_REQUESTS // 6
    assert n_events[NodeEvicted] >= N_REQUESTS // 10
    assert n_events[RequestPreempted] >= N_REQUESTS // 50


pytestmark = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="counts resident memory in /proc")
