"""Records the program of notebook 09 in the forms of the vendors' APIs: `python -m tests.partners.record`.

The vendor's own SDK sends real requests over a socket to a server in the form of the vendor's API, and what comes back is recorded as a
run. The answers are those of the built-in model behind that server, at the vendor's listed price for a model of the name; no vendor was
asked. The program is the one that the notebook defines.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import nbformat

from sgl_lab.contracts.conversation import AnyBackend
from sgl_lab.elsewhere import lab_over
from sgl_lab.trace import write_jsonl

from .__main__ import COLUMNS
from .forms import forms
from .servers import Running

NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "09_the_same_program_elsewhere.ipynb"
PLACE = NOTEBOOK.parent / "recorded"
VENDORS: Mapping[str, Callable[[Running], AnyBackend]] = {name: COLUMNS[f"forms:{name}"] for name in ("openai", "anthropic", "gemini")}


def source() -> str:
    """The cell that defines the program."""
    notebook: Any = nbformat.read(NOTEBOOK, as_version=4)  # type: ignore[no-untyped-call]
    return next(str(cell.source) for cell in notebook.cells if "def guide(" in cell.source)


def main() -> None:
    PLACE.mkdir(exist_ok=True)
    code, names = source(), dict[str, Any]()
    exec(compile(code, "guide", "exec"), names)
    for vendor, made in VENDORS.items():
        with forms() as at:  # a new server, whose cache is empty
            lab = lab_over(made(at), vendor)
            with lab.record(f"guide('Paris') · in the form of {vendor}'s API", code) as record:
                names["guide"].run(city="Paris", backend=lab.backend).sync()
        write_jsonl(record, PLACE / f"{vendor}.jsonl")
        print(f"{vendor}: {len(record.entries)} events, {lab.stats()}", flush=True)


if __name__ == "__main__":
    main()
