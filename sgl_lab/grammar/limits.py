"""Limits of a grammar. They bound what the library does not bound itself: its recursion can end the
process.
"""

from __future__ import annotations

import re

from llguidance import LLParserLimits

from ..contracts.errors import BadArgument


def _limits(step_lexer_fuel: int, step_max_items: int) -> LLParserLimits:
    return LLParserLimits(
        initial_lexer_fuel=1_000_000,
        step_lexer_fuel=step_lexer_fuel,
        step_max_items=step_max_items,
        max_lexer_states=50_000,
        max_grammar_size=200_000,
        verbose_errors=False,
    )


LIMITS = _limits(200_000, 50_000)
"""a mask takes up to some 20 ms"""
LIGHT = _limits(20_000, 5_000)
"""a mask takes up to some 4 ms; most constraints never need more"""
LIGHT_SOURCE = 50_000
"""characters of a grammar; a longer one is never followed under the light limits"""
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
