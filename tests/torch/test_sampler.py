"""What may be drawn, how often, and that nothing but the row itself decides it, with torch and natively.

The slow twin of both is plain numpy, a row at a time.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pytest
import torch

from sgl_lab.contracts.errors import InvariantBroken, RequestFailed
from sgl_lab.contracts.params import SamplingParams
from sgl_lab.engine.compute.runners.sampler import sample, uniform
from sgl_lab.engine.compute.runners.sampling_requests import SamplingRequests
from sgl_lab.engine.plan import Draw, Sampling

N_DRAWS = 6000


Sampler = Callable[[torch.Tensor, Sequence[Sampling]], list[Draw | RequestFailed]]


def native(library: ctypes.CDLL, n_threads: int) -> Sampler:
    def draw(logits: torch.Tensor, samplings: Sequence[Sampling]) -> list[Draw | RequestFailed]:
        requests = SamplingRequests(list(enumerate(samplings)), [], logits.shape[-1])
        rows = logits.contiguous()
        library.sgl_choose(rows.data_ptr(), logits.shape[-1], requests.native, n_threads)
        return requests.draws()

    return draw


@pytest.fixture(scope="module", params=["torch", "native"])
def sampler(request: pytest.FixtureRequest) -> Sampler:
    return sample if request.param == "torch" else native(request.getfixturevalue("library"), 2)


def bitmask(allowed: Iterable[int], n_words: int = 22) -> memoryview:
    words = np.zeros(n_words, np.uint32)
    for token in allowed:
        words[token // 32] |= np.uint32(1 << token % 32)
    return words.data


def sampling(
    *,
    seed: int = 0,
    position: int = 0,
    prompt: Sequence[int] = (),
    generated: Sequence[int] = (),
    banned: Any = (),
    allowed: Iterable[int] | None = None,
    **params: Any,
) -> Sampling:
    if banned:
        params["min_tokens"] = N_DRAWS + 1
    masks = () if allowed is None else (bitmask(allowed),)
    return Sampling(SamplingParams(**{"max_tokens": None, **params}), seed, position, prompt, generated, tuple(banned), masks=masks)


def logits(vocab: int, seed: int = 0, spread: float = 2.0) -> torch.Tensor:
    return torch.randn(vocab, generator=torch.Generator().manual_seed(seed)) * spread


def drawn(sampler: Sampler, rows: torch.Tensor, asked: Sequence[Sampling]) -> list[Draw]:
    found = sampler(rows, asked)
    assert not any(isinstance(draw, Exception) for draw in found)
    return cast(list[Draw], found)


def draws(sampler: Sampler, row: torch.Tensor, asked: Sampling, n: int = N_DRAWS) -> list[Draw]:
    """The row's draws at positions 0 to n - 1."""
    found: list[Draw] = []
    for start in range(0, n, 1000):
        many = [replace(asked, position=start + i) for i in range(min(1000, n - start))]
        found += drawn(sampler, row.expand(len(many), -1), many)
    return found


