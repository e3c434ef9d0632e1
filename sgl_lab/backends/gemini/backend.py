"""Gemini, through Google's own SDK: on AI Studio, and on Vertex AI."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Unpack

from ...contracts.conversation import ChatJob, ChatOutput, DecisionJob, DecisionOutput
from ...contracts.errors import AuthenticationFailed, BadArgument
from ...contracts.params import Constraint
from ...contracts.port import ModelCard
from ..remote import PLACEHOLDER, Call, Endpoint, Fault, Key, KeyOfOthers, Options, Provider, Refused, RemoteBackend, find_endpoint, need
from ..remote.prices import find_prices
from . import schemas
from .answer import Answer, decided
from .models import DECISION_MODEL, DECISION_PRICE, capabilities_of, model_of
from .request import Settings, max_output, question, request_of

if TYPE_CHECKING:
    from google import genai
    from google.auth.credentials import Credentials
    from google.genai.decisions import CreateDecisionResponse
    from google.genai.types import GenerateContentResponse

STUDIO = Provider(
    "gemini",
    ("generativelanguage.googleapis.com",),
    ("GEMINI_API_KEY", "GOOGLE_API_KEY"),
    "x-goog-api-key",
    "",
    "https://aistudio.google.com/apikey",
)
VERTEX = Provider("vertexai", (".googleapis.com",), page="https://console.cloud.google.com")
LEVELS = ("minimal", "low", "medium", "high", "xhigh")
SafetySettings = Mapping[str, str] | Sequence[Mapping[str, str]]
_SCOPE = "https://www.googleapis.com/auth/cloud-platform"


class _Google(RemoteBackend):
    """What both have in common."""

    _on_vertex = False

    def __init__(
        self,
        model_name: str,
        endpoint: Endpoint,
        thinking: int | str | None,
        thinking_tokens: int,
        decision_model: str | None,
        safety_settings: SafetySettings | None,
        options: Options,
    ) -> None:
        is_level = isinstance(thinking, str) and thinking in LEVELS
        if thinking is not None and not is_level and (type(thinking) is not int or thinking < 0):
            raise BadArgument(f"thinking must be a number of tokens, or one of {', '.join(LEVELS)}, not {thinking!r}")
        if type(thinking_tokens) is not int or thinking_tokens < 0:
            raise BadArgument(f"thinking_tokens must be a whole number, 0 or more, not {thinking_tokens!r}")
        model = model_of(model_name)
        self._settings = Settings(model_name, model, thinking, thinking_tokens, _listed(safety_settings))
        self._decision_model = decision_model
        can = capabilities_of(model, on_vertex=self._on_vertex, decides=decision_model is not None)
        super().__init__(endpoint, ModelCard(model_name, (model_name,), model.context, 0, "remote", "", can), options)

    @abstractmethod
    def _client(self) -> genai.Client: ...

    @cached_property
    def _sdk(self) -> genai.Client:
        return self._client()

    def _http_options(self) -> dict[str, object]:
        return {"base_url": self.server.base_url, "httpx_client": self.client}

    def _prepare(self, constraint: Constraint) -> None:
        schemas.enforced(constraint.source)

    def _refuse(self, job: ChatJob | DecisionJob) -> None:
        if isinstance(job, ChatJob):
            request_of(job, self._settings)
        else:
            question(job, self._decision_model or "")

    def _about(self) -> dict[str, object]:
        settings = self._settings
        return super()._about() | {
            "thinking": settings.thinking,
            "thinking_tokens": settings.thinking_tokens,
            "safety": settings.safety,
            "decision_model": self._decision_model,
        }

    def _most(self, job: ChatJob | DecisionJob) -> float | None:
        if isinstance(job, ChatJob):
            job = replace(job, params=replace(job.params, max_tokens=max_output(job.params.max_tokens, self._settings)))
        return super()._most(job)

    def _converse(self, job: ChatJob, call: Call) -> tuple[ChatOutput, ...]:
        request, answer = request_of(job, self._settings), Answer(job, call.delta)
        if job.params.n > 1:  # a stream has one candidate
            whole: Callable[..., GenerateContentResponse] = self._sdk.models.generate_content
            return answer.read([whole(**request)])
        stream: Callable[..., Iterator[GenerateContentResponse]] = self._sdk.models.generate_content_stream
        return answer.read(stream(**request))

    def _decide(self, job: DecisionJob, call: Call) -> DecisionOutput:
        request = question(job, self._decision_model or "")
        price = DECISION_PRICE if self._decision_model == DECISION_MODEL else None
        decide: Callable[..., CreateDecisionResponse] = self._sdk.decisions.create
        return decided(job, decide(**request), price)

    def _fault(self, error: Exception, call: Call) -> Fault:
        """A key that is not valid is a bad request here, by the API's own words."""
        words = str(error)
        if getattr(error, "code", None) == 400 and ("API_KEY_INVALID" in words or "API key not valid" in words):
            error = Refused(getattr(error, "message", None) or "API key not valid", 401)
        elif isinstance(message := getattr(error, "message", None), str) and type(getattr(error, "code", None)) is int:
            refused = Refused(message, error.code)  # type: ignore[attr-defined]
            refused.response = getattr(error, "response", None)  # type: ignore[attr-defined]
            error = refused
        return super()._fault(error, call)


