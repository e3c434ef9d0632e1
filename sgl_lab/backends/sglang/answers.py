"""What an SGLang server answers, as outputs of the port. Pure: bytes and numbers in, outputs out.

Token ids are the answer, and its text is spelled from them here. So a stop ends the text at the same
character as on the engine of this process, whatever the server's own text leaves out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Protocol, TypedDict, TypeVar, cast

from ...contracts.errors import RequestFailed
from ...contracts.port import GenJob, GenOutput, ScoreJob, TokenLogprob, Usage
from ...engine.text.stream import TextStream
from ..remote import Refused
from ..remote.whole import is_whole

Row = tuple[float | None, int, str | None]
"""log-probability, token, text; in JSON, a list"""
T = TypeVar("T")


class Meta(TypedDict, total=False):
    """What the server says of an answer."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    total_retractions: int
    queue_time: float
    finish_reason: object
    output_token_logprobs: Sequence[Row] | None
    output_top_logprobs: Sequence[Sequence[Row] | None] | None
    input_token_logprobs: Sequence[Row] | None
    input_top_logprobs: Sequence[Sequence[Row] | None] | None


class Answer(TypedDict, total=False):
    """One answer, or one event of a stream."""

    index: int
    output_ids: Sequence[int]
    meta_info: object


class Vocabulary(Protocol):
    """What is asked of a tokenizer here."""

    eos_ids: frozenset[int]
    special_ids: frozenset[int]

    def encode(self, text: str, *, markup: bool = False) -> tuple[int, ...]: ...

    def token_bytes(self, token: int) -> bytes: ...


class Sampled:
    """One sample while it comes. `take` an answer of the stream; then `delta` is what can newly be
    shown.
    """

    def __init__(self, job: GenJob, vocabulary: Vocabulary) -> None:
        params = job.params
        self._job, self._vocabulary = job, vocabulary
        self._ends = frozenset(params.stop_token_ids) | (frozenset() if params.ignore_eos else vocabulary.eos_ids)
        self._hidden = vocabulary.special_ids | vocabulary.eos_ids if params.skip_special_tokens else frozenset[int]()
        self._text = TextStream(params.stop, params.stop_regex, whole=job.whole)
        self._ids: list[int] = []
        """those that the text is made of, the begun ones of the prompt included"""
        self._logprobs: list[TokenLogprob] = []
        self._n_emitted = 0
        self._before: list[int] = []
        """tokens of requests that were cut off"""
        self._n_cached: int | None = None
        """of the first of them"""
        self._sent: list[int] = []
        self._n_logprobs = 0
        self._ended_by: int | None = None
        self.reason: str | None = None
        """of its end, as the server says it"""
        self._server_matched: str | int | None = None
        self.meta: Meta = {}
        for token in job.prompt[len(job.prompt) - job.begun :]:
            self._push(token, may_stop=False)
            if params.logprobs:
                self._logprobs.append(TokenLogprob(token, None))

    @property
    def is_over(self) -> bool:
        """Whether nothing that may still come belongs to the text."""
        return self.reason is not None or self._text.matched is not None or self._ended_by is not None

    def take(self, answer: Answer) -> tuple[int, ...]:
        """The tokens that are new, those that end the text included."""
        self.meta = meta = meta_of(answer)
        n_completion = meta.get("completion_tokens")
        new = self._new(answer.get("output_ids") or ())
        self._sent += new
        if self._job.params.logprobs:
            self._note_logprobs(meta, n_completion)
        for token in new:
            if self._text.matched is not None or self._ended_by is not None:
                break
            if token in self._ends:
                self._ended_by = token
            else:
                self._push(token, may_stop=len(self._ids) - self._job.begun >= self._job.params.min_tokens)
        reason = meta.get("finish_reason")
        if reason is not None:
            given = reason if isinstance(reason, dict) else {"type": str(reason)}
            self.reason, self._server_matched = given.get("type") or "stop", given.get("matched")
            if self.reason == "abort" and (message := given.get("message")):
                status = given.get("status_code")
                raise Refused(str(message), status if isinstance(status, int) else None)
            self._text.close()
        return tuple(new)

    def _new(self, ids: Sequence[int]) -> list[int]:
        """What is new of tokens that come whole each time (as from our own door), or only as far as
        they are new (as from SGLang)."""
        n = len(self._sent)
        comes_whole = n > 0 and len(ids) >= n and list(ids[:n]) == self._sent
        n_completion = self.meta.get("completion_tokens")
        if comes_whole and n_completion == n + len(ids) and not self.meta.get("ids_are_whole"):
            comes_whole = False  # it repeats itself
        return list(ids[n:] if comes_whole else ids)

    def _push(self, token: int, *, may_stop: bool) -> None:
        data = self._vocabulary.token_bytes(token)
        if not self._ids:
            data = data[len(self._job.lead.encode()) :]
        self._ids.append(token)
        self._text.push(data, may_stop=may_stop, is_hidden=token in self._hidden)

    def _note_logprobs(self, meta: Meta, n_completion: int | None) -> None:
        rows = _new(meta.get("output_token_logprobs"), self._n_logprobs, n_completion)
        tops = _new(meta.get("output_top_logprobs"), self._n_logprobs, n_completion) or [None] * len(rows)
        self._n_logprobs += len(rows)
        self._logprobs += [token_logprob(row, top) for row, top in zip(rows, tops, strict=False)]

    @property
    def text(self) -> str:
        return self._text.text

    @property
    def n_received(self) -> int:
        return len(self._before) + len(self._sent)

    def resumed(self) -> tuple[int, ...]:
        """All tokens that came. What comes next goes on after them, as the answer to another request."""
        self._before += self._sent
        self._n_cached = self._n_cached if self._n_cached is not None else int(self.meta.get("cached_tokens") or 0)
        self._sent, self._n_logprobs = [], 0
        return tuple(self._before)

    def usage(self, n_prompt: int) -> Usage:
        if not self._before:
            return usage_of({"meta_info": self.meta}, n_prompt)
        counts = {"prompt_tokens": n_prompt, "completion_tokens": self.n_received, "cached_tokens": self._n_cached}
        return usage_of({"meta_info": {**self.meta, **counts}}, n_prompt)

    def newest_logprobs(self, n: int) -> Sequence[TokenLogprob]:
        """Of the last `n` tokens that came; empty where none were asked for."""
        return self._logprobs[len(self._logprobs) - n :] if len(self._logprobs) >= n else ()

    def delta(self) -> tuple[str, tuple[int, ...], tuple[TokenLogprob, ...]]:
        """Text, tokens and their log-probabilities that can newly be shown."""
        text, n_ids = self._text.delta()
        ids, logprobs = tuple(self._ids[self._n_emitted : n_ids]), tuple(self._logprobs[self._n_emitted : n_ids])
        self._n_emitted = max(self._n_emitted, n_ids)
        return text, ids + (self._kept() if self._text.is_closed else ()), logprobs

    def _kept(self) -> tuple[int, ...]:
        """Tokens of the part of a token that a stop left."""
        text = self._text
        return self._vocabulary.encode(("" if text.n_ids else self._job.lead) + text.kept) if text.kept else ()

    def output(self, usage: Usage, *, aborted: bool = False) -> GenOutput:
        text = self._text
        if not text.is_closed:
            text.close()
        matched: str | int | None = text.matched if text.matched is not None else self._ended_by
        is_ours = matched is not None
        reason = "stop" if is_ours else "abort" if aborted else self.reason or "abort"
        if reason == "stop" and matched is None:
            matched = self._server_matched
        ids = tuple(self._ids[: text.n_ids]) + self._kept()
        output = GenOutput(text.text, ids, reason, matched, tuple(self._logprobs[: text.n_ids]), usage)
        if text.n_begun:
            output = replace(output, held=tuple(self._ids[text.n_ids :]))
        output = replace(output, is_complete=is_whole(self._job.params.constraint, output.text, reason, output.matched_stop))
        first = self._job.params.prompt_logprobs_from
        return output if first is None else replace(output, prompt_logprobs=self._prompt_logprobs(first))

    def _prompt_logprobs(self, first: int) -> tuple[TokenLogprob, ...]:
        rows = self.meta.get("input_token_logprobs") or []
        tops = self.meta.get("input_top_logprobs") or [None] * len(rows)
        wanted = self._job.prompt[first:]
        given = [token_logprob(row, top) for row, top in zip(rows, tops, strict=False)][-len(wanted) :] if wanted else []
        return tuple(given) if len(given) == len(wanted) else tuple(TokenLogprob(token, None) for token in wanted)


