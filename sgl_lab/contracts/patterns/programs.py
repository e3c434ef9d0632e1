"""Compiles Python's regular expressions to instructions. Python's own parser reads them, and `re`
decides membership in character classes, once per character.
"""

from __future__ import annotations

import re
import re._compiler as compiler
import re._constants as sre
import re._parser as parser
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, TypeAlias

from ..errors import BadArgument

MAX_LENGTH = 1 << 14
"""maximum length of a pattern in characters"""
MAX_INSTRUCTIONS = 20_000
MAX_KNOWN = 10_000
"""characters of one class whose membership is cached"""

Parsed: TypeAlias = Any
"""a part of the tree of Python's own parser, which has no types"""
Part: TypeAlias = tuple[object, Parsed]
"""an opcode and its arguments"""

_TYPES = sre.SRE_FLAG_ASCII | sre.SRE_FLAG_LOCALE | sre.SRE_FLAG_UNICODE


class Characters(dict[str, bool]):
    """The characters that a part of the pattern accepts. `re` is called once for each."""

    def __init__(self, part: Part, flags: int) -> None:
        state = parser.State()
        state.flags = flags
        self._takes = compiler.compile(parser.SubPattern(state, [part]), flags).fullmatch

    def __missing__(self, character: str) -> bool:
        if len(self) >= MAX_KNOWN:
            self.clear()
        found = self[character] = self._takes(character) is not None
        return found


class Take(NamedTuple):
    """Consumes one of these characters and continues with the next instruction."""

    characters: Characters


class Split(NamedTuple):
    """Continues at the first target, or else at the second."""

    first: int
    second: int


class Jump(NamedTuple):
    to: int


class At(NamedTuple):
    """Continues only if `holds(character before, character after)`; "" is the border of the text.
    `$` also holds before a final line feed.
    """

    holds: Callable[[str, str], bool]
    is_dollar: bool = False


class Save(NamedTuple):
    """Saves the position: the beginning or end of a group, or the beginning of a loop iteration."""

    register: int


class IfMoved(NamedTuple):
    """Continues at `to` unless the loop iteration consumed nothing."""

    register: int
    to: int


class Look(NamedTuple):
    """Continues only if `program` does, or does not, match from here; for a lookbehind, if it ends
    here.
    """

    program: tuple[Instruction, ...]
    back: int | None
    wanted: bool


class Atomic(NamedTuple):
    """Takes the first match of `program` and no other."""

    program: tuple[Instruction, ...]


class Same(NamedTuple):
    """Consumes the text of the group again."""

    group: int
    ignores_case: bool


class IfTaken(NamedTuple):
    group: int
    otherwise: int


class Fail(NamedTuple):
    pass


class Match(NamedTuple):
    pass


Instruction = Take | Split | Jump | At | Save | IfMoved | Look | Atomic | Same | IfTaken | Fail | Match


def is_word(character: str) -> bool:
    return character.isalnum() or character == "_"


def _is_ascii_word(character: str) -> bool:
    return character.isascii() and is_word(character)


def _border(is_word: Callable[[str], bool]) -> Callable[[str, str], bool]:
    return lambda before, after: is_word(before) != is_word(after)


_HOLDS: dict[object, Callable[[str, str], bool]] = {
    sre.AT_BEGINNING: lambda before, after: not before,
    sre.AT_BEGINNING_STRING: lambda before, after: not before,
    sre.AT_BEGINNING_LINE: lambda before, after: before in ("", "\n"),
    sre.AT_END: lambda before, after: not after,
    sre.AT_END_STRING: lambda before, after: not after,
    sre.AT_END_LINE: lambda before, after: after in ("", "\n"),
    sre.AT_BOUNDARY: _border(_is_ascii_word),
    sre.AT_UNI_BOUNDARY: _border(is_word),
    sre.AT_NON_BOUNDARY: lambda before, after: not _border(_is_ascii_word)(before, after),
    sre.AT_UNI_NON_BOUNDARY: lambda before, after: not _border(is_word)(before, after),
}


