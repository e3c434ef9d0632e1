"""A job's requests and what becomes of them: samples of a gen, branches of a score, one warm.

A family is told what its rows gave, and says when and what to answer its listener. It knows nothing
of pages, plans or threads.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple, Protocol

from ...contracts.errors import Stopped
from ...contracts.events import Sample
from ...contracts.ids import Counter, Namespace, RequestId
from ...contracts.params import SamplingParams
from ...contracts.port import (
    GenJob,
    GenListener,
    GenOutput,
    LogprobListener,
    ScoreJob,
    ScoreListener,
    ScoreOutput,
    TokenLogprob,
    Usage,
    WarmJob,
    WarmListener,
)
from ...grammar.grammars import Grammars, Spelling
from ...grammar.matcher import Guide
from ..plan import Draw, Row, RowOutput
from ..text.seam import Seam, Spellings
from ..text.stream import TextStream
from .scheduling.request import Request
from .trie import branches

_request_ids = Counter()

Answer = Callable[[], None]
"""A call of a listener, made when the step is over."""


class Deferring(Protocol):
    """In a listener's place: calls it on another thread, where what it is told is put together too."""

    def deliver(self, call: Callable[[Any], None]) -> None:
        """Have `call` called with the listener."""


def to(listener: object, call: Callable[[Any], None]) -> Answer:
    """`call` with the listener, on its own thread where it has one."""
    deliver: Callable[[Callable[[Any], None]], None] | None = getattr(listener, "deliver", None)  # a tenth of the time of isinstance
    return partial(call, listener) if deliver is None else partial(deliver, call)


class Vocabulary(Spelling, Protocol):
    """The engine's interface of a tokenizer. `eos_ids` end a gen unless it ignores them."""


class Accepted(NamedTuple):
    """The effect of a row's result on its request."""

    reason: str | None = None
    """of its end"""
    samples: tuple[Sample, ...] = ()
    """the tokens that it says from here on"""
    n_kept: int = 0
    """the first of them whose KV the row computed, as guesses that came true"""


def _usage(request: Request, now: float, n_prompt: int) -> Usage:
    return Usage(
        prompt_tokens=n_prompt + request.n_healed,
        completion_tokens=len(request.generated) - request.n_healed,
        cached_tokens=request.n_cached,
        computed_tokens=request.n_computed,
        forced_tokens=request.n_forced,
        drafted_tokens=request.n_drafted,
        accepted_tokens=request.n_drafted - request.n_rejected,
        rejected_tokens=request.n_rejected,
        model_steps=request.n_steps,
        preemptions=request.n_preemptions,
        queue_s=_since(request.submitted, request.admitted, now),
        first_token_s=_since(request.submitted, request.first_token, now),
        total_s=now - request.submitted,
    )


def _since(submitted: float, then: float | None, now: float) -> float:
    return (now if then is None else then) - submitted


class Family(ABC):
    """`requests[0].id` names the family."""

    requests: tuple[Request, ...]
    follows_pattern = False
    """A user's pattern or constraint is followed when it begins and when it accepts, which may then be called from another thread."""

    @property
    def id(self) -> RequestId:
        return self.requests[0].id

    def begin(self, request: Request, now: float) -> Accepted:
        """What `request` says before it has run."""
        return Accepted()

    @abstractmethod
    def accept(self, request: Request, row: Row, output: RowOutput, now: float) -> Accepted:
        """Process the result of a row."""

    @abstractmethod
    def progress(self, request: Request) -> Answer | None:
        """What to tell of a running request, if anything."""

    def close(self, request: Request, reason: str) -> str:
        """No more rows will come for `request`; the reason as it turns out to be."""
        return reason

    @abstractmethod
    def finished(self, request: Request, reason: str, now: float) -> Answer | None:
        """One request is over; the answer when it was the last one."""

    @abstractmethod
    def failed(self, error: Exception) -> Answer:
        """The answer when one request failed; the others are then dropped."""


