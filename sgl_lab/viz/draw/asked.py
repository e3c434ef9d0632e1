"""The exact tokens that a gen or select saw and said: text over id, as HTML that untrusted notebooks keep, and as lines of text."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from ...contracts.legible import clipped, finite, legible
from ..views.asked import Asked
from . import palette
from .escape import Child, Markup, css, tag
from .numbers import counted, percent

MAX_TOKENS = 1200
"""of one prompt or answer; the middle is left out of a longer one"""

Spell = Callable[[int], str]


@dataclass(frozen=True, slots=True)
class Line:
    """One token and what is known of it; `position` None where tokens were left out, `id` then says how many."""

    position: int | None
    id: int
    text: str = ""
    cls: str = ""
    logprob: float | None = None
    n_allowed: int | None = None
    is_forced: bool = False

    @property
    def note(self) -> str:
        """What is known beside where it is from."""
        parts = []
        if self.logprob is not None:
            parts.append(f"p = {percent(math.exp(min(self.logprob, 0.0)))}")
        if self.n_allowed is not None and not self.is_forced:
            parts.append(f"{self.n_allowed:,} allowed")
        return ", ".join(parts)


def prompt_lines(asked: Asked, spell: Spell) -> list[Line]:
    lines = (
        Line(position, token, legible(spell(token)), "cached" if position < (asked.n_hit or 0) else "computed")
        for position, token in enumerate(asked.prompt)
    )
    return list(_cut(lines, len(asked.prompt)))


def answer_lines(asked: Asked, spell: Spell) -> list[Line]:
    first = len(asked.prompt)
    lines = (
        Line(
            position,
            sample.token,
            legible(spell(sample.token)),
            "forced" if sample.forced else "generated",
            finite(sample.logprob),
            sample.n_allowed,
            sample.forced,
        )
        for position, sample in enumerate(asked.samples, first)
    )
    return list(_cut(lines, len(asked.samples)))


def _cut(lines: Iterable[Line], n: int) -> Iterator[Line]:
    head, tail = MAX_TOKENS // 3, MAX_TOKENS - MAX_TOKENS // 3
    for index, line in enumerate(lines):
        if n <= MAX_TOKENS or index < head or index >= n - tail:
            yield line
        elif index == head:
            yield Line(None, n - MAX_TOKENS)


def heading(asked: Asked) -> str:
    title, kind, n = clipped(asked.title, 100), clipped(asked.kind, 20), len(asked.prompt)
    return f"{title}: a {kind} after {counted(n, 'token')}, {asked.n_hit or 0:,} of them from the cache"


def outcome(asked: Asked) -> str:
    n_forced = sum(sample.forced for sample in asked.samples)
    forced = f", {n_forced:,} of them forced" if n_forced else ""
    return f"{counted(len(asked.samples), 'token')} came{forced}; finish reason: {clipped(asked.reason, 40) or 'none yet'}"


def html(asked: Asked, spell: Spell) -> Markup:
    small = css(font_size="12px", opacity="0.7", margin="10px 0 4px 0")
    parts: list[Child] = [tag("div", {"style": css(font_weight="600")}, clipped(heading(asked), 200))]
    parts.append(_chips(prompt_lines(asked, spell)))
    if asked.kind == "gen":
        parts += [tag("div", {"style": small}, outcome(asked)), _chips(answer_lines(asked, spell))]
    else:
        parts.append(tag("div", {"style": small}, f"chosen: {clipped(asked.value, 200)}"))
    return tag("div", {"style": css(font_size="14px", line_height="1.6", margin="4px 0 12px 0")}, *parts)


def _chips(lines: Iterable[Line]) -> Markup:
    return tag("div", {"style": css(display="flex", flex_wrap="wrap", gap="3px 2px", margin_top="6px")}, *map(_chip, lines))


def _chip(line: Line) -> Markup:
    if line.position is None:
        return tag("span", {"style": css(font_size="12px", opacity="0.65", padding="0 8px")}, f"… {counted(line.id, 'more token')} …")
    ink = palette.INKS[line.cls]
    said = "\n".join(filter(None, (f"{ink.glyph} {line.cls}: {ink.meaning}", f"id {line.id}, position {line.position}", line.note)))
    box = css(
        display="inline-block",
        text_align="center",
        border_bottom=f"2px {'solid' if ink.line == 'none' else ink.line} {ink.both}",
        background_color=palette.tint(ink.both, 0.12),
        border_radius="3px",
        padding="0 3px",
    )
    text = tag("span", {"style": css(display="block", font_family="monospace", font_size="13px", white_space="pre")}, _visible(line.text))
    number = tag("span", {"style": css(display="block", font_size="10px", line_height="1.3", opacity="0.7")}, str(line.id))
    return tag("span", {"title": said, "style": box}, text, number)


def _visible(text: str) -> str:
    return clipped(text.replace("\n", "↵").replace(" ", "␣"), 60) or "∅"


def text(asked: Asked, spell: Spell) -> str:
    """One line a token: position, id, where it is from, what is known, text."""
    rows = [heading(asked), *map(_row, prompt_lines(asked, spell))]
    if asked.kind == "gen":
        rows += [outcome(asked), *map(_row, answer_lines(asked, spell))]
    else:
        rows.append(f"chosen: {legible(asked.value)}")
    return "\n".join(rows)


def _row(line: Line) -> str:
    if line.position is None:
        return f"  … {counted(line.id, 'more token')} …"
    return f"{line.position:>7}{line.id:>8}  {palette.INKS[line.cls].glyph} {line.cls:<10}{line.note:<24}{line.text!r:.60}".rstrip()
