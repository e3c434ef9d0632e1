"""Rates of an engine from the steps that it ran."""

from __future__ import annotations

import pytest

from sgl_lab.contracts.events import Entry, StepRan
from sgl_lab.contracts.ids import RequestId
from sgl_lab.trace.rates import rates_of

ONE, TWO = RequestId(1), RequestId(2)


def step(ms: float, prefill: int, *decode: RequestId) -> Entry:
    return Entry(0, 0, StepRan(1, ((ONE, prefill),) if prefill else (), decode, 0, 0, ms))


def test_decode_is_measured_in_steps_without_prompts_and_prefill_beside_it() -> None:
    rates = rates_of([step(20, 0, ONE), step(20, 0, ONE, TWO), step(100, 90), step(120 / 9, 1, TWO), step(20, 0, TWO)])
    assert rates is not None
    assert rates.n_steps == 5
    assert rates.decode == pytest.approx(4 / 0.06)
    assert rates.prefill == pytest.approx(91 / (0.1 + 0.12 / 9 - 1 / rates.decode), rel=1e-6)
    assert rates.seconds(91, 8) == pytest.approx(91 / rates.prefill + 8 / rates.decode)


def test_nothing_is_known_without_both_kinds_of_steps() -> None:
    assert rates_of([]) is None
    assert rates_of([step(5, 9)]) is None
    assert rates_of([step(5, 0, ONE)]) is None
