"""What views learn of a graph that runs: its nodes, and which ones a stream has been given."""

from __future__ import annotations

from collections.abc import Iterable

from ...contracts.events import GraphStarted, NodesEntered
from ...contracts.ids import ForkId
from ..ids import execution_ids
from ..run import Run
from .dataflow import Graph


class Batch:
    """The executions of one graph. The first of them carries its nodes."""

    def __init__(self) -> None:
        self.first: int | None = None


class Progress:
    """One execution of a graph. A run that is only traced has no events."""

    def __init__(self, graph: Graph, run: Run, batch: Batch) -> None:
        self._emit, self._rows = run.emit, graph.shown.rows
        self._execution = execution_ids.next()
        self._is_shown = run.traced is None
        if self._is_shown:
            is_first = batch.first is None
            batch.first = self._execution if batch.first is None else batch.first
            nodes = graph.shown.nodes if is_first else ()
            run.emit(GraphStarted(run.id, self._execution, batch.first, graph.name, nodes))

    def entered(self, numbers: Iterable[int], fork: ForkId) -> None:
        """These nodes of the graph go to the stream now."""
        if self._is_shown:
            rows = self._rows
            self._emit(NodesEntered(self._execution, tuple(dict.fromkeys([rows[number] for number in numbers])), fork))
