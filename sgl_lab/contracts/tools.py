"""Tools that a model may call: what is declared of each, and how a model's own chat template has it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ToolSpec:
    name: str
    description: str
    parameters: str
    """the JSON schema of the arguments"""


@dataclass(frozen=True, slots=True)
class ToolStyle:
    """A description is `head`, the tools as JSON with `between` between them, and `tail`; it stands at
    the end of the system turn. A call is `before`, `{"name": ..., "arguments": ...}` and `after`.
    """

    head: str
    between: str
    tail: str
    before: str
    after: str
    is_wrapped: bool = True
    """a tool is written as {"type": "function", "function": {...}}"""
    system: str = ""
    """what the template says where a chat has no system turn"""

    def description(self, specs: Sequence[ToolSpec]) -> str:
        return self.head + self.between.join(json.dumps(declared(spec, self.is_wrapped), ensure_ascii=False) for spec in specs) + self.tail


def described(specs: Sequence[ToolSpec]) -> str:
    """Tools for a model whose template has no way of its own: a line of JSON for each, and the
    format of a call."""
    lines = [json.dumps(_function(spec)) for spec in specs]
    return "\n".join(("You can call these tools:", *lines, 'A call is written as {"name": <tool>, "arguments": {<parameter>: <value>}}.'))


def declared(spec: ToolSpec, is_wrapped: bool = True) -> dict[str, object]:
    """A tool as chat templates take it."""
    return {"type": "function", "function": _function(spec)} if is_wrapped else _function(spec)


def _function(spec: ToolSpec) -> dict[str, object]:
    return {"name": spec.name, "description": spec.description, "parameters": json.loads(spec.parameters)}
