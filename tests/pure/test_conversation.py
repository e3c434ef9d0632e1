"""Programs on a backend that takes messages: what it is sent, what comes back, and what it cannot express."""

from __future__ import annotations

import asyncio
import json
import math
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

import sgl_lab.lang.surface as sgl
from sgl_lab.backends.scripted import ScriptedConversation
from sgl_lab.backends.scripted.conversation import CHAT
from sgl_lab.contracts.conversation import ChatJob, ChatMessage, DecisionJob, ImagePart, TextPart, ToolCallPart, ToolResultPart
from sgl_lab.contracts.errors import BackendUnsupported, EngineStopped, ProgramError, PromptTooLong, RequestFailed, Stopped
from sgl_lab.contracts.events import ExprFinished, ForkJoined, ForkOpened
from sgl_lab.contracts.params import SamplingParams
from sgl_lab.lang.backend.base_backend import BaseConversation
from sgl_lab.lang.surface import gen

from .language import line_with, watchdog, within

__all__ = ["watchdog"]


def turns_of(prompt: Any) -> list[tuple[str, str]]:
    return [(message.role, message.text) for message in prompt]


def chat(answers: Any = "ok", **given: Any) -> tuple[ScriptedConversation, Any]:
    backend = ScriptedConversation(answers, **given)
    return backend, sgl.start(backend)


def test_a_program_with_roles_is_sent_as_messages_and_goes_on_with_the_answer() -> None:
    @sgl.function
    def program(s: Any, city: str) -> None:
        s += sgl.system("Be terse.")
        s += sgl.user(f"A sight in {city}?")
        s += sgl.assistant(gen("sight", stop=["."], max_tokens=40, temperature=0.5))
        with s.user():
            s += "And "
            s += "the food?"
        with s.assistant():
            s += gen("food", max_tokens=4)

    backend = ScriptedConversation({"sight": "The Louvre. It is", "food?": "cheese"})
    state = program.run(city="Paris", backend=backend, seed=3)
    assert (state["sight"], state["food"]) == ("The Louvre", "chee")
    first, second = backend.jobs
    assert turns_of(first.prompt) == [("system", "Be terse."), ("user", "A sight in Paris?")]
    assert turns_of(second.prompt) == [*turns_of(first.prompt), ("assistant", "The Louvre"), ("user", "And the food?")]
    assert (first.params.stop, first.params.max_tokens, first.params.temperature, first.params.seed) == ((".",), 40, 0.5, 3)
    meta = state.get_meta_info("sight")
    assert (meta["finish_reason"], meta["matched_stop"], meta["completion_tokens"]) == ("stop", ".", len("The Louvre"))
    assert state.get_meta_info("food")["finish_reason"] == "length"
    assert state.get_meta_info("food")["cached_tokens"] > state.get_meta_info("sight")["cached_tokens"] == 0
    assert state.messages()[-1] == {"role": "assistant", "content": "chee"}
    assert backend.token_usage.completion_tokens == len("The Louvre" + "chee")
    assert state.text().startswith("SYSTEM:Be terse.\nUSER:A sight in Paris?\nASSISTANT:The Louvre\n")


def test_a_text_is_followed_as_it_comes() -> None:
    backend, s = chat("one two", held=True)
    s += sgl.user("Q") + sgl.assistant(gen("a"))
    tail, whole = s.text_iter("a"), s.text_iter()
    backend.step()
    assert (within(5, lambda: next(tail)), within(5, lambda: next(whole))) == ("o", "USER:Q\nASSISTANT:o")
    backend.step(2)
    backend.resume()
    assert within(5, lambda: "".join(tail)) == "ne two"
    assert within(5, lambda: "".join(whole)) == "ne two\n"


def test_a_coroutine_reads_and_follows() -> None:
    _, s = chat("abc")

    async def read() -> tuple[str, list[Any]]:
        s.append_expression(sgl.user("Q") + sgl.assistant(gen("a")))
        pieces = [pair async for pair in s.text_async_iter("a", return_meta_data=True)]
        return await s.get("a"), pieces

    value, pieces = asyncio.run(read())
    assert value == "".join(piece for piece, _ in pieces) == "abc"
    assert pieces[-1][1]["finish_reason"] == "stop"


