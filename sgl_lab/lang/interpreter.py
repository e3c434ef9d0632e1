"""From a backend to a state that a program can be written on."""

from __future__ import annotations

from collections.abc import Callable

from ..contracts.events import Emit, silent
from ..contracts.ids import RunId
from ..contracts.port import Backend
from .executor import StreamExecutor
from .group import ProgramStateGroup
from .ids import run_ids
from .run import Run
from .sampling import GenDefaults
from .state import ProgramState
from .stream import Stream

__all__ = ["ProgramState", "ProgramStateGroup", "StreamExecutor", "start"]


def start(
    backend: Backend,
    emit: Emit = silent,
    run_id: RunId | None = None,
    defaults: GenDefaults | None = None,
    label: str = "s",
    *,
    eager: bool = False,
    check: Callable[[], None] | None = None,
) -> ProgramState:
    """The root state of a new run; an `eager` one waits for each expression that is appended.

    `check` is called between slices of waiting, of this run and of those that start inside its body; it may raise. A run
    that starts inside another's body has that one's.

    Run the program's body inside `with state.running():`, then call `state.finish()`;
    `state.cancel()` stops it from any thread.
    """
    run = Run(backend, emit, RunId(run_ids.next()) if run_id is None else run_id, defaults or GenDefaults(), eager)
    if check is not None:
        run.check = check
    return ProgramState(Stream(run, label))
