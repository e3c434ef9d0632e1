"""`%sgl grid`: the results of cells that run over data, side by side, and as files."""

from __future__ import annotations

from pathlib import Path

from ...trace.record import Record
from ...viz.explain.table import picture
from ...viz.explain.versions import Column, Grid, folded
from ...viz.grid import page
from ...viz.views.grid import GridView
from ..options import OptionError, nearest
from ..over import files
from ..over.show import opener, show_grid
from ..session import Session
from ..shell import Shell
from .command import Command, Words
from .files import FORCE, target, write


def _grid(shell: Shell, session: Session, words: Words) -> None:
    grid = _named(session, words.name())
    against = None if (word := words.options.get("--against")) is None else _column(grid, word)
    if (file := words.options.get("-o")) is None:
        show_grid(session, shell, grid, against=against, is_text="--text" in words.options)
        return
    mark = files.mark_of(Path(file))
    path = target(file, words, mark, "%sgl grid NAME -o grid.csv")
    source = {files.CSV_MARK: files.as_csv, files.JSONL_MARK: files.jsonl}.get(mark)
    write(path, page(picture(grid, opener(session), against)) if source is None else source(grid), grid.name)


def _named(session: Session, word: str | None) -> Grid:
    """The grid of that name, or that of a run; the latest without a name."""
    if word is None:
        if session.grids:
            return list(session.grids.values())[-1]
        if session.last is not None and (found := _of_record(session.last)) is not None:
            return found
        raise OptionError("there is no grid yet", hint="run a cell with --over ROWS")
    if word in session.grids:
        return session.grids[word]
    if word in session.run_names() or word.startswith("-"):
        record = session.run(word)
        if (found := _of_record(record)) is not None:
            return found
        raise OptionError(f"{record.title} ran over no data", hint="a cell does with --over ROWS")
    known = [*session.grids, *session.replayed]
    raise nearest(word, known, "grid") if known else OptionError(f"there is no grid {word!r}", hint="run a cell with --over ROWS")


def _of_record(record: Record) -> Grid | None:
    view = GridView(record.title, record.spell)
    for entry in record.entries:
        view.fold(entry)
    return None if view.opened is None else folded(view)


def _column(grid: Grid, word: str) -> Column:
    labels = {grid.label(column): column for column in grid.columns}
    found = labels.get(word) or next((each for each in grid.columns if f"v{each.version}" == word or each.model == word), None)
    if found is None:
        raise nearest(word, labels, "version")
    return found


def _names(session: Session, before: object) -> tuple[str, ...]:
    return (*session.grids, *session.replayed)


COMMANDS = {
    "grid": Command(
        _grid,
        "[NAME] [--against VERSION] [-o FILE.csv|.jsonl|.html] [--force] [--text]   rows and versions of a cell with --over, side by "
        "side: passes with intervals, what a version fixes and breaks, the first token that differs, what each row took",
        1,
        {**FORCE, "--against": "a version, such as v1", "-o": "FILE.csv, FILE.jsonl or FILE.html", "--text": ""},
        names_in=_names,
    ),
}
