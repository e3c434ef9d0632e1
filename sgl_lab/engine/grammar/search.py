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


def whole_text(pattern: str, path: str) -> str:
    """BackendUnsupported where an anchor stands anywhere but at the ends of an alternative."""
    options: list[list[str]] = [[]]
    depth = 0
    for token in _TOKEN.findall(llguidance.regex_to_lark(pattern, "dw")):
        depth += token.startswith("(") - (token == ")")
        if token == "|" and depth == 0:
            options.append([])
        else:
            options[-1].append(token)
    return "|".join(f"({_one(tokens, path)})" for tokens in options)


def _one(tokens: list[str], path: str) -> str:
    starts, ends = tokens[:1] == ["^"], tokens[-1:] == ["$"]
    inner = tokens[starts : len(tokens) - ends]
    if any(token in ("^", "$", r"\b", r"\B") or (token.startswith("(?") and token != "(?:") for token in inner):
        raise BackendUnsupported(f"the opposite of `pattern` at {path} is not supported", hint="anchors only at the ends, no look-around")
    return ("" if starts else _ANYTHING) + "(" + "".join(inner) + ")" + ("" if ends else _ANYTHING)


def matches(pattern: str, text: str) -> bool:
    """Whether the pattern is found in the text, in linear time. ValueError if it is none that the grammar library can follow."""
    matcher = _matcher(pattern).deep_copy()
    data = list(json.dumps(text, ensure_ascii=False).encode())
    return matcher.try_consume_tokens(data) == len(data) and bool(matcher.is_accepting())


@lru_cache(maxsize=64)
def _matcher(pattern: str) -> llguidance.LLMatcher:
    matcher = _compiled(llguidance.LLMatcher.grammar_from_json_schema({"type": "string", "pattern": pattern}))
    if matcher.is_error():
        lines = matcher.get_error().splitlines()
        raise ValueError(next((line for line in lines if line.startswith("error: ")), lines[0]).removeprefix("error: "))
    return matcher


def is_possible(terminal: str, path: str) -> bool:
    """Whether it matches anything at all. BackendUnsupported if the library cannot follow it."""
    matcher = _compiled(f"start: {terminal}" if terminal.startswith("%json") else f"start: T\nT: {terminal}")
    if not matcher.is_error():
        return any(matcher.compute_bitmask()) and not matcher.is_error()
    error = matcher.get_error().splitlines()[0].rpartition("JSON schema: ")[2]
    if "nsatisfiable" in error:
        return False
    raise BackendUnsupported(f"`type` at {path} is limited in a way that is not supported: {error}", hint="say less of it")


def _compiled(grammar: str) -> llguidance.LLMatcher:
    return llguidance.LLMatcher(byte_tokenizer(), grammar, log_level=0, limits=LIMITS)


@lru_cache(maxsize=1)
def byte_tokenizer() -> llguidance.LLTokenizer:
    """The library's own: tokens 0 to 255 are the bytes."""
    return llguidance.LLTokenizer("byte", slices=[])