def test_forks_go_on_each_on_its_own_and_come_together() -> None:
    events: list[Any] = []
    backend = ScriptedConversation({"tip 0": "zero", "tip 1": "one", "so": "done"})
    s = sgl.start(backend, events.append)
    s += sgl.user("Q") + sgl.assistant(gen("a"))
    forks = s.fork(2)
    forks += lambda i: sgl.user(f"tip {i}") + sgl.assistant(gen("tip"))
    forks.join("concate_and_append")
    s += sgl.user("so") + sgl.assistant(gen("b"))
    assert s["b"] == "done"
    assert [text for role, text in turns_of(backend.jobs[-1].prompt) if role == "assistant"][1:] == ["zero", "one"]
    with s.copy() as t:
        t += sgl.user("tip 1") + sgl.assistant(gen("t"))
    assert s["t"] == ["one"]
    kinds = [type(event) for event in events]
    assert (kinds.count(ForkOpened), kinds.count(ForkJoined)) == (4, 2)
    assert [event.value for event in events if isinstance(event, ExprFinished)][-1] == "one"


def test_a_state_is_opened_when_it_is_first_used_so_that_an_empty_one_is_not_shown() -> None:
    events: list[Any] = []
    s = sgl.start(ScriptedConversation({"tip 0": "zero"}), events.append)
    assert not events
    s += sgl.user("tip 0") + sgl.assistant(gen("a"))
    assert s["a"] == "zero"
    assert [type(event) for event in events].index(ForkOpened) == 0
    assert [event.parent for event in events if isinstance(event, ForkOpened)] == [None]


def test_several_samples_are_a_list_and_a_failure_is_raised_at_the_read_with_its_line() -> None:
    _, s = chat(["a", "b", RequestFailed("the server is busy")])
    s += sgl.user("Q") + sgl.assistant(gen("x", n=2))
    assert s["x"] == ["a", "b"]
    s += sgl.user("Q") + sgl.assistant(gen("y"))  # the line that fails
    with pytest.raises(RequestFailed, match="busy") as caught:
        _ = s["y"]
    assert caught.value.__notes__ == [f"in gen('y'), line {line_with('# the line that ' + 'fails', __file__)} of test_conversation.py"]


def test_a_cancel_keeps_what_came_and_a_dead_backend_is_an_error() -> None:
    backend, s = chat("some words", held=True)
    s += sgl.user("Q") + sgl.assistant(gen("a"))
    backend.step(4)
    tail = s.text_iter("a")
    begun = ""
    while len(begun) < 4:
        begun += str(within(5, lambda: next(tail)))
    s.cancel()
    assert within(5, lambda: s["a"]) == "some"
    assert isinstance(within(5, s.error), Stopped)
    assert backend.n_cancelled == 1
    backend, s = chat("x", held=True)
    s += sgl.user("Q") + sgl.assistant(gen("a"))
    backend.die()
    assert isinstance(within(5, lambda: s["a"]), EngineStopped)


def test_a_prompt_that_is_too_long_fails_its_own_gen() -> None:
    _, s = chat(context=20)
    s += sgl.user("Q" * 30) + sgl.assistant(gen("a"))
    with pytest.raises(PromptTooLong):
        _ = s["a"]


# ---------------------------------------------------------------- what it cannot express

UNSAID: dict[str, tuple[Callable[[Any], Any], type[Exception], str]] = {
    "without roles": (lambda s: "Q" + gen("a"), BackendUnsupported, "no prompts without roles, which text outside roles asks for"),
    "beside roles": (lambda s: sgl.user("Q") + "loose" + sgl.assistant(gen("a")), ProgramError, "no place for text outside roles"),
    "as the user": (lambda s: sgl.user("Q" + gen("a")), ProgramError, "answers as the assistant"),
    "after a turn": (lambda s: sgl.user("Q") + gen("a"), ProgramError, "answers as the assistant"),
    "begun": (lambda s: sgl.user("Q") + sgl.assistant("Well, " + gen("a")), BackendUnsupported, "no answers that a program begins"),
}


@pytest.mark.parametrize("name", UNSAID)
def test_what_messages_cannot_say_is_refused_with_the_line(name: str) -> None:
    make, kind, message = UNSAID[name]
    backend, s = chat()
    s += make(s)
    with pytest.raises(kind, match=message) as caught:
        _ = s["a"]
    assert "in gen('a')" in caught.value.__notes__[0]
    assert backend.jobs == []


