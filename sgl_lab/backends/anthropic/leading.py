"""Of requests that start together with one marked prefix, the first goes ahead.

The API can read a prefix from its cache once the response that writes it has begun. Children of a fork that
start together would each write the same prefix, which costs 1.25 times its price; one that waits for the
first byte of another reads it for a tenth.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from ..remote import Call
from .request import Arguments, Turn

KEPT_S = 290.0
"""how long a prefix counts as cached after its last use: the API keeps it for five minutes"""
CHECK_S = 0.05
MAX_PREFIXES = 4_096

T = TypeVar("T")


class Leaders:
    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._leading: dict[bytes, threading.Event] = {}
        self._cached: dict[bytes, float] = {}
        """when each was last used, the oldest first"""

    @contextmanager
    def turn(self, prefixes: tuple[bytes, ...], call: Call) -> Iterator[Callable[[], None]]:
        """Waits while a request that writes the longest of these prefixes has no answer yet. What
        is yielded is to be called when this request's own answer begins. Raises what ends the call.

        prefixes  one within the other, the longest first
        """
        led = threading.Event()
        while (mine := self._mine(prefixes, led)) is None:
            call.check()
            self._wait(prefixes, call)

        def began() -> None:
            with self._lock:
                for prefix in prefixes:
                    self._cached.pop(prefix, None)
                    self._cached[prefix] = self._clock()
                while len(self._cached) > MAX_PREFIXES:
                    del self._cached[next(iter(self._cached))]
            self._leave(mine, led)

        try:
            yield began
        finally:
            self._leave(mine, led)

    def _mine(self, prefixes: tuple[bytes, ...], led: threading.Event) -> list[bytes] | None:
        """Those that this request is the first to write; None if it has to wait."""
        oldest = self._clock() - KEPT_S
        mine = []
        with self._lock:
            for prefix in prefixes:
                if self._cached.get(prefix, oldest) > oldest:
                    break
                if prefix in self._leading:
                    return None
                mine.append(prefix)
            self._leading.update(dict.fromkeys(mine, led))
        return mine

    def _wait(self, prefixes: tuple[bytes, ...], call: Call) -> None:
        with self._lock:
            leader = next((self._leading[prefix] for prefix in prefixes if prefix in self._leading), None)
        while leader is not None and not leader.wait(CHECK_S):
            call.check()

    def _leave(self, mine: list[bytes], led: threading.Event) -> None:
        with self._lock:
            for prefix in mine:
                if self._leading.get(prefix) is led:
                    del self._leading[prefix]
        led.set()


def prefixes_of(request: Arguments) -> tuple[bytes, ...]:
    """Digests of what stands before each cache mark of a request, the longest first."""
    digest = hashlib.blake2b(digest_size=16)
    digest.update(json.dumps([request["model"], request.get("tools")]).encode())
    found: list[bytes] = []
    system: Turn = {"role": "system", "content": request.get("system", [])}
    for turn in (system, *request["messages"]):
        for block in turn["content"]:
            bare = {name: value for name, value in block.items() if name != "cache_control"}
            digest.update(json.dumps([turn["role"], bare]).encode())
            if "cache_control" in block:
                found.append(digest.copy().digest())
    return tuple(reversed(found))


def noticed(events: Iterable[T], began: Callable[[], None]) -> Iterator[T]:
    """The events; `began` is called with the first."""
    is_first = True
    for event in events:
        if is_first:
            is_first = False
            began()
        yield event
