"""Which path is answered by what."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from starlette.routing import Route, Router
from starlette.types import Receive, Scope, Send

from . import anthropic, completions, decisions, native, openai_chat, responses
from .app import DoorState, Guarded, Posted
from .errors import Failure, Refused
from .graphs import GraphPath
from .paths import InfoPath, Paths

if TYPE_CHECKING:
    from ..session import Lab


def application(lab: Lab, state: DoorState, paths: Paths, token: str, origins: frozenset[str]) -> Guarded:
    router = Router(routes=list(_routes(lab, state, paths)), default=_nowhere, redirect_slashes=False)
    return Guarded(router, token, origins)


def _routes(lab: Lab, state: DoorState, paths: Paths) -> Iterator[Route]:
    for path, label, read in (
        ("/v1/chat/completions", "chat", openai_chat.read),
        ("/v1/completions", "completion", completions.read),
        ("/v1/responses", "response", responses.read),
        ("/v1/decisions", "decision", decisions.read),
        ("/v1/systemone", "decision", decisions.read_systemone),
        ("/generate", "generate", native.read),
    ):
        yield Route(path, Posted(state, label, read))
    yield Route("/v1/messages", Posted(state, "message", anthropic.read, Failure.anthropic))
    yield Route("/v1/graph", GraphPath(lab, state))
    either, get, post = ("GET", "POST"), ("GET",), ("POST",)
    for names, methods, describe in (
        (("/health",), get, paths.health),
        (("/health_generate",), get, paths.health_generate),
        (("/v1/models",), get, paths.models),
        (("/get_model_info", "/model_info"), get, paths.model_info),
        (("/get_server_info", "/server_info"), get, paths.server_info),
        (("/metrics",), get, paths.metrics),
        (("/flush_cache",), either, paths.flush),
        (("/abort_request",), post, paths.abort),
        (("/tokenize", "/v1/tokenize"), post, paths.tokenize),
        (("/v1/messages/count_tokens",), post, paths.count_tokens),
        (("/detokenize", "/v1/detokenize"), post, paths.detokenize),
    ):
        for name in names:
            yield Route(name, InfoPath(state, methods, describe))


async def _nowhere(scope: Scope, receive: Receive, send: Send) -> None:
    raise Refused(404, f"there is no path {scope['path']!r:.80} here", hint="GET /v1/models says what is served")
