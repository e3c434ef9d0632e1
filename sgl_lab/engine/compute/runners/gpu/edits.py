"""The sampling requests of a step's rows, as the sampling kernels read them: edits of logits, and
draws.

`kernels.gpu.sampling_requests` defines their layout; `sampler`, the torch twin of those kernels,
defines the parameters.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import numpy.typing as npt

from .....contracts.errors import InvariantBroken
from ....plan import Sampling
from ...kernels.gpu.sampling_requests import SamplingRequests
from ..sampler import uniform

MANY = 1 << 30
"""tokens: a larger top_k means no more, and would not fit"""


@dataclass(frozen=True, slots=True)
class Edits:
    """For all rows: the effect of penalties, biases and bans on single tokens."""

    ends: npt.NDArray[np.int32]
    tokens: npt.NDArray[np.int32]
    factors: npt.NDArray[np.float32]
    penalties: npt.NDArray[np.float32]
    biases: npt.NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.tokens)


def is_plain(sampling: Sampling) -> bool:
    """Whether nothing is masked or edited before the draw."""
    params = sampling.params
    return not (sampling.masks or sampling.banned or params.logit_bias or params.is_penalised)


def edits_of(samplings: Sequence[Sampling], n_vocab: int) -> Edits:
    rows = [_edits(sampling, n_vocab) for sampling in samplings]
    tokens = np.fromiter(chain.from_iterable(row[0] for row in rows), np.int32)
    factors, penalties, biases = (np.fromiter(chain.from_iterable(row[i] for row in rows), np.float32) for i in (1, 2, 3))
    return Edits(np.cumsum([len(row[0]) for row in rows], dtype=np.int32), tokens, factors, penalties, biases)


def _edits(sampling: Sampling, n_vocab: int) -> tuple[Sequence[int], Sequence[float], Sequence[float], Sequence[float]]:
    """(tokens, factors, penalties, biases)"""
    params = sampling.params
    biases = {token: bias for token, bias in params.logit_bias if 0 <= token < n_vocab} | dict.fromkeys(sampling.banned, -math.inf)
    counts = Counter(chain(sampling.generated, sampling.drafted)) if params.frequency_penalty or params.presence_penalty else {}
    seen = {*sampling.prompt, *sampling.generated, *sampling.drafted} if params.repetition_penalty != 1 else set()
    tokens = list(seen.union(counts, biases))
    return (
        tokens,
        [params.repetition_penalty if token in seen else 1.0 for token in tokens],
        [params.frequency_penalty * counts[token] + params.presence_penalty if token in counts else 0.0 for token in tokens],
        [biases.get(token, 0.0) for token in tokens],
    )


def write(requests: SamplingRequests, samplings: Sequence[Sampling], edits: Edits) -> int:
    """Write the requests of `samplings` into `requests`, on the host and with room for them; rows
    that are left over ask for nothing.

    There is at least one of `samplings`. Returns how many of the masks are in use.
    """
    rows: list[tuple[float, float, float, float, int, int]] = []
    masks = requests.masks.numpy()
    n_words, n_masks = masks.shape[-1], 0
    for sampling in samplings:
        params, mask_of = sampling.params, 0
        if sampling.mask is not None:
            words = np.frombuffer(sampling.mask, np.int32)
            if len(words) < n_words:
                raise InvariantBroken(f"a mask of {len(words)} words where {n_words} are needed")
            masks[n_masks] = words[:n_words]
            n_masks += 1
            mask_of = n_masks
        point = uniform(sampling.seed, sampling.position) if params.temperature > 0 else 0.0
        rows.append((point, params.top_p, params.temperature, params.min_p, min(params.top_k or 0, MANY), mask_of))
    sections = requests.points, requests.top_p, requests.temperature, requests.min_p, requests.top_k, requests.mask_of
    for section, values in zip(sections, zip(*rows, strict=True), strict=True):
        numbers = section.numpy()
        numbers[: len(rows)] = values
        numbers[len(rows) :] = 0
    ends = requests.edit_ends.numpy()
    ends[: len(rows)] = edits.ends
    ends[len(rows) :] = len(edits)
    for section, listed in (
        (requests.tokens, edits.tokens), (requests.factors, edits.factors),
        (requests.penalties, edits.penalties), (requests.biases, edits.biases),
    ):  # fmt: skip
        section.numpy()[: len(edits)] = listed
    return n_masks
