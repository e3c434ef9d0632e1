"""Decisions: which of the choices comes next, as the server decides it, with the probability of each.

Two endpoints do so: `/v1/decisions` of OpenAI's API, which vLLM, SGLang and this project's door
serve, too; and `/v1/systemone`, the open form. The question is the same: what the assistant says
next.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NotRequired, TypedDict

from ...contracts.conversation import DecisionJob, DecisionOutput
from ...contracts.errors import BadArgument, RequestFailed
from ...contracts.port import Usage
from .chat import Body
from .responses import counted, items

if TYPE_CHECKING:
    from openai.types import Decision

MAX_CHOICES = 255


class SystemoneAnswer(TypedDict):
    probabilities: Mapping[str, float]


class Systemone(TypedDict):
    """An answer of `/v1/systemone`."""

    answers: Mapping[str, SystemoneAnswer]
    usage: NotRequired[Mapping[str, int] | None]


QUESTION = "Which of the choices does the assistant say next?"


def check(job: DecisionJob) -> None:
    """BadArgument for choices that the endpoints do not take."""
    if not 2 <= len(job.choices) <= MAX_CHOICES:
        raise BadArgument(f"a server decides between 2 and {MAX_CHOICES} choices, not {len(job.choices)}")
    if len({*job.choices}) < len(job.choices):
        raise BadArgument("two of the choices are the same", hint="leave one out: a server decides between different choices")


def request(job: DecisionJob, model: str) -> Body:
    """Keyword arguments of `client.decisions.create`."""
    question = {"type": "choice", "name": "next", "instructions": QUESTION, "choices": [{"value": choice} for choice in job.choices]}
    return {"model": model, "input": job.prompt if isinstance(job.prompt, str) else items(job.prompt), "questions": [question]}


def read(decision: Decision, job: DecisionJob, by: str) -> DecisionOutput:
    """RequestFailed where the server declines, or its answer is of other choices."""
    (answer,) = decision.answers
    if answer.type != "choice":
        raise RequestFailed(f"{by} declined to decide", hint="let a gen answer instead")
    return _output({str(each.value): each.probability for each in answer.probabilities}, counted(decision.usage), job, by)


def systemone_request(job: DecisionJob, model: str) -> Body:
    """The body of a request to `/v1/systemone`."""
    state = job.prompt if isinstance(job.prompt, str) else [{"role": message.role, "content": message.text} for message in job.prompt]
    criteria = dict.fromkeys(job.choices)
    return {"model": model, "state": state, "questions": {"next": {"type": "choice", "instructions": QUESTION, "criteria": criteria}}}


def systemone_read(body: Systemone, job: DecisionJob, by: str) -> DecisionOutput:
    answer = body["answers"]["next"]
    usage = body.get("usage") or {}
    return _output(answer["probabilities"], Usage(usage.get("input_tokens") or 0, usage.get("output_tokens") or 0), job, by)


def _output(found: Mapping[str, float], usage: Usage, job: DecisionJob, by: str) -> DecisionOutput:
    given = [float(found.get(choice, 0.0)) for choice in job.choices]
    if (whole := sum(given)) <= 0:
        raise RequestFailed(f"{by} answered probabilities of none of the choices")
    return DecisionOutput(tuple(each / whole for each in given), usage)
