"""Compiles a cell's body: plain Python in which expressions that address the model are appended to
the state.

Only expression statements change: `user("hi")` becomes `__sgl_append__(__sgl_state__, user("hi"))`.
This appends SGL expressions and passes every other value through. Literal text (`"The answer is "`,
an f-string, two of them joined with `+`) is appended too. A function in the body appends to its own
`s` if it has a parameter of that name, otherwise to the program that calls it. Line numbers are
those of the cell, so errors show the user's own line.

The cell becomes the body of a function. Its parameters are the language's names; all other names
are the notebook's. Names that the cell assigns remain, as in any cell, except `s` and variables
that only loops assign. A body that awaits becomes a coroutine.
"""

from __future__ import annotations

import ast
import builtins
import symtable
from collections import ChainMap
from collections.abc import Collection, Iterator, Mapping, Set
from dataclasses import dataclass
from importlib import import_module
from inspect import CO_COROUTINE
from types import CodeType, FunctionType
from typing import Any

from .options import OptionError

APPEND = "__sgl_append__"
"""Called with (state, value) and, if the value is literal text, a third argument. Its result is the
value of the last expression.
"""
STATE = "__sgl_state__"
HERE = "__sgl_here__"
"""The state of the program that calls a function of the body. A body runs with all three names,
except that a function of --def binds its own state.
"""
TEXT, LAST, READ = "text", "last", "read"
_NAMES = "__sgl_names__"
_CELL = "<module>"
"""the file name of a cell's code in tracebacks"""

Function = ast.FunctionDef | ast.AsyncFunctionDef


