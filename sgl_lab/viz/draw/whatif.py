"""The counts under other policies and cache sizes: a plotly figure, a still picture and a table of
the same numbers.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

from ...contracts.legible import clipped
from ...contracts.policies import BELADY
from . import chart, palette
from .escape import Markup, css, tag
from .numbers import counted, percent

COLORS = (palette.CACHED, palette.COMPUTED, palette.GENERATED, palette.CHOICE, palette.FORCED, palette.LOCKED)
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
SYMBOLS = ("circle", "square", "triangle-up", "diamond", "x", "cross")


class Counts(Protocol):
    """An outcome of `Lab.what_if`, as far as it is drawn."""

    @property
    def evict(self) -> str: ...
    @property
    def n_pages(self) -> int: ...
    @property
    def prompt_tokens(self) -> int: ...
    @property
    def cached_prompt_tokens(self) -> int: ...
    @property
    def computed_tokens(self) -> int: ...
    @property
    def evicted_tokens(self) -> int: ...
    @property
    def preemptions(self) -> int: ...
    @property
    def n_refused(self) -> int: ...
    @property
    def hit_rate(self) -> float: ...


@dataclass(frozen=True, slots=True)
class WhatIf:
    run: str
    outcomes: tuple[Counts, ...]
    page_size: int
    n_tokens: int | None
    """actual size of the cache in the run; None to leave it unmarked"""

    def size(self, outcome: Counts) -> int:
        return outcome.n_pages * self.page_size

    @property
    def policies(self) -> list[str]:
        """The policies, with the optimum last so that it is drawn over the others."""
        return sorted(dict.fromkeys(outcome.evict for outcome in self.outcomes), key=lambda name: name == BELADY)

    @property
    def sizes(self) -> list[int]:
        return sorted({self.size(outcome) for outcome in self.outcomes})

    def of(self, policy: str) -> list[Counts]:
        """The outcomes of a policy, by size. Outcomes with refused requests are left out: their hit
        rate is that of other requests.
        """
        return sorted((one for one in self.outcomes if one.evict == policy and not one.n_refused), key=lambda one: one.n_pages)


def name(policy: str) -> str:
    return "optimum (Belady)" if policy == BELADY else policy


def heading(found: WhatIf) -> str:
    return f"{clipped(found.run, 60)}: hit rate under other cache sizes and policies"


def alike(found: WhatIf) -> list[tuple[str, list[str]]]:
    """Groups of policies that have the same hit rate at every size, as (label, policies)."""
    groups: dict[tuple[tuple[int, float], ...], list[str]] = {}
    for policy in found.policies:
        groups.setdefault(tuple((one.n_pages, one.hit_rate) for one in found.of(policy)), []).append(policy)
    return [(called(group, found.policies), group) for group in groups.values()]


def called(group: Sequence[str], policies: Sequence[str]) -> str:
    if len(group) == len(policies) > 1:
        return "both policies" if len(group) == 2 else f"all {len(group)} policies"
    return name(group[0]) if len(group) == 1 else ", ".join(policy if policy != BELADY else "Belady" for policy in group)


def picture(found: WhatIf) -> Markup:
    lines = [(title, found.of(group[0])) for title, group in alike(found)]
    series = [chart.Series(title, tuple((found.size(one), one.hit_rate) for one in points)) for title, points in lines]
    at, words = found.n_tokens, f"actual cache: {found.n_tokens:,}" if found.n_tokens else ""
    note = f"hit rate against the size of the cache in tokens, {clipped(found.run, 40)}"
    return chart.shares("What if", note, series, lambda x: f"{x:,.0f}", log=True, at=at, at_words=words)


def figure(found: WhatIf) -> dict[str, object]:
    """The same picture as plotly's own JSON. All names are ours, because plotly interprets markup
    in texts.
    """
    import plotly.graph_objects as go  # type: ignore[import-untyped, unused-ignore]

    drawn = go.Figure()
    for number, (title, group) in enumerate(alike(found)):
        style = number % len(COLORS)
        points = found.of(group[0])
        drawn.add_scatter(
            x=[found.size(one) for one in points],
            y=[one.hit_rate for one in points],
            customdata=[[one.cached_prompt_tokens, one.prompt_tokens, one.evicted_tokens, one.preemptions] for one in points],
            name=title,
            mode="lines+markers",
            line={"color": COLORS[style].both, "dash": DASHES[style], "width": 3 if BELADY in group else 2},
            marker={"symbol": SYMBOLS[style], "size": 9},
            hovertemplate="%{x:,} tokens of cache: %{y:.1%}<br>%{customdata[0]:,} of %{customdata[1]:,} from the cache"
            "<br>%{customdata[2]:,} evicted, %{customdata[3]:,} preempted",
        )
    if found.n_tokens:
        words = f"actual cache: {found.n_tokens:,}"
        drawn.add_vline(x=found.n_tokens, line_dash="dash", line_color=palette.LOCKED.both, annotation_text=words)
    sizes = {"tickvals": found.sizes, "ticktext": [f"{n:,}" for n in found.sizes]}
    grid = "rgba(127,127,127,0.25)"
    drawn.update_layout(
        template="none",
        height=360,
        margin={"l": 60, "r": 20, "t": 30, "b": 50},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"color": palette.LOCKED.both},
        xaxis={"type": "log", "title": {"text": "cache, tokens"}, **sizes, "gridcolor": grid},
        yaxis={"title": {"text": "hit rate"}, "range": [0, 1.03], "tickformat": ".0%", "gridcolor": grid},
        legend={"orientation": "h", "y": 1.12},
        hovermode="x unified",
        hoverlabel={"namelength": -1},
    )
    whole: dict[str, object] = json.loads(drawn.to_json())
    return whole


# ---------------------------------------------------------------- table


def rows(found: WhatIf) -> list[tuple[str, ...]]:
    """Rows of the table. Policies with equal counts at a size share a row; columns without
    information are left out.
    """
    head = ("cache", "policy", "hit rate", "from the cache", "computed", "evicted", "preempted", "refused")
    body = []
    for size in found.sizes:
        groups: dict[tuple[str, ...], list[str]] = {}
        for policy in found.policies:
            for one in found.outcomes:
                if one.evict == policy and found.size(one) == size:
                    groups.setdefault(_counts(one), []).append(policy)
        where = f"{size:,}" + (" ◂ actual" if size == found.n_tokens else "")
        for counts, group in groups.items():
            title = "optimum (Belady)" if group == [BELADY] else called(group, found.policies)
            body.append((where, title, *counts))
    kept = [n for n in range(len(head)) if n < _N_ALWAYS or any(row[n] not in ("", "0") for row in body)]
    return [tuple(row[n] for n in kept) for row in (head, *body)]


_N_ALWAYS = 5
"""columns that are always present"""


def _counts(one: Counts) -> tuple[str, ...]:
    return (
        "" if one.n_refused else percent(one.hit_rate),
        f"{one.cached_prompt_tokens:,}",
        f"{one.computed_tokens:,}",
        f"{one.evicted_tokens:,}",
        f"{one.preemptions:,}",
        f"{one.n_refused:,}" if one.n_refused else "",
    )


def notes(found: WhatIf) -> list[str]:
    """Remarks: what the numbers show, and what they do not cover."""
    remarks = []
    best = [one.hit_rate for one in found.of(BELADY)]
    if best:
        top = max(best)
        enough = min(found.size(one) for one in found.of(BELADY) if one.hit_rate >= top - 1e-9)
        remarks.append(f"served one after the other, no policy could exceed {percent(top)}; a cache of {enough:,} tokens could reach it")
    by_size = [pair for policy in found.policies if policy != BELADY for pair in pairwise(found.of(policy))]
    if any(larger.hit_rate < smaller.hit_rate - 1e-9 for smaller, larger in by_size):
        remarks.append(
            "a larger cache can have a lower hit rate: in a small one, requests wait for each other and find each other's results"
        )
    if len(found.policies) > 1 and len(alike(found)) == 1:
        remarks.append(f"{called(found.policies, found.policies)} agree at every size: the order of eviction does not matter here")
    refused = max((one.n_refused for one in found.outcomes), default=0)
    if refused:
        remarks.append(f"a size too small for {counted(refused, 'request')} has no hit rate")
    return remarks


def text(found: WhatIf) -> str:
    table = rows(found)
    widths = [max(len(row[n]) for row in table) for n in range(len(table[0]))]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table]
    return "\n".join([heading(found), *lines, *notes(found)])


def html(found: WhatIf) -> Markup:
    cell = css(padding="1px 16px 1px 0", border="none", background="transparent", text_align="right", white_space="nowrap")
    head, *body = rows(found)
    lines = [tag("tr", {"style": css(opacity="0.65")}, *(tag("td", {"style": cell}, word) for word in head))]
    for row in body:
        weight = css(font_weight="600") if "◂" in row[0] else ""
        lines.append(tag("tr", {"style": weight or False}, *(tag("td", {"style": cell}, word) for word in row)))
    table = css(border_collapse="collapse", font_size="13px", margin="4px 0", font_variant_numeric="tabular-nums")
    remarks = [tag("div", {"style": css(font_size="13px")}, note) for note in notes(found)]
    return tag("div", {}, tag("table", {"style": table}, *lines), *remarks)
