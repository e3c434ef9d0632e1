"""A grid as a still picture and as text: totals with intervals, comparisons in words, and its rows.

Where scripts may run, `static/grid.js` takes the picture's place: all rows, sorted and filtered.
"""

from __future__ import annotations

from collections.abc import Sequence

from ...contracts.legible import clipped
from ..explain.table import CellPicture, ColumnPicture, GridPicture, Passes, RowPicture
from . import palette
from .escape import Child, Markup, css, tag
from .numbers import brief, counted, money, percent, seconds
from .still import ALARM, BELOW, SMALL, SOFT, frame

MAX_ROWS = 60
"""rows of the still picture"""
MAX_TEXT_ROWS = 40
MAX_FIELDS = 3
"""columns of the data that are shown; the others are in the details and in files"""
PASS, FAIL, ERROR, STOPPED, NONE = "✓", "✕", "!", "■", "·"
WORDS = {PASS: "passes", FAIL: "fails", ERROR: "error", STOPPED: "stopped", NONE: "no checks"}
_INK = {PASS: palette.GENERATED.both, FAIL: ALARM.both, ERROR: palette.COMPUTED.both, STOPPED: palette.EVICTED.both}
_CELL = css(padding="3px 14px 3px 0", text_align="left", vertical_align="top", border="none", background="transparent")
_LINE = css(overflow_wrap="anywhere", max_width="260px", white_space="normal")


def mark(cell: CellPicture) -> str:
    """One character for the outcome of a row."""
    if cell["status"] == "error":
        return ERROR
    if cell["status"] != "ok":
        return STOPPED
    return NONE if cell["passed"] is None else PASS if cell["passed"] else FAIL


def share_words(passes: Passes) -> str:
    """`31 of 40 pass, 78 % (62.5 to 87.7 %)`."""
    n_passed, n, low, high = passes
    if not n:
        return "none finished"
    return f"{n_passed:,} of {n:,} pass, {percent(n_passed / n)} ({100 * low:.1f} to {100 * high:.1f} %)"


def facts(column: ColumnPicture) -> list[str]:
    """What a version cost, and what is missing of it."""
    found = [f"{brief(column['computed'])} computed", f"{brief(column['cached'])} cached", f"{brief(column['generated'])} generated"]
    if column["judged"]:
        found.append(f"{brief(column['judged'])} computed by judges")
    found.append(f"{seconds(column['ms'] / column['done'])} a row" if column["done"] else "no time")
    if column["currency"]:
        found.append(money(column["cost"], clipped(column["currency"], 12), column["unpriced"]))
    for n, what in ((column["errors"], "error"), (column["stopped"], "row stopped"), (column["missing"], "row not run")):
        if n:
            found.append(counted(n, what) if what == "error" else f"{n:,} {what.replace('row', 'row' if n == 1 else 'rows')}")
    return found


def title(picture: GridPicture) -> str:
    n = len(picture["columns"])
    return f"{clipped(picture['name'], 60)} · {counted(len(picture['rows']), 'row')} · {n} {'version' if n == 1 else 'versions'}"


# ---------------------------------------------------------------- the still picture


def still(picture: GridPicture, max_rows: int = MAX_ROWS, note: str = "", notes: Sequence[str] = ()) -> Markup:
    """Elements and plain styles only, as an untrusted notebook keeps them."""
    head = tag("div", {"style": f"{css(padding='8px 14px', font_weight='600')};{BELOW}"}, title(picture))
    parts = [head]
    if note:
        parts.append(tag("div", {"style": f"{css(padding='5px 14px')};{SMALL};{SOFT};{BELOW}"}, note))
    parts.append(tag("div", {"style": f"{css(padding='6px 14px')};{BELOW}"}, _totals(picture)))
    lines = [tag("div", {"style": css(font_weight="500")}, clipped(sentence, 300)) for sentence in picture["sentences"]]
    lines += [tag("div", {"style": f"{SMALL};{SOFT}"}, clipped(each, 300)) for each in notes]
    if lines:
        parts.append(tag("div", {"style": f"{css(padding='6px 14px')};{BELOW}"}, *lines))
    parts.append(tag("div", {"style": css(padding="6px 14px", overflow_x="auto")}, _rows(picture, picture["rows"][:max_rows])))
    if len(picture["rows"]) > max_rows:
        more = f"{counted(len(picture['rows']) - max_rows, 'more row')} of {len(picture['rows']):,}"
        parts.append(tag("div", {"style": f"{css(padding='0 14px 8px')};{SMALL};{SOFT}"}, more))
    return frame(parts)


def _totals(picture: GridPicture) -> Markup:
    rows: list[Markup] = []
    for column in picture["columns"]:
        passes = column["passes"]
        cells: list[Child] = [tag("td", {"style": f"{_CELL};{css(font_weight='600', white_space='nowrap')}"}, clipped(column["label"], 60))]
        cells.append(tag("td", {"style": f"{_CELL};{css(white_space='nowrap')}"}, share_words(passes) if passes else "no checks"))
        cells.append(tag("td", {"style": _CELL}, _interval(passes) if passes else ""))
        cells.append(tag("td", {"style": f"{_CELL};{SOFT}"}, " · ".join(facts(column))))
        rows.append(tag("tr", {}, *cells))
        if len(column["checks"]) > 1:
            words = " · ".join(_check_words(check) for check in column["checks"])
            rows.append(tag("tr", {}, tag("td", {"style": _CELL}), tag("td", {"style": f"{_CELL};{SMALL};{SOFT}", "colspan": 3}, words)))
    return tag("table", {"style": css(border_collapse="collapse", font_size="12.5px")}, *rows)


