"""Selects and distributes the tests, and prints the counts of the reliability tests."""

from __future__ import annotations

import ast
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from sgl_lab.session import SPIN

os.environ.setdefault("GOMP_SPINCOUNT", SPIN)  # read when torch is first imported
# Read when numpy is, which multiplies for Triton's interpreter: what it takes on some CPUs sums the rows of one tile in several orders.
os.environ["OPENBLAS_CORETYPE"] = "Nehalem"

TABLE = "table"
"""the name of the property that carries a line of the table from a worker process"""

OTHER_PROGRAMS = {"browser", "notebook", "serve"}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--room", help="only the test files that import this part of sgl_lab, for example viz or engine.serving.cache")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    room = config.getoption("--room")
    if room and collection_path.name.startswith("test_") and collection_path.parent.name != "rooms":
        return not imports_room(collection_path, f"sgl_lab.{room}")
    return None


def imports_room(file: Path, room: str) -> bool:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    found = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module and not node.level]
    names = [f"{node.module}.{alias.name}" for node in found for alias in node.names]
    return any(name.startswith(f"{room}.") for name in names)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that run notebooks in JupyterLab take longest and go first. A test whose other side is another program
    (browser, kernel, server) gets a second try, which the summary counts: a busy machine can starve that side.
    """
    items.sort(key=lambda item: not item.path.name.startswith("test_lab_"))
    for item in items:
        if item.path.parent.name in OTHER_PROGRAMS:
            item.add_marker(pytest.mark.flaky(reruns=1))


@pytest.fixture
def record_table(record_property: Callable[[str, object], None]) -> Callable[..., None]:
    """`record_table("R6", programs=40, ...)` adds a line to the printed table."""

    def record(target: str, **figures: object) -> None:
        record_property(TABLE, f"{target:<4}" + "  ".join(f"{name} {value}" for name, value in figures.items()))

    return record


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reports = [report for reports in terminalreporter.stats.values() for report in reports if isinstance(report, pytest.TestReport)]
    lines = [line for report in reports if report.when == "call" for name, line in report.user_properties if name == TABLE]
    if lines:
        terminalreporter.section("sizes and figures of this run")
        for line in lines:
            terminalreporter.write_line(str(line))
