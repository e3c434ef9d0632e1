"""A plan computes the same whatever the pages, the chunks and the company."""

from __future__ import annotations

from array import array
from pathlib import Path

import pytest
import torch

from sgl_lab.contracts.errors import RequestFailed
from sgl_lab.engine.compute.models.load import LoadedModel

from .tiny import GREEDY, Sequences, load_tiny, scores, tokens


def assert_close(found: torch.Tensor, wanted: torch.Tensor) -> None:
    torch.testing.assert_close(found, wanted, rtol=0, atol=2e-5)


@pytest.fixture(scope="module")
def prompt() -> list[int]:
    return tokens(40)


@pytest.fixture(scope="module")
def expected(tiny: LoadedModel, prompt: list[int]) -> torch.Tensor:
    """Logprobs after every token of the prompt, computed in one piece on pages of one token."""
    rows = Sequences(tiny, 1)
    return scores(rows.run(rows.row(1, prompt, n_targets=len(prompt)))[0])


@pytest.mark.parametrize("page_size", [1, 4, 16])
@pytest.mark.parametrize("chunks", [(40,), (1,) * 40, (7, 1, 16, 16), (39, 1)])
def test_chunks_and_page_sizes_do_not_matter(
    tiny: LoadedModel, prompt: list[int], expected: torch.Tensor, page_size: int, chunks: tuple[int, ...]
) -> None:
    rows = Sequences(tiny, page_size)
    found, start = [], 0
    for n in chunks:
        found.append(scores(rows.run(rows.row(1, prompt[start : start + n], n_targets=n))[0]))
        start += n
    assert_close(torch.cat(found), expected)


@pytest.mark.parametrize("page_size", [1, 4])
def test_a_row_in_company_computes_what_it_computes_alone(
    tiny: LoadedModel, prompt: list[int], expected: torch.Tensor, page_size: int
) -> None:
    rows = Sequences(tiny, page_size)
    rows.run(rows.row(1, prompt[:39]), rows.row(2, prompt[:5]), rows.row(3, prompt[:20]))
    outputs = rows.run(
        rows.row(4, prompt[:11], n_targets=2),
        rows.row(1, prompt[39:], n_targets=1),
        rows.row(3, prompt[20:30], n_targets=3),
        rows.row(2, prompt[5:6], n_targets=1),
        rows.row(5, prompt[:1], n_targets=1),
    )
    ends = {4: (9, 11), 1: (39, 40), 3: (27, 30), 2: (5, 6), 5: (0, 1)}
    for output, (begin, end) in zip(outputs, ends.values(), strict=True):
        assert_close(scores(output), expected[begin:end])


def test_a_sampled_token_is_the_likeliest_and_has_its_logprob(tiny: LoadedModel, prompt: list[int], expected: torch.Tensor) -> None:
    rows = Sequences(tiny, 4)
    (output,) = rows.run(rows.row(1, prompt, sample=GREEDY))
    (draw,) = output.draws
    assert draw.token == expected[-1].argmax()
    assert draw.logprob == pytest.approx(expected[-1].max().item(), abs=2e-5)
    assert draw.top == output.target_logprobs == ()


def test_a_chunk_that_is_not_the_last_draws_nothing(tiny: LoadedModel, prompt: list[int]) -> None:
    rows = Sequences(tiny, 4)
    (output,) = rows.run(rows.row(1, prompt))
    assert (output.draws, output.error) == ((), None)


def test_each_position_is_scored_for_its_own_candidates(tiny: LoadedModel, prompt: list[int], expected: torch.Tensor) -> None:
    rows = Sequences(tiny, 1)
    row = rows.row(1, prompt, n_targets=3)
    targets = ((5,), (), (8, 8, 90))
    (output,) = rows.run(type(row)(row.request, row.tokens, row.start, row.pages, None, targets))
    assert [len(part) for part in output.target_logprobs] == [1, 0, 3]
    assert output.target_logprobs[0][0] == pytest.approx(expected[37, 5].item(), abs=2e-5)
    assert output.target_logprobs[2] == pytest.approx(expected[39, [8, 8, 90]].tolist(), abs=2e-5)


def test_more_targets_than_fit_at_once_are_all_scored(tiny: LoadedModel) -> None:
    prompt = tokens(200)
    rows = Sequences(tiny, 16)
    whole = scores(rows.run(rows.row(1, prompt, n_targets=200))[0])
    rows.run(rows.row(2, prompt[:150]))
    assert whole.shape == (200, 97)
    assert_close(whole[150:], scores(rows.run(rows.row(2, prompt[150:], n_targets=50))[0]))


def test_a_copied_page_continues_as_the_original(tiny: LoadedModel, prompt: list[int], expected: torch.Tensor) -> None:
    rows = Sequences(tiny, 4)
    rows.run(rows.row(1, prompt[:38]))
    twin = array("i", rows.pages(1))
    rows.row(2, [0])
    rows.runner.copy_page(twin[-1], rows.pages(2)[0])
    twin[-1] = rows.pages(2)[0]
    original = rows.row(1, prompt[38:], n_targets=2)
    rows.runner.kv.poison([rows.pages(1)[9]])
    (output,) = rows.run(type(original)(original.request, original.tokens, 38, twin, None, original.targets))
    assert_close(scores(output), expected[38:])


def test_a_row_with_nan_fails_alone(tiny: LoadedModel, prompt: list[int], expected: torch.Tensor) -> None:
    rows = Sequences(tiny, 4)
    rows.run(rows.row(1, prompt[:39]), rows.row(2, prompt[:39]), rows.row(3, prompt[:10]))
    rows.runner.kv.poison([rows.pages(2)[3]])
    healthy, broken, scored, short = rows.run(
        rows.row(1, prompt[39:], sample=GREEDY),
        rows.row(2, prompt[39:], sample=GREEDY, n_targets=1),
        rows.row(4, prompt, n_targets=1),
        rows.row(3, prompt[10:11], sample=GREEDY),
    )
    assert isinstance(broken.error, RequestFailed)
    assert not broken.draws
    assert healthy.draws[0].token == expected[39].argmax()
    assert short.draws[0].token == expected[10].argmax()
    assert_close(scores(scored), expected[39:])


def test_pages_may_grow_once_a_step_is_over(tiny: LoadedModel, prompt: list[int]) -> None:
    rows = Sequences(tiny, 1)
    row = rows.row(1, prompt, sample=GREEDY)
    output = rows.run(row)
    row.pages.append(7)
    assert output[0].draws


def test_bfloat16_stays_close_to_float32(tiny_folder: Path, prompt: list[int], expected: torch.Tensor) -> None:
    rows = Sequences(load_tiny(tiny_folder, "bfloat16"), 4)
    found = [scores(rows.run(rows.row(1, prompt[:39], n_targets=39))[0]), scores(rows.run(rows.row(1, prompt[39:], n_targets=1))[0])]
    difference = (torch.cat(found) - expected).abs()
    assert 0 < difference.mean() < 0.05


def test_closing_gives_the_memory_back(tiny: LoadedModel) -> None:
    rows = Sequences(tiny, 4)
    rows.runner.close()
    assert rows.runner.kv.keys == rows.runner.kv.values == []
