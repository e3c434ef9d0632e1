"""Which beginnings of a conversation other requests of the program begin with too.

The language knows: a fork's children, the items of a batch, and a strand that asks again and again.
Some servers cache only prefixes that a request marks: `ChatJob.shared` says where.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

from ..contracts.prefixes import n_common
from .history import Turn

Place = tuple[int, int]
"""so many turns, the last of them with so many pieces"""


def place_of(turns: Sequence[Turn]) -> Place:
    """The end of the conversation so far."""
    return len(turns), len(turns[-1].parts) if turns else 0


class Siblings:
    """The items of a batch. What those before began with alike, the next is expected to begin with;
    of the first, its system turns.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._common: list[tuple[Place, object]] | None = None
        """the pieces with which all items began so far, and where each ends"""

    def place(self, turns: Sequence[Turn]) -> Place | None:
        """Where an item that begins with these turns leaves the others; None if they share nothing."""
        begun: list[tuple[Place, object]] = [
            ((n_turns, n_pieces), (turn.role, piece.text, piece.image))
            for n_turns, turn in enumerate(turns, 1)
            for n_pieces, piece in enumerate(turn.parts, 1)
        ]
        with self._lock:
            if self._common is None:
                self._common = begun
                n_system = next((n for n, turn in enumerate(turns) if turn.role != "system"), len(turns))
                return place_of(turns[:n_system]) if n_system else None
            self._common = self._common[: n_common(self._common, begun)]
            return self._common[-1][0] if self._common else None
