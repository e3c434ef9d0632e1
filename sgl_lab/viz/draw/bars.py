"""Measured numbers as bars: a plotly figure, and the same as a still picture."""

from __future__ import annotations

import json
from dataclasses import dataclass

from ...contracts.legible import clipped
from . import palette
from .escape import Markup, css, tag

COLORS = (palette.CACHED, palette.GENERATED, palette.CHOICE, palette.FORCED)


@dataclass(frozen=True, slots=True)
class Series:
    """Values from 0 on, one for each name; `texts` are how they are written."""

    title: str
    values: tuple[float, ...]
    texts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Bars:
    title: str
    names: tuple[str, ...]
    series: tuple[Series, ...]

    @property
    def top(self) -> float:
        return max((value for one in self.series for value in one.values), default=0.0) or 1.0


def figure(bars: Bars) -> dict[str, object]:
    """As plotly's own JSON. Names are clipped and plain, because plotly interprets markup in texts."""
    import plotly.graph_objects as go  # type: ignore[import-untyped, unused-ignore]

    drawn = go.Figure()
    for number, one in enumerate(bars.series):
        drawn.add_bar(
            y=list(bars.names),
            x=list(one.values),
            text=list(one.texts),
            textposition="outside",
            cliponaxis=False,
            name=one.title,
            orientation="h",
            marker={"color": COLORS[number % len(COLORS)].both},
            hovertemplate="%{y}: %{text}<extra>" + one.title + "</extra>",
        )
    grid = "rgba(127,127,127,0.25)"
    drawn.update_layout(
        template="none",
        height=110 + len(bars.names) * (14 + 18 * len(bars.series)),
        margin={"l": 140, "r": 60, "t": 64, "b": 20},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"color": palette.LOCKED.both},
        title={"text": bars.title, "font": {"size": 14}, "x": 0.0, "xref": "container", "y": 0.97, "yanchor": "top"},
        xaxis={"range": [0, 1.15 * bars.top], "gridcolor": grid, "showticklabels": False},
        yaxis={"autorange": "reversed"},
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "traceorder": "normal"},
        bargap=0.25,
    )
    whole: dict[str, object] = json.loads(drawn.to_json())
    return whole


def still(bars: Bars) -> Markup:
    rows = []
    name_cell = css(padding="3px 12px 3px 0", text_align="right", white_space="nowrap", border="none", background="transparent")
    bar_cell = css(padding="3px 0", width="100%", border="none", background="transparent", text_align="left")
    for i, name in enumerate(bars.names):
        lines = []
        for number, one in enumerate(bars.series):
            width = f"{80 * one.values[i] / bars.top:.1f}%"
            color = COLORS[number % len(COLORS)].both
            ink = css(display="inline-block", height="10px", width=width, background=color, border_radius="2px")
            word = tag("span", {"style": css(padding_left="6px", font_size="12px")}, one.texts[i])
            lines.append(tag("div", {"style": css(white_space="nowrap", line_height="14px")}, tag("span", {"style": ink}), word))
        rows.append(tag("tr", {}, tag("td", {"style": name_cell}, clipped(name, 40)), tag("td", {"style": bar_cell}, *lines)))
    key = css(padding_right="14px", white_space="nowrap")
    keys = [
        tag("span", {"style": key}, tag("span", {"style": css(color=ink.both)}, "■ "), one.title)
        for ink, one in zip(COLORS, bars.series, strict=False)
    ]
    table = css(border_collapse="collapse", font_size="13px", width="100%", max_width="860px", font_variant_numeric="tabular-nums")
    head = tag("div", {"style": css(font_size="13px", font_weight="600", margin="6px 0 2px")}, bars.title)
    return tag("div", {}, head, tag("div", {"style": css(font_size="12px")}, *keys), tag("table", {"style": table}, *rows))