class _Compiler:
    """Translates the tree of Python's parser to instructions."""

    def __init__(self) -> None:
        self.n_all = 0
        self.n_registers = 0
        self.groups: dict[int, int] = {}
        """groups that are referred to, and the register of each group's beginning"""
        self.is_regular = True
        self._classes: dict[tuple[str, int], Characters] = {}

    def program(self, tree: Parsed, flags: int) -> tuple[Instruction, ...]:
        made: list[Instruction] = []
        self._sequence(made, tree, flags)
        self._add(made, Match())
        return tuple(made)

    def _add(self, made: list[Instruction], instruction: Instruction) -> int:
        self.n_all += 1
        if self.n_all > MAX_INSTRUCTIONS:
            raise OverflowError(f"it has more than {MAX_INSTRUCTIONS} parts when its repeats are written out")
        made.append(instruction)
        return len(made) - 1

    def register(self, n: int = 1) -> int:
        self.n_registers += n
        return self.n_registers - n

    def _sequence(self, made: list[Instruction], parts: Iterable[Part], flags: int) -> None:
        for op, value in parts:
            self._part(made, op, value, flags)

    def _part(self, made: list[Instruction], op: object, value: Parsed, flags: int) -> None:
        match op:
            case sre.LITERAL | sre.NOT_LITERAL | sre.ANY | sre.IN:
                key = f"{op} {value}", flags
                if key not in self._classes:
                    self._classes[key] = Characters((op, value), flags)
                self._add(made, Take(self._classes[key]))
            case sre.BRANCH:
                self._branch(made, value[1], flags)
            case sre.SUBPATTERN:
                group, added, removed, inner = value
                within = ((flags & ~_TYPES if added & _TYPES else flags) | added) & ~removed
                register = self.groups.get(group)
                if register is not None:
                    self._add(made, Save(register))
                self._sequence(made, inner, within)
                if register is not None:
                    self._add(made, Save(register + 1))
            case sre.MAX_REPEAT | sre.MIN_REPEAT:
                least, most, inner = value
                self._repeat(made, least, most, inner, flags, is_greedy=op is sre.MAX_REPEAT)
            case sre.POSSESSIVE_REPEAT:
                least, most, inner = value
                repeated: list[Instruction] = []
                self._repeat(repeated, least, most, inner, flags, is_greedy=True)
                self._add(repeated, Match())
                self._irregular(made, Atomic(tuple(repeated)))
            case sre.ATOMIC_GROUP:
                self._irregular(made, Atomic(self.program(value, flags)))
            case sre.ASSERT | sre.ASSERT_NOT:
                direction, inner = value
                back = None if direction > 0 else inner.getwidth()[0]
                self._irregular(made, Look(self.program(inner, flags), back, op is sre.ASSERT))
            case sre.AT:
                if flags & re.MULTILINE:
                    value = sre.AT_MULTILINE.get(value, value)
                if not flags & re.ASCII:
                    value = sre.AT_UNICODE.get(value, value)
                self._add(made, At(_HOLDS[value], value is sre.AT_END))
            case sre.GROUPREF:
                self._irregular(made, Same(self.groups[value], bool(flags & re.IGNORECASE)))
            case sre.GROUPREF_EXISTS:
                group, yes, no = value
                at = self._irregular(made, Fail())
                self._sequence(made, yes, flags)
                out = self._add(made, Fail())
                made[at] = IfTaken(self.groups[group], len(made))
                self._sequence(made, no or (), flags)
                made[out] = Jump(len(made))
            case _:
                self._add(made, Fail())

    def _irregular(self, made: list[Instruction], instruction: Instruction) -> int:
        self.is_regular = False
        return self._add(made, instruction)

    def _branch(self, made: list[Instruction], branches: Sequence[Parsed], flags: int) -> None:
        outs = []
        for branch in branches[:-1]:
            split = self._add(made, Fail())
            self._sequence(made, branch, flags)
            outs.append(self._add(made, Fail()))
            made[split] = Split(split + 1, len(made))
        self._sequence(made, branches[-1], flags)
        for out in outs:
            made[out] = Jump(len(made))

    def _repeat(self, made: list[Instruction], least: int, most: Parsed, inner: Parsed, flags: int, *, is_greedy: bool) -> None:
        for _ in range(least):
            n_before = len(made)
            self._sequence(made, inner, flags)
            if len(made) == n_before:
                break  # it consumes nothing, however often it repeats
        if most is sre.MAXREPEAT:
            split = self._add(made, Fail())
            register = self.register()
            self._add(made, Save(register))
            self._sequence(made, inner, flags)
            self._add(made, IfMoved(register, split))
            made[split] = _split(split + 1, len(made), is_greedy)
            return
        splits = []
        for _ in range(most - least):
            splits.append(self._add(made, Fail()))
            self._sequence(made, inner, flags)
        for split in splits:
            made[split] = _split(split + 1, len(made), is_greedy)


def _split(inside: int, outside: int, is_greedy: bool) -> Split:
    return Split(inside, outside) if is_greedy else Split(outside, inside)


def _referred(parts: Parsed) -> set[int]:
    """Groups that are referred to anywhere in a tree."""
    found: set[int] = set()
    stack = [parts]
    while stack:
        part = stack.pop()
        if isinstance(part, tuple) and len(part) == 2 and part[0] is sre.GROUPREF:
            found.add(part[1])
        elif isinstance(part, tuple) and len(part) == 2 and part[0] is sre.GROUPREF_EXISTS:
            found.add(part[1][0])
            stack += part[1][1:]
        elif isinstance(part, tuple | list):
            stack += part
        elif isinstance(part, parser.SubPattern):
            stack += part.data
    return found


class Compiled(NamedTuple):
    program: tuple[Instruction, ...]
    n_registers: int
    is_regular: bool
    """whether a finite automaton can follow it: no lookaround, references or atomic groups"""
    remembers: bool
    """whether it refers to the text of a group"""


def compiled(source: str) -> Compiled:
    """The compiled pattern. BadArgument if it is not a regular expression or is too large."""
    if len(source) > MAX_LENGTH:
        raise BadArgument(f"a pattern of {len(source)} characters is too long", hint=f"the limit is {MAX_LENGTH}")
    try:
        re.compile(source)
        tree = parser.parse(source)
        made = _Compiler()
        made.groups = {group: made.register(2) for group in sorted(_referred(tree.data))}
        program = made.program(tree, tree.state.flags)
    except re.error as error:
        raise BadArgument(f"{source!r:.80} is not a regular expression: {error}") from None
    except (OverflowError, RecursionError) as error:
        raise BadArgument(f"{source!r:.80} is too large: {error}", hint="write a shorter one") from None
    return Compiled(program, made.n_registers, made.is_regular, bool(made.groups))
