"""Limits of a grammar. They bound what the library does not bound itself: its recursion can end the
process.
"""

from __future__ import annotations

import re

from llguidance import LLParserLimits

from ..contracts.errors import BadArgument

LIMITS = LLParserLimits(
    initial_lexer_fuel=1_000_000,
    step_lexer_fuel=200_000,
    max_lexer_states=50_000,
    max_grammar_size=200_000,
    verbose_errors=False,
)
MAX_RULES = 2_000
"""a chain of 3,000 rules, each naming the next, overflows a stack of 8 MiB"""
MAX_INLINE_REFS = 100
"""`$ref`s in the `%json` of a Lark grammar; a chain of 1,000 overflows the stack"""


def check_lark(source: str) -> None:
    """BadArgument if a grammar of the user's is too large."""
    for what, n, most in (
        ("rules", len(re.findall(r"^[^\n\"/:]*:", source, re.MULTILINE)), MAX_RULES),
        ("$refs", source.count("$ref"), MAX_INLINE_REFS),
    ):
        if n > most:
            raise BadArgument(f"the grammar has {n} {what}, more than {most}", hint="a smaller grammar")
