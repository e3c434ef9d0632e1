"""A summary of a program's state as plain values: turns, variables, counts."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Counts:
    """Tokens of the gens and selects behind one value, or behind all of them."""

    prompt: int = 0
    cached: int = 0
    computed: int = 0
    generated: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            self.prompt + other.prompt, self.cached + other.cached, self.computed + other.computed, self.generated + other.generated
        )

    def __bool__(self) -> bool:
        return bool(self.prompt or self.generated)


@dataclass(frozen=True, slots=True)
class Value:
    """One variable: its current text. `ends` is the finish reason, an error's message, or a mark
    that it is still growing.
    """

    name: str
    text: str
    counts: Counts
    ends: str


@dataclass(frozen=True, slots=True)
class Summary:
    """A snapshot of one stream.

    status  done, running, stopped or error
    turns   (role, text); the role is empty outside of all roles
    """

    label: str
    status: str
    error: str
    turns: tuple[tuple[str, str], ...]
    values: tuple[Value, ...]
    counts: Counts
    n_forks: int
