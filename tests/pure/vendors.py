"""Servers that answer in the exact form of a vendor's API, for the vendor's own SDK, on a real socket."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from sgl_lab.contracts.conversation import ChatJob, ChatMessage, ChatOutput, DecisionJob, DecisionOutput, Part, TextPart
from sgl_lab.contracts.params import SamplingParams

from .loopback import Handler, Loopback

Reply = tuple[int, bytes, dict[str, str]]
"""status, body, headers"""


class Server(Loopback):
    """`reply(path, request)` answers each POST; `seen` has the requests, `headers` their headers in lower case."""

    def __init__(self, reply: Callable[[str, Any], Reply]) -> None:
        self.seen: list[tuple[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        server = self

        class Api(Handler):
            def do_POST(self) -> None:
                raw = self.rfile.read(int(self.headers["content-length"]))
                if not raw:  # the client hung up
                    return
                body = json.loads(raw)
                server.seen.append((self.path, body))
                server.headers.append({name.lower(): value for name, value in self.headers.items()})
                status, answer, headers = reply(self.path, body)
                self.command = "GET"  # so that `send` sends the body
                self.send(status, answer, headers)

        super().__init__(Api)


def in_turn(*replies: Reply) -> Callable[[str, Any], Reply]:
    """One reply after the other; the last again and again."""
    left: Iterator[Reply] = iter(replies)
    lock, last = threading.Lock(), list(replies[:1])

    def reply(path: str, request: Any) -> Reply:
        with lock:
            last[0] = next(left, last[0])
            return last[0]

    return reply


def events(*each: dict[str, Any], named: bool) -> Reply:
    """A stream of server-sent events, with a line for their names as Anthropic sends it, or without, as Google does."""
    lines = [(f"event: {event['type']}\n" if named else "") + f"data: {json.dumps(event)}\n\n" for event in each]
    return 200, "".join(lines).encode(), {"Content-Type": "text/event-stream"}


def failure(status: int, body: dict[str, Any], **headers: str) -> Reply:
    return status, json.dumps(body).encode(), {"Content-Type": "application/json", **headers}


class KeptAnswer:
    """A listener that keeps what it receives."""

    def __init__(self) -> None:
        self.deltas: list[tuple[int, str]] = []
        self.outcome: Any = None
        self._ended = threading.Event()

    def on_delta(self, index: int, text: str) -> None:
        self.deltas.append((index, text))

    def on_done(self, outcome: Any) -> None:
        self.outcome = outcome
        self._ended.set()

    def on_error(self, error: Exception) -> None:
        self.outcome = error
        self._ended.set()

    def wait(self) -> Any:
        """What came in the end; an error is raised."""
        assert self._ended.wait(20), "nothing came"
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome

    @property
    def text(self) -> str:
        return "".join(text for _, text in self.deltas)


def messages(*turns: tuple[str, str | Part | Iterable[Part]]) -> tuple[ChatMessage, ...]:
    """(role, text or parts) of each."""
    made = []
    for role, content in turns:
        parts = (TextPart(content),) if isinstance(content, str) else tuple(content) if isinstance(content, tuple | list) else (content,)
        made.append(ChatMessage(role, parts))  # type: ignore[arg-type]
    return tuple(made)


HELLO = messages(("user", "Hello"))


def job(prompt: tuple[ChatMessage, ...] = HELLO, *, tools: Any = (), shared: tuple[tuple[int, int], ...] = (), **params: Any) -> ChatJob:
    return ChatJob(prompt, SamplingParams(**params), tools, shared=shared)


def ask(backend: Any, prompt: tuple[ChatMessage, ...] = HELLO, **given: Any) -> tuple[tuple[ChatOutput, ...], KeptAnswer]:
    listener = KeptAnswer()
    backend.converse(job(prompt, **given), listener)
    return listener.wait(), listener


def decide(backend: Any, prompt: tuple[ChatMessage, ...], *choices: str) -> DecisionOutput:
    listener = KeptAnswer()
    backend.decide(DecisionJob(prompt, choices), listener)
    decided: DecisionOutput = listener.wait()
    return decided
