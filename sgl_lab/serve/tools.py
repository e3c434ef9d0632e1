"""Tools of requests: what the prompt says of them, the constraint of a call, and reading a call.

As in the language, a call is written as `{"name": ..., "arguments": {...}}`, inside the marks of
the model's template if it has any. An answer that must be a call is held to the tools' schemas. One
that may be words is free, and is a call if it reads as one.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ..contracts.errors import BadArgument
from ..contracts.json_values import Json
from ..contracts.params import Constraint
from ..contracts.port import Message
from ..contracts.tools import ToolSpec, ToolStyle, described
from ..lang.form import of_schema
from ..lang.tools import call_or_schema, call_schema
from .fields import Fields


@dataclass(frozen=True, slots=True)
class Tool:
    name: str
    description: str
    parameters: dict[str, Json]


CALL = '{"name":'
"""how a call begins, without white space"""


class Call(NamedTuple):
    name: str
    arguments: str
    """JSON text"""


class Tools(NamedTuple):
    """`must`: the answer is a call, and no words."""

    tools: tuple[Tool, ...] = ()
    must: bool = False
    style: ToolStyle | None = None

    def with_tools(self, turns: Sequence[Message]) -> list[Message]:
        """The turns, with the tools at the end of the system turn: in the words of the model's template, or
        in the language's.
        """
        if not self.tools:
            return list(turns)
        style, has_system = self.style, bool(turns) and turns[0].role == "system"
        system, rest = (turns[0].content, turns[1:]) if has_system else (style.system if style else "", turns)
        specs = [ToolSpec(tool.name, tool.description, json.dumps(tool.parameters)) for tool in self.tools]
        if style is not None:
            return [Message("system", system + style.description(specs)), *rest]
        return [Message("system", "\n\n".join(filter(None, (system, described(specs))))), *rest]

    def constraint(self, answer: Constraint | None, named: str) -> Constraint | None:
        """Of the whole answer. `answer`: of its words, which the request gives as `named`."""
        tools = [(tool.name, tool.parameters) for tool in self.tools]
        if self.must:
            if answer is not None:
                raise BadArgument(f"a tool call has no {named}", hint=f"leave out {named}, or tool_choice")
            return of_schema(call_schema(tools)).constraint
        if not tools or answer is None:
            return answer
        return of_schema(call_or_schema(tools, json.loads(answer.source))).constraint

    def call_in(self, text: str) -> Call | None:
        """The call that a whole answer is; None if it is words."""
        if not self.tools:
            return None
        return read_call(text, frozenset(tool.name for tool in self.tools), self.style)

    def may_be_call(self, text: str) -> bool:
        """Whether a text that begins so may become a call: it is not streamed as words."""
        begun = "".join(text.split())
        return bool(self.tools) and (begun[:1] in ("", "<", "`", "[") or begun.startswith(CALL[: len(begun)]))


def of(tools: Sequence[Tool], choice: object, style: ToolStyle | None = None) -> Tools:
    """`choice`: auto, none, required or the name of a tool in a tuple."""
    match choice:
        case None | "auto":
            return Tools(tuple(tools), style=style)
        case "none":
            return Tools()
        case "required":
            if not tools:
                raise BadArgument("tool_choice needs tools")
            return Tools(tuple(tools), True, style)
        case (str(name),):
            found = tuple(tool for tool in tools if tool.name == name)
            if not found:
                raise BadArgument(f"tool_choice names {name!r:.60}, which is none of the tools")
            return Tools(found, True, style)
        case _:
            raise BadArgument(f"tool_choice cannot be {choice!r:.60}", hint="it is none, auto, required, or names a tool")


def read(fields: Fields, schema: str = "parameters") -> Tool:
    """One tool: name, description and the schema of its arguments."""
    name = fields.needed("name")
    if not name or len(name) > 128 or not name.replace("-", "_").replace(".", "_").isidentifier():
        raise BadArgument(f"a tool cannot be named {name!r:.60}")
    given = fields.any(schema)
    if given is None:
        given = {"type": "object", "properties": {}}
    if not isinstance(given, dict):
        raise BadArgument(f"the {schema} of tool {name} must be a JSON schema, not {given!r:.60}")
    closed = {"additionalProperties": False} if "properties" in given else {}
    return Tool(name, fields.text("description") or "", closed | given)


def spelled_call(name: str, arguments: str, style: ToolStyle | None) -> str:
    """A call as the model writes it."""
    try:
        value: Json = json.loads(arguments)
    except (ValueError, RecursionError):
        value = arguments
    call = json.dumps({"name": name, "arguments": value}, ensure_ascii=False)
    return call if style is None else f"{style.before}{call}{style.after}"


def read_call(text: str, names: frozenset[str], style: ToolStyle | None = None) -> Call | None:
    """The call that `text` is: bare, or inside the marks of the model's template, of Hermes, or of
    Markdown."""
    inner = text.strip()
    if style is not None:
        inner = inner.removeprefix(style.before.strip()).removesuffix(style.after.strip()).strip()
    inner = inner.removeprefix("<tool_call>").removesuffix("</tool_call>").strip()
    inner = inner.removeprefix("```json").removeprefix("```").removesuffix("```").strip()
    try:
        found: Json = json.loads(inner)
    except (ValueError, RecursionError):
        return None
    match found:
        case {"name": str(name), "arguments": dict(arguments)} if name in names:
            return Call(name, json.dumps(arguments, ensure_ascii=False))
        case _:
            return None
