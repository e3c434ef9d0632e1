"""The course: every notebook runs again and counts what its saved outputs say it counted.

What a model says at temperature 0 is the same on one kind of CPU. Where the model runs in other numbers than it did when the
outputs were saved (int4 on the native step, float32 on torch), the same things are counted, but not to the same numbers.
In float32 on torch even two runs here may differ: a row's sums depend on the rows beside it, and those on when each request came.
"""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))


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


def engines(notebook: Any) -> set[str]:
    """What the models of a notebook ran on and in, as its outputs say."""
    return set(re.findall(r"smollm2 · (\w+ · \w+)", json.dumps([cell.get("outputs", []) for cell in notebook.cells], ensure_ascii=False)))


def names(found: list[list[Any]]) -> list[list[list[str]]]:
    return [[sorted(counted) for counted in cell] for cell in found]


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def notebook(request: pytest.FixtureRequest) -> Any:
    return nbformat.read(request.param, as_version=4)


def test_a_notebook_run_again_counts_what_it_counted(notebook: Any) -> None:
    again = nbformat.from_dict(notebook)
    NotebookClient(again, timeout=300, kernel_name="python3").execute()
    saved, found = ([counts(cell) for cell in run.cells if cell.cell_type == "code"] for run in (notebook, again))
    assert engines(again)
    assert names(found) == names(saved)
    if engines(again) == engines(notebook) and not any("float32" in engine for engine in engines(again)):
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
