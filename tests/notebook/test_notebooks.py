"""The course: its saved outputs. `tests/browser/test_lab_course.py` runs the notebooks again."""

from __future__ import annotations

from typing import Any

import nbformat
import pytest

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
