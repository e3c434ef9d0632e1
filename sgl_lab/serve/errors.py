"""Errors as the APIs spell them: a status, and an object with one message."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field

from ..contracts.errors import (
    BackendUnsupported,
    BadArgument,
    CacheFull,
    EngineStopped,
    ModelMissing,
    PromptTooLong,
    SglError,
    Stopped,
)

_log = logging.getLogger(__name__)


class Refused(SglError):
    """The door does not take a request as it is: `status` says why, `headers` go with the answer."""

    def __init__(self, status: int, message: str, *, hint: str = "", headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message, hint=hint)
        self.status = status
        self.headers = dict(headers or {})


@dataclass(frozen=True, slots=True)
class Failure:
    """An error before it is spelled."""

    status: int
    kind: str
    """as OpenAI names it"""
    code: str | None
    message: str
    headers: Mapping[str, str] = field(default_factory=dict)

    def openai(self) -> dict[str, object]:
        """For OpenAI's and SGLang's paths."""
        return {"error": {"message": self.message, "type": self.kind, "param": None, "code": self.code}}

    def anthropic(self) -> dict[str, object]:
        return {"type": "error", "error": {"type": _ANTHROPIC.get(self.status, "api_error"), "message": self.message}}


_KINDS = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}
_ANTHROPIC = _KINDS | {400: "invalid_request_error", 405: "invalid_request_error", 408: "timeout_error", 413: "request_too_large"}
_ANTHROPIC |= {503: "overloaded_error"}


def failure_of(error: BaseException) -> Failure:
    """What a client reads of `error`. Only our own errors are quoted."""
    match error:
        case Refused(status=status, headers=headers):
            kind = _KINDS.get(status, "invalid_request_error" if status < 500 else "server_error")
            return Failure(status, kind, "invalid_api_key" if status == 401 else None, str(error), headers)
        case ModelMissing():
            return Failure(404, "not_found_error", "model_not_found", str(error))
        case PromptTooLong():
            return Failure(400, "invalid_request_error", "context_length_exceeded", str(error))
        case BackendUnsupported():
            return Failure(400, "invalid_request_error", "unsupported", str(error))
        case BadArgument() | CacheFull():
            return Failure(400, "invalid_request_error", None, str(error))
        case EngineStopped():
            return Failure(503, "server_error", "engine_stopped", str(error), {"Retry-After": "5"})
        case Stopped():
            return Failure(503, "server_error", "stopped", str(error))
        case SglError():
            return Failure(500, "server_error", None, str(error))
        case _:
            _log.error("a request to the door failed", exc_info=error)
            return Failure(500, "server_error", None, f"the door failed: {type(error).__name__}")
