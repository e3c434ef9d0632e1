"""Runs a cell's body for each row: one batch for each model, whose results stay in the session's grid.

A row that finished is never computed again while its body, its model and the row itself are the
same. What an interrupt ends is kept as far as it came.
"""

from __future__ import annotations

import ast
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ...contracts.errors import BadArgument, ProgramError, Stopped
from ...contracts.events import GridOpened, RowFinished, RowStarted
from ...contracts.legible import clipped
from ...contracts.near import nearest
from ...lang.batch import AUTO_OPEN, Outcome, run_all
from ...lang.execution import Execution
from ...lang.expect import text_of
from ...lang.expressions import Expr
from ...lang.interrupts import INTERRUPTS
from ...lang.shared import Siblings
from ...lang.state import ProgramState
from ...viz.draw import html
from ...viz.draw.numbers import counted, seconds
from ...viz.explain.versions import Column, Grid
from ...viz.views.grid import GridView
from ...viz.views.names import row_title
from .. import body as bodies
from ..cell_view import CellView
from ..options import CellOptions, OptionError
from ..output import Output, in_kernel, loading
from ..prepared import Cell
from ..printing import say
from ..session import Session
from .digest import body_digest
from .rows import MAX_NOTES, ROW, Row, Rows, is_variable, notes_of_columns, read_rows, variables
from .show import results, show_grid

if TYPE_CHECKING:
    from ...recorded import RecordedLab
    from ...trace import Record

SETTINGS = ("temperature", "max_tokens", "seed", "adapter", "deterministic")
"""options that the results depend on"""
EVERY_S = 0.25
"""seconds between two pictures of the progress"""


def run_over(session: Session, cell: Cell, language: frozenset[str]) -> None:
    """Run the cell over its rows, and show the grid. Stopped or KeyboardInterrupt where that ends it;
    the grid is shown then too.
    """
    options, shell = cell.options, cell.shell
    assert options.over is not None
    rows = read_rows(options.over, shell.user_ns)
    engines = _engines(options)
    notes = [*rows.notes, *notes_of_columns(rows, language)]
    for note in notes[:MAX_NOTES]:
        say(f"sgl: {note}")
    if len(notes) > MAX_NOTES:
        say(f"sgl: {counted(len(notes) - MAX_NOTES, 'more note')} like these")
    name = options.as_name or rows.name
    grid = session.grids.pop(name, None) or Grid(name)
    session.grids[name] = grid  # the latest is the last
    read = bodies.names_read(ast.parse(cell.source)) - language
    work = _Work(session, cell, grid, rows, read, language, Output(shell))
    settings = [(field, getattr(options, field)) for field in SETTINGS]
    key = _version_key(grid, body_digest(cell.source, settings, shell.user_ns, read - {*rows.columns, ROW}), is_fresh=options.fresh)
    done: list[str] = []
    try:
        for engine in engines:
            several = f" · {engine.backend or engine.model}" if len(engines) > 1 else ""
            done.append(work.column(replace(cell, options=engine, title=cell.title + several), key))
    except (KeyboardInterrupt, Stopped):
        done.append("stopped: run the cell again to continue with the rows that are left")
        raise
    finally:
        grid.order({row.key: row.given for row in rows.rows})
        if options.out is not None:
            shell.user_ns[options.out] = results(grid)
        if any(column.cells for column in grid.columns):
            show_grid(session, shell, grid, output=work.output, notes=done)


def _engines(options: CellOptions) -> list[CellOptions]:
    """The options of each column: one for each model, or for each backend."""
    models = [each.strip() for each in options.model.split(",") if each.strip()] if options.model else []
    backends = [each.strip() for each in options.backend.split(",") if each.strip()] if options.backend else []
    if len(models) > 1 and len(backends) > 1:
        raise OptionError("--model and --backend are both lists", hint="name one of them: -b NAME:MODEL,NAME:MODEL")
    if options.save is not None and max(len(models), len(backends)) > 1:
        raise OptionError("--save writes one run, and each model has its own", hint="%sgl save FILE RUN")
    if len(models) > 1:
        return [replace(options, model=model) for model in models]
    return [replace(options, backend=backend) for backend in backends] if len(backends) > 1 else [options]


