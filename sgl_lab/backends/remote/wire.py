"""The way to a server: an httpx2 transport that every SDK here takes as (part of) its client.

It puts the key into a request, for the one origin that it belongs to; it keeps a call's deadlines
for each read; it can be hung up from another thread, also before the first byte; it bounds a
response.
"""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Iterable, Iterator
from urllib.request import getproxies, proxy_bypass

import httpcore2
import httpx2

from ...contracts.errors import ConnectionFailed, RequestFailed, RequestTimedOut
from .call import MAX_LINE, Call, current
from .endpoint import Endpoint, is_loopback
from .faults import IS_UP, Fault

CARRIERS = {b"authorization", b"x-api-key", b"api-key", b"x-goog-api-key", b"proxy-authorization", b"cookie"}
"""headers that may hold a key"""
CONNECTIONS = 64
BOTH_WAYS = 2
"""SHUT_RDWR; a module that opens sockets itself is not imported here"""


def client_for(endpoint: Endpoint) -> httpx2.Client:
    """A client for this server alone. What an SDK takes for a key is replaced on the way out."""
    timeout = httpx2.Timeout(600.0, connect=5.0)
    return httpx2.Client(transport=Wire(endpoint), timeout=timeout, follow_redirects=True, trust_env=False)


class Wire(httpx2.HTTPTransport):
    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        scheme, host, _ = endpoint.origin
        proxy = None if is_loopback(host) or proxy_bypass(host) else getproxies().get(scheme)
        limits = httpx2.Limits(max_connections=CONNECTIONS, max_keepalive_connections=CONNECTIONS, keepalive_expiry=30.0)
        super().__init__(proxy=proxy, limits=limits, retries=0)
        self._pool._network_backend = _Network(self._pool._network_backend, endpoint.place)

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        call, endpoint = current(), self._endpoint
        url = request.url
        origin = (url.scheme, url.host.rstrip("."), url.port or {"http": 80, "https": 443}.get(url.scheme, 0))
        if origin != endpoint.origin:
            error = RequestFailed(f"{endpoint.place} redirects to another server, {url.host}, which is not sent the prompt or a key")
            if call is not None:
                call.fault = Fault(error)
            raise error
        headers = [(name, value) for name, value in request.headers.raw if name.lower() not in CARRIERS | {b"accept-encoding"}]
        headers.append((b"accept-encoding", b"identity"))
        if endpoint.key is not None:
            headers += [(name.encode(), value.encode()) for name, value in endpoint.key.headers().items()]
        if "key" in url.params:
            url = url.copy_remove_param("key")
        sent = httpx2.Request(request.method, url, headers=headers, stream=request.stream, extensions=request.extensions)
        response = super().handle_request(sent)
        if response.headers.get("content-encoding", "identity").lower() not in ("identity", ""):
            response.close()
            raise RequestFailed(f"{endpoint.place} compresses its answer, although it was asked not to")
        if isinstance(response.stream, httpx2.SyncByteStream):
            response.stream = _Body(response.stream, call, is_answer=response.status_code < 300)
        return response


class _Body(httpx2.SyncByteStream):
    """The bytes of one response, whose lines are bounded."""

    def __init__(self, stream: httpx2.SyncByteStream, call: Call | None, *, is_answer: bool) -> None:
        self._stream, self._call, self._is_answer = stream, call, is_answer

    def __iter__(self) -> Iterator[bytes]:
        call, most, n_line = self._call, MAX_LINE if self._is_answer else 1 << 20, 0
        for piece in self._stream:
            end = piece.rfind(b"\n")
            n_line = n_line + len(piece) if end < 0 else len(piece) - end - 1
            if call is not None and self._is_answer:
                call.begin()
            if n_line > most:
                if call is not None:
                    call.fault = Fault(call.too_long())
                raise httpx2.ReadError("a line of the response is too long")
            yield piece

    def close(self) -> None:
        self._stream.close()


class _Network(httpcore2.NetworkBackend):
    def __init__(self, network: httpcore2.NetworkBackend, place: str) -> None:
        self._network, self._place = network, place

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.NetworkStream:
        call = current()
        if call is None:
            return _Stream(self._network.connect_tcp(host, port, timeout, local_address, socket_options), self._place)
        call.check()
        timeout = min(call.deadlines.connect, max(call.remaining_s, 0.001))

        def late() -> Fault:
            return Fault(RequestTimedOut(f"{self._place} did not connect within {call.deadlines.connect:g} s", hint=IS_UP))

        try:
            with call.within(timeout + 0.25, late):
                stream = self._network.connect_tcp(host, port, timeout, local_address, socket_options)
        except httpcore2.ConnectTimeout:
            call.fault = Fault(late().error, may_retry=True)
            raise
        except httpcore2.ConnectError as error:
            call.fault = Fault(ConnectionFailed(f"{self._place} cannot be reached: {error}", hint=IS_UP), may_retry=True)
            raise
        return _Stream(stream, self._place)

    def connect_unix_socket(
        self, path: str, timeout: float | None = None, socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None
    ) -> httpcore2.NetworkStream:
        return self._network.connect_unix_socket(path, timeout, socket_options)

    def sleep(self, seconds: float) -> None:
        self._network.sleep(seconds)


class _Stream(httpcore2.NetworkStream):
    def __init__(self, stream: httpcore2.NetworkStream, place: str) -> None:
        self._stream, self._place = stream, place

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        call = current()
        if call is None:
            return self._stream.read(max_bytes, timeout)
        with call.on_wire(self._hang_up):
            try:
                return self._stream.read(max_bytes, min(call.deadlines.idle, max(call.remaining_s, 0.001)))
            except httpcore2.ReadTimeout:
                self._late(call, "sent nothing")
                raise

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        call = current()
        if call is None:
            self._stream.write(buffer, timeout)
            return
        with call.on_wire(self._hang_up):
            try:
                self._stream.write(buffer, min(call.deadlines.idle, max(call.remaining_s, 0.001)))
            except httpcore2.WriteTimeout:
                self._late(call, "took nothing")
                raise

    def _late(self, call: Call, what: str) -> None:
        if call.remaining_s <= 0.01:
            call.end(call.too_late())
        else:
            hint = "give the backend deadlines=Deadlines(idle=...) where a model thinks for longer"
            call.fault = Fault(RequestTimedOut(f"{self._place} {what} for {call.deadlines.idle:g} s", hint=hint))

    def _hang_up(self) -> None:
        """Wake a thread that reads: closing alone does not."""
        found = self._stream.get_extra_info("socket")
        with contextlib.suppress(OSError, AttributeError):
            found.shutdown(BOTH_WAYS)

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore2.NetworkStream:
        call = current()
        if call is not None:
            timeout = min(call.deadlines.connect, max(call.remaining_s, 0.001))
        return _Stream(self._stream.start_tls(ssl_context, server_hostname, timeout), self._place)

    def get_extra_info(self, info: str) -> object:
        return self._stream.get_extra_info(info)
