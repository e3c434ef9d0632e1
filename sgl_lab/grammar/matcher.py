"""The matcher of one sample's text: which tokens may come next, which must, and whether the text is whole.

Knows nothing of the model. A matcher is used by one thread at a time.

A text is followed under light limits, which bound what each call costs. Where they do not suffice,
it is followed under the full ones from then on. A thread with a bound (`patterns.bounded`) gets
OverBound instead.
"""

from __future__ import annotations

import threading
from array import array
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..contracts.errors import ConstraintFailed
from ..contracts.patterns.bounded import stop_if_bounded
from ..contracts.patterns.machine import Machine, StateSet
from .completion import LONGEST, Completions, Tokens, Track, forced

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLParserLimits, LLTokenizer


class Prototypes:
    """The parser of a constraint at the beginning of a text, under light limits and under the full
    ones. May be used from any thread.
    """

    def __init__(self, tokenizer: LLTokenizer, grammar: str, light: LLMatcher | None, full: LLMatcher | None) -> None:
        self._tokenizer = tokenizer
        self._grammar = grammar
        self._light = light
        self._full = full
        self._lock = threading.Lock()

    @classmethod
    def of(cls, tokenizer: LLTokenizer, grammar: str) -> tuple[Prototypes, str]:
        """And what is wrong with the grammar."""
        from .limits import LIGHT, LIGHT_SOURCE, LIMITS

        if len(grammar) <= LIGHT_SOURCE:
            light, error = _made(tokenizer, grammar, LIGHT)
            if not error:
                return cls(tokenizer, grammar, light, None), ""
        full, error = _made(tokenizer, grammar, LIMITS)
        return cls(tokenizer, grammar, None, full), error

    @property
    def is_light(self) -> bool:
        """Whether the light limits suffice, as far as is known."""
        return self._light is not None

    @property
    def first(self) -> LLMatcher:
        return self._light or self.full()

    def full(self) -> LLMatcher:
        with self._lock:
            if self._full is None:
                from .limits import LIMITS

                self._full, _ = _made(self._tokenizer, self._grammar, LIMITS)
            return self._full

    def give_up_light(self) -> None:
        """The light limits do not suffice: matchers that start from now on do without."""
        self._light = None


def _made(tokenizer: LLTokenizer, grammar: str, limits: LLParserLimits) -> tuple[LLMatcher, str]:
    from llguidance import LLMatcher

    made = LLMatcher(tokenizer, grammar, log_level=0, limits=limits)
    try:
        made.compute_bitmask()  # only now it knows whether there is anything to say
    except ValueError as refused:
        return made, str(refused)
    return made, made.get_error()


class Matcher:
    """Call `take` with every token of the text, and `fill` for the masks of the next draws, each
    after one more draft.
    """

    def __init__(
        self,
        prototypes: Prototypes,
        tokenizer: LLTokenizer,
        n_vocab: int,
        jump: bool,
        completions: Completions,
        completion: Tokens | None,
        machine: Machine | None = None,
        seam: str = "",
    ) -> None:
        self.completion = completion
        """path: tokens from here to a whole text, at most as many as are left; None if the text was never
        sure to be whole"""
        self._seam = seam
        self._prototypes = prototypes
        self._tokenizer = tokenizer
        self._completions = completions
        self._track = None if machine is None or completion is None else Track(machine)
        self.is_light = prototypes.is_light
        """whether it is followed under the light limits"""
        self._ll_matcher = prototypes.first.deep_copy()
        self._taken: list[int] = []
        """the text, as long as it may have to be followed again"""
        self._is_reached = False
        """the last of it was not taken yet"""
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
        is_light, ll_matcher = self._prototypes.is_light, self._prototypes.first.deep_copy()
        if _is_whole(ll_matcher, tokens):
            return True
        return is_light and ll_matcher.is_error() and _is_whole(self._prototypes.full().deep_copy(), tokens)

    def allows(self, token: int) -> bool:
        """Whether `token` may come next and the text goes on after it, or is whole."""
        return not self.is_over and self._ll_matcher.deep_copy().consume_token(token)

    def reach(self, token: int) -> None:
        """Have the parser consume `token` ahead of `take`. OverBound if that has no bound."""
        if not self.is_light:
            stop_if_bounded()
        elif self._ll_matcher.consume_token(token) and not self._ll_matcher.is_error():
            self._taken.append(token)
            self._is_reached = True
        else:
            self._follow_again()

    def take(self, token: int) -> None:
        """`token` comes next."""
        if self.is_light and not self._is_reached:
            self.reach(token)
        if not (self._is_reached or self._ll_matcher.consume_token(token)) or (self.is_over and not self.is_whole):
            raise self._failure(self._ll_matcher)
        self._is_reached = False
        if self._track is not None:
            self._track.take(self._bytes(token))

    def _follow_again(self) -> None:
        """Under the full limits. OverBound where there is a bound."""
        stop_if_bounded()
        ll_matcher = self._prototypes.full().deep_copy()
        ll_matcher.consume_tokens(self._taken)
        self._prototypes.give_up_light()
        self._ll_matcher, self.is_light, self._taken = ll_matcher, False, []

    def _is_beyond(self, ll_matcher: LLMatcher) -> bool:
        """Whether the light limits did not suffice; then the call is made again under the full
        ones.
        """
        if not (self.is_light and ll_matcher.is_error()):
            return False
        self._follow_again()
        return True

    def keeps_completion(self, token: int, most: int) -> bool:
        """Whether the text can still be complete within `most` tokens after `token`, the next one.
        If so, `completion` begins after it.
        """
        if not self.is_light:
            stop_if_bounded()
        path = self.completion
        if path is None:
            return True
        if path and path[0] == token:
            self.completion = path[1:]
        elif len(path) > most or not self._completions.finishes(self._ll_matcher, (token, *path)):
            ll_matcher = self._ll_matcher.deep_copy()
            is_taken = ll_matcher.consume_token(token)
            found = self._completions.path(ll_matcher, self._at(token), min(most, LONGEST), path) if is_taken else None
            if found is None and self._is_beyond(ll_matcher):
                return self.keeps_completion(token, most)
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
        if not self.is_light:
            stop_if_bounded()
        found = forced(self._ll_matcher) if self._jump else ()
        return self.forced() if self._is_beyond(self._ll_matcher) else found

    def within(self, draft: Tokens) -> Tokens:
        """As much of `draft` as may come next; nothing where the light limits do not suffice, as each
        draft needs a mask.
        """
        if not self.is_light:
            return ()
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
        if not self.is_light:
            stop_if_bounded()
        ll_matcher = self._ll_matcher.deep_copy() if draft else self._ll_matcher
        self._fill_along(ll_matcher, draft)
        if self._is_beyond(ll_matcher):
            self.fill(draft)
        elif not self.n_allowed[0]:
            raise self._failure(self._ll_matcher)

    def _fill_along(self, ll_matcher: LLMatcher, draft: Tokens) -> None:
        self.n_allowed.clear()
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


def _is_whole(ll_matcher: LLMatcher, tokens: Sequence[int]) -> bool:
    """Whether the text is whole after `tokens`."""
    return ll_matcher.try_consume_tokens(list(tokens)) == len(tokens) and ll_matcher.is_accepting()


def _has(mask: array[int], token: int) -> bool:
    return bool(mask[token // 32] >> token % 32 & 1)
