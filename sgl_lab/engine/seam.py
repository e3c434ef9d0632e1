"""Where a prompt ends inside what would be one token: its last tokens are said again, with what follows.

The model was trained on texts that were encoded whole. After `name: ` it has seen ` John`, one token, and hardly ever a
lone space; after `Fra`, ` France`. So the prompt's last tokens are taken off and the model draws among those tokens that spell
the same bytes, to their end or beyond. Knows bytes and masks; nothing of requests or models.
"""

from __future__ import annotations

import threading
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from typing import Protocol

MOST = 16
"""tokens at the end of a prompt that are looked at"""
KEPT_MASKS = 64

Tokens = tuple[int, ...]


class Spelling(Protocol):
    """What is needed of a tokenizer."""

    @property
    def n_vocab(self) -> int: ...

    @property
    def eos_ids(self) -> frozenset[int]: ...

    @property
    def special_ids(self) -> frozenset[int]: ...

    def token_bytes(self, token: int) -> bytes: ...


class Spellings:
    """The vocabulary in the order of its bytes. May be used from any thread."""

    def __init__(self, spelling: Spelling) -> None:
        self._spelling = spelling
        self._lock = threading.Lock()
        self._sorted: tuple[list[bytes], list[int]] | None = None
        self._masks: dict[bytes, tuple[array[int], int]] = {}

    def bytes_of(self, tokens: Sequence[int]) -> bytes:
        return b"".join(map(self._spelling.token_bytes, tokens))

    def n_open(self, tokens: Sequence[int]) -> int:
        """How many of the last tokens may have to be others once more text follows, so that at least one token stays before them.

        Those after which some token of the vocabulary goes on; of the very last one, also where only its end does.
        """
        n, found = min(MOST, len(tokens) - 1), 0
        if n <= 0 or tokens[-1] in self._spelling.special_ids:
            return 0
        tail = tokens[len(tokens) - n :]
        for i in range(1, n + 1):
            if tail[-i] in self._spelling.special_ids:
                break
            data = self.bytes_of(tail[-i:])
            goes_on = self._goes_on(data) or (i == 1 and any(self._goes_on(data[at:]) for at in range(1, len(data))))
            if goes_on and is_text(data):
                found = i
        return found

    def mask(self, rest: bytes) -> tuple[array[int], int]:
        """Tokens that spell `rest` or a beginning of it, or more, as `Sampling.masks` has them; and how many they are."""
        with self._lock:
            known = self._masks.get(rest)
        if known is None:
            mask, n = array("I", bytes(4 * -(-self._spelling.n_vocab // 32))), 0
            for token in self._along(rest):
                mask[token // 32] |= 1 << token % 32
                n += 1
            known = mask, n
            with self._lock:
                if len(self._masks) >= KEPT_MASKS:
                    self._masks.pop(next(iter(self._masks)))
                self._masks[rest] = known
        return known

    def rest_after(self, rest: bytes, token: int) -> bytes | None:
        """What is left of `rest` after `token`; None if the token says something else."""
        data = self._spelling.token_bytes(token)
        if not data or token in self._spelling.special_ids:
            return None
        if rest.startswith(data):
            return rest[len(data) :]
        return b"" if data.startswith(rest) else None

    def _along(self, rest: bytes) -> Iterator[int]:
        texts, tokens = self._in_order()
        for n in range(1, len(rest)):
            yield from tokens[bisect_left(texts, rest[:n]) : bisect_right(texts, rest[:n])]
        first = bisect_left(texts, rest)
        for index in range(first, len(texts)):
            if not texts[index].startswith(rest):
                break
            yield tokens[index]

    def _goes_on(self, data: bytes) -> bool:
        texts, _ = self._in_order()
        after = bisect_right(texts, data)
        return after < len(texts) and texts[after].startswith(data)

    def _in_order(self) -> tuple[list[bytes], list[int]]:
        with self._lock:
            if self._sorted is None:
                spelling = self._spelling
                hidden = spelling.special_ids | spelling.eos_ids
                texts = sorted((spelling.token_bytes(token), token) for token in range(spelling.n_vocab) if token not in hidden)
                texts = texts[bisect_right(texts, (b"", spelling.n_vocab)) :]
                self._sorted = [data for data, _ in texts], [token for _, token in texts]
            return self._sorted


class Seam:
    """What one sample may say until it has spelled `rest`, then anything. A `plan.request.Guide`."""

    def __init__(self, spellings: Spellings, rest: bytes, n_vocab: int) -> None:
        self.rest = rest
        """what the prompt said and no token has said again"""
        self.n_allowed: list[int | None] = []
        """of the masks that were filled last; None where anything may be said"""
        self._spellings = spellings
        self._n_vocab = n_vocab
        self._masks: list[array[int]] = []

    def take(self, token: int) -> None:
        self.rest = self._spellings.rest_after(self.rest, token) or b""

    def within(self, guess: Tokens) -> Tokens:
        rest: bytes | None = self.rest
        for n, token in enumerate(guess):
            if not rest:
                break
            rest = self._spellings.rest_after(rest, token)
            if rest is None:
                return guess[:n]
        return guess

    def n_inside(self, guess: Tokens) -> int:
        rest: bytes | None = self.rest
        for n, token in enumerate(guess):
            data = self._spellings.bytes_of((token,))
            if not rest or not rest.startswith(data):
                return n
            rest = rest[len(data) :]
        return len(guess)

    def masks(self, n: int) -> tuple[memoryview, ...]:
        while len(self._masks) < n:
            self._masks.append(array("I", bytes(4 * -(-self._n_vocab // 32))))
        return tuple(map(memoryview, self._masks[:n]))

    def fill(self, guess: Tokens) -> None:
        self.n_allowed.clear()
        rest: bytes | None = self.rest
        for n, mask in enumerate(self._masks[: len(guess) + 1]):
            if n and rest:
                rest = self._spellings.rest_after(rest, guess[n - 1])
            if rest is None:
                return
            if rest:
                mask[:], n_allowed = self._spellings.mask(rest)
                self.n_allowed.append(n_allowed)
            else:
                mask[:] = array("I", [0xFFFFFFFF]) * len(mask)
                self.n_allowed.append(None)


def is_text(data: bytes) -> bool:
    """Whether no character is cut in two at either end."""
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True
