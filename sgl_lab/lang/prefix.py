"""Computes the common prefix of all runs of a program. The program's body is traced until the text
depends on something.

Text, images and roles are recorded. Anything else ends the trace: a gen, a fork, an argument without a
value.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from contextlib import suppress

from .expressions import Argument, Concat, Embedded, Image, RoleBegin, RoleEnd, ScopeBegin, ScopeEnd, Text, TokenIds, Warm
from .graph.tracer import Trace, Tracer
from .graph.tracing import missing
from .loop import drive
from .state import ProgramState

_KNOWN = (Text, TokenIds, Embedded, Image, RoleBegin, RoleEnd)


def cache_prefix(body: Callable[..., object], bound: Mapping[str, object], state: ProgramState) -> int:
    """Compute the prefix of a program's body on the state's backend. Returns its number of tokens.
    `bound` are the given arguments.
    """
    if not state._run.card.capabilities.warms:
        raise state._run.missing("warms")
    stream, trace = state._stream, Trace(only=(*_KNOWN, ScopeBegin, ScopeEnd))
    unknown = {name: trace.placeholder(Argument(name)) for name in missing(body, bound)}
    # An error in the body, for example about an argument without a value, ends the prefix too.
    with suppress(Exception):
        done = body(ProgramState(Tracer(stream.run, trace)), **bound, **unknown)
        if inspect.iscoroutine(done):
            drive(done, stream.run.check)
    stream.submit(Concat(tuple(step.value for step in trace.steps if isinstance(step.value, _KNOWN))))
    stream.submit(Warm())
    return len(state.token_ids())
