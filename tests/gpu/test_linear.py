"""Packed and dense products against their twins, at sizes that fill no tile."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sgl_lab.engine.compute.kernels.gpu.linear import (
    Packed,
    invariant_matmul,
    invariant_matmul_twin,
    packed_matmul,
    packed_matmul_twin,
)
from sgl_lab.engine.compute.kernels.native.pack import Grouped, Kind, quantise

BITS = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 2e-2}
"""relative to the largest result: the interpreter cuts bfloat16 off where a card rounds"""

every_dtype = pytest.mark.parametrize("dtype", BITS, ids=str)
every_kind = pytest.mark.parametrize("kind", [Kind.Q4, Kind.Q8], ids=str)


@pytest.fixture
def random(device: torch.device):
    torch.manual_seed(0)
    return lambda *shape, dtype=torch.float32: torch.randn(*shape).to(device, dtype)


def same(ours: Tensor, twin: Tensor) -> None:
    assert ours.dtype == twin.dtype
    assert ours.shape == twin.shape
    torch.testing.assert_close(ours.float(), twin.float(), rtol=0, atol=BITS[ours.dtype] * max(1.0, twin.float().abs().amax().item()))


def weight(kind: Kind, n_out: int, n_in: int) -> Grouped:
    return quantise(torch.randn(n_out, n_in) + 0.3, kind)


@every_kind
@pytest.mark.parametrize("shape", [(5, 32), (33, 96), (64, 576), (3, 256)], ids=str)
def test_a_packed_weight_is_the_files_numbers_to_the_bit(device, kind, shape) -> None:
    torch.manual_seed(0)
    grouped = weight(kind, *shape)
    assert torch.equal(Packed(grouped, device).floats().cpu(), grouped.floats())


def test_the_least_and_largest_numbers_of_8_bits_are_kept(device) -> None:
    quants = torch.tensor([-128, 127] * 16, dtype=torch.int8)[None]
    grouped = Grouped(Kind.Q8, quants, torch.ones(1, 1, dtype=torch.float16))
    assert packed_matmul(torch.eye(32, device=device), Packed(grouped, device)).flatten().tolist() == quants[0].tolist()


@every_dtype
@every_kind
@pytest.mark.parametrize(("rows", "n_out", "n_in"), [(1, 40, 576), (16, 129, 96), (19, 70, 32), (70, 33, 320)])
def test_a_packed_product_is_its_twin(random, device, rows, n_out, n_in, kind, dtype) -> None:
    packed, x, bias = Packed(weight(kind, n_out, n_in), device), random(rows, n_in, dtype=dtype), random(n_out, dtype=dtype)
    same(packed_matmul(x, packed), packed_matmul_twin(x, packed))
    same(packed_matmul(x, packed, bias), packed_matmul_twin(x, packed, bias))


@every_kind
def test_a_product_split_over_programs_is_its_twin_each_time(random, device, kind) -> None:
    packed, x = Packed(weight(kind, 40, 1152), device), random(3, 1152)  # of 9 and 18 blocks, which 2 and 4 do not divide
    first = packed_matmul(x, packed)
    same(first, packed_matmul_twin(x, packed))
    assert torch.equal(packed_matmul(x, packed), first), "the same sums in the same order, whoever came last"
    assert not packed.arrived.any(), "ready for the next"


@every_dtype
@pytest.mark.parametrize(("rows", "n_out", "n_in"), [(1, 65, 576), (70, 33, 100), (3, 64, 64)])
def test_a_dense_product_is_its_twin(random, rows, n_out, n_in, dtype) -> None:
    x, dense, bias = random(rows, n_in, dtype=dtype), random(n_out, n_in, dtype=dtype), random(n_out, dtype=dtype)
    same(invariant_matmul(x, dense), invariant_matmul_twin(x, dense))
    same(invariant_matmul(x, dense, bias), invariant_matmul_twin(x, dense, bias))


@pytest.mark.parametrize("rows", [1, 2, 70])
def test_a_row_of_an_invariant_product_does_not_depend_on_how_many_there_are(random, device, rows) -> None:
    x, dense, packed = random(80, 1024), random(40, 1024), Packed(weight(Kind.Q4, 40, 1024), device)
    every, every_packed = invariant_matmul(x, dense), packed_matmul(x, packed, invariant=True)
    # Numpy multiplies the rows of a tile in several ways, so the interpreter is given them at the same place of one.
    for some in [slice(rows)] if device.type == "cpu" else [slice(rows), slice(80 - rows, None)]:
        assert torch.equal(invariant_matmul(x[some], dense), every[some])
        assert torch.equal(packed_matmul(x[some], packed, invariant=True), every_packed[some])


def test_no_rows_give_no_rows(device) -> None:
    packed = Packed(weight(Kind.Q4, 8, 32), device)
    assert packed_matmul(torch.empty(0, 32, device=device), packed).shape == (0, 8)
    assert invariant_matmul(torch.empty(0, 32, device=device), torch.ones(8, 32, device=device)).shape == (0, 8)
