"""One sample of a gen: its tokens, its text, and its end."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TypeVar

from ...contracts.events import Sample
from ...contracts.params import SamplingParams
from ...contracts.patterns.bounded import OverBound
from ...contracts.port import GenJob, GenOutput, TokenLogprob, Usage
from ...grammar.matcher import Matcher
from ..plan import Draw, Row, RowOutput
from ..text.seam import Seam
from ..text.stream import TextStream
from .group import Accepted, Following, Vocabulary, usage_of
from .scheduling.request import Request

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class GenTerms:
    """The common data of the samples of one gen."""

    job: GenJob
    limit: int
    """tokens of text at most"""
    vocabulary: Vocabulary
    ends: frozenset[int]
    """tokens that end the text"""
    hidden: frozenset[int]
    """special tokens that are no characters of the text"""
    prompt_logprobs: list[TokenLogprob] = field(default_factory=list)
    """filled in by the sample whose rows score the prompt"""

    @property
    def params(self) -> SamplingParams:
        return self.job.params

    @property
    def begun(self) -> tuple[int, ...]:
        """The prompt's last tokens, if the text begins with them."""
        return self.job.prompt[len(self.job.prompt) - self.job.begun :]


def _bounded(work: Callable[[], T]) -> Generator[None, None, T]:
    while True:
        try:
            return work()
        except OverBound:
            yield


def _accepted(reason: str | None, samples: list[Sample], n_kept: int) -> Accepted:
    if n_kept <= 0:
        return Accepted(reason, tuple(samples))
    samples[:n_kept] = [token._replace(drafted=True) for token in samples[:n_kept]]
    return Accepted(reason, tuple(samples), n_kept)


