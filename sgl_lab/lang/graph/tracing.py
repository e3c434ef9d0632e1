"""Traces a program: its body runs on a tracer, and what it does becomes a graph."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Literal, cast

from ...contracts.capabilities import TOKEN_LEVEL
from ...contracts.conversation import AnyBackend
from ...contracts.errors import BadArgument, ProgramError
from ...contracts.events import silent
from ...contracts.ids import RunId
from ...contracts.port import ModelCard
from ..expressions import Argument
from ..ids import run_ids
from ..loop import drive
from ..run import Run, current_run
from ..sampling import GenDefaults
from ..state import ProgramState
from .dataflow import Graph
from .symbols import DependsOnText
from .tracer import Trace, Tracer
from .values import Call, Constant, Data, End

Until = Literal["data"] | None
_UNRECORDED = ("stream", "use_thread", "return_text_in_logprobs")
"""settings of a program inside another that change no text"""


class _NoModel:
    """What a tracer needs of a backend: it can do everything, and does nothing."""

    def describe(self) -> ModelCard:
        everything = replace(TOKEN_LEVEL, images=True, tools=True)
        return ModelCard("traced", ("traced",), 1 << 20, 1 << 20, "none", "none", everything)

    def poll(self) -> None:
        """It never ends."""


def trace_program(
    body: Callable[..., object], name: str, bound: Mapping[str, object], given: Mapping[str, object], until: Until = None
) -> Graph:
    """The graph of a program. Arguments in `bound` and `given`, and those with defaults, are known
    data; the others are text that the graph receives when it runs.

    ProgramError, with the line, where the program decides by text that is not there; with
    `until="data"` the graph ends there.
    """
    if until not in (None, "data"):
        raise BadArgument(f"until must be 'data' or None, not {until!r:.40}", hint="'data': the trace ends where the program reads text")
    known = {**bound, **given}
    trace = Trace()
    symbolic = {each: trace.placeholder(Argument(each)) for each in missing(body, known)}
    run = _run(trace)
    state = ProgramState(Tracer(run, trace, "s"))
    end: End | None = None
    returned: Data = Constant(None)
    try:
        with state.running():
            done = body(state, **known, **symbolic)
            if inspect.iscoroutine(done):
                done = drive(done, run.check)
            returned = trace.data(done)
    except DependsOnText as error:
        if until is None:
            raise
        end = End(error.location, error.message)
    parameters = list(inspect.signature(body).parameters.values())[1:]
    data = {each.name: each.default for each in parameters if each.default is not each.empty} | known
    return Graph(
        name,
        tuple(symbolic),
        tuple((each, repr(value)) for each, value in data.items()),
        tuple(trace.steps),
        tuple(trace.labels),
        returned,
        end,
    )


def missing(body: Callable[..., object], bound: Mapping[str, object]) -> list[str]:
    """Parameters without a default that are not bound."""
    parameters = list(inspect.signature(body).parameters.values())[1:]
    needed = [each.name for each in parameters if each.default is each.empty and each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)]
    return [name for name in needed if name not in bound]


def _run(trace: Trace, outer: Run | None = None, inherited: Mapping[str, object] | None = None) -> Run:
    """A run whose programs, and those that they begin, are recorded. `inherited` are the sampling
    arguments of the programs around it.
    """
    run = Run(cast(AnyBackend, _NoModel()), silent, outer.id if outer else RunId(run_ids.next()), GenDefaults())

    def begin(name: str, settings: dict[str, object]) -> Run:
        if refused := settings.keys() & {"backend"}:
            raise ProgramError(
                f"program {name} is given a {min(refused)} of its own inside a traced program", hint="give it to the run of the graph"
            )
        sampling = dict(inherited or {}) | {
            each: value for each, value in settings.items() if each not in ("stream", "use_thread", "return_text_in_logprobs")
        }
        inner = _run(trace, run, sampling)
        strand = Tracer(inner, trace, name)
        trace.record(int(strand.id), Call(name, tuple(sampling.items())), (int(strand.id),))
        inner.streams.append(strand)
        return inner

    run.traced = begin
    return run


def traced_here(settings: Mapping[str, object], name: str) -> ProgramState | None:
    """The state of a program that begins inside a program that is traced; None elsewhere."""
    outer = current_run()
    if outer is None or outer.traced is None:
        return None
    inner = outer.traced(name, dict(settings))
    return ProgramState(inner.streams[0])
