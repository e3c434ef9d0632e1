"""A short way from anywhere in a text to a whole one, for when tokens run out.

Found step by step: what is forced, else what closes something or ends the text, else a character that was not used yet, of the
smallest kind that is allowed, since a grammar with much to choose from is inside of something. Knows nothing of the model. May
be used from any thread.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from llguidance import LLMatcher

Tokens = tuple[int, ...]

LONGEST = 512
"""tokens of a way; where a whole text is farther off, none is known"""


class Spelling(Protocol):
    @property
    def eos_ids(self) -> frozenset[int]: ...

    @property
    def n_vocab(self) -> int: ...

    def token_bytes(self, token: int) -> bytes: ...


class Exits:
    def __init__(self, spelling: Spelling) -> None:
        self.end = min(spelling.eos_ids)
        """what is said where a text is whole and the model would go on"""
        alone = sorted((data, token) for token in range(spelling.n_vocab) if len(data := spelling.token_bytes(token)) == 1)
        spelled = dict(alone)
        self._quote = spelled.get(b'"')
        self._closing = [spelled[data] for data in (b"]", b"}", b'"', b",") if data in spelled]
        self._letter = spelled.get(b"a")
        self._kinds = {token: _kind(data) for data, token in sorted(alone, key=lambda one: not one[0].isalnum())}

    def finishes(self, matcher: LLMatcher, tokens: Tokens) -> bool:
        """Whether the text is whole after `tokens`."""
        return matcher.validate_tokens([*tokens, self.end]) == len(tokens) + 1

    def way(self, matcher: LLMatcher, most: int, known: Tokens = ()) -> Tokens | None:
        """To a whole text, where one is found of at most `most` tokens; as it was `known` not far from here, as soon as that fits.

        Moves the matcher.
        """
        way: Tokens = ()
        used: Counter[int] = Counter()
        while not matcher.is_accepting():
            step = forced(matcher) or self._tail(matcher, known) or self._choice(matcher, way, used)
            if not step or len(way) + len(step) > most or not matcher.consume_tokens(list(step)):
                return None
            way += step
        return way

    def _tail(self, matcher: LLMatcher, way: Tokens) -> Tokens:
        """The shortest end of `way` that is a way from here."""
        tails = (way[i:] for i in range(len(way) - 1, -1, -1))
        return next((tail for tail in tails if self.finishes(matcher, tail)), ())

    def _choice(self, matcher: LLMatcher, way: Tokens, used: Counter[int]) -> Tokens:
        try:
            mask = matcher.compute_bitmask()
        except ValueError:  # nothing may be said, or the grammar has grown too complex
            return ()
        is_text = self._letter is not None and _has(mask, self._letter)  # where only a quote closes anything
        for token in self._closing:
            if _has(mask, token) and (not is_text or (token == self._quote and way[-2:] != (token, token))):
                return (token,)
        allowed = [token for token in self._kinds if _has(mask, token)]
        for token in allowed:
            if self.finishes(matcher, (token,)):
                return (token,)
        n_of_kind = Counter(self._kinds[token] for token in allowed)
        choice = sorted(allowed, key=lambda token: (self._kinds[token] == "byte", used[token], n_of_kind[self._kinds[token]]))[:1]
        used.update(choice)
        return tuple(choice)


def _has(mask: bytes, token: int) -> bool:
    return bool(mask[token // 8] >> token % 8 & 1)


def forced(matcher: LLMatcher) -> Tokens:
    """Only as far as the grammar takes it: a tokenizer that normalises may spell what is forced otherwise."""
    tokens = matcher.compute_ff_tokens()
    return tuple(tokens[: matcher.validate_tokens(tokens)]) if tokens else ()


def _kind(data: bytes) -> str:
    if data == b"-":
        return "isdigit"  # a sign is no way into a number that a digit is not
    for kind in ("isspace", "isdigit", "islower", "isupper", "isascii"):
        if getattr(data, kind)():
            return kind
    return "byte"
