"""Programs of the shapes that the original's documentation shows, on the built-in model, with nothing changed but the import."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from math import exp
from typing import Any

import pytest
from pydantic import BaseModel

import sgl_lab as sgl
from sgl_lab import assistant, assistant_begin, assistant_end, function, gen, separate_reasoning, set_default_backend, system, user
from sgl_lab.contracts.errors import BadArgument, EngineStopped
from sgl_lab.lang.ir import REGEX_FLOAT, REGEX_INT, REGEX_STR
from sgl_lab.srt.constrained import build_regex_from_object


@pytest.fixture(autouse=True, scope="module")
def runtime() -> Iterator[sgl.Runtime]:
    """As programs for the original start a model, with what they say to its server."""
    with pytest.warns(UserWarning, match="mem_fraction_static, tp_size: ignored, because") as caught:
        made = sgl.Runtime(model_path="smollm2", max_total_tokens=8192, log_level="error", tp_size=1, mem_fraction_static=0.8)
    assert caught[0].filename == __file__
    set_default_backend(made)
    yield made
    set_default_backend(None)
    made.lab.check()
    made.shutdown()
    with pytest.raises(EngineStopped):
        several.run(backend=made).sync()


# ---------------------------------------------------------------- the frontend tutorial


def test_a_question_and_an_answer() -> None:
    @function
    def basic_qa(s: Any, question: str) -> None:
        s += system("You are a helpful assistant.")
        s += user(question)
        s += assistant(gen("answer", max_tokens=32))

    state = basic_qa("What is the capital of France?")
    assert len(state["answer"].split()) > 1


def test_several_turns() -> None:
    @function
    def multi_turn(s: Any) -> Any:
        s += system("You are a helpful assistant.")
        s += user("Name a country.")
        s += assistant(gen("first", max_tokens=12))
        s += user("Name another one.")
        s += assistant(gen("second", max_tokens=12))
        return s

    state = multi_turn()
    assert [message["role"] for message in state.messages()] == ["system", "user", "assistant", "user", "assistant"]
    assert state.messages()[-1]["content"] == state["second"]
    assert state.ret_value["first"] == state["first"]


@pytest.mark.parametrize("in_roles", [True, False])
def test_an_if_on_what_was_chosen(in_roles: bool) -> None:
    def say(text: Any) -> Any:
        return assistant(text) if in_roles else text

    @function
    def tool_use(s: Any, question: str) -> None:
        s += say(
            "To answer this question: " + question + ". I need to use a " + gen("tool", choices=["calculator", "search engine"]) + ". "
        )
        if s["tool"] == "calculator":
            s += say("The math expression is: " + gen("expression", max_tokens=12))
        elif s["tool"] == "search engine":
            s += say("The key word to search is: " + gen("word", max_tokens=12))

    state = tool_use("What is 2 * 2?")
    assert state["expression" if state["tool"] == "calculator" else "word"]
    meta = state.get_meta_info("tool")
    assert len(meta["input_token_logprobs"]) == len(meta["normalized_prompt_logprobs"]) == 2


@pytest.mark.parametrize("in_roles", [True, False])
def test_two_tips_are_expanded_side_by_side(in_roles: bool) -> None:
    def say(text: Any) -> Any:
        return assistant(text) if in_roles else text

    @function
    def tip_suggestion(s: Any) -> None:
        s += say("Here are two tips for staying healthy: 1. Balanced Diet. 2. Regular Exercise.\n\n")
        forks = s.fork(2)
        for i, f in enumerate(forks):
            f += say(f"Now, expand tip {i + 1} into a paragraph:\n" + gen("detailed_tip", max_tokens=24, stop="\n\n"))
        s += say("Tip 1:" + forks[0]["detailed_tip"] + "\n")
        s += say("Tip 2:" + forks[1]["detailed_tip"] + "\n")
        s += say("To summarize the above two tips, I can say:\n" + gen("summary", max_tokens=24))

    state = tip_suggestion()
    assert state["summary"]
    assert "Tip 1:" in state.text()
    assert "Tip 2:" in state.text()


ADDRESS = r"((25[0-5]|2[0-4]\d|[01]?\d\d?)\.){3}(25[0-5]|2[0-4]\d|[01]?\d\d?)"


def test_a_regular_expression() -> None:
    @function
    def address(s: Any) -> None:
        s += user("What is the IP address of the Google DNS servers?")
        s += assistant(gen("answer", temperature=0, regex=ADDRESS))

    assert re.fullmatch(ADDRESS, address()["answer"])


CHARACTER = (
    r"""\{\n"""
    + r"""    "name": "[\w\d\s]{1,16}",\n"""
    + r"""    "house": "(North|South|East)",\n"""
    + r"""    "wand": \{\n"""
    + r"""        "wood": "[\w\d\s]{1,16}",\n"""
    + r"""        "length": [0-9]{1,2}\.[0-9]{0,2}\n"""
    + r"""    \},\n"""
    + r"""    "alive": "(Alive|Deceased)"\n"""
    + r"""\}"""
)


def test_a_record_by_a_regular_expression() -> None:
    @function
    def character(s: Any, name: str) -> None:
        s += user(f"{name} is a character in a story. Please fill in the following information.")
        s += assistant(gen("json_output", max_tokens=256, regex=CHARACTER))

    text = character("Anna")["json_output"]
    assert re.fullmatch(CHARACTER, text)
    assert json.loads(re.sub(r"(\d)\.\n", r"\1\n", text))["house"] in ("North", "South", "East")


@function
def text_qa(s: Any, question: str) -> None:
    s += user(question)
    s += assistant(gen("answer", stop="\n", max_tokens=16))


QUESTIONS = [{"question": f"What is the capital of {country}?"} for country in ("the United Kingdom", "France", "Japan")]


def test_a_batch(capsys: pytest.CaptureFixture[str]) -> None:
    states = text_qa.run_batch(QUESTIONS, progress_bar=True, temperature=0)
    assert len([state["answer"] for state in states]) == 3
    assert "3/3" in capsys.readouterr().out
    assert [state["answer"] for state in text_qa.run_batch(QUESTIONS, num_threads=2, generator_style=True, temperature=0)] == [
        state["answer"] for state in states
    ]


def test_a_stream() -> None:
    async def followed(state: Any) -> str:
        return "".join([piece async for piece in state.text_async_iter(var_name="answer")])

    for run in range(3):
        state = text_qa.run(question=QUESTIONS[1]["question"], temperature=0.1, stream=True)
        if run == 0:
            assert "".join(state.text_iter()) == state.text()
        elif run == 1:
            assert "".join(state.text_iter(var_name="answer")) == state["answer"]
        else:
            assert asyncio.run(followed(state)) == state["answer"]


def test_turns_that_are_begun_and_ended() -> None:
    @function
    def chat_example(s: Any) -> None:
        s += s.system("You are a helpful assistant.")
        with s.user():
            s += "Question: What is the capital of France?"
        s += assistant_begin()
        s += "Answer: " + gen("answer", max_tokens=16, stop="\n")
        s += assistant_end()

    state = chat_example()
    assert [message["content"] for message in state.messages()][1:] == [
        "Question: What is the capital of France?",
        "Answer: " + state["answer"],
    ]


# ---------------------------------------------------------------- quick start and usage

FEW_SHOT = """The following are questions with answers.
Q: What is the capital of France?
A: Paris
Q: What is the capital of Germany?
A: Berlin
Q: What is the capital of Italy?
A: Rome
"""


def test_a_completion_after_examples() -> None:
    @function
    def few_shot_qa(s: Any, question: str) -> None:
        s += FEW_SHOT
        s += "Q: " + question + "\n"
        s += "A:" + gen("answer", stop="\n", temperature=0)

    state = few_shot_qa.run(question="What is the capital of Spain?")
    assert state["answer"].strip().lower() == "madrid"
    assert str(state) == f"ProgramState({state.text()})"


def test_samples_side_by_side_by_forks_and_by_n() -> None:
    @function
    def parallel_sample(s: Any, question: str, n: int) -> None:
        s += "Question: Compute 3 + 2 + 2\nReasoning: I will try a calculator.\nTool: calculator\nAnswer: 7\n"
        s += "Question: " + question + "\n"
        forks = s.fork(n)
        forks += "Reasoning:" + gen("reasoning", stop="\n", max_tokens=16) + "\n"
        forks += "Tool:" + gen("tool", choices=["calculator", "browser"]) + "\n"
        forks += "Answer:" + gen("answer", stop="\n", max_tokens=8) + "\n"
        forks.join()

    state = parallel_sample.run(question="Compute 5 + 2 + 4.", n=3, temperature=1.0)
    assert [len(state[name]) for name in ("reasoning", "tool", "answer")] == [3, 3, 3]

    @function
    def several(s: Any) -> None:
        s += user("Name a city.") + assistant(gen("first", max_tokens=8, n=2))
        s += user("Why?") + assistant(gen("second", max_tokens=8))

    state = several.run()
    assert (len(state["first"]), type(state["second"])) == (2, str)


def test_an_answer_may_have_to_be_long() -> None:
    @function
    def long_answer(s: Any) -> None:
        s += user("What is the capital of the United States?")
        s += assistant(gen("answer", min_tokens=40, max_tokens=64))

    assert long_answer.run().get_meta_info("answer")["completion_tokens"] >= 40


def test_forks_by_name_are_gathered_in_a_synthesis() -> None:
    @function
    def sweep(s: Any, context: str, parts: dict[str, str]) -> None:
        s += context + "\n"
        forks = s.fork(len(parts))
        for i, (name, text) in enumerate(parts.items()):
            forks[i] += f"--- {name} ---\n{text}\n\n"
            forks[i] += gen(f"analysis_{name}", max_tokens=12, stop="\n\n", temperature=0.3)
        s += "Analyses:\n"
        for i, name in enumerate(parts):
            s += f"\n[{name}] " + forks[i][f"analysis_{name}"]
        s += "\n\nFinal ranking:\n"
        s += gen("pick", max_tokens=12, temperature=0.2)

    state = sweep.run(context="You compare drinks.", parts={"tea": "Leaves.", "coffee": "Beans."})
    assert state["pick"]
    assert "[coffee]" in state.text()


def test_decoding_goes_on_from_each_of_the_likeliest_tokens() -> None:
    @function
    def branches(s: Any, question: str, k: int) -> list[tuple[str, float]]:
        s += user("Question: " + question + "\nAnswer:")
        s += assistant_begin()
        first = s.fork(1)[0]
        forks = s.fork(k)
        first += gen("first", max_tokens=0, return_logprob=True, top_logprobs_num=k, return_text_in_logprobs=True)
        assert first["first"] == ""
        found = []
        for f, (logprob, _, text) in zip(forks, first.get_meta_info("first")["output_top_logprobs"][0], strict=True):
            f += text + gen("answer", temperature=0, max_tokens=8, return_logprob=True, top_logprobs_num=2)
            tops = f.get_meta_info("answer")["output_top_logprobs"]
            assert all(exp(best) >= exp(second) for (best, _, _), (second, _, _) in tops)
            found.append((text + f["answer"], exp(logprob)))
        return found

    answers = branches.run("How many eggs are a dozen?", 3).ret_value
    assert len({text for text, _ in answers}) == 3
    assert answers[0][1] > answers[1][1] > answers[2][1]


def test_a_scope_and_a_program_inside_a_program() -> None:
    @function
    def inner(s: Any, topic: str) -> str:
        s += f"About {topic}:" + gen("fact", max_tokens=8)
        return str(s["fact"])

    @function
    def outer(s: Any) -> None:
        with s.var_scope("thought"):
            s += "I wonder about tea. " + inner("tea").ret_value
        s += " So" + gen("end", max_tokens=4)

    state = outer.run(temperature=0)
    assert state["thought"].startswith("I wonder about tea. ")
    assert state.text() == state["thought"] + " So" + state["end"]


@function
def several(s: Any) -> None:
    s += "The capital of Japan is" + gen("city", max_tokens=3, temperature=0)


# ---------------------------------------------------------------- what programs ask of a runtime


def test_a_runtime_is_a_backend_with_a_name_and_counts(runtime: sgl.Runtime) -> None:
    runtime.token_usage.reset()
    state = several.run(backend=runtime)
    meta = state.get_meta_info("city")
    assert (runtime.token_usage.prompt_tokens, runtime.token_usage.completion_tokens) == (meta["prompt_tokens"], 3)
    assert sgl.global_config.default_backend.endpoint.get_model_name() == runtime.get_model_name() == "smollm2"
    assert runtime.model_info["context_length"] == 8192
    assert sgl.get_server_info(runtime)["name"] == "smollm2"
    assert runtime.get_server_info()["stats"]["pages_total"] == 8192
    assert runtime.get_tokenizer().decode(runtime.get_tokenizer().encode("two words")) == "two words"
    runtime.cache_prefix("Something that was never asked before: ")
    runtime.flush_cache()
    assert several.run().get_meta_info("city")["cached_tokens"] == 0


def test_a_runtime_completes_plain_prompts_as_json_and_in_pieces(runtime: sgl.Runtime) -> None:
    greedy = {"temperature": 0, "max_new_tokens": 3}
    answer = json.loads(runtime.generate("The capital of Japan is", greedy))
    assert answer["text"] == several.run()["city"]
    assert answer["meta_info"]["finish_reason"] == {"type": "length", "length": 3}
    assert runtime.endpoint.decode(answer["output_ids"]) == answer["text"]

    async def pieces() -> list[str]:
        return [piece async for piece in runtime.async_generate("The capital of Japan is", greedy)]

    assert "".join(asyncio.run(pieces())) == answer["text"]
    both = json.loads(runtime.generate(["The capital of Japan is", "One, two,"], greedy | {"n": 2}, return_logprob=True))
    assert [len(one["meta_info"]["output_token_logprobs"]) for one in both] == [3] * 4
    assert len({one["text"] for one in both}) == 2, "greedy samples are alike"
    for wrong, named in (({"max_tokns": 1}, "there is no 'max_tokns'"), ({"repetition_penalty": 1.2}, "repetition_penalty=1.2 is")):
        with pytest.raises(sgl.SglError, match=named):
            runtime.generate("x", wrong)


@pytest.mark.parametrize(
    ("wrong", "named"), [({"model_pth": "smollm2"}, "did you mean 'model_path'"), ({"cache_tokens": 0}, "cache_tokens must be")]
)
def test_wrong_arguments_of_a_runtime_are_refused(wrong: dict[str, Any], named: str) -> None:
    with pytest.raises(BadArgument, match=named):
        sgl.Engine(**wrong)


# ---------------------------------------------------------------- reasoning, logprobs in streams, plain values


@pytest.mark.parametrize(("model_type", "most"), [("qwen3", 24), ("deepseek-r1", 48)])
def test_an_answer_with_a_shape_may_come_after_reasoning(model_type: str, most: int) -> None:
    """A model that does not reason answers at once where it may."""

    @function
    def judged(s: Any) -> None:
        s += user("Is the sea salty?")
        s += separate_reasoning(assistant(gen("answer", regex="(Yes|No)", max_tokens=most)), model_type=model_type)

    state = judged.run(temperature=0)
    if state.get_meta_info("answer")["is_complete"]:
        assert state["answer"] in ("Yes", "No")
        assert state.messages()[-1]["content"] == state["answer"] == state.value("answer")
    else:
        assert model_type == "deepseek-r1", "it never says that it has thought enough"
        assert (state["answer"], len(state["answer_reasoning_content"]) > 40) == ("", True)


def test_log_probabilities_come_with_the_pieces() -> None:
    @function
    def streamed(s: Any) -> None:
        s += "Once upon a time" + gen("tale", max_tokens=12, return_logprob=True, top_logprobs_num=2, stop=",")

    async def followed() -> None:
        state = streamed.run(stream=True, temperature=0)
        pairs = [pair async for pair in state.text_async_iter("tale", return_meta_data=True)]
        whole = state.get_meta_info("tale")
        assert [entry for _, meta in pairs for entry in meta["output_token_logprobs"]] == whole["output_token_logprobs"]
        n_read = 0
        for _, meta in pairs:
            n_read += len(meta["output_token_logprobs"])
            assert (meta["output_token_logprobs_length"], len(meta["output_top_logprobs"])) == (n_read, len(meta["output_token_logprobs"]))
        assert n_read == whole["output_token_logprobs_length"] == len(whole["output_token_logprobs"])

    asyncio.run(followed())


def test_a_record_is_filled_in_value_by_value() -> None:
    @function
    def city(s: Any) -> None:
        s += "The basic facts of Paris as a JSON object:\n"
        with s.var_scope("json_output"):
            s += '{\n  "name": ' + gen(regex=REGEX_STR, max_tokens=16) + ",\n"
            s += '  "population": ' + gen(regex=REGEX_INT, stop=[" ", "\n"], max_tokens=12) + ",\n"
            s += '  "latitude": ' + gen("latitude", regex=REGEX_FLOAT, stop=[" ", "\n"], max_tokens=12) + "\n}"

    state = city.run(temperature=0)
    assert isinstance(json.loads(state["json_output"])["name"], str)
    float(state["latitude"])


class Wizard(BaseModel):
    name: str
    age: int


def test_a_regular_expression_of_a_model_is_one_that_a_gen_takes() -> None:
    pattern = build_regex_from_object(Wizard)

    @function
    def wizard(s: Any) -> None:
        s += "A wizard in JSON:\n" + gen("wizard", max_tokens=48, temperature=0, regex=pattern)

    state = wizard.run()
    if state.get_meta_info("wizard")["is_complete"]:
        Wizard.model_validate_json(state["wizard"])
    assert re.match(r'\{ ?"name" ?: ?"', state["wizard"])
