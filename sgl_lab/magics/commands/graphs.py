"""A program as a graph, before and after its passes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...viz.draw import dataflow
from ...viz.draw.numbers import counted
from ..options import OptionError, nearest
from ..session import Session
from ..shell import Shell
from .command import Command, Words, show

if TYPE_CHECKING:
    from ...lang.surface import Compiled, Graph


def _graph(shell: Shell, session: Session, words: Words) -> None:
    name = words.name()
    compiled = compiled_named(shell, name, words)
    before, after = compiled.graph, compiled.optimised()
    sides = [_side("as traced", before), _side("as run", after.graph)]
    if sides[0].rows == sides[1].rows:  # the passes added only what the engine gets to know
        del sides[1]
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


def compiled_named(shell: Shell, name: str | None, words: Words) -> Compiled:
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
}
