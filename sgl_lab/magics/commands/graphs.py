"""A program as a graph: before and after its passes, and what a run of it would compute."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ...contracts.conversation import takes_tokens
from ...viz.draw import dataflow
from ...viz.draw.numbers import counted
from ..options import OptionError, nearest
from ..printing import say
from ..session import Session
from ..shell import Shell
from .command import Command, Words, aligned, current_lab, show

if TYPE_CHECKING:
    from ...contracts.tree import TreeSnapshot
    from ...lang.surface import Compiled, Graph
    from ...recorded import RecordedLab

MOST = 12
"""words of a command: a program and its arguments"""


def _graph(shell: Shell, session: Session, words: Words) -> None:
    name = words.name()
    compiled = _compiled(shell, name, words)
    before, after = compiled.graph, compiled.optimised()
    sides = [_side("as traced", before), *([_side("as run", after.graph)] if after.graph != before else [])]
    reports = [("pass", "", "what", "numbers")]
    for each in after.reports:
        numbers = ", ".join(f"{what}: {number:,}" for what, number in each.numbers.items())
        reports.append((each.name, each.state, each.words, numbers))
    requests = sum(row.kind in ("gen", "select") for row in sides[0].rows)
    title = f"{name}({', '.join(before.arguments)}): {counted(len(before.nodes), 'node')}, gens and selects: {requests}"
    counts = {"nodes": len(before.nodes), "nodes_after": len(after.graph.nodes), "requests": requests}
    show(shell, words, dataflow.html(title, sides, reports), dataflow.text(title, sides, reports), counts)


def _side(title: str, graph: Graph) -> dataflow.Side:
    return dataflow.Side(title, [dataflow.Row(*row) for row in graph.rows()])


def _plan(shell: Shell, session: Session, words: Words) -> None:
    compiled = _compiled(shell, words.name(), words)
    arguments = dict(_argument(shell, word) for word in words.names[1:])
    lab = current_lab(shell, session)
    backend = lab.backend_for()
    if not takes_tokens(backend):
        raise OptionError(f"%sgl plan needs the engine's tokenizer, and {lab.title} takes messages", hint="%sgl backend local")
    row = compiled.row(arguments)
    planned = compiled.plan([row], backend, cached_paths(lab.snapshot()), temperature=0)
    rows = [("", "planned"), *((name.replace("_", " "), f"{number:,}") for name, number in planned.counts().items())]
    rows[-1] = ("completion tokens", f"at most {planned.completion_tokens:,}")
    if (prices := backend.describe().capabilities.prices) is not None:
        cost = (planned.prompt_tokens * prices.prompt + planned.completion_tokens * prices.completion) / 1e6
        rows.append(("cost", f"at most {cost:.4f} {prices.currency}"))
    if "--run" in words.options:
        rows = _beside(rows, _run(compiled, arguments, lab))
    say(aligned(rows))


def _run(compiled: Compiled, arguments: Mapping[str, object], lab: RecordedLab) -> dict[str, int]:
    """Run the graph, and count what it took."""
    names = ("prompt_tokens", "cached_tokens", "computed_tokens", "completion_tokens")
    before = lab.stats()
    compiled.run(**arguments, backend=lab.backend_for(), temperature=0).sync()
    after = lab.stats()
    return {name.replace("_", " "): int(after[name] - before[name]) for name in names if name in after}


def _beside(rows: list[tuple[str, str]], real: Mapping[str, int]) -> list[tuple[str, str]]:
    return [("", "planned     run"), *((name, f"{planned:<12}{f'{real[name]:,}' if name in real else ''}") for name, planned in rows[1:])]


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


def _argument(shell: Shell, word: str) -> tuple[str, object]:
    """`question=text`, or `question=NAME` for the notebook's variable of that name."""
    name, equals, value = word.partition("=")
    if not equals:
        raise OptionError(f"{word!r:.40} is no argument", hint="write question=TEXT, or question=NAME of a variable")
    return name, shell.user_ns.get(value, value)


def _compiled(shell: Shell, name: str | None, words: Words) -> Compiled:
    from ...lang.surface import Compiled, Graph, SglFunction

    if name is None:
        raise OptionError("which program?", hint="a function with @function, a compiled program, or a graph")
    kinds = SglFunction | Compiled | Graph
    programs = {each: value for each, value in shell.user_ns.items() if isinstance(value, kinds) and not each.startswith("_")}
    if name not in programs:
        raise nearest(name, tuple(programs), "program") if programs else OptionError(f"there is no program {name!r:.40}")
    value, apply = programs[name], [word for word in words.options.get("--apply", "").split(",") if word]
    if isinstance(value, SglFunction):
        return value.compile(optimise="suggest", apply=apply)
    graph = value.graph if isinstance(value, Compiled) else value
    return Compiled(graph, "suggest", None, apply)


COMMANDS = {
    "graph": Command(
        _graph,
        "PROGRAM [--apply PASSES] [--text]   a program's graph as traced and as run, and what each pass did or suggests",
        1,
        {"--apply": "PASSES", "--text": ""},
    ),
    "plan": Command(
        _plan,
        "PROGRAM [ARGUMENT=TEXT ...] [--run]   what a run would compute, before a token is spent; with --run also what it was",
        MOST,
        {"--run": "", "--apply": "PASSES"},
    ),
}
