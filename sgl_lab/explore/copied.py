"""A branch as the text of a cell that says it again."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ..contracts.errors import ProgramError
from ..contracts.events import BranchChanged
from ..lang.expressions import Expr, Gen, RoleBegin, RoleEnd, Text, TokenIds

WIDTH = 100
"""columns of a line, where it can be broken"""


def cell_of(beginning: Sequence[Expr], about: BranchChanged, options: str = "") -> str:
    """A `%%sgl` cell: a line a turn. Its state has the branch's label as name."""
    name = re.sub(r"\W+", "_", about.label).strip("_")
    name = name if name.isidentifier() else f"branch_{about.branch}"
    head = " ".join(word for word in ("%%sgl", "-o", name, options) if word)
    lines: list[str] = []
    turn: list[str] = []
    role = ""
    for part in beginning:
        match part:
            case RoleBegin(role):
                turn = []
            case RoleEnd(role):
                lines.append(_turn(role, turn))
                role, turn = "", []
            case _ if role:
                turn.append(_written(part))
            case _:
                lines.append(f"s += {_written(part)}")
    if role:
        lines.append(_turn(role, turn))
    return "\n".join([head, *lines]) + "\n"


def _turn(role: str, parts: Sequence[str]) -> str:
    if role not in ("system", "user", "assistant"):
        raise ProgramError(f"a turn of role {role!r} cannot be written as a cell")
    whole = " + ".join(parts)
    if len(whole) + len(role) + 2 <= WIDTH or len(parts) < 2:
        return f"{role}({whole or repr('')})"
    return f"{role}(\n    " + "\n    + ".join(parts) + "\n)"


def _written(part: Expr) -> str:
    match part:
        case Text(text):
            return repr(text)
        case TokenIds(ids):
            return f"token_ids({list(ids)})"
        case Gen(name, given, form) if is_written(part):
            argument, text = form.stated if form is not None and form.stated else ("", "")
            stated = [f"{argument}={text if argument == 'dtype' else repr(text)}"] if argument else []
            begins = [f"begins={list(part.begins)}"] if part.begins else []
            arguments = [repr(name), *(f"{key}={_value(value)}" for key, value in given), *stated, *begins, "heal=False"]
            return f"gen({', '.join(arguments)})"
    raise ProgramError(f"a {type(part).__name__} cannot be written as a cell")


def is_written(part: Gen) -> bool:
    """Whether a cell can say this gen: its form is stated by an argument."""
    return part.form is None or part.form.stated is not None


def _value(value: object) -> str:
    return repr(list(value)) if isinstance(value, tuple) else repr(value)
