"""The course: its saved outputs. `tests/browser/test_lab_course.py` runs the notebooks again."""

from __future__ import annotations

from typing import Any

import nbformat
import pytest

from sgl_lab.trace import read_jsonl

from .freeze import NOTEBOOKS


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def notebook(request: pytest.FixtureRequest) -> Any:
    return nbformat.read(request.param, as_version=4)


def test_saved_outputs_are_readable_without_a_kernel_and_small(notebook: Any) -> None:
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in cells)
    shown = [output.data for cell in cells for output in cell.outputs if output.output_type == "display_data"]
    assert len(shown) >= 3
    for data in shown:
        assert "application/vnd.jupyter.widget-view+json" not in data
        assert len("".join(data.get("text/html", ""))) < 256 * 1024
        assert data["text/plain"].strip()
    assert "widgets" not in notebook.metadata


def test_no_cell_of_the_course_has_a_finding(notebook: Any) -> None:
    """Except two whose faults are their examples: they turn the line off. `test_lab_course.py` makes these outputs again."""
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert outputs
    assert not any("%sgl lint" in str(output.get("text", output.get("data", {}).get("text/plain", ""))) for output in outputs)
    has_example = notebook.cells[0].source.startswith(("# 4 ", "# 5 "))
    assert sum("--lint no" in cell.source.split("\n")[0] for cell in notebook.cells) == has_example


def test_recordings_are_of_the_program_that_the_notebook_has() -> None:
    """`python -m tests.partners.record` makes them again."""
    (path,) = [path for path in NOTEBOOKS if path.stem.startswith("09")]
    cells = [str(cell.source) for cell in nbformat.read(path, as_version=4).cells]  # type: ignore[no-untyped-call]
    recorded = sorted((path.parent / "recorded").glob("*.jsonl"))
    assert [file.stem for file in recorded] == ["anthropic", "gemini", "openai"]
    for file in recorded:
        record = read_jsonl(file)
        assert record.source in cells
        assert record.has_answers
        assert any(f"recorded/{file.name}" in cell for cell in cells)
