"""Shows errors as users need them: their own lines, one message, no internals of ours.

IPython renders an exception through its `_render_traceback_` method if it has one. A SyntaxError is
an exception to that, so it is raised as `CellSyntaxError`.
"""

from __future__ import annotations

import linecache
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType

from ..contracts.errors import ModelError, Stopped
from ..contracts.legible import legible
from ..lang.interrupts import INTERRUPTS, is_below_us, is_ours
from .options import OptionError
from .shell import Shell

_LINE = re.compile(r"\bline (\d{1,9})\Z")
_COLOUR = re.compile(r"(\x1b\[[\d;]{0,20}m)")


class CellSyntaxError(Exception):
    """A SyntaxError in the body of a cell. It is displayed as SyntaxError but is not a subclass of
    it.
    """


CellSyntaxError.__name__ = CellSyntaxError.__qualname__ = "SyntaxError"


def user_frames(tb: TracebackType | None) -> TracebackType | None:
    """The user's part of a traceback: the frames below our first ones, without ours and without
    library frames below our next ones.

    Frames of a library through which we call the user (an event loop) are left out too.
    """
    frames: list[TracebackType] = []
    while tb is not None:
        frames.append(tb)
        tb = tb.tb_next
    names = [frame.tb_frame.f_code.co_filename for frame in frames]
    ours = [is_ours(name) for name in names]
    start = next((n for n, name in enumerate(names) if not is_below_us(name)), None)
    if start is None:  # library frames between ours are not the user's
        return None
    end = ours.index(True, start) if True in ours[start:] else len(frames)
    theirs = frames[start:end] + [frame for frame in frames[end:] if not is_below_us(frame.tb_frame.f_code.co_filename)]
    trimmed: TracebackType | None = None
    for frame in reversed(theirs):
        trimmed = TracebackType(trimmed, frame.tb_frame, frame.tb_lasti, frame.tb_lineno)
    return trimmed


def outer_filename(shell: Shell) -> str:
    """File name under which IPython compiled the running cell."""
    frame = sys._getframe()
    while frame is not None:
        if frame.f_code.co_name in ("<module>", "<cell line: 1>") and frame.f_globals is shell.user_global_ns:
            return frame.f_code.co_filename
        frame = frame.f_back  # type: ignore[assignment]
    return "<sgl cell>"


def show_source(filename: str, first_line: str, body: str) -> None:
    """Let tracebacks that name `filename` quote the cell as the user typed it."""
    # Lines end where Python ends them: str.splitlines would also split at a form feed or U+2028
    # inside a string.
    lines = [line + "\n" for line in [first_line, *body.removesuffix("\n").split("\n")]]
    linecache.cache[filename] = (sum(map(len, lines)), None, lines, filename)


def render_with(error: BaseException, lines: list[str]) -> None:
    """Make IPython show `lines` for this error, once: if the error is raised again, it comes from
    another position.

    Only colours reach a terminal as escape sequences.
    """
    shown = ["".join(part if _COLOUR.fullmatch(part) else legible(part) for part in _COLOUR.split(line)) for line in lines]

    def render() -> list[str]:
        del error._render_traceback_  # type: ignore[attr-defined]
        return shown

    error._render_traceback_ = render  # type: ignore[attr-defined]


def render_user_lines(shell: Shell, error: BaseException) -> None:
    """Make IPython show this error and its causes with the user's frames only. Without such frames,
    show the line that its note mentions.
    """
    if not any(user_frames(link.__traceback__) for link in _chain(error)):
        render_with(error, [f"{type(error).__name__}: {error}", *(_quoting(shell, note) for note in getattr(error, "__notes__", ()))])
        return
    with _trimmed(error):
        lines = shell.InteractiveTB.structured_traceback(type(error), error, error.__traceback__, tb_offset=0)
    render_with(error, lines)


def show_user_frames(shell: Shell) -> Callable[[], None]:
    """Show errors that pass through our code in any cell with the user's frames only; `%xmode
    Verbose` shows all frames. Returns a function that undoes it.
    """
    formatter = shell.InteractiveTB
    plain = formatter.structured_traceback

    def structured_traceback(
        etype: object = None,
        evalue: object = None,
        etb: TracebackType | None = None,
        tb_offset: int | None = None,
        context: int = 5,
    ) -> object:
        theirs = user_frames(etb)
        is_plain = theirs is None or formatter.mode == "Verbose"
        if is_plain or not isinstance(evalue, BaseException) or not any(map(_passes_us, _chain(evalue))):
            return plain(etype, evalue, etb, tb_offset, context)
        with _trimmed(evalue):
            return plain(etype, evalue, theirs, 0, context)

    formatter.structured_traceback = structured_traceback

    def undo() -> None:
        if vars(formatter).get("structured_traceback") is structured_traceback:
            del formatter.structured_traceback

    return undo


def _passes_us(error: BaseException) -> bool:
    return any(is_ours(frame.f_code.co_filename) for frame, _ in traceback.walk_tb(error.__traceback__))


def _quoting(shell: Shell, note: str) -> str:
    """The note, followed by the source line if the note ends in a line of the running cell."""
    found = _LINE.search(note)
    line = linecache.getline(outer_filename(shell), int(found[1])).strip() if found else ""
    return f"{note}: {line}" if line else note


@contextmanager
def _trimmed(error: BaseException) -> Iterator[None]:
    """Within the block, the error and its chain have the user's frames only. The chain ends where
    all frames are ours.
    """
    links = _chain(error)
    before = [(link, link.__traceback__, link.__cause__, link.__suppress_context__) for link in links]
    inner = next((n for n, link in enumerate(links) if n and link.__traceback__ and user_frames(link.__traceback__) is None), None)
    try:
        if inner is not None:
            links[inner - 1].__cause__ = None
        for link in links:
            link.__traceback__ = user_frames(link.__traceback__)
        yield
    finally:
        for link, frames, cause, suppress in before:
            link.__traceback__, link.__cause__, link.__suppress_context__ = frames, cause, suppress


def _chain(error: BaseException) -> list[BaseException]:
    """The error, its cause, and so on, as Python shows them."""
    links: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in links:
        links.append(link)
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)
    return links


@contextmanager
def readable(shell: Shell, magic: str) -> Iterator[None]:
    """If the block fails, show the user one line or their own code."""
    from IPython.core.error import UsageError

    try:
        yield
    except OptionError as error:
        raise UsageError(f"{magic}: {error}") from None
    except KeyboardInterrupt:
        if INTERRUPTS.is_watching:  # a magic inside the body of another magic: the outer one reports it
            raise
        stopped = Stopped("the text generated so far is kept")
        render_with(stopped, [f"Stopped: {stopped}"])
        raise stopped from None
    except (Stopped, ModelError) as error:
        render_with(error, [f"{type(error).__name__}: {error}"])
        raise
    except CellSyntaxError:
        raise
    except BaseException as error:
        render_user_lines(shell, error)
        raise


def as_cell_syntax_error(shell: Shell, error: SyntaxError) -> CellSyntaxError:
    """The same error as a type that we can render: the line of the cell and the caret."""
    shown = CellSyntaxError(f"{error.msg} (line {error.lineno})")
    render_with(shown, shell.SyntaxTB.structured_traceback(SyntaxError, error, []))
    return shown
