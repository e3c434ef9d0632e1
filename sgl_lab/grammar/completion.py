"""Completion paths: few tokens from any position in a text to a complete one, for when tokens run
out.

If the texts of a constraint are known as a tree, the machine provides the shortest completion,
which is spelled in the fewest tokens. If only the library knows them, a path is found step by step:
forced tokens; otherwise a token that closes something or ends the text; otherwise an unused
character of the smallest allowed kind. Knows nothing of the model. May be used from any thread.
"""

from __future__ import annotations

from collections import Counter
from itertools import islice
from typing import TYPE_CHECKING, Protocol

from ..contracts.patterns.bounded import is_bounded, spend
from ..contracts.patterns.machine import Machine, StateSet

if TYPE_CHECKING:
    from llguidance import LLMatcher

Tokens = tuple[int, ...]

LONGEST = 1_024
"""maximum tokens of a path; longer ones are not found"""
_LONGEST_WALK = 512
_LONGEST_TOKEN = 24
"""bytes of a token that is looked for on a path"""
_MOST_PATHS = 6
"""that are tried, the cheapest first"""


class Spelling(Protocol):
    @property
    def eos_ids(self) -> frozenset[int]: ...

    @property
    def n_vocab(self) -> int: ...

    @property
    def special_ids(self) -> frozenset[int]: ...

    def token_bytes(self, token: int) -> bytes: ...


