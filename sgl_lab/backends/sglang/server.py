"""The HTTP paths of an SGLang server, a router or a door: its description, its control, and /generate."""

from __future__ import annotations

import json
from abc import ABC
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

from ...contracts.errors import BackendUnsupported, ModelMissing, RequestFailed, SglError
from ..remote import Deadlines, Refused
from ..remote.jobs import RemoteJobs, Task
from .answers import Answer
from .router import Worker, workers_of

if TYPE_CHECKING:
    import httpx2

CONCURRENCY = 64
"""calls at once to one server, by default: its scheduler is the better place to wait"""

Json = dict[str, object]
T = TypeVar("T", bound=Task)
O = TypeVar("O")  # noqa: E741


class SglangServer(RemoteJobs[T, O], ABC):
    """The server of a backend, by its own paths. Raises our errors."""

    def _meet(self) -> None:
        """Ask what it is. BackendUnsupported for a server with another API."""
        self._info = self._model_info()
        self._server_info = self._ask_or_none("GET", "/get_server_info") or self._ask_or_none("GET", "/server_info") or {}
        self._is_router = "workers_count" in self._server_info or "router_manager" in self._server_info

    def _model_info(self) -> Json:
        place = self.server.place
        hint = "an OpenAI-compatible server is sgl.OpenAI(model, base_url=...)"
        try:
            info = self._ask("GET", "/get_model_info")
        except (ModelMissing, json.JSONDecodeError):
            raise BackendUnsupported(f"{place} has no /get_model_info: it is no SGLang server", hint=hint) from None
        if not isinstance(info, dict) or not info.get("model_path"):
            raise BackendUnsupported(f"{place} does not say which model it serves: it is no SGLang server", hint=hint)
        if info.get("is_generation") is False:
            raise BackendUnsupported(f"{place} serves {info['model_path']}, which generates no text", hint="serve a language model")
        return info

    def _context(self) -> int:
        """Tokens of the longest sequence; without a word of the server's, no limit is known here,
        and it refuses by itself."""
        given = self._info | self._server_info
        for name in ("context_length", "max_model_len", "max_context_length"):
            if type(most := given.get(name)) is int and most > 0:
                return most
        cards = (self._ask_or_none("GET", "/v1/models") or {}).get("data")
        for card in cards if isinstance(cards, list) else ():
            if isinstance(card, dict) and type(most := card.get("max_model_len")) is int and most > 0:
                return most
        return 1 << 20

    # ------------------------------------------------------------ programs of the original

    @property
    def base_url(self) -> str:
        return self.server.base_url

    @property
    def model_info(self) -> Json:
        return dict(self._info)

    def get_model_name(self) -> str:
        return str(self._info["model_path"])

    def get_server_info(self) -> Json:
        info = self._ask("GET", "/get_server_info")
        return info if isinstance(info, dict) else {}

    def start_profile(self) -> None:
        self._ask("POST", "/start_profile")

    def stop_profile(self) -> None:
        self._ask("POST", "/stop_profile")

    def open_session(self, capacity_of_str_len: int = 1 << 20) -> str:
        """A session of the server: its id, for requests that a program makes by itself.

        Programs here use none: they send token ids, and what an earlier request computed is found
        in the server's cache. BackendUnsupported where the server has no sessions.
        """
        try:
            return str(self._ask("POST", "/open_session", {"capacity_of_str_len": capacity_of_str_len}))
        except (ModelMissing, json.JSONDecodeError):
            raise self._no_sessions() from None

    def close_session(self, session: str) -> None:
        """BackendUnsupported where the server has no sessions."""
        try:
            self._ask("POST", "/close_session", {"session_id": session})
        except ModelMissing:
            raise self._no_sessions() from None

    def _no_sessions(self) -> BackendUnsupported:
        what = f"{self.server.place} has no sessions (/open_session)"
        return BackendUnsupported(what, hint="programs need none: what they send again is found in the server's cache")

    def workers(self) -> tuple[Worker, ...]:
        """The servers behind an sglang-router, with their health and hits; empty if this is a
        server itself."""
        found = self._ask_or_none("GET", "/workers")
        if found is None:
            return ()
        try:
            metrics = self._ask("GET", "/engine_metrics")
        except SglError:
            metrics = ""
        return workers_of(found, metrics if isinstance(metrics, str) else "")

    def metrics(self) -> str:
        """What the server publishes for Prometheus; of a router, that of all its workers."""
        path = "/engine_metrics" if self._is_router else "/metrics"
        return str(self._ask("GET", path))

    def health(self) -> bool:
        """Whether the server answers and can generate."""
        try:
            self._ask("GET", "/health")
        except SglError:
            return False
        return True

    # ------------------------------------------------------------ http

    def _ask(self, method: str, path: str, body: Mapping[str, object] | None = None, deadlines: Deadlines | None = None) -> object:
        """What is no job, on the caller's thread: JSON, or text where the server sends it."""
        response = self.answer_of(lambda call: self._send(method, path, body), deadlines)
        text = response.text
        # A router calls the JSON of its own paths plain text.
        return json.loads(text) if "json" in response.headers.get("content-type", "") or text[:1] in ("{", "[") else text

    def _ask_or_none(self, method: str, path: str) -> Json | None:
        try:
            found = self._ask(method, path)
        except (SglError, json.JSONDecodeError):
            return None
        return found if isinstance(found, dict) else None

    def _send(self, method: str, path: str, body: Mapping[str, object] | None = None) -> httpx2.Response:
        response = self.client.request(method, self.server.base_url + path, json=body)
        _check(response, response.text if response.status_code >= 300 else "")
        return response

    def _post(self, body: Mapping[str, object], served: Callable[[str], None]) -> Answer | list[Answer]:
        """An answer of /generate, or one for each prompt. `served` is called with the worker that
        answered.
        """
        response = self._send("POST", "/generate", body)
        served(response.headers.get("x-served-by", ""))
        answer: Answer | list[Answer] = response.json()
        _refused(answer)
        if not isinstance(answer, dict | list):
            raise RequestFailed(f"{self.server.place} answers {type(answer).__name__}, no object")
        return answer

    def _stream(self, body: Mapping[str, object], served: Callable[[str], None]) -> Iterator[Answer]:
        with self.client.stream("POST", self.server.base_url + "/generate", json=body) as response:
            served(response.headers.get("x-served-by", ""))
            if response.status_code >= 300:
                response.read()
                _check(response, response.text)
            for line in response.iter_lines():
                if not line.startswith("data:"):
                    continue
                data = line[5:].strip()
                if data == "[DONE]":
                    return
                answer = json.loads(data)
                _refused(answer)
                yield answer

    def _abort(self, rid: str) -> None:
        """The end of its connection is one sign for a server; a router in between may keep that to
        itself.
        """
        with suppress(SglError, json.JSONDecodeError):  # it is gone, or has no such path
            self._ask("POST", "/abort_request", {"rid": rid}, Deadlines(connect=2.0, idle=5.0, total=5.0))


class _Failure(Exception):
    """A status that is no success, with what the server says of it."""

    def __init__(self, response: httpx2.Response, body: object) -> None:
        super().__init__(str(body)[:400])
        self.status_code, self.response, self.body = response.status_code, response, body


def _check(response: httpx2.Response, text: str) -> None:
    if response.status_code >= 300:
        try:
            body: object = json.loads(text)
        except ValueError:
            body = text.strip() or response.reason_phrase
        raise _Failure(response, body)


def _refused(answer: object) -> None:
    """An error that comes in place of an answer."""
    if isinstance(answer, dict) and (error := answer.get("error")) is not None:
        message = error.get("message") if isinstance(error, dict) else error
        code = error.get("code") if isinstance(error, dict) else None
        raise Refused(str(message), code if type(code) is int else None)
