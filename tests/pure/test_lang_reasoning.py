"""Reasoning is separated from the answer."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import sgl_lab.lang.surface as sgl
from sgl_lab.backends.scripted import ScriptedBackend
from sgl_lab.contracts.errors import BadArgument, RequestFailed
from sgl_lab.contracts.params import Constraint
from sgl_lab.contracts.port import GenJob, ReasoningMarks
from sgl_lab.engine.text.chat import ChatTemplate
from sgl_lab.engine.text.reasoning_marks import reasoning_marks_of
from sgl_lab.lang.ir import SglExprList, SglSeparateReasoning
from sgl_lab.lang.reasoning import MODEL_TYPES, Reasoning

from .language import streams_of, watchdog, within  # noqa: F401

gen = sgl.gen

HARMONY = "<|channel|>analysis<|message|>2 and 2<|end|><|start|>assistant<|channel|>final<|message|>Four."


@pytest.mark.parametrize(
    ("model_type", "text", "reasoning", "answer"),
    [
        ("deepseek-r1", "<think>\n2 and 2\n</think>\n\nFour.", "2 and 2", "Four."),
        ("deepseek-r1", "2 and 2</think>Four.", "2 and 2", "Four."),
        ("deepseek-r1", "2 and 2, for ever", "2 and 2, for ever", ""),
        ("qwen3", "<think>2 and 2</think>Four.", "2 and 2", "Four."),
        ("Qwen3", "Four.", "", "Four."),
        ("qwen3", "Well. <think>2 and 2</think> Four. ", "2 and 2", "Well. Four. "),
        ("qwen3", "<think>2 and", "2 and", ""),
        ("qwen3", "2 < 3", "", "2 < 3"),
        ("qwen3-thinking", "2 and 2</think>Four.", "2 and 2", "Four."),
        ("kimi", "◁think▷2 and 2◁/think▷Four.", "2 and 2", "Four."),
        ("gpt-oss", HARMONY, "2 and 2", "Four."),
    ],
)
def test_reasoning_and_answer_are_separated(model_type: str, text: str, reasoning: str, answer: str) -> None:
    s = sgl.start(ScriptedBackend(text))
    s += sgl.user("2 + 2?") + sgl.assistant(sgl.separate_reasoning(gen("a"), model_type=model_type))
    assert (s["a"], s["a_reasoning_content"]) == (answer, reasoning)
    assert s.get_meta_info("a")["reasoning_content"] == reasoning
    assert s.messages()[-1]["content"] == answer


@given(st.lists(st.sampled_from(["<think>", "</think>", "<th", "</thi", "<", ">", " ", "a", "\n"]), max_size=9), st.booleans())
def test_whatever_comes_what_was_shown_of_it_stays(pieces: list[str], is_open: bool) -> None:
    shown, text = Reasoning("<think>", "</think>", is_open), "".join(pieces)
    parts = [shown.split(text[:n], is_whole=False) for n in range(len(text) + 1)]
    for early, late in zip(parts, [*parts[1:], shown.split(text)], strict=True):
        assert late.answer.startswith(early.answer)
        assert late.reasoning.startswith(early.reasoning)


def test_the_lead_in_is_kept_and_the_model_sees_only_the_answer() -> None:
    """The original cuts the turn back to its beginning and loses the lead-in."""
    backend = ScriptedBackend(["<think>hm</think>Four.", "Sure."])
    s = sgl.start(backend)
    s += sgl.user("2 + 2?")
    s += sgl.assistant(sgl.separate_reasoning("I say: " + gen("a") + " Done.", model_type="deepseek-r1"))
    s += sgl.user("Sure?") + sgl.assistant(gen("b"))
    assert s["b"] == "Sure."
    assert s.messages()[1]["content"] == "I say: Four. Done."
    assert "hm" not in s.prompt("b")
    ids = backend.jobs_of(GenJob)[1].prompt
    assert bytes(id - 512 for id in ids if id >= 512) == b"Four.", "the answer's tokens are those that were sampled"


def test_streamed_it_shows_the_answer_as_it_comes_and_ends() -> None:
    """The original never says that the streamed variable is done, and hangs."""

    @sgl.function
    def program(s: Any) -> None:
        s += sgl.user("Q") + sgl.assistant("So: " + sgl.separate_reasoning(gen("a"), model_type="qwen3"))

    backend = ScriptedBackend("<think>hm, hm</think>Four.", held=True)
    state = program.run(backend=backend, stream=True)
    thoughts = state.text_iter("a_reasoning_content")
    backend.step(len("<think>h"))
    assert next(thoughts) == "h"
    backend.resume()
    assert within(5, lambda: "".join(thoughts)) == "m, hm"
    assert within(5, lambda: "".join(state.text_iter("a"))) == "Four."
    assert within(5, lambda: "".join(state.text_iter())) == state.text()
    assert "think" not in state.text()


def test_each_sample_has_its_reasoning() -> None:
    s = sgl.start(ScriptedBackend(["<think>x</think>A", "B"]))
    s += "Q" + sgl.separate_reasoning(gen("a", n=2), model_type="qwen3")
    assert (s["a"], s["a_reasoning_content"]) == (["A", "B"], ["x", ""])
    assert s.text() == "QA"


def test_a_failed_gen_fails_its_reasoning_too() -> None:
    s = sgl.start(ScriptedBackend(RequestFailed("boom")))
    s += "Q" + sgl.separate_reasoning(gen("a"), model_type="qwen3") + gen("b")
    assert isinstance(within(5, lambda: s["a_reasoning_content"]), RequestFailed)
    t = sgl.start(ScriptedBackend(RequestFailed("boom")))
    t += "Q" + gen("a") + sgl.separate_reasoning(gen("b"), model_type="qwen3")
    assert isinstance(within(5, lambda: t["b_reasoning_content"]), RequestFailed)


def test_the_events_tell_the_answer_as_the_streams_tokens() -> None:
    events: list[Any] = []
    s = sgl.start(ScriptedBackend("<think>hm</think>Four."), events.append)
    s += sgl.user("Q") + sgl.assistant(sgl.separate_reasoning(gen("a"), model_type="qwen3"))
    ids = s.token_ids()
    (sampled,) = streams_of(events).values()
    assert tuple(sampled) == ids


def test_an_unknown_type_of_model_is_refused_when_it_is_appended() -> None:
    wrong = {"deepseek-r2": "deepseek-r1", "nothing like it": "deepseek-r1, .*step3", 3: "qwen3"}
    for model_type, meant in wrong.items():
        made = sgl.separate_reasoning(gen("a"), model_type=model_type)  # type: ignore[arg-type]
        s = sgl.start(ScriptedBackend())
        with pytest.raises(BadArgument, match=rf"{model_type!r} is unknown.*{meant}"):
            s += "So: " + made
        assert s.text() == "", "it was refused whole"


CHAT = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' }}THOUGHT{{ m.content + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}OPENED{% endif %}"
)
STRIPPED = "{% if '</think>' in m.content %}{% set c = m.content.split('</think>')[-1] %}{% endif %}"
"""as DeepSeek's templates drop earlier reasoning"""
EARLIER = "{% if m.reasoning_content %}{{ 'BEGIN\\n' + m.reasoning_content + '\\nEND\\n\\n' }}{% endif %}"


