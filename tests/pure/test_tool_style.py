"""Tools are declared to a model, and calls are parsed, in the form of its own chat template."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

import sgl_lab.lang.surface as sgl
from sgl_lab.backends.scripted import ScriptedBackend
from sgl_lab.contracts.tools import ToolSpec, ToolStyle, declared
from sgl_lab.engine.text.chat import ChatTemplate, Turn
from sgl_lab.engine.text.tool_style import tool_style_of
from sgl_lab.lang.surface import gen

MARKED = """{%- if messages[0].role == 'system' %}{% set first = messages[0].content %}{% else %}{% set first = 'Be kind.' %}{% endif -%}
<|im_start|>system
{{ first }}
{%- if tools %}{{ '\\n\\nCall these functions:\\n<tools>' }}
{%- for tool in tools %}{{ '\\n' + (tool | tojson) }}{% endfor %}{{ '\\n</tools>' }}
{%- endif %}{{ '<|im_end|>\\n' }}
{%- for message in messages if message.role != 'system' -%}
{{ '<|im_start|>' + message.role + '\\n' + message.content }}
{%- for call in message.tool_calls or [] -%}
{{ '<tool_call>\\n{"name": "' + call.function.name + '", "arguments": ' + (call.function.arguments | tojson) + '}\\n</tool_call>' }}
{%- endfor -%}
{{ '<|im_end|>\\n' }}
{%- endfor -%}
{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""
"""as Qwen's and Hermes' templates do"""

REASONS = MARKED.replace(
    "+ message.content", "+ ('<think></think>' if loop.last and message.role == 'assistant' else '') + message.content"
)
"""as Qwen 3's: the last turn has the place of a reasoning"""
PLAIN = MARKED.replace("(tool | tojson)", "(tool.function | tojson)").replace("<tool_call>\\n", "").replace("\\n</tool_call>", "")
OTHERS = {
    "no tools": MARKED.replace("{%- if tools %}", "{%- if false %}"),
    "in the user's turn": MARKED.replace("{%- if tools %}", "{%- if false %}").replace(
        "+ message.content }}", "+ message.content }}{% if tools and message.role == 'user' %}{{ tools | tojson }}{% endif %}"
    ),
    "calls in another form": MARKED.replace('{"name": "', "<function=").replace('", "arguments": ', ">"),
    "refuses tools": MARKED.replace("{%- if tools %}", "{%- if tools %}{{ raise_exception('no tools') }}"),
}


def weather(city: str, days: int = 1) -> str:
    """The weather of a city, "as it is"."""
    return f"sun for {days} days in {city}"


def clock() -> str:
    """Tell the time."""
    return "noon"


TOOLS = [weather, clock]


def template(source: str) -> ChatTemplate:
    return ChatTemplate(source, {}, ["<|im_start|>", "<|im_end|>"])


def specs() -> tuple[ToolSpec, ...]:
    return sgl.describe_tools(TOOLS).specs


@pytest.mark.parametrize("source", [MARKED, PLAIN, REASONS])
def test_the_words_and_marks_are_those_of_the_template(source: str) -> None:
    chat = template(source)
    style = tool_style_of(chat)
    assert style is not None
    call = {"name": "weather", "arguments": {"city": "Oslo", "days": 2}}
    turns: list[Turn] = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Will it rain?"},
        {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": call}]},
        {"role": "tool", "content": "no"},
    ]
    ours: list[Turn] = [
        {"role": "system", "content": "Be brief." + style.description(specs())},
        turns[1],
        {"role": "assistant", "content": style.before + json.dumps(call) + style.after},
        turns[3],
    ]
    assert chat.rendered(ours, True) == chat.rendered(turns, True, [declared(spec) for spec in specs()])


@pytest.mark.parametrize("name", OTHERS)
def test_a_template_with_tools_in_another_place_or_form_has_no_style(name: str) -> None:
    assert tool_style_of(template(OTHERS[name])) is None


def program(s: Any) -> None:
    s += sgl.system("Be brief." + sgl.describe_tools(TOOLS))
    s += sgl.user("Will it rain?")
    s += sgl.assistant(gen("call", tools=TOOLS, execute=True))
    s += sgl.assistant(gen("answer"))


def run(style: ToolStyle | None) -> Any:
    backend = ScriptedBackend(['{"name": "weather", "arguments": {"city": "Oslo", "days": 2}}', "No."])
    backend._card = replace(backend._card, tool_style=style)
    return sgl.function(program).run(backend=backend)


def test_a_program_tells_of_tools_and_calls_them_in_the_models_own_form() -> None:
    style = tool_style_of(template(MARKED))
    assert style is not None
    state = run(style)
    call = '{"name": "weather", "arguments": {"city": "Oslo", "days": 2}}'
    assert state.value("call", sgl.ToolCall).text == call
    assert [message["content"] for message in state.messages()] == [
        "Be brief." + style.description(specs()),
        "Will it rain?",
        f"<tool_call>\n{call}\n</tool_call>",
        "sun for 2 days in Oslo",
        "No.",
    ]


def test_without_a_style_the_language_has_words_of_its_own() -> None:
    messages = run(None).messages()
    assert messages[0]["content"] == "Be brief." + str(sgl.describe_tools(TOOLS))
    assert messages[2]["content"] == '{"name": "weather", "arguments": {"city": "Oslo", "days": 2}}'
    assert f"{sgl.describe_tools(TOOLS)}" == str(sgl.describe_tools(TOOLS))


def test_a_call_has_the_marks_only_where_the_model_was_told_of_tools_in_its_own_words() -> None:
    @sgl.function
    def untold(s: Any) -> None:
        s += sgl.user("Will it rain?") + sgl.assistant(gen("call", tools=TOOLS))

    backend = ScriptedBackend(['{"name": "clock", "arguments": {}}'])
    backend._card = replace(backend._card, tool_style=tool_style_of(template(MARKED)))
    assert untold.run(backend=backend).messages()[-1]["content"] == '{"name": "clock", "arguments": {}}'


def test_a_fork_inherits_how_calls_are_written() -> None:
    @sgl.function
    def forked(s: Any) -> None:
        s += sgl.system(sgl.describe_tools(TOOLS)) + sgl.user("Will it rain?")
        fork = s.fork(1)[0]
        fork += sgl.assistant(gen("call", tools=TOOLS))
        s["said"] = fork.messages()[-1]["content"]

    backend = ScriptedBackend(['{"name": "clock", "arguments": {}}'])
    backend._card = replace(backend._card, tool_style=tool_style_of(template(MARKED)))
    assert forked.run(backend=backend)["said"].startswith("<tool_call>")


@pytest.mark.parametrize("has_system", [True, False])
def test_the_door_renders_tools_and_calls_as_the_template_does(has_system: bool) -> None:
    """With the template's own system turn where a client sends none."""
    from sgl_lab.serve import messages, tools

    chat = template(MARKED)
    style = tool_style_of(chat)
    assert style is not None
    tool = tools.Tool("weather", "of a town", {"type": "object", "properties": {"town": {"type": "string"}}})
    call = {"name": "weather", "arguments": {"town": "Oslo"}}
    function = {"name": "weather", "arguments": json.dumps(call["arguments"])}
    given: list[Any] = [
        *([{"role": "system", "content": "Be brief."}] if has_system else []),
        {"role": "user", "content": "Will it rain?"},
        {"role": "assistant", "content": "", "tool_calls": [{"id": "1", "type": "function", "function": function}]},
        {"role": "tool", "tool_call_id": "1", "content": "no"},
    ]
    chosen = tools.of([tool], "auto", style)
    ours = [{"role": turn.role, "content": turn.content} for turn in chosen.with_tools(messages.read(given, style))]
    theirs = [turn | ({"tool_calls": [{"type": "function", "function": call}]} if "tool_calls" in turn else {}) for turn in given]
    declared_tool = declared(ToolSpec(tool.name, tool.description, json.dumps(tool.parameters)))
    assert chat.rendered(ours, True) == chat.rendered(theirs, True, [declared_tool])
    found = chosen.call_in(style.before + json.dumps(call) + style.after)
    assert found == tools.Call("weather", '{"town": "Oslo"}')
