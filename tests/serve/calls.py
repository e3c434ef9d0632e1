"""Plain HTTP to a door, for what no SDK sends."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import httpx2

from sgl_lab.serve import Door


def call(door: Door, path: str, body: Any = None, *, token: str | None = None, **headers: str) -> tuple[int, Any]:
    """Status and answer: JSON as a value, anything else as text. With a body it is a POST."""
    given = {"authorization": f"Bearer {door.token if token is None else token}"} | headers
    with httpx2.Client(base_url=door.url, headers=given, timeout=60) as client:
        answer = client.get(path) if body is None else client.post(path, json=body)
    is_json = answer.headers.get("content-type", "").startswith("application/json")
    return answer.status_code, answer.json() if is_json else answer.text


def events(text: str) -> list[Any]:
    """The data of a stream of server-sent events, `[DONE]` left out."""
    lines = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")]
    return [json.loads(line) for line in lines if line != "[DONE]"]


def until(ready: Callable[[], bool], seconds: float = 20.0) -> bool:
    """Whether `ready()` becomes true."""
    end = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


def is_idle(door: Door) -> bool:
    """Whether nothing is held and nothing runs or waits in the engine."""
    return not door.counts()["held"] and not door.lab.is_busy
