"""The whole tiny model through the kernels: what torch says, however a request is cut, shared, drafted and batched."""

from __future__ import annotations

import gc
import traceback
import weakref
from array import array
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sgl_lab.contracts.errors import DeviceUnfit, OutOfMemory, RequestFailed
from sgl_lab.contracts.params import SamplingParams
from sgl_lab.engine.compute.models import device_decoder
from sgl_lab.engine.compute.models.decoder import Decoder
from sgl_lab.engine.compute.runners.gpu.device import DeviceRunner
from sgl_lab.engine.compute.runners.kv import KvStore
from sgl_lab.engine.compute.runners.runner import TorchRunner
from sgl_lab.engine.plan import Overlapping, Plan, Row, RowOutput, Timed

from ..torch.tiny import GREEDY, Sequences, scores, tokens

N_PAGES = 96


def on_kernels(model: Decoder, page_size: int = 1, **options: Any) -> Sequences:
    return Sequences(None, page_size, N_PAGES, runner=DeviceRunner(model, N_PAGES, page_size, **options))  # type: ignore[arg-type]


def on_torch(model: Decoder, page_size: int = 1) -> Sequences:
    return Sequences(None, page_size, N_PAGES, runner=TorchRunner(model, N_PAGES, page_size))  # type: ignore[arg-type]


class Both:
    """The same plans on the kernels and on torch, whose outputs must be alike."""

    def __init__(self, model: Decoder, page_size: int, **options: Any) -> None:
        self.ours, self.theirs = on_kernels(model, page_size, **options), on_torch(model, page_size)

    def run(self, describe: Callable[[Sequences], Sequence[Row]]) -> tuple[RowOutput, ...]:
        ours, theirs = (rows.run(*describe(rows)) for rows in (self.ours, self.theirs))
        for mine, wanted in zip(ours, theirs, strict=True):
            assert mine.error is None
            assert wanted.error is None
            assert [draw.token for draw in mine.draws] == [draw.token for draw in wanted.draws]
            assert [draw.logprob for draw in mine.draws] == pytest.approx([draw.logprob for draw in wanted.draws], abs=2e-5)
            assert [[token for token, _ in draw.top] for draw in mine.draws] == [[token for token, _ in draw.top] for draw in wanted.draws]
            assert len(mine.scores) == len(wanted.scores)
            for score, other in zip(mine.scores, wanted.scores, strict=True):
                assert score.logprobs == pytest.approx(other.logprobs, abs=2e-5)
                assert [token for token, _ in score.top] == [token for token, _ in other.top]
                assert [value for _, value in score.top] == pytest.approx([value for _, value in other.top], abs=2e-5)
        return ours


@pytest.mark.parametrize("page_size", [1, 4])
def test_requests_cut_and_batched_in_many_ways_compute_what_torch_computes(model: Decoder, page_size: int) -> None:
    both, prompt = Both(model, page_size), tokens(40)
    both.run(lambda rows: [rows.row(1, prompt[:23], n_targets=23), rows.row(2, prompt[:6])])
    both.run(lambda rows: [rows.row(1, prompt[23:], n_targets=17, sample=GREEDY), rows.row(2, prompt[6:7], sample=GREEDY)])
    both.run(lambda rows: [rows.row(2, prompt[7:9], n_targets=1), rows.row(3, prompt[:1], n_targets=1), rows.row(1, [5], sample=GREEDY)])
    for token in 3, 4:
        both.run(lambda rows, token=token: [rows.row(request, [token], sample=GREEDY) for request in (3, 1, 2)])


def test_a_step_without_readers_only_writes(model: Decoder) -> None:
    both, prompt = Both(model, 4), tokens(9)
    both.run(lambda rows: [rows.row(1, prompt[:8])])
    both.run(lambda rows: [rows.row(1, prompt[8:], n_targets=1)])


def test_rows_that_share_a_beginning_attend_to_it_together(model: Decoder) -> None:
    both, prompt = Both(model, 4, shared_from=8), tokens(23)
    both.run(lambda rows: [rows.row(1, prompt)])

    def forks(rows: Sequences) -> list[Row]:
        for request in 2, 3, 4:
            rows.adopt(request, 1)
        return [rows.row(request, prompt[20:]) for request in (2, 3, 4)]

    both.run(forks)
    for token in 3, 4:
        both.run(lambda rows, token=token: [rows.row(request, [token + request], sample=GREEDY) for request in (2, 5, 4, 1, 3)])