def _prompt_done(request: Request, row: Row) -> Accepted:
    return Accepted("length" if row.start + len(row.tokens) == len(request.prompt) else None)


def sample_seed(seed: int, index: int) -> int:
    """Seed of the index-th sample: the job's own for the first, unrelated ones for the others."""
    if index == 0:
        return seed & (2**63 - 1)
    return int.from_bytes(hashlib.blake2b(f"{seed}:{index}".encode(), digest_size=8).digest(), "big") >> 1


class _Sample:
    __slots__ = ("guide", "healed", "is_led_out", "lead", "logprobs", "matched", "n_sure", "n_told", "output", "reason", "seam", "text")

    def __init__(self, params: SamplingParams, guide: Guide | None, seam: Seam | None, whole: bool) -> None:
        self.guide = guide
        self.seam = seam
        """None as soon as the prompt's end is said again"""
        self.healed: list[TokenLogprob] = []
        """the tokens that say it again and nothing else"""
        self.lead = b""
        """of it, what the first token of the text says too"""
        self.is_led_out = False
        """it is brought to its end, since tokens run out"""
        self.text = TextStream(params.stop, params.stop_regex, whole=whole)
        self.logprobs: list[TokenLogprob] = []
        self.n_sure = 0
        """tokens of the text up to the last drawn one: of those forced after it nothing is known at the end"""
        self.matched: str | int | None = None
        self.reason: str | None = None
        """of an end that came before the prompt was scored"""
        self.n_told = 0
        self.output: Callable[[], GenOutput] | None = None
        """puts it together, once the sample is over"""

    @property
    def is_complete(self) -> bool | None:
        """Whether the text is all that the constraint wants."""
        if self.guide is None:
            return None
        if self.text.matched is None and not self.text.n_begun:
            return self.guide.is_whole
        return self.guide.is_text(self.text.text)

    @property
    def is_healing(self) -> bool:
        return self.seam is not None


