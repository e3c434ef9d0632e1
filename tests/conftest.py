"""Torch's threads sleep between operators as they do in a lab (see `session.SPIN`), and what the reliability tests count is printed."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from sgl_lab.session import SPIN

os.environ.setdefault("GOMP_SPINCOUNT", SPIN)  # read when torch is first imported
# Read when numpy is, which multiplies for Triton's interpreter: what it takes on some CPUs sums the rows of one tile in several orders.
os.environ["OPENBLAS_CORETYPE"] = "Nehalem"

TABLE = pytest.StashKey[list[tuple[str, dict[str, object]]]]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[TABLE] = []


@pytest.fixture
def record_table(request: pytest.FixtureRequest) -> Callable[..., None]:
    """`record_table("R6", programs=40, ...)` adds a line to what is printed."""

    def record(target: str, **figures: object) -> None:
        request.config.stash[TABLE].append((target, figures))

    return record


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    lines = config.stash[TABLE]
    if lines:
        terminalreporter.section("sizes and figures of this run")
        for target, figures in lines:
            terminalreporter.write_line(f"{target:<4}" + "  ".join(f"{name} {value}" for name, value in figures.items()))
