"""Searches a growing text for Python's regular expressions, at a bounded cost for every pattern and
text.

`re` backtracks: `(\\w+\\s?)+#` takes 20 s over 24 characters, and no other thread runs meanwhile.
Here, Python's own parser reads a pattern and `re` decides membership in character classes. A match
is followed in one of two ways. A pattern for a finite automaton (no lookaround, references or
atomic groups) costs one step per character once its states are known. Any other pattern is matched
as `re` does it, but each step is counted, and a beginning that failed before the end of the text is
never tried again. A pattern that exceeds its allowance fails.
"""

from __future__ import annotations

from functools import lru_cache

from ..errors import RequestFailed
from .programs import (
    At,
    Atomic,
    IfMoved,
    IfTaken,
    Instruction,
    Jump,
    Look,
    Match,
    Same,
    Save,
    Split,
    Take,
    compiled,
    is_word,
)

FIRST_STEPS = 50_000
"""the allowance of one pattern over one text, in steps of about a microsecond, and ..."""
STEPS_A_CHARACTER = 500
"""... the steps that each character of the text adds"""
_MAX_KNOWN = 10_000
"""cached transitions of one pattern"""

Program = tuple[Instruction, ...]
Registers = tuple[int, ...]
Kernel = dict[int, int]
"""instruction -> start of the leftmost match that continues there; matches further left come first"""


class _State:
    """The state of an automaton after a text."""

    __slots__ = ("before", "found", "kernel", "known")

    def __init__(self, kernel: tuple[int, ...], before: str, found: bool) -> None:
        self.kernel = kernel
        self.before = before
        self.found = found
        self.known: dict[str, _State] = {}


def _kind(character: str) -> str:
    """A character that anchors treat like `character`."""
    if character == "\n":
        return "\n"
    return ("a" if character.isascii() else "é") if is_word(character) else " "


class Pattern:
    """A compiled pattern. BadArgument if it is not a regular expression or is too large."""

    def __init__(self, source: str) -> None:
        self.source = source
        self._program, self.n_registers, self.is_regular, self.remembers = compiled(source)
        self._states: dict[tuple[tuple[int, ...], str, bool], _State] = {}
        self._n_known = 0

    # ------------------------------------------------------------ as an automaton

    def _closed(self, kernel: Kernel, before: str, after: str, is_last: bool) -> tuple[Kernel, int | None, int]:
        """The instructions that consume a character, the start of a match that is complete here,
        and the steps taken.
        """
        program = self._program
        takes: Kernel = {}
        found: int | None = None
        seen: set[int] = set()
        for entry, start in kernel.items():
            stack = [entry]
            while stack:
                at = stack.pop()
                if at in seen:
                    continue
                seen.add(at)
                match program[at]:
                    case Take():
                        takes[at] = start
                    case Split(first, second):
                        stack += (second, first)
                    case Jump(to):
                        stack.append(to)
                    case At(holds, is_dollar):
                        if holds(before, after) or (is_dollar and is_last):
                            stack.append(at + 1)
                    case IfMoved(_, to):
                        stack += (at + 1, to)
                    case Save():
                        stack.append(at + 1)
                    case Match():
                        found = start if found is None else found
                    case _:
                        pass
        return takes, found, len(seen)

    def advance(self, kernel: Kernel, before: str, character: str, at: int, restarts: bool = True) -> tuple[Kernel, int | None, int]:
        """Process one more character, the last one so far, at position `at`.

        Returns what continues after it, the start of the leftmost match that is complete now and
        was not before, and the steps taken.
        """
        program = self._program
        entered = kernel if not restarts or 0 in kernel else {**kernel, 0: at}

        def after(takes: Kernel) -> Kernel:
            # Within a step two instructions never lead to the same one: each has its own successor.
            return {entry + 1: start for entry, start in takes.items() if program[entry].characters[character]}  # type: ignore[union-attr]

        takes, found, n_steps = self._closed(entered, before, character, False)
        going = after(takes)
        ends = [(going, found)]
        if character == "\n":  # a `$` before it holds while it is the last character
            takes, found, n_more = self._closed(entered, before, character, True)
            ends.append((after(takes), found))
            n_steps += n_more
        starts = []
        for ending, found in ends:
            _, found_here, n_more = self._closed({**ending, 0: at + 1} if restarts and 0 not in ending else ending, character, "", False)
            n_steps += n_more
            starts += [start for start in (found if restarts else None, found_here) if start is not None]
        return going, min(starts, default=None), n_steps

    def state(self, kernel: tuple[int, ...], before: str, found: bool) -> _State:
        key = (kernel, before, found)
        if (state := self._states.get(key)) is None:
            state = self._states[key] = _State(*key)
        return state

    def next_state(self, state: _State, character: str) -> tuple[_State, int]:
        """The state after `character`, and the steps needed to find it."""
        known = state.known.get(character)
        if known is not None:
            return known, 1
        going, found, n_steps = self.advance(dict.fromkeys(state.kernel, 0), state.before, character, 0)
        if self._n_known >= _MAX_KNOWN:
            self._states, self._n_known = {}, 0
        self._n_known += 1
        following = state.known[character] = self.state(tuple(sorted(going)), _kind(character), found is not None)
        return following, n_steps

    # ------------------------------------------------------------ by backtracking, as re does

    def try_at(self, text: str, start: int, end: int, allowance: Allowance, *, whole: bool = False) -> tuple[bool, bool]:
        """Whether a match begins at `start` in `text[:end]`, and whether more text could change the
        answer.
        """
        attempt = _Attempt(self, text, end, allowance, whole)
        found = attempt.run(self._program, start, (-1,) * self.n_registers, is_outer=True)
        return found is not None, attempt.saw_end

    def fullmatch(self, text: str) -> bool:
        """Whether `re.fullmatch` matches the text, in bounded time. RequestFailed if the bound is
        exceeded.
        """
        allowance = Allowance(self.source)
        if not self.is_regular:
            allowance.add(len(text))
            return self.try_at(text, 0, len(text), allowance, whole=True)[0]
        kernel, before, found = {0: 0}, "", self._closed({0: 0}, "", "", False)[1]
        for at, character in enumerate(text):
            allowance.add(1)
            kernel, found, n_steps = self.advance(kernel, before, character, at, restarts=False)
            allowance.spend(n_steps)
            before = character
        return found is not None


