"""The colours, and the shape that goes with each: no state is shown by colour alone.

`light` is for text (4.5 : 1) on white, `dark` on #111. `both` is legible as a line or a fill (3 :
1) on either, for pictures that cannot read the page's theme. Token states remain distinct under
protanopia, deuteranopia and tritanopia. The live widget names `light` and `dark` `--sgl-<state>`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


@dataclass(frozen=True, slots=True)
class Ink:
    light: str
    dark: str
    both: str
    line: str
    """style of the line that marks the state: dotted, wavy, solid, double, dashed or none"""
    glyph: str
    """one character for output without colour"""
    word: str
    meaning: str


CACHED = Ink("#1d55cf", "#69a7ff", "#4470ee", "dotted", "○", "from earlier runs", "found in the cache, computed by an earlier run")
REUSED = Ink("#4004a3", "#9c6bfb", "#9888d8", "wavy", "↻", "reused", "found in the cache, computed earlier in this run")
COMPUTED = Ink("#c2500c", "#e39a3b", "#e0651a", "solid", "●", "computed", "computed for this run")
GENERATED = Ink("#048374", "#74e4ac", "#1fa287", "none", "▸", "generated", "sampled by the model")
CHOICE = Ink("#7a1768", "#f8b9ee", "#ab2f98", "double", "◆", "chosen", "picked by a select")
FORCED = Ink("#5c5340", "#b5ab8c", "#74623e", "dashed", "»", "forced", "forced by the constraint")
LOCKED = Ink("#4a5568", "#c3cad9", "#6e7b91", "solid", "■", "in use", "in use, cannot be evicted")
EVICTED = Ink("#6f7786", "#8c94a3", "#8b93a1", "dashed", "×", "evicted", "evicted")

INKS = {
    "cached": CACHED,
    "reused": REUSED,
    "computed": COMPUTED,
    "generated": GENERATED,
    "choice": CHOICE,
    "forced": FORCED,
    "locked": LOCKED,
    "evicted": EVICTED,
}

SENT = Ink("#4a5568", "#c3cad9", "#6e7b91", "dotted", "·", "text", "text of a prompt to an engine that does not show its tokens")
"""of pieces of text; no state of a token"""
HEALED = ("⌇", "healed", "healed: the end of a text, encoded again together with the text after it")
"""mark, word and meaning of tokens at a seam of texts, in any state"""
TOKENS = ("cached", "reused", "computed", "generated", "forced", "choice")
"""states of tokens, in the order of the legend"""
BARS = {
    "wait": ("evicted", "waiting"),
    "sent": ("evicted", "sent, no answer yet"),
    "host": ("evicted", "program's own code"),
    "forks": ("evicted", "waits for forks"),
    "found": ("cached", "from earlier runs"),
    "reused": ("reused", "reused"),
    "prefill": ("computed", "computed · prefill"),
    "decode": ("generated", "generated · decode"),
    "forced": ("forced", "forced"),
    "drafted": ("generated", "drafted"),
    "rejected": ("evicted", "rejected drafts"),
    "score": ("choice", "scored choices"),
    "preempted": ("evicted", "preempted"),
}
"""kinds of bars: ink and word"""
NODES = {
    "cached": ("○", "from earlier runs"),
    "computed": ("●", "from this run"),
    "locked": ("■", "in use"),
    "generated": ("▸", "growing"),
    "evicted": ("×", "evicted"),
}
"""tones of nodes: glyph and word"""


class Words(NamedTuple):
    """The words for states whose origin depends on where the engine is."""

    cached: str
    cached_meaning: str
    reused_meaning: str
    computed_meaning: str
    strip: str
    """of cached tokens, in the strip of counts"""
    strip_meaning: str
    before: str
    """of nodes that were in the tree before the run"""
    new: str


HERE = Words(
    CACHED.word,
    CACHED.meaning,
    REUSED.meaning,
    COMPUTED.meaning,
    "from earlier runs",
    "Prompt tokens found in the cache: earlier cells had computed them",
    *(NODES[tone][1] for tone in ("cached", "computed")),
)
ELSEWHERE = Words(
    "cached by the server",
    "found in the server's cache; for whom it was computed is not reported",
    "found in the server's cache, where this run had sent it before",
    "computed for this run, as the server's count tells",
    "cached by the server",
    "Prompt tokens that the server found in its cache, from this run, from earlier ones or from other clients",
    "known before",
    "new in this run",
)
"""A server reports how many tokens it found cached, and not who had sent them."""


def words_of(*, elsewhere: bool) -> Words:
    return ELSEWHERE if elsewhere else HERE


def tint(ink: str, alpha: float) -> str:
    """A `#rrggbb` colour as a translucent CSS colour, for backgrounds on any theme."""
    red, green, blue = (int(ink[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{alpha:g})"
