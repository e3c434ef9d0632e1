"""Programs: arguments, sampling, nesting, streaming, batches."""

from __future__ import annotations

import math
import threading
from typing import Any

import pytest

import sgl_lab.lang.surface as sgl
from sgl_lab.backends.scripted import ScriptedBackend
from sgl_lab.contracts.errors import BackendUnsupported, BadArgument, ProgramError, RequestFailed, Stopped
from sgl_lab.contracts.events import Event, ForkOpened
from sgl_lab.contracts.params import SamplingParams
from sgl_lab.contracts.port import GenJob, ScoreJob
from sgl_lab.lang import default
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


# ---------------------------------------------------------------- running


def test_a_program_runs_with_or_without_run_and_returns_its_state() -> None:
    backend = ScriptedBackend({"Q": "A", "Please": "Of course"})
    state = ask.run("Q", backend=backend)
    assert (state["answer"], state.ret_value, state.text()) == ("A", "A", "QA")
    assert ask(question="Q", polite=True, backend=backend).ret_value == "A"
    assert ask.__doc__ == "Ask one question."
    assert repr(ask) == "<program ask(question, polite)>"


def test_the_decorator_may_be_called() -> None:
    @sgl.function(num_api_spec_tokens=64)
    def program(s: Any) -> None:
        s += "x" + gen("a")

    assert program.num_api_spec_tokens == 64
    assert program.run(backend=ScriptedBackend("y"))["a"] == "y"


def test_wrong_arguments_are_a_type_error_before_anything_runs() -> None:
    backend = ScriptedBackend()
    for call in (lambda: ask.run(backend=backend), lambda: ask.run("Q", backend=backend, colour="red"), lambda: ask.bind(colour="red")):
        with pytest.raises(TypeError, match="question|colour"):
            call()
    assert backend.jobs == []


def test_a_program_needs_a_parameter_for_its_state_and_is_not_async() -> None:
    with pytest.raises(BadArgument, match="no parameter for its state"):
        sgl.function(lambda: None)

    async def later(s: Any) -> None: ...

    with pytest.raises(BackendUnsupported, match="async"):
        sgl.function(later)


def test_bound_arguments_are_given() -> None:
    bound = ask.bind(polite=True)
    assert bound.run("Q", backend=ScriptedBackend("A")).text() == "Please: QA"
    assert ask.run("Q", backend=ScriptedBackend("A")).text() == "QA"


def test_the_programs_own_parameters_win() -> None:
    @sgl.function
    def program(s: Any, n: int, stop: str, temperature: float, backend_: str = "") -> tuple[Any, ...]:
        s += "x" + gen("a")
        return n, stop, temperature

    backend = ScriptedBackend("y")
    state = program.run(n=3, stop="never", temperature=9.0, max_new_tokens=7, backend=backend)
    assert state.ret_value == (3, "never", 9.0)
    params = backend.jobs_of(GenJob)[0].params
    assert (params.n, params.stop, params.temperature, params.max_tokens) == (1, (), 1.0, 7)


def test_what_a_body_raises_is_raised_and_its_requests_are_cancelled() -> None:
    @sgl.function
    def program(s: Any) -> None:
        s += "x" + gen("a")
        raise ZeroDivisionError

    backend = ScriptedBackend("y", held=True)
    with pytest.raises(ZeroDivisionError):
        program.run(backend=backend)
    assert backend.n_cancelled == 1


def test_a_failure_that_the_body_did_not_read_waits_in_the_state() -> None:
    @sgl.function
    def program(s: Any) -> None:
        s += "x" + gen("a")

    state = program.run(backend=ScriptedBackend(RequestFailed("boom")))
    assert isinstance(state.error(), RequestFailed)
    with pytest.raises(RequestFailed, match="boom"):
        state["a"]


def test_without_threads_each_expression_is_waited_for() -> None:
    failed: list[str] = []

    @sgl.function
    def program(s: Any) -> None:
        try:
            s += "x" + gen("a")
        except RequestFailed:
            failed.append("at the append")

    program.run(backend=ScriptedBackend(RequestFailed("boom")), use_thread=False)
    assert failed == ["at the append"]


def test_the_default_backend_is_chosen_or_made_on_first_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(default, "backend_slot", None)
    with pytest.raises(ProgramError, match="no backend"):
        ask.run("Q")
    monkeypatch.setattr(default, "backend_slot", lambda: ScriptedBackend("made"))
    assert ask.run("Q").ret_value == "made"
    sgl.set_default_backend(ScriptedBackend("chosen"))
    try:
        assert ask.run("Q").ret_value == "chosen"
        assert sgl.get_server_info()["name"] == "scripted"
        sgl.flush_cache()
    finally:
        sgl.set_default_backend(None)


def test_a_run_says_its_events_where_its_backend_does() -> None:
    events: list[Event] = []
    ask.run("Q", backend=ScriptedBackend("A", emit=events.append))
    assert [event.label for event in events if isinstance(event, ForkOpened)] == ["ask"]


