"""Jobs of the language as requests of SGLang's own API. Pure: nothing here opens a socket.

The fields are those of SGLang 0.5.4 (`io_struct.GenerateReqInput`, `SamplingParams`). Prompts are
sent as token ids, so the server computes what the program's views show, and encodes nothing again.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import replace

from ...contracts.errors import BackendUnsupported
from ...contracts.params import Constraint, SamplingParams
from ...contracts.port import GenJob, ScoreJob, WarmJob
from ...contracts.spans import ImageBlock, first_id, is_inside

Body = dict[str, object]

KINDS = {"regex": "regex", "json_schema": "json_schema"}
"""Kinds of constraint, and the sampling parameter that takes each."""


def gen_body(job: GenJob, rid: str, room: int) -> Body:
    """The streamed request of a gen. `room` is the number of tokens that the context leaves for the
    answer.
    """
    params = job.params
    body: Body = {"input_ids": list(job.prompt), "rid": rid, "stream": True, "sampling_params": sampling(params, room)}
    if params.logprobs or params.prompt_logprobs_from is not None:
        body["return_logprob"] = True
        body["top_logprobs_num"] = params.top_logprobs
        body["logprob_start_len"] = -1 if params.prompt_logprobs_from is None else params.prompt_logprobs_from
    return body


def with_images(body: Body, job: GenJob | ScoreJob | WarmJob, image_token: int) -> Body:
    """The body with one token in the place of each image, and the images beside it."""
    if not job.blocks:
        return body
    data = {first_id(block.content): base64.b64encode(block.data).decode() for block in job.blocks if isinstance(block, ImageBlock)}

    def sent(ids: Sequence[int]) -> tuple[list[int], list[str]]:
        shown = [token for token in ids if not is_inside(token)]
        return [token if token >= 0 else image_token for token in shown], [data[token] for token in shown if token < 0]

    given = body["input_ids"]
    assert isinstance(given, list)
    if not isinstance(given[0], list):
        ids, images = sent(given)
        return body | {"input_ids": ids, "image_data": images}
    several = [sent(each) for each in given]
    return body | {"input_ids": [ids for ids, _ in several], "image_data": [images for _, images in several]}


def may_go_on(job: GenJob) -> bool:
    """Whether an answer that was cut off can be gone on with by another server: nothing but its
    tokens decides the rest."""
    params = job.params
    counts = params.is_penalised or params.prompt_logprobs_from is not None or params.seed is not None
    return params.n == 1 and params.constraint is None and not counts


def gen_on(job: GenJob, received: Sequence[int], rid: str, room: int) -> Body:
    """The request that goes on after the tokens of an answer that was cut off. `room` is that of
    the whole answer."""
    params = job.params
    most = room if params.max_tokens is None else min(params.max_tokens, room)
    rest = replace(params, max_tokens=max(most - len(received), 1), min_tokens=max(0, params.min_tokens - len(received)))
    return gen_body(replace(job, prompt=(*job.prompt, *received), params=rest), rid, room)


def sampling(params: SamplingParams, room: int) -> Body:
    """Values that differ from the server's defaults are sent, and those whose default differs here."""
    most = room if params.max_tokens is None else min(params.max_tokens, room)
    body: Body = {
        "max_new_tokens": most,
        "temperature": params.temperature,
        "top_p": params.top_p,
        "top_k": -1 if params.top_k is None else params.top_k,
        "skip_special_tokens": params.skip_special_tokens,
    }
    given: Body = {
        "min_new_tokens": min(params.min_tokens, most),
        "min_p": params.min_p,
        "frequency_penalty": params.frequency_penalty,
        "presence_penalty": params.presence_penalty,
        "stop": list(params.stop),
        "stop_token_ids": list(params.stop_token_ids),
        "stop_regex": list(params.stop_regex),
        "ignore_eos": params.ignore_eos,
        "logit_bias": {str(token): bias for token, bias in params.logit_bias},
    }
    body |= {name: value for name, value in given.items() if value}
    if params.repetition_penalty != 1:
        body["repetition_penalty"] = params.repetition_penalty
    if params.seed is not None:
        body["sampling_seed"] = params.seed
    if params.n > 1:
        body["n"] = params.n
    if params.constraint is not None:
        body |= constrained(params.constraint)
    return body


def constrained(constraint: Constraint) -> Body:
    """BackendUnsupported for what the server's grammars cannot say."""
    name = KINDS.get(constraint.kind)
    if name is None:
        raise BackendUnsupported(f"an SGLang server follows no constraint of kind {constraint.kind}", hint="use regex= or json_schema=")
    if not constraint.lead:
        return {name: constraint.source}
    if name != "regex":
        hint = "let the model think in a gen of its own, before the one with the schema"
        raise BackendUnsupported("an SGLang server constrains a whole answer by a schema, not what follows its first part", hint=hint)
    return {name: f"(?:{constraint.lead})(?:{constraint.source})"}


def score_body(job: ScoreJob, rids: Sequence[str]) -> Body:
    """One request a choice, in one call. What comes back begins with the prompt's last token, which
    has no log-probability."""
    return {
        "input_ids": [[*job.prompt, *choice] for choice in job.choices],
        "rid": list(rids),
        "sampling_params": {"max_new_tokens": 0, "temperature": 0.0},
        "return_logprob": True,
        "logprob_start_len": len(job.prompt) - 1,
    }


def warm_body(job: WarmJob | ScoreJob, rid: str) -> Body:
    return {"input_ids": list(job.prompt), "rid": rid, "sampling_params": {"max_new_tokens": 0, "temperature": 0.0}}
