"""Many clients, slow ones, and those that go away: nothing stays held, and other clients do not wait."""

from __future__ import annotations

import asyncio
import json
import os
import random
import socket
import threading
from typing import Any

import httpx2
import pytest

from sgl_lab.contracts.events import ForkOpened
from sgl_lab.serve import Door, serve
from sgl_lab.serve.limits import Limits
from sgl_lab.session import Lab
from sgl_lab.viz.explain.why import why

from .calls import call, is_idle, until

LONG = {"text": "Once upon a time", "sampling_params": {"max_new_tokens": 2000, "ignore_eos": True}, "stream": True}


def n_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def opened(door: Door, body: Any, *, cut: int | None = None, path: str = "/generate") -> socket.socket:
    """A connection on which a request was sent, or its first `cut` bytes. It reads nothing."""
    content = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {door.token}\r\nUser-Agent: crowd\r\n"
    data = f"{head}Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n".encode() + content
    line = socket.create_connection(("127.0.0.1", int(door.url.rpartition(":")[2])))
    line.sendall(data[:cut])
    return line


def killed(line: socket.socket, rng: random.Random) -> None:
    """Close it, half of the time at once, as a killed process does."""
    if rng.random() < 0.5:
        line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    line.close()


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="counts open files in /proc")
def test_500_clients_that_stall_and_are_killed_leave_nothing(lab: Lab) -> None:
    rng = random.Random(0)
    with serve(lab, limits=Limits(requests=400, per_client=400)) as door:
        assert call(door, "/health")[0] == 200
        assert until(lambda: is_idle(door))
        before = n_files()
        lines = []
        for number in range(500):
            match number % 5:
                case 0:  # connects, and says nothing or half of a head
                    lines.append(opened(door, LONG, cut=rng.choice([0, 20, 90])))
                case 1:  # half of a body
                    lines.append(opened(door, LONG, cut=260))
                case 2:
                    lines.append(opened(door, LONG))
                case 3:
                    lines.append(opened(door, LONG | {"stream": False}))
                case _:
                    chat = {"messages": [{"role": "user", "content": f"story {number}"}], "stream": True}
                    lines.append(opened(door, chat, path="/v1/chat/completions"))
        assert until(lambda: door.counts()["held"] >= 250, 60)
        assert lab.is_busy
        rng.shuffle(lines)
        for line in lines:
            killed(line, rng)
        assert until(lambda: is_idle(door), 60), door.counts()
        stats = lab.stats()
        assert (stats["requests_running"], stats["requests_waiting"]) == (0, 0)
        lab.check()
        assert until(lambda: n_files() <= before, 20), (before, n_files())
        assert call(door, "/generate", {"text": "a", "sampling_params": {"max_new_tokens": 1}})[0] == 200
        assert door.counts()["clients"] == {}


def test_a_client_that_does_not_read_delays_no_other(lab: Lab) -> None:
    with serve(lab) as door:
        wide = LONG | {"return_logprob": True, "top_logprobs_num": 20, "sampling_params": {"max_new_tokens": 150, "ignore_eos": True}}
        slow = opened(door, wide)
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        assert until(lambda: door.counts()["held"] == 1)
        for _ in range(3):
            assert call(door, "/generate", {"text": "b", "sampling_params": {"max_new_tokens": 2}})[0] == 200
        assert until(lambda: not lab.is_busy, 60)  # its answer was computed to the end, though nothing reads it
        slow.close()
        assert until(lambda: is_idle(door))


