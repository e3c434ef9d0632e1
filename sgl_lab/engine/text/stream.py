"""Tokens to text as they arrive: complete characters only, with stops found at any position.

Generation ends at the first character that completes a stop, however the text is split into tokens.
Of stops completed by the same character the longest counts. A text without a stop ends with U+FFFD
for an incomplete character, or before the token that begins it. Special tokens may be hidden: they
are tokens of the text but not part of its characters, and a stop may spell them.
"""

from __future__ import annotations

import codecs
from bisect import bisect_right
from collections.abc import Sequence
from functools import lru_cache

from ...contracts.patterns.watching import Watch

_utf8 = codecs.getincrementaldecoder("utf-8")
_BROKEN = "\ufffd"
"""for bytes that are no character"""


class TextStream:
    """The text of one sample. `push` a token's bytes at a time, read `delta` in between, `close` at
    the end.
    """

    def __init__(self, stop: Sequence[str] = (), stop_regex: Sequence[str] = (), *, whole: bool = False) -> None:
        self._stops = tuple(stop)
        self._longest = max((len(s) for s in stop), default=0)
        self._begun = [_Begun(s) for s in stop if len(s) > 1]
        self._n_read = 0
        """characters in which beginnings of stops were looked for"""
        self._watches = [Watch(pattern) for pattern in stop_regex]
        self._decoder = _utf8("replace")
        self._decoded = ""
        self._is_whole = whole
        """it ends with a token after which no character is half there"""
        self.n_tokens = 0
        """pushed so far"""
        self._borders: list[tuple[int, int]] = [(0, 0)]
        """(characters, tokens) wherever a token ends and no character is half there"""
        self._broken = (0, 0)
        """the last place at which the tokens end in half a character that the next one broke off"""
        self._hidden: list[tuple[int, int]] = []
        """positions in `_decoded` of special tokens that are not characters of the text"""
        self._cut: int | None = None
        self.is_closed = False
        self._n_delivered = 0
        self.matched: str | None = None
        """the stop string or pattern that ended the text"""

    @property
    def text(self) -> str:
        """All whole characters so far, without the stop."""
        return self._seen(0, self._end)

    @property
    def _end(self) -> int:
        if self._cut is not None:
            return self._cut
        return max(self._borders[-1], self._broken)[0] if self._is_whole else len(self._decoded)

    @property
    def n_ids(self) -> int:
        """The number of tokens that belong to `text` completely. A token cut by the stop does not,
        nor does one that ends inside a character: what followed could still complete it.
        """
        return self._n_before(self._end)

    @property
    def kept(self) -> str:
        """The end of `text` that no complete token spells: the part of a token before the stop, and
        U+FFFD for half a character before it.
        """
        return self._seen(self._border(self._end)[0], self._end)

    @property
    def n_begun(self) -> int:
        """How many tokens at the end contain only an incomplete character, and the text in the same
        token before it.
        """
        return 0 if self._cut is not None else self.n_tokens - max(self._borders[-1], self._broken)[1]

    def push(self, data: bytes, *, may_stop: bool = True, is_hidden: bool = False) -> bool:
        """Append a token's bytes. Returns True when a stop is complete; nothing may be pushed after
        that.

        RequestFailed if a pattern takes too many steps.
        """
        n_before = len(self._decoded)
        begun = self._decoder.getstate()[0]
        piece = self._decoder.decode(data)
        if begun and not (begun + data).startswith(_BROKEN.encode()):
            alone = begun.decode(errors="replace")  # two characters for half of a surrogate
            if piece.startswith(alone):
                self._broken = n_before + len(alone), self.n_tokens
        if is_hidden and data:
            self._hidden.append((n_before + len(piece) - len(data.decode(errors="replace")), n_before + len(piece)))
        self._append(piece, may_stop)
        self.n_tokens += 1
        if not self._decoder.getstate()[0]:
            self._borders.append((len(self._decoded), self.n_tokens))
        return self._cut is not None

    def close(self) -> None:
        """End the stream. Bytes of an incomplete character become U+FFFD or are dropped. The text
        is then final.
        """
        if self._cut is None and not self._is_whole and self._decoder.getstate()[0]:
            self._append(self._decoder.decode(b"", final=True), may_stop=True)
            self._borders.append((len(self._decoded), self.n_tokens))
        self.is_closed = True

    def delta(self) -> tuple[str, int]:
        """The text that can newly be shown, and the total number of tokens that can be shown."""
        end = self._end
        safe = end if self.is_closed else min(end, len(self._decoded) - self._n_held())
        new = self._seen(self._n_delivered, safe)
        self._n_delivered = max(self._n_delivered, safe)
        return new, min(self._n_before(self._n_delivered), self.n_ids)

    def _border(self, n_chars: int) -> tuple[int, int]:
        """The last one of no more characters."""
        return self._borders[bisect_right(self._borders, n_chars, key=lambda border: border[0]) - 1]

    def _n_before(self, n_chars: int) -> int:
        return self._border(n_chars)[1]

    def _seen(self, start: int, end: int) -> str:
        """The text from `start` to `end`, hidden tokens left out."""
        parts = []
        for first, last in self._hidden:
            if start < last and first < end:
                parts.append(self._decoded[start:first])
                start = last
        return "".join((*parts, self._decoded[start:end]))

    def _splits(self, at: int) -> bool:
        """Whether a hidden token begins before `at` and ends after it."""
        return any(first < at < last for first, last in self._hidden)

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
            found = [(start, stop) for start, stop in found if not (self._splits(start) or self._splits(end))] if self._hidden else found
            if found:
                self._cut, self.matched = min(found)
                return

    def _n_held(self) -> int:
        """Length of the longest end of the text that a stop may begin with."""
        for begun in self._begun if self._n_read < len(self._decoded) else ():
            begun.read(self._decoded, self._n_read)
        self._n_read = len(self._decoded)
        return max((begun.n for begun in self._begun), default=0)


class _Begun:
    """The length of the longest proper prefix of a stop that ends a text. The cost per character
    does not depend on the stop's length.
    """

    def __init__(self, stop: str) -> None:
        self.n = 0
        self._stop = stop
        self._shorter = _shorter(stop)

    def read(self, text: str, start: int) -> None:
        """The text has grown; it was read up to `start`."""
        stop, shorter, n = self._stop, self._shorter, self.n
        at = start if n else text.find(stop[0], start)
        for character in text[at:] if at >= 0 else "":
            while n and stop[n] != character:
                n = shorter[n]
            n += stop[n] == character
            if n == len(stop):
                n = shorter[n]
        self.n = n


@lru_cache(64)
def _shorter(stop: str) -> tuple[int, ...]:
    """For each prefix of `stop`, by length: the length of its longest proper suffix that is also a
    prefix of `stop`.
    """
    found, n = [0, 0], 0
    for character in stop[1:]:
        while n and stop[n] != character:
            n = found[n]
        n += stop[n] == character
        found.append(n)
    return tuple(found)
