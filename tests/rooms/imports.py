"""The import graph of sgl_lab, read from the source. Imports inside functions and under
TYPE_CHECKING count.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import NamedTuple

PACKAGE = Path(__file__).parents[2] / "sgl_lab"
HELPERS = sorted(path for folder in ("benchmarks", "tests") for path in (PACKAGE.parent / folder).rglob("*.py"))
SOURCES = sorted(PACKAGE.rglob("*.py"))


class Import(NamedTuple):
    by: str
    """the importing module, dotted"""
    line: int
    of: str
    """the imported module, dotted; the name itself if it is not a module"""

    def __str__(self) -> str:
        return f"{self.by}, line {self.line}, imports {self.of}"


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def parsed(path: Path) -> ast.Module:
    return tree_of(path.read_text(encoding="utf-8"))


@cache
def tree_of(source: str) -> ast.Module:
    return ast.parse(source)


def inside(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


def imports_in(source: str, module: str, *, is_package: bool) -> Iterator[Import]:
    for node in ast.walk(tree_of(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(module, node.lineno, alias.name)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                here = module.split(".") + ["-"] * is_package
                base = ".".join([*here[: len(here) - node.level], *filter(None, [node.module])])
            for alias in node.names:
                yield Import(module, node.lineno, f"{base}.{alias.name}")


def imports_of(sources: Iterable[Path]) -> tuple[Import, ...]:
    return tuple(
        found
        for path in sources
        for found in imports_in(path.read_text(encoding="utf-8"), module_name(path), is_package=path.name == "__init__.py")
    )


@cache
def all_imports() -> tuple[Import, ...]:
    return imports_of(SOURCES)


def cycles(modules: Iterable[str], imports: Iterable[Import]) -> list[list[str]]:
    """Those of `modules` that import one another, in groups: the strongly connected components of more than one module.

    Loading a module loads the packages around it, which is no import of theirs. A package that imports from a module of its own
    does import it.
    """
    graph: dict[str, set[str]] = {module: set() for module in modules}
    for found in imports:
        of = next((name for name in (found.of, found.of.rpartition(".")[0]) if name in graph), None)
        if of is not None and of != found.by:
            graph[found.by].add(of)
    return [sorted(group) for group in _components(graph) if len(group) > 1]


def _components(graph: Mapping[str, set[str]]) -> Iterator[list[str]]:
    """Kosaraju's: in the reverse of the order in which a search leaves them, each module with all that reach it and are left."""
    order: list[str] = []
    left = set(graph)
    for root in graph:
        order += _leaving(graph, root, left)
    reverse = {module: {by for by, ofs in graph.items() if module in ofs} for module in graph}
    left = set(graph)
    for root in reversed(order):
        if group := _leaving(reverse, root, left):
            yield group


def _leaving(graph: Mapping[str, set[str]], root: str, left: set[str]) -> list[str]:
    """The modules of `left` that are reached from `root`, in the order in which a search leaves them; taken out of `left`."""
    if root not in left:
        return []
    left.discard(root)
    return [module for of in sorted(graph[root]) for module in _leaving(graph, of, left)] + [root]
