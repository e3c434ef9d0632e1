"""The position of an expression in the user's own source."""

from __future__ import annotations

import os
import sys
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
    frame = sys._getframe(1)
    while frame.f_globals.get("__name__", "").startswith(LANGUAGE):
        if frame.f_back is None:
            return SourceLocation("", 0)
        frame = frame.f_back
    return SourceLocation(frame.f_code.co_filename, frame.f_lineno)
