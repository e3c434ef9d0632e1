"""A cell's body as code: plain Python in which a bare SGL expression is appended to the state.

Only expression statements change: `user("hi")` becomes `__sgl_append__(s, user("hi"))`, which appends
SGL expressions and passes everything else through. Bodies of nested functions and classes stay as
they are. Line numbers are those of the cell, so that errors show the user's own line.
"""

from __future__ import annotations

import ast
from types import CodeType
from typing import Any

from .options import OptionError

APPEND = "__sgl_append__"
RESULT = "__sgl_result__"


class _Appends(ast.NodeTransformer):
    def visit_Expr(self, node: ast.Expr) -> ast.Expr:
        return ast.copy_location(ast.Expr(_append(node.value)), node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        return node

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> ast.AST:
        return node

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        return node


def _append(value: ast.expr) -> ast.Call:
    call = ast.Call(ast.Name(APPEND, ast.Load()), [ast.Name("s", ast.Load()), value], [])
    return ast.fix_missing_locations(ast.copy_location(call, value))


def _last_value(statements: list[ast.stmt]) -> ast.expr | None:
    last = statements[-1] if statements else None
    return last.value if isinstance(last, ast.Expr) else None


def parse_body(source: str, filename: str) -> ast.Module:
    """Parse the body as it stands below the magic's line: line 2 of the cell is line 2 here. SyntaxError as Python raises it."""
    return ast.parse("\n" + source, filename)


def compile_cell(source: str, filename: str) -> CodeType:
    """Code to run once: SGL expressions go to `__sgl_append__`, the last expression's value to `__sgl_result__`."""
    module = parse_body(source, filename)
    last = _last_value(module.body)
    _Appends().visit(module)
    if last is not None:
        module.body[-1] = ast.copy_location(ast.Assign([ast.Name(RESULT, ast.Store())], _append(last)), module.body[-1])
    return compile(ast.fix_missing_locations(module), filename, "exec", dont_inherit=True)


def compile_function(source: str, filename: str, signature: str, names: dict[str, str]) -> tuple[str, CodeType]:
    """Code that defines the body as a function with the state as its first parameter, and the function's name.

    `names` maps each language name to the expression it stands for (`fork` -> `s.fork`); those that the body
    reads and never assigns become the function's first statements. The last expression is the result.
    """
    try:
        head = ast.parse(f"def {signature}: pass").body[0]
    except SyntaxError:
        raise OptionError(f"--def {signature!r} is not a signature", hint="write --def NAME(args)") from None
    if not isinstance(head, ast.FunctionDef):
        raise OptionError(f"--def {signature!r} is not a signature", hint="write --def NAME(args)")
    parameters = head.args
    given = {a.arg for a in [*parameters.posonlyargs, *parameters.args, *parameters.kwonlyargs, parameters.vararg, parameters.kwarg] if a}
    if "s" in given:
        raise OptionError("--def: the state `s` is there already", hint="leave `s` out of the arguments")
    module = parse_body(source, filename)
    last = _last_value(module.body)
    _Appends().visit(module)
    if last is not None:
        module.body[-1] = ast.copy_location(ast.Return(_append(last)), module.body[-1])
    words = [node for node in ast.walk(module) if isinstance(node, ast.Name)]
    assigned = {node.id for node in words if isinstance(node.ctx, ast.Store)} | given
    used = sorted({node.id for node in words if isinstance(node.ctx, ast.Load)} & (names.keys() - assigned))
    opening = ast.parse("\n".join(f"{name} = {names[name]}" for name in used)).body
    (parameters.posonlyargs or parameters.args).insert(0, ast.arg("s"))
    head.body = [*opening, *module.body] or [ast.Pass()]
    module.body = [head]
    return head.name, compile(ast.fix_missing_locations(module), filename, "exec", dont_inherit=True)


def is_silenced(source: str) -> bool:
    """Whether the body ends in `;`, as IPython understands it."""
    import io
    import tokenize

    skip = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.ENDMARKER, tokenize.INDENT, tokenize.DEDENT}
    try:
        words = [token for token in tokenize.generate_tokens(io.StringIO(source).readline) if token.type not in skip]
    except (tokenize.TokenError, SyntaxError):
        return False
    return bool(words) and words[-1].string == ";"


def names_read(source: Any) -> set[str]:
    """Names that the parsed body reads."""
    return {node.id for node in ast.walk(source) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
