"""Attention kernels against their twins: what they give, and what may not change a bit."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from sgl_lab.engine.compute.kernels.gpu.cascade import attend_cascade, attend_cascade_twin
from sgl_lab.engine.compute.kernels.gpu.contexts import Contexts, Shared
from sgl_lab.engine.compute.kernels.gpu.decode import (
    attend_decode,
    attend_decode_twin,
    attend_invariant,
    attend_invariant_twin,
    splits_for,
)
from sgl_lab.engine.compute.kernels.gpu.prefill import attend_prefill, attend_prefill_twin


@dataclass(frozen=True)
class Heads:
    heads: int
    kv_heads: int
    dim: int

    @property
    def scale(self) -> float:
        return self.dim**-0.5


KV_HEAD_EACH = Heads(2, 2, 64)
GROUPS_OF_THREE = Heads(6, 2, 64)
shapes = pytest.mark.parametrize(
    ("shape", "page_size"),
    [
        pytest.param(KV_HEAD_EACH, 1, id="a KV head each"),
        pytest.param(KV_HEAD_EACH, 16, id="a KV head each, pages"),
        pytest.param(GROUPS_OF_THREE, 1, id="groups"),
        pytest.param(GROUPS_OF_THREE, 5, id="groups, odd pages"),
        pytest.param(Heads(4, 1, 128), 16, id="one KV head"),
        pytest.param(Heads(1, 1, 80), 1, id="dim 80, one head"),
        pytest.param(Heads(2, 1, 96), 4, id="dim 96"),
        pytest.param(Heads(2, 1, 256), 1, id="dim 256"),
        pytest.param(Heads(3, 3, 7), 3, id="dim 7"),
    ],
)


@dataclass(frozen=True)
class Pool:
    keys: Tensor
    values: Tensor
    page_size: int
    generator: torch.Generator

    @property
    def n_pages(self) -> int:
        return len(self.keys) // self.page_size

    def contexts(self, lengths: list[int], *, shared_pages: int = 0, sharing: tuple[int, ...] = (), width: int = 0) -> Contexts:
        """Rows on pages in no order, in lines in no order; the first `shared_pages` of those `sharing` are the same."""
        device = self.keys.device
        needed = max(1, width, *(-(-length // self.page_size) for length in lengths))
        pages = torch.randperm(self.n_pages, generator=self.generator).to(torch.int32)
        table = torch.full((len(lengths) + 1, needed), 1 << 30, dtype=torch.int32)  # not a page: who reads it reads far outside
        lines = torch.randperm(len(lengths) + 1, generator=self.generator)[: len(lengths)].to(torch.int32)
        taken = shared_pages
        for row, (line, length) in enumerate(zip(lines.tolist(), lengths, strict=True)):
            used = -(-length // self.page_size)
            common = min(used, shared_pages) if row in sharing else 0
            table[line, :used] = torch.cat([pages[:common], pages[taken : taken + used - common]])
            taken += used - common
        assert taken <= self.n_pages
        return Contexts(table.to(device), lines.to(device), torch.tensor(lengths, dtype=torch.int32, device=device), self.page_size)


def pool_of(shape: Heads, page_size: int, n_tokens: int, dtype: torch.dtype, device: torch.device, seed: int = 0) -> Pool:
    generator = torch.Generator().manual_seed(seed)
    slots = (n_tokens // page_size + 1) * page_size
    keys, values = (torch.randn(slots, shape.kv_heads, shape.dim, generator=generator).to(dtype).to(device) for _ in range(2))
    return Pool(keys, values, page_size, generator)


def queries(pool: Pool, n: int, shape: Heads) -> Tensor:
    return torch.randn(n, shape.heads, shape.dim, generator=pool.generator).to(pool.keys)


def unreadable(pool: Pool, contexts: Contexts) -> None:
    """What is beyond every context is not a number: a kernel that reads it and multiplies it by zero fails."""
    used = torch.zeros(len(pool.keys), dtype=torch.bool)
    for line, length in zip(contexts.lines.tolist(), contexts.lengths.tolist(), strict=True):
        positions = torch.arange(length)
        used[contexts.table[line].cpu().long()[positions // pool.page_size] * pool.page_size + positions % pool.page_size] = True
    pool.keys[~used] = torch.nan
    pool.values[~used] = torch.nan


def close(found: Tensor, expected: Tensor) -> None:
    atol = {torch.float32: 2e-5, torch.float16: 2e-3, torch.bfloat16: 2e-2}[found.dtype]
    torch.testing.assert_close(found, expected, rtol=atol, atol=atol)


@shapes
def test_a_token_attends_to_its_whole_context(shape: Heads, page_size: int, dtype: torch.dtype, device: torch.device) -> None:
    pool = pool_of(shape, page_size, 500, dtype, device)
    contexts = pool.contexts([1, 0, 150])
    unreadable(pool, contexts)
    q = queries(pool, 3, shape)
    found = attend_decode(q, pool.keys, pool.values, contexts, shape.scale, n_splits=3)
    close(found, attend_decode_twin(q, pool.keys, pool.values, contexts, shape.scale, n_splits=3))
    assert not found[1].any()


@shapes
def test_a_prompts_tokens_attend_to_what_is_before_them(shape: Heads, page_size: int, dtype: torch.dtype, device: torch.device) -> None:
    pool = pool_of(shape, page_size, 700, dtype, device)
    n_tokens = [70, 0, 1, 130]
    contexts = pool.contexts([70, 0, 90, 133])
    unreadable(pool, contexts)
    q = queries(pool, sum(n_tokens), shape)
    offsets = torch.tensor([0, *n_tokens]).cumsum(0).to(torch.int32).to(device)
    found = attend_prefill(q, pool.keys, pool.values, contexts, offsets, 130, shape.scale)
    close(found, attend_prefill_twin(q, pool.keys, pool.values, contexts, offsets, 130, shape.scale))


def groups(contexts: Contexts, lengths: list[int], members: list[list[int]], tile: int, n_tiles: int) -> Shared:
    """The first `lengths[g]` tokens of the rows `members[g]`, as tiles of which the last are not needed."""
    device = contexts.table.device
    tiles, flat, ends = [], [], []
    for group, rows in enumerate(members):
        tiles += [(group, len(flat) + start) for start in range(0, len(rows), tile)]
        flat += rows
        ends.append(len(flat))
    tiles += [(-1, 0)] * (n_tiles - len(tiles))
    first = torch.zeros(len(contexts.lengths), dtype=torch.int32)
    for rows, length in zip(members, lengths, strict=True):
        first[rows] = length
    made = [torch.tensor(numbers, dtype=torch.int32, device=device) for numbers in (tiles, flat, ends)]
    lines = contexts.lines[torch.tensor([rows[-1] for rows in members], device=device)]
    return Shared(*made, lines, torch.tensor(lengths, dtype=torch.int32, device=device), first.to(device), tile)


@shapes
def test_rows_that_share_prefixes_attend_to_their_whole_contexts(
    shape: Heads, page_size: int, dtype: torch.dtype, device: torch.device
) -> None:
    pool = pool_of(shape, page_size, 700, dtype, device)
    lengths = [140, 0, 111, 70, 165, 30]
    contexts = pool.contexts(lengths, shared_pages=-(-110 // page_size), sharing=(2, 0, 4))
    unreadable(pool, contexts)
    shared = groups(contexts, [110, 33], [[2, 0, 4], [3]], tile=2, n_tiles=4)
    q = queries(pool, len(lengths), shape)
    found = attend_cascade(q, pool.keys, pool.values, contexts, shared, shape.scale, n_splits=2)
    close(found, attend_cascade_twin(q, pool.keys, pool.values, contexts, shared, shape.scale, n_splits=2))
    close(found, attend_decode_twin(q, pool.keys, pool.values, contexts, shape.scale, n_splits=1))


def test_a_prefix_is_read_from_the_line_of_its_group(device: torch.device) -> None:
    shape = Heads(4, 2, 64)
    pool = pool_of(shape, 1, 600, torch.float32, device)
    contexts = pool.contexts([100, 110, 120], shared_pages=90, sharing=(0, 2))
    shared = groups(contexts, [90], [[0, 2]], tile=4, n_tiles=1)
    q = queries(pool, 3, shape)
    expected = attend_decode_twin(q, pool.keys, pool.values, contexts, shape.scale, n_splits=1)
    contexts.table[contexts.lines[0].long(), :90] = 1 << 30  # the member whose line the group does not name
    close(attend_cascade(q, pool.keys, pool.values, contexts, shared, shape.scale, n_splits=1), expected)


@pytest.mark.parametrize("shape", [Heads(1, 1, 64), Heads(3, 1, 64)])
def test_a_long_context_in_many_splits_is_attended_to_whole(shape: Heads, dtype: torch.dtype, device: torch.device) -> None:
    pool = pool_of(shape, 1, 1600, dtype, device)
    contexts = pool.contexts([1501])
    at = contexts.table[contexts.lines[0]].long()
    pool.keys[at] *= torch.linspace(0.1, 3, 1501, dtype=dtype, device=device)[:, None, None]  # later keys matter more than those before
    q = queries(pool, 1, shape)
    expected = attend_decode_twin(q, pool.keys, pool.values, contexts, shape.scale, n_splits=1)
    for n_splits in (1, 3, 40):
        close(attend_decode(q, pool.keys, pool.values, contexts, shape.scale, n_splits=n_splits), expected)


def test_large_scores_neither_overflow_nor_vanish(device: torch.device) -> None:
    shape = Heads(2, 1, 64)
    pool = pool_of(shape, 1, 300, torch.float32, device)
    contexts = pool.contexts([300])
    q = 1000 * queries(pool, 1, shape)
    expected = attend_decode_twin(q, pool.keys, pool.values, contexts, shape.scale, n_splits=1)
    offsets = torch.tensor([0, 1], dtype=torch.int32, device=device)
    close(attend_decode(q, pool.keys, pool.values, contexts, shape.scale, n_splits=4), expected)
    close(attend_prefill(q, pool.keys, pool.values, contexts, offsets, 1, shape.scale), expected)


def each_token(contexts: Contexts, row: int, positions: range) -> Contexts:
    """Every token of a row at `positions` as a row of its own."""
    lengths = torch.tensor([position + 1 for position in positions], dtype=torch.int32, device=contexts.table.device)
    return replace(contexts, lines=contexts.lines[row].expand(len(positions)).contiguous(), lengths=lengths)


def rearranged(pool: Pool, contexts: Contexts, page_size: int, width: int) -> tuple[Pool, Contexts]:
    """The same contexts on other pages, of another size, in a wider table."""
    lengths = contexts.lengths.tolist()
    other = Pool(torch.empty_like(pool.keys), torch.empty_like(pool.values), page_size, pool.generator)
    moved = other.contexts(lengths, width=width)
    for old, new, length in zip(contexts.lines.tolist(), moved.lines.tolist(), lengths, strict=True):
        positions = torch.arange(length, device=pool.keys.device)
        at, to = (
            each.table[line].long()[positions // each.page_size] * each.page_size + positions % each.page_size
            for each, line in ((contexts, old), (moved, new))
        )
        other.keys[to], other.values[to] = pool.keys[at], pool.values[at]
    return other, moved


@pytest.mark.parametrize("shape", [Heads(1, 1, 64), Heads(3, 1, 64)])
def test_invariant_attention_gives_a_token_the_same_bits_alone_in_a_batch_in_a_prompt_and_on_other_pages(
    shape: Heads, dtype: torch.dtype, device: torch.device
) -> None:
    pool = pool_of(shape, 1, 900, dtype, device)
    contexts = pool.contexts([600, 33, 0])
    q = queries(pool, 3, shape)
    batch = attend_invariant(q, pool.keys, pool.values, contexts, shape.scale)
    close(batch, attend_invariant_twin(q, pool.keys, pool.values, contexts, shape.scale))
    for row in range(2):
        one = slice(row, row + 1)
        alone = replace(contexts, lines=contexts.lines[one].clone(), lengths=contexts.lengths[one].clone())
        assert torch.equal(attend_invariant(q[one].clone(), pool.keys, pool.values, alone, shape.scale)[0], batch[row])

    prompt = torch.cat([queries(pool, 2, shape), q[:1]])
    chunk = each_token(contexts, 0, range(597, 600))
    assert torch.equal(attend_invariant(prompt, pool.keys, pool.values, chunk, shape.scale)[2], batch[0])

    other, moved = rearranged(pool, contexts, page_size=16, width=60)
    assert torch.equal(attend_invariant(q, other.keys, other.values, moved, shape.scale), batch)


def test_a_prompt_has_the_same_bits_however_many_of_its_tokens_are_attended_to_at_once(device: torch.device) -> None:
    shape = Heads(2, 1, 16)
    pool = pool_of(shape, 1, 64, torch.float32, device)
    tokens = each_token(pool.contexts([40]), 0, range(20, 40))
    q = queries(pool, 20, shape)
    whole = attend_invariant(q, pool.keys, pool.values, tokens, shape.scale)
    assert torch.equal(attend_invariant(q, pool.keys, pool.values, tokens, shape.scale, parts_at_once=1), whole)


def test_more_heads_than_a_tile_has_rows_take_several_tiles(device: torch.device) -> None:
    shape = Heads(70, 1, 16)
    pool = pool_of(shape, 1, 50, torch.float32, device)
    contexts = pool.contexts([50])
    q = queries(pool, 1, shape)
    expected = attend_decode_twin(q, pool.keys, pool.values, contexts, shape.scale, n_splits=1)
    shared = groups(contexts, [33], [[0]], tile=2, n_tiles=1)
    offsets = torch.tensor([0, 1], dtype=torch.int32, device=device)
    close(attend_decode(q, pool.keys, pool.values, contexts, shape.scale, n_splits=1), expected)
    close(attend_cascade(q, pool.keys, pool.values, contexts, shared, shape.scale, n_splits=1), expected)
    close(attend_prefill(q, pool.keys, pool.values, contexts, offsets, 1, shape.scale), expected)


def test_splits_fill_a_card_and_none_is_too_short() -> None:
    assert splits_for(rows=1, kv_heads=32, longest=4096, processors=132) == 12
    assert splits_for(rows=64, kv_heads=32, longest=4096, processors=132) == 2
    assert splits_for(rows=1, kv_heads=8, longest=300, processors=132) == 2
    random.seed(0)
    for _ in range(100):
        rows, kv_heads, longest = (random.randint(1, limit) for limit in (300, 64, 10_000))
        assert 1 <= splits_for(rows, kv_heads, longest, 108) <= max(1, longest // 128)


@pytest.mark.parametrize(("window", "softcap"), [(1, 0.0), (70, 3.0)])
@pytest.mark.parametrize("shape", [KV_HEAD_EACH, GROUPS_OF_THREE], ids=["a KV head each", "groups"])
def test_windows_and_caps_are_their_twins(shape: Heads, window: int, softcap: float, device: torch.device) -> None:
    """Tokens that left a window are not read."""
    pool, kind = pool_of(shape, 4, 900, torch.float32, device), {"window": window, "softcap": softcap}
    contexts = pool.contexts([1, 0, 200])
    q = queries(pool, 3, shape)
    positions = torch.arange(200 - window)
    left = contexts.table[int(contexts.lines[2])].cpu().long()[positions // 4] * 4 + positions % 4
    pool.keys[left] = torch.nan
    pool.values[left] = torch.nan
    wanted = torch.zeros_like(q)
    for row in (0, 2):
        some = Contexts(contexts.table, contexts.lines[row : row + 1], contexts.lengths[row : row + 1], 4)
        values = [torch.nan_to_num(pages) for pages in (pool.keys, pool.values)]
        wanted[row] = attend_decode_twin(q[row : row + 1], *values, some, shape.scale, n_splits=1, **kind)[0]
    close(attend_decode(q, pool.keys, pool.values, contexts, shape.scale, n_splits=3, **kind), wanted)
    close(attend_invariant(q, pool.keys, pool.values, contexts, shape.scale, **kind), wanted)
    n_tokens = [40, 1, 70]
    pool = pool_of(shape, 4, 900, torch.float32, device)
    contexts, q = pool.contexts([40, 90, 173]), queries(pool, sum(n_tokens), shape)
    offsets = torch.tensor([0, *n_tokens]).cumsum(0).to(torch.int32).to(device)
    found = attend_prefill(q, pool.keys, pool.values, contexts, offsets, 70, shape.scale, **kind)
    close(found, attend_prefill_twin(q, pool.keys, pool.values, contexts, offsets, 70, shape.scale, **kind))
