"""Draws on the device against the plain twin of the same kernels and against the sampler that says what the parameters mean."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sgl_lab.contracts.errors import RequestFailed
from sgl_lab.contracts.params import SamplingParams
from sgl_lab.engine.compute.kernels.gpu.sampling import sample, sample_twin
from sgl_lab.engine.compute.kernels.gpu.sampling_requests import Drawn, SamplingRequests, Status
from sgl_lab.engine.compute.runners import sampler
from sgl_lab.engine.compute.runners.gpu.edits import edits_of, write
from sgl_lab.engine.plan import Sampling

VOCAB = 9001
"""three tiles, the last one with a single token in its last word"""


def bitmask(allowed: Iterable[int], n_vocab: int = VOCAB) -> memoryview:
    bits = np.zeros(-(-n_vocab // 32) * 32, np.uint8)
    bits[list(allowed)] = 1
    return np.packbits(bits, bitorder="little").view(np.uint32).data


def asked(
    *, position: int = 0, prompt: Sequence[int] = (), generated: Sequence[int] = (), banned: Any = (),
    allowed: Iterable[int] | None = None, n_vocab: int = VOCAB, **params: Any,
) -> Sampling:  # fmt: skip
    if banned:
        params["min_tokens"] = 10**6
    masks = () if allowed is None else (bitmask(allowed, n_vocab),)
    return Sampling(SamplingParams(**{"max_tokens": None, **params}), 7, position, prompt, generated, tuple(banned), masks=masks)


def wanted(samplings: Sequence[Sampling], n_vocab: int, device: torch.device, n_rows: int | None = None) -> SamplingRequests:
    """As a runner hands it over: filled on the host, its bytes copied to the device."""
    edits = edits_of(samplings, n_vocab)
    sizes = {
        "n_rows": n_rows or len(samplings),
        "n_vocab": n_vocab,
        "n_edits": len(edits),
        "n_masks": sum(bool(s.masks) for s in samplings),
    }
    host = torch.empty(SamplingRequests.n_bytes(**sizes), dtype=torch.uint8)
    write(SamplingRequests.over(host, **sizes), samplings, edits)
    return SamplingRequests.over(host.to(device), **sizes)


def rows(n: int, n_vocab: int = VOCAB, *, seed: int = 0, spread: float = 3.0) -> Tensor:
    return torch.randn(n, n_vocab, generator=torch.Generator().manual_seed(seed)) * spread


def drawn(logits: Tensor, samplings: Sequence[Sampling], device: torch.device) -> Drawn:
    """Of the kernels, which were seen to agree with their twin and with the sampler."""
    requests = wanted(samplings, logits.shape[-1], device)
    on_device = logits.to(device)
    ours, twin = sample(on_device, requests), sample_twin(on_device, requests)
    assert torch.equal(on_device.cpu(), logits) or logits.isnan().any(), "the logits are left as they are"
    assert ours.statuses.tolist() == twin.statuses.tolist()
    finite = ours.statuses != Status.NOT_FINITE
    torch.testing.assert_close(ours.totals[finite], twin.totals[finite])
    for i, (draw, sampling) in enumerate(zip(sampler.sample(logits, samplings), samplings, strict=True)):
        if isinstance(draw, RequestFailed):
            assert (int(ours.tokens[i]), ours.statuses[i] != Status.DRAWN) == (0, True)
            continue
        assert ours.statuses[i] == Status.DRAWN
        token = int(ours.tokens[i])
        assert float(ours.logprobs[i]) == pytest.approx(float(logits[i].double().log_softmax(-1)[token]), abs=1e-5)
        for other in {draw.token, int(twin.tokens[i])} - {token}:
            assert on_the_border(logits[i], sampling, token, other), (i, token, other)
    return ours


def on_the_border(logits: Tensor, sampling: Sampling, token: int, other: int) -> bool:
    """Whether the point of the draw is so near to the border between two tokens that rounding may decide."""
    params = sampling.params
    if params.temperature == 0:
        return False
    shaped = sampler._shaped(logits[None], [sampling])
    probabilities = ((shaped - shaped.amax()) / max(params.temperature, 1e-30)).softmax(-1)
    floor = sampler._floor(probabilities, [sampling])
    kept = probabilities if floor is None else probabilities.where(probabilities >= floor, 0)
    cumulative = kept[0].double().cumsum(0) / kept.double().sum()
    point = sampler.uniform(sampling.seed, sampling.position)
    first, second = sorted((token, other))
    return bool(abs(cumulative[first] - point) < 1e-6) and float(cumulative[second - 1] - cumulative[first]) < 1e-6


def test_rows_of_every_kind_beside_each_other_are_drawn_as_the_sampler_draws_them(device) -> None:
    few = range(3, VOCAB, 7)
    kinds: list[dict[str, Any]] = [
        {"temperature": 0},
        {"temperature": 1.0},
        {"temperature": 0.7, "top_k": 40},
        {"temperature": 1.3, "top_p": 0.9},
        {"temperature": 1.0, "min_p": 0.05},
        {"temperature": 0.9, "top_k": 50, "top_p": 0.8, "min_p": 0.01},
        {"temperature": 0, "generated": (5, 5, 8, 4096, 9000), "frequency_penalty": 1.5, "presence_penalty": -0.5},
        {"temperature": 1.0, "prompt": tuple(range(1500)), "generated": (8999,), "repetition_penalty": 1.3, "frequency_penalty": 0.3},
        {"temperature": 0, "allowed": few},
        {"temperature": 0.8, "allowed": few, "top_p": 0.95, "logit_bias": ((3, 2.5), (11, 50.0), (10**6, 1.0)), "banned": (10, 17)},
        {"temperature": 2.0, "top_k": 1},
        {"temperature": 1e-20, "top_p": 0.5},
        {"temperature": 1.0, "allowed": [9000], "top_k": 20},
        {"temperature": 3.0, "top_k": 3000, "top_p": 0.999},
    ]
    samplings = [asked(position=i, **kind) for i, kind in enumerate(kinds)]
    found = drawn(rows(len(kinds)), samplings, device)
    assert found.tokens[8] % 7 == 3
    assert found.tokens[12] == 9000


@pytest.mark.parametrize("n_vocab", [1, 31, 4096, 4097])
def test_any_size_of_vocabulary_is_drawn_from(device, n_vocab) -> None:
    kinds = [{"temperature": 0}, {}, {"top_k": 5}, {"top_p": 0.5}, {"allowed": [n_vocab - 1]}]
    found = drawn(rows(5, n_vocab), [asked(position=i, n_vocab=n_vocab, **kind) for i, kind in enumerate(kinds)], device)
    assert found.tokens[4] == n_vocab - 1


def test_tokens_that_tie_with_the_floor_stay(device) -> None:
    """Ten tokens of one probability: whatever of them is kept, all are."""
    truncations: list[dict[str, Any]] = [{"top_k": 3}, {"top_p": 0.31}, {"min_p": 0.9}, {"top_k": 4, "top_p": 0.6}]
    best = torch.arange(10) * 900
    logits = torch.full((12, VOCAB), -5.0)
    logits[:, best] = 8.0
    found = drawn(logits, [asked(position=i, **truncations[i // 3]) for i in range(12)], device).tokens.tolist()
    assert all(len(set(found[i : i + 3])) > 1 for i in range(0, 12, 3))
    assert set(found) <= set(best.tolist())


def test_truncation_keeps_what_it_says_of_a_flat_row(device) -> None:
    """The whole row is near the floor: no two tokens can be ordered early."""
    logits = torch.linspace(0, 1e-3, VOCAB).expand(2, -1).contiguous()
    halves: list[dict[str, Any]] = [{"top_p": 0.5}, {"top_k": VOCAB // 2}]
    found = drawn(logits, [asked(position=i, **half) for i, half in enumerate(halves)], device)
    assert min(found.tokens.tolist()) >= VOCAB // 2 - 3


def test_the_best_token_is_the_lowest_of_equally_good_ones(device) -> None:
    logits = rows(2)
    logits[0, [77, 5000, 8999]] = logits[1, [4095, 4096]] = 50.0
    assert drawn(logits, [asked(temperature=0)] * 2, device).tokens.tolist() == [77, 4095]


@pytest.mark.filterwarnings("ignore:(invalid value|divide by zero) encountered")
def test_a_row_that_cannot_be_drawn_fails_alone_and_says_why(device) -> None:
    logits = rows(6)
    logits[0, 8000], logits[1, 3], logits[2] = torch.nan, torch.inf, -torch.inf
    kinds: list[dict[str, Any]] = [{"top_p": 0.9}, {}, {"temperature": 0}, {"allowed": ()}, {"allowed": (1, 2), "banned": (1, 2)}, {}]
    found = drawn(logits, [asked(position=i, **kind) for i, kind in enumerate(kinds)], device)
    assert found.statuses.tolist() == [Status.NOT_FINITE] * 3 + [Status.NOTHING_ALLOWED] * 2 + [Status.DRAWN]


def test_a_draw_does_not_depend_on_the_rows_beside_it(device) -> None:
    logits, samplings = rows(4), [asked(position=i, top_p=0.9, allowed=range(i, VOCAB, 2)) for i in range(4)]
    together = sample(logits.to(device), wanted(samplings, VOCAB, device))
    for i, sampling in enumerate(samplings):
        alone = sample(logits[i : i + 1].to(device), wanted([sampling], VOCAB, device))
        assert torch.equal(alone.packed[0], together.packed[i])


def test_rows_that_fill_up_a_batch_are_greedy_and_harmless(device) -> None:
    logits = rows(3)
    found = sample(logits.to(device), wanted([asked(top_k=3)], VOCAB, device, n_rows=3))
    assert found.tokens[1:].tolist() == logits[1:].argmax(-1).tolist()


def test_a_copy_can_end_after_the_masks_in_use() -> None:
    sizes = {"n_rows": 3, "n_vocab": 100, "n_edits": 5}
    buffer = torch.zeros(SamplingRequests.n_bytes(**sizes, n_masks=3), dtype=torch.uint8)
    requests = SamplingRequests.over(buffer, **sizes, n_masks=3)
    requests.masks[0] = -1
    assert buffer[: SamplingRequests.n_bytes(**sizes, n_masks=1)].bool().sum() == 16
    assert buffer[SamplingRequests.n_bytes(**sizes, n_masks=0) :].bool().sum() == 16