class GenSample:
    """Processes the results of its request's rows."""

    def __init__(self, terms: GenTerms, request: Request, matcher: Matcher | None, seam: Seam | None) -> None:
        params = terms.params
        self.terms = terms
        self.request = request
        self.matcher = matcher
        self._seam = seam
        """None as soon as the prompt's end is drawn again"""
        self._healed: list[TokenLogprob] = []
        """tokens that spell only the prompt's end again"""
        self._lead = terms.job.lead.encode()
        """the part of it that the first token of the text spells too"""
        self._is_completing = False
        """it is brought to its end along the completion path, since tokens run out"""
        self.text = TextStream(params.stop, params.stop_regex, whole=terms.job.whole)
        self._logprobs: list[TokenLogprob] = []
        self._n_sure = 0
        """tokens of the text up to the last drawn one: of those forced after it nothing is known at
        the end
        """
        self._matched: str | int | None = None
        self._reason: str | None = None
        """of an end that came before the prompt was scored"""
        self._n_notified = 0
        self.output: Callable[[], GenOutput] | None = None
        """puts it together, once the sample is over"""
        for token in terms.begun:
            self._push(token, may_stop=False)
            if params.logprobs:
                self._logprobs.append(TokenLogprob(token, None))

    # ------------------------------------------------------------ tokens

    def begin(self, now: float) -> Following:
        """The tokens that are forced before anything is drawn."""
        request = self.request
        if request.limit == 0 or (self.matcher is not None and self.matcher.is_over):
            begun = Accepted("stop" if request.limit else "length")
        else:
            begun = yield from self._follow((), now)
        if begun.reason is None:
            return begun
        request.targets = {position: token for position, token in request.targets.items() if position < len(request.prompt) - 1}
        if not request.targets:
            return begun
        self._reason = begun.reason  # the prompt is still to be scored
        request.limit = len(request.generated)
        return begun._replace(reason=None)

    def accept(self, row: Row, output: RowOutput, now: float) -> Accepted:
        if row.targets:
            self._score(row, output)
        if self._reason is not None:
            return Accepted(None if self.request.targets else self._reason)
        return self._extend(output.draws, now)

    def follow(self, row: Row, output: RowOutput, now: float) -> Following:
        """As `accept`, along the constraint."""
        if self.matcher is None or self._reason is not None:
            return self.accept(row, output, now)
        self._score(row, output)
        return (yield from self._follow(output.draws, now))

    def _score(self, row: Row, output: RowOutput) -> None:
        """Logprobs of tokens that were not drawn: of the prompt, and forced."""
        n_prompt = len(self.request.prompt)
        first = row.start + len(row.tokens) - len(row.targets)
        for position, (wanted, score) in enumerate(zip(row.targets, output.scores, strict=True), first):
            if wanted:
                del self.request.targets[position]
                i = position + 1 - n_prompt
                scored = TokenLogprob(wanted[0], score.logprobs[0], score.top)
                if i < 0:
                    self.terms.prompt_logprobs[i] = scored
                elif i < len(self._healed):
                    self._healed[i] = scored
                else:
                    self._logprobs[i - len(self._healed) + self.terms.job.begun] = scored

    def _extend(self, draws: Sequence[Draw], now: float) -> Accepted:
        """Process the sampled tokens of a text without a constraint."""
        request, masks = self.request, self.request.matcher
        samples: list[Sample] = []
        reason = None
        for n_read, (token, logprob, top) in enumerate(draws):
            samples.append(Sample(request.id, token, logprob, top, None if masks is None else masks.n_allowed[n_read], False))
            self._n_sure = len(request.generated) + 1 - request.n_healed + self.terms.job.begun
            reason = self._take(token, draws[n_read], now)
            if reason is not None:
                break
        return _accepted(reason, samples, len(samples) - 1)

    def _follow(self, draws: Sequence[Draw], now: float) -> Following:
        """Process the sampled tokens one after the other, and after each the tokens that it forces.

        A forced token replaces the accepted draft at its position. The first token after which the
        text could not be completed in time is replaced by the completion path, which ends the text.
        """
        request, matcher, masks = self.request, self.matcher, self.request.matcher
        left, forced = deque(draws), deque[int]()
        samples: list[Sample] = []
        n_read = n_sure = 0  # the latter up to the last drawn one
        reason = None
        while reason is None:
            if matcher is not None and not forced:
                forced.extend((yield from _bounded(matcher.forced)))
            if not forced and not left:
                break
            draw = left.popleft() if left else None
            n_read += draw is not None
            if forced:
                token = Sample(request.id, forced.popleft(), None, (), 1, True)
            elif draw is not None:
                n_allowed = None if masks is None else masks.n_allowed[n_read - 1]
                token = Sample(request.id, draw.token, draw.logprob, draw.top, n_allowed, False)
            if matcher is not None and (yield from _bounded(partial(self._leaves_no_time, token.token))):
                path = deque(matcher.completion or (min(self.terms.vocabulary.eos_ids),))
                token = token._replace(token=path.popleft(), logprob=None, top=(), n_allowed=1)
                draw, left, forced = None, deque(), path
            if matcher is not None and token.token not in self.terms.ends:
                yield from _bounded(partial(matcher.reach, token.token))
            samples.append(token)
            if token.forced:
                request.n_forced += 1
            else:
                n_sure = len(samples)
                self._n_sure = len(request.generated) + 1 - request.n_healed + self.terms.job.begun
            reason = self._take(token.token, draw, now)
        return _accepted(reason, samples, n_read - 1 if reason is None else min(n_read, n_sure) - 1)

    def _leaves_no_time(self, token: int) -> bool:
        """Whether the text can be complete in time without `token` and cannot with it. From then on
        it is completing.
        """
        matcher, request, least = self.matcher, self.request, self.terms.params.min_tokens
        n = len(request.generated) - request.n_healed
        if matcher is None or self._is_completing or (token in self.terms.ends and n >= least):
            return False
        is_inside = self._seam is not None and self._seam.n_inside((token,)) == 1
        if matcher.keeps_completion(token, min(request.limit - len(request.generated), self.terms.limit - n + is_inside) - 1):
            return False
        if n + len(matcher.completion or ()) < least:
            matcher.completion = None  # it may not end here: from now on nothing is sure
            return False
        self._is_completing = True
        return True

    def _take(self, token: int, draw: Draw | None, now: float) -> str | None:
        """One more token; the reason if it is the last."""
        request, params, matcher = self.request, self.terms.params, self.matcher
        if request.first_token is None:
            request.first_token = now
        request.generated.append(token)
        if self._seam is not None and self._heals(self._seam, token, draw):
            if matcher is not None:
                matcher.take(token)
            return "length" if len(request.generated) == request.limit else None
        n = len(request.generated) - request.n_healed
        if self._is_completing and token in self.terms.vocabulary.eos_ids:
            return "length"
        if token in self.terms.ends and n > params.min_tokens:
            self._matched = token
            return "stop"
        if params.logprobs and draw is not None:
            self._logprobs.append(TokenLogprob(token, draw.logprob, draw.top))
        elif params.logprobs:
            self._logprobs.append(TokenLogprob(token, None))
            request.targets[request.n_tokens - 2] = (token,)
        if matcher is not None:
            matcher.take(token)
        if self._push(token, may_stop=n >= params.min_tokens):
            return "stop"
        if matcher is not None and self._is_completing and matcher.is_whole and n >= params.min_tokens:
            return "length"
        if matcher is not None and matcher.is_over:
            return "stop"
        return "length" if len(request.generated) == request.limit else None

    def _heals(self, seam: Seam, token: int, draw: Draw | None) -> bool:
        """Remove the part of the prompt's end that `token` spells. Returns whether the token spells
        nothing more.
        """
        request, params = self.request, self.terms.params
        self._lead, is_inside = seam.rest, seam.n_inside((token,)) == 1
        seam.take(token)
        if is_inside:
            request.n_healed += 1
            self._lead = b""
            self._healed.append(TokenLogprob(token, draw and draw.logprob, draw.top if draw else ()))
            if draw is None and (params.logprobs or params.prompt_logprobs_from is not None):
                request.targets[request.n_tokens - 2] = (token,)
        if not seam.rest:
            self._seam = request.seam = None
            request.matcher = self.matcher
            request.limit = min(request.limit, self.terms.limit + request.n_healed)
        return is_inside

    def _push(self, token: int, *, may_stop: bool) -> bool:
        """Append the text of `token`. Returns whether a stop is complete."""
        data = self.terms.vocabulary.token_bytes(token)
        if not self.text.n_tokens:
            data = data[len(self._lead) :]
        return self.text.push(data, may_stop=may_stop, is_hidden=token in self.terms.hidden)

    # ------------------------------------------------------------ answers

    def delta(self) -> tuple[str, tuple[int, ...], tuple[TokenLogprob, ...]]:
        """Text, ids and logprobs that the listener may have and was not notified of."""
        text, n_ids = self.text.delta()
        ids = self._ids(self._n_notified, n_ids)
        logprobs = tuple(self._logprobs[self._n_notified : n_ids])
        self._n_notified = max(self._n_notified, n_ids)
        return text, ids, logprobs

    def finish(self, reason: str, now: float) -> None:
        """The request is over: `output` can be made."""
        self.output = partial(self._output, reason, usage_of(self.request, now, len(self.request.prompt)))

    def _output(self, reason: str, usage: Usage) -> GenOutput:
        text, request, terms = self.text, self.request, self.terms
        matched = self._matched if self._matched is not None else text.matched
        ids, cut_ids = self._ids(0, text.n_ids), self.cut_ids()
        unknown = [TokenLogprob(entry.token, None) for entry in self._logprobs[self._n_sure :]]
        logprobs = (*self._logprobs[: self._n_sure], *unknown)[: text.n_ids]
        output = GenOutput(text.text, ids + cut_ids, reason, matched, logprobs, usage, self._is_complete)
        if terms.job.heal and (output.ids or text.n_begun) and self._seam is None:
            output = replace(output, healed=tuple(entry.token for entry in self._healed), lead=self._lead.decode())
        if text.n_begun:
            output = replace(output, held=self._ids(text.n_tokens - text.n_begun, text.n_tokens))
        if (first := terms.params.prompt_logprobs_from) is not None:
            healed_logprobs = self._healed[max(0, first - len(request.prompt)) :] if output.healed is not None else ()
            output = replace(output, prompt_logprobs=(*terms.prompt_logprobs, *healed_logprobs))
        return output

    @property
    def _is_complete(self) -> bool | None:
        """Whether the text is all that the constraint wants; None without a constraint."""
        if self.matcher is None:
            return None
        if self.text.matched is None and not self.text.n_begun:
            return self.matcher.is_whole
        return self.matcher.is_text(self.text.text)

    def _ids(self, start: int, end: int) -> tuple[int, ...]:
        """Of the tokens of the text, those from the `start`-th to before the `end`-th."""
        n_begun, n_healed = self.terms.job.begun, self.request.n_healed
        generated = self.request.generated[max(0, start - n_begun) + n_healed : max(0, end - n_begun) + n_healed]
        return (*self.terms.begun[start:end], *generated)

    def cut_ids(self) -> tuple[int, ...]:
        """Tokens for the part of a token that a stop left."""
        text = self.text
        if not text.kept:
            return ()
        return self.terms.vocabulary.encode(("" if text.n_ids else self._lead.decode()) + text.kept)
