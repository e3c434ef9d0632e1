"""Which server is asked, and that a key goes to no other.

* A key of a provider (OPENAI_API_KEY ...) goes to that provider's hosts. A server under another
  base URL has a key of its own name.
* A redirect to another origin is refused; it would take the prompt along, too.
* Plain http carries a key only on loopback.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from ...contracts.errors import BadArgument
from .keys import Key, Provider, find_key, key_of, no_key, variable_of

_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True)
class Endpoint:
    """A server, and the key that it is sent, if any."""

    provider: Provider
    base_url: str
    """without a slash at its end"""
    key: Key | None = field(default=None, repr=False)

    @property
    def origin(self) -> tuple[str, str, int]:
        """Scheme, host, port."""
        return origin_of(self.base_url)

    @property
    def place(self) -> str:
        """What messages call it: its host, and its port where that is not the usual."""
        return place_of(self.base_url)

    @property
    def is_own(self) -> bool:
        """Whether it is the provider's own server."""
        return self.provider.owns(self.origin[1])


def origin_of(url: str) -> tuple[str, str, int]:
    """BadArgument for what is no URL of http or https."""
    try:
        split = urlsplit(url)
        host, port = (split.hostname or "").rstrip("."), split.port
    except ValueError:
        host, port = "", None
    if not host or split.scheme not in _PORTS:
        raise BadArgument(f"base_url must be a URL such as http://127.0.0.1:8000/v1, not {_shown(url)!r:.80}")
    if split.username or split.password:
        raise BadArgument("base_url holds a password", hint="leave it out; a key is named for its host")
    return split.scheme, host, port or _PORTS[split.scheme]


def _shown(url: str) -> str:
    return url.rpartition("@")[2]


def place_of(url: str) -> str:
    scheme, host, port = origin_of(url)
    return host if port == _PORTS[scheme] else f"{host}:{port}"


def is_loopback(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def find_endpoint(provider: Provider, base_url: str, *, api_key: str | Key | None = None, needs_key: bool | None = None) -> Endpoint:
    """The server at `base_url`, with its key.

    `needs_key` None: the provider's own server needs one, others (a vLLM, a llama.cpp) may do
    without. AuthenticationFailed where a key is needed and there is none, BadArgument where a key
    would go out over plain http.
    """
    if not isinstance(base_url, str):
        raise BadArgument(f"base_url must be text, not {type(base_url).__name__}")
    base_url = base_url.rstrip("/")
    scheme, host, _ = origin_of(base_url)
    place, is_own = place_of(base_url), provider.owns(host)
    if isinstance(api_key, str):
        api_key = key_of(api_key, provider, "api_key=") if api_key.strip() else None
    key = api_key or find_key(provider, place, is_own=is_own)
    if key is None and (is_own if needs_key is None else needs_key):
        raise no_key(provider, place, is_own=is_own)
    if key is not None and scheme == "http" and not is_loopback(host):
        raise BadArgument(
            f"a key would go to {place} over plain http, readable on the way",
            hint=f"use https, or a tunnel to 127.0.0.1; for a server without a key leave out api_key= and {variable_of(place)}",
        )
    return Endpoint(provider, base_url, key)
