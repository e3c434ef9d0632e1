"""The data of the workloads: JSON Lines in a folder, or the sample that comes with the package."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..contracts.errors import BadArgument

SAMPLE = Path(__file__).parent / "sample"

Row = dict[str, Any]
"""one object of JSON, its fields checked where they are read"""


class Data:
    """A folder of JSON Lines. BadArgument, with the file and line, for what is not as a workload
    needs it.
    """

    def __init__(self, folder: str | Path | None = None) -> None:
        self.folder = SAMPLE if folder is None else Path(folder)
        if not self.folder.is_dir():
            raise BadArgument(f"there is no folder of data at {self.folder}", hint="without --data the package's own sample is used")

    @property
    def name(self) -> str:
        return "sample" if self.folder == SAMPLE else self.folder.resolve().name

    def rows(self, name: str, /, **fields: type) -> list[Row]:
        """The rows of NAME.jsonl, at least one; each has `fields`, of these types."""
        path = self.folder / f"{name}.jsonl"
        found = []
        for number, line in enumerate(self._text(path).splitlines(), 1):
            if line.strip():
                found.append(_checked(_read(line, f"{path}, line {number}"), fields, f"{path}, line {number}"))
        if not found:
            raise BadArgument(f"{path} has no rows")
        return found

    def value(self, name: str, /, **fields: type) -> Row:
        """The object in NAME.json, which has `fields`."""
        path = self.folder / f"{name}.json"
        return _checked(_read(self._text(path), str(path)), fields, str(path))

    def file(self, name: str) -> Path:
        """A file that a row names, inside the folder."""
        path = (self.folder / name).resolve()
        if not path.is_relative_to(self.folder.resolve()) or not path.is_file():
            raise BadArgument(f"there is no file {name!r:.100} in {self.folder}")
        return path

    def _text(self, path: Path) -> str:
        try:
            return path.read_text(encoding="utf-8")
        except FileNotFoundError:
            raise BadArgument(f"{self.folder} has no {path.name}, which this workload reads") from None
        except (OSError, UnicodeDecodeError) as error:
            raise BadArgument(f"cannot read {path}: {error}") from None


def _read(text: str, where: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadArgument(f"{where} is not JSON: {error}") from None


def _checked(value: object, fields: dict[str, type], where: str) -> Row:
    if not isinstance(value, dict):
        raise BadArgument(f"{where} has to be a JSON object, not {type(value).__name__}")
    for name, kind in fields.items():
        if not isinstance(value.get(name), kind):
            here = f"it is {type(value[name]).__name__}" if name in value else "it is missing"
            raise BadArgument(f"{where}: {name!r} has to be {kind.__name__}; {here}")
    return value
