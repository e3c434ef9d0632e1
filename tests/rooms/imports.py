"""Who imports whom in sgl_lab, read off the source: imports inside functions and under TYPE_CHECKING count."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

PACKAGE = Path(__file__).parents[2] / "sgl_lab"
SOURCES = sorted(PACKAGE.rglob("*.py"))


class Import(NamedTuple):
    by: str
    """the importing module, dotted"""
    line: int
    of: str
    """the imported module, dotted; the name itself where that is no module"""

    def __str__(self) -> str:
        return f"{self.by}, line {self.line}, imports {self.of}"


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def inside(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


def imports_in(source: str, module: str, *, is_package: bool) -> Iterator[Import]:
    for node in ast.walk(ast.parse(source)):
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


@cache
def all_imports() -> tuple[Import, ...]:
    return tuple(
        found
        for path in SOURCES
        for found in imports_in(path.read_text(encoding="utf-8"), module_name(path), is_package=path.name == "__init__.py")
    )
