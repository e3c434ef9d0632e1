"""The statistics of a grid: against exact integers by hand, and against scipy's."""

from __future__ import annotations

from fractions import Fraction
from itertools import product
from math import comb

import pytest

from sgl_lab.viz.explain.statistics import Paired, in_words, mcnemar, paired, wilson


def test_mcnemar_is_the_exact_binomial_of_integers() -> None:
    for fixed, broken in product(range(40), repeat=2):
        n = fixed + broken
        # all splits that are no likelier than this one
        rare = sum(comb(n, k) for k in range(n + 1) if comb(n, k) <= comb(n, fixed))
        assert mcnemar(fixed, broken) == float(Fraction(rare, 2**n)), (fixed, broken)
    assert mcnemar(4, 1) == 0.375
    assert mcnemar(3_000, 2_000) == float(Fraction(2 * sum(comb(5_000, k) for k in range(2_001)), 2**5_000))


def test_wilson_solves_its_own_equation_and_reaches_both_ends() -> None:
    """The bounds are the shares whose distance from what was seen is z standard errors."""
    z = 1.959963984540054
    for n in (1, 2, 7, 40, 500, 100_000):
        for passed in sorted({0, 1, n // 3, n // 2, n - 1, n}):
            low, high = wilson(passed, n)
            assert 0 <= low <= passed / n <= high <= 1
            for bound in {low, high} - {0.0, 1.0}:
                assert abs(passed / n - bound) == pytest.approx(z * (bound * (1 - bound) / n) ** 0.5, rel=1e-9)
    assert wilson(0, 10)[0] == 0.0
    assert wilson(10, 10)[1] == 1.0
    assert wilson(0, 0) == (0.0, 1.0)
    for bad in ((1, 0), (-1, 3), (4, 3)):
        with pytest.raises(ValueError, match="not a share"):
            wilson(*bad)


def test_both_equal_scipys() -> None:
    stats = pytest.importorskip("scipy.stats")
    for n in (1, 2, 5, 13, 40, 200):
        for k in range(n + 1):
            found = stats.binomtest(k, n, 0.5)
            assert mcnemar(k, n - k) == pytest.approx(found.pvalue, rel=1e-12)
            interval = found.proportion_ci(0.95, method="wilson")
            assert wilson(k, n) == pytest.approx((interval.low, interval.high), rel=1e-12, abs=1e-15)
            interval = found.proportion_ci(0.8, method="wilson")
            assert wilson(k, n, 0.8) == pytest.approx((interval.low, interval.high), rel=1e-12, abs=1e-15)


def test_a_comparison_is_a_sentence() -> None:
    before = [True] * 5 + [False] * 6
    after = [True] * 4 + [False] + [True] * 4 + [False] * 2
    assert paired(before, after) == Paired(11, 4, 1, 0.375)
    assert in_words(paired(before, after), "v2", "v3") == "v3 fixes 4 rows of v2 and breaks 1; p = 0.38: not shown to be better"
    assert in_words(Paired(40, 9, 0, mcnemar(9, 0)), "v1", "v2") == "v2 fixes 9 rows of v1; p = 0.0039: better"
    assert in_words(Paired(40, 0, 12, mcnemar(0, 12)), "v1", "v2") == "v2 breaks 12 rows of v1; p < 0.001: worse"
    assert in_words(Paired(40, 0, 1, 1.0), "v1", "v2") == "v2 breaks 1 row of v1; p = 1.00: not shown to be worse"
    assert in_words(Paired(40, 2, 2, 1.0), "v1", "v2") == "v2 fixes 2 rows of v1 and breaks 2; p = 1.00: no difference is shown"
    assert in_words(Paired(40, 0, 0, 1.0), "v1", "v2") == "v2 passes the same of 40 rows as v1"
    assert in_words(Paired(0, 0, 0, 1.0), "v1", "v2") == "v2 and v1 have no finished row in common"
