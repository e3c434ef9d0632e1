"""Completions, which go on with plain text: a job as a request, chunks as outputs."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING

from ...contracts.conversation import ChatJob, ChatOutput, TextLogprob
from ...contracts.errors import BackendUnsupported
from ...contracts.port import Usage
from ..remote import Call, Unended
from ..remote.whole import is_whole
from .chat import Body, constraint, counted, refused, sampling
from .servers import Server

if TYPE_CHECKING:
    from openai.types import Completion, CompletionUsage
    from openai.types.completion_choice import Logprobs


def request(job: ChatJob, model: str, server: Server) -> Body:
    """Keyword arguments of `client.completions.create`."""
    if not isinstance(job.prompt, str):
        raise BackendUnsupported("completions take plain text, and this prompt has roles", hint="leave out the roles, or take api='chat'")
    extra: Body = {}
    body: Body = {"model": model, "prompt": job.prompt}
    for name, value in sampling(job.params, server, extra).items():
        body["max_tokens" if name == server.max_tokens else name] = value
    if job.params.n > 1:
        body["n"] = job.params.n
    if job.params.logprobs:
        body["logprobs"] = max(1, job.params.top_logprobs)
    if (wanted := job.params.constraint) is not None:
        if wanted.kind == "json_schema" and server.name in ("llama.cpp", "sglang", "sgl_lab"):
            extra["json_schema"] = json.loads(wanted.source) if server.name == "llama.cpp" else wanted.source
        elif wanted.kind == "json_schema":
            extra["structured_outputs"] = {"json": json.loads(wanted.source)}
        else:
            constraint(wanted, server, extra)
    body |= {"stream": True, "stream_options": {"include_usage": True}}
    return body | ({"extra_body": extra} if extra else {})


def read(chunks: Iterable[Completion], job: ChatJob, call: Call) -> tuple[ChatOutput, ...]:
    n = job.params.n
    texts, reasons, matched = [list[str]() for _ in range(n)], list[str | None]([None] * n), list[str | int | None]([None] * n)
    logprobs = [list[TextLogprob]() for _ in range(n)]
    usage: CompletionUsage | None = None
    for chunk in chunks:
        call.check()
        if error := getattr(chunk, "error", None):
            raise refused(error)
        usage = getattr(chunk, "usage", None) or usage
        for choice in chunk.choices or ():
            index = choice.index
            if not 0 <= index < n:
                raise ValueError(f"a sample {index} that was not asked for")
            texts[index].append(choice.text or "")
            call.delta(index, choice.text or "")
            logprobs[index] += _logprobs(choice.logprobs, job.params.top_logprobs)
            if choice.finish_reason is not None:
                reasons[index] = choice.finish_reason
                stop = getattr(choice, "stop_reason", None) or getattr(choice, "matched_stop", None)
                matched[index] = stop if isinstance(stop, str | int) else None
    if None in reasons:
        raise Unended
    counts = counted(usage)
    outputs = []
    for i in range(n):
        text, reason = "".join(texts[i]), reasons[i] or "stop"
        share = counts.completion_tokens * (i + 1) // n - counts.completion_tokens * i // n
        is_complete = is_whole(job.params.constraint, text, reason, matched[i])
        of_sample = Usage(counts.prompt_tokens, share, counts.cached_tokens)
        outputs.append(ChatOutput(text, reason, of_sample, matched[i], logprobs=tuple(logprobs[i]), is_complete=is_complete))
    return tuple(outputs)


def _logprobs(given: Logprobs | None, n_top: int) -> list[TextLogprob]:
    if given is None or not given.tokens:
        return []
    tops = given.top_logprobs or [{}] * len(given.tokens)
    return [
        TextLogprob(token, -9999.0 if logprob is None else logprob, tuple((top or {}).items())[:n_top])
        for token, logprob, top in zip(given.tokens, given.token_logprobs or (), tops, strict=False)
    ]
