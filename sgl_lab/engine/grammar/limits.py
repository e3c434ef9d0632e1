"""How much a grammar may ask for: the same limits for schemas, regular expressions and Lark."""

from __future__ import annotations

from llguidance import LLParserLimits

LIMITS = LLParserLimits(
    initial_lexer_fuel=1_000_000,
    step_lexer_fuel=200_000,
    max_lexer_states=50_000,
    max_grammar_size=200_000,
    verbose_errors=False,
)
