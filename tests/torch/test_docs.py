"""What docs/language.md says is so: its Python is run from top to bottom, and a comment `# -> value` is what the line gives."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import pytest

from sgl_lab.contracts import errors

PAGE = Path(__file__).parents[2] / "docs" / "language.md"
BLOCK = re.compile(r"^```python(?: raises=(\w+))?\n(.*?)^```", re.DOTALL | re.MULTILINE)


def run(source: str, names: dict[str, Any], first_line: int) -> int:
    """Run a block; the number of its lines whose value was promised."""
    lines = source.split("\n")
    n_promises = 0
    for statement in ast.parse(source).body:
        promised = lines[(statement.end_lineno or 0) - 1].partition("# -> ")[2]
        where = f"docs/language.md, line {first_line + statement.lineno - 1}"
        code = ast.increment_lineno(statement, first_line - 1)
        if promised and isinstance(code, ast.Expr):
            assert repr(eval(compile(ast.Expression(code.value), str(PAGE), "eval"), names)) == promised, where  # noqa: S307
            n_promises += 1
        else:
            exec(compile(ast.Module([code], []), str(PAGE), "exec"), names)
    return n_promises


def test_every_piece_of_python_on_the_page_runs_and_gives_what_it_says() -> None:
    text = PAGE.read_text(encoding="utf-8")
    names: dict[str, Any] = {"__name__": "language"}
    n_promises = n_raised = 0
    for block in BLOCK.finditer(text):
        first_line = text.count("\n", 0, block.start()) + 2
        raises, source = block.groups()
        if raises:
            with pytest.raises(getattr(errors, raises)):
                run(source, names, first_line)
            n_raised += 1
        else:
            n_promises += run(source, names, first_line)
    assert n_promises >= 25
    assert n_raised >= 5


def test_links_on_the_page_lead_somewhere() -> None:
    text = PAGE.read_text(encoding="utf-8")

    def anchors(page: str) -> set[str]:
        return {re.sub(r"[^\w\- ]", "", title).strip().lower().replace(" ", "-") for title in re.findall(r"^#+ (.*)$", page, re.MULTILINE)}

    for there, anchor in re.findall(r"\]\(([^)#]*)#([\w-]+)\)", text):
        assert anchor in anchors((PAGE.parent / there).read_text(encoding="utf-8") if there else text), (there, anchor)