class GenFamily(Family):
    """n samples of one prompt."""

    def __init__(
        self,
        job: GenJob,
        listener: GenListener,
        vocabulary: Vocabulary,
        grammars: Grammars,
        spellings: Spellings | None,
        namespace: Namespace,
        limit: int,
        most: int,
        seed: int,
        now: float,
    ) -> None:
        """`limit` is the maximum number of tokens of text; `most` is the room for them. `spellings`
        is given if the prompt's end is to be healed.
        """
        params = job.params
        if limit == 0:
            job, spellings = replace(job, heal=0), None
        self._job = job
        self._limit = limit
        n_prompt = len(job.prompt) - job.heal
        prompt, end = job.prompt[:n_prompt], job.prompt[n_prompt:]
        rest = spellings.bytes_of(end) if spellings else b""
        if rest:
            limit = max(min(limit + len(rest), most + len(end)), 1)
        self._listener = listener
        self._params = params
        self.follows_pattern = bool(params.stop_regex) or params.constraint is not None
        self._vocabulary = vocabulary
        ignores_eos = params.ignore_eos and params.constraint is None
        self._ends = frozenset(params.stop_token_ids) | (frozenset() if ignores_eos else vocabulary.eos_ids)
        self._hidden = frozenset(vocabulary.special_ids | vocabulary.eos_ids) if params.skip_special_tokens else frozenset[int]()
        ids = [RequestId(_request_ids.next()) for _ in range(params.n)]
        constraint = params.constraint and replace(params.constraint, seam=rest.decode())
        guides = [None if constraint is None else grammars.start(constraint, self._limit) for _ in ids]
        seams = [Seam(spellings, end, vocabulary.n_vocab) if spellings and rest else None for _ in ids]
        self.requests = tuple(
            Request(
                request,
                ids[0],
                "gen",
                namespace,
                prompt,
                submitted=now,
                limit=limit,
                params=params,
                seed=sample_seed(seed, index),
                banned_early=tuple(sorted(self._ends)),
                blocks=job.blocks,
                respelled=end,
                guide=guide or seam,
                seam=seam,
            )
            for index, (request, guide, seam) in enumerate(zip(ids, guides, seams, strict=True))
        )
        self._samples = {request: _Sample(params, guide, seam, job.whole) for request, guide, seam in zip(ids, guides, seams, strict=True)}
        for sample in self._samples.values():
            sample.lead = job.lead.encode()
            for token in self._begun:
                self._push(sample, token, may_stop=False)
                if params.logprobs:
                    sample.logprobs.append(TokenLogprob(token, None))
        self._index = {request: index for index, request in enumerate(ids)}
        first = params.prompt_logprobs_from
        scored = range(n_prompt if first is None else min(first, n_prompt), n_prompt)
        # The first sample computes them for all; a position of a block has no logprob.
        self.requests[0].targets = {i - 1: (job.prompt[i],) for i in scored if i and job.prompt[i] >= 0}
        self._prompt_logprobs = [TokenLogprob(job.prompt[i], None) for i in scored]

    @property
    def _begun(self) -> tuple[int, ...]:
        """The prompt's last tokens, if the text begins with them."""
        return self._job.prompt[len(self._job.prompt) - self._job.begun :]

    def begin(self, request: Request, now: float) -> Accepted:
        guide = self._samples[request.id].guide
        if request.limit == 0 or (guide is not None and guide.is_over):
            begun = Accepted("stop" if request.limit else "length")
        else:
            begun = self._say(request, (), now)
        if begun.reason is None:
            return begun
        request.targets = {position: token for position, token in request.targets.items() if position < len(request.prompt) - 1}
        if not request.targets:
            return begun
        self._samples[request.id].reason = begun.reason  # the prompt is still to be scored
        request.limit = len(request.generated)
        return begun._replace(reason=None)

    def accept(self, request: Request, row: Row, output: RowOutput, now: float) -> Accepted:
        self._score(request, row, output)
        reason = self._samples[request.id].reason
        if reason is not None:
            return Accepted(None if request.targets else reason)
        return self._say(request, output.draws, now)

    def _score(self, request: Request, row: Row, output: RowOutput) -> None:
        """Logprobs of tokens that were not drawn: of the prompt, and forced."""
        n_prompt = len(request.prompt)
        first = row.start + len(row.tokens) - len(row.targets)
        for position, (wanted, score) in enumerate(zip(row.targets, output.scores, strict=True), first):
            if wanted:
                del request.targets[position]
                i, sample = position + 1 - n_prompt, self._samples[request.id]
                scored = TokenLogprob(wanted[0], score.logprobs[0], score.top)
                if i < 0:
                    self._prompt_logprobs[i] = scored
                elif i < len(sample.healed):
                    sample.healed[i] = scored
                else:
                    sample.logprobs[i - len(sample.healed) + self._job.begun] = scored

    def _say(self, request: Request, draws: Sequence[Draw], now: float) -> Accepted:
        """Take the draws one after the other, and after each what it forces: guesses at that came true as well.

        A token after which the text could not be whole in time is not said, and nothing after it, but the way out in its place.
        """
        sample = self._samples[request.id]
        guide, masks = sample.guide, request.guide
        left, forced = deque(draws), deque[int]()
        said: list[Sample] = []
        n_read = n_sure = 0  # the latter up to the last drawn one
        reason = None
        while reason is None:
            if guide is not None and not forced:
                forced.extend(guide.forced())
            if not forced and not left:
                break
            draw = left.popleft() if left else None
            n_read += draw is not None
            if forced:
                token = Sample(request.id, forced.popleft(), None, (), 1, True)
            elif draw is not None:
                n_allowed = None if masks is None else masks.n_allowed[n_read - 1]
                token = Sample(request.id, draw.token, draw.logprob, draw.top, n_allowed, False)
            if guide is not None and self._comes_too_late(request, sample, token.token):
                way = deque(guide.way or (min(self._vocabulary.eos_ids),))
                token = token._replace(token=way.popleft(), logprob=None, top=(), n_allowed=1)
                draw, left, forced = None, deque(), way
            said.append(token)
            if token.forced:
                request.n_forced += 1
            else:
                n_sure = len(said)
                sample.n_sure = len(request.generated) + 1 - request.n_healed + self._job.begun
            reason = self._take(request, sample, token.token, draw, now)
        n_kept = max(0, n_read - 1 if reason is None else min(n_read, n_sure) - 1)
        said[:n_kept] = [token._replace(drafted=True) for token in said[:n_kept]]
        return Accepted(reason, tuple(said), n_kept)

    def _comes_too_late(self, request: Request, sample: _Sample, token: int) -> bool:
        """Whether `token` would take the text, which can be whole in time without it, too far from its end. It is then led out."""
        guide, n, n_least = sample.guide, len(request.generated) - request.n_healed, self._params.min_tokens
        if guide is None or sample.is_led_out or (token in self._ends and n >= n_least):
            return False
        is_inside = sample.seam is not None and sample.seam.n_inside((token,)) == 1
        if guide.keeps_a_way(token, min(request.limit - len(request.generated), self._limit - n + is_inside) - 1):
            return False
        if n + len(guide.way or ()) < n_least:
            guide.way = None  # it may not end here: from now on nothing is sure
            return False
        sample.is_led_out = True
        return True

    def _take(self, request: Request, sample: _Sample, token: int, draw: Draw | None, now: float) -> str | None:
        """One more token; the reason if it is the last."""
        if request.first_token is None:
            request.first_token = now
        request.generated.append(token)
        if sample.seam is not None and self._heals(request, sample, sample.seam, token, draw):
            if sample.guide is not None:
                sample.guide.take(token)
            return "length" if len(request.generated) == request.limit else None
        n = len(request.generated) - request.n_healed
        if sample.is_led_out and token in self._vocabulary.eos_ids:
            return "length"
        if token in self._ends and n > self._params.min_tokens:
            sample.matched = token
            return "stop"
        if self._params.logprobs and draw is not None:
            sample.logprobs.append(TokenLogprob(token, draw.logprob, draw.top))
        elif self._params.logprobs:
            sample.logprobs.append(TokenLogprob(token, None))
            request.targets[request.n_tokens - 2] = (token,)
        if sample.guide is not None:
            sample.guide.take(token)
        if self._push(sample, token, may_stop=n >= self._params.min_tokens):
            return "stop"
        if sample.guide is not None and sample.is_led_out and sample.guide.is_whole and n >= self._params.min_tokens:
            return "length"
        if sample.guide is not None and sample.guide.is_over:
            return "stop"
        return "length" if len(request.generated) == request.limit else None

    def _heals(self, request: Request, sample: _Sample, seam: Seam, token: int, draw: Draw | None) -> bool:
        """Take what `token` says of the prompt's end; whether that is all it says."""
        sample.lead, is_inside = seam.rest, seam.n_inside((token,)) == 1
        seam.take(token)
        if is_inside:
            request.n_healed += 1
            sample.lead = b""
            sample.healed.append(TokenLogprob(token, draw and draw.logprob, draw.top if draw else ()))
            if draw is None and (self._params.logprobs or self._params.prompt_logprobs_from is not None):
                request.targets[request.n_tokens - 2] = (token,)
        if not seam.rest:
            sample.seam = request.seam = None
            request.guide = sample.guide
            request.limit = min(request.limit, self._limit + request.n_healed)
        return is_inside

    def _push(self, sample: _Sample, token: int, *, may_stop: bool) -> bool:
        """Append what `token` says to the text; whether a stop is complete."""
        data = self._vocabulary.token_bytes(token)
        if not sample.text.n_tokens:
            data = data[len(sample.lead) :]
        return sample.text.push(data, may_stop=may_stop, is_hidden=token in self._hidden)

    def progress(self, request: Request) -> Answer | None:
        sample = self._samples[request.id]
        text, n_ids = sample.text.delta()
        ids = self._ids(request, sample.n_told, n_ids)
        logprobs = tuple(sample.logprobs[sample.n_told : n_ids])
        is_closed = sample.text.is_closed
        sample.n_told = max(sample.n_told, n_ids)
        if not (text or ids or (is_closed and sample.text.kept)):
            return None
        index = self._index[request.id]

        def tell(listener: GenListener) -> None:
            if logprobs and isinstance(listener, LogprobListener):
                listener.on_logprobs(index, logprobs)
            listener.on_progress(index, text, ids + self._anew(sample) if is_closed else ids)

        return to(self._listener, tell)

    def close(self, request: Request, reason: str) -> str:
        text = self._samples[request.id].text
        text.close()
        return "stop" if text.matched is not None and reason == "length" else reason

    def finished(self, request: Request, reason: str, now: float) -> Answer | None:
        self._samples[request.id].output = partial(self._output, request, reason, _usage(request, now, len(request.prompt)))
        outputs = [sample.output for sample in self._samples.values() if sample.output is not None]
        if len(outputs) < len(self._samples):
            return None

        def tell(listener: GenListener) -> None:
            try:
                answer = tuple(output() for output in outputs)
            except Exception as error:
                listener.on_error(error)
            else:
                listener.on_done(answer)

        return to(self._listener, tell)

    def _output(self, request: Request, reason: str, usage: Usage) -> GenOutput:
        sample = self._samples[request.id]
        text = sample.text
        matched = sample.matched if sample.matched is not None else text.matched
        ids, anew = self._ids(request, 0, text.n_ids), self._anew(sample)
        unknown = [TokenLogprob(entry.token, None) for entry in sample.logprobs[sample.n_sure :]]
        logprobs = (*sample.logprobs[: sample.n_sure], *unknown)[: text.n_ids]
        output = GenOutput(text.text, ids + anew, reason, matched, logprobs, usage, sample.is_complete)
        if self._job.heal and (output.ids or text.n_begun) and not sample.is_healing:
            healed, lead = tuple(entry.token for entry in sample.healed), sample.lead.decode()
            output = replace(output, healed=healed, lead=lead)
        if text.n_begun:
            output = replace(output, held=self._ids(request, text.n_ids, text.n_tokens))
        if (first := self._params.prompt_logprobs_from) is not None:
            healed_logprobs = sample.healed[max(0, first - len(request.prompt)) :] if output.healed is not None else ()
            output = replace(output, prompt_logprobs=(*self._prompt_logprobs, *healed_logprobs))
        return output

    def _ids(self, request: Request, start: int, end: int) -> tuple[int, ...]:
        """Of the tokens that were said as part of the text, from the `start`-th on."""
        n_begun, n_healed = self._job.begun, request.n_healed
        said = request.generated[max(0, start - n_begun) + n_healed : max(0, end - n_begun) + n_healed]
        return (*self._begun[start:end], *said)

    def _anew(self, sample: _Sample) -> tuple[int, ...]:
        """Tokens for the part of a token that a stop left."""
        text = sample.text
        if not text.kept:
            return ()
        return self._vocabulary.encode(("" if text.n_ids else sample.lead.decode()) + text.kept)

    def failed(self, error: Exception) -> Answer:
        return to(self._listener, lambda listener: listener.on_error(error))


