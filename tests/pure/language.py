"""What the language's tests share: a watchdog, and a fold of events into streams of tokens."""

from __future__ import annotations

import faulthandler
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

from sgl_lab.contracts.events import Event, ForkOpened, StreamExtended, from_json, to_json


@pytest.fixture(autouse=True)
def watchdog() -> Iterator[None]:
    """A program that hangs ends the test run, with every thread's stack, instead of hanging it."""
    faulthandler.dump_traceback_later(300, exit=True)
    yield
    faulthandler.cancel_dump_traceback_later()


def within(seconds: float, call: Callable[[], object]) -> object:
    """The result of `call`, or what it raised; AssertionError if it takes longer."""
    outcome: list[object] = []

    def work() -> None:
        try:
            outcome.append(call())
        except BaseException as error:
            outcome.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(seconds)
    assert outcome, f"not done within {seconds} s"
    return outcome[0]


def line_with(mark: str, file: str) -> int:
    """The number of the one line that contains `mark`."""
    (line,) = (number for number, text in enumerate(Path(file).read_text().splitlines(), 1) if mark in text)
    return line


def streams_of(events: Iterable[Event]) -> dict[int, list[int]]:
    """Each stream's tokens, from the events alone, each passed through JSON first."""
    streams: dict[int, list[int]] = {}
    for event in (from_json(to_json(event)) for event in events):
        if isinstance(event, ForkOpened):
            streams[event.fork] = list(streams[event.parent]) if event.parent is not None else []
        elif isinstance(event, StreamExtended):
            assert event.start <= len(streams[event.fork])
            streams[event.fork][event.start :] = event.tokens
    return streams
