"""The sampling parameters of gens and selects, and what their meta info reports."""

from __future__ import annotations

import math
from typing import Any

import pytest

import sgl_lab.lang.surface as sgl
from sgl_lab.backends.scripted import ScriptedBackend
from sgl_lab.contracts.errors import BadArgument, ProgramError
from sgl_lab.contracts.params import MAX_SOURCE, SamplingParams
from sgl_lab.contracts.port import GenJob, ScoreJob
from sgl_lab.lang.choices import ChoicesDecision, ChoicesSamplingMethod

from .language import watchdog, within  # noqa: F401

gen = sgl.gen


@sgl.function
def ask(s: Any, question: str, polite: bool = False) -> str:
    """Ask one question."""
    s += "Please: " if polite else ""
    s += question + gen("answer")
    return str(s["answer"])


def sampling(**given: Any) -> SamplingParams:
    """What a bare gen is sampled with in a run with these settings."""
    backend = ScriptedBackend("x")
    ask.run("Q", backend=backend, **given)
    (job,) = backend.jobs_of(GenJob)
    return job.params  # type: ignore[no-any-return]


def test_the_defaults_of_run() -> None:
    assert sampling() == SamplingParams(max_tokens=128, n=1, temperature=1.0, top_p=1.0, top_k=None, min_p=0.0)
    assert sampling(top_k=-1).top_k is None
    assert sampling(max_new_tokens=5, top_k=7, seed=3, stop="x", return_logprob=True) == SamplingParams(
        max_tokens=5, top_k=7, seed=3, stop=("x",), logprobs=True
    )


def test_what_a_gen_states_wins_over_the_run_and_only_that() -> None:
    backend = ScriptedBackend("x")
    s = sgl.start(backend, defaults=sgl.GenDefaults(temperature=0.5, top_k=7, max_tokens=9))
    s += "x" + gen("a", temperature=0.0, top_k=-1, logit_bias={5: 1.0}, stop=["b", "c"], stop_token_ids=[1], ignore_eos=True)
    s.sync()
    assert backend.jobs_of(GenJob)[0].params == SamplingParams(
        temperature=0.0, top_k=None, max_tokens=9, logit_bias=((5, 1.0),), stop=("b", "c"), stop_token_ids=(1,), ignore_eos=True
    )


def test_the_callers_stop_list_is_copied() -> None:
    stops = ["\n"]
    backend = ScriptedBackend("one\ntwo", chat_template=None)
    s = sgl.start(backend)
    s += sgl.user("Q") + sgl.assistant(gen("a", stop=stops))
    stops.append("one")
    assert s["a"] == "one"
    assert backend.jobs_of(GenJob)[0].params.stop == ("\n", "USER:")
    assert stops == ["\n", "one"]


@pytest.mark.parametrize(
    "arguments",
    [
        {"temperature": -1},
        {"temperature": math.nan},
        {"top_p": 0},
        {"top_k": 0},
        {"n": 0},
        {"n": 10**6},
        {"max_tokens": -1},
        {"max_tokens": "many"},
        {"min_tokens": 9, "max_tokens": 3},
        {"stop": 5},
        {"stop": [""]},
        {"stop_regex": "("},
        {"stop_token_ids": "abc"},
        {"logit_bias": [1, 2]},
        {"seed": "x"},
        {"choices": []},
        {"choices": "yes"},
        {"choices": ["yes", ""]},
        {"choices": ["yes"], "temperature": 0.7},
        {"choices_method": sgl.token_length_normalized},
    ],
)
def test_a_gen_with_an_illegal_argument_fails_at_the_call(arguments: dict[str, Any]) -> None:
    with pytest.raises(BadArgument):
        gen("a", **arguments)


def test_an_unknown_argument_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="temprature"):
        gen("a", temprature=1)  # type: ignore[call-arg]
    with pytest.raises(BadArgument, match="name"):
        gen(5)  # type: ignore[arg-type]


def test_meta_info_counts_and_logprobs() -> None:
    s = sgl.start(ScriptedBackend("ab."))
    s += "prompt" + gen("a", stop=".", return_logprob=True, top_logprobs_num=1)
    meta = s.get_meta_info("a")
    assert meta["finish_reason"] == "stop"
    assert meta["matched_stop"] == "."
    assert (meta["prompt_tokens"], meta["completion_tokens"], meta["cached_tokens"], meta["computed_tokens"]) == (6, 2, 0, 7)
    assert [(logprob, text) for logprob, _, text in meta["output_token_logprobs"]] == [(-0.5, "a"), (-0.5, "b")]
    assert [[text for _, _, text in row] for row in meta["output_top_logprobs"]] == [["a"], ["b"]]


