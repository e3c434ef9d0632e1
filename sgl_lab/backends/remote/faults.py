"""What went wrong with a call, in our words, and whether it may be made again. It reads the
exceptions of the SDKs by what they all have (a status, a response, a cause), so it imports none of
them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from ...contracts.errors import (
    AuthenticationFailed,
    BadArgument,
    ConnectionFailed,
    ModelMissing,
    PromptTooLong,
    RateLimited,
    RequestFailed,
    RequestTimedOut,
    SglError,
)
from .redaction import redacted
from .retries import retry_after

IS_UP = "is the server up, and base_url right?"
MAX_WORDS = 300
"""characters of what a server says that an error repeats"""

_CONNECTION = {"ConnectError", "ReadError", "WriteError", "CloseError", "RemoteProtocolError", "NetworkError", "ProxyError", "PoolTimeout"}
_TIMEOUTS = {"ConnectTimeout", "ReadTimeout", "WriteTimeout", "TimeoutException", "APITimeoutError"}
_TOO_LONG = ("context_length", "context length", "maximum context", "too many tokens", "prompt is too long", "maximum number of tokens")
_NO_CREDIT = ("insufficient_quota", "credit balance", "billing", "exceeded your current quota")


@dataclass(frozen=True, slots=True)
class Fault:
    error: SglError
    may_retry: bool = False
    """as long as no byte of an answer has come"""
    wait_s: float | None = None
    """as the server asks"""


class Unended(Exception):
    """For a vendor's reader: the stream came to its end without the mark that says so."""


class Refused(Exception):
    """For a vendor's reader: the server says in its stream what went wrong. `status` is the HTTP
    status that it stands for, if any."""

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status_code = status


@dataclass(frozen=True, slots=True)
class Target:
    """Which server and model were called, and with which key, for messages."""

    place: str
    model: str
    key: str = ""
    """where its key comes from; empty without one"""


def fault_of(error: BaseException, target: Target) -> Fault:
    """Our error of what an SDK, the network or a vendor's module raised."""
    chain = list(_chain(error))
    for each in chain:
        if isinstance(each, SglError):
            return Fault(each)
    status, headers = _status(chain)
    words = _words(chain)
    if status is not None:
        codes = " ".join(code for each in chain if isinstance(code := getattr(each, "code", None), str))
        return _of_status(status, headers, words, f"{words} {codes}".lower(), target)
    names = {name for each in chain for name in _names_of(type(each))}
    if isinstance(error, Unended):
        return Fault(ConnectionFailed(f"{target.place} ended its answer before it was complete", hint="run it again"))
    if names & _TIMEOUTS:
        return Fault(RequestTimedOut(f"{target.place} did not answer in time"), may_retry="ConnectTimeout" in names)
    if names & _CONNECTION or any(isinstance(each, OSError) for each in chain):
        return Fault(ConnectionFailed(f"the connection to {target.place} failed: {words}", hint=IS_UP), True)
    if isinstance(error, Refused):
        return Fault(RequestFailed(f"{target.place} failed: {words}"))
    return Fault(RequestFailed(f"{target.place} answered what cannot be read: {type(error).__name__}: {words}"))


def _of_status(status: int, headers: Mapping[str, str], words: str, lower: str, target: Target) -> Fault:
    message = f"{target.place} says {status}: {words}"
    if status in (401, 403):
        what = f"the key from {target.key}" if target.key else "a request without a key"
        hint = f"set a valid key ({target.key})" if target.key else f"name a key for it: api_key=, or `%sgl key {target.place}`"
        return Fault(AuthenticationFailed(f"{target.place} refuses {what} ({status}): {words}", hint=hint))
    if status == 404:
        return Fault(ModelMissing(f"{target.place} does not have {target.model!r}, or not under this base_url ({words})"))
    if status == 413 or (status in (400, 422) and any(mark in lower for mark in _TOO_LONG)):
        return Fault(PromptTooLong(message, hint="shorten the prompt, or lower max_tokens"))
    if status == 402 or (status == 429 and any(mark in lower for mark in _NO_CREDIT)):
        return Fault(RateLimited(message, hint="the account has no credit left"))
    if status == 429:
        return Fault(RateLimited(message, hint="lower concurrency= or requests_per_minute="), True, retry_after(headers))
    if status in (408, 409, 425) or status >= 500:
        return Fault(RequestFailed(message), True, retry_after(headers))
    if status in (400, 422):
        return Fault(BadArgument(f"{target.place} refuses the request: {words}"))
    if 300 <= status < 400:
        return Fault(RequestFailed(message, hint="give the base_url that it redirects to"))
    return Fault(RequestFailed(message))


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen and len(seen) < 10:
        seen.add(id(error))
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _names_of(kind: type) -> set[str]:
    return {base.__name__ for base in kind.__mro__}


def _status(chain: list[BaseException]) -> tuple[int | None, Mapping[str, str]]:
    for error in chain:
        response: object = getattr(error, "response", None)
        for value in (getattr(error, "status_code", None), getattr(response, "status_code", None), getattr(error, "code", None)):
            if type(value) is int and 300 <= value < 600:
                headers = getattr(response, "headers", None)
                return value, headers if isinstance(headers, Mapping) else {}
    return None, {}


def _words(chain: list[BaseException]) -> str:
    """What the server says, on one line, without keys."""
    body: object = next(filter(None, (getattr(each, "body", None) for each in chain)), None)
    for _ in range(3):
        if not isinstance(body, dict):
            break
        body = body.get("error") or body.get("message") or body.get("detail") or ""
    text = body if isinstance(body, str) and body else str(chain[-1]) or str(chain[0]) or type(chain[0]).__name__
    line = " ".join(redacted(text[:4000]).split())
    return line if len(line) <= MAX_WORDS else line[: MAX_WORDS - 1] + "…"
