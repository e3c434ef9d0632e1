"""A grid as a file: CSV for spreadsheets, JSONL for programs, HTML for readers.

A line of CSV or JSONL is one row of one version. JSONL has every text as it is. In CSV a text that a
spreadsheet would compute gets an apostrophe before it.
"""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path

from ...viz.draw.page import MARK as PAGE_MARK
from ...viz.explain.versions import Grid
from ..options import OptionError
from .show import results

CSV_MARK = "row,version,model,status,passed"
JSONL_MARK = '{"grid":'
MARKS = {".csv": CSV_MARK, ".jsonl": JSONL_MARK, ".html": PAGE_MARK}
"""the beginning of our files"""
_COMPUTED = re.compile(r"\s*[=+\-@\t\r]")
_NUMBER = re.compile(r"[+-]?\d+(\.\d+)?")
_COUNTS = ("computed_tokens", "cached_tokens", "completion_tokens", "judge_tokens", "ms", "cost")


def mark_of(path: Path) -> str:
    """What a file of ours of this kind begins with. OptionError for any other kind."""
    if (mark := MARKS.get(path.suffix.lower())) is None:
        raise OptionError(f"a grid is written as {', '.join(MARKS)}, not {path.name!r}", hint="such as `%sgl grid NAME -o grid.csv`")
    return mark


def jsonl(grid: Grid) -> str:
    return "".join(json.dumps({"grid": grid.name, **each}, ensure_ascii=False) + "\n" for each in results(grid))


def as_csv(grid: Grid) -> str:
    """The row's own columns are `row.NAME`, named answers `answer.NAME`, checks `check.NAME`."""
    found = results(grid)
    parts = {"given": "row", "checks": "check", "values": "answer"}
    names = {part: list(dict.fromkeys(name for each in found for name in _part(each, part))) for part in parts}
    head = [*CSV_MARK.split(","), *(f"{parts[part]}.{name}" for part in parts for name in names[part]), "value", *_COUNTS, "error"]
    file = io.StringIO()
    write = csv.writer(file, lineterminator="\n")
    write.writerow(map(_tame, head))
    for each in found:
        first = [each[name] for name in CSV_MARK.split(",")]
        middle = [_part(each, part).get(name) for part in parts for name in names[part]]
        write.writerow(map(_tame, [*first, *middle, each["value"], *(each[name] for name in _COUNTS), each["error"]]))
    return file.getvalue()


def _part(result: dict[str, object], part: str) -> dict[str, object]:
    found = result[part]
    assert isinstance(found, dict)
    return found


def _tame(value: object) -> str:
    """A field that no spreadsheet computes."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    text = str(value)
    return "'" + text if _COMPUTED.match(text) and not _NUMBER.fullmatch(text) else text
