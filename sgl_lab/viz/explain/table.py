"""A grid as plain data: what its picture, its page and its files show. Texts are as the model gave them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypedDict

from ..views.grid import Cell
from .statistics import p_words
from .versions import Column, Grid, Share, checks_of, compared, parting, totals

Part = list[object]
Passes = tuple[int, int, float, float]
"""passed, of how many, low and high end of the interval"""


class ColumnPicture(TypedDict):
    label: str
    model: str
    passes: Passes | None
    """None without checks"""
    checks: list[tuple[str, Passes, int]]
    """name, passes, how many raised"""
    done: int
    errors: int
    stopped: int
    missing: int
    """rows without a result"""
    cached: int
    computed: int
    generated: int
    judged: int
    ms: float
    cost: float
    currency: str
    unpriced: int
    base: str
    """label of the column that it is compared with; empty if there is none"""
    fixed: int
    broken: int
    p: str


class CellPicture(TypedDict):
    status: str
    passed: bool | None
    change: str
    """fixed or broken, against the base; empty otherwise"""
    value: str
    message: str
    line: int
    values: list[Part]
    """name, text"""
    checks: list[Part]
    """name, passed, expected, message"""
    parting: tuple[int, str, str] | None
    """number of the first token that differs from the base's, and both"""
    cached: int
    computed: int
    generated: int
    judged: int
    ms: float
    cost: float | None
    open: str
    """command that opens it"""


class RowPicture(TypedDict):
    row: int
    """from 1"""
    given: list[str | None]
    """in the order of the fields"""
    cells: list[CellPicture | None]


class GridPicture(TypedDict):
    name: str
    fields: list[str]
    columns: list[ColumnPicture]
    sentences: list[str]
    rows: list[RowPicture]


Opens = Callable[[Cell], str]


def picture(grid: Grid, opens: Opens = lambda cell: "", against: Column | None = None) -> GridPicture:
    """All of the grid. `against` is what each column is compared with; by default the version before."""
    bases = [against if against is not None else grid.base_of(column) for column in grid.columns]
    bases = [None if base is column else base for base, column in zip(bases, grid.columns, strict=True)]
    fields = list(dict.fromkeys(name for given in grid.rows.values() for name, _ in given.columns))
    rows: list[RowPicture] = []
    for number, (key, given) in enumerate(grid.rows.items(), 1):
        values = dict(given.columns)
        cells = [_cell(column, base, key, opens) for column, base in zip(grid.columns, bases, strict=True)]
        rows.append({"row": number, "given": [values.get(name) for name in fields], "cells": cells})
    return {
        "name": grid.name,
        "fields": fields,
        "columns": [_column(grid, column, base) for column, base in zip(grid.columns, bases, strict=True)],
        "sentences": [words for *_, words in grid.comparisons(against)],
        "rows": rows,
    }


def _column(grid: Grid, column: Column, base: Column | None) -> ColumnPicture:
    found = totals(column)
    is_paired = base is not None and base.has_checks and column.has_checks
    pair = compared(base, column) if base is not None and is_paired else None
    return {
        "label": grid.label(column),
        "model": column.model,
        "passes": None if found.passes is None else _share(found.passes),
        "checks": [(name, _share(share), n_raised) for name, share, n_raised in found.checks],
        "done": found.n_done,
        "errors": found.n_errors,
        "stopped": found.n_stopped,
        "missing": sum(key not in column.cells for key in grid.rows),
        "cached": found.cached,
        "computed": found.computed,
        "generated": found.generated,
        "judged": found.judged,
        "ms": found.ms,
        "cost": found.cost,
        "currency": found.currency,
        "unpriced": found.unpriced,
        "base": grid.label(base) if base is not None else "",
        "fixed": pair.n_fixed if pair else 0,
        "broken": pair.n_broken if pair else 0,
        "p": p_words(pair.p) if pair else "",
    }


def _share(share: Share) -> Passes:
    return share.n_passed, share.n, round(share.low, 6), round(share.high, 6)


def _cell(column: Column, base: Column | None, key: str, opens: Opens) -> CellPicture | None:
    if (cell := column.cells.get(key)) is None:
        return None
    other = base.cells.get(key) if base is not None else None
    parted = (
        parting(other, cell, by_id=base is not None and base.model == column.model) if other and other.is_done and cell.is_done else None
    )
    is_paired = other is not None and other.passed is not None and cell.passed is not None and other.passed is not cell.passed
    return {
        "status": cell.status,
        "passed": cell.passed,
        "change": ("fixed" if cell.passed else "broken") if is_paired else "",
        "value": cell.value,
        "message": cell.message,
        "line": cell.line,
        "values": [[name, text] for name, text in cell.values.items()],
        "checks": [[check.name, check.passed, check.expected, check.message] for check in cell.checks],
        "parting": None if parted is None else (parted.at, parted.before, parted.after),
        "cached": cell.cached,
        "computed": cell.computed,
        "generated": cell.generated,
        "judged": cell.judged,
        "ms": round(cell.ms, 1),
        "cost": cell.cost if cell.currency else None,
        "open": opens(cell),
    }


def passes_of_checks(cell: Cell) -> dict[str, bool | None]:
    """Whether each check of a row passes, by name; one that is made several times passes if all do."""
    found = checks_of(cell)
    return {name: None if None in outcomes else all(outcomes) for name, outcomes in found.items()}
