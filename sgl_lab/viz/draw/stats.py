"""An engine's counters as a small table: counts by what they count, time by part of a step.

The table shows every counter that it is given. The ending of a counter's name determines its
section. Names that are not self-explanatory are replaced.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ...contracts.legible import legible
from ..views.hits import Hits
from . import chart, palette
from .escape import Markup, css, tag
from .html import picture
from .numbers import counted, duration, money, percent

Stats = Mapping[str, float | str]

_PART_OF = {
    "cached_prompt_tokens": "prompt_tokens",
    "accepted_tokens": "drafted_tokens",
    "pages_free": "pages_total",
    "pages_pinned": "pages_total",
}
_NAMES = {
    "cached_prompt_tokens": "prompt cached",
    "cached_tokens": "cached in total",
    "computed_tokens": "computed",
    "recomputed_tokens": "computed again",
    "forced_tokens": "forced",
    "drafted_tokens": "drafted",
    "accepted_tokens": "accepted",
    "rejected_tokens": "rejected",
    "overrun_tokens": "past the end",
    "masks_s": "constraint masks",
    "commit_s": "commit results",
    "listeners_s": "notify programs",
    "events_s": "notify views",
    "evictions": "nodes evicted",
    "requests_stop": "ended by a stop",
    "requests_length": "ended by length",
    "requests_abort": "aborted",
    "requests_error": "failed",
    "answered": "answered",
    "uncounted": "without a count of hits",
    "unpriced": "of unknown cost",
    "step_ms": "time of a step",
    "step_rows": "rows in a step",
    "step_base_ms": "cost of a step",
    "step_row_ms": "cost of a row",
    "step_token_ms": "cost of a draft",
}
_INKS = {"cached_prompt_tokens": palette.CACHED, "computed_tokens": palette.COMPUTED, "generated_tokens": palette.GENERATED}


@dataclass(frozen=True, slots=True)
class Row:
    name: str
    value: str
    share: float | None = None
    """share of the whole that this is a part of, from 0 to 1"""
    ink: palette.Ink = palette.LOCKED


@dataclass(frozen=True, slots=True)
class Section:
    name: str
    rows: tuple[Row, ...]


def sections(stats: Stats) -> tuple[Section, ...]:
    """Every counter once, in the order of the engine."""
    rows: dict[str, list[Row]] = {"tokens": [], "time": [], "cache": [], "requests": [], "steps": []}
    whole_s = sum(float(value) for key, value in stats.items() if key.endswith("_s"))
    for key, value in stats.items():
        if isinstance(value, str):  # the currency of the cost
            continue
        section, name = _section_of(key)
        if key == "cost":
            row = Row(name, money(value, currency) if (currency := str(stats.get("currency", ""))) else "unknown")
        elif section == "time":
            row = Row(name, duration(1000 * value), value / whole_s if whole_s else 0.0)
        elif key.endswith("_rate"):
            row = Row(name, percent(value))
        else:
            whole = float(stats.get(_PART_OF.get(key, ""), 0))
            row = Row(name, _number(key, value), value / whole if whole else None, _INKS.get(key, palette.LOCKED))
        rows[section].append(row)
    return tuple(Section(name, tuple(found)) for name, found in rows.items() if found)


_OF_REQUESTS = ("answered", "uncounted", "unpriced", "cost")


def _section_of(key: str) -> tuple[str, str]:
    """The section of a counter, and its name there."""
    words = _NAMES.get(key, key.replace("_", " "))
    if key.endswith("_tokens"):
        return "tokens", words.removesuffix(" tokens")
    if key.endswith("_rate"):
        return "tokens", words
    if key.endswith("_s"):
        return "time", words.removesuffix(" s")
    if key in _OF_REQUESTS:
        return "requests", words
    if key.startswith("requests_"):
        return "requests", words.removeprefix("requests ")
    if key.startswith("step"):
        return "steps", words
    return ("requests" if key == "preemptions" else "cache"), words


def _number(key: str, value: float) -> str:
    if key.endswith("_ms"):
        return duration(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:,.1f}"


MAX_POINTS = 400
N_COLUMNS = 3


def curve(points: Sequence[Hits]) -> Markup:
    """The cumulative hit rate after each request, and each request's own rate if there are few."""
    step = -(-len(points) // MAX_POINTS) or 1
    shown = [(number, point) for number, point in enumerate(points, 1) if number % step == 0 or number == len(points)]
    series = [chart.Series("of all so far", tuple((number, point.rate) for number, point in shown))]
    if len(points) <= chart.MAX_MARKS:
        series.append(chart.Series("of each request", tuple((n, point.n_cached / max(1, point.n_prompt)) for n, point in shown)))
    note = f"{counted(len(points), 'request')}, {percent(points[-1].rate)} of all prompt tokens came from the cache"
    return chart.shares("Hit rate", note, series, lambda x: f"{x:,.0f}")


def text(title: str, stats: Stats) -> str:
    lines = [legible(title)]
    for section in sections(stats):
        for n, row in enumerate(section.rows):
            share = "" if row.share is None else f"  {percent(row.share)}"
            lines.append(f"{'' if n else section.name:<10}{row.name:<18}{row.value:>12}{share}")
    return "\n".join(lines)


def html(title: str, stats: Stats, points: Sequence[Hits] = ()) -> Markup:
    head = tag("div", {"style": css(font_weight="600", margin_bottom="8px")}, title)
    columns = css(display="flex", flex_wrap="wrap", column_gap="24px", row_gap="14px")
    frame = css(border="1px solid rgba(127,127,127,0.22)", border_radius="8px", padding="14px 18px", margin="4px 0", font_size="13px")
    drawn = []
    if len(points) > 1:
        still = picture(curve(points), f"hit rate after each of {len(points)} requests")
        drawn.append(tag("div", {"style": css(margin_top="14px")}, still))
    return tag("div", {"style": frame}, head, tag("div", {"style": columns}, *map(_column, _columns(sections(stats)))), *drawn)


def _columns(found: Sequence[Section]) -> list[list[Section]]:
    """The sections in order, each in the column that is shortest so far."""
    columns: list[list[Section]] = [[] for _ in range(N_COLUMNS)]
    for section in found:
        min(columns, key=lambda column: sum(2 + len(above.rows) for above in column)).append(section)
    return columns


def _column(found: Sequence[Section]) -> Markup:
    return tag("div", {"style": css(display="flex", flex_direction="column", row_gap="14px")}, *map(_table, found))


def _table(section: Section) -> Markup:
    heading = css(font_size="11px", letter_spacing="0.06em", text_transform="uppercase", opacity="0.6", margin_bottom="4px")
    table = css(border_collapse="collapse", font_size="13px", margin="0", font_variant_numeric="tabular-nums")
    return tag(
        "div", {}, tag("div", {"style": heading}, section.name), tag("table", {"style": table}, *(_line(row) for row in section.rows))
    )


def _line(row: Row) -> Markup:
    cell = css(padding="1px 14px 1px 0", border="none", background="transparent", text_align="left", white_space="nowrap")
    number = css(padding="1px 10px 1px 0", border="none", background="transparent", text_align="right", white_space="nowrap")
    return tag(
        "tr",
        {},
        tag("td", {"style": f"{cell};{css(opacity='0.65')}"}, row.name),
        tag("td", {"style": f"{number};{css(opacity='0.5') if row.value == '0' else css(font_weight='600')}"}, row.value),
        tag("td", {"style": cell}, *([] if row.share is None else [_bar(row)])),
    )


def _bar(row: Row) -> Markup:
    share = row.share or 0.0
    track = css(
        display="inline-block", width="44px", height="6px", border_radius="3px", overflow="hidden", background="rgba(127,127,127,0.18)"
    )
    filled = css(display="block", width=f"{100 * share:.1f}%", height="6px", background=row.ink.both)
    words = css(opacity="0.65", font_size="12px", margin_left="8px")
    return tag("span", {}, tag("span", {"style": track}, tag("span", {"style": filled})), tag("span", {"style": words}, percent(share)))
