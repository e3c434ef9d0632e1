"""Experts in colours, each with its number, and the load of each in a table."""

from __future__ import annotations

from ..views.experts import Load, Routes
from . import palette
from .escape import Child, Markup, css, tag
from .html import details, note
from .numbers import counted, percent

INKS = ("#4470ee", "#e0651a", "#1fa287", "#ab2f98", "#a88400", "#d0405f", "#5c8f1f", "#6e7b91")
"""of experts 0 to 7, and again from 8 on"""
MOST_CELLS = 2_048
"""of the table; of a larger model all layers are shown together"""


def ink(expert: int) -> str:
    return INKS[expert % len(INKS)]


def noted(routes: Routes | None, position: int) -> tuple[int | None, str]:
    """The expert that a token is coloured by, and the words for it."""
    found = None if routes is None else routes.first(position)
    if routes is None or found is None:
        return None, ""
    expert, n = found
    if len(routes.layers) == 1:
        others = ", ".join(str(ord(char) - 48) for char in routes.at[position][1:])
        return expert, f"expert {expert} in layer {routes.layers[0]}" + (f", then {others}" if others else "")
    return expert, f"expert {expert} first in {n} of {counted(len(routes.layers), 'layer')}"


def legend(load: Load) -> str:
    return (
        f"{counted(load.n_tokens, 'token')} computed in this run, each by {load.top_k} of {load.count} experts in each of "
        f"{counted(len(load.layers), 'layer')}. A token has the colour and the number of the expert that most layers weighted "
        "highest; one that was cached before the run, or drawn last, has none."
    )


def _rows(load: Load) -> list[tuple[str, int | None]]:
    rows: list[tuple[str, int | None]] = [("all layers", None)]
    if len(load.layers) > 1 and load.count * len(load.layers) <= MOST_CELLS:
        rows += [(f"layer {layer}", place) for place, layer in enumerate(load.layers)]
    return rows


def html(load: Load) -> Markup:
    """The share of each expert, in all layers and folded away in each; an even share is half filled."""
    whole, *by_layer = _rows(load)
    parts: list[Child] = [note(legend(load)), _table(load, [whole])]
    parts += [details("Load of each layer", _table(load, by_layer))] if by_layer else []
    return tag("div", {"style": css(overflow_x="auto", margin="4px 0 12px 0", font_size="14px", line_height="1.6")}, *parts)


def _table(load: Load, rows: list[tuple[str, int | None]]) -> Markup:
    cell = css(padding="1px 6px", text_align="right", border="none", font_size="12px", line_height="1.5", min_width="34px")
    head = f"{cell};{css(font_weight='600')}"
    names: list[Child] = [tag("th", {"style": head}, "")]
    names += [tag("th", {"style": f"{head};{css(border_bottom=f'2px solid {ink(expert)}')}"}, f"E{expert}") for expert in range(load.count)]
    body: list[Child] = []
    for name, place in rows:
        cells: list[Child] = [tag("td", {"style": f"{cell};{css(text_align='left', opacity='0.75', white_space='nowrap')}"}, name)]
        for expert in range(load.count):
            share = load.share(expert, place)
            fill = palette.tint(ink(expert), round(min(1.0, share * load.count / 2) * 0.8, 2))
            cells.append(tag("td", {"style": f"{cell};{css(background_color=fill)}"}, percent(share)))
        body.append(tag("tr", {}, *cells))
    return tag("table", {"style": css(border_collapse="collapse", margin="6px 0")}, tag("tr", {}, *names), *body)


def text(load: Load) -> str:
    heads = "".join(f"{f'E{expert}':>8}" for expert in range(load.count))
    rows = [f"{name:<12}" + "".join(f"{percent(load.share(e, place)):>8}" for e in range(load.count)) for name, place in _rows(load)]
    return "\n".join((legend(load), f"{'':<12}{heads}", *rows))
