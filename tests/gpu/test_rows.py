"""Norms, rotation and gate against their twins, at sizes that fill no block."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sgl_lab.engine.compute.kernels.gpu.gate import activate, activate_twin
from sgl_lab.engine.compute.kernels.gpu.norm import add_rms_norm, add_rms_norm_twin, rms_norm, rms_norm_twin
from sgl_lab.engine.compute.kernels.gpu.rotary import rotate_and_write, rotate_and_write_twin

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
ULP = {torch.float32: 1e-5, torch.float16: 1e-3, torch.bfloat16: 8e-3}
"""the last bit, relative: the interpreter cuts bfloat16 off where a card rounds"""

every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def same(ours: Tensor, twin: Tensor) -> None:
    torch.testing.assert_close(ours, twin, rtol=ULP[ours.dtype], atol=ULP[ours.dtype] / 8)


@pytest.fixture
def random(device: torch.device):
    torch.manual_seed(0)
    return lambda *shape, dtype=torch.float32: torch.randn(*shape).to(device, dtype)


@every_dtype
@pytest.mark.parametrize("shape", [(1, 576), (5, 100), (3, 4096), (0, 64)], ids=str)
def test_a_norm_is_its_twin(random, shape, dtype) -> None:
    x, weight = random(*shape, dtype=dtype), random(shape[1], dtype=dtype)
    same(rms_norm(x, weight, 1e-5), rms_norm_twin(x, weight, 1e-5))


@every_dtype
def test_the_norm_after_a_sum_is_its_twin_and_leaves_the_sum(random, dtype) -> None:
    x, residual, weight = random(3, 576, dtype=dtype), random(3, 576, dtype=dtype), random(576)
    ours, twins = residual.clone(), residual.clone()
    y = add_rms_norm(x, ours, weight, 1e-5)
    add_rms_norm_twin(x, twins, weight, 1e-5)
    same(ours, twins)
    assert torch.equal(y, rms_norm(ours, weight, 1e-5)), "the norm is of the sum as it was rounded"


def test_a_row_of_a_norm_does_not_depend_on_the_others(random) -> None:
    x, weight = random(4, 576), random(576)
    assert torch.equal(rms_norm(x, weight, 1e-5)[2:3], rms_norm(x[2:3], weight, 1e-5))


@every_dtype
@pytest.mark.parametrize("shape", [(1, 1536), (3, 70), (2, 3000)], ids=str)
def test_a_gate_is_its_twin(random, shape, dtype) -> None:
    gate_up = random(shape[0], 2 * shape[1], dtype=dtype)
    same(activate(gate_up), activate_twin(gate_up))


@pytest.mark.parametrize("is_gated", [True, False])
@pytest.mark.parametrize("kind", ["gelu", "gelu_tanh", "relu", "relu2"])
def test_every_activation_is_its_twin(random, kind, is_gated) -> None:
    up = 3 * random(3, 70)
    same(activate(up, kind, is_gated=is_gated), activate_twin(up, kind, is_gated=is_gated))


@pytest.mark.filterwarnings("ignore:overflow encountered in exp")
def test_a_gate_that_is_shut_or_wide_open_is_no_nan(device) -> None:
    gate_up = torch.tensor([[-1e4, 1e4, 2.0, 3.0]], device=device)
    assert activate(gate_up).tolist() == [[0.0, 3e4]]


def rotation(device: torch.device, dim: int, positions: int) -> tuple[Tensor, Tensor]:
    angles = torch.outer(torch.arange(positions).float(), 1e4 ** -(torch.arange(0, dim, 2).float() / dim)).to(device)
    return angles.cos(), angles.sin()


@every_dtype
@pytest.mark.parametrize(("n", "heads", "kv_heads", "dim"), [(1, 9, 3, 64), (4, 4, 4, 32), (3, 5, 1, 80)])
def test_a_rotation_is_its_twin_and_writes_what_its_twin_writes(random, device, n, heads, kv_heads, dim, dtype) -> None:
    qkv = random(n, (heads + 2 * kv_heads) * dim, dtype=dtype)
    positions = torch.randint(0, 50, (n,), dtype=torch.int32, device=device)
    slots = torch.randperm(7)[:n].to(device, torch.int32)
    ours, twins = (tuple(torch.full((7, kv_heads, dim), 9.0, dtype=dtype, device=device) for _ in "kv") for _ in range(2))
    q = rotate_and_write(qkv, positions, slots, rotation(device, dim, 50), *ours, heads)
    same(q, rotate_and_write_twin(qkv, positions, slots, rotation(device, dim, 50), *twins, heads))
    same(ours[0], twins[0])
    assert torch.equal(ours[1], twins[1]), "values are not turned"


@pytest.mark.parametrize("turning", [0, 20])
@pytest.mark.parametrize("has_norms", [True, False])
def test_a_head_that_turns_in_part_and_has_norms_is_its_twin(random, device, turning, has_norms) -> None:
    n, heads, kv_heads, dim = 3, 5, 2, 80
    qkv, at = random(n, (heads + 2 * kv_heads) * dim), torch.tensor([3, 0, 7], dtype=torch.int32, device=device)
    norms = (random(dim), random(dim), 1e-6) if has_norms else None
    tables = rotation(device, turning, 50) if turning else (torch.empty(50, 0, device=device),) * 2
    ours, twins = (tuple(torch.full((8, kv_heads, dim), 9.0, device=device) for _ in "kv") for _ in range(2))
    same(rotate_and_write(qkv, at, at, tables, *ours, heads, norms), rotate_and_write_twin(qkv, at, at, tables, *twins, heads, norms))
    same(ours[0], twins[0])
    assert torch.equal(ours[1], twins[1])


def test_a_token_without_a_slot_is_turned_and_written_nowhere(random, device) -> None:
    qkv, tables = random(2, 4 * 16), rotation(device, 16, 4)
    positions = torch.tensor([3, 3], dtype=torch.int32, device=device)
    keys, values = random(3, 1, 16), random(3, 1, 16)
    before = keys.clone(), values.clone()
    q = rotate_and_write(qkv, positions, torch.tensor([-1, 1], dtype=torch.int32, device=device), tables, keys, values, 2)
    same(q, rotate_and_write_twin(qkv, positions, torch.tensor([-1, 1], dtype=torch.int32, device=device), tables, *before, 2))
    same(keys, before[0])
    assert torch.equal(values, before[1])


@pytest.mark.filterwarnings("ignore:invalid value encountered in multiply")
def test_values_pass_through_a_rotation_even_when_they_are_infinite(device) -> None:
    qkv = torch.tensor([[1.0, 0.0, 1.0, 0.0, float("inf"), 2.0]], device=device)
    keys, values = torch.zeros(1, 1, 2, device=device), torch.zeros(1, 1, 2, device=device)
    at = torch.zeros(1, dtype=torch.int32, device=device)
    rotate_and_write(qkv, at, at, rotation(device, 2, 1), keys, values, 1)
    assert values.flatten().tolist() == [float("inf"), 2.0]
