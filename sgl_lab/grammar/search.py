"""Whether the library can follow a piece of a grammar, and whether anything fits it."""

from __future__ import annotations

from functools import lru_cache

import llguidance

from ..contracts.errors import BackendUnsupported
from .limits import LIMITS


def is_possible(terminal: str, path: str) -> bool:
    """Whether it matches anything at all. BackendUnsupported if the library cannot follow it."""
    ll_matcher = _compiled(f"start: {terminal}" if terminal.startswith("%json") else f"start: T\nT: {terminal}")
    if not ll_matcher.is_error():
        return any(ll_matcher.compute_bitmask()) and not ll_matcher.is_error()
    error = ll_matcher.get_error().splitlines()[0].rpartition("JSON schema: ")[2]
    if "nsatisfiable" in error:
        return False
    raise BackendUnsupported(f"`type` at {path} is limited in a way that is not supported: {error}", hint="say less of it")


def _compiled(grammar: str) -> llguidance.LLMatcher:
    return llguidance.LLMatcher(byte_tokenizer(), grammar, log_level=0, limits=LIMITS)


@lru_cache(maxsize=1)
def byte_tokenizer() -> llguidance.LLTokenizer:
    """The library's own: tokens 0 to 255 are the bytes."""
    return llguidance.LLTokenizer("byte", slices=[])
