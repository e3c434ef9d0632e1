"""Keys out of texts: what a server, an SDK or a user's cell may say of a key never reaches an
error, an event or a log."""

from __future__ import annotations

import re
import threading

HIDDEN = "[key]"

_SHAPES = re.compile(
    r"""(?x)
    \bsk-(?:ant-|proj-|svcacct-|or-v1-|admin-)?[A-Za-z0-9_*.…-]{12,}   # OpenAI, Anthropic, OpenRouter, also shortened by a server
    | \bAIza[0-9A-Za-z_-]{30,}                                         # Google
    | \bya29\.[0-9A-Za-z_.-]{16,}                                      # Google, a token of an account
    | \bhf_[A-Za-z0-9]{20,}
    | \b(?:gsk|xai|pplx|nvapi|csk|r8)[_-][A-Za-z0-9_-]{20,}
    | (?<=[?&]key=)[^&\s"'<>]+
    | (?i:(?<=bearer\s))[A-Za-z0-9_.~+/-]{12,}=*
    """
)
"""What keys look like."""

_known: set[str] = set()
_lock = threading.Lock()


def conceal(secret: str) -> None:
    """Hide this text from now on, wherever it stands. Short ones would hide ordinary words."""
    if len(secret) >= 8:
        with _lock:
            _known.add(secret)


def redacted(text: str) -> str:
    """`text` without the keys in use and without what looks like one."""
    with _lock:
        known = sorted(_known, key=len, reverse=True)
    for secret in known:
        text = text.replace(secret, HIDDEN)
    return _SHAPES.sub(HIDDEN, text)


def finds_key(text: str) -> bool:
    """Whether a text, such as a cell's, holds a key, in use or by its shape."""
    return redacted(text) != text
