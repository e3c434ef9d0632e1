"""The course's outputs, saved anew: `python -m tests.notebook.freeze [NAME ...]` runs the notebooks and writes them back."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

from sgl_lab.engine.kernels.native import build
from sgl_lab.engine.model import store

NOTEBOOKS = sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))


def run_again(notebook: Any) -> None:
    """Run it in a kernel of its own. Its metadata says with which instructions the model computed; None is torch."""
    NotebookClient(notebook, timeout=900, kernel_name="python3", record_timing=False).execute()
    notebook.metadata.pop("widgets", None)
    path = build.built(store.cache_dir())
    notebook.metadata["sgl_lab"] = {"instructions": path and build.instructions(path)}


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
