"""What counts of passed rows show: a share with its interval, and whether one version is better
than another.

Pure functions of integers. They know no grid.
"""

from __future__ import annotations

from math import sqrt
from statistics import NormalDist
from typing import NamedTuple

LEVEL = 0.95
"""confidence of an interval"""
SHOWN = 0.05
"""p-values below this count as shown"""


def wilson(n_passed: int, n: int, level: float = LEVEL) -> tuple[float, float]:
    """The interval of the true share of passes, from 0 to 1, when `n_passed` of `n` pass. (0, 1) for
    no rows.

    The score interval: E. B. Wilson 1927, doi:10.2307/2276774. It is also right for 0 and for all.
    """
    if not 0 <= n_passed <= n:
        raise ValueError(f"{n_passed} of {n} is not a share")
    if n == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf(0.5 + level / 2)
    share, spread = n_passed / n, z * z / n
    centre = (share + spread / 2) / (1 + spread)
    half = z / (1 + spread) * sqrt(share * (1 - share) / n + spread / (4 * n))
    low = 0.0 if n_passed == 0 else centre - half
    return low, 1.0 if n_passed == n else centre + half


def mcnemar(n_fixed: int, n_broken: int) -> float:
    """The exact two-sided p-value that as uneven a split as `n_fixed` to `n_broken` is chance, when a row
    that differs is as likely to be fixed as broken. Rows that both versions pass, or both fail, do
    not count.

    Q. McNemar 1947, doi:10.1007/BF02295996, with the binomial distribution in place of chi-square.
    """
    n, k = n_fixed + n_broken, min(n_fixed, n_broken)
    if k < 0:
        raise ValueError(f"{n_fixed} and {n_broken} are not counts")
    term = ways = 1  # of n over 0
    for i in range(1, k + 1):
        term = term * (n - i + 1) // i
        ways += term
    doubled = 2 * ways
    return 1.0 if doubled >= 1 << n else doubled / (1 << n)


class Paired(NamedTuple):
    """Two versions on the rows that both have finished."""

    n_rows: int
    n_fixed: int
    """rows that the first fails and the second passes"""
    n_broken: int
    p: float


def paired(before: list[bool], after: list[bool]) -> Paired:
    """Compare two versions, by whether each row passes in the first and in the second."""
    pairs = list(zip(before, after, strict=True))
    n_fixed, n_broken = pairs.count((False, True)), pairs.count((True, False))
    return Paired(len(pairs), n_fixed, n_broken, mcnemar(n_fixed, n_broken))


def in_words(found: Paired, before: str, after: str) -> str:
    """The comparison in one sentence: "v3 fixes 4 rows of v2 and breaks 1; p = 0.38: not shown to be
    better".
    """
    if found.n_rows == 0:
        return f"{after} and {before} have no finished row in common"
    rows = "row" if found.n_rows == 1 else "rows"
    if not found.n_fixed and not found.n_broken:
        return f"{after} passes the same of {found.n_rows:,} {rows} as {before}"
    did = [f"fixes {found.n_fixed:,} {'row' if found.n_fixed == 1 else 'rows'} of {before}"] * (found.n_fixed > 0)
    did += [f"breaks {found.n_broken:,}" + ("" if did else f" {'row' if found.n_broken == 1 else 'rows'} of {before}")] * (
        found.n_broken > 0
    )
    better = found.n_fixed > found.n_broken
    if found.n_fixed == found.n_broken:
        verdict = "no difference is shown"
    elif found.p < SHOWN:
        verdict = "better" if better else "worse"
    else:
        verdict = f"not shown to be {'better' if better else 'worse'}"
    return f"{after} {' and '.join(did)}; p {p_words(found.p)}: {verdict}"


def p_words(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"= {p:.2g}" if p < 0.0995 else f"= {p:.2f}"
