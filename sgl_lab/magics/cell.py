"""Running one `%%sgl` cell: options, body, program, view, results.

The body runs on the cell's own thread, waiting in slices, so that print, pdb, tracebacks and an
interrupt stay what they are everywhere else in the notebook. One that awaits has a loop of its own there;
the kernel's stands still meanwhile, as it does for any cell that computes.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from inspect import isfunction
from pathlib import Path
from textwrap import indent
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from ..contracts.errors import ProgramError
from ..contracts.params import SamplingParams
from ..lang import surface
from ..lang.expressions import Expr, Text
from ..lang.loop import drive
from ..lang.program import SglFunction
from ..lang.sampling import given
from ..lang.state import ProgramState, start, state_here
from ..trace import write_jsonl
from ..trace.files import check_ours, check_place
from ..trace.record import MARK
from . import body as bodies
from .desk import Desk
from .errors import as_cell_syntax_error, outer_filename, show_source
from .interact import Interact
from .jobs import Job
from .options import HELP_FLAGS, CellOptions, OptionError, cell_help, parse_cell
from .printing import say
from .show import CellView, Place, loading

if TYPE_CHECKING:
    from ..session import Lab
    from ..trace import Record

ALTERNATIVES = 5
"""likeliest tokens that the tokens view tells beside the one that was taken"""

WORDS = "__sgl_words__"
STATE_WORDS = {"fork": "s.fork", "var_scope": "s.var_scope"}
"""Names of a body that mean a method of its state."""
LANGUAGE = frozenset({*surface.SURFACE, *STATE_WORDS, "s"})
"""All names that a body has from the language."""
_MISSING = object()


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell that is ready to run: here and now, or on another thread, as often as wanted."""

    shell: Any
    options: CellOptions
    code: bodies.CellCode
    head: str
    source: str
    title: str

    @contextmanager
    def recorded(self, lab: Lab) -> Iterator[Record]:
        """Record the run; with --save its file is written when the block is over, however that ends."""
        record = None
        try:
            with lab.record(self.title, f"{self.head}\n{self.source}") as record:
                yield record
        finally:
            if record is not None and self.options.save is not None:
                write_jsonl(record, Path(self.options.save).expanduser())

    def begin(self, lab: Lab, record: Record, check: Callable[[], None]) -> ProgramState:
        """The state of a new run."""
        options = self.options
        defaults = SamplingParams(
            **given(
                {
                    "temperature": options.temperature,
                    "max_new_tokens": options.max_tokens,
                    "seed": options.seed,
                    "top_logprobs_num": ALTERNATIVES if "tokens" in options.views else None,
                }
            )
        )
        backend = lab.deterministic_backend if options.deterministic else lab.backend
        return start(backend, lab.emit, record.run, defaults, check=check)

    def finish(self, state: ProgramState, check: Callable[[], None], names: dict[str, Any] | None = None) -> Any:
        """Run the body to its end on `names`, by default the notebook's; the value of its last expression."""
        names = self.shell.user_ns if names is None else names
        helpers = {bodies.APPEND: _append, bodies.STATE: state, bodies.HERE: partial(state_here, state)}
        words = {**surface.bound(state), **helpers}
        try:
            with state.running():
                result = self.code.run(names, words)
                if self.code.awaits:
                    result = drive(result, check)
                state.finish()
        except BaseException:  # `running` has cancelled it: nothing of it runs on
            state.wait()
            raise
        return None if isinstance(result, Expr) else result

    def in_background(
        self,
        desk: Desk,
        variables: Mapping[str, Any] = MappingProxyType({}),
        *,
        title: str = "",
        begun: Callable[[Job, Lab, Record], None] = lambda *_: None,
        ended: Callable[[Job], bool] = lambda _: True,
    ) -> Job:
        """Run it on a thread of its own. What -o names is set when it is over, unless somebody has set it meanwhile.

        begun   is told when the program has a state
        ended   is told at the end, and says whether its results still count
        """
        options, notebook, last = self.options, self.shell.user_ns, desk.last
        names = {**notebook, **variables}
        own = self.code.assigned - variables.keys()
        before = {name: notebook.get(name, _MISSING) for name in (*own, options.out)}
        left: dict[str, Any] = {}

        def work(job: Job) -> Any:
            lab = desk.ready_lab(job.report, options.model, options.device, check=job.check)
            names.setdefault("print", job.print)
            with self.recorded(lab) as record:
                state = self.begin(lab, record, job.check)
                if options.out is not None:
                    desk.names[options.out] = record.run
                job.begun(lab, record, state)
                begun(job, lab, record)
                try:
                    return self.finish(state, job.check, names)
                finally:
                    left.update({options.out: state} if options.out is not None else {})
                    left.update({name: names[name] for name in own if names.get(name, _MISSING) is not before[name]})

        def over(job: Job) -> None:
            if not ended(job):
                return
            notebook.update({name: value for name, value in left.items() if notebook.get(name, _MISSING) is before[name]})
            if job.record is not None and desk.last is last:
                desk.last = job.record

        return desk.jobs.start(title or self.title, self.shell, options.views, work, over)


