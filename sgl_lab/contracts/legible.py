"""Makes text of a model or a user safe to show: nothing in it can hide or reorder its surroundings,
or control a terminal.

Control characters, bidirectional overrides, invisible characters and lone surrogates become visible
stand-ins. Letters of every script, joiners and emoji remain. Escaping for HTML is separate
(`viz.draw.escape`). `viz/static/legible.js` applies the same rules on the page; a test keeps them
equal.
"""

from __future__ import annotations

import math
import re

_UNFIT = (
    r"\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f"
    r"\u3164\ud800-\udfff\ufdd0-\ufdef\ufeff\uffa0\ufff0-\ufffb\ufffe\uffff\U0001bca0-\U0001bca3\U0001d173-\U0001d17a"
    r"\U000e0000-\U000e00ff\U000e01f0-\U000e0fff"
)
"""characters that have an effect instead of a shape"""
_JOINERS, _SELECTORS = r"\u200c\u200d", r"\ufe00-\ufe0f\U000e0100-\U000e01ef"
_SUSPECT = re.compile(f"[{_UNFIT}{_JOINERS}{_SELECTORS}]")
_STRANGE = re.compile(rf"[{_UNFIT}]|(?<=[{_JOINERS}])[{_JOINERS}]|(?<=[{_SELECTORS}])[{_SELECTORS}]")
"""One joiner or variation selector is a matter of spelling; a second one can only hide a message."""


def _stand_in(match: re.Match[str]) -> str:
    code = ord(match[0])
    if code < 0x20:
        return chr(0x2400 + code)
    if code == 0x7F:
        return "\u2421"
    return "\ufffd" if 0xD800 <= code <= 0xDFFF else f"\u27e8U+{code:04X}\u27e9"


def legible(text: str) -> str:
    """`text` with visible stand-ins for all characters that have an effect instead of a shape.
    Newline and tab remain. The function is idempotent.
    """
    return _STRANGE.sub(_stand_in, text) if _SUSPECT.search(text) else text


def clipped(text: str, length: int) -> str:
    """The beginning of `text` on one line, at most `length` characters."""
    line = legible(text[: 4 * length]).replace("\n", "↵").replace("\t", "⇥")
    return line if len(line) <= length and len(text) <= 4 * length else line[: length - 1] + "…"


def finite(number: float | None) -> float | None:
    """The number, or None if it is infinite or NaN: JSON has no such values."""
    return number if number is not None and math.isfinite(number) else None
