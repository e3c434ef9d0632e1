"""A server of an API on the loopback address: it keeps what it is sent and answers what a test says."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from .loopback import Handler, Loopback


@dataclass
class ApiCall:
    method: str
    path: str
    headers: Mapping[str, str]
    body: Any = None


@dataclass
class Reply:
    """`body` is sent as JSON; `events`, if given, as a stream of server-sent events."""

    body: Any = None
    status: int = 200
    events: Iterable[Any] | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


Answer = Callable[[ApiCall], Reply]


class Api(Loopback):
    """`with Api(answer, "/v1") as api`: what it is asked is in `api.asked`."""

    def __init__(self, answer: Answer, path: str = "") -> None:
        asked: list[ApiCall] = []
        self.asked = asked

        class Answering(Handler):
            def do_GET(self) -> None:
                self._answer(None)

            def do_POST(self) -> None:
                self._answer(json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or b"null"))

            def _answer(self, body: Any) -> None:
                one = ApiCall(self.command, self.path, {name.lower(): value for name, value in self.headers.items()}, body)
                asked.append(one)
                reply = answer(one)
                self.send_response(reply.status)
                for name, value in reply.headers.items():
                    self.send_header(name, value)
                if reply.events is None:
                    data = json.dumps(reply.body).encode()
                    self.send_header("Content-Type", "application/json")
                    self.send_header("Content-Length", str(len(data)))
                    self.end_headers()
                    self.wfile.write(data)
                    return
                self.send_header("Content-Type", "text/event-stream")
                self.send_header("Connection", "close")
                self.end_headers()
                self.close_connection = True
                for event in reply.events:
                    self.wfile.write(_event(event))
                    self.wfile.flush()

        super().__init__(Answering, path)

    def bodies(self, path: str) -> list[Any]:
        """Of the requests to a path, in order."""
        return [one.body for one in self.asked if one.path == path]


def _event(event: Any) -> bytes:
    if isinstance(event, str):
        return f"data: {event}\n\n".encode()
    kind = f"event: {event['type']}\n" if isinstance(event, dict) and "type" in event else ""
    return f"{kind}data: {json.dumps(event)}\n\n".encode()
