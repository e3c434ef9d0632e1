"""Routing, grouped products and their sums against their twins."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sgl_lab.engine.compute.kernels.gpu.experts import (
    Routing,
    combine,
    combine_twin,
    experts_matmul,
    experts_matmul_twin,
    route,
    route_twin,
)

BITS = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 2e-2}
"""relative to the largest result: the interpreter cuts bfloat16 off where a card rounds"""

every_dtype = pytest.mark.parametrize("dtype", BITS, ids=str)


@pytest.fixture
def random(device: torch.device):
    torch.manual_seed(0)
    return lambda *shape, dtype=torch.float32: torch.randn(*shape).to(device, dtype)


def same(ours: Tensor, twin: Tensor) -> None:
    assert ours.shape == twin.shape
    torch.testing.assert_close(ours.float(), twin.float(), rtol=0, atol=BITS[ours.dtype] * max(1.0, twin.float().abs().amax().item()))


def same_routing(ours: Routing, twin: Routing) -> None:
    same(ours.weights, twin.weights)
    assert torch.equal(ours.experts, twin.experts)
    assert torch.equal(ours.order, twin.order)
    assert torch.equal(ours.first, twin.first)


@every_dtype
@pytest.mark.parametrize(("n", "experts", "k"), [(1, 8, 2), (7, 5, 3), (3, 60, 4), (2, 3, 3)])
def test_a_routing_is_its_twin(random, n, experts, k, dtype) -> None:
    logits = random(n, experts, dtype=dtype)
    for is_normalised in (True, False):
        same_routing(route(logits, k, is_normalised=is_normalised), route_twin(logits, k, is_normalised=is_normalised))


def test_of_equal_experts_the_first_are_taken_and_none_twice(device) -> None:
    routing = route(torch.zeros(2, 6, device=device), 3)
    assert routing.experts.tolist() == [[0, 1, 2]] * 2
    same(routing.weights, torch.full((2, 3), 1 / 3, device=device))


def test_an_expert_that_is_ruled_out_has_no_weight(device) -> None:
    routing = route(torch.tensor([[0.0, float("-inf"), float("-inf")]], device=device), 2)
    assert routing.experts.tolist() == [[0, 1]]
    assert routing.weights.tolist() == [[1.0, 0.0]]


@every_dtype
@pytest.mark.parametrize(("n", "experts", "k", "n_out", "n_in"), [(1, 8, 2, 40, 96), (9, 5, 3, 65, 100), (70, 2, 1, 33, 64)])
def test_products_with_experts_are_their_twins_from_tokens_and_from_pairs(random, n, experts, k, n_out, n_in, dtype) -> None:
    routing = route(random(n, experts), k)
    x, up, down = random(n, n_in, dtype=dtype), random(experts, n_out, n_in, dtype=dtype), random(experts, n_in, n_out, dtype=dtype)
    pairs = experts_matmul(x, up, routing)
    same(pairs, experts_matmul_twin(x, up, routing))
    same(experts_matmul(pairs, down, routing), experts_matmul_twin(pairs, down, routing))


def test_more_pairs_of_one_expert_than_a_tile_holds_and_experts_without_any(random, device) -> None:
    logits = torch.full((150, 4), float("-inf"), device=device)
    logits[:, 2], logits[::2, 1] = 0.0, 1.0
    routing, x, weights = route(logits, 1), random(150, 32), random(4, 16, 32)
    same(experts_matmul(x, weights, routing), experts_matmul_twin(x, weights, routing))


@every_dtype
@pytest.mark.parametrize(("n", "k", "width"), [(1, 2, 1030), (5, 3, 70)])
def test_the_sum_of_experts_is_its_twin(random, n, k, width, dtype) -> None:
    routing, pairs = route(random(n, 8), k), random(n * k, width, dtype=dtype)
    same(combine(pairs, routing), combine_twin(pairs, routing))


def test_no_tokens_go_nowhere(device) -> None:
    routing = route(torch.empty(0, 4, device=device), 2)
    pairs = experts_matmul(torch.empty(0, 32, device=device), torch.ones(4, 8, 32, device=device), routing)
    assert pairs.shape == (0, 8)
    assert combine(pairs, routing).shape == (0, 8)
