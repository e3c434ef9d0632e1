"""`sgl-lab tour`: a notebook without a browser, and the one file that comes out of it, opened in one."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from playwright.sync_api import Browser, Page, Request

PROGRAM = """%%sgl --temperature 0 --max-tokens 4
user("Say it: <script>document.title = 'broken'</script>")
assistant(gen("first"))
for branch in fork(2):
    branch += user("Again.") + assistant(gen("second"))
"""


@pytest.fixture(scope="module")
def tour(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """The command's output, and the file that it wrote."""
    folder = tmp_path_factory.mktemp("tour")
    cells = [nbformat.v4.new_code_cell("%load_ext sgl_lab"), nbformat.v4.new_code_cell(PROGRAM)]  # type: ignore[no-untyped-call]
    cells.append(nbformat.v4.new_markdown_cell("A formula $x^2$ and\n```mermaid\ngraph LR; a-->b\n```"))  # type: ignore[no-untyped-call]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), folder / "small.ipynb")  # type: ignore[no-untyped-call]
    command = [sys.executable, "-m", "sgl_lab.cli", "tour", "small.ipynb"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout, folder / "build" / "tour.html"


@pytest.fixture
def opened(tour: tuple[str, Path], browser: Browser) -> Iterator[tuple[Page, list[Request], list[str]]]:
    page = browser.new_page()
    requests: list[Request] = []
    errors: list[str] = []
    page.on("request", lambda request: requests.append(request))
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(tour[1].as_uri(), wait_until="networkidle")
    yield page, requests, errors
    page.close()


def test_the_tour_prints_the_tree_and_the_hit_rate(tour: tuple[str, Path]) -> None:
    printed, _ = tour
    assert "radix tree" in printed
    assert "└" in printed
    assert "hit rate" in printed
    assert printed.endswith("wrote build/tour.html\n")


def test_the_page_needs_nothing_but_itself(opened: tuple[Page, list[Request], list[str]]) -> None:
    page, requests, errors = opened
    assert [request.url for request in requests if not request.url.startswith(("data:", "blob:"))] == [page.url]
    assert errors == []


def test_the_page_shows_the_program_its_answer_and_its_tree(opened: tuple[Page, list[Request], list[str]]) -> None:
    page, _, _ = opened
    text = page.inner_text("body")
    assert 'assistant(gen("first"))' in text
    assert "%sgl status" not in text, "the closing cells are not part of the notebook"
    assert "Radix tree" in text
    assert page.title() == "small"