class Allowance:
    """The number of steps that one pattern may still take over one text."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._left = FIRST_STEPS
        self._n_characters = 0

    @property
    def n_spent(self) -> int:
        return FIRST_STEPS + self._n_characters * STEPS_A_CHARACTER - self._left

    def add(self, n_characters: int) -> None:
        self._n_characters += n_characters
        self._left += n_characters * STEPS_A_CHARACTER

    def spend(self, n_steps: int) -> None:
        """RequestFailed when no steps are left."""
        self._left -= n_steps
        if self._left < 0:
            raise RequestFailed(
                f"the pattern {self._source!r:.80} takes too many steps over a text of {self._n_characters} characters",
                hint="write it without repeats inside repeats, lookaround or references",
            )


class _Attempt:
    """Matches in `text[:end]`, found by backtracking."""

    def __init__(self, pattern: Pattern, text: str, end: int, allowance: Allowance, whole: bool) -> None:
        self._remembers = pattern.remembers
        self._text = text
        self._end = end
        self._allowance = allowance
        self._whole = whole
        self.saw_end = False

    def run(self, program: Program, start: int, registers: Registers, is_outer: bool) -> tuple[int, Registers] | None:
        """The end of the first match and its registers; None if there is none."""
        text, end = self._text, self._end
        stack = [(0, start, registers)]
        failed: set[tuple[int, int]] = set()
        n_steps = 0
        while stack:
            at, here, registers = stack.pop()
            while True:
                n_steps += 1
                if n_steps >= 1000:
                    self._allowance.spend(n_steps)
                    n_steps = 0
                instruction = program[at]
                match instruction:
                    case Take(characters):
                        if here == end:
                            self.saw_end = True
                            break
                        if not characters[text[here]]:
                            break
                        at, here = at + 1, here + 1
                    case Split(first, second):
                        # a failure from here does not depend on the path that led here
                        if not self._remembers:
                            if (at, here) in failed:
                                break
                            failed.add((at, here))
                        stack.append((second, here, registers))
                        at = first
                    case Jump(to):
                        at = to
                    case At(holds, is_dollar):
                        self.saw_end |= here >= end - is_dollar
                        after = text[here] if here < end else ""
                        is_last = is_dollar and here == end - 1 and after == "\n"
                        if not (is_last or holds(text[here - 1] if here else "", after)):
                            break
                        at += 1
                    case Save(register):
                        registers = (*registers[:register], here, *registers[register + 1 :])
                        n_steps += len(registers) // 16
                        at += 1
                    case IfMoved(register, to):
                        at = to if registers[register] != here else at + 1
                    case Look(inner, back, wanted):
                        found = self.run(inner, here - (back or 0), registers, is_outer=False) if here >= (back or 0) else None
                        if (found is not None) != wanted:
                            break
                        registers = found[1] if found is not None and wanted else registers
                        at += 1
                    case Atomic(inner):
                        if (found := self.run(inner, here, registers, is_outer=False)) is None:
                            break
                        at, (here, registers) = at + 1, found
                    case Same(group, ignores_case):
                        first, last = registers[group], registers[group + 1]
                        if first < 0 or last < first:
                            break
                        n = last - first
                        wanted_text, got = text[first:last], text[here : min(here + n, end)]
                        if ignores_case:
                            wanted_text, got = wanted_text.lower(), got.lower()
                        n_steps += n
                        if wanted_text != got:
                            self.saw_end |= here + n > end
                            break
                        at, here = at + 1, here + n
                    case IfTaken(group, otherwise):
                        at = at + 1 if registers[group + 1] >= 0 else otherwise
                    case Match():
                        if not (is_outer and self._whole and here != end):
                            self._allowance.spend(n_steps)
                            return here, registers
                        break
                    case _:
                        break
        self._allowance.spend(n_steps)
        return None


@lru_cache(64)
def pattern(source: str) -> Pattern:
    """The compiled pattern, cached. BadArgument if it is not a regular expression or is too large."""
    return Pattern(source)


class Watch:
    """Searches for one pattern in one growing text. Each call receives the whole text and reads
    only `text[: at + 1]`.
    """

    def __init__(self, source: str) -> None:
        self.source = source
        self._pattern = pattern(source)
        self.allowance = Allowance(source)
        self._state = self._pattern.state((), "", False)
        self._since = 0
        """start of the first match that may still be completed, or a later position"""
        self._live: list[int] = []
        """possible starts of matches that the text so far has not ruled out"""

    def pass_over(self, text: str, at: int) -> None:
        """Declare that no match begins at `at`."""
        self._state = self._pattern.state((), _kind(text[at]), False)
        self._since = at + 1

    def look(self, text: str, at: int) -> int | None:
        """Start of the match that the character at `at` completes, if any. RequestFailed when the
        allowance is spent.
        """
        self.allowance.add(1)
        if not self._pattern.is_regular:
            return self._try(text, at)
        if not self._state.kernel:
            self._since = at
        self._state, n_steps = self._pattern.next_state(self._state, text[at])
        self.allowance.spend(n_steps)
        return self._begun(text, at) if self._state.found else None

    def _begun(self, text: str, end: int) -> int | None:
        """Start of the leftmost match that the automaton has found."""
        kernel: Kernel = {}
        found = None
        for at in range(self._since, end + 1):
            kernel, found, n_steps = self._pattern.advance(kernel, text[at - 1] if at else "", text[at], at)
            self.allowance.spend(n_steps)
        return found

    def _try(self, text: str, at: int) -> int | None:
        starts = self._live + list(range(max(self._since, self._live[-1] + 1 if self._live else 0), at + 2))
        self._live = []
        for start in starts:
            found, is_open = self._pattern.try_at(text, start, at + 1, self.allowance)
            if found:
                return start
            if is_open:
                self._live.append(start)
        self._since = at + 2
        return None


def first_match(source: str, text: str) -> int | None:
    """Start of the match that is completed first when `text` is read from left to right; None if
    there is none.
    """
    watch = Watch(source)
    return next((start for at in range(len(text)) if (start := watch.look(text, at)) is not None), None)
