"""A grid in a saved notebook and as a page: a still picture, and all rows where scripts may run.

The data has a size limit in a cell: long texts are cut first, then the last rows are left out, and a
line says so. A page has all of it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import cast

from ..contracts.legible import legible
from .bundle import packed, sheet, sheets
from .draw import grid as draw
from .draw import page as draw_page
from .draw.escape import data, script, tag
from .explain.table import CellPicture, GridPicture, Part, RowPicture
from .freeze import LIMIT

TRUST = (
    "This is a picture of the first rows. To sort, filter and open all of them, trust the notebook: "
    "Command palette (Ctrl + Shift + C), Trust Notebook."
)
CUTS = (2_000, 600, 240, 100)
"""characters of a text, the first that fits into a cell"""
STILL_ROWS = (draw.MAX_ROWS, 20, 8)


def frozen(picture: GridPicture, notes: Sequence[str] = ()) -> dict[str, str]:
    """A MIME bundle of `text/html` and `text/plain`, below the limit of a saved cell."""
    plain = draw.text(picture, notes=notes)
    for n_rows in STILL_ROWS:
        for length in CUTS:
            if found := _bundle(picture, notes, plain, n_rows, length, len(picture["rows"])):
                return found
    n = len(picture["rows"])
    while n > 10:
        n = n * 3 // 4
        left = f"the first {n:,} of {len(picture['rows']):,} rows: `%sgl grid NAME -o FILE.html` writes all of them"
        if found := _bundle(picture, (*notes, left), plain, STILL_ROWS[-1], CUTS[-1], n):
            return found
    return {"text/html": draw.still(picture, STILL_ROWS[-1], notes=notes).source, "text/plain": plain}


def _bundle(picture: GridPicture, notes: Sequence[str], plain: str, n_rows: int, length: int, n_data: int) -> dict[str, str] | None:
    """The bundle with so many rows in its picture and in its data, and texts of so many characters;
    None if it is too large.
    """
    still = draw.still(picture, n_rows, TRUST, notes)
    size = len(still.source.encode()) + len(plain.encode())
    if size > LIMIT * 3 // 4:
        return None
    content = packed(_json(picture, notes, length, n_data))
    source = tag("div", {}, still, script(sheet(content))).source
    return {"text/html": source, "text/plain": legible(plain)} if len(source.encode()) + len(plain.encode()) <= LIMIT else None


def page(picture: GridPicture) -> str:
    """A standalone page with all rows, whole."""
    content = data("sgl-grid", "1", packed(_json(picture, (), 10**9, len(picture["rows"]))))
    still = draw.still(picture, len(picture["rows"]))
    return draw_page.page(f"sgl_lab · {picture['name']}", [tag("div", {}, still, content)], sheets())


def _json(picture: GridPicture, notes: Sequence[str], length: int, n_rows: int) -> str:
    rows = [_row(row, length) for row in picture["rows"][:n_rows]]
    return json.dumps({**picture, "rows": rows, "notes": list(notes)}, separators=(",", ":"), allow_nan=False)


def _row(row: RowPicture, length: int) -> RowPicture:
    given = [None if text is None else _cut(text, length) for text in row["given"]]
    return {"row": row["row"], "given": given, "cells": [None if cell is None else _cell(cell, length) for cell in row["cells"]]}


def _cell(cell: CellPicture, length: int) -> CellPicture:
    values = cast(list[Part], [[_cut(text, length) for text in map(str, pair)] for pair in cell["values"]])
    checks: list[Part] = [[name, passed, _cut(str(expected), length), message] for name, passed, expected, message in cell["checks"]]
    return {**cell, "value": _cut(cell["value"], length), "values": values, "checks": checks}


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"