def _check_words(check: tuple[str, Passes, int]) -> str:
    name, (n_passed, n, _, _), n_raised = check
    return f"{clipped(name, 60)} {n_passed} of {n}" + (f", {n_raised} raised" if n_raised else "")


def _interval(passes: Passes) -> Markup:
    """The share as a bar, with the interval of the true share as a line on it."""
    n_passed, n, low, high = passes
    wide = 120
    track = css(position="relative", width=f"{wide}px", height="10px", margin_top="4px", background="rgba(127,127,127,0.18)")
    bar = css(position="absolute", left="0", top="0", height="10px", width=f"{wide * n_passed / max(1, n):.1f}px", background=_INK[PASS])
    line = css(
        position="absolute",
        top="4px",
        height="2px",
        background="currentColor",
        left=f"{wide * low:.1f}px",
        width=f"{wide * (high - low):.1f}px",
    )
    return tag("div", {"style": track}, tag("div", {"style": bar}), tag("div", {"style": line}))


def _rows(picture: GridPicture, rows: Sequence[RowPicture]) -> Markup:
    fields = picture["fields"][:MAX_FIELDS]
    names = ["row", *(clipped(name, 40) for name in fields), *(clipped(column["label"], 40) for column in picture["columns"])]
    head = tag("tr", {}, *(tag("th", {"style": f"{_CELL};{SOFT};{css(font_weight='600')}"}, name) for name in names))
    body: list[Markup] = []
    for row in rows:
        cells: list[Child] = [tag("td", {"style": f"{_CELL};{SOFT}"}, row["row"])]
        cells += [tag("td", {"style": f"{_CELL};{_LINE}"}, clipped(value or "", 80)) for value in row["given"][:MAX_FIELDS]]
        cells += [tag("td", {"style": f"{_CELL};{_LINE}"}, *_cell(cell)) for cell in row["cells"]]
        body.append(tag("tr", {"style": css(border_top="1px solid rgba(127,127,127,0.15)")}, *cells))
    return tag("table", {"style": css(border_collapse="collapse", font_size="12.5px")}, head, *body)


def _cell(cell: CellPicture | None) -> list[Child]:
    if cell is None:
        return [tag("span", {"style": SOFT}, "not run")]
    sign = mark(cell)
    style = css(color=_INK[sign], font_weight="700") if sign in _INK else SOFT
    shown: list[Child] = [tag("span", {"style": style, "title": WORDS[sign]}, sign), " "]
    shown.append(clipped(cell["message"] if cell["status"] == "error" else cell["value"], 100))
    if small := " · ".join(_remarks(cell)):
        shown.append(tag("div", {"style": f"{SMALL};{SOFT}"}, small))
    return shown


def _remarks(cell: CellPicture) -> list[str]:
    """Why a row does not pass, what changed, and where the answer parts from the version before."""
    found = [cell["change"]] if cell["change"] else []
    for name, passed, expected, message in cell["checks"]:
        if passed is not True:
            why = message or (f"expected {expected}" if expected else "false")
            found.append(clipped(f"{name}: {'raised ' if passed is None else ''}{why}", 100))
            break
    if (parted := cell["parting"]) is not None:
        found.append(parting_words(parted))
    return found


def parting_words(parted: tuple[int, str, str]) -> str:
    at, before, after = parted
    return f"token {at}: {_token(before)} → {_token(after)}"


def _token(text: str) -> str:
    return f"“{clipped(text, 20)}”" if text else "the end"


# ---------------------------------------------------------------- text


def text(picture: GridPicture, max_rows: int = MAX_TEXT_ROWS, notes: Sequence[str] = ()) -> str:
    """The same for a terminal: rows that differ or do not pass come first."""
    lines = [title(picture), ""]
    for column in picture["columns"]:
        passes = share_words(column["passes"]) if column["passes"] else "no checks"
        lines.append(f"{clipped(column['label'], 60)}: {passes} · {' · '.join(facts(column))}")
        if len(column["checks"]) > 1:
            lines.append(f"    {' · '.join(map(_check_words, column['checks']))}")
    lines += [clipped(sentence, 300) for sentence in (*picture["sentences"], *notes)]
    shown = sorted(picture["rows"], key=lambda row: not _is_notable(row))[:max_rows]  # stable: in order
    head = ["row", *(clipped(name, 20) for name in picture["fields"][:1]), *(clipped(each["label"], 30) for each in picture["columns"])]
    rows = [head]
    for row in shown:
        cells = ["not run" if cell is None else _plain(cell) for cell in row["cells"]]
        rows.append([str(row["row"]), *(clipped(value or "", 30) for value in row["given"][:1]), *cells])
    widths = [max(len(row[at]) for row in rows) for at in range(len(head))]
    lines += ["", *("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)]
    if len(picture["rows"]) > len(shown):
        lines.append(f"… {counted(len(picture['rows']) - len(shown), 'more row')}")
    return "\n".join(lines)


def _is_notable(row: RowPicture) -> bool:
    return any(cell is not None and (cell["passed"] is False or cell["change"] or cell["status"] != "ok") for cell in row["cells"])


def _plain(cell: CellPicture) -> str:
    words = clipped(cell["message"] if cell["status"] == "error" else cell["value"], 34)
    return f"{mark(cell)} {words}" + (f" ({cell['change']})" if cell["change"] else "")
