"""IPython's door: `%%sgl`, `%sgl`, completion, and errors that show the user's own lines.

`load` runs in a fraction of a second: what is heavy is imported by the first cell.
"""

from __future__ import annotations

import sys
from typing import Any

_MATCHER = "_sgl_lab_matcher"


def load(shell: Any) -> None:
    """Register magics and completion; a second time changes nothing."""
    from IPython.core.magic import no_var_expand

    from .complete import make_matcher
    from .desk import Desk
    from .errors import readable
    from .line import line_help, run_line, words
    from .options import cell_help

    if getattr(shell, _MATCHER, None) is not None:
        return
    desk = Desk()

    @no_var_expand  # type: ignore[untyped-decorator, unused-ignore]
    def cell(line: str, body: str) -> Any:
        from .cell import run_cell

        with readable(shell, "%%sgl"):
            return run_cell(shell, desk, line, body)

    @no_var_expand  # type: ignore[untyped-decorator, unused-ignore]
    def command(line: str) -> None:
        with readable(shell, "%sgl"):
            run_line(shell, desk, line)

    cell.__doc__, command.__doc__ = cell_help(), line_help()
    shell.register_magic_function(cell, "cell", "sgl")
    shell.register_magic_function(command, "line", "sgl")
    matcher = make_matcher(lambda: words(desk), _names)
    shell.Completer.custom_matchers.append(matcher)
    setattr(shell, _MATCHER, matcher)


def unload(shell: Any) -> None:
    """Take everything back: magics, completion, the engine's thread and memory."""
    matcher = getattr(shell, _MATCHER, None)
    if matcher is None:
        return
    for kind in ("cell", "line"):
        shell.magics_manager.magics[kind].pop("sgl", None)
    shell.Completer.custom_matchers.remove(matcher)
    setattr(shell, _MATCHER, None)
    if "sgl_lab.labs" in sys.modules:
        sys.modules["sgl_lab.labs"].LABS.close()


def _names() -> tuple[str, ...]:
    from ..lang.surface import SURFACE

    return (*SURFACE, "fork", "var_scope")
