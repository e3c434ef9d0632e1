"""Text from a model or a user, made fit to be shown: nothing in it can hide or reorder what stands beside it.

Control characters, bidirectional overrides and lone surrogates become visible stand-ins; letters of
every script, joiners and emoji pass. Escaping for HTML is another matter (`draw.escape`).
"""

from __future__ import annotations

import math
import re

_UNFIT = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069"
    r"\ufdd0-\ufdef\ufeff\ufff9-\ufffb\ufffe\uffff\ud800-\udfff]"
)


def _stand_in(match: re.Match[str]) -> str:
    code = ord(match[0])
    if code < 0x20:
        return chr(0x2400 + code)
    if code == 0x7F:
        return "\u2421"
    return "\ufffd" if 0xD800 <= code <= 0xDFFF else f"\u27e8U+{code:04X}\u27e9"


def legible(text: str) -> str:
    """`text` without anything that acts instead of being seen; newline and tab stay. Applying it twice changes nothing more."""
    return _UNFIT.sub(_stand_in, text)


def clipped(text: str, length: int) -> str:
    """The beginning of `text` on one line, at most `length` characters."""
    line = legible(text[: 4 * length]).replace("\n", "↵").replace("\t", "⇥")
    return line if len(line) <= length and len(text) <= 4 * length else line[: length - 1] + "…"


def finite(number: float | None) -> float | None:
    """JSON has no infinities: they are told as "unknown"."""
    return number if number is not None and math.isfinite(number) else None
