"""Which requests come in: those with the token, for this machine, and from no foreign page."""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping

from .errors import Refused

_HOST = re.compile(r"(127\.0\.0\.1|localhost|\[::1\])(:\d{1,5})?", re.IGNORECASE)
OPEN_PATHS = frozenset({"/health"})
"""They tell only that the door is open, and need no token"""
NAME = 60
"""characters of a client's name"""


def check(path: str, headers: Mapping[str, str], token: str, origins: frozenset[str]) -> None:
    """Refused for a request that may not come in. `headers` have lower-case names.

    A page of another origin cannot read our answers, but could send requests: so an `Origin` must be
    the door's own or one of `origins`. The host is checked because a name of another site may be
    resolved to this machine.
    """
    host = headers.get("host", "")
    if not _HOST.fullmatch(host):
        raise Refused(403, f"the host {host!r:.80} is not this machine", hint="use the address that the door prints")
    origin = headers.get("origin")
    if origin is not None and origin not in origins and origin.removeprefix("http://") != host:
        raise Refused(403, f"pages of {origin!r:.80} may not use this door", hint="name the origin where the door is opened")
    if path not in OPEN_PATHS and not secrets.compare_digest(_given(headers).encode("utf-8", "replace"), token.encode()):
        hint = "send the door's token as `Authorization: Bearer TOKEN` or `x-api-key: TOKEN`"
        raise Refused(401, "the token is missing or wrong", hint=hint, headers={"WWW-Authenticate": "Bearer"})


def _given(headers: Mapping[str, str]) -> str:
    scheme, _, token = headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")


def client_name(headers: Mapping[str, str], user: object = None) -> str:
    """The name under which a client's requests are shown: its `user`, else its program."""
    name = user if isinstance(user, str) and user.strip() else headers.get("user-agent", "")
    return "-".join(name.split())[:NAME] or "client"
