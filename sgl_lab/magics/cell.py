"""Runs one `%%sgl` cell: options, body, program, view, results.

The body runs on the cell's own thread, which waits in slices. print, pdb, tracebacks and interrupts
therefore work as everywhere else in the notebook. A body that awaits has an event loop of its own
there; the kernel's loop stands still meanwhile, as during any cell that computes.
"""

from __future__ import annotations

import ast
from dataclasses import replace
from functools import partial
from pathlib import Path
from textwrap import indent
from typing import TYPE_CHECKING

from ..contracts.events import Checked
from ..contracts.legible import clipped
from ..lang import surface
from ..lang.program import SglFunction
from ..lang.state import state_here
from ..trace.files import check_ours, check_place
from ..trace.record import MARK, Record
from ..viz.draw.numbers import counted
from . import body as bodies
from .cell_view import CellView
from .doors import doors_of
from .errors import as_cell_syntax_error, outer_filename, show_source
from .interact import Interact
from .jobs import Job
from .options import HELP_FLAGS, OptionError, cell_help, parse_cell
from .output import Output, loading
from .prepared import Cell, append, noted_lines
from .printing import say
from .session import Session
from .shell import Shell

if TYPE_CHECKING:
    from ..recorded import RecordedLab

WORDS = "__sgl_words__"
MAX_TOLD = 10
"""failed checks of a cell that are printed"""
STATE_WORDS = {"fork": "s.fork", "var_scope": "s.var_scope"}
"""Names of a body that stand for a method of its state."""
LANGUAGE = frozenset({*surface.SURFACE, *STATE_WORDS, "s"})
"""All names that the language adds to a body."""


def run_cell(shell: Shell, session: Session, line: str, body: str) -> object:
    """Run the cell, or define its function with --def. Returns the cell's `Out`; None for nothing."""
    if not set(HELP_FLAGS).isdisjoint(line.split()):
        say(cell_help())
        return None
    options = parse_cell(line)
    filename = outer_filename(shell)
    source = bodies.leading_blank_lines(body) + shell.transform_cell(body)
    head = f"%%sgl {line}".rstrip()
    show_source(filename, head, source)
    try:
        if options.define is not None:
            _define(shell, options.define, source, filename)
            # a block below its `def`, because `inspect` looks for a function's lines
            show_source(filename, head, indent(source, "    "))
            return None
        is_silenced = bodies.is_silenced(body)
        code = bodies.compile_cell(source, filename, LANGUAGE, keeps_last=options.capture is not None or not is_silenced)
    except SyntaxError as error:
        raise as_cell_syntax_error(shell, error) from None
    if options.over is not None and options.view is None:
        options = replace(options, view=())
    options = session.settings.over(options)
    if options.save is not None:
        check_place(Path(options.save).expanduser())
        if not options.force:
            check_ours(Path(options.save).expanduser(), MARK)
    # the value of `execution_count` during a cell depends on the version
    number = len(shell.history_manager.input_hist_parsed) - 1
    cell = Cell(shell, options, code, head, source, f"In[{number}]")
    _tell_unsaid(shell, source, code)
    with session.interrupts.watched(whatever_handler=True):
        if options.interact:
            _interact(session, cell)
            return None
        if options.over is not None:
            from .over.run import run_over

            run_over(session, cell, LANGUAGE)
            return None
        result = cell.in_background(session) if options.bg else _run(session, cell)
    if options.capture is not None:
        shell.user_ns[options.capture] = result
        if isinstance(result, Job) and not is_silenced:
            result.show()
        return None
    return None if is_silenced else result


def _run(session: Session, cell: Cell) -> object:
    shell, options = cell.shell, cell.options
    output = Output(shell)
    with loading(output) as report:
        lab = session.lab_for(report, options)
    if not options.views:
        output.clear()
    try:
        result = _run_on(session, cell, lab, output)
    except Exception:
        _lint(session, cell)
        raise
    _lint(session, cell)
    return result


def _run_on(session: Session, cell: Cell, lab: RecordedLab, output: Output) -> object:
    shell, options = cell.shell, cell.options
    doors = doors_of(shell, session)
    with cell.recorded(lab) as record, CellView(shell, output, lab, record, options.views, session.interrupts.request, doors):
        session.last = record
        state = cell.begin(lab, record, session.interrupts.check)
        if options.out is not None:
            shell.user_ns[options.out] = state
            session.names[options.out] = record.run
        try:
            return cell.finish(state, session.interrupts.check)
        finally:
            _tell_checks(record)


def _lint(session: Session, cell: Cell) -> None:
    if cell.options.lint is not False and session.last is not None:
        from .linting import show_quiet_line

        show_quiet_line(cell.shell, session, session.last)


def _tell_checks(record: Record) -> None:
    """Print how many checks of the run pass, and one line for each that does not."""
    checks = [entry.event for entry in record.entries if isinstance(entry.event, Checked)]
    if not checks:
        return
    say(f"sgl: {sum(check.passed is True for check in checks):,} of {counted(len(checks), 'check')} pass")
    for check in [check for check in checks if check.passed is not True][:MAX_TOLD]:
        why = check.message or (f"expected {clipped(check.expected, 60)}" if check.expected else "it is not true")
        raised = "raised " if check.passed is None else ""
        say(f"sgl: line {check.line}: {clipped(check.name, 60)}: {raised}{why}; the value is {clipped(check.value, 80)!r}")


def _interact(session: Session, cell: Cell) -> None:
    """Run a cell with controls. Its value is part of the output, because it changes with the
    controls.
    """
    for control in cell.options.interact:
        if control.name in {*surface.SURFACE, *STATE_WORDS, "s"}:
            raise OptionError(f"--interact: {control.name} is a name of the language", hint="choose another name for the variable")
    if cell.options.capture is not None:
        raise OptionError("--interact has no single value to capture", hint="keep the state with -o NAME")
    session.keep_open(interact := Interact(session, cell, cell.options.interact))
    interact.first()


def _define(shell: Shell, signature: str, source: str, filename: str) -> None:
    names = {name: f"{WORDS}[{name!r}]" for name in surface.SURFACE} | STATE_WORDS
    name, code = bodies.compile_function(source, filename, signature, names)
    _tell_documenting(source)
    shell.user_ns[WORDS] = {name: getattr(surface, name) for name in surface.SURFACE}
    shell.user_ns[bodies.APPEND] = append
    shell.user_ns[bodies.HERE] = partial(state_here, None)
    exec(code, shell.user_ns)  # noqa: S102  defines the user's own cell
    shell.user_ns[name] = SglFunction(shell.user_ns[name])


def _tell_unsaid(shell: Shell, source: str, code: bodies.CellCode) -> None:
    """Print one line for each notebook variable that the language hides from the body, and for each
    documenting string that may be meant for the model.
    """
    noted_lines.set(set())
    for name in sorted(bodies.names_read(ast.parse(source)) & LANGUAGE - code.assigned):
        if name in shell.user_ns and shell.user_ns[name] is not getattr(surface, name, None):
            say(f"sgl: in this cell, {name} means the language's {name}, not the notebook variable")
    _tell_documenting(source)


def _tell_documenting(source: str) -> None:
    for line in bodies.documenting(source, LANGUAGE):
        say(f"sgl: line {line}: the first string of a function is its documentation and is not appended; `s += ...` appends it")
