"""Chunks of generateContent as deltas and outputs, and the answer to a decision."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from ...contracts.conversation import ChatJob, ChatOutput, DecisionJob, DecisionOutput, TextLogprob, ToolCallPart
from ...contracts.errors import RequestFailed
from ...contracts.port import Usage
from ..remote.faults import Unended
from ..remote.whole import is_whole
from .request import QUESTION

if TYPE_CHECKING:
    from google.genai.decisions import CreateDecisionResponse
    from google.genai.types import Candidate, GenerateContentResponse, GenerateContentResponseUsageMetadata, LogprobsResult

_REASONS = {"STOP": "stop", "MAX_TOKENS": "length", "CONTINUATION": "length", "FINISH_REASON_UNSPECIFIED": ""}
"""other reasons keep the API's word, in lower case: safety, recitation, prohibited_content ..."""
UNTOLD = ""
"""A stop may have ended a text, which the API does not tell."""


class Answer:
    """What has come so far. `read` takes the chunks; `outputs` can be asked for at any time."""

    def __init__(self, job: ChatJob, delta: Callable[[int, str], None]) -> None:
        self._job, self._delta = job, delta
        self._samples = [_Sample() for _ in range(job.params.n)]
        self._usage: GenerateContentResponseUsageMetadata | None = None

    def read(self, chunks: Iterable[GenerateContentResponse]) -> tuple[ChatOutput, ...]:
        """RequestFailed where the prompt is blocked; Unended where the stream ends before the
        answer does.
        """
        for chunk in chunks:
            if (feedback := chunk.prompt_feedback) and feedback.block_reason and not chunk.candidates:
                why = f"{_word(feedback.block_reason)}: {feedback.block_reason_message or 'it gives no reason'}"
                raise RequestFailed(f"Gemini blocked the prompt ({why:.200})", hint="say it in other words")
            self._usage = chunk.usage_metadata or self._usage
            for candidate in chunk.candidates or ():
                self._take(candidate)
        if not all(sample.reason for sample in self._samples):
            raise Unended
        return self.outputs()

    def _take(self, candidate: Candidate) -> None:
        index = candidate.index or 0
        if index >= len(self._samples):
            return
        sample = self._samples[index]
        for part in (candidate.content.parts if candidate.content else None) or ():
            if part.function_call:
                call = part.function_call
                signature = base64.b64encode(part.thought_signature).decode() if part.thought_signature else ""
                id = call.id or f"call_{len(sample.calls) + 1}"
                sample.calls.append(ToolCallPart(id, call.name or "", json.dumps(call.args or {}), signature))
            elif part.text and part.thought:
                sample.reasoning += part.text
            elif part.text:
                sample.text += part.text
                if not self._job.tools:
                    self._delta(index, part.text)
        if candidate.logprobs_result:
            sample.logprobs += _logprobs(candidate.logprobs_result)
        if candidate.finish_reason:
            word = candidate.finish_reason.value
            sample.reason = _REASONS.get(word, word.lower())

    # ------------------------------------------------------------ what it is

    @property
    def usage(self) -> Usage:
        """Of all samples together, for the API counts no single one."""
        counts = self._usage
        if counts is None:
            return Usage()
        n_prompt = (counts.prompt_token_count or 0) + (counts.tool_use_prompt_token_count or 0)
        n_cached = counts.cached_content_token_count or 0
        n_completion = (counts.candidates_token_count or 0) + (counts.thoughts_token_count or 0)
        return Usage(n_prompt, n_completion, n_cached, n_prompt - n_cached + max(n_completion - 1, 0))

    def outputs(self) -> tuple[ChatOutput, ...]:
        """Of what has come; finish_reason is "abort" before the end. The first has the usage of all."""
        constraint = self._job.params.constraint
        return tuple(
            ChatOutput(
                sample.text,
                "tool_calls" if sample.calls and sample.reason == "stop" else sample.reason or "abort",
                self.usage if index == 0 else Usage(prompt_tokens=self.usage.prompt_tokens),
                tool_calls=tuple(sample.calls) if sample.reason else (),
                reasoning=sample.reasoning,
                logprobs=tuple(sample.logprobs),
                is_complete=is_whole(constraint, sample.text, sample.reason, UNTOLD),
            )
            for index, sample in enumerate(self._samples)
        )


class _Sample:
    def __init__(self) -> None:
        self.text = self.reasoning = self.reason = ""
        self.calls: list[ToolCallPart] = []
        self.logprobs: list[TextLogprob] = []


def _word(reason: object) -> str:
    return str(getattr(reason, "value", reason)).lower()


def _logprobs(result: LogprobsResult) -> list[TextLogprob]:
    tops = result.top_candidates or []
    found: list[TextLogprob] = []
    for number, chosen in enumerate(result.chosen_candidates or ()):
        top = tops[number].candidates or () if number < len(tops) else ()
        likeliest = tuple((each.token or "", each.log_probability or 0.0) for each in top)
        found.append(TextLogprob(chosen.token or "", chosen.log_probability or 0.0, likeliest))
    return found


def decided(job: DecisionJob, response: CreateDecisionResponse, price: float | None = None) -> DecisionOutput:
    """`price` is of a million prompt tokens; None for that of the backend's own model.

    RequestFailed where the input is blocked, or an answer has no probabilities of the choices.
    """
    answer = (response.answers or {}).get(QUESTION)
    if answer is None or answer.type != "choice":
        feedback = response.prompt_feedback
        reason = f" (blocked: {_word(feedback.block_reason)})" if feedback is not None else ""
        raise RequestFailed(f"Gemini did not decide{reason}", hint="say it in other words")
    found = [float(answer.probabilities.get(str(number), 0.0)) for number in range(len(job.choices))]
    total = sum(found)
    if not total > 0:
        raise RequestFailed("Gemini decided without probabilities of the choices", hint="run it again, or write decision_model=None")
    counts = response.usage
    n_prompt = (counts.total_input_tokens or 0) if counts else 0
    n_cached = (counts.total_cached_tokens or 0) if counts else 0
    cost = None if price is None else n_prompt * price / 1e6
    usage = Usage(prompt_tokens=n_prompt, cached_tokens=n_cached, computed_tokens=n_prompt - n_cached, cost=cost)
    return DecisionOutput(tuple(each / total for each in found), usage)
