"""One sample's way through a grammar: what it may say next, what it must, and whether it is whole.

Knows nothing of the model. A guide is used by one thread at a time.
"""

from __future__ import annotations

from array import array
from collections import deque
from typing import TYPE_CHECKING

from ..contracts.errors import ConstraintFailed
from ..contracts.patterns.machine import Machine, Place
from .completion import LONGEST, Exits, Tokens, Track, forced

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer


class Guide:
    """`take` every token that is said; `fill` the masks of the draws that come next, each after one more guess."""

    def __init__(
        self,
        prototype: LLMatcher,
        tokenizer: LLTokenizer,
        n_vocab: int,
        jump: bool,
        exits: Exits,
        way: Tokens | None,
        machine: Machine | None = None,
        seam: str = "",
    ) -> None:
        self.way = way
        """from here to a whole text, of no more tokens than are left; None if the text was never sure to be whole"""
        self._seam = seam
        self._prototype = prototype
        self._tokenizer = tokenizer
        self._exits = exits
        self._track = None if machine is None or way is None else Track(machine)
        self._matcher = prototype.deep_copy()
        self._jump = jump
        self._n_words = -(-n_vocab // 32)
        self._masks: list[array[int]] = []
        self.n_allowed: list[int] = []
        """of the masks that were filled last"""

    @property
    def is_whole(self) -> bool:
        """Whether the text may end here."""
        return self._matcher.is_accepting()

    @property
    def is_over(self) -> bool:
        """Whether the text must end here."""
        return self._matcher.is_stopped()

    def is_text(self, text: str) -> bool:
        """Whether `text` is a whole one."""
        tokens = self._tokenizer.tokenize_str(self._seam + text)
        matcher = self._prototype.deep_copy()
        return matcher.try_consume_tokens(tokens) == len(tokens) and matcher.is_accepting()

    def take(self, token: int) -> None:
        """`token` was said."""
        if not self._matcher.consume_token(token) or (self.is_over and not self.is_whole):
            raise self._failure(self._matcher)
        if self._track is not None:
            self._track.take(self._bytes(token))

    def keeps_a_way(self, token: int, most: int) -> bool:
        """Whether the text can still be whole, at most `most` tokens after `token`, which is said next. If so `way` begins after it."""
        way = self.way
        if way is None:
            return True
        if way and way[0] == token:
            self.way = way[1:]
        elif len(way) > most or not self._exits.finishes(self._matcher, (token, *way)):
            matcher = self._matcher.deep_copy()
            found = self._exits.way(matcher, self._at(token), min(most, LONGEST), way) if matcher.consume_token(token) else None
            if found is None and most <= LONGEST:
                return False
            self.way = found
        return True

    def _at(self, token: int) -> tuple[Machine, Place, bytes] | None:
        """The position of the text after `token`."""
        return None if self._track is None else (self._track.machine, *self._track.after(self._bytes(token)))

    def _bytes(self, token: int) -> bytes:
        return b"" if token in self._exits.special_ids else self._exits.bytes_of(token)

    def forced(self) -> Tokens:
        """What has to be said now, without being drawn."""
        return forced(self._matcher) if self._jump else ()

    def within(self, guess: Tokens) -> Tokens:
        """As much of `guess` as may be said."""
        return guess[: self._matcher.validate_tokens(list(guess))]

    def masks(self, n: int) -> tuple[memoryview, ...]:
        """Where `fill` writes the first `n` masks: uint32 words, bit t % 32 of word t // 32 for
        token t.
        """
        while len(self._masks) < n:
            self._masks.append(array("I", bytes(4 * self._n_words)))
        return tuple(map(memoryview, self._masks[:n]))

    def fill(self, guess: Tokens) -> None:
        """Masks of the next draw and of that after each token of `guess`, as far as the guess may be said.

        What is forced after a guess is the only token allowed there, since without guesses it would not be drawn but said.
        """
        self.n_allowed.clear()
        matcher = self._matcher.deep_copy() if guess else self._matcher
        run: deque[int] = deque()
        for n, mask in enumerate(self._masks[: len(guess) + 1]):
            if n:
                token = guess[n - 1]
                if not self.n_allowed[-1] or not _has(self._masks[n - 1], token) or not matcher.consume_token(token):
                    return
                if run:
                    run.popleft()
                if not run and self._jump:
                    run.extend(forced(matcher))
                if matcher.is_stopped():
                    return
            self.n_allowed.append(self._fill(mask, matcher, run))
        if not self.n_allowed[0]:
            raise self._failure(self._matcher)

    def _fill(self, mask: array[int], matcher: LLMatcher, run: deque[int]) -> int:
        address, n_words = mask.buffer_info()
        if run:
            mask[:] = array("I", bytes(4 * n_words))
            mask[run[0] // 32] = 1 << run[0] % 32
            return 1
        try:
            matcher.unsafe_compute_mask_ptr(address, 4 * n_words)
        except ValueError:
            mask[:] = array("I", bytes(4 * n_words))
        return int.from_bytes(mask.tobytes(), "little").bit_count()

    @staticmethod
    def _failure(matcher: LLMatcher) -> ConstraintFailed:
        said = matcher.get_error().partition("\n")[0]
        return ConstraintFailed(f"the constraint cannot be followed further: {said or 'it leaves no token to draw'}")


def _has(mask: array[int], token: int) -> bool:
    return bool(mask[token // 32] >> token % 32 & 1)
