"""Plain Python functions that a model may call: their schemas, the generated call, and making the
call.

The language of a call is `{"name": ..., "arguments": {...}}`. pydantic, which is loaded with the
first tool, reads signatures and validates arguments.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import json
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from ..contracts.errors import BadArgument, ProgramError
from ..contracts.json_values import Json
from ..contracts.params import Constraint
from ..contracts.tools import ToolSpec
from .expressions import Tools
from .form import Form
from .keywords import suggests
from .location import SourceLocation
from .types import fitted, generator

if TYPE_CHECKING:
    from pydantic import TypeAdapter

    Adapter = TypeAdapter[tuple[tuple[object, ...], dict[str, object]]]


@dataclass(frozen=True)
class Tool:
    name: str
    description: str
    function: Callable[..., object]
    adapter: Adapter = field(repr=False, compare=False)
    """from arguments as JSON values to the validated (args, kwargs) of the function"""

    def bound(self, arguments: dict[str, Json]) -> Callable[[], object]:
        """The call with validated arguments. ValueError if they are invalid."""
        args, kwargs = self.adapter.validate_python(arguments)
        return functools.partial(self.function, *args, **kwargs)


@dataclass(frozen=True)
class ToolCall:
    """A call that the model generated: `arguments` are JSON values, `text` is its text."""

    name: str
    arguments: dict[str, Json]
    text: str
    tool: Tool = field(repr=False)
    results: tuple[object, ...] = ()
    """its result, if it was executed"""

    def run(self) -> Any:
        """Call the function with validated arguments. Returns its result; for an `async` function,
        an awaitable.
        """
        return self.tool.bound(self.arguments)()

    @property
    def result(self) -> Any:
        """The result of the call, if the program executed it."""
        if not self.results:
            raise ProgramError(f"the call of {self.name} was not executed", hint="write gen(tools=..., execute=True), or .run() it")
        return self.results[0]

    def executed(self) -> ToolCall:
        """The same call with its result. An exception of the tool names it. Not for a thread that
        runs an event loop.
        """
        try:
            result = self.run()
            if inspect.iscoroutine(result):
                result = asyncio.run(result)
        except Exception as error:
            error.add_note(f"in the tool {self.name}{self._line(error)}, called with {json.dumps(self.arguments):.200}")
            raise
        except BaseException as error:
            raise ProgramError(f"the tool {self.name} raised {type(error).__name__}") from error
        return replace(self, results=(result,))

    def _line(self, error: Exception) -> str:
        """Where in the function it was raised: its frames belong to another thread and are not
        shown.
        """
        code = getattr(inspect.unwrap(self.tool.function), "__code__", None)
        lines = [line for frame, line in traceback.walk_tb(error.__traceback__) if frame.f_code is code]
        return f", {SourceLocation(code.co_filename, lines[-1])}" if code and lines else ""

    def spelled(self) -> str:
        """The result as the model reads it: text unchanged, anything else as JSON."""
        if isinstance(self.result, str):
            return self.result
        from pydantic_core import to_json

        return to_json(self.result, fallback=str).decode()


def _tool(function: Callable[..., object]) -> Tool:
    """BadArgument, with the parameter, for a function without a schema."""
    from pydantic import TypeAdapter
    from pydantic.errors import PydanticUserError

    name = function.__name__
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError:
        raise BadArgument(f"tool {name}: its parameters are unknown", hint="wrap it in a function of yours") from None
    for parameter in parameters:
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise BadArgument(f"tool {name}: parameter {parameter} cannot be passed by name", hint="write it as a plain parameter")
        if parameter.annotation is parameter.empty:
            raise BadArgument(f"tool {name}: parameter {parameter.name!r} has no type", hint=f"write `{parameter.name}: str`, for example")

    def given(*args: object, **kwargs: object) -> tuple[tuple[object, ...], dict[str, object]]:
        return args, kwargs

    signed: Any = functools.wraps(function)(given)
    try:
        adapter: Adapter = TypeAdapter(signed)
        adapter.json_schema()
    except (PydanticUserError, NameError) as error:
        raise BadArgument(f"tool {name}: {str(error).splitlines()[0]}", hint="give its parameters types that JSON can represent") from None
    return Tool(name, inspect.getdoc(function) or "", function, adapter)


def _named(functions: object) -> tuple[Callable[..., object], ...]:
    if not isinstance(functions, Sequence) or isinstance(functions, str) or not functions:
        raise BadArgument(f"tools must be a list of one or more functions, not {functions!r:.80}")
    names = [getattr(function, "__name__", "") if callable(function) else "" for function in functions]
    for function, name in zip(functions, names, strict=True):
        if not name.isidentifier():
            raise BadArgument(f"a tool is a function with a name, not {function!r:.80}")
        if names.count(name) > 1:
            raise BadArgument(f"two tools are named {name}", hint="rename one of them")
    return tuple(functions)


def of_tools(functions: object) -> Form:
    """One call of one of the tools."""
    return _of_tools(_named(functions))


@functools.lru_cache(64)
def _of_tools(functions: tuple[Callable[..., object], ...]) -> Form:
    from pydantic import TypeAdapter

    tools = tuple(map(_tool, functions))
    by_name = {tool.name: tool for tool in tools}
    schemas, shared = TypeAdapter.json_schemas([(tool.name, "validation", tool.adapter) for tool in tools], schema_generator=generator())
    calls = _calls([(tool.name, schemas[tool.name, "validation"]) for tool in tools])

    def meaning(text: str) -> ToolCall:
        match json.loads(text):
            case {"name": str(name), "arguments": dict(arguments), **rest} if name in by_name and not rest:
                by_name[name].bound(arguments)
                return ToolCall(name, arguments, text, by_name[name])
        raise ValueError("it is not a call of these tools")

    specs = [ToolSpec(tool.name, tool.description, json.dumps(fitted(schemas[tool.name, "validation"] | shared))) for tool in tools]
    return Form(Constraint("json_schema", json.dumps(fitted(calls | shared))), meaning, tools=tuple(specs))


@suggests
def describe_tools(functions: Sequence[Callable[..., object]]) -> Tools:
    """The tools for a system turn, in the words of the model's own chat template if it has any there. The
    gens with `tools=` after it then write a call as the template does.

    Otherwise, and as `str(...)`: a line of JSON for each tool, and the format of a call.
    """
    tools = map(_tool, _named(functions))
    return Tools(tuple(ToolSpec(tool.name, tool.description, json.dumps(tool.adapter.json_schema())) for tool in tools))


def _calls(tools: Sequence[tuple[str, dict[str, Json]]]) -> dict[str, Json]:
    """The schema of one call of one of the tools: (name, schema of the arguments)."""
    calls: list[Json] = [
        {
            "type": "object",
            "properties": {"name": {"const": name}, "arguments": schema},
            "required": ["name", "arguments"],
        }
        for name, schema in tools
    ]
    return {"anyOf": calls}


def call_schema(tools: Sequence[tuple[str, dict[str, Json]]]) -> dict[str, Json]:
    """The same of tools whose schemas are documents of their own: their references are made to
    point into this one."""
    shared: dict[str, Json] = {}
    schemas: list[tuple[str, dict[str, Json]]] = []
    for number, (name, schema) in enumerate(tools):
        root = f"tool{number}"
        schemas.append((name, {"$ref": f"#/$defs/{root}"}))
        shared[root] = _moved(schema, f"#/$defs/{root}")
    return fitted(_calls(schemas)) | {"$defs": shared}


def call_or_schema(tools: Sequence[tuple[str, dict[str, Json]]], schema: Json) -> dict[str, Json]:
    """Of a text that is a call of one of the tools, or else of `schema`."""
    calls = call_schema(tools)
    shared = calls.pop("$defs")
    assert isinstance(shared, dict)
    answer = "#/$defs/answer"
    return {"anyOf": [calls, {"$ref": answer}], "$defs": shared | {"answer": _moved(schema, answer)}}


def _moved(schema: Json, to: str) -> Json:
    """A schema's references to itself, for one that stands at `to`."""
    if isinstance(schema, list):
        return [_moved(item, to) for item in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        key: f"{to}{value[1:]}" if key == "$ref" and isinstance(value, str) and value.startswith("#") else _moved(value, to)
        for key, value in schema.items()
    }
