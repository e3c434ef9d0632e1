"""A scripted backend that takes messages, as an API does. It refuses everything that it does not
declare.
"""

from __future__ import annotations

import json
import math
from dataclasses import replace
from itertools import count
from typing import cast

from ...contracts.capabilities import Capabilities
from ...contracts.conversation import (
    ChatJob,
    ChatListener,
    ChatMessage,
    ChatOutput,
    DecisionJob,
    DecisionListener,
    DecisionOutput,
    ImagePart,
    Prompt,
    TextLogprob,
    ToolCallPart,
    check_prompt,
)
from ...contracts.errors import PromptTooLong, Stopped
from ...contracts.events import Emit, RequestQueued, silent
from ...contracts.ids import RequestId
from ...contracts.params import MAX_TOP_LOGPROBS, Constraint
from ...contracts.port import ModelCard, Usage
from ...lang.backend.base_backend import BaseConversation
from .constraints import check_form
from .served import Answers, Likes, Listener, Running, Sample, Served

Job = ChatJob | DecisionJob

CHAT = Capabilities(
    sampling=("max_tokens", "temperature", "top_p", "seed", "stop", "frequency_penalty", "presence_penalty"),
    stops=4,
    samples=8,
    constraints=("json_schema",),
    choices="decided",
    logprobs=True,
    top_logprobs=MAX_TOP_LOGPROBS,
    images=True,
    tools=True,
    cached_counts=True,
)
"""About the capabilities of a chat API; a test may declare more or fewer."""


class ScriptedConversation(Served[Job], BaseConversation):
    """Answers as `ScriptedBackend` does; the prompt's text is the result of `written`. An answer to
    a job with tools is a call in the language's spelling, and is returned as a call in the server's
    own form. `likes(prompt, choice)` returns a choice's log-probability.

    A token is a byte. A job that exceeds the capabilities is refused, as by a server.
    """

    def __init__(
        self,
        answers: Answers = "ok",
        *,
        likes: Likes = lambda prompt, choice: -1.0,
        capabilities: Capabilities = CHAT,
        context: int = 100_000,
        emit: Emit = silent,
        held: bool = False,
        name: str = "scripted-chat",
    ) -> None:
        self._likes = likes
        self._capabilities = capabilities
        self._card = ModelCard(name, (name,), context, 256, "none", "none", capabilities)
        self._call_ids = count(1)
        super().__init__(answers, emit, held)

    # ------------------------------------------------------------ the port

    def describe(self) -> ModelCard:
        return self._card

    def prepare(self, constraint: Constraint) -> None:
        check_form(constraint)

    def converse(self, job: ChatJob, listener: ChatListener) -> RequestId:
        self._capabilities.check(job.params, self._card.name, is_tool_call=bool(job.tools))
        if job.tools and not self._capabilities.tools:
            raise self._capabilities.missing("tools", self._card.name)
        return self._queue(job, listener, "gen", job.params.max_tokens or 0)

    def decide(self, job: DecisionJob, listener: DecisionListener) -> RequestId:
        if self._capabilities.choices != "decided":
            raise self._capabilities.missing("choices", self._card.name)
        return self._queue(job, listener, "score", 0)

    def _queue(self, job: Job, listener: Listener, kind: str, max_tokens: int) -> RequestId:
        check_prompt(job.prompt, self._capabilities, self._card.name)
        if (n_tokens := len(written(job.prompt).encode())) >= self._card.context:
            raise PromptTooLong(f"the prompt has {n_tokens} tokens, the context {self._card.context}", hint="shorten the prompt")
        return self._accept(
            job, listener, lambda request: self.emit(RequestQueued(request, job.fork, job.expr, kind, job.shown, max_tokens, request))
        )

    # ------------------------------------------------------------ the thread

    def _advance(self, running: Running[Job]) -> bool:
        job = running.job
        prompt = written(job.prompt)
        if isinstance(job, ChatJob):
            return self._generate(running, job, prompt)
        if running.cancelled:
            running.listener.on_error(Stopped("the request was cancelled"))
            return True
        running.n_cached = self._remember(prompt.encode())
        likings = [self._likes(prompt, choice) for choice in job.choices]
        weights = [math.exp(liked if isinstance(liked, int | float) else sum(liked) / len(liked)) for liked in likings]
        running.listener.on_done(DecisionOutput(tuple(weight / sum(weights) for weight in weights), self._usage(running, 0)))
        return True

    def _generate(self, running: Running[Job], job: ChatJob, prompt: str) -> bool:
        if not running.samples and not running.cancelled:
            if not self._begin(running, prompt, job.params):
                return True
            running.n_cached = self._remember(prompt.encode())
        if not running.cancelled:
            running.n_steps += 1
            for index, sample in enumerate(running.samples):
                if not sample.done:
                    piece = sample.take()
                    if not job.tools:
                        cast(ChatListener, running.listener).on_delta(index, piece)
            if not all(sample.done for sample in running.samples):
                return False
        running.listener.on_done(tuple(self._output(running, job, sample) for sample in running.samples or [Sample("", "abort", None)]))
        return True

    def _output(self, running: Running[Job], job: ChatJob, sample: Sample) -> ChatOutput:
        text = sample.text[: sample.n_given]
        is_whole = sample.done and not running.cancelled
        usage = self._usage(running, len(text.encode()))
        output = ChatOutput(text, sample.reason if is_whole else "abort", usage, sample.matched if is_whole else None)
        if job.tools and is_whole:
            call = json.loads(text)
            part = ToolCallPart(f"call_{next(self._call_ids)}", call["name"], json.dumps(call["arguments"]))
            return replace(output, text="", finish_reason="tool_calls", tool_calls=(part,))
        top = job.params.top_logprobs
        logprobs = tuple(TextLogprob(char, -0.5, ((char, -0.5),) * top) for char in text) if job.params.logprobs else ()
        return replace(output, logprobs=logprobs, is_complete=sample.is_complete and is_whole)

    def _usage(self, running: Running[Job], n_completion: int) -> Usage:
        n_prompt = len(written(running.job.prompt).encode())
        return Usage(prompt_tokens=n_prompt, completion_tokens=n_completion, cached_tokens=running.n_cached, model_steps=running.n_steps)


def written(prompt: Prompt) -> str:
    """A prompt as text: a line per message, `role: text`. The last line has no end if the message
    has only begun.
    """
    if isinstance(prompt, str):
        return prompt
    lines = [f"{message.role}: {_text(message)}" for message in prompt]
    return "\n".join(lines if prompt[-1].role == "assistant" else [*lines, "assistant: "])


def _text(message: ChatMessage) -> str:
    calls = "".join(f"{part.name}({part.arguments})" for part in message.parts if isinstance(part, ToolCallPart))
    images = "".join(f"<{part.media_type}, {len(part.data)} bytes>" for part in message.parts if isinstance(part, ImagePart))
    return images + message.text + calls