def likes(table: dict[str, list[float]]) -> Any:
    return lambda prompt, choice: table[choice] if prompt.startswith("Q") else [-0.1] * len(choice)


TABLE = {"ab": [-1.0, -1.0], "acd": [-1.0, -0.2, -1.5], "b": [-0.95]}


def test_a_gen_of_no_tokens_tells_the_log_probabilities_of_the_next_and_adds_nothing() -> None:
    backend = ScriptedBackend(["next", "more", "none"])
    s = sgl.start(backend)
    s += "Q" + gen("look", max_tokens=0, return_logprob=True, top_logprobs_num=2, stop="n") + gen("a")
    (row,) = s.get_meta_info("look")["output_top_logprobs"]
    assert (s["look"], [text for _, _, text in row]) == ("", ["n", "n"])
    assert (s["a"], s.text()) == ("more", "Qmore")
    silent = sgl.start(backend)
    silent += "Q" + gen("none", max_tokens=0)
    assert "output_top_logprobs" not in silent.get_meta_info("none")


def test_forks_have_seeds_of_their_own_the_same_ones_in_every_run() -> None:
    def seeds(seed: int | None) -> list[int | None]:
        backend = ScriptedBackend()
        s = sgl.start(backend, defaults=sgl.GenDefaults(seed=seed))
        s += "Q" + gen("root")
        for _ in range(2):
            forks = s.fork(3)
            forks += gen("leaf")
            forks[0].fork(2)[1].append_expression(gen("deep") + gen("given", seed=7))
            forks.join()
            s.sync()
        s.finish()
        return sorted((job.params.seed for job in backend.jobs_of(GenJob)), key=str)

    found = seeds(5)
    assert found == seeds(5) != seeds(6)
    assert found.count(7) == 2
    assert len(set(found)) == 1 + 2 * 4 + 1
    assert set(seeds(None)) == {None, 7}


@pytest.mark.parametrize(
    ("method", "chosen"),
    [(sgl.token_length_normalized, "acd"), (sgl.greedy_token_selection, "b"), (sgl.unconditional_likelihood_normalized, "acd")],
)
def test_each_method_chooses_as_it_says(method: ChoicesSamplingMethod, chosen: str) -> None:
    backend = ScriptedBackend(likes=likes(TABLE))
    s = sgl.start(backend)
    s += "Q" + sgl.select("pick", list(TABLE), choices_method=method)
    assert s["pick"] == chosen
    assert s.text() == "Q" + chosen
    meta = s.get_meta_info("pick")
    assert meta["normalized_prompt_logprobs"] == pytest.approx([-1.0, -0.9, -0.95])
    assert [[logprob for logprob, _, _ in row] for row in meta["input_token_logprobs"]] == list(TABLE.values())


def test_greedy_selection_pads_short_choices_with_their_mean_and_goes_on_to_the_difference() -> None:
    s = sgl.start(ScriptedBackend(likes=likes({"aa": [-1.0, -3.0], "ab": [-1.0, -2.0], "c": [-1.0]})))
    s += "Q" + gen("pick", choices=["aa", "ab", "c"], choices_method=sgl.greedy_token_selection)
    assert s["pick"] == "c"
    assert s.get_meta_info("pick")["greedy_logprob_matrix"] == [[-1.0, -3.0], [-1.0, -2.0], [-1.0, -1.0]]


def test_unconditional_likelihood_is_measured_without_the_prompt() -> None:
    table = {("<s>Q", "the"): -1.0, ("<s>Q", "cat"): -2.0, ("<s>", "the"): -1.0, ("<s>", "cat"): -9.0}

    def common(prompt: str, choice: str) -> float:
        return table[prompt, choice]

    backend = ScriptedBackend(likes=common, bos=True)
    s = sgl.start(backend)
    s += "Q" + sgl.select("pick", ["the", "cat"], choices_method=sgl.unconditional_likelihood_normalized)
    assert s["pick"] == "cat"
    assert s.get_meta_info("pick")["normalized_unconditional_prompt_logprobs"] == [0.0, 7.0]
    assert [backend.decode(job.prompt) for job in backend.jobs_of(ScoreJob)] == ["<s>Q", "<s>"]


