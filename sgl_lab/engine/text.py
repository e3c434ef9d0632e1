"""Tokens to text as they come: whole characters only, stops found wherever they fall.

Generation ends at the first character that completes a stop, whichever way the text was cut into
tokens; of stops completed by the same character the longest counts.
"""

from __future__ import annotations

import codecs
from bisect import bisect_right
from collections.abc import Sequence

from ..contracts.patterns.watching import Watch

_utf8 = codecs.getincrementaldecoder("utf-8")


class TextStream:
    """The text of one sample. `push` a token's bytes at a time, read `delta` in between, `close` at the end."""

    def __init__(self, stop: Sequence[str] = (), stop_regex: Sequence[str] = ()) -> None:
        self._stops = tuple(stop)
        self._longest = max((len(s) for s in stop), default=0)
        self._watches = [Watch(pattern) for pattern in stop_regex]
        self._decoder = _utf8("replace")
        self._decoded = ""
        self._ends: list[int] = []
        """after each token: characters of which it or an earlier token holds a byte"""
        self._cut: int | None = None
        self._is_closed = False
        self._n_told = 0
        self.matched: str | None = None
        """the stop string or pattern that ended the text"""

    @property
    def text(self) -> str:
        """All whole characters so far, without the stop."""
        return self._decoded[: self._cut]

    @property
    def n_ids(self) -> int:
        """How many tokens belong to `text`: those that end before the cut. One that the cut falls into does not."""
        return len(self._ends) if self._cut is None else bisect_right(self._ends, self._cut)

    def push(self, data: bytes, *, may_stop: bool = True) -> bool:
        """Append a token's bytes; True when a stop is complete, and nothing may be pushed after that.

        RequestFailed where a pattern takes too many steps.
        """
        self._append(self._decoder.decode(data), may_stop)
        has_partial = bool(self._decoder.getstate()[0])
        self._ends.append(len(self._decoded) + has_partial)
        return self._cut is not None

    def close(self) -> None:
        """No more tokens; bytes that never became a character become U+FFFD. The text is then final."""
        if self._cut is None:
            self._append(self._decoder.decode(b"", final=True), may_stop=True)
        self._is_closed = True

    def delta(self) -> tuple[str, int]:
        """What may be shown now and was not before, and how many tokens may be shown in all."""
        safe = len(self.text) - (0 if self._is_closed else self._n_held())
        new = self.text[self._n_told : safe]
        self._n_told = max(self._n_told, safe)
        return new, bisect_right(self._ends, self._n_told, hi=self.n_ids)

    def _append(self, piece: str, may_stop: bool) -> None:
        n_before = len(self._decoded)
        self._decoded += piece
        if not may_stop:  # no pattern may begin before min_tokens
            for watch in self._watches:
                for at in range(n_before, len(self._decoded)):
                    watch.pass_over(self._decoded, at)
        elif piece and (self._watches or any(stop in self._decoded[max(0, n_before - self._longest + 1) :] for stop in self._stops)):
            self._find(n_before)

    def _find(self, n_before: int) -> None:
        """Set the cut at the first stop that is completed after `n_before` characters."""
        text = self._decoded
        for end in range(n_before + 1, len(text) + 1):
            found = [(end - len(stop), stop) for stop in self._stops if text.endswith(stop, 0, end)]
            found += [(start, w.source) for w in self._watches if (start := w.look(text, end - 1)) is not None]
            if found:
                self._cut, self.matched = min(found)
                return

    def _n_held(self) -> int:
        """Length of the longest end of the text that a stop may begin with."""
        text = self._decoded
        for n in range(min(self._longest - 1, len(text)), 0, -1):
            if any(stop.startswith(text[-n:]) for stop in self._stops if len(stop) > n):
                return n
        return 0
