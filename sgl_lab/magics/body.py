"""A cell's body as code: plain Python in which a bare SGL expression is appended to the state.

Only expression statements change: `user("hi")` becomes `__sgl_append__(__sgl_state__, user("hi"))`, which
appends SGL expressions and passes everything else through. The state has a name of its own there, so that a
body may use `s` for something else. Bodies of nested functions and classes stay as they are. Line numbers
are those of the cell, so that errors show the user's own line. A body that awaits becomes a coroutine.
"""

from __future__ import annotations

import ast
import symtable
from collections.abc import Iterator
from types import CodeType
from typing import Any

from .options import OptionError

APPEND = "__sgl_append__"
STATE = "__sgl_state__"
"""Both must be among the names that a cell's code runs with; a function binds its state itself."""
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
    call = ast.Call(ast.Name(APPEND, ast.Load()), [ast.Name(STATE, ast.Load()), value], [])
    return ast.fix_missing_locations(ast.copy_location(call, value))


def _last_value(statements: list[ast.stmt]) -> ast.expr | None:
    last = statements[-1] if statements else None
    return last.value if isinstance(last, ast.Expr) else None


def leading_blank_lines(body: str) -> str:
    """The newlines that IPython cuts off before the first line with something on it."""
    return "\n" * body[: len(body) - len(body.lstrip())].count("\n")


def parse_body(source: str, filename: str) -> ast.Module:
    """Parse the body as it stands below the magic's line: line 2 of the cell is line 2 here. SyntaxError as Python raises it."""
    return ast.parse("\n" + source, filename)


def _awaits(module: ast.Module) -> bool:
    """Whether the body itself awaits, not only functions in it."""
    return any(
        isinstance(node, ast.Await | ast.AsyncFor | ast.AsyncWith) or (isinstance(node, ast.comprehension) and node.is_async)
        for node in _own_nodes(module)
    )


def _own_nodes(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes below this one but those inside functions."""
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield child
            yield from _own_nodes(child)


def compile_cell(source: str, filename: str) -> CodeType:
    """Code to run once: SGL expressions go to `__sgl_append__`, the last expression's value to `__sgl_result__`.

    Evaluating it gives a coroutine if the body awaits, None otherwise.
    """
    module = parse_body(source, filename)
    last = _last_value(module.body)
    _Appends().visit(module)
    if last is not None:
        module.body[-1] = ast.copy_location(ast.Assign([ast.Name(RESULT, ast.Store())], _append(last)), module.body[-1])
    flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    code: CodeType = compile(ast.fix_missing_locations(module), filename, "exec", flags, dont_inherit=True)
    return code


def compile_function(source: str, filename: str, signature: str, names: dict[str, str]) -> tuple[str, CodeType]:
    """Code that defines the body as a function with the state as its first parameter, and the function's name.

    `names` maps each language name to the expression it stands for (`fork` -> `s.fork`); those that the body
    reads and does not make its own become the function's first statements. The last expression is the result.
    A body that awaits makes it an `async def`.
    """
    try:
        head = ast.parse(f"def {signature}: pass").body[0]
    except SyntaxError:
        raise OptionError(f"--def {signature!r} is not a signature", hint="write --def NAME(args)") from None
    if not isinstance(head, ast.FunctionDef):
        raise OptionError(f"--def {signature!r} is not a signature", hint="write --def NAME(args)")
    parameters = head.args
    given = [*parameters.posonlyargs, *parameters.args, *parameters.kwonlyargs, parameters.vararg, parameters.kwarg]
    if any(parameter.arg == "s" for parameter in given if parameter):
        raise OptionError("--def: the state `s` is there already", hint="leave `s` out of the arguments")
    (parameters.posonlyargs or parameters.args).insert(0, ast.arg("s"))
    module = parse_body(source, filename)
    statements = module.body
    documented = len(statements) > 1 and ast.get_docstring(module) is not None
    docstring = [statements.pop(0)] if documented else []
    last = _last_value(statements)
    _Appends().visit(module)
    if last is not None:
        statements[-1] = ast.copy_location(ast.Return(_append(last)), statements[-1])
    if _awaits(module):
        head = ast.AsyncFunctionDef(**dict(ast.iter_fields(head)))
    head.body = statements or [ast.Pass()]
    module.body = [head]
    ast.fix_missing_locations(module)
    bindings = {name: names[name] for name in sorted(_free_names(module) & names.keys())} | {STATE: "s"}
    opening = ast.parse("\n".join(f"{name} = {value}" for name, value in bindings.items())).body
    head.body = [*docstring, *opening, *head.body]
    return head.name, compile(module, filename, "exec", dont_inherit=True)


def _free_names(definition: ast.Module) -> set[str]:
    """What the one function of this module, with the scopes inside it, reads from outside and leaves as it is."""
    function = symtable.symtable(ast.unparse(definition), "", "exec").get_children()[-1]
    own = {name.get_name() for name in function.get_symbols() if name.is_local() or name.is_declared_global()}
    return {name.get_name() for scope in _scopes(function) for name in scope.get_symbols() if name.is_global()} - own


def _scopes(scope: symtable.SymbolTable) -> Iterator[symtable.SymbolTable]:
    yield scope
    for inner in scope.get_children():
        yield from _scopes(inner)


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
