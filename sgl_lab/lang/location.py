"""Where in the user's own source an expression is written."""

from __future__ import annotations

import os
import sys
from typing import NamedTuple

LANGUAGE = ("sgl_lab.lang.", "contextlib")
"""modules whose frames stand between the user's line and an expression"""


class SourceLocation(NamedTuple):
    """A line of the user's source; line 0 when unknown."""

    file: str
    line: int

    def __str__(self) -> str:
        # A notebook cell's file name is made up and says nothing to its author.
        return f"line {self.line} of {os.path.basename(self.file)}" if os.path.exists(self.file) else f"line {self.line}"


def user_location() -> SourceLocation:
    """The line outside the language that is being executed."""
    frame = sys._getframe(1)
    while frame.f_globals.get("__name__", "").startswith(LANGUAGE):
        if frame.f_back is None:
            return SourceLocation("", 0)
        frame = frame.f_back
    return SourceLocation(frame.f_code.co_filename, frame.f_lineno)