def test_a_page_table_that_grows_is_the_one_that_is_read_from_then_on(model: Decoder) -> None:
    ours = Sequences(None, 1, 1100, runner=DeviceRunner(model, 1100))  # type: ignore[arg-type]
    torchs = on_torch(model)

    def decode(token: int, n_more: int = 0) -> list[int]:
        rows = [ours.row(i, [token], sample=GREEDY) for i in (1, 2)]
        rows[0] = replace(rows[0], pages=array("i", [*rows[0].pages, *[0] * n_more]))
        wanted = torchs.run(*(torchs.row(i, [token], sample=GREEDY) for i in (1, 2)))
        assert [output.draws[0].token for output in ours.run(*rows)] == [output.draws[0].token for output in wanted]
        return [output.draws[0].token for output in wanted]

    assert len({tuple(tokens_drawn) for tokens_drawn in (decode(3), decode(4, n_more=1050), decode(5), decode(6))}) > 1


DRAWS = (
    SamplingParams(temperature=0.9, top_logprobs=3),
    SamplingParams(temperature=1.3, top_k=7, top_p=0.8),
    SamplingParams(temperature=0.7, min_p=0.05, top_k=1 << 40),
    SamplingParams(temperature=0, logit_bias=((7, 4.0), (200, 1.0)), presence_penalty=1.0),
    SamplingParams(temperature=0.7, frequency_penalty=0.5, repetition_penalty=1.3),
)


@pytest.mark.parametrize("n_tokens", [1, 8])
def test_every_way_to_draw_gives_what_torch_draws(model: Decoder, n_tokens: int) -> None:
    """Of rows that decode the plain ones are drawn with the pass, if all are."""
    both, prompt = Both(model, 1), tokens(12)
    mask = memoryview(np.array([0x0F0F0F0F, 0xFF, 0, 1], np.uint32))

    def rows(sequences: Sequences, params: Sequence[SamplingParams]) -> list[Row]:
        found = []
        for i, asked in enumerate(params):
            row = sequences.row(i, prompt[: n_tokens + (n_tokens > 1) * i], sample=asked)
            assert row.sample is not None
            early = (row.tokens[0], 11) if i == 3 else ()
            sample = replace(row.sample, seed=i, generated=[9, 9, 4], banned_early=early, masks=(mask,) if i == 4 else ())
            found.append(replace(row, sample=sample))
        return found

    both.run(lambda sequences: rows(sequences, DRAWS))
    both.run(lambda sequences: rows(sequences, DRAWS[:3]))


def test_masks_are_read_once_they_are_filled(model: Decoder) -> None:
    """Before anything is drawn, once, and not before the model was started."""
    rows = on_kernels(model)
    words = np.zeros(4, np.uint32)
    row = rows.row(1, tokens(3), sample=GREEDY)
    assert row.sample is not None
    calls = []

    def fill() -> None:
        calls.append(1)
        words[1] = 1 << 9

    (output,) = rows.runner.run(Plan(0, (replace(row, sample=replace(row.sample, masks=(memoryview(words),))),), fill))
    assert (output.draws[0].token, len(calls)) == (41, 1)


def test_drafts_that_come_true_are_drawn_in_one_step(model: Decoder) -> None:
    both, prompt = Both(model, 4), tokens(10)
    tokens_drawn = [both.run(lambda rows: [rows.row(1, prompt, sample=GREEDY)])[0].draws[0].token]
    for _ in range(3):
        tokens_drawn.append(both.run(lambda rows: [rows.row(1, tokens_drawn[-1:], sample=GREEDY)])[0].draws[0].token)
    both.run(lambda rows: [rows.row(2, prompt)])
    draft = [*tokens_drawn[:3], 0]
    wrong = both.run(lambda rows: [replace(rows.row(2, [*draft, 1], sample=GREEDY), n_drafts=4), rows.row(1, [0], sample=GREEDY)])
    assert [draw.token for draw in wrong[0].draws] == tokens_drawn[1:]