def _version_key(grid: Grid, digest: str, *, is_fresh: bool) -> str:
    """The digest of the version to continue: the last one of this body, or a new one."""
    known = [column.key for column in grid.columns if column.key.partition("+")[0] == digest]
    if is_fresh and known:
        return f"{digest}+{len(set(known))}"
    return known[-1] if known else digest


@dataclass(slots=True)
class _Work:
    """One cell over its rows."""

    session: Session
    cell: Cell
    grid: Grid
    rows: Rows
    read: set[str]
    """names that the body reads"""
    language: frozenset[str]
    output: Output

    def column(self, cell: Cell, key: str) -> str:
        """Compute the rows of one model that have no result. Returns what was done, in words."""
        shell, session = cell.shell, self.session
        with loading(self.output) as report:
            lab = session.lab_for(report, cell.options)
        column = self.grid.column(key, lab.title)
        missing = [row for row in self.rows.rows if row.key not in column.cells or column.cells[row.key].status != "ok"]
        n_kept = len(self.rows.rows) - len(missing)
        label = self.grid.label(column)
        if not missing:
            return f"{label}: all {counted(n_kept, 'row')} kept, none computed"
        begun = time.monotonic()
        with (
            cell.recorded(lab) as record,
            CellView(shell, Output(shell), lab, record, cell.options.views, session.interrupts.request),
        ):
            session.last = record
            if cell.options.out is not None:
                session.names[cell.options.out] = record.run
            view = GridView(cell.title, lab.spell)
            bar = _Progress(self.output, view, record, label, len(missing), n_kept)
            lab.emit(GridOpened(record.run, self.grid.name, column.version, key, lab.title, len(self.rows.rows), n_kept))
            try:
                self._batch(cell, lab, record, missing, bar if in_kernel(shell) else None)
            finally:
                bar.fold()
                self._take(view, column)
        kept = f", {n_kept:,} kept" if n_kept else ""
        return f"{label}: {counted(len(missing), 'row')} computed{kept}, {seconds(1000 * (time.monotonic() - begun))}"

    def _batch(self, cell: Cell, lab: RecordedLab, record: Record, missing: list[Row], bar: _Progress | None) -> None:
        siblings = Siblings() if len(missing) > 1 else None
        columns = {name for name in self.rows.columns if is_variable(name, self.language)}
        wanted = columns & self.read - cell.code.assigned

        def begin(row: Row) -> Execution:
            state = cell.begin(lab, record, INTERRUPTS.check, row_title(row.index), alternatives=True)
            state._run.siblings, state._run.arguments = siblings, dict(row.values)
            lacking = sorted(wanted - row.values.keys())
            return _RowExecution(cell, lab, record, row, state, lacking, variables(row, self.language))

        items = [lambda row=row: begin(row) for row in missing]
        shown = {"progress_bar": bar is None, "generator_style": False, "return_exceptions": True}
        outcomes = list(run_all(items, cell.code.awaits, AUTO_OPEN, bar=bar, **shown))
        failed = [each for each in outcomes if isinstance(each, Exception)]
        if len(failed) == len(outcomes) and not any(isinstance(entry.event, RowStarted) for entry in record.entries):
            raise failed[0]  # no row could begin

    def _take(self, view: GridView, column: Column) -> None:
        for found in view.full().values():
            if not found.is_done:
                found.status = "stopped"
        self.grid.add(view)
        assert column in self.grid.columns


