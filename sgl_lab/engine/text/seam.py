"""Heals a prompt that ends inside a token: its last tokens are generated again, with what follows.

The model was trained on texts that were encoded as a whole. After `name: ` it has seen ` John`, one
token, and hardly ever a lone space; after `Fra`, ` France`. The prompt's last tokens are therefore
removed. The model then samples only tokens that spell the same bytes, to their end or beyond, in
the way in which texts are encoded: `And` is never `A` followed by `nd`. Knows bytes and masks, but
no requests or models.
"""

from __future__ import annotations

import threading
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

MOST = 16
"""tokens at the end of a prompt that are looked at"""
KEPT_MASKS = 64

Tokens = tuple[int, ...]


class Spelling(Protocol):
    """The required interface of a tokenizer."""

    @property
    def n_vocab(self) -> int: ...

    @property
    def eos_ids(self) -> frozenset[int]: ...

    @property
    def special_ids(self) -> frozenset[int]: ...

    def token_bytes(self, token: int) -> bytes: ...

    def encode(self, text: str) -> Tokens: ...


class Spellings:
    """The vocabulary in the order of its bytes. May be used from any thread."""

    def __init__(self, spelling: Spelling) -> None:
        self._spelling = spelling
        self._lock = threading.Lock()
        self._sorted: tuple[list[bytes], list[int]] | None = None
        self._masks: dict[tuple[bytes, frozenset[int]], tuple[array[int], int]] = {}

    def bytes_of(self, tokens: Sequence[int]) -> bytes:
        return b"".join(map(self._spelling.token_bytes, tokens))

    def n_open(self, tokens: Sequence[int]) -> int:
        """How many of the last tokens may have to be replaced once more text follows, so that at
        least one token remains before them.

        These are tokens that some token of the vocabulary continues; for the very last one, also
        tokens that continue only its end.
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

    def ways(self, end: Tokens) -> tuple[Tokens, ...]:
        """The encoding of a prompt's end in texts: as it is; after white space, as it is before a
        word.
        """
        text = self.bytes_of(end).decode()
        return (end, self._spelling.encode(text + "a")) if text[-1:].isspace() else (end,)

    def mask(self, rest: bytes, inside: frozenset[int]) -> tuple[array[int], int]:
        """A mask in the format of `Sampling.masks`, and its number of tokens: those that spell
        `rest` to its end or beyond, and those in `inside`.
        """
        key = rest, inside
        with self._lock:
            known = self._masks.get(key)
        if known is None:
            mask, n = array("I", bytes(4 * -(-self._spelling.n_vocab // 32))), 0
            for token in {*inside, *self._beyond(rest)}:
                mask[token // 32] |= 1 << token % 32
                n += 1
            known = mask, n
            with self._lock:
                if len(self._masks) >= KEPT_MASKS:
                    self._masks.pop(next(iter(self._masks)))
                self._masks[key] = known
        return known

    def rest_after(self, rest: bytes, token: int) -> bytes | None:
        """The rest of `rest` after `token`; None if the token spells something else."""
        data = self._spelling.token_bytes(token)
        if not data or token in self._spelling.special_ids:
            return None
        if rest.startswith(data):
            return rest[len(data) :]
        return b"" if data.startswith(rest) and not _is_inside_character(rest) else None

    def _beyond(self, rest: bytes) -> Iterator[int]:
        texts, tokens = self._in_order()
        fits = rest.__eq__ if _is_inside_character(rest) else lambda text: text.startswith(rest)
        for index in range(bisect_left(texts, rest), len(texts)):
            if not fits(texts[index]):
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


class _Left(NamedTuple):
    """The part of a prompt's end that has not been generated again."""

    rest: bytes
    ways: tuple[Tokens, ...]
    """the tokens that may follow, one after the other, until all of it is generated"""

    @property
    def inside(self) -> frozenset[int]:
        """Of the next tokens, those that leave some of it."""
        return frozenset(way[0] for way in self.ways if way)


class Seam:
    """The tokens that one sample may generate until it has generated the `end` of the prompt again;
    then any. A `request.Matcher`.
    """

    def __init__(self, spellings: Spellings, end: Tokens, n_vocab: int) -> None:
        self.n_allowed: list[int | None] = []
        """allowed tokens of the masks that were filled last; None where all are allowed"""
        self._spellings = spellings
        self._left = _Left(spellings.bytes_of(end), spellings.ways(end))
        self._n_vocab = n_vocab
        self._masks: list[array[int]] = []

    @property
    def rest(self) -> bytes:
        """The text of the prompt that no token has generated again."""
        return self._left.rest

    def take(self, token: int) -> None:
        self._left = self._after(self._left, token) or _Left(b"", ())

    def _after(self, left: _Left, token: int) -> _Left | None:
        """None if the token spells something else."""
        rest = self._spellings.rest_after(left.rest, token)
        return None if rest is None else _Left(rest, tuple(way[1:] for way in left.ways if way[:1] == (token,)))

    def within(self, draft: Tokens) -> Tokens:
        left = self._left
        for n, token in enumerate(draft):
            if not left.rest:
                break
            after = self._after(left, token)
            if after is None or (after.rest and token not in left.inside):
                return draft[:n]
            left = after
        return draft

    def n_inside(self, draft: Tokens) -> int:
        rest: bytes | None = self.rest
        for n, token in enumerate(draft):
            data = self._spellings.bytes_of((token,))
            if not rest or not rest.startswith(data):
                return n
            rest = rest[len(data) :]
        return len(draft)

    def masks(self, n: int) -> tuple[memoryview, ...]:
        while len(self._masks) < n:
            self._masks.append(array("I", bytes(4 * -(-self._n_vocab // 32))))
        return tuple(map(memoryview, self._masks[:n]))

    def fill(self, draft: Tokens) -> None:
        self.n_allowed.clear()
        left: _Left | None = self._left
        for n, mask in enumerate(self._masks[: len(draft) + 1]):
            if n and left is not None and left.rest:
                left = self._after(left, draft[n - 1])
            if left is None:
                return
            if left.rest:
                mask[:], n_allowed = self._spellings.mask(left.rest, left.inside)
                self.n_allowed.append(n_allowed)
            else:
                mask[:] = array("I", [0xFFFFFFFF]) * len(mask)
                self.n_allowed.append(None)


def _is_inside_character(rest: bytes) -> bool:
    """Whether it begins in the middle of a character: a token that goes on beyond it would put half
    a character into each of two texts.
    """
    return b"\x80" <= rest[:1] < b"\xc0"


def is_text(data: bytes) -> bool:
    """Whether no character is cut in two at either end."""
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True
