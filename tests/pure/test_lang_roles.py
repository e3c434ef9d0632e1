"""Turns and tokens: what a chat template renders meets what stands, and generated tokens stay as they are."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import sgl_lab.lang.surface as sgl
from sgl_lab.backends.scripted import ScriptedBackend
from sgl_lab.contracts.errors import BackendUnsupported, BadArgument, ProgramError
from sgl_lab.contracts.events import Event, StreamExtended
from sgl_lab.contracts.port import GenJob, Message, Segment
from sgl_lab.lang.chat_template import ChatTemplate, get_chat_template, get_chat_template_by_model_path

from .language import streams_of, watchdog  # noqa: F401

gen, user, assistant, system = sgl.gen, sgl.user, sgl.assistant, sgl.system


class Rewriting(ScriptedBackend):
    """Its template adds a system prompt, trims content, and forgets the thoughts before the last few user turns."""

    n_remembered = 1

    def render_chat(self, messages: Sequence[Message], *, add_generation_prompt: bool) -> tuple[Segment, ...]:
        users = [index for index, message in enumerate(messages) if message.role == "user"]
        first = users[-self.n_remembered] if len(users) >= self.n_remembered else 0
        kept = [Message("system", "Be good.")]
        for index, message in enumerate(messages):
            content = message.content.rpartition("</think>")[2] if index < first else message.content
            kept.append(Message(message.role, content.strip()))
        return super().render_chat(kept, add_generation_prompt=add_generation_prompt)


def rendered(backend: ScriptedBackend, *turns: tuple[str, str], opening: bool = False) -> str:
    segments = backend.render_chat([Message(*turn) for turn in turns], add_generation_prompt=opening)
    return "".join(segment.text for segment in segments)


def test_the_model_sees_what_its_template_renders() -> None:
    backend = ScriptedBackend("Paris")
    s = sgl.start(backend)
    s += system("Be terse.") + user("Capital of France?") + assistant(gen("a"))
    turns = [("system", "Be terse."), ("user", "Capital of France?")]
    assert s["a"] == "Paris"
    assert s.prompt("a") == rendered(backend, *turns, opening=True)
    assert s.text() == rendered(backend, *turns, ("assistant", "Paris"))
    assert s.messages() == [{"role": role, "content": content} for role, content in [*turns, ("assistant", "Paris")]]


def test_a_second_turn_keeps_the_generated_tokens_of_the_first() -> None:
    backend = ScriptedBackend(["Paris", "Rome"])
    toy = backend.tokenizer
    s = sgl.start(backend)
    s += user("France?") + assistant(gen("a"))
    s += user("Italy?") + assistant(gen("b"))
    assert s["b"] == "Rome"
    first, second = backend.jobs_of(GenJob)
    assert second.prompt[: len(first.prompt) + 5] == first.prompt + toy.sampled("Paris")
    assert s.get_meta_info("b")["cached_tokens"] == len(first.prompt) + 4, "all but the last generated token"
    assert s.prompt("b") == rendered(backend, ("user", "France?"), ("assistant", "Paris"), ("user", "Italy?"), opening=True)


def test_a_default_system_prompt_is_the_templates_business() -> None:
    backend = Rewriting("x")
    s = sgl.start(backend)
    s += user("hi") + assistant(gen("a"))
    s.sync()
    assert s.prompt("a").startswith("<|im_start|>system\nBe good.<|im_end|>")
    assert [message["role"] for message in s.messages()] == ["user", "assistant"]


def test_a_template_that_rewrites_history_is_followed_and_later_generations_keep_their_tokens() -> None:
    events: list[Event] = []
    backend = Rewriting(["<think>hm</think>one", "two", "three"])
    backend.n_remembered = 2
    s = sgl.start(backend, events.append)
    for name in "abc":
        s += user(f"Q{name}") + assistant(gen(name))
    assert s["c"] == "three"
    turns = [("user", "Qa"), ("assistant", "<think>hm</think>one"), ("user", "Qb"), ("assistant", "two"), ("user", "Qc")]
    assert s.prompt("b") == rendered(backend, *turns[:3], opening=True)
    assert "think" in s.prompt("b")
    assert s.prompt("c") == rendered(backend, *turns, opening=True)
    assert "think" not in s.prompt("c")
    rewritten = [s.get_meta_info(name)["rewritten_tokens"] for name in "abc"]
    assert rewritten[:2] == [0, 0]
    assert rewritten[2] == len(backend.jobs_of(GenJob)[1].prompt) + len("two") - len(backend.jobs_of(GenJob)[0].prompt)
    sampled = [id for id in s.token_ids() if id >= backend.tokenizer.SAMPLED]
    assert backend.tokenizer.decode(sampled) == "twothree", "only what was rewritten is encoded again"
    assert streams_of(events)[s._stream.id] == list(s.token_ids())


def test_a_trimmed_end_costs_the_trimmed_tokens_only() -> None:
    backend = Rewriting(["one \n", "two"])
    s = sgl.start(backend)
    s += user("Q") + assistant(gen("a")) + user("R") + assistant(gen("b"))
    assert s["b"] == "two"
    first, second = backend.jobs_of(GenJob)
    kept = first.prompt + backend.tokenizer.sampled("one")
    assert second.prompt[: len(kept)] == kept
    assert "one<|im_end|>" in s.prompt("b")


def test_text_before_a_gen_is_the_beginning_of_the_turn() -> None:
    backend = ScriptedBackend([" Paris", " 2", "Bye"])
    s = sgl.start(backend)
    s += user("France?") + assistant("The capital is" + gen("a") + ", with" + gen("b") + " million.") + user("Thanks") + assistant(gen("c"))
    s.sync()
    assert s.prompt("a") == rendered(backend, ("user", "France?"), opening=True) + "The capital is"
    assert s.prompt("b") == s.prompt("a") + " Paris, with"
    content = "The capital is Paris, with 2 million."
    assert s.prompt("c") == rendered(backend, ("user", "France?"), ("assistant", content), ("user", "Thanks"), opening=True)
    sampled = [id for id in s.token_ids() if id >= backend.tokenizer.SAMPLED]
    assert backend.tokenizer.decode(sampled) == " Paris 2Bye"


def test_a_gen_in_a_user_turn_stands_inside_it() -> None:
    backend = ScriptedBackend(["Bob", "Hello"])
    s = sgl.start(backend)
    with s.user():
        s += "My name is "
        s += gen("name")
        s += "."
    with s.assistant():
        s += gen("reply")
    assert s["reply"] == "Hello"
    assert s.prompt("name") == "<|im_start|>user\nMy name is "
    assert s.prompt("reply") == rendered(backend, ("user", "My name is Bob."), opening=True)


def test_an_assistant_may_begin() -> None:
    backend = Rewriting("Welcome")
    s = sgl.start(backend)
    s += assistant(gen("a"))
    assert s["a"] == "Welcome"
    assert s.prompt("a") == rendered(backend) + "<|im_start|>assistant\n"


def test_content_that_spells_special_tokens_is_plain_text() -> None:
    backend = ScriptedBackend(["<|im_end|>", "ok"])
    toy = backend.tokenizer
    s = sgl.start(backend)
    s += user("say <|im_end|>") + assistant(gen("a")) + user("<|im_start|>") + assistant(gen("b"))
    assert s["b"] == "ok"
    (mark,) = toy.encode("<|im_end|>", markup=True)
    assert s.prompt("b").count("<|im_end|>") == 5
    assert backend.jobs_of(GenJob)[1].prompt.count(mark) == 3


def test_a_real_end_of_turn_is_not_mistaken_for_one_that_content_spelled() -> None:
    class Cleaning(ScriptedBackend):
        def render_chat(self, messages: Sequence[Message], *, add_generation_prompt: bool) -> tuple[Segment, ...]:
            clean = [Message(m.role, m.content.replace("<|im_end|>\n", "")) for m in messages]
            return super().render_chat(clean, add_generation_prompt=add_generation_prompt)

    backend = Cleaning(["", "ok"])
    s = sgl.start(backend)
    with s.user():
        s += "hi<|im_end|>\n" + gen("nothing")
    s += assistant(gen("a"))
    assert s["a"] == "ok"
    assert backend.jobs_of(GenJob)[1].prompt == backend.encode(rendered(backend, ("user", "hi"), opening=True), markup=True)


def test_content_that_repeats_what_the_template_was_shown_cuts_no_prompt() -> None:
    class Listening(ScriptedBackend):
        shown: str = "\ue000content\ue001"

        def render_chat(self, messages: Sequence[Message], *, add_generation_prompt: bool) -> tuple[Segment, ...]:
            self.shown += "".join(message.content for message in messages)
            return super().render_chat(messages, add_generation_prompt=add_generation_prompt)

    backend = Listening("ok")
    first = sgl.start(backend)
    first += user("hi") + assistant(gen("a"))
    first.sync()
    content = backend.shown
    assert "hi" in content
    s = sgl.start(backend)
    s += user(content) + assistant(gen("a"))
    assert s.prompt("a") == rendered(backend, ("user", content), opening=True)


def test_a_turn_that_the_template_removes_is_cut_off_and_reported() -> None:
    class Skipping(ScriptedBackend):
        def render_chat(self, messages: Sequence[Message], *, add_generation_prompt: bool) -> tuple[Segment, ...]:
            return super().render_chat([m for m in messages if m.content], add_generation_prompt=add_generation_prompt)

    events: list[Event] = []
    s = sgl.start(Skipping(), events.append)
    s += user("hi")
    s.fork(1)
    s += sgl.assistant_begin()
    s.fork(1)
    s += sgl.assistant_end()
    s.fork(1)
    s.sync()
    assert s.prompt() == "<|im_start|>user\nhi<|im_end|>\n"
    assert [event for event in events if isinstance(event, StreamExtended)][-1].kind == "trim"
    assert streams_of(events)[s._stream.id] == list(s.token_ids())


def test_text_outside_roles_goes_as_it_is_with_a_bos_where_the_model_wants_one() -> None:
    backend = ScriptedBackend("Paris", bos=True)
    s = sgl.start(backend)
    s += "The capital of France is " + gen("a") + "."
    assert s["a"] == "Paris"
    assert s.prompt("a") == "<s>The capital of France is "
    assert s.text() == "The capital of France is Paris."


def test_text_between_turns_stands_where_it_was_said() -> None:
    backend = ScriptedBackend(["note", "two"])
    s = sgl.start(backend)
    s += user("one") + "\n(aside: " + gen("x") + ")\n" + user("more") + assistant(gen("b"))
    assert s["b"] == "two"
    before = rendered(backend, ("user", "one"))
    after = rendered(backend, ("user", "one"), ("user", "more"), opening=True).removeprefix(before)
    assert s.prompt("x") == before + "\n(aside: "
    assert s.prompt("b") == before + "\n(aside: note)\n" + after
    assert s.text() == s.prompt("b") + "two<|im_end|>\n"


def test_text_between_turns_that_are_rewritten_later_is_an_error() -> None:
    s = sgl.start(Rewriting(["<think>a</think>b", "c"]))
    s += user("one") + assistant(gen("a")) + "aside" + user("two") + assistant(gen("b"))
    with pytest.raises(ProgramError, match="rewrites turns"):
        s["b"]


def test_text_before_all_turns_stays_before_them() -> None:
    backend = ScriptedBackend("x")
    s = sgl.start(backend)
    s += "Preamble. " + user("hi") + assistant(gen("a"))
    assert s["a"] == "x"
    assert s.prompt("a") == "Preamble. " + rendered(backend, ("user", "hi"), opening=True)


# ---------------------------------------------------------------- registry


def test_without_a_template_of_its_own_a_model_gets_a_registered_one_by_name_and_its_stops() -> None:
    backend = ScriptedBackend("Sure.<|im_end|>junk", chat_template=None, name="Qwen2.5-0.5B-Instruct")
    s = sgl.start(backend)
    s += user("hi") + assistant(gen("a"))
    assert s["a"] == "Sure."
    assert s.prompt("a").startswith("<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\nhi")
    assert s.get_meta_info("a")["matched_stop"] == "<|im_end|>"


def test_an_unknown_model_gets_the_default_template() -> None:
    s = sgl.start(ScriptedBackend("yes", chat_template=None))
    s += system("S") + user("U") + assistant(gen("a"))
    s.sync()
    assert s.text() == "SYSTEM:S\nUSER:U\nASSISTANT:yes\n"


@pytest.mark.parametrize(
    ("model", "template"),
    [
        ("meta-llama/Llama-2-7b-chat-hf", "llama-2-chat"),
        ("meta-llama/Meta-Llama-3-8B-Instruct", "llama-3-instruct"),
        ("lmsys/vicuna-7b-v1.5", "vicuna_v1.1"),
        ("google/gemma-2b-it", "gemma-it"),
        ("HuggingFaceTB/SmolLM2-135M-Instruct", "chatml"),
        ("gpt2", "default"),
    ],
)
def test_a_models_name_picks_its_template(model: str, template: str) -> None:
    assert get_chat_template_by_model_path(model).name == template


def test_llama_2_puts_the_system_prompt_inside_the_first_user_turn() -> None:
    messages = [Message("system", "S"), Message("user", "U"), Message("assistant", "A"), Message("user", "V")]
    text = "".join(segment.text for segment in get_chat_template("llama-2-chat").render(messages, True))
    assert text == "<s>[INST] <<SYS>>\nS\n<</SYS>>\n\nU [/INST] A </s><s>[INST] V [/INST] "


def test_templates_can_be_registered_and_unknown_ones_are_named() -> None:
    mine = sgl.register_chat_template(ChatTemplate("mine", {"user": ("U:", "\n"), "assistant": ("A:", "\n")}, model_pattern="my-model"))
    assert get_chat_template("mine") is mine
    s = sgl.start(ScriptedBackend("x", chat_template=None, name="my-model-3"))
    s += user("hi") + assistant(gen("a"))
    s.sync()
    assert s.text() == "U:hi\nA:x\n"
    s += system("not there") + assistant(gen("b"))
    with pytest.raises(BadArgument, match="no role 'system'"):
        s.sync()
    with pytest.raises(BadArgument, match="no chat template named 'yours'"):
        get_chat_template("yours")


def test_generating_in_a_role_whose_content_the_template_hides_is_refused() -> None:
    class Hiding(ScriptedBackend):
        def render_chat(self, messages: Sequence[Message], *, add_generation_prompt: bool) -> tuple[Segment, ...]:
            return super().render_chat([m for m in messages if m.role != "system"], add_generation_prompt=add_generation_prompt)

    s = sgl.start(Hiding())
    s += system("Be " + gen("how"))
    with pytest.raises(BackendUnsupported, match="does not show the content of role 'system'"):
        s["how"]


# ---------------------------------------------------------------- any program

WORDS = st.sampled_from(["a ", " b", "\n", "<|im_end|>", "é"])
PART = st.one_of(WORDS.map(lambda word: ("text", word)), st.just(("gen", "")))
TURN = st.tuples(st.sampled_from(["system", "user", "assistant", "raw"]), st.lists(PART, max_size=3))


@settings(max_examples=60, deadline=None)
@given(st.lists(TURN, min_size=1, max_size=5), st.integers(0, 4), st.booleans())
def test_events_tokens_and_text_agree_after_any_program(turns: list[tuple[str, list[tuple[str, str]]]], at: int, rewriting: bool) -> None:
    events: list[Event] = []
    kind = Rewriting if rewriting and all(role != "raw" for role, _ in turns) else ScriptedBackend
    backend = kind(["x ", "yy", "<think>z</think> w "] * 20)
    root = s = sgl.start(backend, events.append)
    s += "^" if kind is ScriptedBackend else ""
    for index, (role, parts) in enumerate(turns):
        if index == at:
            s = s.fork(2)[1]
        s += "" if role == "raw" else {"system": sgl.system_begin, "user": sgl.user_begin, "assistant": sgl.assistant_begin}[role]()
        for what, word in parts:
            s += word if what == "text" else gen()
        s += "" if role == "raw" else {"system": sgl.system_end, "user": sgl.user_end, "assistant": sgl.assistant_end}[role]()
    s += user("last") + assistant(gen("last"))
    root.finish()
    streams = streams_of(events)
    assert tuple(streams[root._stream.id]) == root.token_ids()
    assert tuple(streams[s._stream.id]) == s.token_ids()
    assert all(event.tokens or event.kind == "trim" for event in events if isinstance(event, StreamExtended))
    if kind is ScriptedBackend:
        assert s.text().startswith(s.prompt())
        written = "".join(s[n] for n in range(sum(what == "gen" for _, parts in turns for what, _ in parts))) + s["last"]
        sampled = [id for id in s.token_ids() if id >= backend.tokenizer.SAMPLED]
        assert backend.tokenizer.decode(sampled) == written, "what was generated keeps its tokens"
