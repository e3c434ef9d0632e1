"""A cell's source as the rules read it: its syntax tree, and which line holds what."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

MAX_SOURCE = 100_000
"""characters of a cell that is read"""
REQUESTS = frozenset({"gen", "select", "gen_int", "gen_string"})


@dataclass
class Source:
    """`text` begins with the line of `%%sgl`, as a record has it."""

    text: str

    @cached_property
    def lines(self) -> list[str]:
        return self.text.split("\n")

    @cached_property
    def tree(self) -> ast.Module:
        """Of the body, with the cell's line numbers; empty if it is no Python."""
        head, _, body = self.text[:MAX_SOURCE].partition("\n")
        try:
            return ast.parse(f"\n{body}" if head.startswith("%%") else self.text[:MAX_SOURCE])
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return ast.Module([], [])

    @cached_property
    def nodes(self) -> list[ast.AST]:
        return list(ast.walk(self.tree))

    @cached_property
    def parents(self) -> dict[ast.AST, ast.AST]:
        return {child: node for node in self.nodes for child in ast.iter_child_nodes(node)}

    def line(self, number: int) -> str:
        return self.lines[number - 1] if 0 < number <= len(self.lines) else ""

    @cached_property
    def _request_lines(self) -> set[int]:
        calls = (node for node in self.nodes if isinstance(node, ast.Call) and called(node) in REQUESTS)
        return {line for node in calls for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)}

    def request_line(self, number: int) -> int:
        """`number` if that line of the cell has a gen or select; 0 if the program is another cell's."""
        return number if number in self._request_lines else 0

    def line_of_text(self, text: str) -> int:
        """The line of the string that contains `text`; 0 if none does."""
        for node in self.nodes:
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and text in node.value:
                last = node.end_lineno or node.lineno
                inside = (n for n in range(node.lineno, last + 1) if text in self.line(n))
                return next(inside, node.lineno)
        return 0

    def functions(self) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
        return (node for node in self.nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def called(node: ast.AST) -> str:
    """The last name of what a call calls; empty for anything else."""
    if not isinstance(node, ast.Call):
        return ""
    return node.func.attr if isinstance(node.func, ast.Attribute) else node.func.id if isinstance(node.func, ast.Name) else ""


def requests_something(node: ast.AST) -> bool:
    return any(called(each) in REQUESTS for each in ast.walk(node))
