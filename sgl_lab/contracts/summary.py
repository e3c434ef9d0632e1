"""What a program's state shows of itself, as plain values: turns, what stands under names, counts."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Counts:
    """Tokens of the gens and selects behind a value, or behind all of them."""

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
    """One variable: its text by now; `ends` is the finish reason, an error's message, or that it is still coming."""

    name: str
    text: str
    counts: Counts
    ends: str


@dataclass(frozen=True, slots=True)
class Summary:
    """One stream as it is now. status: done, running, stopped or error. A turn is a role, empty outside of all, and its text."""

    label: str
    status: str
    error: str
    turns: tuple[tuple[str, str], ...]
    values: tuple[Value, ...]
    counts: Counts
    n_forks: int
