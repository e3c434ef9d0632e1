"""Checks a text against a constraint without an engine: with `re`, with jsonschema, byte by byte
for a grammar.
"""

from __future__ import annotations

import json
import re
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING

from ...contracts.errors import BadArgument
from ...contracts.params import Constraint
from ...lang.schemas import read_json

if TYPE_CHECKING:
    import llguidance


def satisfies(constraint: Constraint, text: str) -> bool:
    if constraint.lead:
        led = re.match(constraint.lead, text)
        return led is not None and satisfies(replace(constraint, lead=""), text[led.end() :])
    if constraint.kind == "regex":
        return re.fullmatch(constraint.source, text) is not None
    if constraint.kind == "json_schema":
        try:
            read_json(constraint.source, text)
        except ValueError:
            return False
        return True
    import llguidance

    matcher = llguidance.LLMatcher(_bytes(), llguidance.LLMatcher.grammar_from_lark(constraint.source))
    data = list(text.encode())
    return bool(matcher.try_consume_tokens(data) == len(data) and matcher.is_accepting())


def check_form(constraint: Constraint) -> None:
    """BadArgument for a malformed constraint."""
    try:
        if constraint.kind == "regex":
            re.compile(constraint.source)
        elif constraint.kind == "json_schema":
            json.loads(constraint.source)
        else:
            import llguidance

            if problem := llguidance.LLMatcher.validate_grammar(llguidance.LLMatcher.grammar_from_lark(constraint.source), _bytes()):
                raise ValueError(problem)
    except (ValueError, re.error) as error:
        raise BadArgument(f"the {constraint.kind} is malformed: {error}") from None


@lru_cache(1)
def _bytes() -> llguidance.LLTokenizer:
    """A tokenizer whose tokens are bytes."""
    import llguidance

    return llguidance.LLTokenizer("byte")
