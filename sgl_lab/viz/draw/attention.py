"""Where a token's attention lay: the prompt as tokens, shaded, each head's strongest place, and next
to it what blame found. The text says that attention is no explanation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from ...contracts.legible import clipped, legible
from ...contracts.spans import is_inside
from ..explain.attention import Attention, compared
from ..explain.attribution.blame import Blame
from . import palette
from .blame import signed
from .escape import Child, Markup, css, tag
from .html import details, grid, note
from .numbers import counted, percent

Spell = Callable[[int], str]

INK = palette.CHOICE.both
MOST_TOKENS = 800
"""drawn; of a longer prompt those that are read least are left out"""
MOST_CELLS = 1_600
"""heads that are drawn"""
WARNING = (
    "Attention is where the model read, not why it answered so: heads also rest on tokens that change nothing, and what is read "
    "early is carried on by later layers."
)


def heading(found: Attention, spell: Spell) -> str:
    return f"{clipped(found.title, 100)}: where the attention lay that drew {quoted(spell(found.token))}, token {found.at} of the answer"


def quoted(text: str) -> str:
    return f"“{clipped(text.replace(' ', '␣'), 40)}”"


def scope(found: Attention) -> str:
    n_layers, n_heads = len(found.peaks), len(found.peaks[0]) if found.peaks else 0
    if found.layer is None:
        over = f"Mean of {counted(n_layers, 'layer')} with {counted(n_heads, 'head')} each"
    elif found.head is None:
        over = f"Layer {found.layer} of 0 to {n_layers - 1}, mean of its {counted(n_heads, 'head')}"
    else:
        over = f"Layer {found.layer}, head {found.head}"
    first = f"the first token takes {percent(found.weights[0])}" if found.weights else ""
    return f"{over}, over {counted(len(found.ids), 'token')}; {first}, as it does whatever it is, so the shades are those of the others."


def how_to_blame(found: Attention) -> str:
    return f"`%sgl blame {clipped(found.title, 60)}` says which pieces of the prompt the answer depends on."


class Chip(NamedTuple):
    position: int | None
    """None for tokens that are left out, `weight` of them together"""
    text: str
    weight: float
    n: int = 1


def chips(found: Attention, spell: Spell) -> Iterator[Chip]:
    """The tokens in order. The positions of an image are one chip."""
    order = sorted(range(len(found.ids)), key=lambda at: (-found.weights[at], at))
    shown = set(order[:MOST_TOKENS]) | {0}
    left: list[float] = []
    at = 0
    while at < len(found.ids):
        end = at + 1
        while end < len(found.ids) and is_inside(found.ids[end]):
            end += 1
        if at in shown or end > at + 1:
            if left:
                yield Chip(None, "", sum(left), len(left))
                left = []
            yield Chip(at, spell(found.ids[at]), found.share(at, end), end - at)
        else:
            left.append(found.weights[at])
        at = end
    if left:
        yield Chip(None, "", sum(left), len(left))


def html(found: Attention, spell: Spell, blame: Blame | None = None) -> Markup:
    drawn = list(chips(found, spell))
    largest = max([chip.weight for chip in drawn if chip.position], default=0.0)
    row = css(display="flex", flex_wrap="wrap", gap="3px 2px", margin="6px 0 10px 0")
    body: list[Child] = [
        tag("div", {"style": css(font_weight="600")}, heading(found, spell)),
        note(scope(found)),
        tag("div", {"style": row}, *(_chip(chip, found, largest) for chip in drawn)),
        tag("div", {"style": css(font_size="13px", line_height="1.5", margin="8px 0")}, WARNING),
        note(how_to_blame(found)) if blame is None else _compared(found, blame),
    ]
    if found.peaks and len(found.peaks) * len(found.peaks[0]) <= MOST_CELLS:
        body.append(details("Each head: its largest weight after the first token", _heads(found, spell)))
    return tag("div", {"style": css(font_size="14px", line_height="1.6", margin="4px 0 12px 0")}, *body)


def _chip(chip: Chip, found: Attention, largest: float) -> Markup:
    if chip.position is None:
        words = f"… {counted(chip.n, 'more token')}, {percent(chip.weight)} …"
        return tag("span", {"style": css(font_size="12px", opacity="0.65", padding="0 8px")}, words)
    strength = 0.0 if not chip.position or not largest else round(min(1.0, chip.weight / largest) * 0.7, 2)
    is_answer = chip.position >= found.n_prompt
    edge = f"2px solid {palette.GENERATED.both}" if is_answer else "2px solid rgba(128,128,128,0.25)"
    box = css(
        display="inline-block",
        text_align="center",
        border_bottom=edge,
        background_color=palette.tint(INK, strength),
        border_radius="3px",
        padding="0 3px",
    )
    where = f"{'the answer before it' if is_answer else 'the prompt'}, position {chip.position}"
    text = tag("span", {"style": css(display="block", font_family="monospace", font_size="13px", white_space="pre")}, _visible(chip.text))
    below = tag("span", {"style": css(display="block", font_size="10px", line_height="1.3", opacity="0.7")}, brief(chip.weight))
    return tag("span", {"title": f"{percent(chip.weight)} of the attention\n{where}", "style": box}, text, below)


def brief(weight: float) -> str:
    """Below a chip; nothing for less than half a percent."""
    return f"{100 * weight:.0f}%" if weight >= 0.005 else "·"


def _visible(text: str) -> str:
    return clipped(legible(text).replace("\n", "↵").replace(" ", "␣"), 60) or "∅"


def table(found: Attention, blame: Blame) -> list[tuple[str, str, str]]:
    """Blame's first pieces with both measures, below headings."""
    rows = [(f"{signed(one.effect)} nats", percent(one.share), f"“{clipped(one.text.strip(), 100)}”") for one in compared(found, blame)]
    return [("blame", "attention", f"{blame.by} of the largest effect on the answer"), *rows]


