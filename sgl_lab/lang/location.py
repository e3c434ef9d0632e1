"""The position of an expression in the user's own source."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import NamedTuple

LANGUAGE = ("sgl_lab.lang.", "contextlib")
"""modules whose frames are between the user's line and an expression"""


class SourceLocation(NamedTuple):
    """A line of the user's source; line 0 if it is unknown."""

    file: str
    line: int

    def __str__(self) -> str:
        # The file name of a notebook cell is artificial and means nothing to its author.
        return f"line {self.line} of {os.path.basename(self.file)}" if os.path.exists(self.file) else f"line {self.line}"


def user_location() -> SourceLocation:
    """The executing line outside the language."""
    return _line_outside(lambda module: module.startswith(LANGUAGE))


def line_of_program() -> SourceLocation:
    """The executing line outside this package and the standard library, which may read a program's
    text for it.
    """
    return _line_outside(lambda module: module.startswith("sgl_lab.") or module.partition(".")[0] in sys.stdlib_module_names)


def _line_outside(skipped: Callable[[str], bool]) -> SourceLocation:
    frame = sys._getframe(2)
    while skipped(frame.f_globals.get("__name__", "")):
        if frame.f_back is None:
            return SourceLocation("", 0)
        frame = frame.f_back
    return SourceLocation(frame.f_code.co_filename, frame.f_lineno)