def test_a_program_inside_another_inherits_backend_sampling_and_run() -> None:
    @sgl.function
    def outer(s: Any) -> tuple[str, str]:
        s += "outer" + gen("o")
        inherited = ask.run("inner")
        given = ask.run("given", temperature=0.25, backend=other)
        return inherited.ret_value, given.ret_value

    events: list[Event] = []
    backend, other = ScriptedBackend("mine", emit=events.append), ScriptedBackend("other")
    state = outer.run(backend=backend, temperature=0.5, max_new_tokens=9)
    assert state.ret_value == ("mine", "other")
    assert [(job.params.temperature, job.params.max_tokens) for job in backend.jobs_of(GenJob)] == [(0.5, 9), (0.5, 9)]
    assert [(job.params.temperature, job.params.max_tokens) for job in other.jobs_of(GenJob)] == [(0.25, 9)]
    assert len({event.run for event in events if isinstance(event, ForkOpened)}) == 1


def test_stopping_a_run_stops_the_programs_inside_it() -> None:
    backend = ScriptedBackend("x", held=True)
    inside = threading.Event()

    @sgl.function
    def inner(s: Any) -> str:
        s += "x" + gen("a")
        inside.set()
        return str(s["a"])

    s = sgl.start(backend)

    def body() -> None:
        with s.running():
            inner.run()

    outcome: list[object] = []
    thread = threading.Thread(target=lambda: outcome.append(within(10, body)))
    thread.start()
    assert inside.wait(10)
    s.cancel()
    thread.join(10)
    assert isinstance(outcome[0], Stopped)


# ---------------------------------------------------------------- sampling


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


@pytest.mark.parametrize(
    "arguments", [{"regex": "a+"}, {"json_schema": {}}, {"dtype": int}, {"grammar": "x"}, {"tools": []}, {"logprob_start_len": 0}]
)
def test_what_is_not_supported_is_refused_by_name(arguments: dict[str, Any]) -> None:
    with pytest.raises(BackendUnsupported, match=next(iter(arguments))):
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


# ---------------------------------------------------------------- select


def likes(table: dict[str, list[float]]) -> Any:
    return lambda prompt, choice: table[choice] if prompt.startswith("Q") else [-0.1] * len(choice)


TABLE = {"ab": [-1.0, -1.0], "acd": [-1.0, -0.2, -1.5], "b": [-0.95]}


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
    def common(prompt: str, choice: str) -> float:
        return {("Q", "the"): -1.0, ("Q", "cat"): -2.0, ("<s>", "the"): -1.0, ("<s>", "cat"): -9.0}[
            prompt.removeprefix("<s>") or "<s>", choice
        ]

    backend = ScriptedBackend(likes=common, bos=True)
    s = sgl.start(backend)
    s += "Q" + sgl.select("pick", ["the", "cat"], choices_method=sgl.unconditional_likelihood_normalized)
    assert s["pick"] == "cat"
    assert s.get_meta_info("pick")["normalized_unconditional_prompt_logprobs"] == [0.0, 7.0]
    assert [backend.decode(job.prompt) for job in backend.jobs_of(ScoreJob)] == ["<s>Q", "<s>"]


def test_the_chosen_tokens_stand_as_they_were_scored() -> None:
    backend = ScriptedBackend("!", likes=likes(TABLE))
    s = sgl.start(backend)
    s += "Q" + gen("pick", choices=["ab", "b"]) + gen("after")
    assert s["after"] == "!"
    assert backend.jobs_of(GenJob)[0].prompt == backend.encode("Qb")


def test_a_method_of_ones_own_may_be_wrong_and_is_told_so() -> None:
    class Stubborn(ChoicesSamplingMethod):
        def __call__(self, **scores: Any) -> ChoicesDecision:
            return ChoicesDecision("maybe")

    s = sgl.start(ScriptedBackend())
    s += "Q" + sgl.select("pick", ["yes", "no"], choices_method=Stubborn())
    with pytest.raises(ProgramError, match="Stubborn chose 'maybe'"):
        s["pick"]


# ---------------------------------------------------------------- streaming


def test_a_streamed_run_returns_at_once_and_gives_text_as_it_comes() -> None:
    backend = ScriptedBackend("abc", held=True)

    @sgl.function
    def program(s: Any) -> str:
        s += "Q: " + gen("a") + "."
        return s["a"] + "!"

    state = program.run(backend=backend, stream=True)
    text = state.text_iter()
    assert next(text) == "Q: "
    backend.step()
    assert next(text) == "a"
    backend.resume()
    assert "".join(text) == "bc."
    assert state.ret_value == "abc!"
    assert state.text() == "Q: abc."


def test_one_variable_can_be_streamed_also_before_the_program_has_come_to_it() -> None:
    go = threading.Event()

    @sgl.function
    def program(s: Any) -> None:
        go.wait(10)
        s += sgl.user("Q") + sgl.assistant("So: " + gen("a"))

    state = program.run(backend=ScriptedBackend("abc"), stream=True)
    go.set()
    assert "".join(state.text_iter("a")) == "abc"
    assert "".join(state.text_iter()) == state.text()


