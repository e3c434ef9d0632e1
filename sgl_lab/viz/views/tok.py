"""One token of a stream as a page receives it.

A token has two layouts with the same content: JSON values, for recordings and still pictures, and
JSON text, for live pages. A busy engine draws thousands of tokens a second. Values would be seven
containers a token, which the garbage collector counts, and which would still have to be encoded.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypedDict

from ...contracts.events import Sample
from ...contracts.legible import finite, legible
from ...contracts.spans import block_position
from .pictures import Pictures


class Drawing(TypedDict, total=False):
    """How a token was drawn. Fields that do not apply are left out."""

    t: float
    """when, in milliseconds since the run began"""
    ms: float
    """milliseconds since the request's previous token, or since it was queued; 0 for tokens that
    arrived in the same step as the first
    """
    allowed: int
    """tokens that a constraint allowed at this position"""
    drafted: bool
    block: str
    """the beginning of a block's digest, at its first position"""
    picture: str
    """what the block shows, small, as a data URL"""
    expert: int
    """the one with the largest weight in most layers"""
    routed: str
    """in how many layers it is that, of how many"""
    healed: str
    """text that was encoded in other tokens before, and that ends in this token or is spelled by it"""


Tok = tuple[str, str, float | None, str, tuple[tuple[str, float], ...] | None, int, Drawing | None]
"""text; state; logprob; role; alternatives, best first; id; how it was drawn

The state is text, cached (from before the run), reused (within it), computed, generated, forced or
choice. Logprobs have five digits.
"""

MAX_TEXT = 400
"""characters of one token"""
LEAST_BYTES = len('["","text",null,"",null,1,null],')
_LARGEST = 1e300


@dataclass(slots=True)
class Token:
    """One object per token: the garbage collector scans all of them while every thread waits."""

    id: int
    cls: str
    role: str
    sample: Sample | None = None
    """how it was drawn: at `t`, `ms` after the previous token"""
    t: float = 0.0
    ms: float = 0.0
    healed: tuple[int, ...] = ()
    """tokens that were here before and whose text it spells again, possibly with others"""
    expert: tuple[int, int, int] | None = None
    """the one with the largest weight in most layers; in how many, of how many"""


class Layout:
    """Tokens as JSON values or as JSON text. `spell` returns the text of one token id."""

    def __init__(self, spell: Callable[[int], str]) -> None:
        self._spell = spell
        self._texts: dict[int, str] = {}
        self._quoted: dict[int, str] = {}
        """texts as JSON"""
        self._pictures = Pictures()

    def plain(self, tokens: Iterable[Token]) -> list[Tok]:
        return [self._plain(token) for token in tokens]

    def written(self, tokens: Iterable[Token]) -> list[str]:
        """The tokens of `plain`, each as JSON text in ASCII."""
        return [self._written(token) for token in tokens]

    def _plain(self, token: Token) -> Tok:
        text, role = self._text(token.id), legible(token.role)
        how: Drawing = {}
        if token.id < 0 and text and (position := block_position(token.id)) is not None:
            how["block"] = position.content.title
            if picture := self._pictures.of(position.content):
                how["picture"] = picture
        if token.healed:
            how["healed"] = "".join(map(self._text, token.healed))
        if token.expert is not None:
            how |= {"expert": token.expert[0], "routed": f"{token.expert[1]} of {token.expert[2]}"}
        if (sample := token.sample) is None:
            return (text, token.cls, None, role, None, token.id, how or None)
        how |= {"t": token.t, "ms": round(token.ms, 3)}
        if sample.n_allowed is not None:
            how["allowed"] = sample.n_allowed
        if sample.drafted:
            how["drafted"] = True
        top = tuple([(self._text(other), _short(logprob)) for other, logprob in sample.top if finite(logprob) is not None])
        chance = None if finite(sample.logprob) is None else _short(sample.logprob or 0.0)
        return (text, "forced" if sample.forced else token.cls, chance, role, top or None, token.id, how)

    def _written(self, token: Token) -> str:
        sample, number, quoted = token.sample, token.id, self._quoted
        if number < 0 or token.healed or token.expert is not None:
            return encode(self._plain(token))
        role = encode(legible(token.role)) if token.role else '""'
        try:
            if sample is None:
                return f'[{quoted[number]},"{token.cls}",null,{role},null,{number},null]'
            if sample.n_allowed is not None or sample.forced or sample.drafted:
                return encode(self._plain(token))
            text, chance = quoted[number], sample.logprob
            top = ",".join([f"[{quoted[other]},{p:.5g}]" for other, p in sample.top if -_LARGEST < p < _LARGEST])
        except KeyError:
            for each in (number, *(other for other, _ in (sample.top if sample else ()))):
                quoted[each] = encode(self._text(each))
            return self._written(token)
        logprob = "null" if chance is None or not -_LARGEST < chance < _LARGEST else f"{chance:.5g}"
        alternatives = f"[{top}]" if top else "null"
        return f'[{text},"{token.cls}",{logprob},{role},{alternatives},{number},{{"t":{token.t!r},"ms":{token.ms:.3f}}}]'

    def _text(self, token: int) -> str:
        if token not in self._texts:
            text = self._spell(token)
            self._texts[token] = legible(text if len(text) <= MAX_TEXT else text[:MAX_TEXT] + "…")
        return self._texts[token]


def _short(number: float) -> float:
    return float(f"{number:.5g}")


encode = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode
"""A JSON value as text in ASCII"""
