"""A backend that answers from a script: for tests and for pictures of programs without a model.

It speaks the whole port, on a thread of its own, with a toy tokenizer of bytes. A step gives each
running generation one more token; a test may hold the steps, let single ones through, or let the
backend die. It counts: every job is kept, and a trie of all prefixes tells what a radix cache would hit.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..contracts.errors import BackendUnsupported, BadArgument, EngineStopped, PromptTooLong, Stopped
from ..contracts.events import Emit, RequestQueued, silent
from ..contracts.ids import Counter, RequestId
from ..contracts.params import Constraint, SamplingParams
from ..contracts.port import (
    GenJob,
    GenListener,
    GenOutput,
    LogprobListener,
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
from ..contracts.spans import text_of
from ..lang.ahead import first_stop
from ..lang.backend.base_backend import BaseBackend
from ..lang.chat_template import Renderer, get_chat_template
from .obedience import check_form, obeys

Answer = str | Exception
Answers = Answer | Callable[[str], Answer] | Iterable[Answer] | Mapping[str, Answer]
Likes = Callable[[str, str], float | Sequence[float]]

request_ids = Counter()


class ToyTokenizer:
    """Bytes are ids 0 to 255; then the special tokens; what was *sampled* has ids of its own, from 512 on.

    So a test sees at a glance whether generated text was encoded again.
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


@dataclass
class _Sample:
    """One answer, decided when the request starts, and how much of it has been given."""

    text: str
    reason: str
    matched: str | int | None
    is_complete: bool | None = None
    n_given: int = 0

    @property
    def done(self) -> bool:
        return self.n_given >= len(self.text)


@dataclass(eq=False)
class _Running:
    request: RequestId
    job: GenJob | ScoreJob | WarmJob
    listener: Any
    n_cached: int = 0
    samples: list[_Sample] = field(default_factory=list)
    n_steps: int = 0
    cancelled: bool = False


