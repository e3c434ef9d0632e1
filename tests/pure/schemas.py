"""What the tests of schemas share: does a grammar take a JSON value, with its keys in whatever order?"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from typing import Any

from llguidance import LLMatcher

from sgl_lab.grammar.limits import LIMITS
from sgl_lab.grammar.search import byte_tokenizer

MAX_ORDERS = 500


def accepts(grammar: str, value: Any) -> bool:
    """ValueError if the library does not take the grammar."""
    return takes_value(matcher_of(grammar), value)


def matcher_of(grammar: str) -> LLMatcher:
    matcher = LLMatcher(byte_tokenizer(), grammar, log_level=0, limits=LIMITS)
    if matcher.is_error():
        raise ValueError(matcher.get_error())
    return matcher


def takes_value(matcher: LLMatcher, value: Any) -> bool:
    """In one order of keys at least; the matcher stays at the beginning."""
    return any(takes(matcher.deep_copy(), json.dumps(order, ensure_ascii=False)) for order in itertools.islice(orders(value), MAX_ORDERS))


def takes(matcher: LLMatcher, text: str) -> bool:
    data = list(text.encode())
    return matcher.try_consume_tokens(data) == len(data) and matcher.is_accepting()


def orders(value: Any) -> Iterator[Any]:
    """The value with the keys of its objects in every order."""
    if isinstance(value, list):
        yield from map(list, itertools.product(*map(orders, value)))
    elif isinstance(value, dict):
        for keys in itertools.permutations(value):
            for parts in itertools.product(*(orders(value[key]) for key in keys)):
                yield dict(zip(keys, parts, strict=True))
    else:
        yield value
