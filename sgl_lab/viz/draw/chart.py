"""A line chart as a still picture. Each line has its own colour, dash and mark."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ...contracts.legible import clipped
from . import canvas
from .canvas import WIDTH
from .escape import Markup, tag

HEIGHT = 300
LEFT, RIGHT, TOP, BOTTOM = 64, WIDTH - 30, 56, HEIGHT - 62
STYLES = (
    ("cached", "circle", ""),
    ("computed", "square", "6 3"),
    ("generated", "triangle", "2 3"),
    ("choice", "diamond", "9 3 2 3"),
    ("forced", "square", "4 4"),
    ("locked", "circle", "1 4"),
)
"""colour, mark and dash of each line, by its index"""
MAX_MARKS = 40


@dataclass(frozen=True, slots=True)
class Series:
    name: str
    points: tuple[tuple[float, float], ...]
    """(x, share from 0 to 1), ascending in x"""


def shares(
    title: str,
    note: str,
    series: Sequence[Series],
    x_words: Callable[[float], str],
    *,
    log: bool = False,
    at: float | None = None,
    at_words: str = "",
) -> Markup:
    """Shares from 0 to 100 % over x. `at` is an x to mark with a vertical line."""
    xs = [x for one in series for x, _ in one.points] + ([at] if at is not None else [])
    low, high = min(xs, default=0.0), max(xs, default=1.0)

    def scaled(x: float) -> float:
        return math.log(max(x, 1e-9)) if log else x

    def x_of(x: float) -> float:
        span = scaled(high) - scaled(low)
        return LEFT + (RIGHT - LEFT) * ((scaled(x) - scaled(low)) / span if span else 0.5)

    def y_of(share: float) -> float:
        return BOTTOM - (BOTTOM - TOP) * min(max(share, 0.0), 1.0)

    parts = [canvas.heading(clipped(title, 60), clipped(note, 90))]
    for quarter in range(5):
        y = y_of(quarter / 4)
        parts += [canvas.line(LEFT, y, RIGHT, y, "grid"), canvas.text(LEFT - 10, y + 4, f"{25 * quarter} %", "muted small", "end")]
    ticks = _ticks(sorted(set(xs)), x_of)
    parts += [canvas.text(x_of(x), BOTTOM + 18, x_words(x), "muted small", "middle") for x in ticks]
    if at is not None:
        is_right = x_of(at) > WIDTH / 2
        parts.append(canvas.line(x_of(at), TOP - 6, x_of(at), BOTTOM, "rail", dashed=True))
        parts.append(canvas.text(x_of(at) + (-6 if is_right else 6), BOTTOM - 8, at_words, "small", "end" if is_right else "start"))
    for number, one in enumerate(series):
        color, mark, dash = STYLES[number % len(STYLES)]
        placed = [(x_of(x), y_of(share)) for x, share in one.points]
        if placed:
            path = "M" + "L".join(f"{x:.1f},{y:.1f}" for x, y in placed)
            parts.append(tag("path", {"class": color, "d": path, "style": f"fill:none;stroke-width:2;stroke-dasharray:{dash or 'none'}"}))
        if len(placed) <= MAX_MARKS:
            parts += [canvas.shape(mark, x, y, color, 4) for x, y in placed]
    marks = [canvas.shape(mark, 0, 0, color) for color, mark, _ in STYLES]
    parts.append(canvas.legend(HEIGHT - 16, [(marks[number % len(marks)], one.name) for number, one in enumerate(series)]))
    return canvas.picture(HEIGHT, f"{title}: {note}", parts)


def _ticks(xs: Sequence[float], x_of: Callable[[float], float]) -> list[float]:
    """As many of `xs` as fit on the axis."""
    chosen: list[float] = []
    for x in xs:
        if not chosen or x_of(x) - x_of(chosen[-1]) > 64:
            chosen.append(x)
    return chosen
