"""The table of sizes and figures that the reliability tests print at their end."""

from __future__ import annotations

from collections.abc import Callable

import pytest

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
        terminalreporter.section("reliability: sizes and figures of this run")
        for target, figures in lines:
            terminalreporter.write_line(f"{target:<4}" + "  ".join(f"{name} {value}" for name, value in figures.items()))
