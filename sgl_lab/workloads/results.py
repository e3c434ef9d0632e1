"""Results as a file: what was measured, on what machine and with which versions; and two of them
compared.
"""

from __future__ import annotations

import json
import math
import os
import platform
import random
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from ..contracts.errors import BadArgument
from ..contracts.machine import processor
from ..session import Lab
from .bench import Outcome, median, percentile

FORMAT = 1
N_DRAWS = 10_000


@dataclass(frozen=True, slots=True)
class Results:
    machine: Mapping[str, object]
    setup: Mapping[str, object]
    outcomes: Mapping[str, Outcome]
    """by workload, or by what was left out of it"""
    left_out: Mapping[str, str] = field(default_factory=dict)
    """workloads that could not run here, and why"""

    def write(self, path: Path) -> None:
        plain = {
            "format": FORMAT,
            "machine": dict(self.machine),
            "setup": dict(self.setup),
            "outcomes": {name: outcome.plain() for name, outcome in self.outcomes.items()},
            "left_out": dict(self.left_out),
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(plain, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> Results:
        """BadArgument if it is no file of results, or one of another version."""
        try:
            value = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise BadArgument(f"cannot read results from {path}: {error}") from None
        if not isinstance(value, dict) or "format" not in value:
            raise BadArgument(f"{path} has no results of `sgl-lab bench`")
        if value["format"] != FORMAT:
            message = f"{path} has results in format {value['format']!r:.20}; this version reads format {FORMAT}"
            raise BadArgument(message, hint="run it again")
        try:
            outcomes = {name: Outcome.read(each) for name, each in value["outcomes"].items()}
            return cls(value["machine"], value["setup"], outcomes, value["left_out"])
        except (KeyError, AttributeError, TypeError) as error:
            raise BadArgument(f"{path} is damaged: {type(error).__name__}: {error}") from None


def machine_of(lab: Lab) -> dict[str, object]:
    """Hardware, versions and model, as far as they decide speed."""
    return {
        "cpu": processor(),
        "cores": os.cpu_count(),
        "platform": platform.platform(),
        "device": lab.card.device,
        "model": lab.model,
        "dtype": lab.card.dtype,
        "python": platform.python_version(),
        **{name: _version(name) for name in ("sgl_lab", "torch", "transformers", "triton")},
        "commit": _commit(),
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _commit() -> str | None:
    """Of the checkout that the package lies in; None if it lies in none."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=10"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None


# ---------------------------------------------------------------- tables

HEADING = ("workload", "items", "s", "programs/s", "tokens/s", "latency ms", "p95", "first ms", "computed", "hit rate", "of best", "right")


def table(outcomes: Mapping[str, Outcome]) -> list[tuple[str, ...]]:
    """A row for each outcome. Latency and first token are medians."""
    return [
        (
            name,
            str(len(one.ids)) + (f" ({len(one.failed)} failed)" if one.failed else ""),
            f"{one.seconds:.2f}",
            f"{one.programs_per_s:.2f}",
            f"{one.generated_tokens / one.seconds:,.0f}" if one.generated_tokens else "-",
            f"{median(one.latency_s) * 1000:,.0f}",
            f"{percentile(one.latency_s, 0.95) * 1000:,.0f}",
            f"{median(one.first_s) * 1000:,.0f}" if one.first_s else "-",
            f"{one.computed_tokens:,}",
            f"{one.hit_rate:.1%}",
            f"{one.of_best:.1%}",
            "-" if one.accuracy is None else f"{one.accuracy:.0%}",
        )
        for name, one in outcomes.items()
    ]


def text(outcomes: Mapping[str, Outcome]) -> str:
    """The table with aligned columns."""
    rows = [HEADING, *table(outcomes)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADING))]

    def line(row: tuple[str, ...]) -> str:
        return "  ".join([row[0].ljust(widths[0]), *(cell.rjust(n) for cell, n in zip(row[1:], widths[1:], strict=True))])

    return "\n".join(map(line, rows))


PAPER = 0.96
"""of the best hit rate, on average over the paper's workloads"""


def average(outcomes: Mapping[str, Outcome]) -> str:
    """How near to the best hit rates all of them are together, in words; empty for less than two."""
    shares = [one.of_best for one in outcomes.values()]
    if len(shares) < 2:
        return ""
    return f"{sum(shares) / len(shares):.1%} of the best hit rate on average over {len(shares)} workloads (the paper: {PAPER:.0%})"


# ---------------------------------------------------------------- comparison


@dataclass(frozen=True, slots=True)
class Compared:
    """B against A on the items that both have.

    faster     median of A's latency over B's, item by item
    p_faster   two-sided sign-flip test of the logarithms: the chance of such a mean if A and B were
               equally fast
    fixed      items that only B answers right; `broken` only A
    p_right    exact two-sided McNemar test; None if nothing is judged
    n_same     items whose texts are equal
    """

    workload: str
    n: int
    faster: float
    p_faster: float
    fixed: int
    broken: int
    p_right: float | None
    n_same: int

    def words(self) -> str:
        speed = f"B is {self.faster:.2f} times as fast" if self.faster >= 1 else f"B is {1 / self.faster:.2f} times as slow"
        shown = "" if self.p_faster < 0.05 else ": not shown to differ"
        text = f"{self.workload}: {speed} over {self.n} items (p = {self.p_faster:.3f}{shown})"
        text += f"; {self.n_same} of {self.n} texts are the same"
        if self.p_right is None:
            return text
        shown = "" if self.p_right < 0.05 else ": not shown to differ"
        return f"{text}; it fixes {self.fixed} and breaks {self.broken} (p = {self.p_right:.3f}{shown})"


def compared(a: Results, b: Results) -> list[Compared]:
    """BadArgument if they have no workload, or none of its items, in common."""
    both = [name for name in a.outcomes if name in b.outcomes]
    if not both:
        raise BadArgument(f"nothing to compare: {', '.join(a.outcomes)} and {', '.join(b.outcomes)} have nothing in common")
    return [_compared(name, a.outcomes[name], b.outcomes[name]) for name in both]


def _compared(name: str, a: Outcome, b: Outcome) -> Compared:
    at = {item: i for i, item in enumerate(b.ids)}
    pairs = [(i, at[item]) for i, item in enumerate(a.ids) if item in at]
    if not pairs or a.data != b.data:
        raise BadArgument(f"the two runs of {name} have no items in common", hint="run both with the same --data and -n")
    logs = [math.log(a.latency_s[i] / b.latency_s[j]) for i, j in pairs if a.latency_s[i] > 0 and b.latency_s[j] > 0]
    judged = [(x, y) for x, y in ((a.right[i], b.right[j]) for i, j in pairs) if x is not None and y is not None]
    fixed, broken = judged.count((False, True)), judged.count((True, False))
    p_right = mcnemar(fixed, broken) if judged else None
    n_same = sum(a.texts[i] == b.texts[j] for i, j in pairs)
    return Compared(name, len(pairs), math.exp(median(logs)), sign_flip(logs), fixed, broken, p_right, n_same)


def mcnemar(fixed: int, broken: int) -> float:
    """Exact and two-sided: as likely as heads against tails."""
    n, k = fixed + broken, min(fixed, broken)
    tail: int = sum(math.comb(n, i) for i in range(k + 1))
    return min(1.0, math.ldexp(2.0 * tail, -n))


def sign_flip(differences: Sequence[float], n_draws: int = N_DRAWS) -> float:
    """Two-sided p of the mean if each difference were as likely with the other sign; all signs for
    few differences, else `n_draws` draws of a fixed seed.
    """
    n, seen = len(differences), abs(sum(differences)) * (1 - 1e-12)
    if not n:
        return 1.0
    if 2**n <= n_draws:
        sums = (sum(d if bits >> i & 1 else -d for i, d in enumerate(differences)) for bits in range(2**n))
        return math.ldexp(sum(abs(total) >= seen for total in sums), -n)
    draw = random.Random(0)
    hits = sum(abs(sum(d if draw.getrandbits(1) else -d for d in differences)) >= seen for _ in range(n_draws))
    return (hits + 1) / (n_draws + 1)
