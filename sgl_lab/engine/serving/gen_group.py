"""A gen as a request group: n samples of one prompt."""

from __future__ import annotations

import hashlib
from dataclasses import replace

from ...contracts.ids import Namespace
from ...contracts.port import GenJob, GenListener, TokenLogprob
from ...grammar.grammars import Grammars
from ..plan import Row, RowOutput
from ..text.seam import Seam, Spellings
from .gen_sample import GenSample, GenTerms
from .group import Accepted, Answer, Following, RequestGroup, Vocabulary, new_request_id, to
from .scheduling.request import Request


def sample_seed(seed: int, index: int) -> int:
    """Seed of the index-th sample: the job's own for the first, unrelated ones for the others."""
    if index == 0:
        return seed & (2**63 - 1)
    return int.from_bytes(hashlib.blake2b(f"{seed}:{index}".encode(), digest_size=8).digest(), "big") >> 1


class GenGroup(RequestGroup):
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
        self._listener = listener
        self.follows_pattern = bool(params.stop_regex) or params.constraint is not None
        self.is_bounded = not params.stop_regex
        n_prompt = len(job.prompt) - job.heal
        prompt, end = job.prompt[:n_prompt], job.prompt[n_prompt:]
        rest = spellings.bytes_of(end) if spellings else b""
        ignores_eos = params.ignore_eos and params.constraint is None
        ends = frozenset(params.stop_token_ids) | (frozenset() if ignores_eos else vocabulary.eos_ids)
        hidden = frozenset(vocabulary.special_ids | vocabulary.eos_ids) if params.skip_special_tokens else frozenset[int]()
        terms = GenTerms(job, limit, vocabulary, ends, hidden)
        ids = [new_request_id() for _ in range(params.n)]
        constraint = params.constraint and replace(params.constraint, seam=rest.decode())
        matchers = [None if constraint is None else grammars.start(constraint, limit, begun=terms.begun) for _ in ids]
        seams = [Seam(spellings, end, vocabulary.n_vocab) if spellings and rest else None for _ in ids]
        self.requests = tuple(
            Request(
                request,
                ids[0],
                "gen",
                namespace,
                prompt,
                submitted=now,
                limit=max(min(limit + len(rest), most + len(end)), 1) if rest else limit,
                params=params,
                seed=sample_seed(seed, index),
                banned_early=tuple(sorted(ends)),
                respelled=end,
                matcher=matcher or seam,
                seam=seam,
                blocks=job.blocks,
            )
            for index, (request, matcher, seam) in enumerate(zip(ids, matchers, seams, strict=True))
        )
        samples = (GenSample(terms, *of_one) for of_one in zip(self.requests, matchers, seams, strict=True))
        self._samples = {sample.request.id: sample for sample in samples}
        self._index = {request: index for index, request in enumerate(ids)}
        self._silent = set(ids)
        """requests without progress yet"""
        first = params.prompt_logprobs_from
        scored = range(n_prompt if first is None else min(first, n_prompt), n_prompt)
        # The first sample computes them for all; a position of a block has no logprob.
        self.requests[0].targets = {i - 1: (job.prompt[i],) for i in scored if i and job.prompt[i] >= 0}
        terms.prompt_logprobs.extend(TokenLogprob(job.prompt[i], None) for i in scored)

    def begin(self, request: Request, now: float) -> Following:
        return self._samples[request.id].begin(now)

    def accept(self, request: Request, row: Row, output: RowOutput, now: float) -> Accepted:
        return self._samples[request.id].accept(row, output, now)

    def follow(self, request: Request, row: Row, output: RowOutput, now: float) -> Following:
        return self._samples[request.id].follow(row, output, now)

    def progress(self, request: Request) -> Answer | None:
        sample, index = self._samples[request.id], self._index[request.id]
        text, ids, logprobs = sample.delta()
        is_closed = sample.text.is_closed
        if not (text or ids or (is_closed and sample.text.kept)):
            return None
        n_cached = request.n_cached if request.id in self._silent else None
        self._silent.discard(request.id)

        def notify(listener: GenListener) -> None:
            if n_cached is not None and (on_cached := getattr(listener, "on_cached", None)) is not None:
                on_cached(index, n_cached)
            if logprobs and (on_logprobs := getattr(listener, "on_logprobs", None)) is not None:
                on_logprobs(index, logprobs)
            listener.on_progress(index, text, ids + sample.cut_ids() if is_closed else ids)

        return to(self._listener, notify)

    def close(self, request: Request, reason: str) -> str:
        text = self._samples[request.id].text
        text.close()
        return "stop" if text.matched is not None and reason == "length" else reason

    def finished(self, request: Request, reason: str, now: float) -> Answer | None:
        self._samples[request.id].finish(reason, now)
        outputs = [sample.output for sample in self._samples.values() if sample.output is not None]
        if len(outputs) < len(self._samples):
            return None

        def notify(listener: GenListener) -> None:
            try:
                answer = tuple(output() for output in outputs)
            except Exception as error:
                listener.on_error(error)
            else:
                listener.on_done(answer)

        return to(self._listener, notify)

    def failed(self, error: Exception) -> Answer:
        return to(self._listener, lambda listener: listener.on_error(error))
