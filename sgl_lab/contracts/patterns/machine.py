"""Follows a text through a tree of texts, and finds the shortest completion.

A position is a set of states. A state is a node of the tree, the finished part of that node, and
the state that follows it, so rules can be recursive. States are created on demand. A position keeps
its cheapest states: each is a valid path, so dropping others never produces a wrong completion.
Knows texts, and only the number of their tokens. May be used from any thread.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache
from itertools import accumulate
from math import inf
from typing import TypeAlias

from .bounded import spend
from .tree import (
    ALL,
    Chain,
    Chars,
    Choice,
    Like,
    Many,
    Named,
    Node,
    Ranges,
    Such,
    Text,
    can_be_empty,
    common,
    has,
    without,
)

FARTHEST = 4_096
"""maximum cost of a completion in tokens; longer completions are not found"""
_MOST_STATES = 128  # per position
_MOST_OPENED = 20_000  # states expanded to find the possible next characters
_MOST_TRIED = 2_000  # positions expanded to complete a text under several limits
_MOST_KEPT = 20_000  # states and steps in the caches

_Sets: TypeAlias = "tuple[StateSet, ...]"


class State:
    __slots__ = ("at", "cost", "ends", "node", "opened", "then")

    def __init__(self, node: Node, at: int | _Sets, then: State | None, cost: float) -> None:
        self.node = node
        self.at = at
        """number of finished parts, repeats or characters of the node; under several limits, the
        position in each
        """
        self.then = then
        self.cost = cost
        """tokens of the shortest completion from here"""
        self.opened: tuple[State, ...] | None = None
        """the states that consume the next character, once they were computed"""
        self.ends = False
        """whether the text may end here, once it was computed"""


StateSet: TypeAlias = frozenset[State]
NOWHERE: StateSet = frozenset()


class Machine:
    def __init__(
        self, start: Node, rules: Mapping[str, Node], n_tokens: Callable[[str], list[int]], most_states: int = _MOST_STATES
    ) -> None:
        """n_tokens(text)  the fewest tokens for the text and for each of its suffixes, the whole
        text first
        most_states     states kept per position
        """
        self._most_states = most_states
        self._rules = rules
        self._n_tokens = n_tokens
        self._best: dict[Node, tuple[float, str]] = {}
        self._costs: dict[Node, list[float]] = {}
        self._of_rule: dict[str, tuple[float, str]] = {}
        self._states: dict[tuple[Node, int | _Sets, State | None], State] = {}
        self._steps: dict[tuple[StateSet, str], StateSet] = {}
        self._found: dict[tuple[Node, _Sets], tuple[float, str]] = {}
        self._measure()
        self.start: StateSet = frozenset({self._state(start, 0, None)})

    # -- the shortest text of a node

    def _measure(self) -> None:
        """The shortest text of every rule. It is repeated for rules that refer to a rule whose text
        became shorter.
        """
        users: dict[str, list[str]] = {}
        for name, node in self._rules.items():
            for other in set(_names(node)):
                users.setdefault(other, []).append(name)
        waiting = dict.fromkeys(reversed([*self._rules]))
        while waiting:
            name, _ = waiting.popitem()
            cost, text = self._shortest(self._rules[name])
            if cost < self._of_rule.get(name, (inf, ""))[0]:
                self._of_rule[name] = cost, text
                waiting.update(dict.fromkeys(users.get(name, ())))
        self._best.clear()
        self._is_measured = True

    _is_measured = False

    def _shortest(self, node: Node) -> tuple[float, str]:
        if (known := self._best.get(node)) is not None:
            return known
        found = self._shortest_of(node)
        if found[0] > FARTHEST:
            found = inf, ""
        if self._is_measured:
            self._best[node] = found
        return found

    def _shortest_of(self, node: Node) -> tuple[float, str]:
        match node:
            case Chars(ranges):
                return (1, plain(ranges)) if ranges else (inf, "")
            case Text(text):
                return self._n_tokens(text)[0], text
            case Like(what, example):
                return self._n_tokens(example)[0], example
            case Chain(of):
                parts = [self._shortest(part) for part in of]
                return sum(cost for cost, _ in parts), "".join(text for _, text in parts)
            case Choice(of):
                return min(map(self._shortest, of), key=lambda found: found[0], default=(inf, ""))
            case Many(_, 0, _):
                return 0, ""
            case Many(what, fewest, _):
                cost, text = self._shortest(what)
                return (cost * fewest, text * fewest) if cost * fewest <= FARTHEST else (inf, "")
            case Named(rule):
                return self._of_rule.get(rule, (inf, ""))
            case Such():
                return self._through(node, self._beginning(node))

    def _rest(self, node: Node, at: int | _Sets) -> tuple[float, str]:
        """The shortest text of the rest of a node."""
        if not isinstance(at, int):
            assert isinstance(node, Such)
            return self._through(node, at)
        if at == 0:
            return self._shortest(node)
        match node:
            case Text(text):
                return self._costs_of(node)[at], text[at:]
            case Chain(of):
                return self._costs_of(node)[at], "".join(self._shortest(part)[1] for part in of[at:])
            case Many(what, fewest, _):
                cost, text = self._shortest(what)
                left = max(0, fewest - at)
                return (cost * left, text * left) if left else (0, "")
        raise AssertionError(node)

    def _costs_of(self, node: Node) -> list[float]:
        """The cost of the rest after each part."""
        known = self._costs.get(node)
        if known is None:
            if isinstance(node, Text):
                known = list(self._n_tokens(node.text))
            else:
                assert isinstance(node, Chain)
                known = [*accumulate((self._shortest(part)[0] for part in reversed(node.of)), initial=0.0)][::-1]
            self._costs[node] = known
        return known

    # -- states

    def _state(self, node: Node, at: int | _Sets, then: State | None) -> State:
        key = node, at, then
        known = self._states.get(key)
        if known is None:
            if len(self._states) > _MOST_KEPT:
                self._states.clear()
                self._steps.clear()
            cost = self._rest(node, at)[0] + (then.cost if then else 0)
            known = self._states[key] = State(node, at, then, cost)
        return known

    def _beginning(self, node: Such) -> _Sets:
        return tuple(frozenset({self._state(part, 0, None)}) for part in (*node.all_of, *node.none_of))

    def _open(self, state: State) -> tuple[State, ...]:
        if state.opened is not None:
            return state.opened
        waiting: list[State | None] = [state]
        seen: set[State] = set()
        repeats: set[tuple[Node, State | None]] = set()
        found = []
        while waiting and len(seen) < _MOST_OPENED:
            one = waiting.pop()
            if one is None:
                state.ends = True
                continue
            if one in seen:
                continue
            seen.add(one)
            spend(1)
            node, at, then = one.node, one.at, one.then
            if isinstance(node, Many) and node.most != 1:
                if (node, then) in repeats:
                    continue  # a part that may be empty: the next round adds nothing
                repeats.add((node, then))
            match node:
                case Chars():
                    found.append(one)
                case Text(text):
                    if at == len(text):
                        waiting.append(then)
                    else:
                        found.append(one)
                case Chain(of):
                    assert isinstance(at, int)
                    if at == len(of):
                        waiting.append(then)
                    else:
                        waiting.append(self._state(of[at], 0, then if at + 1 == len(of) else self._state(node, at + 1, then)))
                case Choice(of):
                    waiting += [self._state(part, 0, then) for part in of]
                case Many(what, fewest, most):
                    assert isinstance(at, int)
                    if at >= fewest or can_be_empty(what):
                        waiting.append(then)
                    if most is None or at < most:
                        waiting.append(self._state(what, 0, self._state(node, at + 1 if most is not None else min(at + 1, fewest), then)))
                case Like(what, _):
                    waiting.append(self._state(what, 0, then))
                case Named(rule):
                    waiting.append(self._state(self._rules[rule], 0, then))
                case Such():
                    sets = at if isinstance(at, tuple) else self._beginning(node)
                    found.append(self._state(node, sets, then))
                    if self._may_end_in(node, sets):
                        waiting.append(then)
        state.opened = tuple(found)
        return state.opened

    def _may_end_in(self, node: Such, sets: _Sets) -> bool:
        n = len(node.all_of)
        return all(map(self.may_end, sets[:n])) and not any(map(self.may_end, sets[n:]))

    def may_end(self, states: StateSet) -> bool:
        """Whether the text may end here."""
        for state in states:
            self._open(state)
        return any(state.ends for state in states)

    def step(self, states: StateSet, character: str) -> StateSet:
        """The position after one more character; NOWHERE if the character is not allowed."""
        key = states, character
        known = self._steps.get(key)
        if known is None:
            spend(len(states))
            found = {after for state in states for one in self._open(state) if (after := self._after(one, character)) is not None}
            known = frozenset(found if len(found) <= self._most_states else sorted(found, key=_cost)[: self._most_states])
            if len(self._steps) > _MOST_KEPT:
                self._steps.clear()
            self._steps[key] = known
        return known

    def _after(self, state: State, character: str) -> State | None:
        """The state after the character, or None if it is not allowed."""
        node, at, then = state.node, state.at, state.then
        match node:
            case Chars(ranges):
                return (then or _END) if has(ranges, ord(character)) else None
            case Text(text):
                assert isinstance(at, int)
                if text[at] != character:
                    return None
                return (then or _END) if at + 1 == len(text) else self._state(node, at + 1, then)
            case Such(all_of, _):
                assert isinstance(at, tuple)
                sets = tuple(self.step(states, character) for states in at)
                return self._state(node, sets, then) if all(sets[: len(all_of)]) else None
        raise AssertionError(node)

    # -- completions

    def completions(self, states: StateSet, begun: bytes = b"") -> Iterator[bytes]:
        """Completions of the text, cheapest first. `begun` is the beginning of a character that
        must come first, as bytes.
        """
        if not begun:
            for state in sorted(states, key=_cost):
                if state.cost <= FARTHEST:
                    yield self._text(state).encode()
            return
        found = [
            (after, character)
            for state in states
            for one in self._open(state)
            for character in self._characters(one, begun)
            if (after := self._after(one, character)) is not None
        ]
        for after, character in sorted(found, key=lambda pair: pair[0].cost):
            yield (character + self._text(after)).encode()[len(begun) :]

    def _characters(self, state: State, begun: bytes) -> Iterable[str]:
        """Allowed characters whose UTF-8 begins with these bytes."""
        low, high = _beginning_with(begun)
        if isinstance(state.node, Chars):
            found = common(state.node.ranges, ((low, high),))
            return [chr(found[0][0])] if found else []
        if isinstance(state.node, Text) and isinstance(state.at, int):
            character = state.node.text[state.at]
            return [character] if low <= ord(character) <= high else []
        return self._candidates(state.at, len(state.at), ((low, high),)) if isinstance(state.at, tuple) else []

    def _text(self, state: State) -> str:
        parts = []
        one: State | None = state
        while one is not None:
            parts.append(self._rest(one.node, one.at)[1])
            one = one.then
        return "".join(parts)

    def _through(self, node: Such, start: _Sets) -> tuple[float, str]:
        """The shortest text that satisfies several trees, found by a search from the position in
        each of them.
        """
        known = self._found.get((node, start))
        if known is not None:
            return known
        n = len(node.all_of)

        def at_least(sets: _Sets) -> float:
            return sum(min((state.cost for state in states), default=inf) for states in sets[:n])

        came_from: dict[_Sets, tuple[_Sets, str] | None] = {start: None}
        waiting = [(at_least(start), 0, 0, start)]
        n_made, goal = 0, None
        done: set[_Sets] = set()
        while waiting and len(done) < _MOST_TRIED:
            _, _, length, sets = heapq.heappop(waiting)
            if sets in done:
                continue
            done.add(sets)
            spend(20)
            if self._may_end_in(node, sets):
                goal = sets
                break
            for character in self._candidates(sets, n):
                after = tuple(self.step(states, character) for states in sets)
                if all(after[:n]) and after not in came_from:
                    n_made += 1
                    came_from[after] = sets, character
                    heapq.heappush(waiting, (length + 1 + at_least(after), -n_made, length + 1, after))
        found, cost, text = (inf, ""), 0, ""
        while goal is not None:
            found = self._found[node, goal] = cost, text
            step = came_from[goal]
            cost, text = cost + 1, (step[1] if step else "") + text
            goal = step[0] if step else None
        if len(self._found) > _MOST_KEPT:
            self._found.clear()
        self._found[node, start] = found
        return found

    def _candidates(self, sets: _Sets, n: int, within: Ranges = ((0, 0x10FFFF),)) -> list[str]:
        """Characters to try: a plain one that each tree allows, one that two of them allow, and one
        that the forbidden trees do not allow.
        """
        allowed = [[common(_ranges(one), within) for state in states for one in self._open(state)][:24] for states in sets]
        found: list[Ranges] = [ranges for every in allowed[:n] for ranges in every]
        for other in allowed[1:n]:
            found += [common(one, two) for one in allowed[0] for two in other]
        forbidden = [ranges for every in allowed[n:] for ranges in every if ranges != ALL]
        for ranges in found[:48]:
            left = ranges
            for one in forbidden:
                left = without(left, one)
            found.append(left)
        return list(dict.fromkeys(plain(ranges) for ranges in found if ranges))


_END = State(Chain(), 0, None, 0)
"""the state at the end of a text"""


def _cost(state: State) -> float:
    return state.cost


def _names(node: Node) -> Iterator[str]:
    match node:
        case Named(rule):
            yield rule
        case Chain(of) | Choice(of):
            for part in of:
                yield from _names(part)
        case Many(what, _, _) | Like(what, _):
            yield from _names(what)
        case Such(all_of, none_of):
            for part in (*all_of, *none_of):
                yield from _names(part)


def _ranges(state: State) -> Ranges:
    """The characters that may come next."""
    if isinstance(state.node, Chars):
        return state.node.ranges
    if isinstance(state.node, Text) and isinstance(state.at, int):
        code = ord(state.node.text[state.at])
        return ((code, code),)
    return ((0, 0x10FFFF),)  # nested limits: any character may be tried


_PLAIN = [(97, 122), (48, 57), (65, 90), (32, 32), (33, 126), (0xC0, 0x24F), (0x370, 0x1FFF), (0x3040, 0xD7FF)]


@lru_cache(4_096)
def plain(ranges: Ranges) -> str:
    """The plainest of these characters."""
    for pair in _PLAIN:
        if found := common(ranges, (pair,)):
            return chr(found[0][0])
    return chr(ranges[0][0])


def _beginning_with(begun: bytes) -> tuple[int, int]:
    """The first and the last code point whose UTF-8 begins with these bytes, which are an
    incomplete character.
    """
    first = begun[0]
    length = 2 if first < 0xE0 else 3 if first < 0xF0 else 4
    code = first & (0x7F >> length)
    for byte in begun[1:]:
        code = code << 6 | byte & 0x3F
    left = 6 * (length - len(begun))
    least = (0x80, 0x800, 0x10000)[length - 2]
    return max(least, code << left), min(0x10FFFF, (code << left) + (1 << left) - 1)
