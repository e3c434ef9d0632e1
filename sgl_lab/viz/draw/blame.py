"""What the pieces of a prompt did to the answer: the prompt shaded by effect, a table, how far to
trust it, and what it cost.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

from ...contracts.legible import clipped, legible
from ..explain.attribution.blame import FAIR, GOOD, Blame
from . import palette
from .escape import Child, Markup, css, tag
from .html import RULE, details, note
from .numbers import counted, percent

Spell = Callable[[int], str]

FOR, AGAINST = palette.CACHED.both, palette.COMPUTED.both
"""of pieces with which the answer is more likely, and less likely"""
MOST_ROWS = 10
"""of the table, before the rest is folded away"""
MOST_TEXT = 24_000
"""characters of the shaded prompt"""
NOTABLE = 0.1
"""share of the largest effect from which a number stands in the prompt"""
MISSED = 0.1
"""share of what all pieces are worth together below which the effects of single ones miss it"""
STRONG = 0.5
"""nats that at least are drawn at full strength, so that small effects look small"""
BARELY = 0.05
"""nats below which no effect is worth a number"""


class Part(NamedTuple):
    """A stretch of the prompt: a piece, or what is never left out."""

    text: str
    piece: int | None


def signed(effect: float) -> str:
    """With two digits, and no sign before a zero that was rounded down."""
    return f"{round(effect, 2) + 0.0:+.2f}"


def heading(blame: Blame, spell: Spell) -> str:
    what = "choose" if blame.choices else "say"
    return f"{clipped(blame.title, 100)}: what in the prompt made it {what} “{clipped(counted_text(blame, spell), 120)}”"


def counted_text(blame: Blame, spell: Spell) -> str:
    return "".join(map(spell, blame.answer[blame.of[0] : blame.of[1]]))


def method(blame: Blame) -> str:
    """How the effects were measured, in words."""
    n, value = len(blame.pieces), "lead" if blame.choices else "log-probability"
    whole = f"{counted(n, blame.by)}. The {value} of the answer is {blame.full.value:.2f} nats after the whole prompt"
    if not blame.choices:
        whole += f" (p = {percent(math.exp(min(blame.full.value, 0.0)))})"
    whole += f" and {blame.bare:.2f} without these pieces. "
    if blame.is_fitted:
        how = f"The effects are the weights of a sparse linear fit to random ablations, which leave out half of the {blame.by}s each"
    else:
        how = f"Each {blame.by} was left out alone: its effect is by how many nats the {value} then falls"
    of_choice = "; the lead is that over the runner-up, in mean log-probability per token" if blame.choices else ""
    forced = f"; {counted(blame.n_forced, 'token')} that a constraint forced left out of the count" if blame.n_forced else ""
    return f"{whole}{how}{of_choice}{forced}."


def quality(blame: Blame) -> tuple[str, bool]:
    """How far the effects can be trusted, in words, and whether they mean little."""
    drops = ", ".join(f"{signed(drop)} without the top {k}" for k, drop in ((k, -drop) for k, drop in blame.drops))
    measured = f"Top-k drop: {drops}." if drops else ""
    largest = max(map(abs, blame.effects), default=0.0)
    if blame.lds is None:
        return f"Quality: not measured, too few other ablations are possible. {measured}".rstrip(), False
    score = f"linear datamodelling score {blame.lds:.2f} on {counted(blame.n_judged, 'other random ablation')}"
    if largest < BARELY:
        return f"This result means little: no {blame.by} moves the answer by {BARELY} nats ({score}). {measured}".rstrip(), True
    if blame.lds < FAIR:
        why = "the effects do not predict what happens when other pieces are left out"
        return f"This result means little: {why} ({score}). {measured}".rstrip(), True
    together, added = blame.full.value - blame.bare, sum(blame.effects)
    if not blame.is_fitted and together > 1.0 and added < MISSED * together:
        why = f"all pieces together are worth {together:.2f} nats, and their effects add up to {added:.2f}: one stands in for another"
        return f"This result means little: {why} ({score}). {measured}".rstrip(), True
    word = "good" if blame.lds >= GOOD else "fair, the pieces act together"
    return f"Quality: {word} ({score}). {measured}".rstrip(), False


def cost(blame: Blame) -> str:
    times = f", {blame.n_naive / blame.n_computed:.1f} times as many" if blame.n_computed else ""
    scored = f"{counted(blame.n_scored, 'prompt')} scored, {counted(blame.n_computed, 'token')} computed"
    return f"Cost: {scored}; without the cache {blame.n_naive:,}{times}. Seed {blame.seed}."


def parts(blame: Blame, spell: Spell) -> Iterator[Part]:
    """The prompt in order."""
    at = 0
    for number, piece in enumerate(blame.pieces):
        if piece.start > at:
            yield Part("".join(map(spell, blame.prompt[at : piece.start])), None)
        yield Part(piece.text, number)
        at = piece.end
    if at < len(blame.prompt):
        yield Part("".join(map(spell, blame.prompt[at:])), None)


def html(blame: Blame, spell: Spell) -> Markup:
    words, means_little = quality(blame)
    small = css(font_size="13px", line_height="1.5", margin="8px 0")
    warning = css(color=palette.COMPUTED.both, font_weight="600") if means_little else css(opacity="0.8")
    rows = table_rows(blame, spell)
    body: list[Child] = [
        tag("div", {"style": css(font_weight="600")}, heading(blame, spell)),
        note(method(blame)),
        _shaded(blame, spell),
        _legend(),
        tag("div", {"style": f"{small};{warning}"}, words),
        _table(blame, rows[:MOST_ROWS]),
    ]
    if rows[MOST_ROWS:]:
        body.append(details(f"{len(rows) - MOST_ROWS:,} more pieces", _table(blame, rows[MOST_ROWS:])))
    body.append(note(cost(blame)))
    return tag("div", {"style": css(font_size="14px", line_height="1.6", margin="4px 0 12px 0")}, *body)


def _shaded(blame: Blame, spell: Spell) -> Markup:
    largest = max([STRONG, *map(abs, blame.effects)])
    places = {piece: rank for rank, piece in enumerate(blame.ranking, 1)}
    drawn = list(parts(blame, spell))
    share = max(40, MOST_TEXT // max(1, len(drawn)))
    shown: list[Child] = []
    for text, piece in drawn:
        text = text if len(text) <= share else f"{text[: share - 1]}…"
        if piece is None:
            shown.append(tag("span", {"style": css(opacity="0.45", font_size="12px")}, text))
            continue
        effect = blame.effects[piece]
        title = f"number {places[piece]}: {signed(effect)} nats"
        shown.append(tag("span", {"title": title, "style": _fill(effect, largest)}, text))
        if abs(effect) >= max(NOTABLE * largest, BARELY):
            shown.append(tag("span", {"style": f"{_NUMBER};{css(color=_ink(effect))}"}, signed(effect)))
    answer = css(border_bottom=f"2px solid {palette.GENERATED.both}", font_weight="600")
    before, after = ("".join(map(spell, tokens)) for tokens in (blame.answer[: blame.of[0]], blame.answer[blame.of[1] :]))
    shown.append(tag("span", {"title": "the answer, before the tokens that count"}, before))
    shown.append(tag("span", {"title": "the answer that is explained", "style": answer}, counted_text(blame, spell)))
    shown.append(tag("span", {"title": "the answer, after the tokens that count"}, after))
    box = css(white_space="pre-wrap", overflow_wrap="break-word", border=RULE, border_radius="6px", padding="10px 14px", line_height="1.9")
    return tag("div", {"style": box}, *shown)


_NUMBER = css(font_size="10px", vertical_align="super", font_weight="600", padding="0 3px 0 1px")


def _ink(effect: float) -> str:
    return FOR if effect > 0 else AGAINST


def _fill(effect: float, largest: float) -> str:
    strength = round(0.06 + 0.5 * min(1.0, abs(effect) / largest), 2) if abs(effect) >= BARELY else 0.0
    return css(background_color=palette.tint(_ink(effect), strength), border_radius="3px", padding="1px 0")


def _legend() -> Markup:
    def swatch(ink: str) -> Markup:
        style = css(background_color=palette.tint(ink, 0.5), border_radius="3px", padding="0 8px", margin_right="5px")
        return tag("span", {"style": style}, " ")

    line = css(font_size="12px", opacity="0.85", margin="4px 0")
    word = css(margin_right="16px")
    return tag(
        "div",
        {"style": line},
        swatch(FOR),
        tag("span", {"style": word}, "made the answer likelier"),
        swatch(AGAINST),
        tag("span", {"style": word}, "made it less likely"),
        tag("span", {"style": css(opacity="0.6")}, "grey: the chat template, never left out"),
    )


class Row(NamedTuple):
    rank: str
    effect: float
    without: str
    """what is answered, or how likely the answer is, without the piece; empty if that is not known"""
    role: str
    text: str


def table_rows(blame: Blame, spell: Spell) -> list[Row]:
    """All pieces, the largest effect first."""
    rows = []
    for rank, at in enumerate(blame.ranking, 1):
        piece, effect = blame.pieces[at], blame.effects[at]
        rows.append(Row(str(rank), effect, _without(blame, at, spell), clipped(piece.role, 20), clipped(piece.text.strip(), 120)))
    return rows


def _without(blame: Blame, at: int, spell: Spell) -> str:
    if blame.is_fitted:
        return ""
    if blame.choices:
        winner = blame.without[at]
        return "the same choice" if winner is None else f"“{clipped(''.join(map(spell, blame.choices[winner])), 40)}”"
    return f"p = {percent(math.exp(min(blame.full.value - blame.effects[at], 0.0)))}"


def columns(blame: Blame) -> tuple[str, ...]:
    return ("", "effect", "", *(() if blame.is_fitted else ("without it",)), "role", blame.by)


def _table(blame: Blame, rows: list[Row]) -> Markup:
    largest = max([STRONG, *map(abs, blame.effects)])
    cell = css(padding="2px 14px 2px 0", text_align="left", border="none", background="transparent", vertical_align="top")
    right = f"{cell};{css(text_align='right', white_space='nowrap', font_variant_numeric='tabular-nums')}"
    whole = f"{cell};{css(white_space='nowrap')}"
    head = [tag("th", {"style": f"{cell};{css(opacity='0.65', font_weight='600')}"}, name) for name in columns(blame)]
    body = []
    for row in rows:
        width = f"{max(1, round(90 * min(1.0, abs(row.effect) / largest)))}px"
        bar = css(
            display="inline-block",
            height="10px",
            width=width,
            background_color=palette.tint(_ink(row.effect), 0.75),
            border_radius="2px",
        )
        cells = [
            tag("td", {"style": right}, row.rank),
            tag("td", {"style": right}, signed(row.effect)),
            tag("td", {"style": f"{whole};{css(min_width='94px')}"}, tag("span", {"style": bar}, "")),
            *([] if blame.is_fitted else [tag("td", {"style": whole}, row.without)]),
            tag("td", {"style": f"{whole};{css(opacity='0.65')}"}, row.role),
            tag("td", {"style": cell}, row.text),
        ]
        body.append(tag("tr", {}, *cells))
    style = css(border_collapse="collapse", font_size="13px", margin="4px 0 8px 0")
    return tag("table", {"style": style}, tag("tr", {}, *head), *body)


def text(blame: Blame, spell: Spell) -> str:
    """The same as lines: headings, then a row for each piece."""
    lines = [heading(blame, spell), method(blame), quality(blame)[0], cost(blame)]
    for row in table_rows(blame, spell):
        without = f"{row.without:<16}" if row.without else ""
        lines.append(f"{row.rank:>4}{signed(row.effect):>9}  {without}{row.role:<10}{row.text}".rstrip())
    return legible("\n".join(lines))
