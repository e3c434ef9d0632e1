"""Exact rows on torch: the same bits whatever the chunks, the pages, the company and the model's type."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch

from sgl_lab.contracts.errors import RequestFailed
from sgl_lab.contracts.params import SamplingParams
from sgl_lab.engine.compute.models.load import LoadedModel
from sgl_lab.engine.compute.runners.exact import TILE
from sgl_lab.engine.compute.runners.runner import TorchRunner
from sgl_lab.engine.plan import Row, RowOutput

from .tiny import Sequences, load_tiny, scores, tokens, write_tiny

DRAWN = SamplingParams(temperature=0.8, top_p=0.9, top_logprobs=5)


class Exact(Sequences):
    def row(self, request: int, tokens: list[int], **options: object) -> Row:  # type: ignore[override]  # passes everything on
        return replace(super().row(request, tokens, **options), is_exact=True)  # type: ignore[arg-type]  # the same ones


@pytest.fixture(scope="module", params=["float32", "bfloat16"])
def loaded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return load_tiny(write_tiny(tmp_path_factory.mktemp("exact")), request.param)


def bits(*outputs: RowOutput) -> tuple[object, ...]:
    """What must be equal to the bit: floats as they are, compared with ==, NaN in none of them."""
    assert [output.error for output in outputs] == [None] * len(outputs)
    return tuple((output.draws, output.target_logprobs) for output in outputs)


@pytest.fixture(scope="module")
def prompt() -> list[int]:
    return tokens(75)


@pytest.fixture(scope="module")
def alone(loaded: LoadedModel, prompt: list[int]) -> tuple[object, ...]:
    """Every position scored against the whole vocabulary, token by token."""
    rows = Exact(loaded, 1)
    return bits(*(rows.run(rows.row(1, [token], sample=DRAWN, n_targets=1))[0] for token in prompt))


def flat(found: tuple[object, ...]) -> list[tuple[float, ...]]:
    return [line for _, target_logprobs in found for line in target_logprobs]  # type: ignore[attr-defined, misc]  # as `bits` made it


@pytest.mark.parametrize("page_size", [1, 4, 16])
@pytest.mark.parametrize("chunks", [(75,), (16,) * 4 + (11,), (5, 1, 40, 29), (74, 1)])
def test_chunks_and_pages_change_no_bit(
    loaded: LoadedModel, prompt: list[int], alone: tuple[object, ...], chunks: tuple[int, ...], page_size: int
) -> None:
    rows = Exact(loaded, page_size)
    found, start = [], 0
    for n in chunks:
        found += rows.run(rows.row(1, prompt[start : start + n], sample=DRAWN, n_targets=n))
        start += n
    assert flat(bits(*found)) == flat(alone)
    assert bits(found[-1])[0][0] == alone[-1][0]  # type: ignore[index]  # what is drawn after the whole prompt


@pytest.mark.parametrize("n_others", [1, 8, 40])
def test_company_changes_no_bit_wherever_a_row_stands_in_it(
    loaded: LoadedModel, prompt: list[int], alone: tuple[object, ...], n_others: int
) -> None:
    draw = random.Random(n_others)
    for place in {0, n_others // 2, n_others}:
        rows = Exact(loaded, 4, n_pages=2048)
        found, start = [], 0
        while start < len(prompt):
            n = min(draw.choice((1, 1, 3, 20)), len(prompt) - start)
            plan = [rows.row(2 + i, tokens(draw.randrange(1, 4), i)) for i in range(n_others)]
            plan.insert(place, rows.row(1, prompt[start : start + n], sample=DRAWN, n_targets=n))
            plan.append(replace(Sequences.row(rows, 1000, tokens(2)), is_exact=False))
            found.append(rows.run(*plan)[place])
            start += n
        assert flat(bits(*found)) == flat(alone)
        assert bits(found[-1])[0][0] == alone[-1][0]  # type: ignore[index]


def test_the_lines_of_a_row_with_drafts_are_those_of_rows_without(loaded: LoadedModel, prompt: list[int]) -> None:
    rows = Exact(loaded, 1)
    rows.run(rows.row(1, prompt[:-1]), rows.row(2, prompt[:-1]))
    sequence, drawn = prompt[-1:], []
    for position in range(6):
        row = rows.row(1, sequence[-1:], sample=DRAWN)
        assert row.sample is not None
        sampling = replace(row.sample, position=position, prompt=prompt, generated=sequence[1:])
        drawn.append(rows.run(replace(row, sample=sampling))[0].draws[0])
        sequence.append(drawn[-1].token)
    row = rows.row(2, [*sequence[:-1], 0], sample=DRAWN)
    assert row.sample is not None
    drafted = rows.run(replace(row, n_drafts=6, sample=replace(row.sample, position=0, prompt=prompt, generated=())))[0]
    assert list(drafted.draws[:6]) == drawn


def test_exact_rows_compute_what_the_others_compute_but_for_rounding(loaded: LoadedModel, prompt: list[int]) -> None:
    exact, fast = Exact(loaded, 4), Sequences(loaded, 4)
    found = scores(exact.run(exact.row(1, prompt, n_targets=len(prompt)))[0])
    wanted = scores(fast.run(fast.row(1, prompt, n_targets=len(prompt)))[0])
    torch.testing.assert_close(found, wanted, rtol=0, atol=2e-5 if loaded.dtype == "float32" else 0.3)


def test_an_exact_row_that_reads_nan_fails_alone(loaded: LoadedModel, prompt: list[int]) -> None:
    rows = Exact(loaded, 1)
    rows.run(rows.row(1, prompt[:20]), rows.row(2, prompt[:20]))
    rows.runner.kv.poison(rows.pages(2)[3:4])
    sound, poisoned = rows.run(rows.row(1, [5], sample=DRAWN), rows.row(2, [5], sample=DRAWN))
    assert sound.error is None
    assert isinstance(poisoned.error, RequestFailed)


def test_where_the_rows_of_a_tile_differ_tokens_go_one_by_one(loaded: LoadedModel, prompt: list[int]) -> None:
    """A model whose arithmetic tells the first row of several from the others, as a kernel may."""
    runner = TorchRunner(loaded.model, 128)  # type: ignore[arg-type]  # float32 and bfloat16 are no packed model
    assert runner._exact.tile == TILE
    wrong = TorchRunner(Uneven(loaded.model), 128)  # type: ignore[arg-type]
    assert wrong._exact.tile == 1
    whole, pieces = Exact(loaded, 1, 128, runner=wrong), Exact(loaded, 1, 128, runner=wrong)
    (all_at_once,) = whole.run(whole.row(1, prompt[:20], sample=DRAWN))
    pieces.run(pieces.row(2, prompt[:9]), pieces.row(1, prompt[:13]))
    assert bits(pieces.run(pieces.row(2, prompt[9:12]), pieces.row(1, prompt[13:20], sample=DRAWN))[1]) == bits(all_at_once)


class Uneven:
    def __init__(self, model: object) -> None:
        self._model = model

    def __getattr__(self, name: str) -> object:
        return getattr(self._model, name)

    def forward(self, *arguments: object) -> torch.Tensor:
        hidden: torch.Tensor = self._model.forward(*arguments)  # type: ignore[attr-defined]
        hidden[0] *= 1 + 2**-6
        return hidden
