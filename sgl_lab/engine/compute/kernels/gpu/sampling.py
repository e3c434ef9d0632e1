"""Samples one token per row from its logits: mask, penalties, temperature, truncation and the draw,
without sorting.

A row is split into tiles of the vocabulary, so that one long row is not the work of one
multiprocessor. The next kernel combines the results of its tiles. A token's weight is exp((logit -
best) / temperature), 1 for the best. Sums of weights are sums of integers (weight * 2^43): they are
exact and independent of order. A draw therefore depends on neither the tiles nor the batch, and the
point of the draw always falls on a token.

Every truncation is a floor under the weights, as in `engine/compute/runners/sampler.py`. It is
found by bisection on the bits of the weights, over few candidates: the k-th largest of the peaks of
groups of 64 tokens is no larger than the k-th largest of all, and tokens with a weight below (1 -
p) / vocab are, all together, not part of the top p.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launch import launch
from .sampling_requests import Drawn, SamplingRequests, Status
from .tuning import choice

GROUP = 64
NOT_FINITE = tl.constexpr(int(Status.NOT_FINITE))
NOTHING_ALLOWED = tl.constexpr(int(Status.NOTHING_ALLOWED))
MINUS_INFINITY = tl.constexpr(float("-inf"))
QUANTA = tl.constexpr(2.0**43)
"""of a weight of 1: the sum of a million of them fits into 64 bits"""
ONE = tl.constexpr(0x3F800000)
"""the bits of the largest weight"""


@triton.jit
def _weights(logits, best, temperature):
    """Kept off a temperature of zero, so that one however low makes no infinity."""
    return tl.exp((logits - best) / tl.maximum(temperature, 1e-30))


@triton.jit
def _quanta(weights):
    return (weights * QUANTA).to(tl.int64)


@triton.jit
def _source(logits_ptr, shaped_ptr, mask_of_ptr, edit_ends_ptr, row, n_vocab):
    """(logits of the row after its mask and edits, its mask, its first edit, the end of its edits)"""
    mask = tl.load(mask_of_ptr + row)
    first = tl.load(edit_ends_ptr + row - 1, mask=row > 0, other=0)
    end = tl.load(edit_ends_ptr + row)
    source = logits_ptr + row * n_vocab
    if (mask > 0) | (first < end):
        source = shaped_ptr + row * n_vocab
    return source, mask, first, end


@triton.jit
def _best(peaks_ptr, row, n_tiles, TILES: tl.constexpr):
    lanes = tl.arange(0, TILES)
    return tl.max(tl.load(peaks_ptr + row * n_tiles + lanes, mask=lanes < n_tiles, other=MINUS_INFINITY), axis=0)


@triton.jit
def survey_kernel(
    logits_ptr, shaped_ptr, tops_ptr, sums_ptr, peaks_ptr, peak_ids_ptr, group_peaks_ptr, counts_ptr, totals_ptr,
    mask_of_ptr, masks_ptr, edit_ends_ptr, tokens_ptr, factors_ptr, penalties_ptr, biases_ptr,
    n_vocab, n_tiles, n_words, TILE: tl.constexpr, GROUP: tl.constexpr, EDITS: tl.constexpr,
):  # fmt: skip
    """A tile's own log-sum-exp, its mask and edits, and its largest values after them."""
    row, tile = tl.program_id(0).to(tl.int64), tl.program_id(1)
    ids = tile * TILE + tl.arange(0, TILE)
    inside = ids < n_vocab
    x = tl.load(logits_ptr + row * n_vocab + ids, mask=inside, other=MINUS_INFINITY)
    top = tl.max(x, axis=0)
    at = row * n_tiles + tile
    tl.store(tops_ptr + at, top)
    tl.store(sums_ptr + at, tl.sum(tl.exp(x - tl.where(top == MINUS_INFINITY, 0.0, top)), axis=0))
    source, mask, first, end = _source(logits_ptr, shaped_ptr, mask_of_ptr, edit_ends_ptr, row, n_vocab)
    if mask > 0:
        words = tl.load(masks_ptr + (mask - 1).to(tl.int64) * n_words + ids // 32, mask=inside, other=0)
        x = tl.where((words >> (ids % 32)) & 1 != 0, x, MINUS_INFINITY)
    if (mask > 0) | (first < end):
        tl.store(source + ids, x, mask=inside)
        tl.debug_barrier()  # what a thread edits another one stored
        while first < end:
            edits = first + tl.arange(0, EDITS)
            token = tl.load(tokens_ptr + edits, mask=edits < end, other=0)
            here = (edits < end) & (token // TILE == tile)
            value = tl.load(source + token, mask=here, other=0.0)
            factor = tl.load(factors_ptr + edits, mask=here, other=1.0)
            value = tl.where(value > 0, tl.div_rn(value, factor), value * factor)
            value = value - tl.load(penalties_ptr + edits, mask=here, other=0.0)
            value = value + tl.load(biases_ptr + edits, mask=here, other=0.0)
            tl.store(source + token, value, mask=here)
            first += EDITS
        tl.debug_barrier()
        x = tl.load(source + ids, mask=inside, other=MINUS_INFINITY)
    tl.store(peaks_ptr + at, tl.max(x, axis=0))
    tl.store(peak_ids_ptr + at, tile * TILE + tl.argmax(x, axis=0))
    groups = tl.arange(0, TILE // GROUP)
    tl.store(group_peaks_ptr + at * (TILE // GROUP) + groups, tl.max(tl.reshape(x, (TILE // GROUP, GROUP)), axis=1))
    if tile == 0:
        tl.store(counts_ptr + row, 0)
        tl.store(totals_ptr + row, tl.zeros((), tl.int64))


@triton.jit
def gather_kernel(
    logits_ptr, shaped_ptr, peaks_ptr, group_peaks_ptr, candidates_ptr, counts_ptr, totals_ptr, bounds_ptr,
    top_p_ptr, temperature_ptr, min_p_ptr, top_k_ptr, mask_of_ptr, edit_ends_ptr,
    n_vocab, n_tiles, TILE: tl.constexpr, TILES: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """The weights that can be at or above the floor of top-k or top-p, in any order, and the sum of
    all weights.
    """
    row, tile = tl.program_id(0).to(tl.int64), tl.program_id(1)
    temperature, top_p, top_k = tl.load(temperature_ptr + row), tl.load(top_p_ptr + row), tl.load(top_k_ptr + row)
    best = _best(peaks_ptr, row, n_tiles, TILES)
    is_top_k = (top_k > 0) & (top_k < n_vocab)
    if (temperature > 0) & (is_top_k | (top_p < 1)) & (tl.abs(best) < float("inf")):
        bound = tl.maximum(((1 - top_p) / (2 * n_vocab)).to(tl.float32), tl.load(min_p_ptr + row))
        if is_top_k:  # 12 halvings come within a hundredth of the k-th peak
            n_groups: tl.constexpr = TILES * (TILE // GROUP)
            groups = tl.arange(0, n_groups)
            in_row = groups < n_tiles * (TILE // GROUP)
            peaks = tl.load(group_peaks_ptr + row * n_tiles * (TILE // GROUP) + groups, mask=in_row, other=MINUS_INFINITY)
            bits = _weights(peaks, best, temperature).to(tl.int32, bitcast=True)
            low, high = tl.zeros((), tl.int32), tl.full((), ONE + 1, tl.int32)
            for _ in range(12):
                middle = low + (high - low) // 2
                leaves = tl.sum((bits >= middle).to(tl.int32), axis=0) >= top_k
                low, high = tl.where(leaves, middle, low), tl.where(leaves, high, middle)
            bound = low.to(tl.float32, bitcast=True)
        bound = tl.maximum(bound, 1 / QUANTA)  # of less than a quantum nothing is ever drawn
        source, _, _, _ = _source(logits_ptr, shaped_ptr, mask_of_ptr, edit_ends_ptr, row, n_vocab)
        ids = tile * TILE + tl.arange(0, TILE)
        weights = _weights(tl.load(source + ids, mask=ids < n_vocab, other=MINUS_INFINITY), best, temperature)
        kept = (ids < n_vocab) & (weights >= bound)
        places = tl.cumsum(kept.to(tl.int32), axis=0)
        start = tl.atomic_add(counts_ptr + row, tl.max(places, axis=0), sem="relaxed")
        tl.store(candidates_ptr + row * n_vocab + start + places - 1, weights, mask=kept)
        tl.atomic_add(totals_ptr + row, tl.sum(_quanta(weights), axis=0), sem="relaxed")
        tl.store(bounds_ptr + row, bound)


@triton.jit
def _above(candidates_ptr, n, bits, BLOCK: tl.constexpr):
    """(number of candidates that are not below the weight of these bits, the sum of their weights),
    int64
    """
    count, total = tl.zeros((), tl.int64), tl.zeros((), tl.int64)
    start = tl.zeros((), tl.int32)
    while start < n:
        at = start + tl.arange(0, BLOCK)
        weights = tl.load(candidates_ptr + at, mask=at < n, other=-1.0)
        counted = weights >= bits.to(tl.float32, bitcast=True)
        count += tl.sum(counted.to(tl.int64), axis=0)
        total += tl.sum(tl.where(counted, _quanta(weights), 0), axis=0)
        start += BLOCK
    return count, total


@triton.jit
def _floor(candidates_ptr, n, low, enough, OF_COUNTS: tl.constexpr, BLOCK: tl.constexpr):
    """The bits of the highest floor that leaves `enough` (a count or a weight); `low` if no higher
    floor does.
    """
    high = tl.full((), ONE + 1, tl.int32)
    n_low, _ = _above(candidates_ptr, n, low, BLOCK)
    n_high = tl.zeros((), tl.int64)
    while (high - low > 1) & (n_low - n_high > 1):
        middle = low + (high - low) // 2
        count, total = _above(candidates_ptr, n, middle, BLOCK)
        leaves = (count if OF_COUNTS else total) >= enough
        low, n_low = tl.where(leaves, middle, low), tl.where(leaves, count, n_low)
        high, n_high = tl.where(leaves, high, middle), tl.where(leaves, n_high, count)
    return low


@triton.jit
def floor_kernel(
    peaks_ptr, candidates_ptr, counts_ptr, totals_ptr, bounds_ptr, floors_ptr, top_p_ptr, temperature_ptr, min_p_ptr, top_k_ptr,
    n_vocab, n_tiles, TILES: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The least weight that may be drawn: a row a program, over the row's candidates."""
    row = tl.program_id(0).to(tl.int64)
    temperature, top_p, top_k = tl.load(temperature_ptr + row), tl.load(top_p_ptr + row), tl.load(top_k_ptr + row)
    is_top_k = (top_k > 0) & (top_k < n_vocab)
    if (temperature > 0) & (tl.abs(_best(peaks_ptr, row, n_tiles, TILES)) < float("inf")):
        floor = tl.load(min_p_ptr + row)
        if is_top_k | (top_p < 1):
            candidates_ptr += row * n_vocab
            n, kept = tl.load(counts_ptr + row), tl.load(totals_ptr + row)
            low = tl.load(bounds_ptr + row).to(tl.int32, bitcast=True)
            if is_top_k:
                low = _floor(candidates_ptr, n, low, top_k.to(tl.int64), True, BLOCK)
                count, total = _above(candidates_ptr, n, low, BLOCK)
                kept = total - (count - top_k) * _quanta(low.to(tl.float32, bitcast=True))  # the sum of k, whatever ties with the last
            if top_p < 1:
                low = _floor(candidates_ptr, n, low, tl.maximum((top_p * kept.to(tl.float64)).to(tl.int64), 1), False, BLOCK)
            floor = tl.maximum(floor, low.to(tl.float32, bitcast=True))
        tl.store(floors_ptr + row, floor)


@triton.jit
def weigh_kernel(
    logits_ptr, shaped_ptr, peaks_ptr, floors_ptr, weighed_ptr, temperature_ptr, mask_of_ptr, edit_ends_ptr,
    n_vocab, n_tiles, TILE: tl.constexpr, TILES: tl.constexpr,
):  # fmt: skip
    """The weight of a tile after truncation."""
    row, tile = tl.program_id(0).to(tl.int64), tl.program_id(1)
    temperature, best = tl.load(temperature_ptr + row), _best(peaks_ptr, row, n_tiles, TILES)
    if (temperature > 0) & (tl.abs(best) < float("inf")):
        source, _, _, _ = _source(logits_ptr, shaped_ptr, mask_of_ptr, edit_ends_ptr, row, n_vocab)
        ids = tile * TILE + tl.arange(0, TILE)
        weights = _weights(tl.load(source + ids, mask=ids < n_vocab, other=MINUS_INFINITY), best, temperature)
        weighed = tl.sum(tl.where(weights >= tl.load(floors_ptr + row), _quanta(weights), 0), axis=0)
        tl.store(weighed_ptr + row * n_tiles + tile, weighed)


@triton.jit
def pick_kernel(
    logits_ptr, shaped_ptr, tops_ptr, sums_ptr, peaks_ptr, peak_ids_ptr, floors_ptr, weighed_ptr, drawn_ptr,
    points_ptr, temperature_ptr, mask_of_ptr, edit_ends_ptr,
    n_vocab, n_tiles, TILE: tl.constexpr, TILES: tl.constexpr,
):  # fmt: skip
    """The row's token: the best one, or the one at its random point, in the tile that contains the
    point.
    """
    row = tl.program_id(0).to(tl.int64)
    tiles = tl.arange(0, TILES)
    at, in_row = row * n_tiles + tiles, tiles < n_tiles
    tops = tl.load(tops_ptr + at, mask=in_row, other=MINUS_INFINITY)
    top = tl.max(tops, axis=0)
    sums = tl.load(sums_ptr + at, mask=in_row, other=0.0)
    total = top + tl.log(tl.sum(sums * tl.exp(tops - tl.where(top == MINUS_INFINITY, 0.0, top)), axis=0))
    peaks = tl.load(peaks_ptr + at, mask=in_row, other=MINUS_INFINITY)
    best = tl.max(peaks, axis=0)
    token = tl.load(peak_ids_ptr + row * n_tiles + tl.argmax(peaks, axis=0))
    allowed = tl.where(tl.abs(best) < float("inf"), 0, NOTHING_ALLOWED)
    status = tl.where(tl.abs(total) < float("inf"), allowed, NOT_FINITE)
    temperature = tl.load(temperature_ptr + row)
    if (temperature > 0) & (status == 0):
        weighed = tl.load(weighed_ptr + at, mask=in_row, other=0)
        whole = tl.sum(weighed, axis=0)
        point = tl.minimum((tl.load(points_ptr + row) * whole.to(tl.float64)).to(tl.int64), whole - 1)
        tile = tl.sum((tl.cumsum(weighed, axis=0) <= point).to(tl.int32), axis=0)
        before = tl.sum(tl.where(tiles < tile, weighed, 0), axis=0)
        source, _, _, _ = _source(logits_ptr, shaped_ptr, mask_of_ptr, edit_ends_ptr, row, n_vocab)
        ids = tile * TILE + tl.arange(0, TILE)
        weights = _weights(tl.load(source + ids, mask=ids < n_vocab, other=MINUS_INFINITY), best, temperature)
        quanta = tl.where(weights >= tl.load(floors_ptr + row), _quanta(weights), 0)
        token = tile * TILE + tl.sum((before + tl.cumsum(quanta, axis=0) <= point).to(tl.int32), axis=0)
    token = tl.where(status == 0, token, 0)
    logprob = tl.load(logits_ptr + row * n_vocab + token) - total
    tl.store(drawn_ptr + row * 4, token)
    tl.store(drawn_ptr + row * 4 + 1, status)
    tl.store(drawn_ptr + row * 4 + 2, logprob.to(tl.int32, bitcast=True))
    tl.store(drawn_ptr + row * 4 + 3, total.to(tl.int32, bitcast=True))


def sample(logits: Tensor, requests: SamplingRequests) -> Drawn:
    """One token a row, and its logprob under `logits`, which stay as they are.

    logits  [rows, vocab]  fp32; a vocabulary of up to 2^20
    returns [rows, 4]      int32, packed

    Traffic: the logits once for a greedy row (4 bytes a token of the vocabulary), twice more (from
    L2) for a random one, once more for one with top-k or top-p; a row with a mask or edits writes 4
    bytes a token and reads them back.
    """
    n_rows, n_vocab = logits.shape
    config = choice("sample", (n_vocab,), {"TILE": 4096, "num_warps": 8})
    tile, warps = config["TILE"], config["num_warps"]
    n_tiles = triton.cdiv(n_vocab, tile)
    tiles = triton.next_power_of_2(n_tiles)

    def new(dtype: torch.dtype, *shape: int) -> Tensor:
        return torch.empty(shape, dtype=dtype, device=logits.device)

    shaped, candidates = new(torch.float32, n_rows, n_vocab), new(torch.float32, n_rows, n_vocab)
    tops, sums, peaks = (new(torch.float32, n_rows, n_tiles) for _ in range(3))
    peak_ids, group_peaks = new(torch.int32, n_rows, n_tiles), new(torch.float32, n_rows, n_tiles * tile // GROUP)
    counts, totals, weighed = new(torch.int32, n_rows), new(torch.int64, n_rows), new(torch.int64, n_rows, n_tiles)
    bounds, floors, drawn = new(torch.float32, n_rows), new(torch.float32, n_rows), new(torch.int32, n_rows, 4)
    truncation = requests.top_p, requests.temperature, requests.min_p, requests.top_k
    edits = requests.tokens, requests.factors, requests.penalties, requests.biases
    launch(
        survey_kernel, (n_rows, n_tiles), logits, shaped, tops, sums, peaks, peak_ids, group_peaks, counts, totals,
        requests.mask_of, requests.masks, requests.edit_ends, *edits, n_vocab, n_tiles, requests.masks.shape[-1],
        TILE=tile, GROUP=GROUP, EDITS=1024, num_warps=warps,
    )  # fmt: skip
    launch(
        gather_kernel, (n_rows, n_tiles), logits, shaped, peaks, group_peaks, candidates, counts, totals, bounds,
        *truncation, requests.mask_of, requests.edit_ends, n_vocab, n_tiles, TILE=tile, TILES=tiles, GROUP=GROUP, num_warps=warps,
    )  # fmt: skip
    launch(
        floor_kernel, (n_rows,), peaks, candidates, counts, totals, bounds, floors,
        *truncation, n_vocab, n_tiles, TILES=tiles, BLOCK=4096, num_warps=warps,
    )  # fmt: skip
    launch(
        weigh_kernel, (n_rows, n_tiles), logits, shaped, peaks, floors, weighed,
        requests.temperature, requests.mask_of, requests.edit_ends, n_vocab, n_tiles, TILE=tile, TILES=tiles, num_warps=warps,
    )  # fmt: skip
    launch(
        pick_kernel, (n_rows,), logits, shaped, tops, sums, peaks, peak_ids, floors, weighed, drawn,
        requests.points, requests.temperature, requests.mask_of, requests.edit_ends, n_vocab, n_tiles,
        TILE=tile, TILES=tiles, num_warps=warps,
    )  # fmt: skip
    return Drawn(drawn)


def sample_twin(logits: Tensor, requests: SamplingRequests) -> Drawn:
    drawn = torch.empty(len(logits), 4, dtype=torch.int32, device=logits.device)
    totals, first = logits.logsumexp(-1), 0
    for row, end in enumerate(requests.edit_ends.tolist()):
        shaped = _shaped_twin(logits[row], requests, row, slice(first, end))
        token, first = int(shaped.argmax()), end
        status = Status.DRAWN if shaped[token].isfinite() else Status.NOTHING_ALLOWED
        status = status if totals[row].isfinite() else Status.NOT_FINITE
        if status == Status.DRAWN and requests.temperature[row] > 0:
            token = _drawn_twin(shaped, requests, row)
        token = token if status == Status.DRAWN else 0
        drawn[row, 0], drawn[row, 1] = token, int(status)
        drawn[row, 2:] = torch.stack([logits[row, token] - totals[row], totals[row]]).view(torch.int32)
    return Drawn(drawn)


def _shaped_twin(logits: Tensor, requests: SamplingRequests, row: int, edits: slice) -> Tensor:
    shaped = logits.clone()
    tokens = requests.tokens[edits].long()
    x, factors = shaped[tokens], requests.factors[edits]
    shaped[tokens] = torch.where(x > 0, x / factors, x * factors) - requests.penalties[edits] + requests.biases[edits]
    if mask := int(requests.mask_of[row]):
        ids = torch.arange(len(logits), device=logits.device)
        shaped[(requests.masks[mask - 1][ids // 32] >> (ids % 32)) & 1 == 0] = -torch.inf
    return shaped


def _drawn_twin(shaped: Tensor, requests: SamplingRequests, row: int) -> int:
    weights = ((shaped - shaped.max()) / requests.temperature[row].clamp(min=1e-30)).exp()
    ordered = weights.sort(descending=True)[0].double()
    kept = ordered[: int(requests.top_k[row]) or None]
    if requests.top_p[row] < 1:
        before = kept.cumsum(0) - kept
        kept = kept[before < requests.top_p[row] * kept.sum()]
    floor = torch.maximum(kept[-1].float(), requests.min_p[row])
    cumulative = weights.double().where(weights >= floor, 0).cumsum(0)
    return min(int((cumulative <= requests.points[row] * cumulative[-1]).sum()), int((cumulative < cumulative[-1]).sum()))
