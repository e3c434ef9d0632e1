"""Errors as the user should meet them: their own lines, one message, no internals of ours.

IPython renders an exception through its `_render_traceback_` if it has one; a SyntaxError never
reaches that hook, so it travels as `CellSyntaxError`.
"""

from __future__ import annotations

import linecache
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from ..contracts.errors import ModelError, Stopped
from .options import OptionError

PACKAGE = str(Path(__file__).resolve().parent.parent)


class CellSyntaxError(SyntaxError):
    """A SyntaxError in the body of a cell, with our rendering."""


def is_ours(filename: str) -> bool:
    return filename.startswith(PACKAGE)


def user_frames(tb: TracebackType | None) -> TracebackType | None:
    """The user's part of a traceback: their frames below our first one, and no library's below our second."""
    frames: list[TracebackType] = []
    while tb is not None:
        frames.append(tb)
        tb = tb.tb_next
    ours = [is_ours(frame.tb_frame.f_code.co_filename) for frame in frames]
    start = ours.index(False, ours.index(True)) if True in ours and False in ours[ours.index(True) :] else 0
    end = ours.index(True, start) if True in ours[start:] else len(frames)
    cell = frames[start].tb_frame.f_code.co_filename if frames else ""
    theirs = frames[start:end] + [frame for frame in frames[end:] if frame.tb_frame.f_code.co_filename == cell]
    trimmed: TracebackType | None = None
    for frame in reversed(theirs):
        trimmed = TracebackType(trimmed, frame.tb_frame, frame.tb_lasti, frame.tb_lineno)
    return trimmed


def outer_filename(shell: Any) -> str:
    """File name under which IPython compiled the cell that is running now."""
    frame = sys._getframe()
    while frame is not None:
        if frame.f_code.co_name in ("<module>", "<cell line: 1>") and frame.f_globals is shell.user_global_ns:
            return frame.f_code.co_filename
        frame = frame.f_back  # type: ignore[assignment]
    return "<sgl cell>"


def show_source(filename: str, first_line: str, body: str) -> None:
    """Let tracebacks that name `filename` quote the cell as the user typed it."""
    lines = [first_line + "\n", *(line + "\n" for line in body.splitlines())]
    linecache.cache[filename] = (sum(map(len, lines)), None, lines, filename)


def render_with(error: BaseException, lines: list[str]) -> None:
    """Make IPython show `lines` for this error."""
    error._render_traceback_ = lambda: lines  # type: ignore[attr-defined]


def render_user_lines(shell: Any, error: BaseException) -> None:
    """Make IPython show this error with the user's frames only."""
    trimmed = user_frames(error.__traceback__)
    kept, error.__suppress_context__ = error.__suppress_context__, True
    try:
        lines = shell.InteractiveTB.structured_traceback(type(error), error, trimmed, tb_offset=0)
    finally:
        error.__suppress_context__ = kept
    render_with(error, lines)


@contextmanager
def readable(shell: Any, magic: str) -> Iterator[None]:
    """However the block fails, the user meets one line or their own code."""
    from IPython.core.error import UsageError

    try:
        yield
    except OptionError as error:
        raise UsageError(f"{magic}: {error}") from None
    except (KeyboardInterrupt, Stopped):
        stopped = Stopped("what had been generated is kept")
        render_with(stopped, [f"Stopped: {stopped}"])
        raise stopped from None
    except ModelError as error:
        render_with(error, [f"{type(error).__name__}: {error}"])
        raise
    except CellSyntaxError:
        raise
    except BaseException as error:
        render_user_lines(shell, error)
        raise


def as_cell_syntax_error(shell: Any, error: SyntaxError) -> CellSyntaxError:
    """The same error under our class, shown as IPython shows a SyntaxError."""
    shown = CellSyntaxError(error.msg, (error.filename, error.lineno, error.offset, error.text, error.end_lineno, error.end_offset))
    plain = SyntaxError(*shown.args)
    render_with(shown, shell.SyntaxTB.structured_traceback(SyntaxError, plain, []))
    return shown