def earlier(begin: str, end: str) -> str:
    """A template writes the reasoning of earlier turns so."""
    return EARLIER.replace("BEGIN", begin).replace("END", end)


@pytest.mark.parametrize(
    ("thought", "opened", "added", "marks"),
    [
        (earlier("<think>", "</think>"), "", (), ("<think>", "</think>", False)),  # Qwen 3, GLM, SmolLM 3
        (earlier("<think>", "</think>"), "<think>\n", (), ("<think>", "</think>", True)),  # Qwen 3 Thinking
        (earlier("<think>", "</think>"), "<think>\n\n</think>\n\n", (), ("<think>", "</think>", False)),
        (STRIPPED, "<think>\n", ("<think>", "</think>"), ("<think>", "</think>", True)),  # DeepSeek-R1
        (STRIPPED, "", ("<think>", "</think>"), ("<think>", "</think>", False)),
        ("", "", ("[INST]", "[THINK]", "[/THINK]"), ("[THINK]", "[/THINK]", False)),  # Magistral
        ("", "", ("◁think▷", "◁/think▷"), ("◁think▷", "◁/think▷", False)),  # Kimi
        ("", "", ("<seed:think>", "</seed:think>"), ("<seed:think>", "</seed:think>", False)),
        ("", "", ("<|START_THINKING|>", "<|END_THINKING|>"), ("<|START_THINKING|>", "<|END_THINKING|>", False)),  # Command A
        ("", "", ("<|begin_of_thought|>", "<|end_of_thought|>"), ("<|begin_of_thought|>", "<|end_of_thought|>", False)),
        (earlier("<|channel|>analysis<|message|>", "<|end|>"), "", (), tuple(vars(MODEL_TYPES["gpt-oss"]).values())[:3]),
        (
            "{# <thinking> and </thinking>, in a remark #}" + earlier("<thought>", "</thought>"),
            *("", ("<think>", "</think>"), ("<thought>", "</thought>", False)),
        ),
        ("", "", ("<|im_start|>", "</thinking>"), None),
        ("", "", (), None),
    ],
)
def test_marks_are_found_in_the_template_and_the_added_tokens(
    thought: str, opened: str, added: tuple[str, ...], marks: tuple[str, str, bool] | None
) -> None:
    source = CHAT.replace("THOUGHT", thought).replace("OPENED", opened)
    assert reasoning_marks_of(ChatTemplate(source, {}, added), added) == marks
    if not thought and not opened:
        assert reasoning_marks_of(None, added) == marks, "a model without a template has its tokens"