def test_a_row_that_follows_takes_the_token_that_is_being_drawn(model: Decoder) -> None:
    rows, torchs = on_kernels(model), on_torch(model)
    runner: Any = rows.runner
    assert isinstance(runner, Overlapping)
    assert isinstance(runner, Timed)
    prompt = tokens(6)
    first = runner.start(Plan(0, (rows.row(1, prompt, sample=GREEDY), rows.row(2, prompt[:4], sample=GREEDY))))
    steps = [first]
    for n in range(2):
        steps.append(runner.overlap(Plan(n, tuple(replace(rows.row(i, [0], sample=GREEDY), is_overlapped=True) for i in (1, 2)))))
    tokens_drawn = [[output.draws[0].token for output in step()] for step in steps]
    for i, start in ((1, prompt), (2, prompt[:4])):
        for n, token in enumerate(step[i - 1] for step in tokens_drawn):
            (wanted,) = torchs.run(torchs.row(i, start if n == 0 else tokens_drawn[n - 1][i - 1 : i], sample=GREEDY))
            assert token == wanted.draws[0].token
    assert runner.seconds["sampler"] > 0


def test_a_row_with_nan_fails_alone(model: Decoder) -> None:
    both, prompt = Both(model, 4), tokens(10)
    rows = both.ours
    rows.run(rows.row(1, prompt), rows.row(2, prompt))
    rows.runner.kv.poison([rows.pages(2)[1]])
    sound, broken, scored = rows.run(rows.row(1, [5], sample=GREEDY), rows.row(2, [5], sample=GREEDY), rows.row(3, prompt[:2], n_targets=1))
    assert isinstance(broken.error, RequestFailed)
    assert sound.error is scored.error is None


def test_a_copied_page_goes_on_as_the_original(model: Decoder) -> None:
    rows = on_kernels(model, 4)
    prompt = tokens(11)
    rows.run(rows.row(1, prompt[:10]))
    twin = array("i", rows.pages(1))
    rows.row(2, [0])
    rows.runner.copy_page(twin[-1], rows.pages(2)[0])
    twin[-1] = rows.pages(2)[0]
    row = rows.row(1, prompt[10:], n_targets=1)
    original = rows.run(row)
    rows.runner.kv.poison([rows.pages(1)[2]])
    assert rows.run(replace(row, pages=twin)) == original


# ------------------------------------------------------------ exact rows


class Exact(Sequences):
    def row(self, request: int, tokens: Sequence[int], **options: Any) -> Row:
        return replace(super().row(request, tokens, **options), is_exact=True)


def test_an_exact_row_has_the_same_bits_alone_in_chunks_and_in_company(model: Decoder) -> None:
    prompt = tokens(12)
    drawn = SamplingParams(temperature=0.8, top_p=0.9, top_logprobs=2)
    alone = Exact(None, 1, N_PAGES, runner=DeviceRunner(model, N_PAGES))  # type: ignore[arg-type]
    (whole,) = alone.run(alone.row(1, prompt[:-1], n_targets=11))
    (last,) = alone.run(alone.row(1, prompt[-1:], sample=drawn, n_targets=1))
    rows = Exact(None, 4, N_PAGES, runner=DeviceRunner(model, N_PAGES, 4))  # type: ignore[arg-type]
    found, start = [], 0
    for n, company in ((3, 0), (7, 2), (1, 1)):
        others = [rows.row(2 + i, tokens(1 + i % 2, i)) for i in range(company)]
        plain = replace(Sequences.row(rows, 99, tokens(2)), is_exact=False)
        outputs = rows.run(*others, rows.row(1, prompt[start : start + n], n_targets=n), plain)
        found += outputs[company].scores
        start += n
    assert tuple(found) == whole.scores
    *_, again = rows.run(rows.row(2, [5], sample=GREEDY), rows.row(1, prompt[-1:], sample=drawn, n_targets=1))
    assert (again.draws, again.scores) == (last.draws, last.scores)
    torchs = on_torch(model)
    (wanted,) = torchs.run(torchs.row(1, prompt, n_targets=12))
    torch.testing.assert_close(torch.cat([scores(whole), scores(last)]), scores(wanted), rtol=0, atol=2e-5)


