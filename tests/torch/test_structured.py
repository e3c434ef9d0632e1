"""Structured output on the built-in model: what it writes is what was asked for, whatever it would like to say."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic
import pytest
import torch

import sgl_lab as sgl

gen = sgl.gen

Short = Annotated[str, pydantic.Field(max_length=12)]


class Trip(pydantic.BaseModel):
    city: Short
    days: Annotated[int, pydantic.Field(ge=1, le=30)]
    by: Literal["train", "car"]
    stops: Annotated[list[Short], pydantic.Field(max_length=2)] = []


@dataclass
class Point:
    x: bool
    y: bool


@pytest.fixture(scope="module")
def lab() -> Iterator[sgl.Lab]:
    with sgl.Lab(seed=1) as made:
        yield made
        made.check()


@pytest.fixture
def s(lab: sgl.Lab) -> sgl.ProgramState:
    state = sgl.start(lab.backend, defaults=sgl.GenDefaults(max_tokens=96))
    state += sgl.system("You are terse.")
    return state


@pytest.mark.parametrize(
    ("dtype", "pattern"),
    [(int, r"[-+]?\d+"), (float, r"[-+]?\d*\.?\d+"), (bool, "True|False"), (str, r'"[^"]*"'), (Literal["a", "b"], '"[ab]"')],
)
def test_a_dtype_is_what_the_text_is_and_the_value_has(s: sgl.ProgramState, dtype: Any, pattern: str) -> None:
    s += sgl.user("How many legs has a dog?") + sgl.assistant(gen("x", dtype=dtype, temperature=0.0, max_tokens=64, stop="\n"))
    assert re.fullmatch(pattern, s["x"])
    assert isinstance(s.value("x"), dtype if isinstance(dtype, type) else str)


def test_a_number_stops_where_the_model_would_go_on_with_words(s: sgl.ProgramState) -> None:
    s += sgl.user("How many legs has a dog?") + sgl.assistant("A dog has " + sgl.gen_int("legs", temperature=0.0) + " legs.")
    assert s.value("legs", int) < 1000
    assert s.get_meta_info("legs")["is_complete"]
    assert s.messages()[-1]["content"] == f"A dog has {s['legs']} legs."


@pytest.mark.parametrize("temperature", [0.0, 1.5])
def test_a_pydantic_model_comes_back_as_an_instance(s: sgl.ProgramState, temperature: float) -> None:
    s += sgl.user("Plan a trip.") + sgl.assistant(gen("trip", json_schema=Trip, temperature=temperature))
    trip = s.value("trip", Trip)
    assert json.loads(s["trip"]) == trip.model_dump(exclude_unset=True)


def test_a_schema_gives_its_value_and_a_dataclass_an_instance(s: sgl.ProgramState) -> None:
    schema = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"], "additionalProperties": False}
    s += sgl.user("Is it?") + sgl.assistant(
        gen("a", json_schema=schema) + gen("b", json_schema=json.dumps(schema)) + gen("c", json_schema=Point)
    )
    assert s.value("a").keys() == s.value("b").keys() == {"ok"}
    assert isinstance(s.value("c"), Point)


def test_samples_under_a_regex_each_match_it(s: sgl.ProgramState) -> None:
    s += sgl.user("When?") + sgl.assistant(gen("when", regex=r"(19|20)\d\d-(0[1-9]|1[0-2])", n=4, temperature=2.0))
    assert len(s.value("when")) == 4
    assert all(re.fullmatch(r"(19|20)\d\d-(0[1-9]|1[0-2])", when) for when in s["when"])


def test_a_grammar_is_followed(s: sgl.ProgramState) -> None:
    grammar = 'start: sum " = " NUMBER\nsum: NUMBER (" + " NUMBER)+\nNUMBER: /[1-9][0-9]?/'
    s += sgl.user("A sum?") + sgl.assistant(gen("sum", grammar=grammar, temperature=1.0, seed=3, max_tokens=24))
    assert re.fullmatch(r"[1-9]\d?( \+ [1-9]\d?)+ = [1-9]\d?", s.value("sum"))


def test_what_runs_out_of_tokens_keeps_its_text_and_has_no_value(s: sgl.ProgramState) -> None:
    s += sgl.user("Plan a trip.") + sgl.assistant(gen("trip", json_schema=Trip, max_tokens=6))
    assert s["trip"].startswith('{"city"')
    assert not s.get_meta_info("trip")["is_complete"]
    with pytest.raises(sgl.UnfinishedValue, match="raise max_tokens") as caught:
        s.value("trip")
    assert caught.value.text == s["trip"]


def test_a_bad_grammar_and_an_impossible_schema_are_refused_when_they_are_appended(s: sgl.ProgramState) -> None:
    with pytest.raises(sgl.BadArgument):
        s += gen("x", grammar='start: "a" b')
    with pytest.raises((sgl.BadArgument, sgl.BackendUnsupported)):
        s += gen("x", json_schema={"allOf": [{"type": "string"}, {"type": "integer"}]})
    assert "x" not in s


def weather(city: Short, unit: Literal["C", "F"] = "C") -> str:
    """The weather in a city."""
    return f"20 {unit} in {city}"


def add(a: Annotated[int, pydantic.Field(ge=0, le=999)], b: Annotated[int, pydantic.Field(ge=0, le=999)]) -> int:
    """Add two numbers."""
    return a + b


QUESTIONS = [f"{verb} {thing}" for verb in ("Add", "Tell me", "Sing about", "What is", "") for thing in ("2 and 3", "Rome", "the sun", "}")]


def test_at_temperature_one_every_call_is_legal_and_is_made(lab: sgl.Lab) -> None:
    @sgl.function
    def ask(s: Any, question: str) -> None:
        s += sgl.system(sgl.describe_tools([weather, add])) + sgl.user(question)
        s += sgl.assistant(gen("call", tools=[weather, add], execute=True))

    states = ask.run_batch([{"question": question} for question in QUESTIONS], backend=lab.backend, temperature=1.0, max_new_tokens=64)
    calls = [state.value("call", sgl.ToolCall) for state in states]
    assert len(calls) == 20
    assert {call.name for call in calls} <= {"weather", "add"}
    assert [state.messages()[-1] for state in states] == [{"role": "tool", "content": str(call.run())} for call in calls]


def search(query: str, tags: list[str], most: int = 3) -> str:
    """Search the library."""
    return f"{query} {tags} {most}"


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_call_with_strings_and_lists_without_a_bound_is_whole_before_its_tokens_run_out(lab: sgl.Lab, temperature: float) -> None:
    @sgl.function
    def ask(s: Any, question: str) -> None:
        s += sgl.system(sgl.describe_tools([search, add])) + sgl.user(question)
        s += sgl.assistant(gen("call", tools=[search, add], execute=True))

    states = ask.run_batch([(question,) for question in QUESTIONS], backend=lab.backend, temperature=temperature, max_new_tokens=48)
    calls = [state.value("call", sgl.ToolCall) for state in states]
    assert [state.messages()[-1]["content"] for state in states] == [str(call.run()) for call in calls]
    metas = [state.get_meta_info("call") for state in states]
    assert all(meta["is_complete"] and meta["completion_tokens"] <= 48 for meta in metas)
    assert any(meta["finish_reason"] == "length" for meta in metas)


# ---------------------------------------------------------------- select

CHOICES = ["Paris", "Rome, of course", "Paris, in France", "I do not know", "a"]


@pytest.fixture(scope="module")
def plain(smollm2_folder: Path) -> Iterator[tuple[sgl.Lab, Any]]:
    """A lab in float32, and the same weights in transformers."""
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(smollm2_folder, dtype=torch.float32)
    with sgl.Lab(dtype="float32") as made:
        yield made, model


def log_probabilities(model: Any, prompt: Sequence[int], choice: Sequence[int]) -> list[float]:
    """Of the choice's tokens after the prompt, by one forward pass over all of it."""
    with torch.no_grad():
        logits = model(torch.tensor([[*prompt, *choice]])).logits[0].log_softmax(-1)
    return [float(logits[len(prompt) + n - 1, token]) for n, token in enumerate(choice)]


