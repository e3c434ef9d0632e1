"""Claude, through Anthropic's own SDK."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Unpack

from ...contracts.conversation import ChatJob, ChatOutput, DecisionJob
from ...contracts.errors import BadArgument
from ...contracts.params import Constraint
from ...contracts.port import ModelCard
from ..remote import PLACEHOLDER, Call, Fault, Key, KeyOfOthers, Options, Provider, Refused, RemoteBackend, find_endpoint, need
from . import schemas
from .answer import Answer
from .leading import Leaders, noticed, prefixes_of
from .models import capabilities_of, claude_of
from .request import Settings, request_of

if TYPE_CHECKING:
    import anthropic
    from anthropic import Stream
    from anthropic.types import RawMessageStreamEvent

PROVIDER = Provider("anthropic", ("api.anthropic.com",), ("ANTHROPIC_API_KEY",), page="https://platform.claude.com/settings/keys")
BASE_URL = "https://api.anthropic.com"
EFFORTS = ("low", "medium", "high", "xhigh", "max")
_STATUS = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "api_error": 500,
    "timeout_error": 504,
    "overloaded_error": 529,
}
"""of an error that comes inside a stream"""


class Anthropic(RemoteBackend):
    """A Claude model: `Anthropic("claude-sonnet-5-5")`. The key comes from ANTHROPIC_API_KEY; see
    docs/backends.md for other ways.

    thinking         True lets the model think first. False, the default, has it not think, or as
                     little as it can
    effort           "low" to "max": how much work it puts into an answer; the API's default if it
                     is not given
    thinking_tokens  room for thoughts, in tokens. They count as the answer's, so it is added to
                     `max_tokens` where the model thinks
    options          those of every remote backend (`Options`)

    The API takes no temperature, top_p and top_k. Its models' calls of tools are JSON schemas where
    a model refuses to be forced to a call. Prefixes that the program's forks and batches share are
    marked for the API's cache; of requests that start together with one, the first goes ahead until
    its answer begins. BadArgument, AuthenticationFailed.
    """

    def __init__(
        self,
        model_name: str,
        *,
        api_key: str | Key | None = None,
        base_url: str | None = None,
        thinking: bool = False,
        effort: str | None = None,
        thinking_tokens: int = 8_192,
        **options: Unpack[Options],
    ) -> None:
        if effort is not None and effort not in EFFORTS:
            raise BadArgument(f"effort must be one of {', '.join(EFFORTS)}, not {effort!r}")
        if type(thinking_tokens) is not int or thinking_tokens < 0:
            raise BadArgument(f"thinking_tokens must be a whole number, 0 or more, not {thinking_tokens!r}")
        claude = claude_of(model_name)
        if thinking and not claude.thinking:
            raise BadArgument(f"whether {model_name} can think is not known", hint="leave out thinking=")
        thinks = thinking or claude.thinking == "always"
        self._settings = Settings(model_name, claude, thinks, effort, thinking_tokens)
        self._leaders = Leaders()
        need("anthropic", "anthropic", "Anthropic")
        endpoint = find_endpoint(PROVIDER, base_url or os.environ.get("ANTHROPIC_BASE_URL") or BASE_URL, api_key=api_key)
        if endpoint.key is not None and not endpoint.is_own:
            endpoint = replace(endpoint, key=KeyOfOthers(endpoint.key, "x-api-key"))
        card = ModelCard(model_name, (model_name,), claude.context, 0, "remote", "", capabilities_of(claude, thinks=thinks))
        super().__init__(endpoint, card, options)

    @cached_property
    def _sdk(self) -> anthropic.Anthropic:
        sdk: anthropic.Anthropic = need("anthropic", "anthropic", "Anthropic").Anthropic(
            api_key=PLACEHOLDER, base_url=self.server.base_url, http_client=self.client, max_retries=0
        )
        return sdk

    def _prepare(self, constraint: Constraint) -> None:
        schemas.enforced(constraint.source)

    def _refuse(self, job: ChatJob | DecisionJob) -> None:
        if isinstance(job, ChatJob):
            request_of(job, self._settings)

    def _about(self) -> dict[str, object]:
        settings = self._settings
        return super()._about() | {"thinks": settings.thinks, "effort": settings.effort, "thinking_tokens": settings.thinking_tokens}

    def _most(self, job: ChatJob | DecisionJob) -> float | None:
        if isinstance(job, ChatJob):
            job = replace(job, params=replace(job.params, max_tokens=request_of(job, self._settings).request["max_tokens"]))
        return super()._most(job)

    def _converse(self, job: ChatJob, call: Call) -> tuple[ChatOutput, ...]:
        question = request_of(job, self._settings)
        create: Callable[..., Stream[RawMessageStreamEvent]] = self._sdk.messages.create
        with (
            self._leaders.turn(prefixes_of(question.request), call) as began,
            call.closing(create(**question.request, stream=True)) as stream,
        ):
            return (Answer(job, question, call.delta).read(noticed(stream, began)),)

    def _fault(self, error: Exception, call: Call) -> Fault:
        """An error inside a stream has the status of its response, 200, and says what it is by its type."""
        named = getattr(error, "type", None)
        if getattr(error, "status_code", 0) == 200 and named in _STATUS:
            error = Refused(str(getattr(error, "api_message", None) or error), _STATUS[named])
        return super()._fault(error, call)
