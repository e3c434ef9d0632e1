"""The matcher of one sample's text: which tokens may come next, which must, and whether the text is whole.

Knows nothing of the model. A matcher is used by one thread at a time.
"""

from __future__ import annotations

from array import array
from collections import deque
from typing import TYPE_CHECKING

from ..contracts.errors import ConstraintFailed
from ..contracts.patterns.machine import Machine, StateSet
from .completion import LONGEST, Completions, Tokens, Track, forced

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer


class Matcher:
    """Call `take` with every token of the text, and `fill` for the masks of the next draws, each
    after one more draft.
    """

    def __init__(
        self,
        prototype: LLMatcher,
        tokenizer: LLTokenizer,
        n_vocab: int,
        jump: bool,
        completions: Completions,
        completion: Tokens | None,
        machine: Machine | None = None,
        seam: str = "",
    ) -> None:
        self.completion = completion
        """path: tokens from here to a whole text, no more than are left; None if the text was never sure to be whole"""
        self._seam = seam
        self._prototype = prototype
        self._tokenizer = tokenizer
        self._completions = completions
        self._track = None if machine is None or completion is None else Track(machine)
        self._ll_matcher = prototype.deep_copy()
        self._jump = jump
        self._n_words = -(-n_vocab // 32)
        self._masks: list[array[int]] = []
        self.n_allowed: list[int] = []
        """of the masks that were filled last"""

    @property
    def is_whole(self) -> bool:
        """Whether the text may end here."""
        return self._ll_matcher.is_accepting()

    @property
    def is_over(self) -> bool:
        """Whether the text must end here."""
        return self._ll_matcher.is_stopped()

    def is_text(self, text: str) -> bool:
        """Whether `text` is a whole one."""
        tokens = self._tokenizer.tokenize_str(self._seam + text)
        ll_matcher = self._prototype.deep_copy()
        return ll_matcher.try_consume_tokens(tokens) == len(tokens) and ll_matcher.is_accepting()

    def take(self, token: int) -> None:
        """`token` comes next."""
        if not self._ll_matcher.consume_token(token) or (self.is_over and not self.is_whole):
            raise self._failure(self._ll_matcher)
        if self._track is not None:
            self._track.take(self._bytes(token))

    def keeps_completion(self, token: int, most: int) -> bool:
        """Whether the text can still be complete within `most` tokens after `token`, the next one.
        If so, `completion` begins after it.
        """
        path = self.completion
        if path is None:
            return True
        if path and path[0] == token:
            self.completion = path[1:]
        elif len(path) > most or not self._completions.finishes(self._ll_matcher, (token, *path)):
            ll_matcher = self._ll_matcher.deep_copy()
            is_taken = ll_matcher.consume_token(token)
            found = self._completions.path(ll_matcher, self._at(token), min(most, LONGEST), path) if is_taken else None
            if found is None and most <= LONGEST:
                return False
            self.completion = found
        return True

    def _at(self, token: int) -> tuple[Machine, StateSet, bytes] | None:
        """The position of the text after `token`."""
        return None if self._track is None else (self._track.machine, *self._track.after(self._bytes(token)))

    def _bytes(self, token: int) -> bytes:
        return b"" if token in self._completions.special_ids else self._completions.bytes_of(token)

    def forced(self) -> Tokens:
        """Tokens that must come now, without being drawn."""
        return forced(self._ll_matcher) if self._jump else ()

    def within(self, draft: Tokens) -> Tokens:
        """As much of `draft` as may come next."""
        return draft[: self._ll_matcher.validate_tokens(list(draft))]

    def masks(self, n: int) -> tuple[memoryview, ...]:
        """Where `fill` writes the first `n` masks: uint32 words, bit t % 32 of word t // 32 for
        token t.
        """
        while len(self._masks) < n:
            self._masks.append(array("I", bytes(4 * self._n_words)))
        return tuple(map(memoryview, self._masks[:n]))

    def fill(self, draft: Tokens) -> None:
        """Masks of the next draw and of that after each token of `draft`, as far as the draft is
        allowed.

        A token that is forced after a draft is the only one allowed there, because without drafts
        it would not be sampled.
        """
        self.n_allowed.clear()
        ll_matcher = self._ll_matcher.deep_copy() if draft else self._ll_matcher
        run: deque[int] = deque()
        for n, mask in enumerate(self._masks[: len(draft) + 1]):
            if n:
                token = draft[n - 1]
                if not self.n_allowed[-1] or not _has(self._masks[n - 1], token) or not ll_matcher.consume_token(token):
                    return
                if run:
                    run.popleft()
                if not run and self._jump:
                    run.extend(forced(ll_matcher))
                if ll_matcher.is_stopped():
                    return
            self.n_allowed.append(self._fill(mask, ll_matcher, run))
        if not self.n_allowed[0]:
            raise self._failure(self._ll_matcher)

    def _fill(self, mask: array[int], ll_matcher: LLMatcher, run: deque[int]) -> int:
        address, n_words = mask.buffer_info()
        if run:
            mask[:] = array("I", bytes(4 * n_words))
            mask[run[0] // 32] = 1 << run[0] % 32
            return 1
        try:
            ll_matcher.unsafe_compute_mask_ptr(address, 4 * n_words)
        except ValueError:
            mask[:] = array("I", bytes(4 * n_words))
        return int.from_bytes(mask.tobytes(), "little").bit_count()

    @staticmethod
    def _failure(ll_matcher: LLMatcher) -> ConstraintFailed:
        reason = ll_matcher.get_error().partition("\n")[0]
        return ConstraintFailed(f"the constraint cannot be followed further: {reason or 'it leaves no token to draw'}")


def _has(mask: array[int], token: int) -> bool:
    return bool(mask[token // 32] >> token % 32 & 1)