class _Appends(ast.NodeTransformer):
    """Wraps expression statements, and records functions whose first string is their documentation
    although they append.
    """

    def __init__(self, words: Set[str]) -> None:
        self._words = words
        self._state: ast.expr = ast.Name(STATE, ast.Load())
        self._n_speaking = 0
        self.documented: list[int] = []
        """lines of such strings"""

    def visit_Expr(self, node: ast.Expr) -> ast.Expr:
        if isinstance(node.value, ast.Yield | ast.YieldFrom):
            return node
        self._n_speaking += is_text(node.value) or not self._words.isdisjoint(names_read(node.value))
        return ast.copy_location(ast.Expr(_append(self._state, node.value, _kind(node.value))), node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        return self._function(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> ast.AST:
        return self._function(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        """Transforms its methods; other text in a class is documentation."""
        node.body = [self.visit(each) if isinstance(each, Function | ast.ClassDef) else each for each in node.body]
        return node

    def _function(self, node: Function) -> ast.AST:
        outer, n_before = self._state, self._n_speaking
        arguments = node.args
        named = [each.arg for each in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
        self._state = ast.Name("s", ast.Load()) if "s" in named else ast.Call(ast.Name(HERE, ast.Load()), [], [])
        first = 1 if ast.get_docstring(node, clean=False) is not None else 0
        node.body = [*node.body[:first], *(self.visit(each) for each in node.body[first:])]
        if first and self._n_speaking > n_before:
            self.documented.append(node.body[0].lineno)
        self._state = outer
        return node


def is_text(node: ast.expr) -> bool:
    """Whether the expression is literal text: a string or f-string, several joined with `+`, or a
    formatted one.
    """
    match node:
        case ast.Constant():
            return isinstance(node.value, str)
        case ast.JoinedStr():
            return True
        case ast.BinOp(op=ast.Add() | ast.Mult() | ast.Mod()):
            return is_text(node.left) or is_text(node.right)
        case ast.IfExp():
            return is_text(node.body) or is_text(node.orelse)
        case ast.BoolOp():
            return any(map(is_text, node.values))
        case ast.Call(func=ast.Attribute(value=value)):
            return is_text(value)
    return False


def _kind(node: ast.expr) -> str:
    if is_text(node):
        return TEXT
    is_read = isinstance(node, ast.Subscript | ast.Await) or (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute))
    return READ if is_read else ""


def _append(state: ast.expr, value: ast.expr, kind: str) -> ast.Call:
    call = ast.Call(ast.Name(APPEND, ast.Load()), [state, value, *([ast.Constant(kind)] if kind else [])], [])
    return ast.fix_missing_locations(ast.copy_location(call, value))


def _last_value(statements: list[ast.stmt]) -> ast.expr | None:
    last = statements[-1] if statements else None
    return last.value if isinstance(last, ast.Expr) else None


def leading_blank_lines(body: str) -> str:
    """The newlines that IPython removes before the first line that is not empty."""
    return "\n" * body[: len(body) - len(body.lstrip())].count("\n")


def parse_body(source: str, filename: str) -> ast.Module:
    """Parse the body below the magic's line: line 2 of the cell is line 2 here. Raises SyntaxError
    as Python does.
    """
    return ast.parse("\n" + source, filename)


def _awaits(module: ast.Module) -> bool:
    """Whether the body itself awaits, not only functions in it."""
    return any(
        isinstance(node, ast.Await | ast.AsyncFor | ast.AsyncWith) or (isinstance(node, ast.comprehension) and node.is_async)
        for node in _own_nodes(module)
    )


def _own_nodes(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes below this one, except those inside functions."""
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, Function | ast.Lambda):
            yield child
            yield from _own_nodes(child)


class Bindings(ast.NodeVisitor):
    """The names that a body binds itself: those that only loops bind, and all others."""

    def __init__(self, module: ast.Module) -> None:
        self.assigned: set[str] = set()
        self.looped: set[str] = set()
        self._deleted: set[str] = set()
        self.visit(module)
        self.looped -= self.assigned
        self.assigned |= self._deleted - self.looped

    def visit_Name(self, node: ast.Name) -> None:
        if not isinstance(node.ctx, ast.Load):
            (self.assigned if isinstance(node.ctx, ast.Store) else self._deleted).add(node.id)

    def visit_For(self, node: ast.For | ast.AsyncFor) -> None:
        for target in ast.walk(node.target):
            if isinstance(target, ast.Name) and isinstance(target.ctx, ast.Store):
                self.looped.add(target.id)
        for child in (node.iter, *node.body, *node.orelse):
            self.visit(child)

    visit_AsyncFor = visit_For

    def visit_Global(self, node: ast.Global) -> None:
        self.assigned.update(node.names)

    def visit_Import(self, node: ast.Import | ast.ImportFrom) -> None:
        self.assigned.update((each.asname or each.name).partition(".")[0] for each in node.names if each.name != "*")

    visit_ImportFrom = visit_Import

    def visit_ExceptHandler(self, node: ast.ExceptHandler) -> None:
        if node.name:
            self.assigned.add(node.name)
        self.generic_visit(node)

    def visit_MatchAs(self, node: ast.MatchAs | ast.MatchStar) -> None:
        if node.name:
            self.assigned.add(node.name)
        self.generic_visit(node)

    visit_MatchStar = visit_MatchAs

    def visit_MatchMapping(self, node: ast.MatchMapping) -> None:
        if node.rest:
            self.assigned.add(node.rest)
        self.generic_visit(node)

    def visit_FunctionDef(self, node: Function | ast.ClassDef) -> None:
        self.assigned.add(node.name)
        for child in node.decorator_list:
            self.visit(child)

    visit_AsyncFunctionDef = visit_FunctionDef
    visit_ClassDef = visit_FunctionDef

    def visit_Lambda(self, node: ast.Lambda) -> None:
        """A lambda binds only its own names."""

    def visit_ListComp(self, node: ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp) -> None:
        """A comprehension binds its own variables; names that `:=` binds in it belong to the body."""
        self.assigned.update(each.target.id for each in ast.walk(node) if isinstance(each, ast.NamedExpr))

    visit_SetComp = visit_DictComp = visit_GeneratorExp = visit_ListComp


class _Inward(ast.NodeTransformer):
    """Rewrites statements that a module allows and a function body does not."""

    def visit_Global(self, node: ast.Global) -> ast.stmt:
        return ast.copy_location(ast.Pass(), node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.stmt:
        if not isinstance(node.target, ast.Name):
            return node
        return ast.copy_location(ast.Assign([node.target], node.value) if node.value else ast.Pass(), node)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.stmt:
        if all(each.name != "*" for each in node.names):
            return node
        import_all = ast.Attribute(ast.Name(_NAMES, ast.Load()), "import_all", ast.Load())
        call = ast.Call(import_all, [ast.Constant("." * node.level + (node.module or ""))], [])
        return ast.fix_missing_locations(ast.copy_location(ast.Expr(call), node))

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.stmt:
        return node

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> ast.stmt:
        return node

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.stmt:
        return node


class _Names:
    """The notebook's names, for operations that the code of a cell cannot do itself."""

    def __init__(self, names: dict[str, object], leaving: Collection[str]) -> None:
        self._names, self._leaving = names, leaving
        self.before: Mapping[str, object] = ChainMap(names, vars(builtins))

    def import_all(self, name: str) -> None:
        module = import_module(name)
        public = getattr(module, "__all__", None) or [each for each in vars(module) if not each.startswith("_")]
        self._names.update({each: getattr(module, each) for each in public})

    def leave(self, local: Mapping[str, object]) -> None:
        """Copy names of the language that the cell has assigned to the notebook when the cell is
        over.
        """
        self._names.update({name: local[name] for name in self._leaving if name in local})


@dataclass(frozen=True, slots=True)
class CellCode:
    """The code of one cell. `assigned` are the names that it leaves in the notebook."""

    code: CodeType
    assigned: frozenset[str]
    _leaving: frozenset[str]

    @property
    def awaits(self) -> bool:
        return bool(self.code.co_flags & CO_COROUTINE)

    def run(self, names: dict[str, object], words: Mapping[str, object]) -> Any:
        """Run the code on the notebook's `names` and the language's `words`, which include APPEND,
        STATE and HERE.

        Returns the value of its last expression. If the body awaits, it returns a coroutine with
        that value.
        """
        return FunctionType(self.code, names)(**words, **{_NAMES: _Names(names, self._leaving)})


def compile_cell(source: str, filename: str, words: Collection[str] = ("s",), *, keeps_last: bool = True) -> CellCode:
    """Compile the body. `words` are the names of the language, which take precedence over the
    notebook's.

    Without `keeps_last` the last expression is a statement like the others.
    """
    module = parse_body(source, filename)
    # a `return` is an error here, although the body becomes a function
    compile(module, filename, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
    words = {*words, APPEND, STATE, HERE}
    bindings = Bindings(module)
    last = module.body.pop() if keeps_last and _last_value(module.body) is not None else None
    _Inward().visit(_Appends(words).visit(module))
    if isinstance(last, ast.Expr):
        module.body.append(ast.copy_location(ast.Return(_append(ast.Name(STATE, ast.Load()), last.value, LAST)), last))
    future = [each for each in module.body if isinstance(each, ast.ImportFrom) and each.module == "__future__"]
    body = [each for each in module.body if each not in future]
    leaving = bindings.assigned & words - {"s"}
    assigned = bindings.assigned - words
    if leaving:
        body = [ast.Try(body or [ast.Pass()], [], [], _parsed(f"{_NAMES}.leave(locals())"))]
    opening = [f"global {', '.join(sorted(assigned))}"] if assigned else []
    opening += [f"if {name!r} in {_NAMES}.before: {name} = {_NAMES}.before[{name!r}]" for name in sorted(bindings.looped - words)]
    definition = _parsed(f"{'async ' if _awaits(module) else ''}def cell({', '.join(sorted({*words, _NAMES}))}): pass")
    head = definition[0]
    assert isinstance(head, Function)
    head.body = [*_parsed("\n".join(opening)), *body] or [ast.Pass()]
    module.body = [*future, head]
    outer = compile(ast.fix_missing_locations(module), filename, "exec", dont_inherit=True)
    code = next(each for each in outer.co_consts if isinstance(each, CodeType))
    code = code.replace(co_name=_CELL, co_qualname=_CELL)
    return CellCode(code, frozenset(assigned | leaving), frozenset(leaving))


def _parsed(source: str) -> list[ast.stmt]:
    return ast.parse(source).body


def compile_function(source: str, filename: str, signature: str, names: dict[str, str]) -> tuple[str, CodeType]:
    """Code that defines the body as a function whose first parameter is the state, and the
    function's name.

    `names` maps each language name to its expression (`fork` -> `s.fork`). Those that the body
    reads and does not assign become the function's first statements. The last expression is the
    result. A string at the beginning is appended, as in a cell, and also documents the function. A
    body that awaits makes it an `async def`.

    BadArgument if `signature` is malformed.
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
        raise OptionError("--def: the state `s` is passed automatically", hint="leave `s` out of the arguments")
    (parameters.posonlyargs or parameters.args).insert(0, ast.arg("s"))
    module = parse_body(source, filename)
    statements = module.body
    documented = len(statements) > 1 and ast.get_docstring(module) is not None
    docstring = statements[:1] if documented else []
    last = statements.pop() if _last_value(statements) is not None else None
    _Appends(names.keys()).visit(module)
    if isinstance(last, ast.Expr):
        statements.append(ast.copy_location(ast.Return(_append(ast.Name(STATE, ast.Load()), last.value, LAST)), last))
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
    """The names that the one function of this module, including its inner scopes, reads from
    outside and does not assign.
    """
    function = symtable.symtable(ast.unparse(definition), "", "exec").get_children()[-1]
    own = {name.get_name() for name in function.get_symbols() if name.is_local() or name.is_declared_global()}
    return {name.get_name() for scope in _scopes(function) for name in scope.get_symbols() if name.is_global()} - own


def _scopes(scope: symtable.SymbolTable) -> Iterator[symtable.SymbolTable]:
    yield scope
    for inner in scope.get_children():
        yield from _scopes(inner)


def documenting(source: str, words: Set[str]) -> list[int]:
    """Lines, in the cell, of strings that document a function of the body although other text in it
    is appended.
    """
    appends = _Appends(words)
    appends.visit(parse_body(source, ""))
    return appends.documented


def is_silenced(source: str) -> bool:
    """Whether the body ends in `;`, by IPython's rules."""
    import io
    import tokenize

    skip = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.ENDMARKER, tokenize.INDENT, tokenize.DEDENT}
    try:
        words = [token for token in tokenize.generate_tokens(io.StringIO(source).readline) if token.type not in skip]
    except (tokenize.TokenError, SyntaxError):
        return False
    return bool(words) and words[-1].string == ";"


def names_read(source: ast.AST) -> set[str]:
    """The names that the parsed body reads."""
    return {node.id for node in ast.walk(source) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
