"""What a run would compute, before a token is spent: of a program with its arguments, or of a cell."""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

from ...contracts.conversation import takes_tokens
from ...contracts.errors import BadArgument
from ...trace.rates import rates_of
from .. import body as bodies
from ..cell import LANGUAGE
from ..options import OptionError
from ..prepared import append
from ..printing import say
from ..session import Session
from ..shell import Shell
from .command import Command, Words, aligned, current_lab
from .graphs import compiled_named

if TYPE_CHECKING:
    from ...contracts.port import Backend
    from ...contracts.tree import TreeSnapshot
    from ...lang.graph.plan import Planned
    from ...lang.state import ProgramState
    from ...lang.surface import Compiled, Graph
    from ...recorded import RecordedLab
    from ...trace import Record

MOST = 12
"""words of a command: a program and its arguments"""


def _plan(shell: Shell, session: Session, words: Words) -> None:
    lab = current_lab(shell, session)
    backend = lab.backend_for()
    if not takes_tokens(backend):
        raise OptionError(f"%sgl plan needs the engine's tokenizer, and {lab.title} takes messages", hint="%sgl backend local")
    cached = cached_paths(lab.snapshot())
    name = words.name()
    if name is not None and name in session.run_names() and name not in _programs(shell):
        _plan_cell(shell, session.run(name), lab, backend, cached)
        return
    compiled = compiled_named(shell, name, words)
    arguments = dict(argument(shell, word) for word in words.names[1:])
    planned = compiled.plan([compiled.row(arguments)], backend, cached, temperature=0)
    real = _run(compiled, arguments, lab) if "--run" in words.options else {}
    _say(planned, lab, backend, real)


def _programs(shell: Shell) -> set[str]:
    from ...lang.surface import Compiled, Graph, SglFunction

    return {name for name, value in shell.user_ns.items() if isinstance(value, SglFunction | Compiled | Graph)}


def _say(planned: Planned, lab: RecordedLab, backend: Backend, real: Mapping[str, str]) -> None:
    """A line a count; with `real`, beside it what it was. Then the rates."""
    rows = [(name.replace("_", " "), f"{number:,}") for name, number in planned.counts().items()]
    rows[-1] = ("completion tokens", f"at most {planned.completion_tokens:,}")
    rates = rates_of(lab.events())
    if rates is not None:
        expected = rates.seconds(planned.computed_tokens - planned.decoded_tokens, planned.decoded_tokens)
        rows.append(("seconds", f"about {expected:.2f}"))
    elif real:
        rows.append(("seconds", ""))
    if (prices := backend.describe().capabilities.prices) is not None:
        cost = (planned.prompt_tokens * prices.prompt + planned.completion_tokens * prices.completion) / 1e6
        rows.append(("cost", f"at most {cost:.4f} {prices.currency}"))
    if real:
        say(aligned([("", "planned", "run"), *((name, count, real.get(name, "")) for name, count in rows)]))
    else:
        say(aligned([("", "planned"), *rows]))
    if rates is None:
        say("seconds are not known: nothing has been generated here yet")
    else:
        say(f"rates: prefill {rates.prefill:,.0f}, decode {rates.decode:,.0f} tokens/s, from {rates.n_steps:,} steps here")


def _run(compiled: Compiled, arguments: Mapping[str, object], lab: RecordedLab) -> dict[str, str]:
    """Run the graph, and count what it took."""
    names = ("prompt_tokens", "cached_tokens", "computed_tokens", "completion_tokens")
    before, began = lab.stats(), time.perf_counter()
    compiled.run(**arguments, backend=lab.backend_for(), temperature=0).sync()
    seconds, after = time.perf_counter() - began, lab.stats()
    counts = {name.replace("_", " "): f"{int(after[name] - before[name]):,}" for name in names if name in after}
    return counts | {"seconds": f"{seconds:.2f}"}


# ---------------------------------------------------------------- cells


def _plan_cell(shell: Shell, record: Record, lab: RecordedLab, backend: Backend, cached: list[tuple[int, ...]]) -> None:
    """The cell's beginning, up to the first line that decides by text of the model."""
    from ...lang.graph.plan import plan

    graph = _beginning(shell, record)
    _say(plan(graph, [{}], backend, cached), lab, backend, {})
    if graph.end is not None:
        say(f"up to line {graph.end.location.line}: what follows depends on text of the model")


def _beginning(shell: Shell, record: Record) -> Graph:
    from ...lang import surface
    from ...lang.graph.tracing import trace_program
    from ...lang.state import state_here

    head, _, source = record.source.partition("\n")
    if not head.startswith("%%sgl"):
        raise OptionError(f"{record.title} is no cell of programs", hint="%sgl plan PROGRAM argument=TEXT")
    code = bodies.compile_cell(source, f"<{record.title}>", LANGUAGE)

    def body(state: ProgramState) -> object:
        helpers = {bodies.APPEND: append, bodies.STATE: state, bodies.HERE: partial(state_here, state)}
        return code.run(dict(shell.user_ns), {**surface.bound(state), **helpers})

    try:
        return trace_program(body, record.title, {}, {}, until="data")
    except BadArgument as error:
        raise OptionError(f"{record.title} cannot be traced: {error.message}") from None


def cached_paths(snapshot: TreeSnapshot) -> list[tuple[int, ...]]:
    """The token sequences that the cache holds, from the root to each leaf."""
    paths: dict[int, tuple[int, ...]] = {}
    inner: set[int] = set()
    for node in snapshot.nodes:
        above = () if node.parent is None else paths.get(node.parent, ())
        paths[node.node] = above + node.tokens
        if node.parent is not None:
            inner.add(node.parent)
    return [path for node, path in paths.items() if node not in inner]


def argument(shell: Shell, word: str) -> tuple[str, object]:
    """`question=text`, or `question=NAME` for the notebook's variable of that name."""
    name, equals, value = word.partition("=")
    if not equals:
        raise OptionError(f"{word!r:.40} is no argument", hint="write question=TEXT, or question=NAME of a variable")
    return name, shell.user_ns.get(value, value)


COMMANDS = {
    "plan": Command(
        _plan,
        "PROGRAM [ARGUMENT=TEXT ...] [--run] or CELL   what a run would compute, before a token is spent; with --run also what it was",
        MOST,
        {"--run": "", "--apply": "PASSES"},
        takes_runs=True,
    ),
}
