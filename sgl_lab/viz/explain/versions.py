"""Versions of a program over the same rows, side by side: totals, and what one fixes or breaks.

A column is one version on one model. It grows from several runs: an interrupted one and those that
continue it. Knows no tokenizer and draws nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from ..views.grid import Cell, Given, GridView, Piece
from .statistics import Paired, in_words, paired, wilson


@dataclass(slots=True)
class Column:
    version: int
    model: str
    key: str
    """digest of the body, its options and the values that it reads"""
    cells: dict[str, Cell] = field(default_factory=dict)
    """by the keys of rows"""

    @property
    def has_checks(self) -> bool:
        return any(cell.checks for cell in self.cells.values())


class Share(NamedTuple):
    """How many pass, with the interval of the true share."""

    n_passed: int
    n: int
    low: float
    high: float


def share(n_passed: int, n: int) -> Share:
    return Share(n_passed, n, *wilson(n_passed, n))


class Totals(NamedTuple):
    passes: Share | None
    """None without checks"""
    checks: tuple[tuple[str, Share, int], ...]
    """name, passes, and how many raised"""
    n_done: int
    n_errors: int
    n_stopped: int
    cached: int
    computed: int
    generated: int
    judged: int
    ms: float
    """of all rows, one after the other"""
    cost: float
    currency: str
    unpriced: int


class Parting(NamedTuple):
    """Where two answers differ first: the number of the token, from 1, and both texts; an empty text
    for an answer that ended.
    """

    at: int
    before: str
    after: str


def totals(column: Column) -> Totals:
    cells = list(column.cells.values())
    judged = [cell for cell in cells if cell.passed is not None]
    checks: dict[str, list[bool | None]] = {}
    for cell in cells:
        for name, outcomes in checks_of(cell).items():
            checks.setdefault(name, []).extend(outcomes)
    of_checks = tuple((name, share(found.count(True), len(found)), found.count(None)) for name, found in checks.items())
    return Totals(
        share(sum(cell.passed is True for cell in judged), len(judged)) if column.has_checks else None,
        of_checks,
        sum(cell.is_done for cell in cells),
        sum(cell.status == "error" for cell in cells),
        sum(cell.status == "stopped" for cell in cells),
        sum(cell.cached for cell in cells),
        sum(cell.computed for cell in cells),
        sum(cell.generated for cell in cells),
        sum(cell.judged for cell in cells),
        sum(cell.ms for cell in cells),
        sum(cell.cost for cell in cells),
        next((cell.currency for cell in cells if cell.currency), ""),
        sum(cell.unpriced for cell in cells),
    )


def checks_of(cell: Cell) -> dict[str, list[bool | None]]:
    """The outcomes of each check of a row that finished. Checks without a name of their own that are
    of one kind are told apart by their lines.
    """
    if not cell.is_done:
        return {}
    lines: dict[str, set[int]] = {}
    for check in cell.checks:
        lines.setdefault(check.name, set()).add(check.line)
    found: dict[str, list[bool | None]] = {}
    for check in cell.checks:
        name = check.name if len(lines[check.name]) == 1 else f"{check.name}, line {check.line}"
        found.setdefault(name, []).append(check.passed)
    return found


def compared(before: Column, after: Column) -> Paired:
    """The two on the rows that have a result in both."""
    keys = [key for key, cell in after.cells.items() if cell.passed is not None and key in before.cells]
    keys = [key for key in keys if before.cells[key].passed is not None]
    return paired([before.cells[key].passed is True for key in keys], [after.cells[key].passed is True for key in keys])


def parting(before: Cell, after: Cell, *, by_id: bool) -> Parting | None:
    """The first token in which two answers differ; None if they are equal. Tokens of two models are
    compared as text.
    """
    one, other = before.pieces, after.pieces
    at = next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if not _is_same(a, b, by_id)), min(len(one), len(other)))
    if at == len(one) == len(other):
        return None
    return Parting(at + 1, one[at][0] if at < len(one) else "", other[at][0] if at < len(other) else "")


def _is_same(one: Piece, other: Piece, by_id: bool) -> bool:
    if by_id and one[1] is not None and other[1] is not None:
        return one[1] == other[1]
    return one[0] == other[0]


class Grid:
    """All versions of a program under one name. The rows are those of the latest data, then those of
    earlier data.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.rows: dict[str, Given] = {}
        self.columns: list[Column] = []

    def column(self, key: str, model: str) -> Column:
        """The column of a body and a model. A new body is the next version."""
        for column in self.columns:
            if (column.key, column.model) == (key, model):
                return column
        known = next((column.version for column in self.columns if column.key == key), None)
        version = max((column.version for column in self.columns), default=0) + 1 if known is None else known
        self.columns.append(Column(version, model, key))
        self.columns.sort(key=lambda column: column.version)  # stable: models in the order of their runs
        return self.columns[[(each.key, each.model) for each in self.columns].index((key, model))]

    def order(self, rows: Mapping[str, Given]) -> None:
        """Show these rows first."""
        self.rows = {**rows, **{key: given for key, given in self.rows.items() if key not in rows}}

    def add(self, view: GridView) -> None:
        """Take over the results of a run. A row that was stopped never replaces one that finished."""
        if view.opened is None:
            return
        column = self.column(view.opened.key, view.opened.model)
        if all(each.version != view.opened.version or each.key == column.key for each in self.columns):
            column.version = view.opened.version
        for key, cell in view.full().items():
            if cell.is_done or not (key in column.cells and column.cells[key].is_done):
                column.cells[key] = cell
        self.rows = {**self.rows, **{key: given for key, given in view.given.items() if key not in self.rows}}

    def label(self, column: Column) -> str:
        """`v2`; with the model's name if there are several, and if several have none of that version."""
        if len({each.model for each in self.columns}) == 1:
            return f"v{column.version}"
        return f"v{column.version} · {column.model}"

    def base_of(self, column: Column) -> Column | None:
        """What a column is compared with: the version before it on the same model, otherwise the first
        model of the same version, otherwise the column before it.
        """
        at = self.columns.index(column)
        earlier = self.columns[:at]
        same = [each for each in earlier if each.model == column.model]
        peers = [each for each in earlier if each.version == column.version]
        return same[-1] if same else peers[0] if peers else earlier[-1] if earlier else None

    def comparisons(self, against: Column | None = None) -> list[tuple[Column, Column, Paired, str]]:
        """(before, after, counts, the same in words) for each column that has checks and a base."""
        found = []
        for column in self.columns:
            base = against if against is not None else self.base_of(column)
            if base is not None and base is not column and base.has_checks and column.has_checks:
                pair = compared(base, column)
                found.append((base, column, pair, in_words(pair, self.label(base), self.label(column))))
        return found


def folded(view: GridView) -> Grid:
    """The grid of one run alone."""
    grid = Grid(view.opened.name if view.opened else "")
    grid.add(view)
    ordered: Iterable[str] = sorted(view.given, key=lambda key: view.cells[key].row)
    grid.rows = {key: view.given[key] for key in ordered}
    return grid
