"""`@function`: a Python function whose first parameter is the state becomes a program."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, NoReturn, overload

from ..contracts.conversation import AnyBackend
from ..contracts.errors import BadArgument, UnknownArgument
from .batch import begin_all, checked_width, run_all
from .beginning import SETTINGS, state_for
from .default import checked
from .execution import Execution
from .graph.compiled import Compiled
from .graph.dataflow import Graph
from .graph.tracing import Until, trace_program, traced_here
from .interrupts import INTERRUPTS
from .keywords import all_suggest, suggests, unknown_argument
from .prefix import cache_prefix
from .run import current_run
from .shared import Siblings
from .shown import States
from .state import ProgramState


@all_suggest
class SglFunction:
    """A program. `run` executes it once; `run_batch` executes it once per item."""

    def __init__(
        self, func: Callable[..., object], num_api_spec_tokens: int | None = None, bound: Mapping[str, object] | None = None
    ) -> None:
        if inspect.isgeneratorfunction(func) or inspect.isasyncgenfunction(func):
            raise BadArgument(f"program {func.__name__} yields", hint="a program returns; `text_iter` follows its text while it runs")
        self.func = func
        self.is_async = inspect.iscoroutinefunction(func)
        self.num_api_spec_tokens = num_api_spec_tokens
        """number of tokens that one call to a completion API may request, so that later gens are
        served from the result
        """
        self.bind_arguments = dict(bound or {})
        self._signature = inspect.signature(func)
        self.arg_names = tuple(self._signature.parameters)[1:]
        if not self._signature.parameters:
            raise BadArgument(f"program {func.__name__} has no parameter for its state", hint=f"write `def {func.__name__}(s, ...)`")
        functools.update_wrapper(self, func)

    def __getattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"a program has no {name!r}")

    def __repr__(self) -> str:
        return f"<program {self.func.__name__}({', '.join(self.arg_names)})>"

    def bind(self, **arguments: object) -> SglFunction:
        """The same program with some of its arguments given."""
        for name in arguments:
            if name not in self.arg_names:
                raise unknown_argument(self.func.__name__, name, self.arg_names)
        return SglFunction(self.func, self.num_api_spec_tokens, self.bind_arguments | arguments)

    def __call__(self, *args: object, **kwargs: object) -> ProgramState:
        __tracebackhide__ = True
        return self.run(*args, **kwargs)

    def run(self, *args: object, **kwargs: object) -> ProgramState:
        """Execute the program. An `async def` runs to its end on a loop of its own, on this thread.
        If another loop runs here (in a notebook's cell), it stands still meanwhile.

        Settings beside the program's own arguments:

        backend     the backend; a program inside another one inherits it
        stream      return at once; the body runs on a thread of its own
        use_thread  False waits for each expression

        and the defaults of gens: max_new_tokens 128, n 1, temperature 1.0, top_p 1.0, top_k -1,
        min_p 0, frequency_penalty 0, presence_penalty 0, min_tokens, stop, stop_token_ids,
        stop_regex, ignore_eos, seed, adapter, return_logprob, logprob_start_len, top_logprobs_num and
        return_text_in_logprobs. A parameter of the program with such a name takes precedence. A
        program that is started inside another inherits the settings that it is not given.
        """
        __tracebackhide__ = True  # a notebook shows only the user's frames
        settings = self._take_settings(kwargs)
        execution = self._execution(args, kwargs, settings)
        return execution.begin() if settings.get("stream") else execution.run()

    async def run_async(self, *args: object, **kwargs: object) -> ProgramState:
        """Like `run`, for coroutines: other tasks continue meanwhile.

        An `async def` runs in the awaiting task (with `stream=True` in a task of its own), a plain
        program on a thread. Cancelling the task, also by a timeout, cancels the run and its
        requests.
        """
        __tracebackhide__ = True
        settings = self._take_settings(kwargs)
        execution = self._execution(args, kwargs, settings)
        return execution.begin_async() if settings.get("stream") else await execution.run_async()

    def cache(self, backend: AnyBackend | None = None) -> int:
        """Compute the prefix that all runs of the program begin with, so that they find it cached.
        Returns its length in tokens.

        The body runs up to its first gen, read, or use of an argument without a value.
        """
        return cache_prefix(self.func, self.bind_arguments, state_for(self.func.__name__, {"backend": backend}))

    def trace(self, *, until: Until = None, backend: AnyBackend | None = None, **arguments: object) -> Graph:
        """The program as a graph, without running it: its gens, selects, forks and calls, and what
        each reads. Arguments that are not given and have no default are text that the graph
        receives when it runs; loops over the others unroll. No backend is needed.

        ProgramError, naming the line, where the program decides by text that does not exist yet.
        With `until="data"` the graph ends there, and is the program's static beginning.
        """
        if backend is not None:
            checked(backend)
        return self._traced(until, arguments, "trace")

    def compile(
        self,
        *,
        optimise: Literal["none", "safe", "suggest"] = "safe",
        apply: Sequence[str] = (),
        without: Sequence[str] = (),
        backend: AnyBackend | None = None,
        **known: object,
    ) -> Compiled:
        """An executor of the program's graph, with the results of the program itself: `run`,
        `run_batch`, `stream`, `run_async`. Arguments in `known` are data of the graph.

        optimise  safe passes by default; "suggest" also reports what would change the order of the
                  text that the model reads
        apply     passes that are only suggested and are to be applied; without: passes to leave out
        """
        graph = self._traced(None, known, "compile")
        return Compiled(graph, optimise, None if backend is None else checked(backend), apply, without)

    @overload
    def run_batch(
        self,
        batch_arguments: Sequence[object],
        *,
        num_threads: int | Literal["auto"] = "auto",
        progress_bar: bool = False,
        generator_style: Literal[False] = False,
        return_exceptions: bool = False,
        **settings: object,
    ) -> States: ...
    @overload
    def run_batch(
        self,
        batch_arguments: Sequence[object],
        *,
        num_threads: int | Literal["auto"] = "auto",
        progress_bar: bool = False,
        generator_style: Literal[True],
        return_exceptions: bool = False,
        **settings: object,
    ) -> Iterator[Any]: ...
    def run_batch(
        self,
        batch_arguments: Sequence[object],
        *,
        num_threads: int | Literal["auto"] = "auto",
        progress_bar: bool = False,
        generator_style: bool = False,
        return_exceptions: bool = False,
        **settings: object,
    ) -> States | Iterator[Any]:
        """Execute the program once per item: a dict of arguments or a tuple of them. Returns the
        states, in order: a list with `to_frame()`.

        At most `num_threads` bodies execute at once: functions on as many threads, coroutines as
        tasks of one thread. A failing item does not affect the others. With `return_exceptions` its
        exception is in its place; otherwise the first one is raised when the rest is done, with all
        states and exceptions in its `results`.

        `generator_style` yields each state when it and
        those before it are done. `stream=True` returns all states at once, while they run: each can
        be read, followed and cancelled separately, and keeps its error. `settings` are those of
        `run`.
        """
        if unknown := settings.keys() - SETTINGS:
            taken = ("num_threads", "progress_bar", "generator_style", "return_exceptions")
            raise unknown_argument("run_batch", min(unknown), (*taken, *sorted(SETTINGS)))
        n_open = checked_width(num_threads)
        calls = [self._call_of(item, index) for index, item in enumerate(batch_arguments)]
        if (outer := current_run()) and outer.traced:  # in the order of the items
            return States([self.run(*args, **kwargs, **settings) for args, kwargs in calls])
        siblings = Siblings() if len(calls) > 1 else None
        items = [functools.partial(self._execution, args, kwargs, settings, siblings) for args, kwargs in calls]
        if settings.get("stream"):
            if progress_bar or generator_style or return_exceptions:
                raise BadArgument(
                    "stream=True returns all states at once", hint="leave progress_bar, generator_style and return_exceptions out"
                )
            return States(begin_all(items, self.is_async, n_open))
        results = run_all(
            items,
            self.is_async,
            n_open,
            progress_bar=progress_bar,
            generator_style=generator_style,
            return_exceptions=return_exceptions,
        )
        if generator_style:
            return results
        with INTERRUPTS.watched():
            return States(results)

    def _call_of(self, item: object, index: int) -> tuple[tuple[object, ...], dict[str, object]]:
        if not isinstance(item, Mapping | tuple):
            raise BadArgument(f"item {index} of the batch is {type(item).__name__} {item!r:.40}", hint="give dicts or tuples of arguments")
        args, kwargs = ((), dict(item)) if isinstance(item, Mapping) else (item, {})
        try:
            self._bind(args, kwargs)
        except UnknownArgument as error:
            raise UnknownArgument(f"item {index} of the batch: {error.message}", hint=error.hint) from None
        except TypeError as error:
            raise TypeError(f"item {index} of the batch: {error}") from None
        return args, kwargs

    def _traced(self, until: Until, arguments: Mapping[str, object], by: str) -> Graph:
        for name in arguments:
            if name not in self.arg_names:
                raise unknown_argument(f"{self.func.__name__}.{by}", name, self.arg_names)
        return trace_program(self.func, self.func.__name__, self.bind_arguments, arguments, until)

    def _bind(self, args: tuple[object, ...], kwargs: dict[str, object]) -> inspect.BoundArguments:
        parameters = self._signature.parameters.values()
        if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
            for name in kwargs:
                if name not in self.arg_names:
                    raise unknown_argument(self.func.__name__, name, (*self.arg_names, *sorted(SETTINGS)))
        try:
            return self._signature.bind(None, *args, **self.bind_arguments | kwargs)
        except TypeError as error:
            raise TypeError(f"{self.func.__name__}(): {error}") from None

    def _take_settings(self, kwargs: dict[str, object]) -> dict[str, object]:
        """The entries of `kwargs` that are settings of the run, removed from it."""
        return {name: kwargs.pop(name) for name in SETTINGS - set(self.arg_names) if name in kwargs}

    def _execution(
        self, args: tuple[object, ...], kwargs: dict[str, object], settings: Mapping[str, object], siblings: Siblings | None = None
    ) -> Execution:
        bound = self._bind(args, kwargs)
        state = traced_here(settings, self.func.__name__) or state_for(self.func.__name__, settings, self.num_api_spec_tokens)
        state._run.siblings = siblings
        state._run.arguments = dict(list(bound.arguments.items())[1:])
        return Execution(state, functools.partial(self.func, state, *args, **self.bind_arguments | kwargs), self.is_async)


@overload
def function(func: Callable[..., object], num_api_spec_tokens: int | None = None) -> SglFunction: ...
@overload
def function(func: None = None, num_api_spec_tokens: int | None = None) -> Callable[[Callable[..., object]], SglFunction]: ...
@suggests
def function(
    func: Callable[..., object] | None = None, num_api_spec_tokens: int | None = None
) -> SglFunction | Callable[[Callable[..., object]], SglFunction]:
    """Decorator, with or without a call: the function becomes a program. Its first parameter is the
    state.
    """
    if func is None:
        return lambda func: SglFunction(func, num_api_spec_tokens)
    return SglFunction(func, num_api_spec_tokens)
