"""Finds how a chat template describes tools and how it writes a call.

The template is rendered with invented tools and an invented call, and the result is compared with the
rendering without them. A template that puts tools anywhere but at the end of the system turn, or writes
a call as anything but marks around `{"name": ..., "arguments": ...}`, has no style: the language then
uses words of its own.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from ...contracts.errors import BadArgument, ModelError
from ...contracts.tools import ToolSpec, ToolStyle, declared
from .chat import ChatTemplate, Turn

_SYSTEM, _QUESTION, _WORDS = "sgl-lab-system", "sgl-lab-question", "sgl-lab-words"
_SPECS = tuple(
    ToolSpec(f"sgl_lab_tool_{n}", f"what tool {n} does", json.dumps({"type": "object", "properties": {f"p{n}": {"type": "string"}}}))
    for n in range(2)
)
_CALL = {"name": _SPECS[0].name, "arguments": {"p0": "a value"}}
_ASKED: list[Turn] = [{"role": "system", "content": _SYSTEM}, {"role": "user", "content": _QUESTION}]


def tool_style_of(template: ChatTemplate) -> ToolStyle | None:
    if "tools" not in template.source:
        return None
    try:
        marks = _marks(template)
        return None if marks is None else _described(template, *marks)
    except (BadArgument, ModelError):
        return None


def _added(template: ChatTemplate, specs: Sequence[ToolSpec]) -> str | None:
    """What the template adds to the system turn for these tools; None if it adds anything elsewhere."""
    before, found, after = template.rendered(_ASKED, True).partition(_SYSTEM)
    text = template.rendered(_ASKED, True, [declared(spec) for spec in specs])
    if not found or not text.startswith(before + _SYSTEM) or not text.endswith(after):
        return None
    return text[len(before) + len(_SYSTEM) : len(text) - len(after)]


def _described(template: ChatTemplate, before: str, after: str) -> ToolStyle | None:
    one, two = _added(template, _SPECS[:1]), _added(template, _SPECS)
    if not one or not two:
        return None
    for is_wrapped in (True, False):
        first, second = (json.dumps(declared(spec, is_wrapped), ensure_ascii=False) for spec in _SPECS)
        head, found, tail = one.partition(first)
        rest = two.removeprefix(head + first)
        if not found or not rest.endswith(second + tail) or rest == two:
            continue
        between = rest.removesuffix(second + tail)
        style = ToolStyle(head, between, tail, before, after, is_wrapped, _default_system(template))
        if style.description(_SPECS) == two and style.description(_SPECS[:1]) == one:
            return style
    return None


def _default_system(template: ChatTemplate) -> str:
    before, _, after = template.rendered(_ASKED, True).partition(_SYSTEM)
    text = template.rendered(_ASKED[1:], True)
    return text[len(before) : len(text) - len(after)] if text.startswith(before) and text.endswith(after) else ""


def _marks(template: ChatTemplate) -> tuple[str, str] | None:
    """The text around a call in the turn of an assistant. Another turn follows: in the last one
    some templates write the place of a reasoning.
    """
    tools = [declared(spec) for spec in _SPECS]
    asked = template.rendered(_ASKED, False, tools)
    plain: Turn = {"role": "assistant", "content": _WORDS}
    call: Turn = {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": _CALL}]}
    words, called = (template.rendered([*_ASKED, turn, *_ASKED[1:]], False, tools) for turn in (plain, call))
    opened, spelled, end = words.removeprefix(asked).partition(_WORDS)
    before, found, rest = called.removeprefix(asked + opened).partition(json.dumps(_CALL))
    if not spelled or not found or not called.startswith(asked + opened) or not rest.endswith(end):
        return None
    return before, rest.removesuffix(end)
