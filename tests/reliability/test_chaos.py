"""A remote call ends by its deadline, with a typed error and what came of the text, whatever the server does: 24 behaviours, 4 APIs."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from sgl_lab.backends.anthropic import Anthropic
from sgl_lab.backends.gemini import Gemini
from sgl_lab.backends.openai import OpenAI
from sgl_lab.backends.remote import Deadlines, RemoteBackend, Retries
from sgl_lab.contracts.conversation import ChatJob, ChatMessage, TextPart
from sgl_lab.contracts.errors import (
    AuthenticationFailed,
    BadArgument,
    ConnectionFailed,
    ModelMissing,
    RateLimited,
    RequestFailed,
    RequestTimedOut,
    SglError,
)
from sgl_lab.contracts.params import SamplingParams

from .chaos import BEHAVIOURS, PROTOCOLS, TEXT, Chaos

SEEDS = range(10)
FAST = Deadlines(connect=1, idle=1.5, total=3)
SLOW = Deadlines(connect=5, idle=30, total=60)
KEY = "canary-0123456789-canary"

EXPECTED: dict[str, tuple[type[SglError] | None, int, bool]] = {
    "400": (BadArgument, 1, False),
    "401": (AuthenticationFailed, 1, False),
    "404": (ModelMissing, 1, False),
    "429 twice, with Retry-After": (None, 3, True),
    "429 with a Retry-After past the deadline": (RateLimited, 1, False),
    "500 always": (RequestFailed, 3, False),
    "503 once": (None, 2, True),
    "reset before the first byte, once": (None, 2, True),
    "no HTTP": (ConnectionFailed, 3, False),
    "endless head": (ConnectionFailed, 3, False),
    "stall before the head": (RequestTimedOut, 1, False),
    "stall after the head": (RequestTimedOut, 1, False),
    "stall in mid-stream": (RequestTimedOut, 1, True),
    "a byte at a time": (RequestTimedOut, 1, False),
    "pings without an end": (RequestTimedOut, 1, True),
    "cut in a character": (ConnectionFailed, 1, True),
    "reset in mid-stream": (ConnectionFailed, 1, True),
    "no end": (ConnectionFailed, 1, True),
    "an error in the stream": (RequestFailed, 1, True),
    "no JSON in the stream": (RequestFailed, 1, True),
    "a page instead": (RequestFailed, 1, False),
    "a line of 50 MB": (RequestFailed, 1, True),
    "a redirect to another server": (RequestFailed, 1, False),
    "a redirect without an end": (RequestFailed, 21, False),
}
"""of each behaviour: the error, the most requests a call makes, whether its text is kept"""


def backend(protocol: str, url: str, deadlines: Deadlines) -> RemoteBackend:
    given: dict[str, Any] = {"api_key": KEY, "deadlines": deadlines, "retries": Retries(2, first_s=0.02), "concurrency": 16}
    if protocol == "anthropic":
        return Anthropic("claude-sonnet-5-5", base_url=url, **given)
    if protocol == "gemini":
        return Gemini("gemini-3.7-flash", base_url=url, **given)
    return OpenAI("gpt-4o", api=protocol, base_url=f"{url}/v1", server="openai", **given)


class KeptAnswer:
    """A listener that holds exactly one end."""

    def __init__(self) -> None:
        self.text, self.ends, self.over = "", list[Any](), threading.Event()

    def on_delta(self, index: int, text: str) -> None:
        self.text += text

    def on_done(self, outputs: Any) -> None:
        self.ends.append(outputs)
        self.over.set()

    def on_error(self, error: Exception) -> None:
        self.ends.append(error)
        self.over.set()


def asked(backend: RemoteBackend, seeds: range = SEEDS) -> list[KeptAnswer]:
    """What calls with all seeds at once hear."""
    listeners = [KeptAnswer() for _ in seeds]
    for seed, one in zip(seeds, listeners, strict=True):
        prompt = (ChatMessage("user", (TextPart(f"seed {seed} end"),)),)
        backend.converse(ChatJob(prompt, SamplingParams(max_tokens=50)), one)
    return listeners


def test_each_behaviour_has_its_expectation() -> None:
    assert EXPECTED.keys() == BEHAVIOURS.keys()


TIMED = [name for name, (kind, _, _) in EXPECTED.items() if kind is RequestTimedOut and name != "stall in mid-stream"]
"""they take the time of a deadline, and are the same for all APIs: one is enough"""
CASES = [(protocol, name) for protocol in PROTOCOLS for name in BEHAVIOURS if protocol == "chat" or name not in TIMED]


@pytest.fixture(scope="module", autouse=True)
def _imported() -> None:
    """What the SDKs import at their first call is not part of a deadline."""
    for protocol in PROTOCOLS:
        with Chaos(PROTOCOLS[protocol], lambda to: to.whole()) as server:
            (one,) = asked(backend(protocol, server.url, SLOW), range(1))
            assert one.over.wait(60)
            assert one.ends[0][0].text == TEXT


@pytest.mark.parametrize(("protocol", "name"), CASES)
def test_every_call_ends_by_its_deadline_with_a_typed_error_and_its_text(protocol: str, name: str) -> None:
    kind, most, keeps = EXPECTED[name]
    seeds = range(2) if name.startswith(("a line", "a redirect", "endless")) else SEEDS if protocol == "chat" else range(3)
    deadlines = FAST if kind is RequestTimedOut else SLOW
    with Chaos(PROTOCOLS[protocol], lambda to: to.whole()) as other, Chaos(PROTOCOLS[protocol], BEHAVIOURS[name], other.url) as server:
        listeners = asked(backend(protocol, server.url, deadlines), seeds)
        assert all(one.over.wait(90) for one in listeners)
        stolen = other.requests
    ends = [one.ends for one in listeners]
    assert [len(end) for end in ends] == [1] * len(seeds)
    if kind is None:
        assert [end[0][0].text for end in ends] == [TEXT] * len(seeds)
    else:
        assert [end[0] for end in ends if not isinstance(end[0], kind)] == []
        assert [str(end[0]) for end in ends if "\n" in str(end[0]) or KEY in str(end[0])] == []
        if keeps:
            assert [end[0].partial for end in ends if not end[0].partial or not end[0].partial[0].startswith(TEXT)] == []
    assert {*server.requests} == {*seeds}
    assert max(server.requests.values()) <= most
    assert stolen == {}


def test_a_dead_port_is_one_line() -> None:
    for protocol in PROTOCOLS:
        (one,) = asked(backend(protocol, "http://127.0.0.1:9", SLOW), range(1))
        assert one.over.wait(60)
        assert isinstance(one.ends[0], ConnectionFailed)
        assert "127.0.0.1:9 cannot be reached" in str(one.ends[0])


@pytest.mark.parametrize("name", ["stall before the head", "stall in mid-stream"])
def test_a_cancel_ends_a_stalled_call_at_once(name: str) -> None:
    with Chaos(PROTOCOLS["chat"], BEHAVIOURS[name]) as server:
        stalled = backend("chat", server.url, Deadlines())
        one = KeptAnswer()
        request = stalled.converse(ChatJob((ChatMessage("user", (TextPart("seed 1 end"),)),), SamplingParams()), one)
        while not server.requests or (name.endswith("mid-stream") and not one.text):
            threading.Event().wait(0.01)
        stalled.cancel(request)
        assert one.over.wait(20)
    assert one.ends[0][0].finish_reason == "abort"
    assert one.ends[0][0].text == one.text
