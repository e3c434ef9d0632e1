"""A key shows in nothing that a user, a notebook, a log or a file keeps; and it goes only to the server that it is for."""

from __future__ import annotations

import copy
import io
import json
import logging
import pickle
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import sgl_lab.lang.surface as sgl
from sgl_lab.backends.anthropic import Anthropic
from sgl_lab.backends.gemini import Gemini
from sgl_lab.backends.openai import OpenAI
from sgl_lab.backends.remote import RemoteBackend
from sgl_lab.backends.remote.keys import variable_of
from sgl_lab.backends.remote.redaction import HIDDEN, finds_key, redacted
from sgl_lab.backends.sglang import RuntimeEndpoint
from sgl_lab.contracts.errors import AuthenticationFailed, BadArgument, SglError
from sgl_lab.contracts.events import to_json

from .chaos import BEHAVIOURS, PROTOCOLS, Chaos, Connection

CANARIES = {
    "chat": "sk-proj-CANARY0123456789abcdefgh",
    "responses": "CANARY-responses-0123456789",
    "anthropic": "sk-ant-CANARY0123456789abcdefgh",
    "gemini": "AIzaCANARY0123456789abcdefghijklmnopqrs",
}
SCENES = [
    "503 once",
    "400",
    "401",
    "500 always",
    "no HTTP",
    "cut in a character",
    "no end",
    "an error in the stream",
    "a redirect to another server",
]


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    """All that is logged, at every level."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    root, before = logging.getLogger(), logging.getLogger().level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield stream
    root.removeHandler(handler)
    root.setLevel(before)


def made(protocol: str, url: str, **given: Any) -> RemoteBackend:
    if protocol == "anthropic":
        return Anthropic("claude-sonnet-5-5", base_url=url, retries=0, **given)
    if protocol == "gemini":
        return Gemini("gemini-3.7-flash", base_url=url, retries=0, **given)
    return OpenAI("gpt-4o", api=protocol, base_url=f"{url}/v1", server="openai", retries=0, **given)


def echoing(scene: str) -> Any:
    """The behaviour, by a server that also says the key to its client's face."""

    def behave(to: Connection) -> None:
        if scene in ("400", "401"):
            key = CANARIES[to.protocol.name]
            to.reply(int(scene), {"error": {"message": f"Incorrect API key provided: {key}. Bearer {key} ?key={key}", "key": key}})
        else:
            BEHAVIOURS[scene](to)

    return behave


