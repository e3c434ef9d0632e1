"""The sampling requests of a step, as the native side reads and writes them: one for each draw,
then one for each scored position.

Contexts, biases and masks are passed as addresses. `sampler`, the torch twin, defines the
parameters.
"""

from __future__ import annotations

import ctypes
import math
from array import array
from collections.abc import Iterator, Sequence
from itertools import chain, islice

import numpy as np

from ....contracts.errors import InvariantBroken, RequestFailed
from ...plan import Draw, Sampling, Score, Target, Top
from ..kernels.native import build
from .sampler import failure, uniform


class SamplingRequests:
    """`draws` and `scored` go by a token's index in the step. As long as `native` is in use, this
    object must be kept.
    """

    def __init__(self, draws: Sequence[tuple[int, Sampling]], scored: Sequence[tuple[int, Target]], n_vocab: int) -> None:
        self._n_vocab = n_vocab
        self._samplings = [sampling for _, sampling in draws]
        self._targets = [target for _, target in scored]
        self._candidates = array("i", chain.from_iterable(candidates for candidates, _ in self._targets))
        self._scores = array("f", bytes(4 * len(self._candidates)))
        self._tokens: dict[int, array[int]] = {}
        """contexts for penalties, by the identity of the object that they were copied from"""
        self._biases: dict[tuple[int, tuple[int, ...]], ctypes.Array[build.Bias]] = {}
        n = len(draws) + sum(1 for candidates, _ in self._targets if candidates)
        self._requests = (build.SamplingRequest * n)()
        self._choices = (build.Choice * n)()
        requests = iter(self._requests)
        for (token, sampling), request in zip(draws, requests, strict=False):
            request.token = token
            self._describe(request, sampling)
        ids, score = self._candidates.buffer_info()[0], self._scores.buffer_info()[0]
        for (token, (candidates, n_top)), request in zip(((token, target) for token, target in scored if target[0]), requests, strict=True):
            request.token = token
            request.n_top = min(n_top, n_vocab)
            request.candidates = build.Tokens(ids, len(candidates))
            request.scores = score
            ids += 4 * len(candidates)
            score += 4 * len(candidates)
        self.native = build.SamplingRequests(n, ctypes.addressof(self._requests), ctypes.addressof(self._choices))

    def _describe(self, request: build.SamplingRequest, sampling: Sampling) -> None:
        params = sampling.params
        request.n_top = min(params.top_logprobs, self._n_vocab)
        if params.temperature > 0:
            request.temperature = params.temperature
            request.uniform = uniform(sampling.seed, sampling.position)
            request.top_k = min(params.top_k or self._n_vocab, self._n_vocab)
            request.top_p = params.top_p
            request.min_p = params.min_p
        if params.is_penalised:
            request.repetition = params.repetition_penalty
            request.frequency = params.frequency_penalty
            request.presence = params.presence_penalty
            request.prompt = self._context(sampling.prompt if params.repetition_penalty != 1 else ())
            request.generated = self._context(sampling.generated)
            request.drafted = self._context(sampling.drafted)
        if params.logit_bias or sampling.banned:
            biases = self._biases_of(sampling)
            request.bias = ctypes.addressof(biases)
            request.n_bias = len(biases)
        if sampling.mask is not None:
            mask = np.frombuffer(sampling.mask, np.uint32)
            if len(mask) * 32 < self._n_vocab:
                raise InvariantBroken(f"a mask of {len(mask)} words for {self._n_vocab} tokens")
            request.mask = mask.ctypes.data

    def _biases_of(self, sampling: Sampling) -> ctypes.Array[build.Bias]:
        key = id(sampling.params), sampling.banned
        biases = self._biases.get(key)
        if biases is None:
            added = dict(sampling.params.logit_bias) | dict.fromkeys(sampling.banned, -math.inf)
            known = [build.Bias(token, add) for token, add in added.items() if 0 <= token < self._n_vocab]
            biases = self._biases[key] = (build.Bias * len(known))(*known)
        return biases

    def _context(self, tokens: Sequence[int]) -> build.Tokens:
        copy = self._tokens.get(id(tokens))
        if copy is None:
            copy = self._tokens[id(tokens)] = array("i", tokens)
        return build.Tokens(*copy.buffer_info())

    def draws(self) -> list[Draw | RequestFailed]:
        return [self._draw(*read) for read in zip(self._samplings, self._choices, strict=False)]

    def _draw(self, sampling: Sampling, choice: build.Choice) -> Draw | RequestFailed:
        if not choice.is_drawn:
            return failure(sampling, is_finite=math.isfinite(choice.log_total))
        return Draw(choice.token, choice.logprob, self._top(choice, sampling.params.top_logprobs))

    def _top(self, choice: build.Choice, n: int) -> Top:
        n = min(n, self._n_vocab)
        return tuple(zip(choice.top_tokens[:n], choice.top_logprobs[:n], strict=True)) if n else ()

    def scores(self) -> Iterator[Score]:
        """The requested results of each scored position; nothing is computed where there are none."""
        left, choices = iter(self._scores), iter(self._choices[len(self._samplings) :])
        for candidates, n_top in self._targets:
            if candidates:
                yield Score(tuple(islice(left, len(candidates))), self._top(next(choices), n_top))
            else:
                yield Score(())

    def seconds(self, n_threads: int) -> float:
        """How long so many threads drew."""
        n = len(self._samplings)
        spent: float = sum(choice.seconds for choice in self._choices[:n])
        return spent / max(1, min(n_threads, n))
