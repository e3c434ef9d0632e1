"""What a workload is: items from data, a program that is run for each, and how its answer is judged."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

from ..lang.program import SglFunction
from ..lang.state import ProgramState
from ..session import Lab
from .data import Data, Row


@dataclass(frozen=True, slots=True)
class Item:
    """One run of the program: its arguments, and the right answer, where there is one."""

    id: str
    arguments: Row
    answer: str | None = None


Judge = Callable[[Item, ProgramState], bool | None]
"""whether the answer is right; None if nothing is right or wrong here"""


def unjudged(item: Item, state: ProgramState) -> bool | None:
    return None


@dataclass(frozen=True, slots=True)
class Workload:
    """`read` gives at most that many items, in the order of the data. BadArgument if the data is not
    as the workload needs it.
    """

    name: str
    title: str
    about: str
    """what the program does, and what its runs share, in one sentence"""
    program: SglFunction
    read: Callable[[Data, int | None], Sequence[Item]]
    judge: Judge = unjudged
    temperature: float = 0.0
    needs: tuple[str, ...] = ()
    """capabilities of the backend without which it cannot run"""
    around: Callable[[Lab], AbstractContextManager[Row]] | None = None
    """entered while the programs run; gives further arguments for all of them"""
