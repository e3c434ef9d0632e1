"""The servers behind a router, as a table: health, load, hits, and which forks of this notebook
each served.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ...contracts.events import CellStarted, Entry, ForkOpened
from ...contracts.ids import ForkId, RunId
from ...contracts.legible import clipped
from . import palette
from .escape import Child, Markup, css, tag
from .html import RULE
from .numbers import counted, percent

HEADINGS = ("worker", "state", "under way", "requests", "cached of its prompt tokens", "served from here")
MAX_NAMES = 6
"""forks that are named; the others are counted"""


@dataclass(frozen=True, slots=True)
class WorkerRow:
    """One server. A count that it does not publish is None."""

    place: str
    """host:port"""
    is_healthy: bool
    load: int | None
    """requests that the router has sent it and that are not answered"""
    n_requests: int | None
    """answered since it began, for all clients"""
    n_prompt: int | None
    n_cached: int | None
    forks: tuple[tuple[str, int], ...]
    """names of forks of this notebook, and how many of their requests it answered; most first"""

    @property
    def hit_rate(self) -> float | None:
        return None if not self.n_prompt or self.n_cached is None else self.n_cached / self.n_prompt


def fork_names(entries: Iterable[Entry]) -> dict[ForkId, str]:
    """The run's title and the fork's label, such as `In[3] s[1]`."""
    titles: dict[RunId, str] = {}
    names: dict[ForkId, str] = {}
    for entry in entries:
        match entry.event:
            case CellStarted(run=run, title=title):
                titles[run] = title
            case ForkOpened(run=run, fork=fork, parent=parent, index=index, label=label):
                label = label or ("main" if parent is None else f"fork {index + 1}")
                names[fork] = f"{titles.get(run, f'program {run}')} {label}"
            case _:
                pass
    return names


def table(rows: Sequence[WorkerRow]) -> list[tuple[str, ...]]:
    """As text, below the headings."""
    return [HEADINGS, *((*_facts(row)[:4], _hits(row), _forks(row)) for row in rows)]


def html(rows: Sequence[WorkerRow]) -> Markup:
    cell = css(padding="3px 18px 3px 0", text_align="left", border="none", background="transparent", vertical_align="top")
    head = tag("tr", {}, *(tag("th", {"style": f"{cell};{css(font_weight='600', opacity='0.65')}"}, name) for name in HEADINGS))
    body = []
    for row in rows:
        place, state, *numbers = _facts(row)
        ink = palette.GENERATED if row.is_healthy else palette.CHOICE
        health = tag("span", {"style": css(color=ink.both, white_space="nowrap")}, state)
        cells: list[Child] = [place, health, *numbers, _bar(row), _forks(row)]
        body.append(tag("tr", {"style": css(border_top=RULE)}, *(tag("td", {"style": cell}, each) for each in cells)))
    whole = tag("table", {"style": css(border_collapse="collapse", font_size="13px", line_height="1.5", margin="4px 0")}, head, *body)
    return tag("div", {"style": css(overflow_x="auto")}, whole)


def _facts(row: WorkerRow) -> tuple[str, str, str, str]:
    load, n_requests = ("–" if n is None else f"{n:,}" for n in (row.load, row.n_requests))
    return clipped(row.place, 60), "● healthy" if row.is_healthy else "✕ not healthy", load, n_requests


def _hits(row: WorkerRow) -> str:
    if row.hit_rate is None:
        return "not published" if row.n_prompt is None else "–"
    return f"{percent(row.hit_rate)}  ({row.n_cached:,} of {row.n_prompt:,})"


def _bar(row: WorkerRow) -> Markup:
    words = tag("div", {"style": css(white_space="nowrap")}, _hits(row))
    if row.hit_rate is None:
        return words
    done = tag("div", {"style": css(background_color=palette.CACHED.both, width=f"{100 * row.hit_rate:.0f}%", height="4px")})
    track = css(background_color="rgba(127,127,127,0.22)", width="140px", height="4px", border_radius="2px", overflow="hidden")
    return tag("div", {}, words, tag("div", {"style": track}, done))


def _forks(row: WorkerRow) -> str:
    if not row.forks:
        return "nothing"
    named = [f"{clipped(name, 40)}{f' × {n:,}' if n > 1 else ''}" for name, n in row.forks[:MAX_NAMES]]
    more = len(row.forks) - len(named)
    return ", ".join(named) + (f", and {counted(more, 'more fork')}" if more else "")
