"""The course: every notebook runs again and counts what its saved outputs say it counted.

What a model says at temperature 0 is the same on CPUs with the same instructions. On others, and on torch, the same things are
counted, but not to the same numbers. `python -m tests.notebook.freeze` saves the outputs anew.
"""

from __future__ import annotations

import ast
from typing import Any

import nbformat
import pytest

from .freeze import NOTEBOOKS, run_again


def counts(cell: Any) -> list[Any]:
    """Every count in a cell's outputs: of the frozen views (in their metadata) and of plain dictionaries."""
    found: list[Any] = []
    for output in cell.outputs:
        if "sgl_lab" in output.get("metadata", {}):
            found.append(dict(output.metadata["sgl_lab"]["counts"]))
        elif output.output_type == "execute_result":
            try:
                value = ast.literal_eval(output.data["text/plain"])
            except (ValueError, SyntaxError):
                continue
            if isinstance(value, dict):
                found.append({name: number for name, number in value.items() if isinstance(number, int)})
    return found


def names(found: list[list[Any]]) -> list[list[list[str]]]:
    return [[sorted(counted) for counted in cell] for cell in found]


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def notebook(request: pytest.FixtureRequest) -> Any:
    return nbformat.read(request.param, as_version=4)


def test_a_notebook_run_again_counts_what_it_counted(notebook: Any) -> None:
    again = nbformat.from_dict(notebook)
    run_again(again)
    saved, found = ([counts(cell) for cell in run.cells if cell.cell_type == "code"] for run in (notebook, again))
    assert names(found) == names(saved)
    if notebook.metadata.get("sgl_lab") == again.metadata["sgl_lab"] != {"instructions": None}:
        assert found == saved
    assert sum(map(len, saved)) >= 4


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
