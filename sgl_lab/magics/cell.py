"""Running one `%%sgl` cell: options, body, program, view, results.

The body runs on the cell's own thread, waiting in slices, so that print, pdb, tracebacks and an
interrupt stay what they are everywhere else in the notebook. One that awaits has a loop of its own there;
the kernel's stands still meanwhile, as it does for any cell that computes.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from textwrap import indent
from types import CodeType, MappingProxyType
from typing import TYPE_CHECKING, Any

from ..contracts.params import SamplingParams
from ..lang import surface
from ..lang.interpreter import start
from ..lang.ir import Expr
from ..lang.loop import drive
from ..lang.program import SglFunction
from ..lang.sampling import given
from ..trace import write_jsonl
from ..trace.files import check_ours
from ..trace.record import MARK
from . import body as bodies
from .desk import Desk
from .errors import as_cell_syntax_error, outer_filename, show_source
from .interact import Interact
from .jobs import Job
from .options import CellOptions, OptionError, parse_cell
from .printing import say
from .show import CellView, Place, loading

if TYPE_CHECKING:
    from ..lang.state import ProgramState
    from ..session import Lab
    from ..trace import Record

ALTERNATIVES = 5
"""likeliest tokens that the tokens view tells beside the one that was taken"""

WORDS = "__sgl_words__"
STATE_WORDS = {"fork": "s.fork", "var_scope": "s.var_scope"}
"""Names of a body that mean a method of its state."""


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell that is ready to run: here and now, or on another thread, as often as wanted."""

    shell: Any
    options: CellOptions
    code: CodeType
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

    def finish(self, state: ProgramState, check: Callable[[], None], variables: Mapping[str, Any] = MappingProxyType({})) -> Any:
        """Run the body to its end; the value of its last expression. `variables` go before the notebook's."""
        names = {**self.shell.user_ns, **variables, **surface.bound(state), bodies.APPEND: _append, bodies.STATE: state}
        _finish(state, self.code, names, check)
        return None if isinstance(result := names.get(bodies.RESULT), Expr) else result

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
        options, names = self.options, self.shell.user_ns
        before, last = names.get(options.out), desk.last

        def work(job: Job) -> Any:
            lab = desk.ready_lab(job.report, options.model, options.device, check=job.check)
            with self.recorded(lab) as record:
                state = self.begin(lab, record, job.check)
                if options.out is not None:
                    desk.names[options.out] = record.run
                job.begun(lab, record, state)
                begun(job, lab, record)
                return self.finish(state, job.check, {"print": names.get("print", job.print), **variables})

        def over(job: Job) -> None:
            if not ended(job):
                return
            if options.out is not None and job.state is not None and names.get(options.out) is before:
                names[options.out] = job.state
            if job.record is not None and desk.last is last:
                desk.last = job.record

        return desk.jobs.start(title or self.title, self.shell, options.views, work, over)


def run_cell(shell: Any, desk: Desk, line: str, body: str) -> Any:
    """Run the cell, or define its function with --def; returns what becomes its `Out`, None for nothing."""
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
        code = bodies.compile_cell(source, filename)
    except SyntaxError as error:
        raise as_cell_syntax_error(shell, error) from None
    options = desk.settings.over(options)
    if options.save is not None:
        check_ours(Path(options.save).expanduser(), MARK)
    number = len(shell.history_manager.input_hist_parsed) - 1  # what `execution_count` says while a cell runs depends on the version
    cell = Cell(shell, options, code, head, source, f"In[{number}]")
    _tell_hidden(shell, source)
    with desk.interrupts.watched(filename):
        if options.interact:
            return _interact(desk, cell)
        result = cell.in_background(desk) if options.bg else _run(desk, cell)
    is_silenced = bodies.is_silenced(body)
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


def _finish(state: ProgramState, code: CodeType, names: dict[str, Any], check: Callable[[], None]) -> None:
    """Run the body and wait for all its streams; however that ends, nothing of it runs on."""
    try:
        with state.running():
            coroutine = eval(code, names)  # noqa: S307  the user's own cell is what is run here
            if coroutine is not None:
                drive(coroutine, check)
            state.finish()
    except BaseException:  # `running` has cancelled it
        state.wait()
        raise


def _append(state: ProgramState, value: Any) -> Any:
    """What stands around every bare expression of a body."""
    if isinstance(value, Expr):
        state.append_expression(value)
    return value


def _define(shell: Any, signature: str, source: str, filename: str) -> None:
    names = {name: f"{WORDS}[{name!r}]" for name in surface.SURFACE} | STATE_WORDS
    name, code = bodies.compile_function(source, filename, signature, names)
    shell.user_ns[WORDS] = {name: getattr(surface, name) for name in surface.SURFACE}
    shell.user_ns[bodies.APPEND] = _append
    exec(code, shell.user_ns)  # noqa: S102  the user's own cell is what is defined here
    shell.user_ns[name] = SglFunction(shell.user_ns[name])


def _tell_hidden(shell: Any, source: str) -> None:
    """One line if the body reads a name that the language hides from it."""
    for name in sorted(bodies.names_read(ast.parse(source)) & {*surface.SURFACE, *STATE_WORDS, "s"}):
        if name in shell.user_ns and shell.user_ns[name] is not getattr(surface, name, None):
            say(f"sgl: in this cell {name} is the language's, not the notebook variable of that name")
