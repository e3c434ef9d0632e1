"""An SGLang server's requests and answers, without a socket."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sgl_lab.backends.remote import Refused
from sgl_lab.backends.sglang import wire
from sgl_lab.backends.sglang.answers import Sampled, scored, usage_of
from sgl_lab.contracts.errors import BackendUnsupported, RequestFailed
from sgl_lab.contracts.params import Constraint, SamplingParams
from sgl_lab.contracts.port import GenJob, ScoreJob, TokenLogprob, WarmJob


class Bytes:
    """A token is a byte; 256 ends a text, 257 is a special token."""

    eos_ids = frozenset({256})
    special_ids = frozenset({257})

    def encode(self, text: str, *, markup: bool = False) -> tuple[int, ...]:
        return tuple(text.encode())

    def token_bytes(self, token: int) -> bytes:
        return bytes((token,)) if token < 256 else b"<s>" if token == 257 else b""


def job(prompt: str = "Hi", **params: Any) -> GenJob:
    return GenJob(tuple(prompt.encode()), SamplingParams(**params), whole=True)


def answer(ids: list[int], n: int | None = None, reason: Any = None, **meta: Any) -> dict[str, Any]:
    reported = {"completion_tokens": len(ids) if n is None else n, "finish_reason": reason, "prompt_tokens": 2, "cached_tokens": 1}
    return {"text": "", "output_ids": ids, "meta_info": reported | meta}


STOPPED = {"type": "stop", "matched": 256}


# ---------------------------------------------------------------- requests


def test_a_gen_says_all_that_differs_from_the_defaults_and_no_more() -> None:
    plain = wire.gen_body(job(max_tokens=5, temperature=0), "r", 100)
    assert plain == {
        "input_ids": [72, 105],
        "rid": "r",
        "stream": True,
        "sampling_params": {"max_new_tokens": 5, "temperature": 0, "top_p": 1.0, "top_k": -1, "skip_special_tokens": True},
    }
    full = wire.gen_body(
        job(max_tokens=None, n=2, stop=("x",), top_k=3, seed=7, logit_bias=((4, -1.0),), logprobs=True, top_logprobs=2, min_tokens=1),
        "r",
        100,
    )
    params = full["sampling_params"]
    assert (params["max_new_tokens"], params["n"], params["stop"], params["top_k"]) == (100, 2, ["x"], 3)
    assert (params["sampling_seed"], params["logit_bias"], params["min_new_tokens"]) == (7, {"4": -1.0}, 1)
    assert (full["return_logprob"], full["top_logprobs_num"], full["logprob_start_len"]) == (True, 2, -1)
    json.dumps(full)


def test_constraints_are_a_regex_or_a_schema() -> None:
    def sent(constraint: Constraint) -> Any:
        return wire.sampling(SamplingParams(constraint=constraint), 10)

    assert sent(Constraint("regex", "a|b"))["regex"] == "a|b"
    assert sent(Constraint("regex", "a|b", lead="x*"))["regex"] == "(?:x*)(?:a|b)"
    assert sent(Constraint("json_schema", "{}"))["json_schema"] == "{}"
    with pytest.raises(BackendUnsupported, match="grammar"):
        sent(Constraint("grammar", 'start: "a"'))
    with pytest.raises(BackendUnsupported, match="first part"):
        sent(Constraint("json_schema", "{}", lead="x*"))


def test_choices_are_scored_in_one_call_from_the_last_token_of_the_prompt() -> None:
    body = wire.score_body(ScoreJob((1, 2, 3), ((4,), (5, 6))), ("a", "b"))
    assert body["input_ids"] == [[1, 2, 3, 4], [1, 2, 3, 5, 6]]
    assert (body["logprob_start_len"], body["sampling_params"]["max_new_tokens"]) == (2, 0)
    assert wire.warm_body(WarmJob((1, 2)), "w")["sampling_params"]["max_new_tokens"] == 0


# ---------------------------------------------------------------- answers


@pytest.mark.parametrize("whole", [False, True], ids=["new ids", "all ids"])
def test_a_stream_of_new_ids_or_of_all_of_them_is_the_same_text(whole: bool) -> None:
    sample, texts, came = Sampled(job(), Bytes()), [], []
    parts = ["the ", "the ", "end"]
    done: list[int] = []
    for part in parts:
        done += part.encode()
        ids = list(done if whole else part.encode())
        came += sample.take(answer(ids, len(done)))
        texts.append(sample.delta()[0])
    came += sample.take(answer([*done, 256] if whole else [256], len(done) + 1, STOPPED))
    output = sample.output(usage_of({"meta_info": sample.meta}, 2))
    assert "".join(texts) == output.text == "the the end"
    assert (output.ids, output.finish_reason, output.matched_stop) == (tuple(b"the the end"), "stop", 256)
    assert came == [*b"the the end", 256]
    assert output.usage.computed_tokens == 2 - 1 + len("the the end")


def test_a_stop_ends_the_text_although_its_tokens_came() -> None:
    sample = Sampled(job(stop=("nd",)), Bytes())
    sample.take(answer(list(b"the en")))
    assert sample.delta()[0] == "the e", "an n may begin the stop"
    sample.take(answer(list(b"d"), 7, {"type": "stop", "matched": "nd"}))
    output = sample.output(usage_of({}, 2))
    assert (output.text, output.matched_stop, output.finish_reason) == ("the e", "nd", "stop")
    assert bytes(output.ids) == b"the e"


def test_a_stop_that_the_server_removed_is_known_by_its_reason() -> None:
    sample = Sampled(job(stop=("nd",)), Bytes())
    sample.take(answer(list(b"the e"), 7, {"type": "stop", "matched": "nd"}))
    assert sample.output(usage_of({}, 2)).matched_stop == "nd"


def test_half_a_character_is_held_and_special_tokens_are_hidden() -> None:
    sample = Sampled(job(max_tokens=3), Bytes())
    sample.take(answer([257, *"aé".encode()[:2]], 3, {"type": "length", "length": 3}))
    output = sample.output(usage_of({}, 2))
    assert (output.text, output.held, output.finish_reason) == ("a", (0xC3,), "length")
    assert output.ids == (257, 97)


def test_log_probabilities_come_with_their_tokens() -> None:
    sample = Sampled(job(logprobs=True, top_logprobs=1), Bytes())
    rows = [[-0.5, 97, None], [-0.25, 98, None], [-0.1, 256, None]]
    tops = [[[-0.5, 97, None]], [[-0.2, 99, None]], None]
    sample.take(answer([97], output_token_logprobs=rows[:1], output_top_logprobs=tops[:1]))
    assert sample.delta()[2] == (TokenLogprob(97, -0.5, ((97, -0.5),)),)
    sample.take(answer([98, 256], 3, STOPPED, output_token_logprobs=rows, output_top_logprobs=tops))
    output = sample.output(usage_of({}, 2))
    assert output.logprobs == (TokenLogprob(97, -0.5, ((97, -0.5),)), TokenLogprob(98, -0.25, ((99, -0.2),)))


def test_a_prompts_log_probabilities_are_its_last_ones() -> None:
    sample = Sampled(job(prompt_logprobs_from=0), Bytes())
    sample.take(answer([97], 1, {"type": "length"}, input_token_logprobs=[[None, 72, None], [-2.0, 105, None]]))
    assert sample.output(usage_of({}, 2)).prompt_logprobs == (TokenLogprob(72, None), TokenLogprob(105, -2.0))


@pytest.mark.parametrize(
    ("text", "reason", "complete"),
    [("12", STOPPED, True), ("12", {"type": "length"}, True), ("1", {"type": "length"}, False), ("1", {"type": "abort"}, False)],
)
def test_whether_a_text_is_whole(text: str, reason: Any, complete: bool) -> None:
    sample = Sampled(job(constraint=Constraint("regex", r"\d\d")), Bytes())
    sample.take(answer(list(text.encode()), None, reason))
    assert sample.output(usage_of({}, 2)).is_complete is complete


def test_an_abort_with_a_message_is_an_error() -> None:
    with pytest.raises(Refused, match="no room"):
        Sampled(job(), Bytes()).take(answer([], 0, {"type": "abort", "message": "no room", "status_code": 503}))


def test_scores_are_those_of_the_choices_tokens_or_an_error() -> None:
    asked = ScoreJob((1, 2), ((3,), (4, 5)))

    def reported(*rows: tuple[float | None, int]) -> dict[str, Any]:
        return {"meta_info": {"input_token_logprobs": [[logprob, token, None] for logprob, token in rows]}}

    assert scored(asked, [reported((None, 2), (-1.0, 3)), reported((None, 2), (-2.0, 4), (-3.0, 5))]) == (
        (TokenLogprob(3, -1.0),),
        (TokenLogprob(4, -2.0), TokenLogprob(5, -3.0)),
    )
    for other in (reported((None, 2), (-1.0, 9)), reported((None, 3)), reported()):
        with pytest.raises(RequestFailed, match="tokenizer="):
            scored(ScoreJob((1, 2), ((3,),)), [other])


def test_an_answer_that_was_cut_off_goes_on_after_its_tokens() -> None:
    asked = job(max_tokens=6, stop=("z",))
    body = wire.gen_body(asked, "r", 100)
    sample = Sampled(asked, Bytes())
    sample.take(answer(list(b"ab")))
    body = wire.gen_on(asked, sample.resumed(), "r-1", 100)
    assert (body["input_ids"], body["sampling_params"]["max_new_tokens"], body["rid"]) == (list(b"Hiab"), 4, "r-1")
    sample.take(answer(list(b"ab")))
    body = wire.gen_on(asked, sample.resumed(), "r-2", 100)
    assert (body["input_ids"], body["sampling_params"]["max_new_tokens"]) == (list(b"Hiabab"), 2)
    sample.take(answer(list(b"cz"), 2, {"type": "stop", "matched": "z"}))
    output = sample.output(sample.usage(2))
    assert (output.text, output.finish_reason) == ("ababc", "stop")
    assert (output.usage.prompt_tokens, output.usage.completion_tokens, output.usage.cached_tokens) == (2, 6, 1)
    assert wire.may_go_on(asked)
    assert not wire.may_go_on(job(constraint=Constraint("regex", "a")))
    assert not wire.may_go_on(job(n=2))