def with_locals(error: BaseException) -> str:
    """The traceback as the most talkative viewer shows it: each of our frames with its variables, and what led to the error."""
    shown = ""
    for each in (error, error.__cause__, error.__context__):
        if each is not None:
            frames = traceback.TracebackException.from_exception(each, capture_locals=True).stack
            shown += repr(each) + "".join(f"{frame} {frame.locals}" for frame in frames if frame.filename != __file__)
    return shown


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_no_key_in_anything_that_is_kept(protocol: str, log: io.StringIO, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    key = CANARIES[protocol]
    for scene in SCENES:
        kept: list[str] = []
        events: list[Any] = []
        with Chaos(PROTOCOLS[protocol], lambda to: to.whole()) as other, Chaos(PROTOCOLS[protocol], echoing(scene), other.url) as server:
            monkeypatch.setenv(variable_of(server.url.removeprefix("http://")), key)
            backend = made(protocol, server.url, emit=events.append, cache=tmp_path)
            s = sgl.start(backend, events.append)
            s += sgl.user("Q") + sgl.assistant(sgl.gen("a", max_tokens=9))
            try:
                kept.append(repr(s["a"]))
                kept.append(json.dumps(s.get_meta_info("a"), default=str))
            except SglError as error:
                kept += [str(error), repr(error), with_locals(error), repr(error.__dict__), str(error.__notes__)]
            assert other.n_keys == 0
        kept += [
            str(s.messages()) if s.error() is None else repr(s.error()),
            repr(backend),
            repr(backend.server),
            repr(backend.server.key),
            str(backend.describe()),
            str(backend.model_info),
            repr(s),
        ]
        kept += [to_json(event) for event in events]
        kept += [repr(vars(backend).get("_sdk")), repr(vars(vars(backend).get("_sdk") or object.__new__(type("_", (), {}))))]
        for clone in (pickle.dumps, copy.deepcopy):
            with pytest.raises(TypeError):
                clone(backend)
            with pytest.raises(TypeError):
                clone(backend.server.key)
        backend.close()
        kept += [path.read_text() for path in tmp_path.rglob("*.json")]
        assert [text for text in kept if key in text] == [], scene
        assert [text for text in kept if key[-12:] in text] == [], scene
    assert key not in log.getvalue()
    assert "CANARY" not in log.getvalue()


def test_no_key_in_the_traceback_of_a_constructor() -> None:
    n = 0
    for protocol, key in CANARIES.items():
        for given in ({"bugdet": 1}, {"concurrency": 0}, {"url": "ftp://x"}, {"api_key": key + "\n\x00"}):
            try:
                made(protocol, **{"url": "http://127.0.0.1:1", "api_key": key, **given})
            except (BadArgument, TypeError):
                # Our own frames; the line of the caller is the caller's.
                frames = traceback.TracebackException(*sys.exc_info(), capture_locals=True).stack  # type: ignore[arg-type]
                inside = [frame for frame in frames if "backends" in frame.filename]
                assert inside
                n += 1
                assert [frame.name for frame in inside if key in str(frame.locals)] == []
    assert n == 4 * len(CANARIES)


@pytest.mark.parametrize("is_named", [True, False])
@pytest.mark.parametrize("given", [{"bugdet": 1}, {"concurrency": 0}, {}], ids=str)
def test_no_key_in_the_traceback_of_a_runtime_endpoint(given: dict[str, Any], is_named: bool) -> None:
    key = CANARIES["chat"]
    args, named = ((), {"api_key": key}) if is_named else ((key,), {})
    with pytest.raises(SglError) as failed:
        RuntimeEndpoint("http://127.0.0.1:1", *args, **named, retries=0, **given)
    shown = with_locals(failed.value)
    assert "endpoint.py" in shown
    assert key not in shown


def test_no_key_in_the_traceback_of_a_server_that_is_not_up() -> None:
    key = CANARIES["chat"]
    with pytest.raises(SglError) as failed:
        OpenAI("m", base_url="http://127.0.0.1:1/v1", api_key=key, retries=0)
    assert key not in with_locals(failed.value)


def test_a_key_goes_only_where_it_belongs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", CANARIES["chat"])
    assert OpenAI("gpt-4o").server.key is not None
    with Chaos(PROTOCOLS["chat"], lambda to: to.whole()) as server:
        other = OpenAI("gpt-4o", base_url=server.url, server="openai")
        assert other.server.key is None
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        assert OpenAI("gpt-4o", server="openai").server.key is None
    for look_alike in ("https://api.openai.com.evil.test/v1", "https://evilapi.openai.com.test/v1", "https://api-openai.com/v1"):
        assert OpenAI("gpt-4o", base_url=look_alike, server="openai").server.key is None
    assert OpenAI("gpt-4o", base_url="https://eu.api.openai.com/v1").server.key is not None
    with pytest.raises(BadArgument, match="plain http"):
        OpenAI("gpt-4o", base_url="http://api.openai.com/v1")
    with pytest.raises(BadArgument, match="holds a password"):
        OpenAI("gpt-4o", base_url="https://me:secret@example.com/v1")
    monkeypatch.delenv("OPENAI_BASE_URL")
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(AuthenticationFailed):
        OpenAI("gpt-4o")


def test_a_text_that_holds_a_key_is_known() -> None:
    for key in CANARIES.values():
        if key.startswith("CANARY"):
            continue
        assert finds_key(f'OpenAI("gpt-4o", api_key="{key}")')
        assert redacted(f"a {key} b") == f"a {HIDDEN} b"
    for text in ("sk-learn is a library", "task-force", "s += gen('a')", "AIza", "the key is under the mat"):
        assert not finds_key(text)