def test_what_one_pass_draws_is_fetched_before_another_may_write_over_it(model: Decoder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Recordings share their memory: what one gave is any other's to work in."""
    rows = on_kernels(model)
    forward: Any = rows.runner._forward  # type: ignore[attr-defined]
    plan = [replace(rows.row(i, [5 + i], sample=GREEDY), is_exact=i == 2) for i in (1, 2)]
    wanted = rows.run(*plan)
    start, drawn = forward.start, []

    def overwriting(*args: Any) -> Any:
        for packed in drawn:
            packed.zero_()
        (part,) = start(*args)
        drawn.append(part.packed)
        return iter((part,))

    monkeypatch.setattr(forward, "start", overwriting)
    assert rows.run(*plan) == wanted
    assert len(drawn) == 2


# ------------------------------------------------------------ memory


class Cramped(Tensor):
    """An embedding beside which there is memory for no more than `n_most` tokens."""

    n_most = 8

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is torch.nn.functional.embedding and len(args[0]) > cls.n_most:
            raise torch.OutOfMemoryError("Tried to allocate 1.50 GiB")
        return super().__torch_function__(function, types, args, kwargs or {})


def test_a_step_that_is_too_large_for_the_memory_is_computed_in_pieces(model: Decoder) -> None:
    cramped = copy(model)
    cramped.embedding = model.embedding.as_subclass(Cramped)
    both, prompt = Both(model, 4), tokens(21)
    both.ours = on_kernels(cramped, 4)
    both.run(lambda rows: [rows.row(1, prompt[:5], sample=GREEDY), rows.row(2, prompt, n_targets=11), rows.row(3, prompt[:1])])
    Cramped.n_most = 0
    try:
        (output,) = both.ours.run(both.ours.row(1, [3], sample=GREEDY))
    finally:
        Cramped.n_most = 8
    assert isinstance(output.error, OutOfMemory)
    assert "1.50 GiB" in output.error.message


def test_the_error_of_a_pool_that_does_not_fit_holds_on_to_none_of_it(model: Decoder, monkeypatch: pytest.MonkeyPatch) -> None:
    """A notebook keeps the last error, and what its frames refer to."""
    empty, left = torch.empty, [None] * 3

    def scarce(*args: Any, **how: Any) -> Tensor:
        if not left:
            raise torch.OutOfMemoryError("Tried to allocate 1.50 GiB")
        left.pop()
        return empty(*args, **how)

    monkeypatch.setattr(torch, "empty", scarce)
    with pytest.raises(OutOfMemory) as caught:
        KvStore(model.spec, 8, 1, device=model.device, dtype=model.dtype)
    *_, (frame, _) = traceback.walk_tb(caught.tb)
    assert frame.f_locals["self"].keys == frame.f_locals["self"].values == []


def test_a_runner_that_was_tried_out_is_as_if_new(model: Decoder) -> None:
    tried, fresh = on_kernels(model, 4), on_kernels(model, 4)
    tried.runner.try_out()  # type: ignore[attr-defined]
    assert tried.runner.seconds == {"sampler": 0.0}
    for rows in tried, fresh:
        rows.run(rows.row(1, tokens(9)))
    assert tried.run(tried.row(1, [3], sample=GREEDY)) == fresh.run(fresh.row(1, [3], sample=GREEDY))


def test_kernels_that_cannot_be_compiled_are_one_line_and_leave_no_memory_in_use(model: Decoder, monkeypatch: pytest.MonkeyPatch) -> None:
    def uncompiled(*args: object) -> None:
        raise RuntimeError("Failed to find C compiler.\nPlease specify via CC environment variable")

    monkeypatch.setattr(device_decoder, "rms_norm", uncompiled)

    tokens_drawn: list[str] = []

    def made() -> weakref.ref[Decoder]:
        weights = copy(model)
        runner = DeviceRunner(weights, N_PAGES)
        try:
            runner.try_out()
        except DeviceUnfit as error:
            tokens_drawn.append(str(error))
        assert runner.kv.keys == []
        return weakref.ref(weights)

    gc.disable()
    try:
        assert made()() is None
    finally:
        gc.enable()
    assert tokens_drawn == [f"{model.device} cannot run our kernels: Failed to find C compiler. (use device cpu)"]


def test_closing_gives_the_memory_back(model: Decoder) -> None:
    rows = on_kernels(model)
    rows.run(rows.row(1, [3], sample=GREEDY))
    rows.runner.close()
    assert rows.runner.kv.keys == rows.runner.kv.values == []


def test_closing_frees_the_weights_before_torch_is_asked_for_its_reserve(model: Decoder, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = copy(model)
    runner: Any = DeviceRunner(weights, N_PAGES)
    is_there, found = weakref.ref(weights), []
    del weights
    runner._device = torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: found.append(is_there()))
    runner.close()
    assert found == [None]
