"""Tokens computed, counted on the built-in model through the language: what the cache is for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

import sgl_lab as sgl

TEXT = "The tide came in over the flats and the birds rose. " * 28


@pytest.fixture(scope="module", params=[None, "float32"], ids=["default", "float32"])
def shared_lab(request: pytest.FixtureRequest) -> Iterator[sgl.Lab]:
    with sgl.Lab(dtype=request.param) as made:
        yield made


@pytest.fixture
def lab(shared_lab: sgl.Lab) -> Iterator[sgl.Lab]:
    shared_lab.flush()
    yield shared_lab
    shared_lab.check()


class Spent:
    """What the lab counted since this was made."""

    def __init__(self, lab: sgl.Lab) -> None:
        self.lab, self.before = lab, lab.stats()

    def __getitem__(self, name: str) -> int:
        return int(self.lab.stats()[name] - self.before[name])


def prefilled(meta: dict[str, Any]) -> int:
    """Prompt tokens that went through the model."""
    return int(meta["computed_tokens"] - meta["rejected_tokens"] - (meta["completion_tokens"] - 1))


@sgl.function
def ask(s: sgl.ProgramState, question: str) -> None:
    s += sgl.user(question) + sgl.assistant(sgl.gen("answer", max_tokens=12))


@sgl.function
def choose(s: sgl.ProgramState, question: str) -> None:
    s += sgl.user(question) + sgl.assistant(sgl.select("answer", choices=["sand", "a great many birds", "a great many boats", "grass"]))


def test_the_same_prompt_again_computes_one_token(lab: sgl.Lab) -> None:
    first = ask.run(question=TEXT, temperature=0, backend=lab.backend).get_meta_info("answer")
    second = ask.run(question=TEXT, temperature=0, backend=lab.backend).get_meta_info("answer")
    assert first["prompt_tokens"] > 300
    assert prefilled(first) == first["prompt_tokens"]
    assert prefilled(second) == 1
    assert second["cached_tokens"] == second["prompt_tokens"] - 1


def test_fork_three_ways_computes_the_prompt_once(lab: sgl.Lab) -> None:
    @sgl.function
    def three(s: sgl.ProgramState) -> None:
        s += sgl.user(TEXT)
        forks = s.fork(3)
        for i, fork in enumerate(forks):
            fork += sgl.user(f"Question {i}?") + sgl.assistant(sgl.gen("answer", max_tokens=4))
        s.set_var("metas", [fork.get_meta_info("answer") for fork in forks])

    spent = Spent(lab)
    metas = three.run(temperature=0, backend=lab.backend)["metas"]
    prompt = len(lab.backend.encode(TEXT))
    assert prompt > 300
    assert all(prefilled(meta) < 25 for meta in metas)
    decoded = sum(meta["completion_tokens"] - 1 for meta in metas)
    own = sum(prefilled(meta) for meta in metas)
    shared = metas[0]["prompt_tokens"] - prefilled(metas[0])
    assert spent["computed_tokens"] - spent["rejected_tokens"] == shared + own + decoded


def test_a_second_turn_reuses_the_generated_tokens_of_the_first(lab: sgl.Lab) -> None:
    @sgl.function
    def chat(s: sgl.ProgramState) -> None:
        s += sgl.user("Tell me about rivers.") + sgl.assistant(sgl.gen("one", max_tokens=20, ignore_eos=True))
        s += sgl.user("And lakes?") + sgl.assistant(sgl.gen("two", max_tokens=4))

    state = chat.run(temperature=0, backend=lab.backend)
    one, two = state.get_meta_info("one"), state.get_meta_info("two")
    assert one["completion_tokens"] == 20
    assert two["cached_tokens"] == one["prompt_tokens"] + one["completion_tokens"] - 1


@sgl.function
def chat(s: sgl.ProgramState, **stops: str) -> None:
    s += sgl.user("Tell me about rivers.") + sgl.assistant(sgl.gen("one", max_tokens=40, return_logprob=True, **stops))
    s += sgl.user("And lakes?") + sgl.assistant(sgl.gen("two", max_tokens=4))


def test_what_a_stop_left_of_a_generation_is_found_by_the_next_turn(lab: sgl.Lab) -> None:
    words = chat.run(temperature=0, backend=lab.backend)["one"].split()
    for stop in (words[3], words[6][:2], f"{words[8]} {words[9]}"):
        lab.flush()
        state = chat.run(stop=stop, temperature=0, backend=lab.backend)
        one, two = state.get_meta_info("one"), state.get_meta_info("two")
        n_kept = len(one["output_token_logprobs"])
        assert one["finish_reason"] == "stop"
        assert 0 < n_kept < one["completion_tokens"]
        assert two["cached_tokens"] == one["prompt_tokens"] + n_kept


def test_a_fork_of_four_computes_one_token_each_and_a_join_finds_what_its_first_branch_generated(lab: sgl.Lab) -> None:
    @sgl.function
    def fan(s: sgl.ProgramState) -> None:
        s += TEXT
        forks = s.fork(4)
        for fork in forks:
            fork += sgl.gen("tip", max_tokens=6, ignore_eos=True)
        metas = [fork.get_meta_info("tip") for fork in forks]
        forks.join("concate_and_append")
        s += " So" + sgl.gen("end", max_tokens=2)
        s.set_var("metas", metas)

    state = fan.run(temperature=0.8, seed=1, backend=lab.backend)
    metas, end = state["metas"], state.get_meta_info("end")
    assert [prefilled(meta) for meta in metas] == [1] * 4
    assert end["cached_tokens"] == metas[0]["prompt_tokens"] + 6 - 1


def test_counts_add_up_for_every_request_and_in_total(lab: sgl.Lab) -> None:
    spent = Spent(lab)
    states = ask.run_batch([{"question": f"What is {n} plus {n}?"} for n in range(6)], temperature=0, backend=lab.backend)
    metas = [state.get_meta_info("answer") for state in states]
    metas.append(choose.run(question=TEXT, backend=lab.backend).get_meta_info("answer"))
    assert metas[-1]["cached_tokens"] < 30  # what all chats begin with
    assert metas[-1]["cached_tokens"] + metas[-1]["computed_tokens"] == metas[-1]["prompt_tokens"]
    for meta in metas[:-1]:
        n_once = meta["cached_tokens"] + meta["computed_tokens"] - meta["rejected_tokens"]
        assert n_once == meta["prompt_tokens"] + meta["completion_tokens"] - 1
    for name in ("prompt_tokens", "cached_tokens", "computed_tokens"):
        assert spent[name] == sum(meta[name] for meta in metas)


def test_two_samples_come_from_one_prefill(lab: sgl.Lab) -> None:
    @sgl.function
    def sample(s: sgl.ProgramState) -> None:
        s += sgl.user(TEXT) + sgl.assistant(sgl.gen("word", n=2, max_tokens=6, temperature=1.5, seed=3, ignore_eos=True))

    spent = Spent(lab)
    state = sample.run(backend=lab.backend)
    assert len(state["word"]) == 2
    assert state["word"][0] != state["word"][1]
    prompt = len(lab.backend.encode(TEXT))
    assert spent["computed_tokens"] < prompt + 60


def test_a_program_gives_the_same_greedy_text_alone_batched_and_streamed(lab: sgl.Lab) -> None:
    questions = [f"Name a thing that is {word}." for word in ("red", "cold", "loud", "old")]
    alone = []
    for question in questions:
        lab.flush()
        alone.append(ask.run(question=question, temperature=0, backend=lab.backend)["answer"])
    lab.flush()
    batch = [state["answer"] for state in ask.run_batch([{"question": q} for q in questions], temperature=0, backend=lab.backend)]
    streamed = []
    for question in questions:
        state = ask.run(question=question, temperature=0, backend=lab.backend, stream=True)
        streamed.append("".join(state.text_iter("answer")))
    assert alone == batch == streamed


def test_a_pinned_text_state_or_list_of_tokens_outlives_a_flush(lab: sgl.Lab) -> None:
    @sgl.function
    def ask(s: Any, question: str) -> None:
        s += TEXT
        s += question + sgl.gen("answer", max_tokens=2, ignore_eos=True)

    state = ask.run(question=" Why?", temperature=0, backend=lab.backend)
    for prefix, n_kept in ((TEXT, len(lab.backend.encode(TEXT))), (state, len(state.token_ids())), (state.token_ids()[:50], 50)):
        pin = lab.pin(prefix)
        lab.flush()
        assert lab.stats()["pages_pinned"] == sum(len(node.tokens) for node in lab.snapshot().nodes) == n_kept
        lab.unpin(pin)
        lab.flush()
        assert lab.stats()["pages_pinned"] == 0
    pin = lab.pin(TEXT)
    lab.flush()
    again = ask.run(question=" Why not?", temperature=0, backend=lab.backend)
    assert again.get_meta_info("answer")["cached_tokens"] == len(lab.backend.encode(TEXT))
    lab.unpin(pin)


def test_a_record_served_again_without_the_model_counts_what_was_counted(lab: sgl.Lab) -> None:
    @sgl.function
    def ask(s: Any, topic: str) -> None:
        s += sgl.user(f"Name one {topic}.")
        s += sgl.assistant(sgl.gen("answer", max_tokens=6))
        s += sgl.user("Is it large?")
        s += sgl.assistant(sgl.select("size", choices=["large", "small"]))

    spent = Spent(lab)
    with lab.record("three questions") as record:
        for topic in ("animal", "town", "animal"):
            ask.run(topic=topic, temperature=0, backend=lab.backend).sync()
    same, best = lab.what_if(record, evict=("lru", "belady"))
    assert (same.cached_tokens, same.computed_tokens) == (spent["cached_tokens"], spent["computed_tokens"] - spent["rejected_tokens"])
    assert best.cached_tokens == same.cached_tokens  # nothing had to be evicted
    (small,) = lab.what_if(record, evict=("lru",), cache_tokens=(60,))
    assert (small.n_refused, small.cached_tokens < same.cached_tokens) == (0, True)
