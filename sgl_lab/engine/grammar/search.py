"""Regular expressions of a schema, which are searched for, as ones that match a whole text; and whether a text holds one."""

from __future__ import annotations

import json
import re
from functools import lru_cache

import llguidance

from ...contracts.errors import BackendUnsupported
from .limits import LIMITS

_ANYTHING = "(?s:.*)"
_TOKEN = re.compile(r"\\.|\[\^?\]?(?:\\.|\[:\w+:\]|[^\]\\])*\]|\(\?[^:]|.", re.DOTALL)


def whole_text(pattern: str) -> str:
    """BackendUnsupported where an anchor stands anywhere but at the ends of an alternative."""
    options: list[list[str]] = [[]]
    depth = 0
    for token in _TOKEN.findall(llguidance.regex_to_lark(pattern, "dw")):
        depth += token.startswith("(") - (token == ")")
        if token == "|" and depth == 0:
            options.append([])
        else:
            options[-1].append(token)
    return "|".join(f"({_one(tokens, pattern)})" for tokens in options)


def _one(tokens: list[str], pattern: str) -> str:
    starts, ends = tokens[:1] == ["^"], tokens[-1:] == ["$"]
    inner = tokens[starts : len(tokens) - ends]
    if any(token in ("^", "$", r"\b", r"\B") or (token.startswith("(?") and token != "(?:") for token in inner):
        raise BackendUnsupported(f"the pattern {pattern!r} is not supported here", hint="anchors only at the ends, no look-around")
    return ("" if starts else _ANYTHING) + "(" + "".join(inner) + ")" + ("" if ends else _ANYTHING)


def matches(pattern: str, text: str) -> bool:
    """Whether the pattern is found in the text, in linear time. ValueError if it is none that the grammar library can follow."""
    matcher = _matcher(pattern).deep_copy()
    data = list(json.dumps(text, ensure_ascii=False).encode())
    return matcher.try_consume_tokens(data) == len(data) and bool(matcher.is_accepting())


@lru_cache(maxsize=64)
def _matcher(pattern: str) -> llguidance.LLMatcher:
    grammar = llguidance.LLMatcher.grammar_from_json_schema({"type": "string", "pattern": pattern})
    matcher = llguidance.LLMatcher(_bytes(), grammar, log_level=0, limits=LIMITS)
    if matcher.is_error():
        raise ValueError(matcher.get_error().splitlines()[0])
    return matcher


class _Bytes:
    """A vocabulary of the 256 bytes and an end."""

    eos_token_id = 256
    bos_token_id = None
    tokens = (*(bytes([byte]) for byte in range(256)), b"<end>")
    special_token_ids = (256,)

    def __call__(self, text: str) -> list[int]:
        return list(text.encode())


@lru_cache(maxsize=1)
def _bytes() -> llguidance.LLTokenizer:
    return llguidance.LLTokenizer(llguidance.TokenizerWrapper(_Bytes()), slices=[])