def _new(items: Sequence[T] | None, n_seen: int, n_all: int | None) -> Sequence[T]:
    """Of a list that comes whole each time, or only what is new of it, what is new: the count of
    all tells which."""
    items = items or ()
    return items[n_seen:] if len(items) == n_all else items


def token_logprob(row: Row, top: Iterable[Row] | None = None) -> TokenLogprob:
    """Of (log-probability, token, text), and the same of the likeliest alternatives."""
    return TokenLogprob(row[1], row[0], tuple((each[1], each[0]) for each in top or () if each[0] is not None))


def scored(job: ScoreJob, answers: Sequence[Answer]) -> tuple[tuple[TokenLogprob, ...], ...]:
    """RequestFailed where the server answers something else than it was asked."""
    rows = []
    for choice, answer in zip(job.choices, answers, strict=True):
        given = meta_of(answer).get("input_token_logprobs") or []
        row = tuple(map(token_logprob, given[len(given) - len(choice) :]))
        if tuple(entry.token for entry in row) != choice or any(entry.logprob is None for entry in row):
            raise RequestFailed(
                "the server sent no log-probabilities of a choice's tokens",
                hint="its tokenizer may be another than the one that is used here: give tokenizer=",
            )
        rows.append(row)
    return tuple(rows)


def meta_of(answer: Answer) -> Meta:
    """Empty where the server says nothing."""
    meta = answer.get("meta_info")
    return cast(Meta, meta) if isinstance(meta, Mapping) else {}


def usage_of(answer: Answer, n_prompt: int) -> Usage:
    meta = meta_of(answer)
    n_completion, n_cached = int(meta.get("completion_tokens") or 0), int(meta.get("cached_tokens") or 0)
    n_prompt = int(meta.get("prompt_tokens") or n_prompt)
    return Usage(
        prompt_tokens=n_prompt,
        completion_tokens=n_completion,
        cached_tokens=n_cached,
        computed_tokens=max(0, n_prompt - n_cached) + max(n_completion - 1, 0),
        preemptions=int(meta.get("total_retractions") or 0),
        queue_s=float(meta.get("queue_time") or 0.0),
    )
