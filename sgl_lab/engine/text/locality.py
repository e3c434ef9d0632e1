"""Determines whether a chat template renders a turn only from that turn, its neighbours and the
first turns.

With such a template, a conversation that has grown need not be rendered again: its first and last
turns determine the rendering of the new ones. The search is for templates that use positions, keep
a state from turn to turn, or read the end of the conversation. Everything that is not known to be
harmless counts as that.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import lcm

from jinja2 import nodes

_MOST = 8
"""the largest number that positions are compared with, or divided by"""
_NEIGHBOURS = frozenset({"first", "last", "previtem", "nextitem"})
_POSITIONS = frozenset({"index", "index0"})
_STATEFUL = frozenset({"cycler", "joiner"})


@dataclass(frozen=True, slots=True)
class Locality:
    n_head: int
    """turns at the beginning that may look otherwise, or be named anywhere"""
    period: int
    """equal turns with different content have equal renderings at this distance, or a multiple of
    it
    """


class _NotLocal(Exception):
    pass


def locality_of(template: nodes.Template) -> Locality | None:
    """None if a turn may depend on more than that."""
    reader = _Reader()
    try:
        for _ in range(3):  # until all other names of the messages are known
            reader.read(template, False)
    except _NotLocal:
        return None
    return Locality(reader.n_head + 2, reader.period)


class _Reader:
    def __init__(self) -> None:
        self.n_head = 1
        self.period = 2
        """roles alternate mostly, and templates mind"""
        self._names = {"messages"}

    def read(self, node: nodes.Node, inside: bool) -> None:
        """`inside` a loop or a macro, where a state could be kept."""
        match node:
            case nodes.Assign(target=nodes.Name(name=name), node=value) if self._is_messages(value):
                self._names.add(name)
                self._positions(value)
                return
            case nodes.Assign(target=nodes.NSRef()) | nodes.AssignBlock(target=nodes.NSRef()) if inside:
                raise _NotLocal
            case nodes.Name(name=name) if name in self._names or name == "loop" or name in _STATEFUL:
                raise _NotLocal
            case nodes.For(iter=items, test=test, recursive=recursive):
                if recursive or (test is not None and self._is_messages(items)):
                    raise _NotLocal
                if self._is_messages(items):
                    self._positions(items)
                else:
                    self.read(items, inside)
                for child in (node.target, test, *node.body, *node.else_):
                    if child is not None:
                        self.read(child, True)
                return
            case nodes.Macro() | nodes.CallBlock():
                inside = True
            case nodes.Compare(expr=expr, ops=[nodes.Operand(expr=nodes.Const(value=value))]) if self._is_position(expr):
                self._seen(value)
                return
            case nodes.Mod(left=left, right=nodes.Const(value=value)) if self._is_position(left):
                self._seen(value)
                self.period = lcm(self.period, max(value, 1))
                return
            case nodes.Getattr(node=nodes.Name(name="loop"), attr=attr) if attr in _NEIGHBOURS:
                return
            case nodes.Getitem(node=nodes.Name(name="loop"), arg=nodes.Const(value=attr)) if attr in _NEIGHBOURS:
                return
            case nodes.Getitem(node=inner, arg=nodes.Const(value=int(value))) if self._is_messages(inner):
                self._positions(inner)
                self._seen(value)
                return
            case nodes.Test(node=nodes.Name(name=name), name="defined") if name in self._names:
                return
            case nodes.Filter(name="random") | nodes.Block() | nodes.Include() | nodes.Import() | nodes.FromImport() | nodes.Extends():
                raise _NotLocal
        for child in node.iter_child_nodes():
            self.read(child, inside)

    def _is_messages(self, node: nodes.Node) -> bool:
        """All of them, or all but the first few."""
        match node:
            case nodes.Name(name=name):
                return name in self._names
            case nodes.Getitem(node=inner, arg=nodes.Slice(start=nodes.Const(), stop=None, step=None)):
                return self._is_messages(inner)
        return False

    def _positions(self, node: nodes.Node) -> None:
        if isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Slice):
            self._seen(node.arg.start.value if isinstance(node.arg.start, nodes.Const) else None)
            self._positions(node.node)

    def _is_position(self, node: nodes.Node) -> bool:
        match node:
            case nodes.Getattr(node=nodes.Name(name="loop"), attr=attr):
                return attr in _POSITIONS
            case nodes.Getitem(node=nodes.Name(name="loop"), arg=nodes.Const(value=attr)):
                return attr in _POSITIONS
            case nodes.Mod(left=left, right=nodes.Const()):
                return self._is_position(left) and self._is_modulus(node)
        return False

    def _is_modulus(self, node: nodes.Mod) -> bool:
        self.read(node, True)
        return True

    def _seen(self, value: object) -> None:
        if type(value) is not int or not 0 <= value <= _MOST:
            raise _NotLocal
        self.n_head = max(self.n_head, value + 1)
