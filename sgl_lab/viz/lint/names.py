"""Variables that were meant for a prompt and are not in it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from .finding import Case, Finding
from .source import Source, called, requests_something
from .words import quoted

BRACED = re.compile(r"\{([^\W\d]\w*)\}")


def unused_variable(case: Case) -> Iterator[Finding]:
    yield from _unformatted(case)
    yield from _arguments(case.source)
    yield from _loops(case.source)


def _unformatted(case: Case) -> Iterator[Finding]:
    """A string without its `f`, in whose place the prompt has the braces."""
    source = case.source
    bound = {node.id for node in source.nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    bound |= {node.arg for node in source.nodes if isinstance(node, ast.arg)}
    for node in source.nodes:
        if not (isinstance(node, ast.Constant) and isinstance(node.value, str)) or isinstance(source.parents.get(node), ast.JoinedStr):
            continue
        for name in BRACED.findall(node.value):
            if name in bound and any(f"{{{name}}}" in text for text in case.seen.literals):
                yield Finding(
                    "unused-variable",
                    node.lineno,
                    f"{name} is not in the prompt: the string has {quoted('{' + name + '}')} and no f before its quote",
                    "the model reads the braces",
                    'write f"..."',
                )
                break


def _arguments(source: Source) -> Iterator[Finding]:
    """An argument of a program that its body never reads."""
    for function in source.functions():
        names = [each.arg for each in (*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs)]
        if names[:1] != ["s"] or not requests_something(function):
            continue
        read = _read(function)
        for name in names[1:]:
            if name not in read and not name.startswith("_"):
                yield Finding(
                    "unused-variable",
                    function.lineno,
                    f"{function.name} never reads its argument {name}",
                    f"every {name} gets the same prompt",
                    f"put {{{name}}} into an f-string of the prompt, or leave the argument out",
                )


def _loops(source: Source) -> Iterator[Finding]:
    """A loop over texts that asks the same in every pass."""
    for loop in source.nodes:
        if not isinstance(loop, ast.For | ast.AsyncFor) or not any(map(requests_something, loop.body)):
            continue
        kind = called(loop.iter)
        targets = [node.id for node in ast.walk(loop.target) if isinstance(node, ast.Name)]
        if kind in ("range", "enumerate", "items") or (len(targets) > 1 and kind != "zip"):
            continue
        read = set().union(*(_read(statement) for statement in loop.body))
        changed = {node.value.id for node in ast.walk(loop) if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name)}
        for name in targets:
            if name not in read and name not in changed and not name.startswith("_"):
                yield Finding(
                    "unused-variable",
                    loop.lineno,
                    f"the loop never reads {name}",
                    "every pass asks the same",
                    f"put {{{name}}} into an f-string of the prompt, or loop over range(...)",
                )


def _read(node: ast.AST) -> set[str]:
    """Names that are read or appended to."""
    found = {each.id for each in ast.walk(node) if isinstance(each, ast.Name) and isinstance(each.ctx, ast.Load)}
    return found | {each.target.id for each in ast.walk(node) if isinstance(each, ast.AugAssign) and isinstance(each.target, ast.Name)}
