"""The code and its pages use standard words: what is emitted, notified, reported or drafted is not "said", "told", "heard" or "guessed"."""

from __future__ import annotations

import ast
import inspect
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

import sgl_lab
from sgl_lab.contracts.port import Backend, Port

from .imports import PACKAGE, parsed
from .test_source_rules import ROOT, TRACKED

NAMES = {"said", "told", "heard", "nobody", "whoever", "guess", "guessed", "guesses", "obeys", "desk", "way_out"}
PROSE = re.compile(
    r"\b(nobody|whoever|in vain|by and by|obey(s|ed|ing)?|heard|way out of|(is|are|was|were|be) (said|told)|said so|let in)\b", re.I
)
TELLING_APART = re.compile(r"\btold (apart|to)\b", re.I)
"""standard English"""
SAMPLES = {"benchmarks/engines/prose.py", "benchmarks/rerun.py"}
"""Texts that models read, and not about this project."""
HERE = Path(__file__).relative_to(ROOT).as_posix()


def written(path: Path) -> Iterator[tuple[int, str]]:
    """(line, text) of a Python file's comments and docstrings, in the package of every text; of another file, all of it."""
    source = path.read_text(encoding="utf-8")
    if path.suffix != ".py":
        yield from enumerate(source.splitlines(), 1)
        return
    for token in tokenize.generate_tokens(io.StringIO(source).readline) if PROSE.search(source) else ():
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield node.lineno, node.value.value
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and path.is_relative_to(PACKAGE):
            yield node.lineno, node.value


def files(*suffixes: str) -> list[Path]:
    found = [path for path in TRACKED if path.suffix in suffixes and path.relative_to(ROOT).as_posix() not in SAMPLES | {HERE}]
    assert len(found) > 10
    return [path for path in found if path.name != "CHANGELOG.md"]


def test_names_are_standard_words() -> None:
    found = [
        (path.relative_to(ROOT).as_posix(), line, name)
        for path in files(".py")
        for line, name in names(parsed(path))
        if name.lower().strip("_") in NAMES
    ]
    assert found == []


def names(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, name) of all that a file names, in f-strings too."""
    for node in ast.walk(tree):
        for field in ("id", "arg", "attr", "name"):
            if isinstance(name := getattr(node, field, None), str):
                yield getattr(node, "lineno", 0), name


@pytest.mark.parametrize("suffix", [".py", ".js", ".md"])
def test_prose_is_in_standard_words(suffix: str) -> None:
    found = [
        (path.relative_to(ROOT).as_posix(), line, hit.group())
        for path in files(suffix)
        for line, text in written(path)
        for hit in PROSE.finditer(TELLING_APART.sub("", text))
    ]
    assert found == []


LONGEST, LONGEST_DOCSTRING, MOST_LINES = 102, 108, 6
BULLET = re.compile(r"\s*([*+-]|\d+\.) ")


def test_pages_have_lines_of_about_100_columns_and_short_paragraphs() -> None:
    """Tables, code and HTML aside."""
    long = [(page.name, n) for page in files(".md") for n, line in enumerate(prose(page), 1) if len(line) > LONGEST]
    assert long == []
    for page in files(".md"):
        n_lines = 0
        for n, line in enumerate(prose(page), 1):
            n_lines = 0 if not line.strip() else 1 if BULLET.match(line) else n_lines + 1
            assert n_lines <= MOST_LINES, f"{page.name}, line {n}"


def test_docstrings_have_lines_of_about_100_columns() -> None:
    long = [
        (path.relative_to(ROOT).as_posix(), n)
        for path in files(".py")
        if path.is_relative_to(PACKAGE)
        for n, line in docstring_lines(path)
        if len(line) > LONGEST_DOCSTRING
    ]
    assert long == []


def docstring_lines(path: Path) -> Iterator[tuple[int, str]]:
    source = path.read_text(encoding="utf-8")
    lines = source.splitlines()
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield from enumerate(lines[node.lineno - 1 : node.end_lineno], node.lineno)


def test_public_names_have_docstrings() -> None:
    """A method has one of its own, or that of the port or the class whose method it is."""
    public = {name: getattr(sgl_lab, name) for name in dir(sgl_lab) if not name.startswith("_")}
    of_port = {name for port in (Port, Backend) for name, found in vars(port).items() if inspect.getdoc(found)}
    found = [name for name, each in public.items() if (inspect.isfunction(each) or inspect.isclass(each)) and not inspect.getdoc(each)]
    for name, each in public.items():
        for method, value in vars(each).items() if inspect.isclass(each) else ():
            function = value.fget if isinstance(value, property) else value
            if inspect.isfunction(function) and not method.startswith("_") and method not in of_port:
                found += [] if inspect.getdoc(getattr(each, method)) else [f"{name}.{method}"]
    assert found == []
    assert len(public) > 80


def prose(page: Path) -> Iterator[str]:
    """The lines of a page; one that is no prose is empty."""
    is_code = False
    for line in page.read_text(encoding="utf-8").splitlines():
        is_code ^= line.lstrip().startswith("```")
        is_plain = is_code or line.lstrip().startswith(("|", "#", "<", "!", "```", "[")) or re.search(r"https?://", line)
        yield "" if is_plain else line