def of_a_model(texts: list[str], marks: ReasoningMarks | None) -> ScriptedBackend:
    backend = ScriptedBackend(texts)
    backend._card = replace(backend._card, reasoning=marks)
    return backend


@sgl.function
def asks(s: Any, in_turn: bool = True, regex: str | None = None) -> None:
    made = sgl.separate_reasoning(gen("a", regex=regex))
    s += sgl.user("Q") + (sgl.assistant(made) if in_turn else made)


@pytest.mark.parametrize("through_graph", [False, True])
def test_without_a_type_the_models_own_marks_count(through_graph: bool) -> None:
    def run(text: str, marks: ReasoningMarks, **arguments: Any) -> tuple[str, str]:
        bound = asks.bind(**arguments)
        state = (bound.compile() if through_graph else bound).run(backend=of_a_model([text], marks))
        return state["a"], state["a_reasoning_content"]

    closed, opened = ReasoningMarks("[T]", "[/T]"), ReasoningMarks("<think>", "</think>", True)
    assert run("[T]2 and 2[/T] Four.", closed) == ("Four.", "2 and 2")
    assert run("Four.", closed) == ("Four.", "")
    assert run("2 and 2</think>Four.", opened) == ("Four.", "2 and 2")
    assert run("Four.", opened, in_turn=False) == ("Four.", ""), "no template began this text"
    assert run("2 and 2</think>yes", opened, regex="(yes|no)") == ("yes", "2 and 2")


def test_a_type_that_is_named_wins_and_a_model_without_marks_is_refused() -> None:
    s = sgl.start(of_a_model(["<think>hm</think>Four."], ReasoningMarks("[T]", "[/T]")))
    s += "Q" + sgl.separate_reasoning(gen("a"), model_type="qwen3")
    assert s["a"] == "Four."
    s = sgl.start(of_a_model([], None))
    with pytest.raises(BadArgument, match=r"no marks of reasoning are known of scripted.*model_type=...\), one of deepseek-r1"):
        s += "So: " + sgl.separate_reasoning(gen("a"))
    assert s.text() == "", "it was refused whole"


def test_what_has_no_gen_is_refused_at_the_call() -> None:
    for nothing in ("text", sgl.user("text"), None):
        with pytest.raises(BadArgument, match="needs a gen"):
            sgl.separate_reasoning(nothing, model_type="qwen3")


def test_it_is_a_list_of_the_expression_and_a_mark() -> None:
    inner = gen("a")
    made = sgl.separate_reasoning(inner, model_type="any")
    assert made.expr_list[0] == inner
    (_, mark) = made.expr_list
    assert isinstance(made, SglExprList)
    assert isinstance(mark, SglSeparateReasoning)
    assert (mark.model_type, mark.name, mark.expr) == ("any", "a_reasoning_content", inner)
    assert repr(mark) == "SeparateReasoning(model_type=any, name=a_reasoning_content)"
    assert mark.process_name_for_reasoning("b") == "b_reasoning_content"
    with pytest.raises(BadArgument):
        mark.process_name_for_reasoning("")
    assert [type(part).__name__ for part in ("x" + made + "y").expr_list] == ["Text", "Gen", "SeparateReasoning", "Text"]