class Gemini(_Google):
    """A Gemini model on AI Studio: `Gemini("gemini-3.8-flash")`. The key comes from GEMINI_API_KEY;
    see docs/backends.md for other ways.

    thinking         how much it thinks first: a level such as "low", or for a 2.5 model a budget in
                     tokens; by default as little as it can
    thinking_tokens  room for thoughts, in tokens. They count as the answer's, so it is added to
                     `max_tokens` where the model thinks
    decision_model   answers `select`, with probabilities, by the Decisions API; None lets the model
                     itself answer under a JSON schema. Other servers than Google's have it None by
                     default
    safety_settings  as the API has them: categories and thresholds
    options          those of every remote backend (`Options`)
    """

    def __init__(
        self,
        model_name: str,
        *,
        api_key: str | Key | None = None,
        base_url: str | None = None,
        thinking: int | str | None = None,
        thinking_tokens: int = 8_192,
        decision_model: str | None = "",
        safety_settings: SafetySettings | None = None,
        **options: Unpack[Options],
    ) -> None:
        need("google.genai", "gemini", "Gemini")
        base_url = base_url or os.environ.get("GOOGLE_GEMINI_BASE_URL") or f"https://{STUDIO.hosts[0]}"
        endpoint = find_endpoint(STUDIO, base_url, api_key=api_key)
        if endpoint.key is not None and not endpoint.is_own:
            endpoint = replace(endpoint, key=KeyOfOthers(endpoint.key, STUDIO.header))
        if decision_model == "":
            decision_model = DECISION_MODEL if endpoint.is_own else None
        super().__init__(model_name, endpoint, thinking, thinking_tokens, decision_model, safety_settings, options)

    def _client(self) -> genai.Client:
        client: genai.Client = need("google.genai", "gemini", "Gemini").Client(
            vertexai=False, api_key=PLACEHOLDER, http_options=self._http_options()
        )
        return client


class VertexAI(_Google):
    """A Gemini model on Vertex AI: `VertexAI("gemini-3.8-flash", project="my-project")`.

    project, location  of Google Cloud; from GOOGLE_CLOUD_PROJECT and GOOGLE_CLOUD_LOCATION (or
                       GCP_PROJECT_ID, GCP_LOCATION, as the original has them) if they are not
                       given; the location is "global" otherwise
    credentials        of google-auth; by default those of `gcloud auth application-default login`

    The rest is as of `Gemini`. A `select` is answered by the model itself, under a JSON schema.
    """

    _on_vertex = True

    def __init__(
        self,
        model_name: str,
        safety_settings: SafetySettings | None = None,
        *,
        project: str | None = None,
        location: str | None = None,
        credentials: Credentials | None = None,
        base_url: str | None = None,
        thinking: int | str | None = None,
        thinking_tokens: int = 8_192,
        **options: Unpack[Options],
    ) -> None:
        need("google.genai", "gemini", "VertexAI")
        self._project = project or os.environ.get("GOOGLE_CLOUD_PROJECT") or os.environ.get("GCP_PROJECT_ID") or ""
        self._location = location or os.environ.get("GOOGLE_CLOUD_LOCATION") or os.environ.get("GCP_LOCATION") or "global"
        if not self._project:
            raise BadArgument("VertexAI needs a project of Google Cloud", hint="give project=, or set GOOGLE_CLOUD_PROJECT")
        host = "aiplatform.googleapis.com" if self._location == "global" else f"{self._location}-aiplatform.googleapis.com"
        endpoint = find_endpoint(VERTEX, base_url or f"https://{host}", api_key=_token_of(credentials))
        if self._location == "global" and endpoint.is_own and (listed := find_prices(STUDIO.name, model_name)) is not None:
            options.setdefault("prices", listed.prices)  # a region may cost more
        super().__init__(model_name, endpoint, thinking, thinking_tokens, None, safety_settings, options)

    def _client(self) -> genai.Client:
        placeholder = need("google.oauth2.credentials", "gemini", "VertexAI").Credentials(token=PLACEHOLDER)
        client: genai.Client = need("google.genai", "gemini", "VertexAI").Client(
            vertexai=True, project=self._project, location=self._location, credentials=placeholder, http_options=self._http_options()
        )
        return client


def _token_of(credentials: Credentials | None) -> Key:
    """The credentials as a key: a token, renewed when it is due."""
    if credentials is None:
        auth = need("google.auth", "gemini", "VertexAI")
        try:
            credentials, _ = auth.default(scopes=[_SCOPE])
        except auth.exceptions.DefaultCredentialsError:
            hint = "run `gcloud auth application-default login`, or give credentials="
            raise AuthenticationFailed("no credentials for Google Cloud", hint=hint) from None

    def bearer() -> str:
        if not credentials.valid and not (credentials.token and credentials.expiry is None):
            credentials.refresh(need("google.auth.transport.requests", "gemini", "VertexAI").Request())
        return f"Bearer {credentials.token}"

    return Key(bearer, "authorization", "Google Cloud's credentials")


def _listed(settings: SafetySettings | None) -> tuple[tuple[str, str], ...]:
    """(category, threshold) of each."""
    if settings is None:
        return ()
    if isinstance(settings, Mapping):
        return tuple((_word(category), _word(threshold)) for category, threshold in settings.items())
    return tuple((_word(each["category"]), _word(each["threshold"])) for each in settings)


def _word(of_enum: object) -> str:
    return str(getattr(of_enum, "value", of_enum))