def test_too_many_requests_are_refused_with_retry_after(lab: Lab) -> None:
    with serve(lab, limits=Limits(requests=6, per_client=4)) as door:
        lines = [opened(door, LONG) for _ in range(4)]
        assert until(lambda: door.counts()["held"] == 4)
        quick: Any = {"text": "a", "sampling_params": {"max_new_tokens": 1}}
        with httpx2.Client(base_url=door.url, headers={"x-api-key": door.token}) as client:
            refused = client.post("/generate", json=quick, headers={"user-agent": "crowd"})
            assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
            batch = quick | {"text": ["a", "b", "c"]}
            full = client.post("/generate", json=batch, headers={"user-agent": "other"})
            assert (full.status_code, full.headers["retry-after"]) == (503, "1")
            assert client.post("/generate", json=quick, headers={"user-agent": "other"}).status_code == 200
            never = client.post("/generate", json=quick | {"text": ["a"] * 5}, headers={"user-agent": "third"})
            assert never.status_code == 400
            assert client.post("/abort_request", json={"abort_all": True}).json() == {"aborted": 4}
        assert until(lambda: is_idle(door))
        for line in lines:
            line.close()


def test_a_request_is_aborted_by_its_name(door: Door) -> None:
    found: list[Any] = []
    body = LONG | {"stream": False, "rid": "mine"}
    worker = threading.Thread(target=lambda: found.append(call(door, "/generate", body)[1]))
    worker.start()
    assert until(lambda: door.lab.is_busy)
    assert call(door, "/abort_request", {"rid": "other"})[1] == {"aborted": 0}
    assert call(door, "/abort_request", {"rid": "mine"})[1] == {"aborted": 1}
    worker.join(20)
    assert found[0]["meta_info"]["finish_reason"]["type"] == "abort"
    assert until(lambda: is_idle(door))


def test_slow_bodies_and_silence_end(lab: Lab) -> None:
    with serve(lab, limits=Limits(body_s=0.2)) as door:
        line = opened(door, LONG, cut=260)
        line.settimeout(10)
        assert b" 408 " in line.recv(1000)
        line.close()
        assert until(lambda: is_idle(door))


def test_the_door_ends_with_its_lab_and_with_close(other_lab: Lab) -> None:
    first = serve(other_lab)
    line = opened(first, LONG | {"sampling_params": {"max_new_tokens": 200, "ignore_eos": True}})
    first.close()
    assert not first.is_open
    line.close()
    with pytest.raises(httpx2.ConnectError):
        call(first, "/health")
    second = serve(other_lab)
    other_lab.close()
    assert until(lambda: not second.is_open, 10)


def test_clients_are_runs_and_requests_are_lanes(lab: Lab) -> None:
    records = lab.records
    with serve(lab) as door:
        quick: Any = {"text": "The capital of France is", "sampling_params": {"max_new_tokens": 2, "temperature": 0}}
        for user in ("ann", "ann", "bob"):
            call(door, "/generate", quick | {"user": user})
        assert door.clients() == [("ann", 2, 0), ("bob", 1, 0)]
        (record,) = [record for record in lab.guests if record.title == "ann" and not record.vocab]
        labels = [entry.event.label for entry in record.entries if isinstance(entry.event, ForkOpened) and entry.event.run == record.run]
        assert labels == ["ann", "generate 1", "generate 2"]
        assert record.has_answers
        n_prompt = call(door, "/tokenize", {"prompt": quick["text"]})[1]["count"]
        found = why(record)
        assert (found.n_requests, found.n_prompt) == (2, 2 * n_prompt)
        assert found.n_cached >= n_prompt - 1  # the second found the first
    assert record.vocab
    assert record.ended.status == "ok"
    assert lab.records == records


def test_the_loop_serves_while_a_constraint_is_compiled(door: Door) -> None:
    async def both() -> list[str]:
        order: list[str] = []
        key = {"x-api-key": door.token}
        async with httpx2.AsyncClient(base_url=door.url, headers=key, timeout=60) as client:

            async def heavy() -> None:
                schema = {"type": "array", "items": {"enum": [f"word {i}" for i in range(3000)]}, "maxItems": 1}
                body = {"text": "a", "sampling_params": {"max_new_tokens": 4, "json_schema": json.dumps(schema)}}
                assert (await client.post("/generate", json=body)).status_code == 200
                order.append("heavy")

            async def light() -> None:
                await asyncio.sleep(0.05)
                assert (await client.get("/health")).status_code == 200
                order.append("light")

            await asyncio.gather(heavy(), light())
        return order

    assert asyncio.run(both()) == ["light", "heavy"]
