"""Saves the course's outputs: `python -m tests.notebook.freeze [NAME ...]` runs the notebooks and
writes them back.
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

from sgl_lab.engine.compute.kernels.native import build
from sgl_lab.engine.files import store

COURSE = Path(__file__).parents[2] / "notebooks"
NOTEBOOKS = sorted(COURSE.glob("*.ipynb"))


def run_again(notebook: Any) -> None:
    """Run it in a kernel of its own, in the folder of the course. Its metadata name the instructions that the model used; None
    is torch.
    """
    where = {"metadata": {"path": str(COURSE)}}
    NotebookClient(notebook, timeout=900, kernel_name="python3", record_timing=False, resources=where).execute()
    notebook.metadata.pop("widgets", None)
    notebook.metadata["sgl_lab"] = {"instructions": instructions()}


def instructions() -> str | None:
    """The instructions that the model uses here. At temperature 0, equal instructions give equal
    texts.
    """
    path = build.built(store.cache_dir())
    return path and build.instructions(path)


def counts(cell: Any) -> list[Any]:
    """Every count in a cell's outputs: of the frozen views (in their metadata) and of plain dictionaries. Those of a cell with the tag
    `elsewhere` are 0 here: another process made them, in its own time. A cell with the tag `optional` has none: it needs files that
    are not everywhere.
    """
    if "optional" in cell.metadata.get("tags", ()):
        return []
    found = _counts(cell)
    return [dict.fromkeys(each, 0) for each in found] if "elsewhere" in cell.metadata.get("tags", ()) else found


def _counts(cell: Any) -> list[Any]:
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


def count_names(found: list[list[Any]]) -> list[list[list[str]]]:
    return [[sorted(counted) for counted in cell] for cell in found]


def main() -> None:
    for path in NOTEBOOKS:
        if len(sys.argv) > 1 and path.stem not in sys.argv[1:]:
            continue
        notebook = nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]
        run_again(notebook)
        nbformat.write(notebook, path)  # type: ignore[no-untyped-call]
        print(path.name)


if __name__ == "__main__":
    main()
