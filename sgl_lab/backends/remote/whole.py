"""Whether an answer is all that its constraint asks for."""

from __future__ import annotations

from ...contracts.params import Constraint
from ...contracts.patterns.watching import pattern
from ...lang.schemas import read_json


def is_whole(constraint: Constraint | None, text: str, reason: str, matched: str | int | None = None) -> bool | None:
    """None without a constraint. A server that ends a text by itself has followed the constraint to
    its end; a text that ran out of tokens, or that a stop ended, is whole if it satisfies the
    constraint.
    """
    if constraint is None:
        return None
    if reason not in ("stop", "length"):
        return False
    if reason == "stop" and not isinstance(matched, str):
        return True
    if constraint.kind == "regex":
        return pattern(f"(?:{constraint.lead})(?:{constraint.source})" if constraint.lead else constraint.source).fullmatch(text)
    if constraint.kind != "json_schema":
        return False
    try:
        read_json(constraint.source, text)
    except (ValueError, RecursionError):
        return False
    return True
