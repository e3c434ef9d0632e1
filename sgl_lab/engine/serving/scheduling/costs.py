"""What a step costs on this machine, learned from the steps that it runs: a part that every step
pays, a row, and a further token of a row.

A draft token pays if it saves more than it costs. Which ones do differs by CPU and model, so it is
measured. It decides how many steps a text takes, never the text. Knows no clock: times come from
the engine.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

SHAPE = (8.0, 1.0, 1.0)
"""step : row : token before anything is measured, about as on the native step with AVX-512"""
KEPT = 0.99
"""of the weight of earlier steps, with each new one: about a hundred count"""
PRIOR = 0.5
"""weight of `SHAPE`, in steps"""
SETTLED = 8
"""after so many steps an odd one counts as `ODD` times what was expected, at most"""
ODD = 1.5
MOST_TOKENS = 128
"""of a step that is looked at; in a long prefill a token costs less than in a draft"""
LEAST_MS = 0.5
"""shorter steps say little about the model: their time is the engine's own"""
RISK = 2.0
"""steps that the first draft of a text may cost, should all of it be rejected"""
UNEVEN = 0.5
"""share of a step that an accepted token saves where rows are drafted unevenly: a step is saved only
when all of its rows need one less
"""

Vector = tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class Costs:
    """In milliseconds."""

    step: float
    row: float
    token: float

    def price(self, n_rows: int, *, is_even: bool) -> float:
        """Share of draft tokens that must be accepted in a step of `n_rows` rows. `is_even`: the
        other rows have drafts as good.
        """
        saved = self.step / n_rows * (1 if is_even or n_rows == 1 else UNEVEN) + self.row
        return max(0.02, self.token / saved) if saved > 0 else 1.0

    def width(self, n_rows: int) -> int:
        """The most tokens to draft for each of `n_rows` rows before one was accepted."""
        return max(1, int(RISK * (self.step + self.row * n_rows) / max(1e-9, self.token * n_rows)))


class Prices(NamedTuple):
    """Of a draft token in a step of some number of rows."""

    even: float
    uneven: float
    width: int


class StepCosts:
    """Least squares of relative errors, with weights that decay, on steps of few tokens. The
    prior keeps what no step tells apart, such as step and row where all steps have equally many.
    """

    def __init__(self) -> None:
        self.n_steps = 0
        self._products: list[list[float]] = [[0.0] * 3 for _ in range(3)]
        self._targets = [0.0] * 3
        self._weight = self._scales = 0.0
        self._found: Costs | None = Costs(*SHAPE)
        self._prices: dict[int, Prices] = {}

    def observe(self, n_rows: int, n_more: int, ms: float) -> None:
        """A step of `n_rows` rows with one token each, and `n_more` tokens, took `ms`."""
        if ms < LEAST_MS or n_more > MOST_TOKENS:
            return
        if self.n_steps >= SETTLED:
            known = self.costs
            expected = known.step + known.row * n_rows + known.token * n_more
            ms = min(max(ms, expected / ODD), expected * ODD)
        self.n_steps += 1
        usual = SHAPE[0] + SHAPE[1] * n_rows + SHAPE[2] * n_more
        parts = (SHAPE[0] / usual, SHAPE[1] * n_rows / usual, SHAPE[2] * n_more / usual)
        scale = ms / usual
        for i in range(3):
            for j in range(3):
                self._products[i][j] = KEPT * self._products[i][j] + parts[i] * parts[j]
            self._targets[i] = KEPT * self._targets[i] + parts[i] * scale
        self._weight = KEPT * self._weight + 1
        self._scales = KEPT * self._scales + scale
        self._found = None
        self._prices.clear()

    def prices(self, n_rows: int) -> Prices:
        """Computed once between two steps: every row of a step asks."""
        found = self._prices.get(n_rows)
        if found is None:
            costs = self.costs
            even, uneven = costs.price(n_rows, is_even=True), costs.price(n_rows, is_even=False)
            found = self._prices[n_rows] = Prices(even, uneven, costs.width(n_rows))
        return found

    @property
    def costs(self) -> Costs:
        """Relative ones before the first step."""
        if self._found is None:
            scale = self._scales / self._weight
            share = PRIOR / 3
            products = [[self._products[i][j] + share * (i == j) for j in range(3)] for i in range(3)]
            solved = _solved(products, [target + share * scale for target in self._targets])
            self._found = Costs(*(max(0.0, factor) * shape for factor, shape in zip(solved, SHAPE, strict=True)))
        return self._found

    def stats(self) -> dict[str, float]:
        """Milliseconds; 0 before the first step."""
        found = self.costs if self.n_steps else Costs(0.0, 0.0, 0.0)
        return {"step_base_ms": found.step, "step_row_ms": found.row, "step_token_ms": found.token}


def _solved(matrix: list[list[float]], right: list[float]) -> Vector:
    """Of a symmetric positive definite system, by Gauss's elimination."""
    rows = [[*row, value] for row, value in zip(matrix, right, strict=True)]
    for i in range(3):
        for j in range(i + 1, 3):
            factor = rows[j][i] / rows[i][i]
            rows[j] = [b - factor * a for a, b in zip(rows[i], rows[j], strict=True)]
    z = rows[2][3] / rows[2][2]
    y = (rows[1][3] - rows[1][2] * z) / rows[1][1]
    x = (rows[0][3] - rows[0][2] * z - rows[0][1] * y) / rows[0][0]
    return x, y, z
