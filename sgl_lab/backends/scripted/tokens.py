"""A scripted backend that takes token ids, with a toy tokenizer of bytes.

It counts: every job is kept, and a trie of all prefixes tells what a radix cache would hit.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import cast

from ...contracts.capabilities import TOKEN_LEVEL
from ...contracts.errors import BackendUnsupported, BadArgument, PromptTooLong, Stopped
from ...contracts.events import Emit, RequestQueued, silent
from ...contracts.ids import RequestId
from ...contracts.params import Constraint
from ...contracts.port import (
    GenJob,
    GenListener,
    GenOutput,
    Message,
    ModelCard,
    ScoreJob,
    ScoreListener,
    ScoreOutput,
    Segment,
    TokenLogprob,
    Usage,
    WarmJob,
    WarmListener,
)
from ...contracts.spans import text_of
from ...lang.backend.base_backend import BaseBackend
from ...lang.chat_template import Renderer, get_chat_template
from .constraints import check_form
from .served import Answers, Likes, Listener, Running, Sample, Served

Job = GenJob | ScoreJob | WarmJob


class ToyTokenizer:
    """Ids 0 to 255 are bytes, followed by the special tokens. *Sampled* tokens have ids of their
    own, from 512 on, so a test sees whether generated text was encoded again.
    """

    SAMPLED = 512
    special = ("<s>", "</s>", "<|im_start|>", "<|im_end|>")
    vocab = 2 * SAMPLED

    def __init__(self) -> None:
        self._ids = {text: 256 + index for index, text in enumerate(self.special)}
        self._split = re.compile("(" + "|".join(map(re.escape, self.special)) + ")")

    def encode(self, text: str, *, markup: bool = False) -> tuple[int, ...]:
        ids: list[int] = []
        for part in self._split.split(text) if markup else (text,):
            ids += (self._ids[part],) if markup and part in self._ids else part.encode()
        return tuple(ids)

    def sampled(self, text: str) -> tuple[int, ...]:
        return tuple(self.SAMPLED + byte for byte in text.encode())

    def decode(self, ids: Sequence[int], *, special: bool = True) -> str:
        plain = bytearray()
        for id in ids:
            if id < 0:
                plain += text_of(id).encode()
                continue
            is_special = 256 <= id < 256 + len(self.special)
            plain += self.special[id - 256].encode() * special if is_special else bytes((id % self.SAMPLED,))
        return plain.decode(errors="replace")


class ScriptedBackend(Served[Job], BaseBackend):
    """Answers gens from `answers`: one text for all, a function of the prompt's text, texts in the
    order of the requests, or a dict from a piece of the prompt (the last one in it wins) to a text.
    An exception instead of a text fails that request; so does a text that its constraint forbids,
    because no model could generate it.

    `likes(prompt, choice)` returns a choice's log-probability per token, one for all or a list.
    """

    def __init__(
        self,
        answers: Answers = "ok",
        *,
        likes: Likes = lambda prompt, choice: -1.0,
        chat_template: str | None = "chatml",
        bos: bool = False,
        context: int = 100_000,
        emit: Emit = silent,
        held: bool = False,
        name: str = "scripted",
        costly_calls: bool = False,
    ) -> None:
        self.tokenizer = ToyTokenizer()
        self._likes = likes
        self._render = None if chat_template is None else Renderer(get_chat_template(chat_template))
        self._bos = bos
        can = replace(TOKEN_LEVEL, chat_template=chat_template is not None, costly_calls=costly_calls)
        self._card = ModelCard(name, (name,), context, ToyTokenizer.vocab, "none", "none", can)
        super().__init__(answers, emit, held)

    # ------------------------------------------------------------ the port

    def describe(self) -> ModelCard:
        return self._card

    def prepare(self, constraint: Constraint) -> None:
        """Every well-formed constraint is accepted."""
        check_form(constraint)

    def submit(self, job: GenJob, listener: GenListener) -> RequestId:
        if job.params.constraint is not None:
            self.prepare(job.params.constraint)
        return self._queue(job, listener, "gen", job.params.max_tokens or 0)

    def score(self, job: ScoreJob, listener: ScoreListener) -> RequestId:
        return self._queue(job, listener, "score", 0)

    def warm(self, job: WarmJob, listener: WarmListener) -> RequestId:
        return self._queue(job, listener, "warm", 0)

    def _queue(self, job: Job, listener: Listener, kind: str, max_tokens: int) -> RequestId:
        if len(job.prompt) >= self._card.context:
            raise PromptTooLong(f"the prompt has {len(job.prompt)} tokens, the context {self._card.context}", hint="shorten the prompt")
        if not job.prompt:
            raise BadArgument("the prompt is empty", hint="append some text first")
        expr = None if isinstance(job, WarmJob) else job.expr
        return self._accept(
            job, listener, lambda request: self.emit(RequestQueued(request, job.fork, expr, kind, job.prompt, max_tokens, request))
        )

    def encode(self, text: str, *, markup: bool = False) -> tuple[int, ...]:
        return self.tokenizer.encode(text, markup=markup)

    def encode_all(self, segments: Sequence[Segment]) -> tuple[int, ...]:
        return tuple(id for text, markup in segments for id in self.tokenizer.encode(text, markup=markup))

    def decode(self, ids: Sequence[int], *, special: bool = True) -> str:
        return self.tokenizer.decode(ids, special=special)

    def n_open(self, ids: Sequence[int]) -> int:
        """No two of its tokens merge into one."""
        return 0

    def render_chat(self, messages: Sequence[Message], *, add_generation_prompt: bool) -> tuple[Segment, ...]:
        if self._render is None:
            raise BackendUnsupported("this scripted backend has no chat template")
        return self._render(messages, add_generation_prompt)

    def render_text(self, text: str) -> tuple[Segment, ...]:
        return (Segment("<s>", True), Segment(text, False)) if self._bos else (Segment(text, False),)

    def render_start(self) -> tuple[Segment, ...]:
        return (Segment("<s>", True),) if self._bos else ()

    # ------------------------------------------------------------ the thread

    def _advance(self, running: Running[Job]) -> bool:
        """One step of one request. Returns whether it was its last."""
        match running.job:
            case GenJob() as job:
                return self._generate(running, job)
            case ScoreJob() as job:
                if running.cancelled:
                    running.listener.on_error(Stopped("the request was cancelled"))
                else:
                    running.listener.on_done(self._scored(running, job))
            case WarmJob() as job:
                if running.cancelled:
                    running.listener.on_error(Stopped("the request was cancelled"))
                else:
                    n_cached = min(self._remember(job.prompt), len(job.prompt) - 1)
                    running.listener.on_done(self._usage(running, 0, n_cached))
        return True

    def _generate(self, running: Running[Job], job: GenJob) -> bool:
        if not running.samples and not running.cancelled:
            if not self._begin(running, self.decode(job.prompt), job.params):
                return True
            running.n_cached = min(self._remember(job.prompt), len(job.prompt) - 1)
        if not running.cancelled:
            running.n_steps += 1
            for index, sample in enumerate(running.samples):
                if not sample.done:
                    token = sample.take()
                    ids = self.tokenizer.sampled(token)
                    on_logprobs = getattr(running.listener, "on_logprobs", None) if job.params.logprobs else None
                    if on_logprobs is not None:
                        on_logprobs(index, _logprobs(ids, job.params.top_logprobs))
                    cast(GenListener, running.listener).on_progress(index, token, ids)
            if not all(sample.done for sample in running.samples):
                return False
        running.listener.on_done(tuple(self._output(running, job, sample) for sample in running.samples or [Sample("", "abort", None)]))
        return True

    def _output(self, running: Running[Job], job: GenJob, sample: Sample) -> GenOutput:
        text = sample.text[: sample.n_given]
        ids = self.tokenizer.sampled(text)
        self._remember((job.prompt + ids)[:-1])
        reason, matched = (sample.reason, sample.matched) if sample.done and not running.cancelled else ("abort", None)
        top = job.params.top_logprobs
        logprobs = _logprobs(ids, top) if job.params.logprobs else ()
        first = job.params.prompt_logprobs_from
        asked = [] if first is None else list(enumerate(job.prompt))[first:]
        prompt_logprobs = tuple(TokenLogprob(id, -0.25, ((id, -0.25),) * top) if at else TokenLogprob(id, None) for at, id in asked)
        complete = None if sample.is_complete is None else sample.is_complete and reason != "abort"
        return GenOutput(text, ids, reason, matched, logprobs, self._usage(running, len(ids), running.n_cached), complete, prompt_logprobs)

    def _scored(self, running: Running[Job], job: ScoreJob) -> ScoreOutput:
        n_cached = self._remember(job.prompt)
        prompt, rows = self.decode(job.prompt), []
        for choice in job.choices:
            liked = self._likes(prompt, self.decode(choice))
            row = [float(liked)] * len(choice) if isinstance(liked, int | float) else [float(logprob) for logprob in liked]
            rows.append(tuple(TokenLogprob(id, logprob) for id, logprob in zip(choice, row, strict=True)))
        return ScoreOutput(tuple(rows), self._usage(running, 0, n_cached))

    def _usage(self, running: Running[Job], n_completion: int, n_cached: int) -> Usage:
        n_prompt = len(running.job.prompt)
        return Usage(
            prompt_tokens=n_prompt,
            completion_tokens=n_completion,
            cached_tokens=n_cached,
            computed_tokens=n_prompt + max(n_completion - 1, 0) - n_cached,
            model_steps=running.n_steps,
        )


def _logprobs(ids: Sequence[int], n_top: int) -> tuple[TokenLogprob, ...]:
    return tuple(TokenLogprob(id, -0.5, ((id, -0.5),) * n_top) for id in ids)
