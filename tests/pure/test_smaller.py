"""A plan that is too large: everything that fits in pieces is computed, and what does not fails alone."""

from __future__ import annotations

from array import array
from collections.abc import Sequence

import pytest

from sgl_lab.contracts.errors import OutOfMemory
from sgl_lab.contracts.ids import RequestId
from sgl_lab.contracts.params import SamplingParams
from sgl_lab.engine.compute.runners.gpu.smaller import in_pieces
from sgl_lab.engine.plan import Plan, Row, RowOutput, Sampling
from sgl_lab.engine.tools.fake import HashModel, HashRunner

PROMPT = tuple(range(3, 24))


class Narrow:
    """Computes at most `n_most` tokens at once."""

    def __init__(self, n_most: int) -> None:
        self._runner = HashRunner(64, 4)
        self._n_most = n_most
        self.counts: list[int] = []

    def __call__(self, rows: Sequence[Row]) -> tuple[RowOutput, ...]:
        n = sum(len(row.tokens) for row in rows)
        if n > self._n_most:
            raise OutOfMemory(f"{n} tokens")
        self.counts.append(n)
        return self._runner.run(Plan(0, tuple(rows)))


def plan(n_drafts: int = 0) -> tuple[Row, ...]:
    model = HashModel()
    reply = model.reply(PROMPT[:-1], SamplingParams(temperature=0), 0, 6)
    draft = (*reply[:n_drafts],)
    drawn = Sampling(SamplingParams(temperature=0), 0, 0, PROMPT, ())
    targets = ((5,), (), (7, 8), *((),) * n_drafts)
    return (
        Row(RequestId(1), PROMPT[:-1] + draft, 0, array("i", range(8)), drawn, targets, n_drafts),
        Row(RequestId(2), PROMPT, 0, array("i", range(8, 16)), None, tuple((token,) for token in PROMPT)),
        Row(RequestId(3), (5,), 0, array("i", [16]), drawn),
    )


@pytest.mark.parametrize("n_drafts", [0, 3])
@pytest.mark.parametrize("n_most", [4, 5, 11, 40])
def test_what_is_computed_in_pieces_is_what_is_computed_at_once(n_most: int, n_drafts: int) -> None:
    rows = plan(n_drafts)
    whole, narrow = Narrow(1000), Narrow(n_most)
    outputs = in_pieces(rows, narrow)
    assert outputs == whole(rows)
    assert len(outputs[0].draws) == n_drafts + 1
    assert max(narrow.counts) <= n_most
    assert sum(narrow.counts) == sum(len(row.tokens) for row in rows)


def test_a_row_whose_draws_alone_are_too_many_fails_alone() -> None:
    first, *others = in_pieces(plan(3), Narrow(3))
    assert isinstance(first.error, OutOfMemory)
    assert [output.error for output in others] == [None, None]