def mean(row: Sequence[float]) -> float:
    return sum(row) / len(row)


def test_all_three_ways_to_select_choose_as_a_forward_pass_of_each_choice_does(plain: tuple[sgl.Lab, Any]) -> None:
    lab, model = plain
    states = {}
    for name in ("token_length_normalized", "greedy_token_selection", "unconditional_likelihood_normalized"):
        s = states[name] = sgl.start(lab.backend)
        s += "Q: What is the capital of France?\nA: " + gen("pick", choices=CHOICES, choices_method=getattr(sgl, name))
    # Each choice is encoded with the text before it, and scored from the first token in which any of them leaves it.
    text = "Q: What is the capital of France?\nA: "
    wholes = [lab.backend.encode(text + choice) for choice in CHOICES]
    ids = lab.backend.encode(text)
    n_prompt = min(len([*takewhile(lambda pair: pair[0] == pair[1], zip(ids, whole, strict=False))]) for whole in wholes)
    prompt, choices = wholes[0][:n_prompt], [whole[n_prompt:] for whole in wholes]
    assert lab.backend.render_text("") == ()
    rows = [log_probabilities(model, prompt, choice) for choice in choices]
    # Without anything before it a first token has no log-probability, and counts as certain.
    alone = [[0.0, *log_probabilities(model, choice[:1], choice[1:])] for choice in choices]

    width = max(map(len, rows))
    padded = [row + [mean(row)] * (width - len(row)) for row in rows]
    gains = [mean(row) - mean(base) for row, base in zip(rows, alone, strict=True)]
    expected = {
        "token_length_normalized": max(range(len(rows)), key=lambda n: mean(rows[n])),
        # Tokens that choices share are tied; two passes differ in the last digits.
        "greedy_token_selection": max(range(len(rows)), key=lambda n: [round(logprob, 3) for logprob in padded[n]]),
        "unconditional_likelihood_normalized": max(range(len(rows)), key=lambda n: gains[n]),
    }
    assert {name: state["pick"] for name, state in states.items()} == {name: CHOICES[index] for name, index in expected.items()}
    metas = {name: state.get_meta_info("pick") for name, state in states.items()}
    for meta in metas.values():
        assert meta["normalized_prompt_logprobs"] == pytest.approx([mean(row) for row in rows], abs=1e-3)
    for ours, theirs in zip(metas["greedy_token_selection"]["greedy_logprob_matrix"], padded, strict=True):
        assert ours == pytest.approx(theirs, abs=1e-3)
    ours = metas["unconditional_likelihood_normalized"]["normalized_unconditional_prompt_logprobs"]
    assert ours == pytest.approx(gains, abs=1e-3)


def test_log_probabilities_of_a_prompt_are_those_of_a_forward_pass(plain: tuple[sgl.Lab, Any]) -> None:
    lab, model = plain
    s = sgl.start(lab.backend)
    s += "The capital of France is" + gen("x", max_tokens=2, return_logprob=True, logprob_start_len=0)
    meta = s.get_meta_info("x")
    prompt = lab.backend.encode("The capital of France is")
    assert [(token, text) for _, token, text in meta["input_token_logprobs"]] == [(id, lab.backend.decode((id,))) for id in prompt]
    (first, *others) = (logprob for logprob, _, _ in meta["input_token_logprobs"])
    assert first is None
    assert others == pytest.approx(log_probabilities(model, prompt[:1], prompt[1:]), abs=1e-3)
    assert len(meta["output_token_logprobs"]) == 2
