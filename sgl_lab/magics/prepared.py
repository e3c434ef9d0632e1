"""A cell that is ready to run, in the foreground or on another thread, and the function that its
body appends with.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from inspect import isfunction
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from ..contracts.errors import ProgramError
from ..contracts.params import SamplingParams
from ..lang import surface
from ..lang.expressions import Expr, Text
from ..lang.loop import drive
from ..lang.sampling import given
from ..lang.state import ProgramState, start, state_here
from ..trace import write_jsonl
from . import body as bodies
from .doors import doors_of
from .jobs import Job
from .options import CellOptions
from .printing import say
from .secrets import without_keys
from .session import Session
from .shell import Shell

if TYPE_CHECKING:
    from ..recorded import RecordedLab
    from ..trace import Record

ALTERNATIVES = 5
"""likeliest tokens that the tokens view shows beside the sampled one"""

_MISSING = object()


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell that is ready to run, in the foreground or on another thread, any number of times."""

    shell: Shell
    options: CellOptions
    code: bodies.CellCode
    head: str
    source: str
    title: str

    @contextmanager
    def recorded(self, lab: RecordedLab) -> Iterator[Record]:
        """Record the run. With --save the file is written at the end of the block, even after an
        error.
        """
        record = None
        try:
            with self._spending(), lab.record(self.title, without_keys(f"{self.head}\n{self.source}")) as record:
                yield record
        finally:
            if record is not None and self.options.save is not None:
                write_jsonl(record, Path(self.options.save).expanduser())

    def _spending(self) -> AbstractContextManager[object]:
        """Hold the remote calls of the run against the budget of --budget."""
        if self.options.budget is None:
            return nullcontext()
        from ..backends.remote.budget import spending

        return spending(self.options.budget, "this cell")

    def begin(
        self, lab: RecordedLab, record: Record, check: Callable[[], None], label: str = "s", *, alternatives: bool | None = None
    ) -> ProgramState:
        """The state of a new program of the run. Alternatives of tokens are recorded if the tokens view
        shows them, unless `alternatives` decides it.
        """
        options = self.options
        records = "tokens" in options.views if alternatives is None else alternatives
        defaults = SamplingParams(
            **given(
                {
                    "temperature": options.temperature,
                    "max_new_tokens": options.max_tokens,
                    "seed": options.seed,
                    "adapter": options.adapter,
                    # an API may charge for them, or refuse them for a model
                    "top_logprobs_num": ALTERNATIVES if records and lab.card.capabilities.token_ids else None,
                }
            )
        )
        backend = lab.backend_for(deterministic=bool(options.deterministic))
        return start(backend, lab.emit, record.run, defaults, label, check=check)

    def run_body(self, state: ProgramState, names: dict[str, object]) -> Any:
        """Run the body on `names`. Returns the value of its last expression; a coroutine with it if the
        body awaits.
        """
        helpers = {bodies.APPEND: append, bodies.STATE: state, bodies.HERE: partial(state_here, state)}
        return self.code.run(names, {**surface.bound(state), **helpers})

    def finish(self, state: ProgramState, check: Callable[[], None], names: dict[str, object] | None = None) -> object:
        """Run the body to its end on `names`, by default the notebook's. Returns the value of its
        last expression.
        """
        names = self.shell.user_ns if names is None else names
        try:
            with state.running():
                result = self.run_body(state, names)
                if self.code.awaits:
                    result = drive(result, check)
                state.finish()
        except BaseException:  # `running` has cancelled the program: none of it continues
            state.wait()
            raise
        return None if isinstance(result, Expr) else result

    def in_background(
        self,
        session: Session,
        variables: Mapping[str, object] = MappingProxyType({}),
        *,
        title: str = "",
        begun: Callable[[Job, RecordedLab, Record], None] = lambda *_: None,
        ended: Callable[[Job], bool] = lambda _: True,
    ) -> Job:
        """Run the cell on a thread of its own. The name given with -o is set when the job is over,
        unless the user has assigned it meanwhile.

        begun   called when the program has a state
        ended   called at the end; returns whether the results still count
        """
        options, notebook, last = self.options, self.shell.user_ns, session.last
        names = {**notebook, **variables}
        own = self.code.assigned - variables.keys()
        before = {name: notebook.get(name, _MISSING) for name in (*own, *([] if options.out is None else [options.out]))}
        left: dict[str, object] = {}

        def work(job: Job) -> object:
            lab = session.lab_for(job.report, options, check=job.check)
            names.setdefault("print", job.print)
            with self.recorded(lab) as record:
                state = self.begin(lab, record, job.check)
                if options.out is not None:
                    session.names[options.out] = record.run
                job.begun(lab, record, state)
                begun(job, lab, record)
                try:
                    return self.finish(state, job.check, names)
                finally:
                    left.update({options.out: state} if options.out is not None else {})
                    left.update({name: names[name] for name in own if names.get(name, _MISSING) is not before[name]})

        def remark(record: Record) -> str:
            from .linting import quiet_line

            return quiet_line(session, record) if options.lint is not False else ""

        def over(job: Job) -> None:
            if not ended(job):
                return
            notebook.update({name: value for name, value in left.items() if notebook.get(name, _MISSING) is before[name]})
            if job.record is not None and session.last is last:
                session.last = job.record

        return session.jobs.start(title or self.title, self.shell, options.views, work, over, doors_of(self.shell, session), remark)


def append(state: ProgramState | None, value: object, kind: str = "") -> object:
    """Wraps every expression statement of a body. If literal text stands alone where it is not
    appended, it prints a note.
    """
    __tracebackhide__ = True
    if kind == bodies.TEXT and isinstance(value, str):
        value = Text(value)
    if isinstance(value, Expr):
        if not isinstance(state, ProgramState):
            raise ProgramError("no program is running to append this to", hint="call the function from a %%sgl cell")
        state.append_expression(value)
    elif (what := _unsaid(value, kind)) and sys._getframe(1).f_lineno not in (noted := noted_lines.get(set())):
        noted.add(line := sys._getframe(1).f_lineno)
        say(f"sgl: line {line}: {what} stands alone and is not appended; `s += ...` appends it")
    return value


noted_lines: ContextVar[set[int]] = ContextVar("sgl_noted_lines")
"""lines of the running cell for which the note was printed"""


def _unsaid(value: object, kind: str) -> str:
    """Describes a value that looks as if it were meant for the model; empty for all others."""
    if isinstance(value, list | tuple) and any(isinstance(each, Expr) for each in value):
        return f"a {type(value).__name__} of expressions"
    if kind in (bodies.LAST, bodies.READ):
        return ""
    if isinstance(value, str | bytes):
        return "a string" if isinstance(value, str) else "a byte string"
    if isfunction(value) and value.__module__ == surface.__name__:
        return f"{value.__name__} without parentheses"
    return ""