def run_cell(shell: Any, desk: Desk, line: str, body: str) -> Any:
    """Run the cell, or define its function with --def; returns what becomes its `Out`, None for nothing."""
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
            show_source(filename, head, indent(source, "    "))  # a block below its `def`, as inspect looks for a function's lines
            return None
        is_silenced = bodies.is_silenced(body)
        code = bodies.compile_cell(source, filename, LANGUAGE, keeps_last=options.capture is not None or not is_silenced)
    except SyntaxError as error:
        raise as_cell_syntax_error(shell, error) from None
    options = desk.settings.over(options)
    if options.save is not None:
        check_place(Path(options.save).expanduser())
        if not options.force:
            check_ours(Path(options.save).expanduser(), MARK)
    number = len(shell.history_manager.input_hist_parsed) - 1  # what `execution_count` says while a cell runs depends on the version
    cell = Cell(shell, options, code, head, source, f"In[{number}]")
    _tell_unsaid(shell, source, code)
    with desk.interrupts.watched(whatever_handler=True):
        if options.interact:
            return _interact(desk, cell)
        result = cell.in_background(desk) if options.bg else _run(desk, cell)
    if options.capture is not None:
        shell.user_ns[options.capture] = result
        if isinstance(result, Job) and not is_silenced:
            result.show()
        return None
    return None if is_silenced else result


def _run(desk: Desk, cell: Cell) -> Any:
    shell, options = cell.shell, cell.options
    place = Place(shell)
    with loading(place) as report:
        lab = desk.ready_lab(report, options.model, options.device)
    if not options.views:
        place.clear()
    with cell.recorded(lab) as record, CellView(shell, place, lab, record, options.views, desk.interrupts.request):
        desk.last = record
        state = cell.begin(lab, record, desk.interrupts.check)
        if options.out is not None:
            shell.user_ns[options.out] = state
            desk.names[options.out] = record.run
        return cell.finish(state, desk.interrupts.check)


def _interact(desk: Desk, cell: Cell) -> None:
    """Its value is shown with the rest, where it changes with the controls."""
    for control in cell.options.interact:
        if control.name in {*surface.SURFACE, *STATE_WORDS, "s"}:
            raise OptionError(f"--interact: {control.name} is the language's", hint="call the variable something else")
    if cell.options.capture is not None:
        raise OptionError("--interact has no one value to capture", hint="keep the state with -o NAME")
    desk.keep_open(interact := Interact(desk, cell, cell.options.interact))
    interact.first()


def _append(state: ProgramState | None, value: Any, kind: str = "") -> Any:
    """What stands around every expression statement of a body. A line tells of text that stands there and goes nowhere."""
    __tracebackhide__ = True
    if kind == bodies.TEXT and isinstance(value, str):
        value = Text(value)
    if isinstance(value, Expr):
        if not isinstance(state, ProgramState):
            raise ProgramError("no program is running that this could be appended to", hint="call the function in a %%sgl cell")
        state.append_expression(value)
    elif (what := _unsaid(value, kind)) and sys._getframe(1).f_lineno not in (told := _told.get(set())):
        told.add(line := sys._getframe(1).f_lineno)
        say(f"sgl: line {line}: {what} stands alone and is not appended; `s += ...` appends it")
    return value


_told: ContextVar[set[int]] = ContextVar("sgl_told")
"""lines of the cell that runs of which that was said"""


def _unsaid(value: Any, kind: str) -> str:
    """What looks as if it were meant for the model; empty for anything else."""
    if isinstance(value, list | tuple) and any(isinstance(each, Expr) for each in value):
        return f"a {type(value).__name__} of expressions"
    if kind in (bodies.LAST, bodies.READ):
        return ""
    if isinstance(value, str | bytes):
        return "a string" if isinstance(value, str) else "a byte string"
    is_word = isfunction(value) and value.__module__ == surface.__name__
    return f"{value.__name__} without parentheses" if is_word else ""


def _define(shell: Any, signature: str, source: str, filename: str) -> None:
    names = {name: f"{WORDS}[{name!r}]" for name in surface.SURFACE} | STATE_WORDS
    name, code = bodies.compile_function(source, filename, signature, names)
    _tell_documenting(source)
    shell.user_ns[WORDS] = {name: getattr(surface, name) for name in surface.SURFACE}
    shell.user_ns[bodies.APPEND] = _append
    shell.user_ns[bodies.HERE] = partial(state_here, None)
    exec(code, shell.user_ns)  # noqa: S102  the user's own cell is what is defined here
    shell.user_ns[name] = SglFunction(shell.user_ns[name])


def _tell_unsaid(shell: Any, source: str, code: bodies.CellCode) -> None:
    """A line for each name that the language hides from the body, and for each string that documents where it may be meant to speak."""
    _told.set(set())
    for name in sorted(bodies.names_read(ast.parse(source)) & LANGUAGE - code.assigned):
        if name in shell.user_ns and shell.user_ns[name] is not getattr(surface, name, None):
            say(f"sgl: in this cell {name} is the language's, not the notebook variable of that name")
    _tell_documenting(source)


def _tell_documenting(source: str) -> None:
    for line in bodies.documenting(source, LANGUAGE):
        say(f"sgl: line {line}: the first string of a function is its documentation and is not appended; `s += ...` appends it")
