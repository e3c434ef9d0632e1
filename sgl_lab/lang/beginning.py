"""How a run of a program begins: its settings, and its state."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from .default import checked, default_backend, emit_of
from .run import current_run
from .sampling import ARGUMENTS, GenDefaults, given
from .state import ProgramState, start

SETTINGS = ARGUMENTS.keys() | {"backend", "stream", "use_thread", "return_text_in_logprobs"}
"""Arguments of `run` beside the program's own."""


def state_for(label: str, settings: Mapping[str, object], num_api_spec_tokens: int | None = None) -> ProgramState:
    """The state of a new run. Inside another run's body it inherits that run's backend, sampling,
    events and id.
    """
    outer = current_run()
    named = settings.get("backend")
    backend = checked(named) if named is not None else outer.backend if outer else default_backend()
    sampling = given({name: value for name, value in settings.items() if name in ARGUMENTS})
    state = start(
        backend,
        outer.emit if outer and backend is outer.backend else emit_of(backend),
        outer.id if outer else None,
        replace(outer.defaults if outer else GenDefaults(), **sampling),
        label,
        eager=settings.get("use_thread") is False,
    )
    state._run.spells_logprobs = settings.get("return_text_in_logprobs") is not False
    if num_api_spec_tokens and backend.describe().capabilities.costly_calls:
        state._run.n_ahead = num_api_spec_tokens
    return state