class ScoreFamily(Family):
    """The branches of a trie of choices. The first carries the prompt; the others find it in the tree."""

    def __init__(self, job: ScoreJob, listener: ScoreListener, namespace: Namespace, now: float) -> None:
        self._job = job
        self._listener = listener
        self._logprobs: dict[tuple[tuple[int, ...], int], float] = {}
        found = branches(job.choices)
        ids = [RequestId(_request_ids.next()) for _ in found]
        last = len(job.prompt) - 1
        self.requests = tuple(
            Request(
                request,
                ids[0],
                "score",
                namespace,
                job.prompt + branch.tokens,
                submitted=now,
                n_shared=0 if request == ids[0] else last + 1,
                blocks=job.blocks,
                targets={last + i: wanted for i, wanted in enumerate(branch.wanted) if wanted},
            )
            for request, branch in zip(ids, found, strict=True)
        )
        self._open = set(ids)
        self._is_stopped = False

    def accept(self, request: Request, row: Row, output: RowOutput, now: float) -> Accepted:
        n_prompt = len(self._job.prompt)
        first = row.start + len(row.tokens) - len(row.targets)
        for position, (wanted, score) in enumerate(zip(row.targets, output.scores, strict=True), first):
            path = request.prompt[n_prompt : position + 1]
            for token, logprob in zip(wanted, score.logprobs, strict=True):
                self._logprobs[path, token] = logprob
        return _prompt_done(request, row)

    def progress(self, request: Request) -> Answer | None:
        return None

    def finished(self, request: Request, reason: str, now: float) -> Answer | None:
        self._open.discard(request.id)
        self._is_stopped |= reason == "abort"
        if self._open:
            return None
        if self._is_stopped:
            return self.failed(Stopped(f"request {self.id} was cancelled"))
        rows = tuple(
            tuple(TokenLogprob(token, self._logprobs[choice[:i], token]) for i, token in enumerate(choice)) for choice in self._job.choices
        )
        output = ScoreOutput(rows, self._total_usage(now))
        return to(self._listener, lambda listener: listener.on_done(output))

    def _total_usage(self, now: float) -> Usage:
        """Usage of all branches: the prompt counts once, whichever branches read it, and so do the
        required tokens of the choices.
        """
        lead = self.requests[0]
        return Usage(
            prompt_tokens=sum(len(request.prompt) - request.n_shared for request in self.requests),
            cached_tokens=sum(request.n_cached for request in self.requests),
            computed_tokens=sum(request.n_computed for request in self.requests),
            model_steps=max(request.n_steps for request in self.requests),
            preemptions=sum(request.n_preemptions for request in self.requests),
            queue_s=_since(lead.submitted, lead.admitted, now),
            first_token_s=now - lead.submitted,
            total_s=now - lead.submitted,
        )

    def failed(self, error: Exception) -> Answer:
        return to(self._listener, lambda listener: listener.on_error(error))


