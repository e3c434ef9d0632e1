"""A graph that is executed: `run`, `run_batch`, `stream` and coroutines, without the program's Python."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import replace
from functools import partial
from itertools import cycle, islice
from os import PathLike
from typing import Literal, NamedTuple, TypedDict, TypeVar

from ...contracts.conversation import AnyBackend, takes_tokens
from ...contracts.errors import BadArgument, ProgramError
from ...contracts.knobs import Tunable
from ...contracts.port import Backend, Following
from ..batch import Outcome, begin_all, checked_width, run_all
from ..beginning import SETTINGS, state_for
from ..default import default_backend
from ..execution import Execution
from ..expressions import Gen
from ..interrupts import INTERRUPTS
from ..keywords import all_suggest, unknown_argument
from ..run import Run
from ..sampling import GenDefaults, given
from ..shared import Siblings
from ..shown import States
from ..state import ProgramState
from . import printing
from .coming import Coming, Item
from .dataflow import Graph
from .feeder import Feeder, Gate
from .passes import checked, optimised
from .passes.ordering import beginning, orders, shared
from .passes.report import Context, Report
from .plan import Planned, plan
from .progress import Batch
from .tracing import traced_here
from .tuning import LEAST_ROWS, Tuned, search
from .values import Node, arguments_in_order
from .waves import Waves, check_order, counted, pays, turns_of

R = TypeVar("R")

GREEDY = 1e-5
"""a temperature up to this takes the likeliest token"""


class Chosen(TypedDict):
    """Passes that the user names."""

    apply: tuple[str, ...]
    without: tuple[str, ...]


class Optimised(NamedTuple):
    graph: Graph
    reports: list[Report]


@all_suggest
class Compiled:
    """An executor of a graph. Its results are those of the program itself."""

    def __init__(
        self,
        graph: Graph,
        optimise: str = "safe",
        backend: AnyBackend | None = None,
        apply: Sequence[str] = (),
        without: Sequence[str] = (),
    ) -> None:
        checked(optimise, apply, without)
        if graph.end is not None:
            raise ProgramError(
                f"the graph of {graph.name} ends at {graph.end.location}, before its program does",
                hint="write sgl.cond(...) or sgl.loop(...) there, or run the program itself",
            )
        self.graph = graph
        self._backend = backend
        self._optimise = optimise
        self._passes = Chosen(apply=tuple(apply), without=tuple(without))
        self._rows: Sequence[Mapping[str, str]] = ()
        """of the batch that it was made for"""
        self._width: int | None = None
        """of a batch, if it was tuned"""
        self._orders: Mapping[int, tuple[int, ...]] = {}
        """of the items of unordered sets, for the rows that it was made for"""
        self._made: dict[bool, Graph] = {}
        """the optimised graph, by whether the run is greedy"""

    def optimised(
        self, *, greedy: bool = True, rows: Sequence[Mapping[str, str]] = (), count: Callable[[str], int] | None = None
    ) -> Optimised:
        """The graph that runs, and a report of each pass. `greedy`: the run's temperature is 0.
        `rows` are the arguments of a batch; `count` gives the tokens of a text, by default about
        a token for four characters.
        """
        rows = rows or self._rows
        context = Context(greedy, rows, orders=self._orders)
        context = context if count is None else replace(context, count=count)
        return Optimised(*optimised(self.graph, self._optimise, context, **self._passes))

    @property
    def reports(self) -> list[Report]:
        """What each pass has changed, in words and numbers."""
        return self.optimised().reports

    def __repr__(self) -> str:
        return f"<compiled {self.graph!r}>"

    @property
    def nodes(self) -> tuple[Node, ...]:
        """The nodes of the graph, in the program's order."""
        return self.graph.nodes

    def print_graph(self) -> None:
        """A line a node, in the order in which they can run."""
        for number, node in enumerate(self.graph.nodes):
            print(f"stream {node.strand:>2}: {printing.line(self.graph, number)}")

    def save(self, path: str | PathLike[str]) -> None:
        """Write the graph as JSON, which `load_graph` reads. OSError if it cannot be written."""
        self.graph.save(path)

    def run(self, *args: object, **kwargs: object) -> ProgramState:
        """Like the program's own `run`: its arguments, and the same settings."""
        __tracebackhide__ = True
        settings = self._settings(kwargs)
        execution = self._execution(self._arguments(args, kwargs), settings)
        return execution.begin() if settings.get("stream") else execution.run()

    def stream(self, *args: object, **kwargs: object) -> ProgramState:
        """The state at once, while the graph runs: `for piece in compiled.stream(...).text_iter()`."""
        return self.run(*args, **kwargs, stream=True)

    async def run_async(self, *args: object, **kwargs: object) -> ProgramState:
        """Like `run`, for coroutines: other tasks continue meanwhile."""
        settings = self._settings(kwargs)
        execution = self._execution(self._arguments(args, kwargs), settings, is_async=True)
        return execution.begin_async() if settings.get("stream") else await execution.run_async()

    def run_batch(
        self,
        batch_arguments: Sequence[object],
        *,
        num_threads: int | Literal["auto"] = "auto",
        progress_bar: bool = False,
        generator_style: bool = False,
        return_exceptions: bool = False,
        reorder: bool = True,
        by: Literal["auto", "items", "nodes"] = "auto",
        **settings: object,
    ) -> States | Iterator[Outcome]:
        """Like the program's own `run_batch`. The items begin in an order in which neighbours have
        long common prefixes, unless `reorder` is False or the states are yielded one by one; the
        results are in the given order.

        `by` "nodes": all items execute one gen or select before any executes the next; "items": each
        item goes on by itself; "auto": what computes less, as `batch_report` counts it.
        """
        if unknown := settings.keys() - SETTINGS:
            raise unknown_argument("run_batch", min(unknown), sorted(SETTINGS))
        n_open = checked_width(num_threads if self._width is None or num_threads != "auto" else self._width)
        check_order(by)
        settings = self._defaults() | settings
        rows = self.rows(batch_arguments)
        over = self._over(rows)
        siblings = Siblings() if len(rows) > 1 else None
        each = over._for_rows(rows)
        order = _sorted(each, rows) if reorder and not generator_style else list(range(len(rows)))
        is_free = not (settings.get("stream") or generator_style or len(rows) < 2)
        waves = None
        if is_free and (by == "nodes" or (by == "auto" and pays(over._counted(rows, n_open, settings).numbers))):
            waves, n_open = Waves(len(rows), n_open), len(rows)
        batches = {one: Batch() for one in each}
        how = partial(Compiled._execution, is_async=True, siblings=siblings, waves=waves)
        coming = None if settings.get("stream") else over._coming(each, rows, order, n_open, settings)
        items = [
            partial(how, each[index], rows[index], settings, batch=batches[each[index]], item=coming and coming.item(place))
            for place, index in enumerate(order)
        ]
        if settings.get("stream"):
            if progress_bar or generator_style or return_exceptions:
                raise BadArgument(
                    "stream=True returns all states at once", hint="leave progress_bar, generator_style and return_exceptions out"
                )
            return States(_back(begin_all(items, True, n_open), order))
        results = run_all(
            items, True, n_open, progress_bar=progress_bar, generator_style=generator_style, return_exceptions=return_exceptions
        )
        if coming is not None:
            results = coming.until(results)
        if generator_style:
            return results
        with INTERRUPTS.watched():
            return States(_back(list(results), order))

    def batch_report(self, batch_arguments: Sequence[object], *, num_threads: int | Literal["auto"] = "auto", **settings: object) -> Report:
        """Tokens that a batch would compute item by item and node by node, in this backend's cache."""
        rows = self.rows(batch_arguments)
        return self._over(rows)._counted(rows, checked_width(num_threads), self._defaults() | settings)

    def _coming(
        self, each: Sequence[Compiled], rows: Sequence[Mapping[str, str]], order: Sequence[int], n_open: int, settings: Mapping[str, object]
    ) -> Coming | None:
        """What the engine is to know of the items to come; None if it has no use for it."""
        run = state_for(self.graph.name, settings)._run
        is_on = "foresight" not in self._passes["without"] and (self._optimise != "none" or "foresight" in self._passes["apply"])
        if not is_on or len(rows) < 2 or not isinstance(run.backend, Backend) or not isinstance(run.backend, Following):
            return None
        temperature = run.defaults.temperature
        return Coming(run.backend, [(each[index]._graph(temperature), rows[index]) for index in order], n_open)

    def _counted(self, rows: Sequence[Mapping[str, str]], n_open: int, settings: Mapping[str, object]) -> Report:
        run = state_for(self.graph.name, settings)._run
        return counted(self._graph(run.defaults.temperature), rows, run.backend, n_open, run.defaults)

    def tune(
        self,
        batch_arguments: Sequence[object],
        *,
        seconds: float = 20.0,
        backend: AnyBackend | None = None,
        clock: Callable[[], float] = time.perf_counter,
        report: Callable[[str], None] = lambda words: None,
    ) -> Tuned:
        """Measure these rows, greedily, with other widths of the batch, chunks, drafts, schedules and
        evictions, for about `seconds`. The result says what was measured and what was chosen; `use`
        applies it. The engine's cache is empty afterwards, and its settings are as before.

        BadArgument for no rows, and for a backend whose engine is not in this process.
        """
        engine = self._tunable(backend)
        if not (rows := self.rows(batch_arguments)):
            raise BadArgument("there are no rows to measure", hint="give the arguments of some typical runs")

        def run(n: int, width: int) -> None:
            self.run_batch([*islice(cycle(rows), n)], num_threads=width, backend=engine, temperature=0)

        width = checked_width("auto" if self._width is None else self._width)
        return search(self.graph.name, run, engine, width, max(len(rows), LEAST_ROWS), seconds, clock=clock, report=report)

    def use(self, tuned: Tuned, *, backend: AnyBackend | None = None) -> None:
        """Run batches as wide as was chosen, and set the engine as was chosen. BadArgument, in one line,
        if it was measured of another program, model or machine.
        """
        engine = self._tunable(backend)
        tuned.check(self.graph.name, engine.place())
        engine.turn(tuned.choice.knobs)
        self._width = tuned.choice.width

    def _tunable(self, backend: AnyBackend | None) -> Tunable:
        found = backend or self._backend or default_backend()
        if not isinstance(found, Tunable):
            raise BadArgument(f"{found.describe().name} has no engine in this process that could be tuned", hint="tune on a Lab")
        return found

    def plan(
        self, rows: Sequence[Mapping[str, str]], backend: Backend, cached: Iterable[Sequence[int]] = (), **sampling: object
    ) -> Planned:
        """What runs with these arguments would compute, one after the other, before a token is spent.
        `cached` are the token sequences in the cache now.
        """
        defaults = replace(GenDefaults(), **given(sampling))
        return plan(self.optimised(greedy=defaults.temperature <= GREEDY).graph, rows, backend, cached, defaults)

    def rows(self, batch_arguments: Sequence[object]) -> list[dict[str, str]]:
        """The items of a batch as the graph takes them. An error names the item."""
        return [self._row(item, index) for index, item in enumerate(batch_arguments)]

    def row(self, arguments: Mapping[str, object]) -> dict[str, str]:
        """The arguments as the graph takes them. An error names what is missing or unknown."""
        return self._arguments((), arguments)

    # ------------------------------------------------------------ arguments

    def _settings(self, kwargs: dict[str, object]) -> dict[str, object]:
        names = {*self.graph.arguments, *dict(self.graph.known)}
        return self._defaults() | {name: kwargs.pop(name) for name in SETTINGS - names if name in kwargs}

    def _defaults(self) -> dict[str, object]:
        return {} if self._backend is None else {"backend": self._backend}

    def _row(self, item: object, index: int) -> dict[str, str]:
        if not isinstance(item, Mapping | tuple):
            raise BadArgument(f"item {index} of the batch is {type(item).__name__} {item!r:.40}", hint="give dicts or tuples of arguments")
        try:
            return self._arguments((), item) if isinstance(item, Mapping) else self._arguments(item, {})
        except TypeError as error:
            raise type(error)(f"item {index} of the batch: {error}") from None

    def _arguments(self, args: Sequence[object], kwargs: Mapping[str, object]) -> dict[str, str]:
        graph = self.graph
        known = dict(graph.known)
        if len(args) > len(graph.arguments):
            raise TypeError(f"{graph.name}() takes {len(graph.arguments)} positional arguments, not {len(args)}")
        named = dict(zip(graph.arguments, args, strict=False)) | dict(kwargs)
        for name, value in list(named.items()):
            if name in known:
                if repr(value) != known[name]:
                    raise BadArgument(
                        f"the graph of {graph.name} was traced with {name}={known[name]:.60}, not {value!r:.60}",
                        hint=f"compile({name}=...) traces it again",
                    )
                del named[name]
            elif name not in graph.arguments:
                raise unknown_argument(graph.name, name, (*graph.arguments, *known, *sorted(SETTINGS)))
            elif not isinstance(value, str | int | float):
                raise BadArgument(
                    f"argument {name!r} of the graph of {graph.name} is a text, not {type(value).__name__} {value!r:.40}",
                    hint=f"compile({name}=...) traces the program with it",
                )
        if missing := [name for name in graph.arguments if name not in named]:
            raise TypeError(f"{graph.name}() missing {len(missing)} required arguments: {', '.join(map(repr, missing))}")
        return {name: str(value) for name, value in named.items()}

    def _over(self, rows: Sequence[Mapping[str, str]]) -> Compiled:
        """The executor for these rows: they decide the order of unordered items."""
        if not any(node.field is not None for node in self.graph.nodes):
            return self
        made = copy(self)
        made._rows, made._made = rows, {}
        return made

    def _for_rows(self, rows: Sequence[Mapping[str, str]]) -> list[Compiled]:
        """The executor of each row. Unordered items have an order for each row where prompts then
        share more than with one order for all.
        """
        count = Context().count
        found: list[Compiled] = [self] * len(rows)
        is_off = "fields" in self._passes["without"] or (self._optimise == "none" and "fields" not in self._passes["apply"])
        if is_off or not rows or not any(node.field is not None for node in self.graph.nodes):
            return found
        of_order: dict[tuple[tuple[int, tuple[int, ...]], ...], Compiled] = {}
        for index, order in enumerate(orders(self.graph, rows, count)):
            key = tuple(sorted(order.items()))
            if key and key not in of_order:
                of_order[key] = made = copy(self)
                made._orders, made._made = order, {}
            found[index] = of_order.get(key, self)
        alike = [
            shared([beginning(one._graph(0.0), row) for one, row in zip(each, rows, strict=True)], count)
            for each in (found, [self] * len(rows))
        ]
        return found if alike[0] > alike[1] else [self] * len(rows)

    # ------------------------------------------------------------ execution

    def _execution(
        self,
        arguments: Mapping[str, str],
        settings: Mapping[str, object],
        *,
        is_async: bool = False,
        siblings: Siblings | None = None,
        waves: Waves | None = None,
        batch: Batch | None = None,
        item: Item | None = None,
    ) -> Execution:
        state = traced_here(settings, self.graph.name) or state_for(self.graph.name, settings)
        run = state._run
        run.siblings = siblings
        run.arguments = dict(arguments)
        self._prepare(state)
        graph = self._graph(run.defaults.temperature)
        feeder = Feeder(graph, state, arguments, batch, item)

        def body() -> object:
            run.wait(feeder.advance)
            return feeder.resolved(graph.returned)

        async def coroutine() -> object:
            if waves is not None:
                await self._in_waves(waves, graph, feeder, run)
            await run.wait_async(feeder.advance)
            return feeder.resolved(graph.returned)

        return Execution(state, coroutine if is_async else body, is_async)

    async def _in_waves(self, waves: Waves, graph: Graph, feeder: Feeder, run: Run) -> None:
        steps = turns_of(graph)
        try:
            for step in sorted(set(steps.values())):
                async with waves.turn():
                    await run.wait_async(partial(feeder.advance, Gate(steps, step)))
        finally:
            waves.leave()

    def _graph(self, temperature: float) -> Graph:
        """The graph that runs."""
        greedy = temperature <= GREEDY
        return self._made.get(greedy) or self._made.setdefault(greedy, self.optimised(greedy=greedy).graph)

    def _prepare(self, state: ProgramState) -> None:
        """Compile the constraints before the run's lock is held."""
        backend = state._run.backend
        if takes_tokens(backend) and not state._run.traced:
            for node in self.graph.nodes:
                if isinstance(node.value, Gen) and node.value.form is not None:
                    backend.prepare(node.value.form.constraint)


def _sorted(each: Sequence[Compiled], rows: Sequence[Mapping[str, str]]) -> list[int]:
    """The rows, sorted by the beginnings of their prompts, and then by all texts in the order in which
    prompts read them.
    """
    names = {one: arguments_in_order(one._graph(0.0).nodes) for one in dict.fromkeys(each)}
    begin = [beginning(one._graph(0.0), row) for one, row in zip(each, rows, strict=True)]
    return sorted(range(len(rows)), key=lambda at: (begin[at], [rows[at][name] for name in names[each[at]]]))


def _back(results: Sequence[R], order: Sequence[int]) -> list[R]:
    """The results in the user's order."""
    place = {index: at for at, index in enumerate(order)}
    return [results[place[index]] for index in range(len(order))]