def test_a_mark_counts_for_the_expression_before_it_alone() -> None:
    s = sgl.start(ScriptedBackend(["<think>x</think>A", "<think>y</think>B"]))
    s += "Q" + gen("a") + sgl.separate_reasoning("-" + gen("b"), model_type="qwen3")
    assert (s["a"], s["b"], "a_reasoning_content" in s) == ("<think>x</think>A", "B", False)


def test_a_choice_is_all_answer() -> None:
    s = sgl.start(ScriptedBackend())
    s += "Q" + sgl.separate_reasoning(sgl.select("a", ["yes", "no"]), model_type="deepseek-r1")
    assert (s["a"], s["a_reasoning_content"]) == ("yes", "")


# ---------------------------------------------------------------- the shape of an answer

THOUGHT = "a < b, </b>, <<</thin"
IN_A_SHAPE = [
    ("qwen3", "<think>{}</think>\n\n{}"),
    ("qwen3", "{1}"),
    ("deepseek-r1", "{}</think>{}"),
    ("deepseek-r1", "<think>{}</think>\n{}"),
    ("kimi", "◁think▷{}◁/think▷{}"),
    ("gpt-oss", "<|channel|>analysis<|message|>{}<|end|><|start|>assistant<|channel|>final<|message|>{}"),
]
SHAPES: list[tuple[dict[str, Any], str, object]] = [
    ({"regex": "(yes|no)"}, "yes", "yes"),
    ({"regex": "^ ?yes$"}, " yes", " yes"),
    ({"dtype": int}, "-12", -12),
    ({"dtype": bool}, "True", True),
    ({"json_schema": {"type": "object", "properties": {"a": {"type": "integer"}}}}, '{"a": 1}', {"a": 1}),
    ({"grammar": 'start: "a" b\nb: "b"+'}, "abb", "abb"),
]


@pytest.mark.parametrize(("model_type", "written"), IN_A_SHAPE)
@pytest.mark.parametrize(("shape", "answer", "value"), SHAPES)
def test_a_shape_is_that_of_the_answer(model_type: str, written: str, shape: dict[str, Any], answer: str, value: object) -> None:
    s = sgl.start(ScriptedBackend(written.format(THOUGHT, answer)))
    s += "Q" + sgl.separate_reasoning(gen("a", **shape), model_type=model_type)
    assert s["a"] == answer
    assert s["a_reasoning_content"] == (THOUGHT if "{}" in written else "")
    assert s.value("a") == value
    assert s.get_meta_info("a")["is_complete"]


@pytest.mark.parametrize("model_type", ["qwen3", "deepseek-r1"])
@pytest.mark.parametrize("text", ["maybe", "<think>x</think>maybe", "<think>x</think>yes</think>yes", "<think>x</think>yes, I think"])
def test_what_is_not_the_shape_is_no_answer(model_type: str, text: str) -> None:
    s = sgl.start(ScriptedBackend(text))
    s += "Q" + sgl.separate_reasoning(gen("a", regex="(yes|no)"), model_type=model_type)
    assert "forbids" in str(s.error())


def test_a_shape_that_spells_the_mark_is_that_of_the_whole_text() -> None:
    backend = ScriptedBackend("hm</think>no")
    s = sgl.start(backend)
    s += "Q" + sgl.separate_reasoning(gen("a", regex=r"(?s:.*)<\/think>(yes|no)"), model_type="deepseek-r1")
    assert (s["a"], s["a_reasoning_content"], s.value("a")) == ("no", "hm", "no")
    (job,) = backend.jobs_of(GenJob)
    assert job.params.constraint == Constraint("regex", r"(?s:.*)<\/think>(yes|no)")


PIECES = st.lists(st.sampled_from(["<", "/", "t", "think>", "</think>", "</", "<|end|>", "|", "end", "\n"]), max_size=9)


@given(PIECES, st.sampled_from(sorted(MODEL_TYPES)))
def test_the_lead_of_a_shape_ends_with_the_first_mark(pieces: list[str], model_type: str) -> None:
    reasoning = MODEL_TYPES[model_type]
    thought = "".join(pieces)
    text = ("" if reasoning.is_open else reasoning.begin) + thought + reasoning.end
    is_first = (thought + reasoning.end).find(reasoning.end) == len(thought)
    if model_type == "gpt-oss" and "<|end|>" in thought:
        is_first = False  # a part of its mark that ends a message
    assert bool(re.fullmatch(reasoning.lead, text)) == is_first