class Track:
    """The position of a text in a machine's tree. It is updated on demand, so positions that are
    never requested cost nothing.
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self._states: StateSet = machine.start
        self._pending = b""

    def take(self, data: bytes) -> None:
        self._pending += data

    def after(self, data: bytes) -> tuple[StateSet, bytes]:
        """The states after `data` too, and the beginning of a character that came after it."""
        self._states, self._pending = self._stepped(self._states, self._pending)
        return self._stepped(self._states, self._pending + data)

    def _stepped(self, states: StateSet, data: bytes) -> tuple[StateSet, bytes]:
        n = len(data) - next((i for i in range(1, min(4, len(data) + 1)) if _is_begun(data[-i:])), 0)
        for character in data[:n].decode(errors="replace"):
            states = self.machine.step(states, character)
        return states, data[n:]


def _is_begun(data: bytes) -> bool:
    """Whether it is the beginning of a character of which more has to come."""
    return data[0] >= 0xC0 and len(data) < (2 if data[0] < 0xE0 else 3 if data[0] < 0xF0 else 4)


class Completions:
    def __init__(self, spelling: Spelling) -> None:
        self.end = min(spelling.eos_ids)
        """the token that ends a complete text if the model would continue"""
        self.bytes_of = spelling.token_bytes
        self.special_ids = spelling.special_ids
        self._ids: dict[bytes, int] = {}
        for token in range(spelling.n_vocab):
            if token not in self.special_ids and 0 < len(data := spelling.token_bytes(token)) <= _LONGEST_TOKEN:
                self._ids.setdefault(data, token)
        alone = sorted((data, token) for data, token in self._ids.items() if len(data) == 1)
        self._quote = self._ids.get(b'"')
        self._closing = [self._ids[data] for data in (b"]", b"}", b'"', b",") if data in self._ids]
        self._letter = self._ids.get(b"a")
        self._kinds = {token: _kind(data) for data, token in sorted(alone, key=lambda one: not one[0].isalnum())}

    def _steps(self, data: bytes) -> list[tuple[int, int]]:
        """From each position in `data` on: the fewest tokens that spell the rest (very many if none
        do), and the length of the first.
        """
        spend(4 * len(data))
        never = 1 << 30
        found = [(0, 0)] * (len(data) + 1)
        for start in range(len(data) - 1, -1, -1):
            best = never, 1
            for end in range(min(len(data), start + _LONGEST_TOKEN), start, -1):
                if found[end][0] + 1 < best[0] and data[start:end] in self._ids:
                    best = found[end][0] + 1, end - start
            found[start] = best
        return found

    def spelled(self, data: bytes) -> Tokens | None:
        """In the fewest tokens; None if the vocabulary cannot spell it."""
        steps, start, tokens = self._steps(data), 0, []
        if data and steps[0][0] > len(data):
            return None
        while start < len(data):
            length = steps[start][1]
            tokens.append(self._ids[data[start : start + length]])
            start += length
        return tuple(tokens)

    def n_tokens(self, text: str) -> list[int]:
        """The fewest tokens that spell `text`, and the rest of it after each character."""
        steps = self._steps(text.encode())
        ends = [0]
        for character in text:
            ends.append(ends[-1] + len(character.encode()))
        return [steps[end][0] for end in ends]

    def finishes(self, ll_matcher: LLMatcher, tokens: Tokens) -> bool:
        """Whether the text is whole after `tokens`."""
        return ll_matcher.validate_tokens([*tokens, self.end]) == len(tokens) + 1

    def path(self, ll_matcher: LLMatcher, at: tuple[Machine, StateSet, bytes] | None, most: int, known: Tokens = ()) -> Tokens | None:
        """A path of at most `most` tokens to a complete text, if one is found; `at` is the position
        of the text. `known` is a path from a nearby position.

        Moves `ll_matcher`.
        """
        if at is not None:
            machine, states, begun = at
            for data in islice(machine.completions(states, begun), _MOST_PATHS):
                path = self.spelled(data)
                if path is not None and len(path) <= most and self.finishes(ll_matcher, path):
                    return path
        return self._walked(ll_matcher, min(most, _LONGEST_WALK), known)

    def _walked(self, ll_matcher: LLMatcher, most: int, known: Tokens) -> Tokens | None:
        path: Tokens = ()
        used: Counter[int] = Counter()
        while not ll_matcher.is_accepting():
            spend(500)
            step = forced(ll_matcher) or self._tail(ll_matcher, known) or self._choice(ll_matcher, path, used)
            if not step or len(path) + len(step) > most or not ll_matcher.consume_tokens(list(step)):
                return None
            path += step
        return path

    def _tail(self, ll_matcher: LLMatcher, path: Tokens) -> Tokens:
        """The shortest end of `path` that is a path from here."""
        tails = (path[i:] for i in range(len(path) - 1, -1, -1))
        return next((tail for tail in tails if self.finishes(ll_matcher, tail)), ())

    def _choice(self, ll_matcher: LLMatcher, path: Tokens, used: Counter[int]) -> Tokens:
        try:
            mask = ll_matcher.compute_bitmask()
        except ValueError:  # no token may come next, or the grammar has grown too complex
            return ()
        is_text = self._letter is not None and _has(mask, self._letter)  # where only a quote closes anything
        for token in self._closing:
            if _has(mask, token) and (not is_text or (token == self._quote and path[-2:] != (token, token))):
                return (token,)
        allowed = [token for token in self._kinds if _has(mask, token)]
        for token in allowed:
            if self.finishes(ll_matcher, (token,)):
                return (token,)
        n_of_kind = Counter(self._kinds[token] for token in allowed)
        choice = sorted(allowed, key=lambda token: (self._kinds[token] == "byte", used[token], n_of_kind[self._kinds[token]]))[:1]
        used.update(choice)
        return tuple(choice)


def _has(mask: bytes, token: int) -> bool:
    return bool(mask[token // 8] >> token % 8 & 1)


def forced(ll_matcher: LLMatcher) -> Tokens:
    """The accepted beginning only: a normalising tokenizer may spell forced text differently."""
    if is_bounded():
        spend(10 * len(ll_matcher.compute_ff_bytes()))  # they are encoded
    tokens = ll_matcher.compute_ff_tokens()
    return tuple(tokens[: ll_matcher.validate_tokens(tokens)]) if tokens else ()


def _kind(data: bytes) -> str:
    if data == b"-":
        return "isdigit"  # a sign is no way into a number that a digit is not
    for kind in ("isspace", "isdigit", "islower", "isupper", "isascii"):
        if getattr(data, kind)():
            return kind
    return "byte"