class _RowExecution(Execution):
    """A row's body. Its end is an event, whatever it is."""

    def __init__(
        self, cell: Cell, lab: RecordedLab, record: Record, row: Row, state: ProgramState, lacking: list[str], names: dict[str, object]
    ) -> None:
        super().__init__(state, self._started, cell.code.awaits)
        self._cell, self._lab, self._record, self._row, self._lacking, self._names = cell, lab, record, row, lacking, names

    def run(self) -> ProgramState:
        __tracebackhide__ = True
        self._begun()
        try:
            super().run()
        except BaseException as error:
            raise self._ended(error) from None
        self._ended(self.state.error())
        return self.state

    async def run_async(self) -> ProgramState:
        __tracebackhide__ = True
        self._begun()
        try:
            await super().run_async()
        except BaseException as error:
            raise self._ended(error) from None
        self._ended(self.state.error())
        return self.state

    def _started(self) -> object:
        if self._lacking:
            raise BadArgument(f"the row has no column {self._lacking[0]!r}, which the body reads")
        return self._cell.run_body(self.state, {**self._cell.shell.user_ns, **self._names})

    def _begun(self) -> None:
        row, fork = self._row, None if self._lacking else self.state._stream.id
        self._lab.emit(RowStarted(self._record.run, row.index, row.key, row.given.columns, fork))

    def _ended(self, error: BaseException | None) -> BaseException:
        """Emit the end of the row. Returns the error, with which the batch goes on."""
        status, value, message, line = "ok", "", "", 0
        if error is None:
            # a truth value is that of a check at the end of a body, seldom the row's result
            if (result := self.state.ret_value) is not None and not isinstance(result, Expr | bool):
                value = text_of(result)
        elif isinstance(error, Stopped) or not isinstance(error, Exception | SystemExit):
            status = "stopped"
        else:
            status, message, line = "error", clipped(self._described(error), 300), self._line(error)
        self._lab.emit(RowFinished(self._record.run, self._row.index, status, value, message, line))
        if isinstance(error, SystemExit):
            return ProgramError("the body called exit(), which ends its row alone")
        return error or ProgramError("none")

    def _described(self, error: BaseException) -> str:
        words = f"{type(error).__name__}: {error}"
        if isinstance(error, NameError) and (name := getattr(error, "name", None)) and (close := nearest(name, self._row.values)):
            return f"{words} (did you mean the column {close!r}?)"
        return words

    def _line(self, error: BaseException) -> int:
        """The innermost line of the cell."""
        line, frames, file = 0, error.__traceback__, self._cell.code.code.co_filename
        while frames is not None:
            if frames.tb_frame.f_code.co_filename == file:
                line = frames.tb_lineno
            frames = frames.tb_next
        return line


class _Progress:
    """The progress of a batch, as one output that is replaced."""

    def __init__(self, output: Output, view: GridView, record: Record, label: str, n_rows: int, n_kept: int) -> None:
        self._output, self._view, self._record = output, view, record
        self._label, self._n_rows, self._n_kept = label, n_rows, n_kept
        self._at = 0
        self._shown_s = self._began_s = time.monotonic()

    def fold(self) -> None:
        """Fold what was recorded since the last call."""
        entries = self._record.entries
        while self._at < len(entries):
            self._view.fold(entries[self._at])
            self._at += 1

    def show(self, futures: Sequence[Future[Outcome]]) -> None:
        if (now := time.monotonic()) < self._shown_s + EVERY_S:
            return
        self._shown_s = now
        self.fold()
        cells = list(self._view.cells.values())
        n_done = sum(cell.is_done for cell in cells)
        passed = [cell.passed for cell in cells if cell.passed is not None]
        words = [f"{self._label}: {n_done:,} of {counted(self._n_rows, 'row')}"]
        if self._n_kept:
            words.append(f"{self._n_kept:,} kept")
        if any(cell.checks for cell in cells):
            words.append(f"✓ {passed.count(True):,} pass, ✕ {passed.count(False):,} fail")
        if n_errors := sum(cell.status == "error" for cell in cells):
            words.append(counted(n_errors, "error"))
        words.append(seconds(1000 * (now - self._began_s)))
        line = " · ".join(words)
        self._output.show({"text/html": html.progress(line, n_done / self._n_rows).source, "text/plain": line})

    def step_aside(self) -> None:
        """Nothing: it is an output of its own."""

    def close(self) -> None:
        """Nothing: the grid takes its place."""
