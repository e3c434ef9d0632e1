"""The text that all runs of a program begin with: found by running its body until it depends on something, and computed.

Arguments that nobody gave are texts that nobody could have written; what is appended before the first of
them, the first gen and the first read is the prefix.
"""

from __future__ import annotations

import inspect
import secrets
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from .expressions import Gen, Leaf, Select, Text, leaves
from .loop import drive
from .run import Strand
from .state import ProgramState, ProgramStateGroup


class _PrefixEnds(Exception):
    """What comes now is not the same in every run."""


class _Prefix(ProgramState):
    """Takes text and roles up to an unknown argument, and refuses all else."""

    def __init__(self, stream: Strand, unknown: str) -> None:
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


def cache_prefix(body: Callable[..., Any], bound: Mapping[str, Any], state: ProgramState) -> int:
    """Compute the prefix of a program's body on the state's backend; how many tokens it has. `bound` are arguments that are given."""
    stream = state._stream
    unknown = f"\ue000{secrets.token_hex(16)}\ue001"
    # Whatever a body does with an argument that it was not given, a failure too, ends the prefix.
    with suppress(Exception):
        done = body(_Prefix(stream, unknown), **bound, **dict.fromkeys(_missing(body, bound), unknown))
        if inspect.iscoroutinefunction(body):
            drive(done, stream.run.check)
    stream.warm()
    return len(state.token_ids())


def _missing(body: Callable[..., Any], bound: Mapping[str, Any]) -> list[str]:
    """Parameters without a default that are not bound."""
    parameters = list(inspect.signature(body).parameters.values())[1:]
    needed = [each.name for each in parameters if each.default is each.empty and each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)]
    return [name for name in needed if name not in bound]
