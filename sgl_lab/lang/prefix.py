"""The text that all runs of a program begin with: found by running its body until it depends on something, and computed.

Arguments that nobody gave are texts that nobody could have written; what is appended before the first of
them, the first gen and the first read is the prefix.
"""

from __future__ import annotations

import inspect
import secrets
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from .group import ProgramStateGroup
from .ir import Gen, Leaf, Select, Text, leaves
from .loop import drive
from .state import ProgramState
from .stream import Stream
from .work import Warming

if TYPE_CHECKING:
    from .program import SglFunction


class _PrefixEnds(Exception):
    """What comes now is not the same in every run."""


class _Prefix(ProgramState):
    """Takes text and roles up to an unknown argument, and refuses all else."""

    def __init__(self, stream: Stream, unknown: str) -> None:
        super().__init__(stream)
        self._mark = unknown

    def append_expression(self, value: object) -> None:
        for leaf in leaves(value, self._stream):
            self._take(leaf)

    def _take(self, leaf: Leaf) -> None:
        if isinstance(leaf, Gen | Select):
            raise _PrefixEnds
        if not isinstance(leaf, Text):
            self._stream.append(leaf)
            return
        before, unknown, _ = leaf.text.partition(self._mark)
        self._stream.append(before)
        if unknown:
            raise _PrefixEnds

    def fork(self, size: int = 1, position_ids_offset: Sequence[int] | None = None) -> ProgramStateGroup:
        raise _PrefixEnds


def cache_prefix(program: SglFunction, state: ProgramState) -> int:
    """Compute the program's prefix on the state's backend; how many tokens it has."""
    stream = state._stream
    unknown = f"\ue000{secrets.token_hex(16)}\ue001"
    # Whatever a body does with an argument that it was not given, a failure too, ends the prefix.
    with suppress(Exception):
        _execute(program, _Prefix(stream, unknown), program.bind_arguments | dict.fromkeys(_missing(program), unknown))
    stream.transcript.settle()
    if stream.transcript.ids:
        Warming(stream, ()).start()
    return len(state.token_ids())


def _missing(program: SglFunction) -> list[str]:
    """Parameters without a default that are not bound."""
    parameters = list(inspect.signature(program.func).parameters.values())[1:]
    needed = [each.name for each in parameters if each.default is each.empty and each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)]
    return [name for name in needed if name not in program.bind_arguments]


def _execute(program: SglFunction, prefix: ProgramState, arguments: dict[str, Any]) -> None:
    done = program.func(prefix, **arguments)
    if program.is_async:
        drive(done, prefix._run.check)
