"""Strings of a cell that hold a value which is another one in every run: a clock, a random value, a
set in its own order. Reads the syntax tree alone.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass

from .source import Source, called

CLOCKS = frozenset({"now", "utcnow", "today", "time", "time_ns", "ctime", "monotonic", "perf_counter", "strftime", "localtime", "gmtime"})
RANDOM = frozenset(
    {"uuid1", "uuid4", "token_hex", "token_urlsafe", "randint", "randrange", "random", "choice", "choices", "sample", "urandom", "getpid"}
)
HOMES = frozenset({"time", "datetime", "date", "uuid", "secrets", "random", "os", "dt", "Timestamp", "pd"})
"""names that such functions are called on"""
BARE = frozenset({"uuid1", "uuid4", "token_hex", "perf_counter", "time_ns", "ctime"})
"""names that need no such home"""
MIN_BESIDE = 3
"""characters beside a value by which its place in a prompt is found"""


@dataclass(frozen=True, slots=True)
class Volatile:
    line: int
    what: str
    """the beginning of a sentence"""
    before: str
    after: str
    """constant text of the same string beside it; one of them may be empty"""
    mend: str = ""


def volatile_texts(source: Source) -> Iterator[Volatile]:
    """Each string of the cell with a value that changes."""
    tainted = _tainted(source)
    for node in source.nodes:
        if not isinstance(node, ast.JoinedStr | ast.BinOp) or (isinstance(node, ast.BinOp) and not isinstance(node.op, ast.Add)):
            continue
        if not isinstance(source.parents.get(node), ast.BinOp | ast.FormattedValue):
            yield from _in_string(list(_parts(node)), tainted, node.lineno)


def _in_string(parts: list[ast.expr], tainted: dict[str, str], line: int) -> Iterator[Volatile]:
    for at, part in enumerate(parts):
        if isinstance(part, ast.Constant) or not (what := _what(part, tainted)):
            continue
        before, after = _text(parts, at - 1)[-60:], _text(parts, at + 1)[:60]
        if max(len(before.strip()), len(after.strip())) < MIN_BESIDE:
            continue
        if what == "set":
            yield Volatile(line, "the order of a set differs in every kernel", before, after, "write sorted(...) around the set")
        else:
            yield Volatile(line, f"this text holds {what}", before, after)
        return


def _text(parts: list[ast.expr], at: int) -> str:
    part = parts[at] if 0 <= at < len(parts) else None
    return part.value if isinstance(part, ast.Constant) and isinstance(part.value, str) else ""


def _parts(node: ast.expr) -> Iterator[ast.expr]:
    """The parts of a string that is put together, in order."""
    match node:
        case ast.JoinedStr(values=values):
            for value in values:
                yield from _parts(value)
        case ast.FormattedValue(value=value):
            yield value
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            yield from _parts(left)
            yield from _parts(right)
        case _:
            yield node


def _tainted(source: Source) -> dict[str, str]:
    """Names that hold a value that changes, and which kind, without those that are assigned twice."""
    found: dict[str, str] = {}
    assigned: dict[str, int] = {}
    for node in source.nodes:
        if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
            name = node.targets[0].id
            assigned[name] = assigned.get(name, 0) + 1
            if what := _what(node.value, found) or ("set " if _is_set(node.value) else ""):
                found[name] = what
    return {name: what for name, what in found.items() if assigned[name] == 1}


def _what(node: ast.AST, tainted: dict[str, str]) -> str:
    """The kind of value that changes; empty if none does."""
    if called(node) in ("sorted", "len", "sum", "min", "max", "gen", "select"):
        return ""
    if isinstance(node, ast.Name):
        return tainted.get(node.id, "").strip()
    if isinstance(node, ast.Call) and (what := _call(node)):
        return what
    if _is_set(node):
        return "set"
    if isinstance(node, ast.Lambda | ast.Compare):
        return ""
    return next((what for child in ast.iter_child_nodes(node) if (what := _what(child, tainted))), "")


def _call(node: ast.Call) -> str:
    name = called(node)
    home = node.func.value if isinstance(node.func, ast.Attribute) else None
    base = home.id if isinstance(home, ast.Name) else home.attr if isinstance(home, ast.Attribute) else ""
    if name in BARE or base in HOMES:
        if name in CLOCKS:
            return "the time"
        if name in RANDOM:
            return "a random value"
    return "the id of an object" if name == "id" and home is None and len(node.args) == 1 else ""


def _is_set(node: ast.AST) -> bool:
    """Whether it is a set of several strings, as far as its syntax shows."""
    if isinstance(node, ast.Set):
        return len(node.elts) > 1 and any(not isinstance(each, ast.Constant) or isinstance(each.value, str) for each in node.elts)
    return isinstance(node, ast.SetComp) or (called(node) in ("set", "frozenset") and isinstance(node, ast.Call) and bool(node.args))
