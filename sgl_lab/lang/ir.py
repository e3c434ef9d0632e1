"""The expressions, under the names from which programs for the original import them."""

from __future__ import annotations

from .absent import asked_of
from .expressions import Concat, Expr, Gen, Image, RoleBegin, RoleEnd, Select, SeparateReasoning, Text
from .program import SglFunction

__all__ = [
    "REGEX_BOOL", "REGEX_FLOAT", "REGEX_INT", "REGEX_STR", "REGEX_STRING", "SglConstantText", "SglExpr", "SglExprList", "SglFunction",
    "SglGen", "SglImage", "SglRoleBegin", "SglRoleEnd", "SglSelect", "SglSeparateReasoning",
]  # fmt: skip

SglExpr, SglExprList, SglConstantText = Expr, Concat, Text
SglImage = Image
SglGen, SglSelect, SglRoleBegin, SglRoleEnd, SglSeparateReasoning = Gen, Select, RoleBegin, RoleEnd, SeparateReasoning

REGEX_INT = r"[-+]?[0-9]+[ \n]*"
REGEX_FLOAT = r"[-+]?[0-9]*\.?[0-9]+[ \n]*"
REGEX_BOOL = "(True|False)"
REGEX_STR = REGEX_STRING = r'"[^"\\\x00-\x1f\x7f]*"'
"""Numbers may be followed by white space, at which a `stop` cuts. A string is one that JSON reads."""

__getattr__ = asked_of(__name__)