class ScriptedBackend(BaseBackend):
    """Answers gens from `answers`: one text for all, a function of the prompt's text, texts in the order of the
    requests, or a dict from a piece of the prompt (the one that stands last in it wins) to a text. An exception in a
    text's place fails that request, and so does a text that its constraint forbids: a script must not say what no model could.
    `likes(prompt, choice)` gives a choice's log-probability a token, one for all or one each.
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
        is_completion_api: bool = False,
    ) -> None:
        self.emit = emit
        self.jobs: list[GenJob | ScoreJob | WarmJob] = []
        """every job that was accepted, in order"""
        self.n_cancelled = 0
        self.tokenizer = ToyTokenizer()
        self._answer = _chooser(answers)
        self._likes = likes
        self._render = None if chat_template is None else Renderer(get_chat_template(chat_template))
        self._bos = bos
        self._card = ModelCard(
            name, (name,), context, ToyTokenizer.vocab, "none", "none", chat_template is not None, is_completion_api=is_completion_api
        )
        self._seen: dict[int, Any] = {}
        self._changed = threading.Condition()
        self._waiting: list[_Running] = []
        self._running: list[_Running] = []
        self._n_allowed: int | None = 0 if held else None
        self._stopped: EngineStopped | None = None
        self._thread = threading.Thread(target=self._serve, name="sgl-scripted", daemon=True)
        self._thread.start()

    # ------------------------------------------------------------ a test's hand

    def hold(self) -> None:
        """No step until `step` or `resume`."""
        with self._changed:
            self._n_allowed = 0

    def step(self, n: int = 1) -> None:
        """Allow `n` steps more."""
        with self._changed:
            self._n_allowed = (self._n_allowed or 0) + n
            self._changed.notify_all()

    def resume(self) -> None:
        with self._changed:
            self._n_allowed = None
            self._changed.notify_all()

    def close(self) -> None:
        """End the thread; what was not answered is failed with EngineStopped."""
        self._end(answer=True)

    def die(self) -> None:
        """End the thread without a word, as an engine does that crashed: only `poll` tells."""
        self._end(answer=False)

    def _end(self, answer: bool) -> None:
        with self._changed:
            self._stopped = EngineStopped("the scripted backend was closed")
            left = self._waiting + self._running if answer else []
            self._waiting, self._running = [], []
            self._changed.notify_all()
        if threading.current_thread() is not self._thread:
            self._thread.join(10)
        for running in left:
            running.listener.on_error(self._stopped)

    def jobs_of(self, kind: type[GenJob] | type[ScoreJob] | type[WarmJob]) -> list[Any]:
        return [job for job in self.jobs if isinstance(job, kind)]

    # ------------------------------------------------------------ the port

    def describe(self) -> ModelCard:
        return self._card

    def prepare(self, constraint: Constraint) -> None:
        """Anything well-formed will do."""
        check_form(constraint)

    def submit(self, job: GenJob, listener: GenListener) -> RequestId:
        if job.params.constraint is not None:
            self.prepare(job.params.constraint)
        return self._accept(job, listener, "gen", job.params.max_tokens or 0)

    def score(self, job: ScoreJob, listener: ScoreListener) -> RequestId:
        return self._accept(job, listener, "score", 0)

    def warm(self, job: WarmJob, listener: WarmListener) -> RequestId:
        return self._accept(job, listener, "warm", 0)

    def _accept(self, job: GenJob | ScoreJob | WarmJob, listener: object, kind: str, max_tokens: int) -> RequestId:
        if len(job.prompt) >= self._card.context:
            raise PromptTooLong(f"the prompt has {len(job.prompt)} tokens, the context {self._card.context}", hint="shorten the prompt")
        if not job.prompt:
            raise BadArgument("the prompt is empty", hint="append some text first")
        request = RequestId(request_ids.next())
        with self._changed:
            if self._stopped:
                raise self._stopped
            self.jobs.append(job)
            expr = None if isinstance(job, WarmJob) else job.expr
            self.emit(RequestQueued(request, job.fork, expr, kind, job.prompt, max_tokens, request))
            self._waiting.append(_Running(request, job, listener))
            self._changed.notify_all()
        return request

    def cancel(self, request: RequestId) -> None:
        with self._changed:
            for running in self._waiting + self._running:
                if running.request == request and not running.cancelled:
                    running.cancelled = True
                    self.n_cancelled += 1
            self._changed.notify_all()

    def poll(self) -> None:
        if self._stopped:
            raise self._stopped

    def encode(self, text: str, *, markup: bool = False) -> tuple[int, ...]:
        return self.tokenizer.encode(text, markup=markup)

    def encode_all(self, segments: Sequence[Segment]) -> tuple[int, ...]:
        return tuple(id for text, markup in segments for id in self.tokenizer.encode(text, markup=markup))

    def decode(self, ids: Sequence[int], *, special: bool = True) -> str:
        return self.tokenizer.decode(ids, special=special)

    def n_open(self, ids: Sequence[int]) -> int:
        """No two of its tokens are one."""
        return 0

    def render_chat(self, messages: Sequence[Message], *, add_generation_prompt: bool) -> tuple[Segment, ...]:
        if self._render is None:
            raise BackendUnsupported("this scripted backend has no chat template")
        return self._render(messages, add_generation_prompt)

    def render_text(self, text: str) -> tuple[Segment, ...]:
        return (Segment("<s>", True), Segment(text, False)) if self._bos else (Segment(text, False),)

    def render_start(self) -> tuple[Segment, ...]:
        return (Segment("<s>", True),) if self._bos else ()

    def flush(self) -> None:
        with self._changed:
            self._seen.clear()

    # ------------------------------------------------------------ the thread

    def _serve(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(self._may_step)
                if self._stopped:
                    return
                self._running += self._waiting
                self._waiting = []
                # A hold holds steps; a cancel is obeyed all the same.
                step = [running for running in self._running if running.cancelled]
                if not step:
                    step = list(self._running)
                    self._n_allowed = None if self._n_allowed is None else self._n_allowed - 1
            finished = [running for running in step if self._advance(running)]
            with self._changed:
                self._running = [running for running in self._running if running not in finished]

    def _may_step(self) -> bool:
        work = self._waiting + self._running
        return self._stopped is not None or any(running.cancelled for running in work) or (bool(work) and self._n_allowed != 0)

    def _advance(self, running: _Running) -> bool:
        """One step of one request; whether that was its last."""
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

    def _generate(self, running: _Running, job: GenJob) -> bool:
        if not running.samples and not running.cancelled:
            for _ in range(job.params.n):
                answer = self._answer(self.decode(job.prompt))
                constraint = job.params.constraint
                if constraint is not None and isinstance(answer, str) and not obeys(constraint, answer):
                    answer = BadArgument(f"the script says {answer!r:.80}, which the {constraint.kind} forbids: {constraint.source:.200}")
                if isinstance(answer, Exception):
                    running.listener.on_error(answer)
                    return True
                running.samples.append(_sample(answer, job.params))
            running.n_cached = min(self._remember(job.prompt), len(job.prompt) - 1)
        if not running.cancelled:
            running.n_steps += 1
            for index, sample in enumerate(running.samples):
                if not sample.done:
                    token = sample.text[sample.n_given]
                    sample.n_given += 1
                    ids = self.tokenizer.sampled(token)
                    if job.params.logprobs and isinstance(running.listener, LogprobListener):
                        running.listener.on_logprobs(index, _logprobs(ids, job.params.top_logprobs))
                    running.listener.on_progress(index, token, ids)
            if not all(sample.done for sample in running.samples):
                return False
        running.listener.on_done(tuple(self._output(running, job, sample) for sample in running.samples or [_Sample("", "abort", None)]))
        return True

    def _output(self, running: _Running, job: GenJob, sample: _Sample) -> GenOutput:
        text = sample.text[: sample.n_given]
        ids = self.tokenizer.sampled(text)
        self._remember((job.prompt + ids)[:-1])
        reason, matched = (sample.reason, sample.matched) if sample.done and not running.cancelled else ("abort", None)
        top = job.params.top_logprobs
        logprobs = _logprobs(ids, top) if job.params.logprobs else ()
        first = job.params.prompt_logprobs_from
        asked = [] if first is None else list(enumerate(job.prompt))[first:]
        told = tuple(TokenLogprob(id, -0.25, ((id, -0.25),) * top) if at else TokenLogprob(id, None) for at, id in asked)
        complete = None if sample.is_complete is None else sample.is_complete and reason != "abort"
        return GenOutput(text, ids, reason, matched, logprobs, self._usage(running, len(ids), running.n_cached), complete, told)

    def _scored(self, running: _Running, job: ScoreJob) -> ScoreOutput:
        n_cached = self._remember(job.prompt)
        prompt, rows = self.decode(job.prompt), []
        for choice in job.choices:
            liked = self._likes(prompt, self.decode(choice))
            row = [float(liked)] * len(choice) if isinstance(liked, int | float) else [float(logprob) for logprob in liked]
            rows.append(tuple(TokenLogprob(id, logprob) for id, logprob in zip(choice, row, strict=True)))
        return ScoreOutput(tuple(rows), self._usage(running, 0, n_cached))

    def _remember(self, ids: Sequence[int]) -> int:
        """Keep the prefix; how many of its tokens were known."""
        node, n_known = self._seen, 0
        for n, id in enumerate(ids, 1):
            if id in node:
                n_known = n
            node = node.setdefault(id, {})
        return n_known

    def _usage(self, running: _Running, n_completion: int, n_cached: int) -> Usage:
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


def _sample(text: str, params: SamplingParams) -> _Sample:
    """What of `text` is given under these parameters: up to the first stop, at most `max_tokens` characters."""
    end, matched = first_stop(text, params) or (len(text), None)
    reason = "stop"
    if params.max_tokens is not None and end > params.max_tokens:
        end, matched, reason = params.max_tokens, None, "length"
    constraint = params.constraint
    return _Sample(text[:end], reason, matched, None if constraint is None else obeys(constraint, text[:end]))


def _chooser(answers: Answers) -> Callable[[str], Answer]:
    if isinstance(answers, str | Exception):
        return lambda prompt: answers
    if callable(answers):
        return answers
    if isinstance(answers, Mapping):
        return lambda prompt: answers[max(answers, key=prompt.rfind)] if answers else ""
    script: Iterator[Answer] = iter(answers)
    return lambda prompt: next(script, BadArgument("the script has no more answers"))