def test_a_stream_raises_what_the_body_raised_and_reads_do_too() -> None:
    @sgl.function
    def program(s: Any) -> None:
        s += "Q" + gen("a") + gen("b")
        raise ZeroDivisionError

    state = program.run(backend=ScriptedBackend("x", held=True), stream=True)
    for read in (lambda: "".join(state.text_iter()), lambda: state["b"], lambda: state["c"], state.sync):
        assert isinstance(within(5, read), ZeroDivisionError)


def test_a_stream_raises_what_the_backend_raised() -> None:
    @sgl.function
    def program(s: Any) -> None:
        s += "Q" + gen("a")

    state = program.run(backend=ScriptedBackend(RequestFailed("boom")), stream=True)
    assert isinstance(within(5, lambda: list(state.text_iter())), RequestFailed)
    assert isinstance(within(5, lambda: list(state.text_iter("a"))), RequestFailed)


# ---------------------------------------------------------------- batches


def test_a_batch_runs_each_body_once_and_gives_states_in_order() -> None:
    bodies: list[str] = []

    @sgl.function
    def program(s: Any, q: str) -> str:
        bodies.append(q)
        s += q + gen("a")
        return str(s["a"])

    backend = ScriptedBackend(lambda prompt: prompt.upper())
    states = program.run_batch([{"q": "a"}, ("b",), {"q": "c"}], backend=backend, num_threads=2, max_new_tokens=4)
    assert [state["a"] for state in states] == ["A", "B", "C"]
    assert sorted(bodies) == ["a", "b", "c"]
    assert [job.params.max_tokens for job in backend.jobs_of(GenJob)] == [4, 4, 4]


def test_a_shared_prefix_is_found_from_the_prompts_themselves() -> None:
    backend = ScriptedBackend("x")
    few = "You are terse."
    states = ask.run_batch([{"question": f"{few} {q}?"} for q in "abc"], backend=backend, num_threads=1)
    assert [state.get_meta_info("answer")["cached_tokens"] for state in states] == [0] + [len(few) + 1] * 2


def test_one_failing_item_costs_only_itself() -> None:
    backend = ScriptedBackend({"good": "fine", "bad": RequestFailed("boom")})
    items = [{"question": "good"}, {"question": "bad"}, {"question": "good 2"}]
    results = ask.run_batch(items, backend=backend, return_exceptions=True)
    assert [type(result).__name__ for result in results] == ["ProgramState", "RequestFailed", "ProgramState"]
    with pytest.raises(RequestFailed, match="boom") as caught:
        ask.run_batch(items, backend=backend)
    assert [getattr(result, "ret_value", None) for result in vars(caught.value)["results"]] == ["fine", None, "fine"]


def test_an_item_that_does_not_fit_the_program_is_refused_before_any_runs() -> None:
    backend = ScriptedBackend()
    with pytest.raises(TypeError, match="item 1 of the batch"):
        ask.run_batch([{"question": "a"}, {"quest": "b"}], backend=backend)
    with pytest.raises(BadArgument, match="item 0"):
        ask.run_batch(["a"], backend=backend)
    with pytest.raises(TypeError, match="colour"):
        ask.run_batch([], colour="red")
    with pytest.raises(BadArgument, match="num_threads"):
        ask.run_batch([], num_threads=0)
    assert backend.jobs == []
    assert ask.run_batch([], backend=backend) == []


def test_a_batch_can_be_taken_one_by_one_and_left() -> None:
    backend = ScriptedBackend("x" * 1000, held=True)
    states = ask.run_batch([{"question": str(n)} for n in range(8)], backend=backend, generator_style=True, num_threads=4, max_new_tokens=3)
    assert backend.jobs == [], "nothing runs before it is asked for"
    backend.resume()
    first = next(states)
    assert first.ret_value == "xxx"
    backend.hold()
    within(10, states.close)  # type: ignore[attr-defined]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("sgl-batch")]


def test_a_batch_shows_its_progress(capsys: pytest.CaptureFixture[str]) -> None:
    ask.run_batch([("a",), ("b",)], backend=ScriptedBackend("x"), progress_bar=True)
    assert "2/2" in capsys.readouterr().err


def test_the_items_of_a_batch_inherit_from_the_program_around_it() -> None:
    @sgl.function
    def judge(s: Any) -> list[str]:
        return [state.ret_value for state in ask.run_batch([("a",), ("b",)])]

    backend = ScriptedBackend(lambda prompt: prompt.upper())
    assert judge.run(backend=backend, temperature=0.0).ret_value == ["A", "B"]
    assert {job.params.temperature for job in backend.jobs_of(GenJob)} == {0.0}


# ---------------------------------------------------------------- cells


def test_the_names_of_a_cell_are_bound_to_its_state() -> None:
    s = sgl.start(ScriptedBackend("x"))
    words = sgl.bound(s)
    with words["user"]():
        words["s"].append_expression("hi")
    s += words["assistant"](words["gen"]("a"))
    assert len(words["fork"](2)) == 2
    assert [message["content"] for message in s.messages()] == ["hi", "x"]
    assert set(sgl.SURFACE) <= words.keys() & set(sgl.__all__)
