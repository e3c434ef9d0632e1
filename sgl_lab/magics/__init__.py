"""The IPython side: `%%sgl`, `%sgl`, completion, and errors that show the user's own lines.

`load` returns in a fraction of a second. The first cell imports the heavy modules.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from ..lang.shown import States
    from ..lang.surface import ProgramState, ProgramStateGroup
    from .session import Session
    from .shell import Shell

_LOADED = "_sgl_lab"
"""attribute of the shell that holds what was registered"""


class _Loaded(NamedTuple):
    matcher: object
    session: Session
    undo: tuple[Callable[[], None], ...]


def load(shell: Shell) -> None:
    """Register the magics and completion. A second call changes nothing."""
    from IPython.core.magic import no_var_expand

    from .complete import make_matcher
    from .errors import readable, show_user_frames
    from .inspecting import install
    from .line import line_help, run_line, words
    from .options import cell_help
    from .printing import say
    from .secrets import before_cell
    from .session import Session
    from .settings import SGL, Settings, take_wrong

    if getattr(shell, _LOADED, None) is not None:
        return
    wrong = take_wrong(shell.config, _config_files())
    for error in wrong:
        say(f"sgl: {error}; it is ignored")
    config = SGL(parent=shell)
    session = Session(Settings(config, ignored=wrong))

    @no_var_expand  # type: ignore[untyped-decorator, unused-ignore]
    def cell(line: str, body: str) -> object:
        from .cell import run_cell
        from .output import is_captured

        is_captured(shell)
        with readable(shell, "%%sgl"):
            return run_cell(shell, session, line, body)

    @no_var_expand  # type: ignore[untyped-decorator, unused-ignore]
    def command(line: str) -> object:
        from .output import is_captured

        is_captured(shell)
        with readable(shell, "%sgl"):
            return run_line(shell, session, line)

    cell.__doc__, command.__doc__ = cell_help(), line_help()
    shell.register_magic_function(cell, "cell", "sgl")
    shell.register_magic_function(command, "line", "sgl")
    matcher = make_matcher(partial(words, session), _names, _inside)
    shell.Completer.custom_matchers.append(matcher)
    shell.configurables.append(config)
    shell.events.register("pre_run_cell", before_cell)
    shell.events.register("post_run_cell", session.after_cell)
    for home, name, draw in _DRAWN:
        shell.display_formatter.formatters["text/html"].for_type_by_name(home, name, draw)
    setattr(shell, _LOADED, _Loaded(matcher, session, (install(shell, _bound_names), show_user_frames(shell))))


def unload(shell: Shell) -> None:
    """Undo `load`: remove the magics and completion, end the engine's thread and free its memory."""
    from .secrets import before_cell

    loaded: _Loaded | None = getattr(shell, _LOADED, None)
    if loaded is None:
        return
    shell.events.unregister("pre_run_cell", before_cell)
    shell.events.unregister("post_run_cell", loaded.session.after_cell)
    loaded.session.close()
    for undo in loaded.undo:
        undo()
    for home, name, _ in _DRAWN:
        html = shell.display_formatter.formatters["text/html"]
        html.pop(f"{home}.{name}", None)
        html.deferred_printers.pop((home, name), None)
    for kind in ("cell", "line"):
        shell.magics_manager.magics[kind].pop("sgl", None)
    shell.Completer.custom_matchers.remove(loaded.matcher)
    shell.configurables.remove(loaded.session.settings.config)
    setattr(shell, _LOADED, None)
    if "sgl_lab.labs" in sys.modules:
        sys.modules["sgl_lab.labs"].close_all()


def _state_html(state: ProgramState) -> str:
    from ..viz.draw import state as draw

    return draw.html(state.summary()).source


def _table_html(states: States | ProgramStateGroup) -> str:
    from ..viz.draw import state as draw

    return draw.table(states.summaries(), f"{len(states)} {'forks' if type(states).__name__ == 'ProgramStateGroup' else 'states'}").source


_DRAWN = (
    ("sgl_lab.lang.state", "ProgramState", _state_html),
    ("sgl_lab.lang.state", "ProgramStateGroup", _table_html),
    ("sgl_lab.lang.shown", "States", _table_html),
)
"""The types that have an HTML form, by name, so that nothing is imported for them."""


def _bound_names() -> dict[str, object]:
    """The meaning of the language's names in a cell, for help."""
    from ..lang import surface

    words = {name: getattr(surface, name) for name in surface.SURFACE}
    return words | {"s": surface.ProgramState, "fork": surface.ProgramState.fork, "var_scope": surface.ProgramState.var_scope}


def _config_files() -> list[Path]:
    """The configuration files that IPython or its kernel has read."""
    from traitlets.config import Application

    return [Path(name) for name in Application.instance().loaded_config_files] if Application.initialized() else []


def _names() -> tuple[str, ...]:
    from ..lang.surface import SURFACE

    return (*SURFACE, "fork", "var_scope")


def _inside(opened: str) -> tuple[str, ...]:
    """The members of a state after `s.`, or the parameters of a function of the language after
    `gen(`.
    """
    import inspect

    from ..lang import surface

    if opened == "s.":
        return tuple(name for name in dir(surface.ProgramState) if not name.startswith("_"))
    home = surface if opened[:-1] in surface.SURFACE else surface.ProgramState
    function = getattr(home, opened[:-1], None)
    if not inspect.isfunction(function):
        return ()
    return tuple(f"{name}=" for name in inspect.signature(function).parameters if name != "self")
