"""`Any` stands where no type can be given: each file that has it is listed with its reason and its number."""

from __future__ import annotations

import ast
from pathlib import Path

from .imports import PACKAGE, SOURCES, parsed

ALLOWED: dict[str, dict[str, int]] = {
    "the tree of Python's own regex parser, which has no types": {
        "contracts/patterns/programs.py": 1,
    },
    "a JSON schema that was checked against its metaschema: a value has the type that its keyword demands": {
        "grammar/keywords.py": 5,
        "grammar/reading.py": 2,
        "lang/regex_of.py": 1,
        "lang/schemas.py": 1,
    },
    "a class or an object of a library without types, or one that is not always installed": {
        "engine/files/store.py": 5,
        "grammar/grammars.py": 1,
        "lang/group.py": 1,
        "lang/shown.py": 3,
        "lang/videos.py": 1,
        "notebook.py": 1,
        "workloads/dspy_rag.py": 2,
    },
    "JSON in the course of being read or put together, checked where it is used": {
        "engine/files/small.py": 2,
        "engine/text/tokenizer.py": 1,
        "lang/types.py": 2,
        "trace/checked.py": 3,
        "workloads/data.py": 1,
        "viz/sender.py": 5,
    },
    "a listener of any job": {
        "engine/serving/group.py": 3,
        "engine/serving/notifying.py": 3,
        "engine/serving/resident.py": 2,
    },
    "the counts of an engine: numbers, and the currency of a cost": {
        "elsewhere.py": 2,
        "recorded.py": 1,
        "session.py": 1,
    },
    "values, arguments and functions of a user's program": {
        "__init__.py": 2,
        "lang/access.py": 2,
        "lang/execution.py": 1,
        "lang/executor.py": 5,
        "lang/expressions.py": 1,
        "lang/finish.py": 1,
        "lang/global_config.py": 1,
        "lang/program.py": 2,
        "lang/sampling.py": 2,
        "lang/state.py": 11,
        "lang/surface.py": 2,
        "lang/tools.py": 3,
        "lang/variable.py": 3,
        "runtime.py": 7,
    },
    "IPython's door: its shell, the user's names, widgets and messages": {
        "magics/body.py": 1,
        "magics/commands/now.py": 1,
        "magics/jobs.py": 2,
        "magics/options.py": 2,
        "magics/output.py": 1,
        "magics/prepared.py": 1,
        "magics/printing.py": 4,
        "magics/shell.py": 13,
    },
}
"""By reason, with the most that a file may have. A number may only fall."""


def test_any_stands_only_where_its_reason_is_given() -> None:
    found = {path.relative_to(PACKAGE).as_posix(): n_any(path) for path in SOURCES}
    allowed = {file: number for files in ALLOWED.values() for file, number in files.items()}
    assert sum(map(len, ALLOWED.values())) == len(allowed), "a file has two reasons"
    assert {file: n for file, n in found.items() if n > allowed.get(file, 0)} == {}
    assert [file for file in allowed if not found.get(file)] == [], "these files have none: take them out"


def n_any(path: Path) -> int:
    return sum(isinstance(node, ast.Name) and node.id == "Any" for node in ast.walk(parsed(path)))