def test_a_backend_that_goes_on_with_text_is_sent_text_and_answers_that_are_begun() -> None:
    backend, s = chat(["one", "two"], capabilities=replace(CHAT, plain_text=True, continues=True))
    s += "Count: " + gen("a") + ", "
    s += gen("b")
    assert (s["b"], s.text()) == ("two", "Count: one, two")
    assert [job.prompt for job in backend.jobs] == ["Count: ", "Count: one, "]
    backend, s = chat("more", capabilities=replace(CHAT, continues=True))
    s += sgl.user("Q") + sgl.assistant("Well, " + gen("a") + "!")
    s.sync()
    assert turns_of(backend.jobs[0].prompt)[-1] == ("assistant", "Well, ")
    assert s.messages()[-1]["content"] == "Well, more!"


def test_tokens_are_not_to_be_had() -> None:
    backend, s = chat()
    s += sgl.user("Q") + sgl.assistant(gen("a"))
    for read in (s.prompt, s.token_ids, lambda: s.prompt("a")):
        with pytest.raises(BackendUnsupported, match=r"scripted-chat offers no token ids.*s\.messages\(\)"):
            read()
    program = sgl.function(lambda s, q: s.append_expression(sgl.user(q)))
    with pytest.raises(BackendUnsupported, match="offers no prefixes computed ahead, which cache"):
        program.cache(backend)


# ---------------------------------------------------------------- choosing, structure, tools


def likes(prompt: str, choice: str) -> float:
    return -1.0 if choice == "cold" and prompt.endswith("assistant: ") else -3.0


def test_a_select_is_decided_by_the_server() -> None:
    backend, s = chat(likes=likes)
    s += sgl.user("Ice is") + sgl.assistant(sgl.select("x", ["hot", "cold"]))
    assert s["x"] == "cold"
    (job,) = backend.jobs_of(DecisionJob)
    assert (turns_of(job.prompt), job.choices) == ([("user", "Ice is")], ("hot", "cold"))
    hot, cold = map(math.exp, s.get_meta_info("x")["normalized_prompt_logprobs"])
    assert hot + cold == pytest.approx(1)
    assert cold > hot
    assert s.messages()[-1] == {"role": "assistant", "content": "cold"}


@pytest.mark.parametrize(
    ("constraints", "answer"), [(("regex",), "cold"), (("json_schema",), '"cold"'), (("regex", "json_schema"), "cold")]
)
def test_a_select_is_generated_under_a_constraint(constraints: tuple[str, ...], answer: str) -> None:
    backend, s = chat(answer, capabilities=replace(CHAT, choices="generated", constraints=constraints))
    s += sgl.user("Ice is") + sgl.assistant(sgl.select("x", ["h.t", "cold"]))
    assert (s["x"], s.messages()[-1]["content"]) == ("cold", "cold")
    (job,) = backend.jobs_of(ChatJob)
    assert (job.params.constraint.kind, job.params.temperature) == (constraints[0], 0)


def test_a_choice_that_the_server_cuts_short_is_an_error() -> None:
    class Cuts(ScriptedConversation):
        def converse(self, job: ChatJob, listener: Any) -> Any:
            return super().converse(replace(job, params=replace(job.params, max_tokens=2)), listener)

    s = sgl.start(Cuts("cold", capabilities=replace(CHAT, choices="generated", constraints=("regex",))))
    s += sgl.user("Ice is") + sgl.assistant(sgl.select("x", ["hot", "cold"]))
    with pytest.raises(RequestFailed, match="answered 'co', which is none of the choices"):
        _ = s["x"]


def test_a_schema_goes_along_and_its_value_is_read() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    backend, s = chat('{"a": 1}')
    s += sgl.user("Q") + sgl.assistant(gen("x", json_schema=schema))
    assert s.value("x") == {"a": 1}
    assert json.loads(backend.jobs[0].params.constraint.source)["required"] == ["a"]


def add(a: int, b: int) -> int:
    """The sum."""
    return a + b


CALL = '{"name": "add", "arguments": {"a": 1, "b": 2}}'


@pytest.mark.parametrize("native", [True, False])
def test_a_tool_is_called_in_the_servers_own_form_or_as_text(native: bool) -> None:
    backend, s = chat([CALL, "three"], capabilities=replace(CHAT, tools=native))
    s += sgl.user("1 + 2?") + sgl.assistant(gen("call", tools=[add], execute=True)) + sgl.assistant(gen("a"))
    assert (s["a"], s.value("call").result, json.loads(s["call"])) == ("three", 3, json.loads(CALL))
    asked, answered = backend.jobs
    if native:
        assert [(tool.name, tool.description, sorted(json.loads(tool.parameters)["properties"])) for tool in asked.tools] == [
            ("add", "The sum.", ["a", "b"])
        ]
        assert asked.params.constraint is None
        call, result = answered.prompt[-2:]
        assert call == ChatMessage("assistant", (ToolCallPart(call.parts[0].id, "add", '{"a": 1, "b": 2}'),))
        assert result == ChatMessage("tool", (ToolResultPart(call.parts[0].id, "3"),))
    else:
        assert asked.tools == ()
        assert asked.params.constraint is not None
        assert turns_of(answered.prompt)[1:] == [("assistant", CALL), ("user", "3")]


