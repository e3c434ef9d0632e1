"""Running one `%%sgl` cell: options, body, program, view, results.

The body runs on the cell's own thread, waiting in slices, so that print, pdb, tracebacks and an
interrupt stay what they are everywhere else in the notebook. One that awaits has a loop of its own there;
the kernel's stands still meanwhile, as it does for any cell that computes.
"""

from __future__ import annotations

import ast
from collections.abc import Callable
from textwrap import indent
from types import CodeType
from typing import TYPE_CHECKING, Any

from ..contracts.params import SamplingParams
from ..lang import surface
from ..lang.interpreter import start
from ..lang.ir import Expr
from ..lang.loop import drive
from ..lang.program import SglFunction
from ..lang.sampling import given
from . import body as bodies
from .desk import Desk
from .errors import as_cell_syntax_error, outer_filename, show_source
from .options import CellOptions, parse_cell
from .show import CellView, Place, loading

if TYPE_CHECKING:
    from ..lang.state import ProgramState

ALTERNATIVES = 5
"""likeliest tokens that the tokens view tells beside the one that was taken"""

WORDS = "__sgl_words__"
STATE_WORDS = {"fork": "s.fork", "var_scope": "s.var_scope"}
"""Names of a body that mean a method of its state."""


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
    with desk.interrupts.watched(filename):
        result = _run(shell, desk, options, code, source, head)
    if options.capture is not None:
        shell.user_ns[options.capture] = result
        return None
    return None if bodies.is_silenced(body) else result


def _run(shell: Any, desk: Desk, options: CellOptions, code: CodeType, source: str, head: str) -> Any:
    place = Place(shell)
    with loading(place) as report:
        lab = desk.ready_lab(report)
    if not options.views:
        place.clear()
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
    number = len(shell.history_manager.input_hist_parsed) - 1  # what `execution_count` says while a cell runs depends on the version
    recording = lab.record(f"In[{number}]", f"{head}\n{source}")
    with recording as record, CellView(shell, place, lab, record, options.views, desk.interrupts.request):
        desk.last = record
        backend = lab.deterministic_backend if options.deterministic else lab.backend
        state = start(backend, lab.emit, record.run, defaults, check=desk.interrupts.check)
        if options.out is not None:
            shell.user_ns[options.out] = state
            desk.names[options.out] = record.run
        words = surface.bound(state)
        _tell_hidden(shell, source, words)
        names = {**shell.user_ns, **words, bodies.APPEND: _append, bodies.STATE: state}
        _finish(state, code, names, desk.interrupts.check)
    return None if isinstance(result := names.get(bodies.RESULT), Expr) else result


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


def _tell_hidden(shell: Any, source: str, words: dict[str, Any]) -> None:
    """One line if the body reads a name that the language hides from it."""
    for name in sorted(bodies.names_read(ast.parse(source)) & words.keys()):
        if name in shell.user_ns and shell.user_ns[name] is not getattr(surface, name, None):
            print(f"sgl: in this cell {name} is the language's, not the notebook variable of that name")
