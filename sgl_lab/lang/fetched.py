"""Fetches a public web address, within limits. A program may have the address from a model, so
nothing inside the network of this machine is reached: each host, also of a redirect, is resolved
once, all of its addresses have to be public, and the connection goes to the address that was
checked. No proxy is used.
"""

from __future__ import annotations

import http.client
import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Callable
from functools import partial
from urllib.parse import SplitResult, urljoin, urlsplit

from ..contracts.errors import BadArgument

TOTAL_S = 15.0
"""for the whole fetch"""
MAX_REDIRECTS = 5
_REDIRECTS = (301, 302, 303, 307, 308)
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


def is_public(address: str) -> bool:
    """Whether the IP address is one of the public internet."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.teredo or ip.sixtofour:
            return False
        inner = ip.ipv4_mapped or (ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF) if ip in _NAT64 else None)
        ip = ip if inner is None else inner
    return ip.is_global and not ip.is_multicast


def fetched(url: str, most: int, *, seconds: float = TOTAL_S, allowed: Callable[[str], bool] = is_public) -> bytes | None:
    """The body at an http or https address; None if it has more than `most` bytes. BadArgument says
    what went wrong.
    """
    deadline = time.monotonic() + seconds
    for _ in range(MAX_REDIRECTS + 1):
        found = _asked(url, most, deadline, allowed)
        if not isinstance(found, str):
            return found
        url = urljoin(url, found)
    raise BadArgument(f"{url!r:.200} redirects more than {MAX_REDIRECTS} times")


def _asked(url: str, most: int, deadline: float, allowed: Callable[[str], bool]) -> bytes | str | None:
    """The body, or where a redirect leads."""
    try:
        parts = urlsplit(url)
        connection = _connected(parts, deadline, allowed)
    except (OSError, ValueError) as error:
        raise _failed(url, error) from None
    assert connection.sock is not None
    watch = threading.Timer(_left(deadline), partial(socket.socket.shutdown, connection.sock, socket.SHUT_RDWR))
    watch.daemon = True
    watch.start()
    try:
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        connection.request("GET", path, headers={"User-Agent": "sgl_lab", "Accept": "image/*", "Host": parts.netloc})
        response = connection.getresponse()
        if response.status in _REDIRECTS and (location := response.headers.get("Location")):
            return location
        if response.status != 200:
            raise BadArgument(f"cannot fetch the image {url!r:.200}: the server answers {response.status} {response.reason:.80}")
        return _body(response, most, deadline)
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise error if isinstance(error, BadArgument) else _failed(url, error) from None
    finally:
        watch.cancel()
        connection.close()


def _connected(parts: SplitResult, deadline: float, allowed: Callable[[str], bool]) -> http.client.HTTPConnection:
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise BadArgument(f"an image is fetched from an http or https address, not {parts.geturl()!r:.80}")
    if parts.username is not None:
        raise BadArgument("an address with a password in it is not fetched")
    is_safe = parts.scheme == "https"
    port = parts.port or (443 if is_safe else 80)
    addresses = {str(info[4][0]) for info in socket.getaddrinfo(parts.hostname, port, type=socket.SOCK_STREAM)}
    if inside := [address for address in sorted(addresses) if not allowed(address)]:
        raise BadArgument(f"{parts.hostname!r:.80} is {inside[0]}, which is no public address", hint="save the image as a file")
    connection = http.client.HTTPConnection(parts.hostname, port, timeout=_left(deadline))
    made = socket.create_connection((min(addresses, key=lambda one: (":" in one, one)), port), timeout=_left(deadline))
    try:
        connection.sock = ssl.create_default_context().wrap_socket(made, server_hostname=parts.hostname) if is_safe else made
    except BaseException:
        made.close()
        raise
    return connection


def _body(response: http.client.HTTPResponse, most: int, deadline: float) -> bytes | None:
    kept = bytearray()
    while len(kept) <= most:
        more = response.read1(1 << 16)
        _left(deadline)
        if not more:
            return bytes(kept)
        kept += more
    return None


def _left(deadline: float) -> float:
    if (left := deadline - time.monotonic()) <= 0:
        raise TimeoutError("it takes too long")
    return left


def _failed(url: str, error: Exception) -> BadArgument:
    return error if isinstance(error, BadArgument) else BadArgument(f"cannot fetch the image {url!r:.200}: {error!s:.200}")
