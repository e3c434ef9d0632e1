"""A server that fails in each way that servers fail, over a raw socket, for whichever API the client speaks.

A behaviour writes bytes to a connection. What it does depends on the number of the request for that seed, and on the seed alone.
"""

from __future__ import annotations

import contextlib
import json
import re
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random
from typing import Any, Self

TEXT = "so far — ein Stück Text, 日本語 und mehr, "
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
PLAIN = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"


@dataclass(frozen=True)
class Protocol:
    """How an API streams `TEXT`: `begin` up to its end, `end` what comes after it, `error` in the stream."""

    name: str
    begin: bytes
    end: bytes
    error: bytes


def _sse(*events: Any, named: bool = False) -> bytes:
    lines = []
    for event in events:
        name = f"event: {event['type']}\n" if named else ""
        lines.append(f"{name}data: {event if isinstance(event, str) else json.dumps(event, ensure_ascii=False)}\n\n")
    return "".join(lines).encode()


def _protocols() -> Iterator[Protocol]:
    def chunk(delta: dict[str, Any], reason: str | None = None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "finish_reason": reason}
        return {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}

    error = {"error": {"message": "it broke", "type": "server_error"}}
    yield Protocol("chat", _sse(chunk({"content": TEXT})), _sse(chunk({}, "stop"), "[DONE]"), _sse(error))

    where = {"item_id": "i", "output_index": 0, "content_index": 0, "sequence_number": 1, "logprobs": []}
    whole = {"id": "r", "object": "response", "created_at": 1, "model": "m", "output": [], "status": "completed"}
    whole |= {"parallel_tool_calls": False, "tool_choice": "auto", "tools": []}
    yield Protocol(
        "responses",
        _sse({"type": "response.output_text.delta", "delta": TEXT} | where, named=True),
        _sse({"type": "response.completed", "response": whole, "sequence_number": 2}, named=True),
        _sse({"type": "error", "message": "it broke", "code": None, "param": None, "sequence_number": 2}, named=True),
    )

    counts = {"input_tokens": 3, "output_tokens": 1}
    message = {"id": "m", "type": "message", "role": "assistant", "model": "m", "content": [], "stop_reason": None, "usage": counts}
    yield Protocol(
        "anthropic",
        _sse(
            {"type": "message_start", "message": message},
            {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
            {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": TEXT}},
            named=True,
        ),
        _sse(
            {"type": "content_block_stop", "index": 0},
            {"type": "message_delta", "delta": {"stop_reason": "end_turn", "stop_sequence": None}, "usage": {"output_tokens": 9}},
            {"type": "message_stop"},
            named=True,
        ),
        _sse({"type": "error", "error": {"type": "overloaded_error", "message": "it broke"}}, named=True),
    )

    def candidate(text: str, **more: Any) -> dict[str, Any]:
        return {"candidates": [{"content": {"parts": [{"text": text}], "role": "model"}, "index": 0, **more}]}

    yield Protocol(
        "gemini",
        _sse(candidate(TEXT)),
        _sse(candidate("", finishReason="STOP") | {"usageMetadata": {"promptTokenCount": 3, "candidatesTokenCount": 9}}),
        _sse({"error": {"code": 503, "message": "it broke", "status": "UNAVAILABLE"}}),
    )


PROTOCOLS = {protocol.name: protocol for protocol in _protocols()}


class Connection:
    """What a behaviour writes to. Writing to a client that is gone does nothing."""

    def __init__(self, raw: socket.socket, over: threading.Event, protocol: Protocol, n: int, seed: int, elsewhere: str) -> None:
        self.raw, self.over, self.protocol, self.n, self.elsewhere = raw, over, protocol, n, elsewhere
        self.random = Random(seed)
        self.is_gone = False

    def send(self, data: bytes) -> None:
        try:
            self.raw.sendall(data)
        except OSError:
            self.is_gone = True

    def part(self, data: bytes) -> None:
        """One chunk."""
        self.send(f"{len(data):x}\r\n".encode() + data + b"\r\n")

    def reply(self, status: int, body: Any, **headers: str) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        lines = [f"HTTP/1.1 {status} Said", "Content-Type: application/json", f"Content-Length: {len(data)}", "Connection: close"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        self.send("\r\n".join([*lines, "", ""]).encode() + data)

    def whole(self) -> None:
        self.send(HEAD)
        self.part(self.protocol.begin + self.protocol.end)
        self.send(b"0\r\n\r\n")

    def begun(self) -> None:
        """The text, with more to come."""
        self.send(HEAD)
        self.part(self.protocol.begin)

    def stall(self) -> None:
        """Until the client hangs up, or the server closes."""
        self.raw.settimeout(0.05)
        while not self.over.is_set():
            try:
                if not self.raw.recv(1):
                    return
            except TimeoutError:
                continue
            except OSError:
                return

    def slowly(self, data: bytes) -> None:
        for byte in data:
            self.send(bytes([byte]))
            if self.is_gone or self.over.wait(0.02):
                return

    def reset(self) -> None:
        self.raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


Behaviour = Callable[[Connection], None]


class Chaos:
    """`with Chaos(protocol, behaviour) as server`: `server.requests` counts the requests by seed, `server.keys` those with a key."""

    def __init__(self, protocol: Protocol, behave: Behaviour, elsewhere: str = "") -> None:
        self._protocol, self._behave, self._elsewhere = protocol, behave, elsewhere
        self.requests: Counter[int] = Counter()
        self.n_keys = 0
        self._over, self._lock = threading.Event(), threading.Lock()
        self._listening = socket.create_server(("127.0.0.1", 0), backlog=64)
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}"

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        for thread in self._threads:
            thread.join(5)

    def _accept(self) -> None:
        while True:
            try:
                raw, _ = self._listening.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=(raw,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, raw: socket.socket) -> None:
        with raw, contextlib.suppress(OSError):
            raw.settimeout(5)
            data = _read(raw)
            if not data:
                return
            seed = int(found[1]) if (found := re.search(rb"seed (\d+)", data)) else 0
            with self._lock:
                n = self.requests[seed]
                self.requests[seed] += 1
                self.n_keys += b"canary" in data
            raw.settimeout(None)
            self._behave(Connection(raw, self._over, self._protocol, n, seed, self._elsewhere))


def _read(raw: socket.socket) -> bytes:
    """A request with its body."""
    data = b""
    while b"\r\n\r\n" not in data:
        piece = raw.recv(65536)
        if not piece:
            return b""
        data += piece
    head, _, body = data.partition(b"\r\n\r\n")
    length = re.search(rb"(?i)content-length: *(\d+)", head)
    while length and len(body) < int(length[1]):
        body += raw.recv(65536)
    return head + b"\r\n\r\n" + body


# ---------------------------------------------------------------- the behaviours


def _cut_in_a_character(to: Connection) -> None:
    data = to.protocol.begin
    places = [i for i, byte in enumerate(data) if byte & 0xC0 == 0x80]
    to.send(HEAD)
    to.part(data)
    to.part(data[: to.random.choice(places)])


def _long_line(to: Connection) -> None:
    to.begun()
    filler = b"data: " + b"x" * 65536
    for _ in range(50 * 16):
        to.part(filler if _ == 0 else filler[6:])
        if to.is_gone:
            return


def _endless_head(to: Connection) -> None:
    to.send(b"HTTP/1.1 200 OK\r\n")
    while not to.is_gone and not to.over.is_set():
        to.send(b"X-More: " + b"y" * 8192 + b"\r\n")


def _pings(to: Connection) -> None:
    to.begun()
    while not to.is_gone and not to.over.wait(0.05):
        to.part(b": ping\n\n")


def _reset_after_text(to: Connection) -> None:
    to.begun()
    to.over.wait(0.1)
    to.reset()


BEHAVIOURS: dict[str, Behaviour] = {
    "400": lambda to: to.reply(400, {"error": {"message": "Unknown parameter: 'x'"}}),
    "401": lambda to: to.reply(401, {"error": {"message": "wrong key"}}),
    "404": lambda to: to.reply(404, {"error": {"message": "no such model"}}),
    "429 twice, with Retry-After": lambda to: (
        to.whole() if to.n == 2 else to.reply(429, {"error": {"message": "busy"}}, Retry_After="0.05")
    ),
    "429 with a Retry-After past the deadline": lambda to: to.reply(429, {"error": {"message": "busy"}}, Retry_After="3600"),
    "500 always": lambda to: to.reply(500, {"error": {"message": "it broke"}}),
    "503 once": lambda to: to.whole() if to.n else to.reply(503, {"error": {"message": "it broke"}}),
    "reset before the first byte, once": lambda to: to.whole() if to.n else to.reset(),
    "no HTTP": lambda to: to.send(b"SSH-2.0-OpenSSH_9.9\r\n"),
    "endless head": _endless_head,
    "stall before the head": Connection.stall,
    "stall after the head": lambda to: (to.send(HEAD), to.stall())[1],  # type: ignore[func-returns-value]
    "stall in mid-stream": lambda to: (to.begun(), to.stall())[1],  # type: ignore[func-returns-value]
    "a byte at a time": lambda to: to.slowly(PLAIN + to.protocol.begin * 20),
    "pings without an end": _pings,
    "cut in a character": _cut_in_a_character,
    "reset in mid-stream": _reset_after_text,
    "no end": lambda to: (to.begun(), to.send(b"0\r\n\r\n"))[1],  # type: ignore[func-returns-value]
    "an error in the stream": lambda to: (to.begun(), to.part(to.protocol.error), to.send(b"0\r\n\r\n"))[2],  # type: ignore[func-returns-value]
    "no JSON in the stream": lambda to: (to.begun(), to.part(b"data: {oops\n\n"), to.send(b"0\r\n\r\n"))[2],  # type: ignore[func-returns-value]
    "a page instead": lambda to: to.send(
        b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nConnection: close\r\n\r\n<html><p>Log in</p></html>"
    ),
    "a line of 50 MB": _long_line,
    "a redirect to another server": lambda to: to.reply(307, b"", Location=f"{to.elsewhere}/steal"),
    "a redirect without an end": lambda to: to.reply(307, b"", Location="/again"),
}
