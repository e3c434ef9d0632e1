"""Decisions that a graph can contain: `cond` and `loop`; and `unordered`, parts whose order is free.

They run like any other code of a program. Where the program is traced, all cases are recorded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

from ...contracts.errors import BadArgument
from ..expressions import Expr, Unordered, as_expr
from ..keywords import suggests
from ..state import ProgramState
from .symbols import Placeholder
from .tracer import Kept, Tracer
from .values import Cond

Case = Callable[[ProgramState], object]
MAX_LOOP = 64
"""rounds of a loop: a graph contains each of them"""


@suggests
def cond(s: ProgramState, on: str, cases: Mapping[str, Case], otherwise: Case | None = None) -> None:
    """Run the case whose key equals the text `on`, such as `s["verdict"]`: a function of the state.
    Without one, run `otherwise`, or nothing.
    """
    _check(s, cases, otherwise)
    if isinstance(s._stream, Tracer) and isinstance(on, Placeholder):
        _trace(s, s._stream, on, cases, otherwise)
    elif not isinstance(on, str):
        raise BadArgument(f"cond decides by text, not by {on!r:.60}", hint='write cond(s, s["name"], {...})')
    elif (case := cases.get(on, otherwise)) is not None:
        case(s)


@suggests
def loop(s: ProgramState, body: Callable[[ProgramState, int], object], *, most: int, until: Mapping[str, str | Sequence[str]]) -> None:
    """Run `body(s, round)` until the variable named in `until` is one of its texts, at most `most`
    times: `loop(s, step, most=5, until={"action": "finish"})`.
    """
    if type(most) is not int or not 1 <= most <= MAX_LOOP:
        raise BadArgument(f"most must be a whole number from 1 to {MAX_LOOP}, not {most!r:.40}")
    if not callable(body) or not isinstance(until, Mapping) or len(until) != 1:
        raise BadArgument(f"loop runs a function until one variable has a text, not {until!r:.60}", hint='until={"action": "finish"}')
    ((name, ends),) = until.items()
    texts = (ends,) if isinstance(ends, str) else tuple(ends)
    _round(s, body, 0, most, name, texts)


def _round(s: ProgramState, body: Callable[[ProgramState, int], object], first: int, most: int, name: str, ends: tuple[str, ...]) -> None:
    """The rounds from `first` on. Where the loop is traced, each round is a case of the one before."""
    for number in range(first, most):
        body(s, number)
        ended = s[name]
        if isinstance(s._stream, Tracer) and isinstance(ended, Placeholder):
            if number + 1 < most:
                go_on = partial(_round, body=body, first=number + 1, most=most, name=name, ends=ends)
                cond(s, ended, dict.fromkeys(ends, _nothing), go_on)
            return
        if ended in ends:
            return


def _nothing(s: ProgramState) -> None:
    """The loop ends."""


@suggests
def unordered(items: Sequence[Expr | str]) -> Expr:
    """The items, in this order. Where the program is compiled or runs as a batch of graphs, they
    may come in another order, so that prompts begin alike for longer.
    """
    if isinstance(items, str) or not isinstance(items, Sequence) or not items:
        raise BadArgument(f"unordered takes a list of texts or expressions, not {items!r:.60}")
    return Unordered(tuple(map(as_expr, items)))


def _check(s: object, cases: object, otherwise: object) -> None:
    if not isinstance(s, ProgramState):
        raise BadArgument(f"cond needs the program's state first, not {type(s).__name__}", hint='cond(s, s["name"], {...})')
    if not isinstance(cases, Mapping) or not cases or not all(isinstance(key, str) and callable(case) for key, case in cases.items()):
        raise BadArgument(f"cases must map texts to functions of the state, not {cases!r:.60}", hint='{"yes": lambda s: ...}')
    if otherwise is not None and not callable(otherwise):
        raise BadArgument(f"otherwise must be a function of the state, not {otherwise!r:.60}")


def _trace(s: ProgramState, strand: Tracer, on: Placeholder, cases: Mapping[str, Case], otherwise: Case | None) -> None:
    trace = strand.trace
    parts = tuple(trace.parts(on))
    number = trace.record(int(strand.id), Cond(parts, tuple(cases), ()))
    before, after, regions = strand.kept(), list[Kept](), list[int]()
    for case in (*cases.values(), *((otherwise,) if otherwise else ())):
        strand.restore(before)
        with strand.region() as region:
            case(s)
        regions.append(region)
        after.append(strand.kept())
    whole = Cond(parts, tuple(cases), tuple(regions[: len(cases)]), regions[-1] if otherwise else None)
    trace.steps[number] = replace(trace.steps[number], value=whole)
    strand.merge(number, before, after if otherwise else [*after, before])