def test_without_a_bos_a_first_token_alone_counts_as_certain() -> None:
    backend = ScriptedBackend(likes=lambda prompt, choice: -2.0 if prompt == "Q" else -1.0)
    s = sgl.start(backend)
    s += "Q" + sgl.select("pick", ["ab", "ac", "d"], choices_method=sgl.unconditional_likelihood_normalized)
    assert s["pick"] == "ab"
    meta = s.get_meta_info("pick")
    assert [[p for p, _, _ in row] for row in meta["unconditional_token_logprobs"]] == [[None, -1.0], [None, -1.0], [None]]
    assert meta["normalized_unconditional_prompt_logprobs"] == [-1.5, -1.5, -2.0]
    assert [(backend.decode(job.prompt), len(job.choices)) for job in backend.jobs_of(ScoreJob)] == [("Q", 3), ("a", 2)]


def test_the_chosen_tokens_stand_as_they_were_scored() -> None:
    backend = ScriptedBackend("!", likes=likes(TABLE))
    s = sgl.start(backend)
    s += "Q" + gen("pick", choices=["ab", "b"]) + gen("after")
    assert s["after"] == "!"
    assert backend.jobs_of(GenJob)[0].prompt == backend.encode("Qb")


def test_an_error_of_a_users_own_method_is_reported() -> None:
    class Stubborn(ChoicesSamplingMethod):
        def __call__(self, **scores: Any) -> ChoicesDecision:
            return ChoicesDecision("maybe")

    s = sgl.start(ScriptedBackend())
    s += "Q" + sgl.select("pick", ["yes", "no"], choices_method=Stubborn())
    with pytest.raises(ProgramError, match="Stubborn chose 'maybe'"):
        s["pick"]


def test_a_wrong_argument_is_named_as_the_user_names_it_with_all_that_is_legal() -> None:
    with pytest.raises(BadArgument, match=r"^top_logprobs_num must be between 0 and 20, not 21"):
        gen("x", top_logprobs_num=21)
    with pytest.raises(BadArgument, match=r"^logprob_start_len must be"):
        gen("x", logprob_start_len=-2)
    with pytest.raises(BadArgument, match=r"^max_new_tokens must be"):
        sgl.function(lambda s: None).run(max_new_tokens=-5, backend=ScriptedBackend())
    with pytest.raises(BadArgument, match="-1 or None for all"):
        gen("x", top_k=0)


@pytest.mark.parametrize("kind", ["regex", "json_schema", "grammar"])
def test_a_constraint_too_long_for_the_engine_is_refused_at_the_call(kind: str) -> None:
    longest = {"regex": "a" * MAX_SOURCE, "json_schema": f'{{"title": "{"a" * (MAX_SOURCE - 13)}"}}', "grammar": "a" * MAX_SOURCE}[kind]
    gen("x", **{kind: longest})
    too_long: dict[str, Any] = {kind: longest.replace("a", "aa", 1)}
    with pytest.raises(BadArgument, match=f"has {MAX_SOURCE + 1} characters, the limit is {MAX_SOURCE}"):
        gen("x", **too_long)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("n", 2),
        ("stop", "."),
        ("stop_regex", "a"),
        ("stop_token_ids", [1]),
        ("min_tokens", 2),
        ("top_k", 5),
        ("logit_bias", {1: 1.0}),
        ("return_logprob", True),
        ("top_logprobs_num", 2),
        ("logprob_start_len", 0),
        ("ignore_eos", True),
        ("frequency_penalty", 1.0),
    ],
)
def test_what_means_nothing_with_choices_fails_at_the_call(name: str, value: Any) -> None:
    arguments: dict[str, Any] = {name: value}
    with pytest.raises(BadArgument, match=f"{name}= has no meaning with choices="):
        gen("x", choices=["a", "b"], **arguments)


def test_what_programs_give_with_choices_and_asks_for_nothing_is_taken() -> None:
    plain = gen("x", choices=["a", "b"])
    assert gen("x", choices=["a", "b"], temperature=0, max_tokens=5, n=1, seed=3, top_k=-1, top_p=1.0, return_logprob=False) == plain


def test_a_choices_method_that_is_none_fails_at_the_call() -> None:
    with pytest.raises(BadArgument, match="choices_method cannot be 'greedy_token_selection'"):
        gen("x", choices=["a", "b"], choices_method="greedy_token_selection")
    with pytest.raises(BadArgument, match="choices_method"):
        sgl.select("x", ["a", "b"], choices_method=type(sgl.greedy_token_selection))
