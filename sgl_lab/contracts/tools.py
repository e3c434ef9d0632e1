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


def declared(spec: ToolSpec, is_wrapped: bool = True) -> dict[str, object]:
    """A tool as chat templates take it."""
    function: dict[str, object] = {"name": spec.name, "description": spec.description, "parameters": json.loads(spec.parameters)}
    return {"type": "function", "function": function} if is_wrapped else function
