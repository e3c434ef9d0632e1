"""A select where a server has neither decisions nor constraints, and tells the likeliest first
tokens of an answer.

One token is asked for, with its alternatives. A choice has the probability of the tokens that begin
it and no other choice. So choices that begin alike cannot be told apart, and are refused; an answer
that begins with none of the choices is no choice.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import permutations

from ...contracts.conversation import ChatJob, ChatOutput, DecisionJob, DecisionOutput
from ...contracts.errors import BackendUnsupported, RequestFailed
from ...contracts.params import SamplingParams

LEAST = 0.05
"""of the probability: with less for all choices together, the answer is none of them"""
HINT = "let a gen answer instead, with a stop, or take a server that decides or follows a regex"


def check(job: DecisionJob, by: str) -> None:
    """BackendUnsupported for choices whose first tokens cannot tell them apart."""
    for one, other in permutations(job.choices, 2):
        if other.startswith(one):
            what = f"{by} tells choices apart by their first token only, and {other!r:.60} begins with {one!r:.60}"
            raise BackendUnsupported(what, hint="let the choices begin differently, such as A, B, C")


def asked(job: DecisionJob, n_top: int) -> ChatJob:
    params = SamplingParams(max_tokens=1, temperature=0.0, logprobs=True, top_logprobs=n_top)
    return ChatJob(job.prompt, params, (), job.fork, job.expr, job.shown)


def read(output: ChatOutput, job: DecisionJob, by: str) -> DecisionOutput:
    """RequestFailed where the likeliest tokens begin no choice, or several of them."""
    if not output.logprobs:
        raise RequestFailed(f"{by} sent no log-probabilities of its first token", hint=HINT)
    first = output.logprobs[0]
    found = probabilities(job.choices, {first.text: first.logprob, **dict(first.top)}.items())
    if (shared := found.pop("", 0.0)) > sum(found.values()):
        raise RequestFailed(f"{by} begins with what several choices begin with", hint="let the choices begin differently, such as A, B, C")
    if (whole := sum(found.values())) < LEAST:
        likeliest = max((shared, ""), *((math.exp(logprob), text) for text, logprob in first.top or ((first.text, first.logprob),)))[1]
        raise RequestFailed(f"{by} begins with none of the choices, but with {likeliest!r:.40}", hint=HINT)
    return DecisionOutput(tuple(found.get(choice, 0.0) / whole for choice in job.choices), output.usage)


def probabilities(choices: Iterable[str], tokens: Iterable[tuple[str, float]]) -> dict[str, float]:
    """Of each choice, by the tokens that begin it alone, or that it begins; under the empty name
    that of tokens which begin several."""
    found: dict[str, float] = {}
    for text, logprob in tokens:
        begins = text.lstrip()
        owners = [choice for choice in choices if begins and (choice.startswith(begins) or begins.startswith(choice))]
        if owners:
            name = owners[0] if len(owners) == 1 else ""
            found[name] = found.get(name, 0.0) + math.exp(logprob)
    return found
