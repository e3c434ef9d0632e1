"""What vendors say of their prompt caches, as of November 2026, and what holds of servers that say
nothing.
"""

from __future__ import annotations

from dataclasses import replace

from ...contracts.tree import CacheRules

_HOUR = 3600.0
RULES = {
    "openai": CacheRules("inferred", "OpenAI", minimum=1024, step=128, ttl_s=600.0, keeps_answers=False, unit="words"),
    "anthropic": CacheRules("inferred", "Anthropic", minimum=1024, ttl_s=300.0, marked=True, keeps_answers=False, unit="words"),
    "gemini": CacheRules("inferred", "Gemini", minimum=1024, ttl_s=_HOUR, keeps_answers=False, unit="words"),
    "vertexai": CacheRules("inferred", "Vertex AI", minimum=1024, ttl_s=_HOUR, keeps_answers=False, unit="words"),
}
"""By the name of the provider. A longer time may be bought, and a few models have a larger minimum."""
SERVER = CacheRules("inferred", unit="words")
"""A server of one's own: a prefix of any length, until its room is needed."""


def rules_of(provider: str, place: str, *, is_own: bool) -> CacheRules:
    """`is_own`: whether the server is the provider's."""
    return RULES[provider] if is_own and provider in RULES else replace(SERVER, engine=f"the server at {place}")