def test_log_probabilities_come_with_the_text_of_their_tokens() -> None:
    _, s = chat("ab")
    s += sgl.user("Q") + sgl.assistant(gen("x", return_logprob=True, top_logprobs_num=1))
    meta = s.get_meta_info("x")
    assert meta["output_token_logprobs"] == [(-0.5, None, "a"), (-0.5, None, "b")]
    assert meta["output_top_logprobs"] == [[(-0.5, None, "a")], [(-0.5, None, "b")]]


# ---------------------------------------------------------------- one call for several gens


@sgl.function(num_api_spec_tokens=64)
def character(s: Any) -> None:
    s += sgl.user("Make one up.")
    with s.assistant():
        s += "Name:" + gen("name", stop="\n") + "\nBorn:" + gen("born", stop="\n") + "\nJob:" + gen("job", stop="\n")


@pytest.mark.parametrize(("answer", "n_calls"), [(" Ada\nBorn: 1815\nJob: poet\nEnd", 1), (" Ada\nJob: poet\n", 3), (" Ada", 3)])
def test_one_costly_call_serves_the_gens_that_follow_where_they_fit(answer: str, n_calls: int) -> None:
    answers = {"Name:": answer, "Born:": " 1815\n", "Job:": " poet\n"}
    backend = ScriptedConversation(answers, capabilities=replace(CHAT, continues=True, costly_calls=True))
    state = character.run(backend=backend, max_new_tokens=16)
    assert [state[name] for name in ("name", "born", "job")] == [" Ada", " 1815", " poet"]
    assert len(backend.jobs) == n_calls
    assert (backend.jobs[0].params.max_tokens, backend.jobs[0].params.stop) == (64, ())


# ---------------------------------------------------------------- the port itself


class Listener:
    def __init__(self) -> None:
        self.deltas: list[tuple[int, str]] = []
        self.ended: list[Any] = []
        self.has_ended = threading.Event()

    def on_delta(self, index: int, text: str) -> None:
        self.deltas.append((index, text))

    def on_done(self, outputs: Any) -> None:
        self.ended.append(outputs)
        self.has_ended.set()

    def on_error(self, error: Exception) -> None:
        self.ended.append(error)
        self.has_ended.set()


def test_a_job_can_hold_images_and_one_that_asks_for_more_than_is_offered_is_refused() -> None:
    image = ChatMessage("user", (TextPart("What is it?"), ImagePart("image/png", b"1234")))
    backend, listener = ScriptedConversation(lambda prompt: prompt.partition("<")[2][:18]), Listener()
    backend.converse(ChatJob((image,), SamplingParams()), listener)
    assert listener.has_ended.wait(5)
    (output,) = listener.ended[0]
    assert output.text == "".join(text for _, text in listener.deltas) == "image/png, 4 bytes"
    assert output.usage.completion_tokens == 18
    blind = ScriptedConversation(capabilities=replace(CHAT, images=False))
    with pytest.raises(BackendUnsupported, match="offers no images"):
        blind.converse(ChatJob((image,), SamplingParams()), listener)
    for job in (ChatJob("text", SamplingParams()), ChatJob((ChatMessage("assistant", (TextPart("a"),)),), SamplingParams())):
        with pytest.raises(BackendUnsupported):
            backend.converse(job, listener)
    with pytest.raises(BackendUnsupported, match="top_k"):
        backend.converse(ChatJob((image,), SamplingParams(top_k=4)), listener)


def test_the_base_says_what_it_lacks_and_offers_nothing() -> None:
    s = sgl.start(BaseConversation())
    with pytest.raises(BackendUnsupported, match="BaseConversation offers no constraint of kind regex, which regex= asks for"):
        s += sgl.user("Q") + sgl.assistant(gen("a", regex="b"))
    s += sgl.user("Q") + sgl.assistant(gen("a", max_tokens=128))
    with pytest.raises(BackendUnsupported, match=r"no model: it does not implement converse.*contracts/conversation.py"):
        _ = s["a"]
    assert sgl.get_server_info(BaseConversation())["capabilities"]["images"] is False