class WarmFamily(Family):
    """One prompt, as far as it fills whole pages: no more of it can be kept."""

    def __init__(self, job: WarmJob, listener: WarmListener, namespace: Namespace, page_size: int, now: float) -> None:
        self._n_prompt = len(job.prompt)
        self._listener = listener
        request = RequestId(_request_ids.next())
        kept = job.prompt[: self._n_prompt // page_size * page_size]
        self.requests = (Request(request, request, "warm", namespace, kept, blocks=job.blocks, submitted=now),)

    def accept(self, request: Request, row: Row, output: RowOutput, now: float) -> Accepted:
        return _prompt_done(request, row)

    def progress(self, request: Request) -> Answer | None:
        return None

    def finished(self, request: Request, reason: str, now: float) -> Answer | None:
        if reason == "abort":
            return self.failed(Stopped(f"request {self.id} was cancelled"))
        usage = _usage(request, now, self._n_prompt)
        return to(self._listener, lambda listener: listener.on_done(usage))

    def failed(self, error: Exception) -> Answer:
        return to(self._listener, lambda listener: listener.on_error(error))


class PinFamily(WarmFamily):
    """A warm whose prompt is pinned, under the number `handle`, when it is computed."""

    def __init__(
        self, job: WarmJob, listener: WarmListener, namespace: Namespace, page_size: int, now: float, handle: RequestId | None = None
    ) -> None:
        super().__init__(job, listener, namespace, page_size, now)
        self.handle = handle or self.id
