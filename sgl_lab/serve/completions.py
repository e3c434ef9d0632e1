"""POST /v1/completions: text goes on, without roles."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import cast

from ..contracts.errors import BadArgument
from ..contracts.json_values import Json
from ..contracts.port import GenJob, GenOutput, TokenLogprob
from . import sampling
from .fields import Fields, is_ids
from .openai_chat import HARMLESS, streaming, usage_of
from .parsed import DONE, Answer, Model, ParsedRequest, Piece, frame


def read(model: Model, fields: Fields) -> ParsedRequest:
    prompts = _prompts(model, fields.any("prompt"))
    top, echoes, most = fields.whole("logprobs"), fields.flag("echo"), fields.whole("max_tokens")
    params = sampling.read(
        fields,
        max_tokens=16 if most is None else most,
        return_logprob=None if top is None else True,
        top_logprobs_num=top,
    )
    if echoes and params.logprobs:
        params = replace(params, prompt_logprobs_from=0)
    streams, with_usage = streaming(fields)
    if streams and echoes:
        raise BadArgument("echo and stream do not go together", hint="leave out one of them")
    fields.only("best_of", params.n)
    fields.only("suffix", "")
    fields.ignore(*HARMLESS)
    jobs = tuple(GenJob(prompt, params) for prompt in prompts)
    return ParsedRequest(jobs, CompletionReply(model, jobs, echoes, with_usage), streams, fields.text("rid"))


def _prompts(model: Model, given: Json) -> list[tuple[int, ...]]:
    several = given if isinstance(given, list) and not is_ids(given) else [given]
    found = [model.encode_text(one) if isinstance(one, str) else tuple(one) for one in several if isinstance(one, str) or is_ids(one)]
    if not several or len(found) < len(several):
        raise BadArgument(f"prompt must be a string, token ids, or a list of such, not {given!r:.60}")
    return found


class CompletionReply:
    def __init__(self, model: Model, jobs: Sequence[GenJob], echoes: bool, with_usage: bool) -> None:
        self._model = model
        self._jobs = jobs
        self._echoes = echoes
        self._with_usage = with_usage
        self._head = {
            "id": f"cmpl-{secrets.token_hex(12)}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": model.name,
        }
        self._n_chars: dict[int, int] = {}

    def whole(self, answers: Sequence[Answer]) -> object:
        choices = [
            self._choice(job, sample, output)
            for job, answer in enumerate(answers)
            for sample, output in enumerate(cast(tuple[GenOutput, ...], answer))
        ]
        return self._head | {"choices": choices, "usage": usage_of(answers)}

    def _choice(self, job: int, sample: int, output: GenOutput) -> dict[str, object]:
        gen_job = self._jobs[job]
        before = self._model.backend.decode(gen_job.prompt) if self._echoes else ""
        entries = (*(output.prompt_logprobs if self._echoes else ()), *output.logprobs)
        return {
            "index": self._index(job, sample),
            "text": before + output.text,
            "logprobs": self._logprobs_of(entries, 0) if gen_job.params.logprobs else None,
            "finish_reason": output.finish_reason,
            "matched_stop": output.matched_stop,
        }

    def _index(self, job: int, sample: int) -> int:
        return job * self._jobs[job].params.n + sample

    def _logprobs_of(self, entries: Sequence[TokenLogprob], at: int) -> dict[str, object]:
        spell, offsets = self._model.spell, []
        tokens = [spell(entry.token) for entry in entries]
        for token in tokens:
            offsets.append(at)
            at += len(token)
        return {
            "tokens": tokens,
            "token_logprobs": [entry.logprob for entry in entries],
            "top_logprobs": [{spell(token): logprob for token, logprob in entry.top} or None for entry in entries],
            "text_offset": offsets,
        }

    def opening(self) -> bytes:
        return b""

    def piece(self, piece: Piece) -> bytes:
        index = self._index(piece.job, piece.sample)
        at = self._n_chars.get(index, 0)
        logprobs = self._logprobs_of(piece.logprobs, at) if self._jobs[piece.job].params.logprobs else None
        self._n_chars[index] = at + len(piece.text)
        return frame(self._head | {"choices": [{"index": index, "text": piece.text, "logprobs": logprobs, "finish_reason": None}]})

    def closing(self, answers: Sequence[Answer]) -> bytes:
        frames = [
            frame(self._head | {"choices": [self._choice(job, sample, output) | {"text": "", "logprobs": None}]})
            for job, answer in enumerate(answers)
            for sample, output in enumerate(cast(tuple[GenOutput, ...], answer))
        ]
        if self._with_usage:
            frames.append(frame(self._head | {"choices": [], "usage": usage_of(answers)}))
        return b"".join((*frames, DONE))
