"""The rows of `--over`: from a variable or a file, as dicts with names for keys.

What is wrong with one row or column is a note of one line, and the rest is used.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from keyword import iskeyword
from pathlib import Path
from typing import IO, Protocol, runtime_checkable

from ...contracts.errors import BadArgument
from ...contracts.legible import clipped
from ...contracts.near import did_you_mean
from ...lang.expect import text_of
from ...viz.views.grid import Given
from ..options import OptionError
from .digest import digest

ROW = "row"
"""variable of a body: the row as a dict"""
MAX_NOTES = 5
MAX_GIVEN = 2_000
"""characters of a value that a record keeps"""
_HINT = "--over takes a variable with a list of dicts or a DataFrame, or a .csv or .jsonl file"
Values = dict[str, object]


@dataclass(frozen=True, slots=True)
class Row:
    index: int
    key: str
    """digest of its values; of equal rows each has its own"""
    values: Values

    @property
    def given(self) -> Given:
        return Given(tuple((clipped(name, 80), text_of(value)[:MAX_GIVEN]) for name, value in self.values.items()))


@dataclass(slots=True)
class Rows:
    name: str
    rows: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """one line each"""

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(name for row in self.rows for name in row.values))


@runtime_checkable
class _Frame(Protocol):
    """A DataFrame of pandas, as far as it is read here."""

    columns: Iterable[object]

    def to_dict(self, orient: str) -> list[Mapping[object, object]]: ...


@runtime_checkable
class _Dicts(Protocol):
    """A DataFrame of polars."""

    def to_dicts(self) -> list[Mapping[object, object]]: ...


def read_rows(word: str, names: Mapping[str, object]) -> Rows:
    """The rows that `word` names: a variable, or a file. OptionError if there are none."""
    found = names.get(word)
    if found is None or isinstance(found, str | Path):
        path = Path(found if isinstance(found, Path) else str(found or word)).expanduser()
        if found is None and not path.exists() and path.suffix == "":
            known = [name for name, value in names.items() if not name.startswith("_") and isinstance(value, list | _Frame | _Dicts)]
            hint = did_you_mean(word, known) if known else _HINT
            raise OptionError(f"--over: there is neither a variable nor a file {word!r}", hint=hint)
        rows = _of_file(path)
    else:
        rows = _numbered(Rows(word), _items(found, word))
    if not rows.rows:
        raise OptionError(f"--over: {word} has no row", hint=rows.notes[0] if rows.notes else _HINT)
    return rows


def _items(found: object, word: str) -> Iterator[tuple[str, object]]:
    """(where, item) of each item of a variable."""
    if isinstance(found, _Dicts):
        found = found.to_dicts()
    elif isinstance(found, _Frame):
        found = found.to_dict("records")
    if isinstance(found, Mapping | bytes) or not isinstance(found, Iterable):
        raise OptionError(f"--over: {word} is a {type(found).__name__}, not rows", hint=_HINT)
    for number, item in enumerate(found, 1):
        yield f"row {number}", item


def _numbered(rows: Rows, items: Iterable[tuple[str, object]]) -> Rows:
    """Fill in the rows: names as text, and a key each."""
    seen: dict[str, int] = {}
    for where, item in items:
        if not isinstance(item, Mapping):
            what = clipped(repr(item), 40)
            rows.notes.append(f"{where} is a {type(item).__name__}, not a dict, and is left out: {what}")
            continue
        values = {str(name): value for name, value in item.items()}
        key = digest(values)
        seen[key] = n = seen.get(key, 0) + 1
        rows.rows.append(Row(len(rows.rows), key if n == 1 else f"{key}-{n}", values))
    return rows


def _of_file(path: Path) -> Rows:
    rows = Rows(path.stem)
    kind = path.suffix.lower()
    if kind not in _READERS:
        raise OptionError(f"--over: {path} is neither CSV nor JSONL", hint=f"a file's name ends in {', '.join(_READERS)}")
    try:
        if not path.is_file():
            raise OptionError(f"--over: there is no file {path}", hint=_HINT)
        with path.open(encoding="utf-8-sig", newline="") as file:
            return _numbered(rows, _READERS[kind](file, rows.notes))
    except (OSError, UnicodeDecodeError) as error:
        raise OptionError(f"--over: cannot read {path}: {getattr(error, 'strerror', '') or error}") from None
    except BadArgument as error:
        raise OptionError(f"--over: {path} {error.message}", hint=error.hint) from None


def _lines(file: IO[str], notes: list[str]) -> Iterator[tuple[str, object]]:
    for number, line in enumerate(file, 1):
        if not line.strip():
            continue
        try:
            yield f"line {number}", json.loads(line)
        except (ValueError, RecursionError) as error:
            notes.append(f"line {number} is not JSON and is left out: {clipped(str(error), 100)}")


def _document(file: IO[str], notes: list[str]) -> Iterator[tuple[str, object]]:
    try:
        found = json.load(file)
    except (ValueError, RecursionError) as error:
        raise BadArgument(f"is not JSON: {clipped(str(error), 100)}") from None
    if not isinstance(found, list):
        raise BadArgument(f"holds a {type(found).__name__}, not a list of objects")
    yield from ((f"row {number}", item) for number, item in enumerate(found, 1))


def _table(delimiter: str, file: IO[str], notes: list[str]) -> Iterator[tuple[str, object]]:
    reader = csv.reader(file, delimiter=delimiter, strict=True)
    try:
        head = next(reader, [])
        if not any(head):
            raise BadArgument("has no line of column names")
        if twice := next((name for name in head if head.count(name) > 1), None):
            raise BadArgument(f"has two columns {clipped(twice, 40)!r}")
        for fields in reader:
            if not fields:
                continue
            if len(fields) > len(head):
                notes.append(f"line {reader.line_num} has {len(fields)} fields, not {len(head)}, and is left out")
                continue
            yield f"line {reader.line_num}", dict(zip(head, fields, strict=False))
    except csv.Error as error:
        # a quote that is never closed takes in all that follows
        notes.append(f"line {reader.line_num} is not CSV, and nothing is read from there on: {clipped(str(error), 100)}")


def _commas(file: IO[str], notes: list[str]) -> Iterator[tuple[str, object]]:
    return _table(",", file, notes)


def _tabs(file: IO[str], notes: list[str]) -> Iterator[tuple[str, object]]:
    return _table("\t", file, notes)


_READERS = {".csv": _commas, ".tsv": _tabs, ".jsonl": _lines, ".ndjson": _lines, ".json": _document}


def variables(row: Row, taken: frozenset[str]) -> Values:
    """What a body reads of a row: each column that can be a variable, and the whole row."""
    return {ROW: dict(row.values)} | {name: value for name, value in row.values.items() if is_variable(name, taken)}


def is_variable(name: str, taken: frozenset[str]) -> bool:
    return name.isidentifier() and not iskeyword(name) and name not in taken and not name.startswith("__")


def notes_of_columns(rows: Rows, taken: frozenset[str]) -> list[str]:
    """One line for each column that is no variable of the body."""
    found = []
    for name in rows.columns:
        if not is_variable(name, taken):
            why = "is a name of the language" if name in taken else "is no name of a variable"
            found.append(f"column {clipped(name, 60)!r} {why}: the body reads it as {ROW}[{clipped(repr(name), 60)}]")
    return found
