"""Shows a grid: its picture and player in a notebook, its text in a terminal, its rows as values."""

from __future__ import annotations

from collections.abc import Sequence

from ...viz.draw import grid as draw
from ...viz.explain.table import GridPicture, Opens, passes_of_checks, picture
from ...viz.explain.versions import Column, Grid
from ...viz.grid import frozen
from ...viz.views.grid import Cell
from ..output import Output, in_kernel
from ..printing import say
from ..session import Session
from ..shell import Shell


def opener(session: Session) -> Opens:
    """The command that opens a row of a grid, if its run is still there: its last gen in *explore*, or
    the tokens of its choices.
    """
    titles = {record.run: record.title for record in session.runs()}

    def opens(cell: Cell) -> str:
        if (title := titles.get(cell.run)) is None:
            return ""
        number = title.removeprefix("In[").removesuffix("]")
        run = number if number.isdecimal() else f'"{title}"'
        if cell.last_gen and cell.status == "ok":
            return f'%sgl explore {run} "{cell.where} > {cell.last_gen}"'
        return f'%sgl tokens {run} "{cell.where}"' if cell.values else ""

    return opens


def show_grid(
    session: Session,
    shell: Shell,
    grid: Grid,
    *,
    output: Output | None = None,
    against: Column | None = None,
    notes: Sequence[str] = (),
    is_text: bool = False,
) -> None:
    found = picture(grid, opener(session), against)
    if is_text or not in_kernel(shell):
        say(draw.text(found, notes=notes))
        return
    (output or Output(shell)).show(frozen(found, notes), {"sgl_lab": {"counts": counts(found)}})


def counts(found: GridPicture) -> dict[str, int]:
    """For programs that read the notebook: what does not depend on time."""
    columns = found["columns"]
    passes = [column["passes"][0] for column in columns if column["passes"] is not None]
    return {"rows": len(found["rows"]), "columns": len(columns), "done": sum(column["done"] for column in columns), "passed": sum(passes)}


def results(grid: Grid) -> list[dict[str, object]]:
    """A dict for each row of each column: the row's fields, its results, and what it took."""
    found: list[dict[str, object]] = []
    for column in grid.columns:
        for number, (key, given) in enumerate(grid.rows.items(), 1):
            if (cell := column.cells.get(key)) is not None:
                found.append(result(grid, column, number, dict(given.columns), cell))
    return found


def result(grid: Grid, column: Column, number: int, given: dict[str, str], cell: Cell) -> dict[str, object]:
    base = grid.base_of(column)
    return {
        "row": number,
        "version": column.version,
        "model": column.model,
        "status": cell.status,
        "passed": cell.passed,
        "value": cell.value,
        "given": given,
        "values": dict(cell.values),
        "checks": passes_of_checks(cell),
        "computed_tokens": cell.computed,
        "cached_tokens": cell.cached,
        "completion_tokens": cell.generated,
        "judge_tokens": cell.judged,
        "ms": round(cell.ms, 1),
        "cost": cell.cost if cell.currency else None,
        "error": cell.message or None,
        "compared_with": None if base is None else base.version,
    }