def twin(row: torch.Tensor, asked: Sampling) -> npt.NDArray[np.float64]:
    """The distribution that the parameters describe, slowly."""
    params, z = asked.params, row.double().numpy().copy()
    for token in {*asked.prompt, *asked.generated}:
        z[token] = z[token] / params.repetition_penalty if z[token] > 0 else z[token] * params.repetition_penalty
    for token in asked.generated:
        z[token] -= params.frequency_penalty
    for token in set(asked.generated):
        z[token] -= params.presence_penalty
    for token, bias in params.logit_bias:
        z[token] += bias
    for token in asked.banned:
        z[token] = -np.inf
    if asked.mask is not None:
        z[[not asked.mask[token // 32] >> token % 32 & 1 for token in range(len(z))]] = -np.inf
    if params.temperature == 0:
        return np.asarray(np.arange(len(z)) == z.argmax(), dtype=np.float64)
    p = np.exp((z - z.max()) / params.temperature)
    p /= p.sum()
    order = np.argsort(-p, kind="stable")
    kept = order[: params.top_k or len(p)]
    mass = p[kept].sum()
    nucleus: list[int] = []
    for token in kept:
        if nucleus and p[nucleus].sum() >= params.top_p * mass and params.top_p < 1:
            break
        nucleus.append(token)
    allowed = np.zeros(len(p), dtype=bool)
    allowed[nucleus] = True
    allowed &= p >= params.min_p * p.max()
    p = np.where(allowed, p, 0)
    result: npt.NDArray[np.float64] = p / p.sum()
    return result


CASES: list[dict[str, Any]] = [
    {},
    {"temperature": 0.3},
    {"temperature": 5.0},
    {"top_k": 1},
    {"top_k": 7},
    {"top_p": 0.5},
    {"top_p": 0.95, "temperature": 3.0},
    {"top_p": 1e-9},
    {"min_p": 0.2},
    {"min_p": 1.0},
    {"top_k": 12, "top_p": 0.8, "min_p": 0.05, "temperature": 1.7},
    {"repetition_penalty": 1.8, "prompt": (3, 4), "generated": (5, 5, 9)},
    {"frequency_penalty": 1.5, "presence_penalty": -0.5, "prompt": (1,), "generated": (2, 2, 2, 8)},
    {"logit_bias": ((0, 4.0), (7, -100.0))},
    {"banned": (0, 1, 2), "top_k": 3},
    {"temperature": 0, "repetition_penalty": 3.0, "generated": tuple(range(10))},
    {"allowed": (1, 3, 8, 15, 19)},
    {"allowed": (0, 2, 11), "top_p": 0.6, "logit_bias": ((5, 9.0), (11, 2.0))},
    {"allowed": (4, 9, 17), "temperature": 0},
]


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("vocab", [20, 700])
def test_draws_follow_the_distribution_that_was_asked_for(sampler: Sampler, case: dict[str, Any], vocab: int) -> None:
    row, asked = logits(vocab), sampling(**case)
    wanted = twin(row, asked)
    counts = np.bincount([draw.token for draw in draws(sampler, row, asked)], minlength=vocab)
    assert not counts[wanted == 0].any()
    # Pearson's statistic over the cells that are expected often enough, the rest in one; ten standard deviations.
    often = wanted * N_DRAWS >= 5
    expected = np.append(wanted[often], wanted[~often].sum()) * N_DRAWS
    seen = np.append(counts[often], counts[~often].sum())
    cells = expected > 0
    statistic = ((seen[cells] - expected[cells]) ** 2 / expected[cells]).sum()
    freedom = max(1, cells.sum() - 1)
    assert statistic < freedom + 10 * np.sqrt(2 * freedom)


@pytest.mark.parametrize("case", [{"top_k": 400}, {"top_p": 0.9}, {"top_k": 600, "top_p": 0.9}, {"top_k": 30, "top_p": 0.9}, {"top_k": 30}])
def test_a_cut_beyond_the_most_probable_few_is_as_exact(sampler: Sampler, case: dict[str, Any]) -> None:
    row = logits(3000, spread=0.3)
    mixed = [sampling(**case, seed=1), sampling(top_k=2, seed=1), sampling(seed=1)]
    allowed = twin(row, mixed[0]) > 0
    found = {draw.token for i in range(400) for draw in drawn(sampler, row.expand(3, -1), [replace(s, position=i) for s in mixed])[:1]}
    assert found <= set(np.flatnonzero(allowed).tolist())
    assert len(found) > min(0.75 * allowed.sum(), 250)


@pytest.mark.parametrize("case", [{"top_k": 50}, {"top_k": 50, "top_p": 0.9}, {"top_k": 699, "min_p": 0.001}])
def test_a_cut_at_more_tokens_than_a_mask_leaves_takes_them_all(sampler: Sampler, case: dict[str, Any]) -> None:
    asked = sampling(temperature=5.0, allowed=(3, 5, 699), **case)
    assert {draw.token for draw in draws(sampler, logits(700), asked, 200)} == {3, 5, 699}


def test_greedy_takes_the_lowest_of_equally_good_tokens(sampler: Sampler) -> None:
    row = torch.zeros(50_000)
    row[[40_001, 778, 777, 30_000]] = 3.5
    assert drawn(sampler, row[None], [sampling(temperature=0)])[0].token == 777


def test_a_draw_does_not_depend_on_the_batch(sampler: Sampler) -> None:
    rows = torch.stack([logits(500, seed) for seed in range(len(CASES))])
    asked = [sampling(**case, seed=i, position=3 * i) for i, case in enumerate(CASES)]
    together = [draw.token for draw in drawn(sampler, rows, asked)]
    alone = [drawn(sampler, rows[i : i + 1], asked[i : i + 1])[0].token for i in range(len(asked))]
    backwards = [draw.token for draw in drawn(sampler, rows.flip(0), asked[::-1])][::-1]
    assert together == alone == backwards


def test_seed_and_position_decide_and_differ(sampler: Sampler) -> None:
    row = logits(500)
    first = [draw.token for draw in draws(sampler, row, sampling(seed=1), 50)]
    assert first == [draw.token for draw in draws(sampler, row, sampling(seed=1), 50)]
    assert first != [draw.token for draw in draws(sampler, row, sampling(seed=2), 50)]
    assert len(set(first)) > 10


def test_uniform_fills_its_interval_evenly() -> None:
    numbers = np.array([uniform(seed, position) for seed in (-5, 0, 2**63, 1 << 70) for position in range(5000)])
    assert (numbers >= 0).all()
    assert (numbers < 1).all()
    counts = np.histogram(numbers, 20, (0, 1))[0]
    assert ((counts - 1000) ** 2 / 1000).sum() < 60
    assert abs(np.corrcoef(numbers[:-1], numbers[1:])[0, 1]) < 0.03


def test_logprobs_are_the_models_own(sampler: Sampler) -> None:
    row = logits(300)
    raw = row.double().log_softmax(-1)
    cases = [sampling(temperature=0.2, top_k=5, logit_bias=((9, 5.0),), top_logprobs=4), sampling(temperature=0), sampling(top_logprobs=20)]
    first, second, third = drawn(sampler, row.expand(3, -1), cases)
    for draw in (first, second, third):
        assert draw.logprob == pytest.approx(raw[draw.token].item(), abs=1e-5)
    best = raw.topk(20)
    assert [token for token, _ in third.top] == best.indices.tolist()
    assert [value for _, value in third.top] == pytest.approx(best.values.tolist(), abs=1e-5)
    assert first.top == third.top[:4]
    assert second.top == ()


def test_logits_are_left_as_they_are(sampler: Sampler) -> None:
    rows = torch.stack([logits(100, seed) for seed in range(len(CASES))])
    before = rows.clone()
    sampler(rows, [sampling(**case) for case in CASES])
    assert torch.equal(rows, before)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("temperature", [0, 1])
def test_a_row_that_is_not_finite_fails_alone(sampler: Sampler, value: float, temperature: float) -> None:
    rows = torch.stack([logits(50, 1), logits(50, 2), logits(50, 3)])
    rows[1, 20] = value
    good, bad, also_good = sampler(rows, [sampling(temperature=temperature)] * 3)
    assert isinstance(bad, RequestFailed)
    assert isinstance(good, Draw)
    assert isinstance(also_good, Draw)


@pytest.mark.parametrize("temperature", [0, 1])
@pytest.mark.parametrize("case", [{"banned": range(5)}, {"allowed": ()}, {"allowed": (0, 1), "banned": (0, 1)}, {"allowed": (5, 31)}])
def test_a_row_without_a_token_left_fails_alone(sampler: Sampler, case: dict[str, Any], temperature: float) -> None:
    rows = torch.stack([logits(5, 1), logits(5, 2)])
    empty, good = sampler(rows, [sampling(temperature=temperature, **case), sampling()])
    assert isinstance(empty, RequestFailed)
    assert "no token may be drawn" in str(empty)
    assert isinstance(good, Draw)


@pytest.mark.parametrize("temperature", [1e-6, 1e-300])
def test_a_very_cold_draw_is_the_best_token(sampler: Sampler, temperature: float) -> None:
    row = logits(1000, spread=20)
    assert {draw.token for draw in draws(sampler, row, sampling(temperature=temperature), 100)} == {int(row.argmax())}


def test_the_likeliest_tokens_come_best_first_and_of_equal_ones_the_lowest(library: ctypes.CDLL) -> None:
    row = torch.zeros(700)
    row[[650, 20, 333]] = 2.0
    row[400] = 3.0
    (draw,) = drawn(native(library, 1), row[None], [sampling(top_logprobs=8)])
    assert [token for token, _ in draw.top] == [400, 20, 333, 650, 0, 1, 2, 3]


def test_neither_batch_nor_threads_change_a_bit(library: ctypes.CDLL) -> None:
    rows = torch.stack([logits(700, seed) for seed in range(len(CASES))])
    asked = [sampling(**case, seed=i, top_logprobs=i) for i, case in enumerate(CASES)]
    together = native(library, 2)(rows, asked)
    assert together == [native(library, 1)(rows[i : i + 1], asked[i : i + 1])[0] for i in range(len(asked))]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_native_draws_are_torchs_but_where_rounding_decides(library: ctypes.CDLL, case: dict[str, Any]) -> None:
    row, asked = logits(700), sampling(**case)
    cumulative = twin(row, asked).cumsum()
    pairs = zip(draws(native(library, 1), row, asked), draws(sample, row, asked), strict=True)
    different = [(i, *sorted((a.token, b.token))) for i, (a, b) in enumerate(pairs) if a.token != b.token]
    assert len(different) < 5
    assert all(abs(uniform(asked.seed, i) - border) < 1e-6 for i, low, high in different for border in cumulative[low:high])


def test_a_draw_after_drafts_is_the_draw_that_follows_those_tokens(sampler: Sampler) -> None:
    row, masks = logits(700), tuple(bitmask(range(first, 700, 3)) for first in range(3))
    start = replace(sampling(generated=(1, 2), position=2, frequency_penalty=1.0, repetition_penalty=1.5, temperature=2.0), masks=masks)
    drafted = start.after((7,)).after((2,))
    extended = replace(start, generated=(1, 2, 7, 2), position=4, masks=masks[2:])
    assert drawn(sampler, row[None], [drafted]) == drawn(sampler, row[None], [extended])
    with pytest.raises(InvariantBroken, match="3 masks"):
        start.after((1, 2, 3))
