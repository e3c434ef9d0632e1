"""What each Claude model does, by its name. From Anthropic's documentation, as of November 2026.

Sampling parameters are in no model: API version 2026-10-21 refuses temperature, top_p and top_k.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from ...contracts.capabilities import Capabilities

MAX_STOPS = 64


@dataclass(frozen=True, slots=True)
class Claude:
    """One model, or a family of them."""

    context: int = 200_000
    max_tokens: int = 64_000
    """of an answer"""
    cacheable: int = 1_024
    """tokens: a shorter prefix is not cached, and the API does not say so"""
    thinking: Literal["", "optional", "default", "always"] = "optional"
    """whether it thinks before it answers: never, when asked to, unless asked not to, always"""
    off: Literal["disabled", "between_tools"] = "disabled"
    """how the API spells that a model that thinks by default is not to"""
    forced_tools: bool = True
    """whether a request can demand a tool call"""
    prefill: bool = False
    """whether it goes on with an answer that is begun"""
    later_system: bool = True
    """whether a system turn may stand among the others"""
    images: bool = True


_5_ALWAYS = Claude(1_000_000, 128_000, cacheable=512, thinking="always", forced_tools=False)
_4 = Claude(200_000, 64_000, prefill=True, later_system=False)
UNKNOWN = Claude(thinking="", forced_tools=False, images=False)
"""Another server's model: nothing is taken for granted."""
NEWER = replace(UNKNOWN, images=True)
"""A Claude that is newer than this table."""

MODELS: dict[str, Claude] = {
    "claude-fable-5": _5_ALWAYS,
    "claude-mythos-5": _5_ALWAYS,
    "claude-mythos-preview": Claude(1_000_000, 128_000, cacheable=4_096, thinking="always", forced_tools=False, later_system=False),
    "claude-opus-5-5": _5_ALWAYS,
    "claude-sonnet-5-5": Claude(
        1_000_000, 128_000, cacheable=512, thinking="default", off="between_tools", forced_tools=False, later_system=False
    ),
    "claude-haiku-5-5": Claude(1_000_000, 128_000, cacheable=512, thinking="default", forced_tools=False),
    "claude-opus-5": Claude(1_000_000, 128_000, cacheable=512, thinking="default"),
    "claude-sonnet-5": Claude(1_000_000, 128_000, thinking="default", later_system=False),
    "claude-opus-4-8": Claude(1_000_000, 128_000),
    "claude-opus-4-7": Claude(1_000_000, 128_000, cacheable=2_048, later_system=False),
    "claude-opus-4-6": Claude(1_000_000, 128_000, cacheable=4_096, later_system=False),
    "claude-sonnet-4-6": Claude(1_000_000, 64_000, later_system=False),
    "claude-opus-4-5": Claude(200_000, 64_000, cacheable=4_096, prefill=True, later_system=False),
    "claude-haiku-4-5": Claude(200_000, 64_000, cacheable=4_096, prefill=True, later_system=False),
    "claude-sonnet-4-5": _4,
}
"""By how the name begins; the longest beginning counts."""


def claude_of(name: str) -> Claude:
    fitting = [beginning for beginning in MODELS if name == beginning or name.startswith((f"{beginning}-", f"{beginning}@"))]
    if fitting:
        return MODELS[max(fitting, key=len)]
    return NEWER if name.startswith("claude-") else UNKNOWN


def capabilities_of(model: Claude, *, thinks: bool) -> Capabilities:
    """A model that thinks refuses to be forced to a tool call. Its calls are then a JSON schema,
    which the API does enforce."""
    return Capabilities(
        continues=model.prefill and not thinks,
        sampling=("max_tokens", "stop"),
        stops=MAX_STOPS,
        constraints=("json_schema",),
        choices="generated",
        images=model.images,
        tools=model.forced_tools and not thinks,
        cached_counts=True,
        costly_calls=True,
    )
