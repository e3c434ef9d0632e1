"""The whole course on another model: `python -m tests.notebook.on_model qwen2.5-coder-0.5b [NAME ...]`.

Every notebook runs in a kernel of its own in which MODEL is the default: its first cell loads it, and
where a cell names `smollm2` or makes a lab without a name, it says MODEL. Cells that fail, and plain
values and printed lines that differ from the saved ones, are listed. Each notebook with its outputs
is written to build/course/MODEL/. The exit status is 1 if a cell failed.

Texts differ, because another model says other things; what must not is that every cell runs.
"""

from __future__ import annotations

import re
import sys
from typing import Any

import nbformat
from nbclient import NotebookClient

from .freeze import COURSE, NOTEBOOKS

OUT = COURSE.parent / "build" / "course"


def adapted(source: str, model: str) -> str:
    """A cell's source for `model`. What upcycling made of the built-in model keeps its name."""
    source = re.sub(r"\bsmollm2\b(?!-)", model, source)
    source = re.sub(r"\bsgl\.Lab\((?=cache_tokens)", f'sgl.Lab("{model}", ', source)
    return source.replace("%load_ext sgl_lab", f"%load_ext sgl_lab\n%sgl model {model}", 1)


def values(cell: Any) -> list[str]:
    """The values and printed lines of a cell, without pictures."""
    found = []
    for output in cell.outputs:
        if output.output_type == "execute_result":
            found.append(output.data["text/plain"])
        elif output.output_type == "stream" and output.name == "stdout":
            found += output.text.splitlines()
    return found


def failures(cell: Any) -> list[str]:
    """The first line of the error that a cell raised, and of one that a command printed."""
    found = [f"{output.ename}: {output.evalue}" for output in cell.outputs if output.output_type == "error"]
    found += [output.text for output in cell.outputs if output.output_type == "stream" and output.text.startswith("UsageError")]
    return [text.splitlines()[0] for text in found]


def run(path: Any, model: str) -> int:
    """How many cells failed."""
    saved = nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]
    notebook = nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]
    cells = [(at, cell) for at, cell in enumerate(notebook.cells) if cell.cell_type == "code"]
    for _, cell in cells:
        cell.source = adapted(cell.source, model)
    where = {"metadata": {"path": str(COURSE)}}
    NotebookClient(notebook, timeout=1800, kernel_name="python3", record_timing=False, resources=where, allow_errors=True).execute()
    notebook.metadata.pop("widgets", None)
    (OUT / model.replace("/", "--")).mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, OUT / model.replace("/", "--") / path.name)  # type: ignore[no-untyped-call]
    failed = 0
    for at, cell in cells:
        before, after = values(saved.cells[at]), values(cell)
        wrong = [line for line in failures(cell) if line not in failures(saved.cells[at])]
        failed += bool(wrong)
        for line in wrong:
            print(f"  [{at}] FAILED {line[:300]}")
        if before != after and not wrong:
            print(f"  [{at}] saved: {' | '.join(before)[:240]}\n       here:  {' | '.join(after)[:240]}")
    print(f"{path.name}: {len(cells)} cells on {model}, {failed} failed", flush=True)
    return failed


def main() -> None:
    if len(sys.argv) < 2:
        raise SystemExit(__doc__)
    model, names = sys.argv[1], sys.argv[2:]
    raise SystemExit(1 if sum(run(path, model) for path in NOTEBOOKS if not names or path.stem in names) else 0)


if __name__ == "__main__":
    main()
