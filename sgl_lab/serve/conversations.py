"""The last responses of each client: a request goes on from one of them by `previous_response_id`."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from ..contracts.errors import BadArgument
from ..contracts.port import Message

MAX_RESPONSES = 64
"""of one client"""
MAX_CHARS = 32 << 20
"""of all conversations together; a turn counts in each response that follows it"""


class Conversations:
    """Used on several threads. The oldest are forgotten first."""

    def __init__(self) -> None:
        self._kept: dict[str, tuple[str, tuple[Message, ...], int]] = {}
        """by the response's id: client, turns up to its answer, characters"""
        self._n_chars = 0
        self._lock = threading.Lock()

    def turns(self, id: str) -> tuple[Message, ...]:
        """BadArgument for a response that is not kept."""
        with self._lock:
            kept = self._kept.get(id)
        if kept is None:
            hint = f"send the whole conversation as input: the door keeps the last {MAX_RESPONSES} responses of a client"
            raise BadArgument(f"there is no response {id!r:.60} here", hint=hint)
        return kept[1]

    def keep(self, client: str, id: str, turns: Sequence[Message]) -> None:
        n = sum(len(turn.content) for turn in turns)
        with self._lock:
            self._kept[id] = client, tuple(turns), n
            self._n_chars += n
            own = [each for each, kept in self._kept.items() if kept[0] == client]
            for each in own[:-MAX_RESPONSES]:
                self._forget(each)
            while self._n_chars > MAX_CHARS:
                self._forget(next(iter(self._kept)))

    def _forget(self, id: str) -> None:
        self._n_chars -= self._kept.pop(id)[2]