def _compared(found: Attention, blame: Blame) -> Markup:
    return grid(table(found, blame), unbroken=(0, 1))


def _heads(found: Attention, spell: Spell) -> Markup:
    largest = max((peak.weight for layer in found.peaks for peak in layer), default=0.0) or 1.0
    name = css(padding="0 8px 0 0", text_align="right", border="none", font_size="11px", opacity="0.7", background="transparent")
    head = [tag("td", {"style": name}, "")] + [
        tag("td", {"style": f"{name};{css(text_align='center')}"}, n) for n in range(len(found.peaks[0]))
    ]
    rows = [tag("tr", {}, *head)]
    for layer, peaks in enumerate(found.peaks):
        cells: list[Child] = [tag("td", {"style": name}, f"layer {layer}")]
        for number, (position, weight) in enumerate(peaks):
            fill = palette.tint(INK, round(0.05 + 0.75 * weight / largest, 2))
            there = "" if position is None else f" on {quoted(spell(found.ids[position]))}, position {position}"
            cell = css(
                width="22px",
                height="16px",
                padding="0",
                border="1px solid transparent",
                background_color=fill,
                background_clip="padding-box",
            )
            cells.append(tag("td", {"style": cell, "title": f"layer {layer}, head {number}: {percent(weight)}{there}"}, ""))
        rows.append(tag("tr", {}, *cells))
    return tag("table", {"style": css(border_collapse="collapse", margin="6px 0")}, *rows)


def text(found: Attention, spell: Spell, blame: Blame | None = None, n: int = 12) -> str:
    """As lines: the tokens that were read most, after the first one."""
    order = sorted((chip for chip in chips(found, spell) if chip.position), key=lambda chip: -chip.weight)
    rows = [f"{percent(chip.weight):>8}  {chip.position:>6}  {_visible(chip.text)}" for chip in order[:n]]
    beside = [how_to_blame(found)] if blame is None else [f"{a:<12}{b:<12}{c}" for a, b, c in table(found, blame)]
    return legible("\n".join([heading(found, spell), scope(found), *rows, WARNING, *beside]))
