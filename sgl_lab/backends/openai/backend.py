"""`OpenAI`: a backend on OpenAI's API, or on a server that speaks it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Unpack
from urllib.parse import urlsplit

from ...contracts.capabilities import Capabilities
from ...contracts.conversation import ChatJob, ChatOutput, DecisionJob, DecisionOutput, ImagePart
from ...contracts.errors import BackendUnsupported, BadArgument, ModelMissing
from ...contracts.near import nearest
from ...contracts.params import Constraint
from ...contracts.port import ModelCard
from ...lang.chat_template import ChatTemplate
from ..remote import PLACEHOLDER, Call, Deadlines, Fault, Key, Options, Provider, RemoteBackend, find_endpoint, need
from ..remote.prices import Listed, find_prices, listed_names
from . import chat, completions, decisions, first_token, responses
from .chat import Body
from .servers import APIS, CHAT, COMPLETES, COMPLETIONS, RESPONSES, SERVERS, Server, capabilities, openai_model
from .strict import strict

if TYPE_CHECKING:
    import httpx2
    import openai
    from openai import Stream
    from openai.types import Completion, Decision
    from openai.types.chat import ChatCompletionChunk
    from openai.types.responses import ResponseStreamEvent

PROVIDER = Provider("openai", ("api.openai.com", ".api.openai.com"), ("OPENAI_API_KEY",), page="https://platform.openai.com/api-keys")
AZURE = Provider(
    "azure",
    (".openai.azure.com", ".cognitiveservices.azure.com", ".services.ai.azure.com"),
    ("AZURE_OPENAI_API_KEY",),
    header="api-key",
    prefix="",
)
OWN_URL = "https://api.openai.com/v1"
DECIDE = frozenset({"gpt-6-luna"})
"""models that OpenAI's /v1/decisions takes"""
_OWNERS = {"vllm": "vllm", "sglang": "sglang", "llamacpp": "llama.cpp", "library": "ollama", "sgl_lab": "sgl_lab"}
_BLACK = (
    "data:image/png;base64,"
    "iVBORw0KGgoAAAANSUhEUgAAAEAAAABACAAAAACPAi4CAAAAG0lEQVR42u3BgQAAAADDoPlT3+AEVQEAAAB8AxBAAAG9PLePAAAAAElFTkSuQmCC"
)
"""a picture of 64 x 64"""
_NAMES_MODELS = {"vllm", "sgl_lab", "ollama"}
"""servers that refuse a model which they do not list"""


@dataclass(frozen=True)
class _Found:
    """What a server says of itself."""

    kind: str
    model: str
    context: int | None = None
    decides: str = ""
    sees: bool = True
    """whether the model may read images; False if the server says that it does not"""


class OpenAI(RemoteBackend):
    """A model behind OpenAI's API, or behind a server that speaks it.

    model_name        such as "gpt-4o"; "default" is the model that a server of your own serves
    api               chat, responses or completions (which take plain text). None: chat, or what a
                      model has instead of it
    base_url          of a server: vLLM, SGLang, llama.cpp, TGI, Ollama, transformers, this
                      project's own ("http://127.0.0.1:8000/v1"). It is asked for its models at
                      once. None is OpenAI's, or OPENAI_BASE_URL
    api_key           None takes OPENAI_API_KEY, what was entered, or a keyring entry; for another
                      server the key that is named for it
    server            which kind of server it is (`SERVERS`, or "openai" for a gateway to OpenAI's
                      models); None asks it
    capabilities      what the server can do, instead of what is known of its kind
    reasoning_effort  none, minimal, low, medium, high, xhigh: how long a model thinks that can
    extra_body        more fields of each request
    is_azure          an Azure deployment: azure_endpoint (or AZURE_OPENAI_ENDPOINT) is its server
    options           of all remote backends: deadlines, retries, concurrency, requests_per_minute,
                      budget, prices, cache, emit

    AuthenticationFailed without a key, ConnectionFailed for a server that is not up, ModelMissing
    for a model that it does not serve.
    """

    def __init__(
        self,
        model_name: str = "default",
        chat_template: ChatTemplate | None = None,
        is_azure: bool = False,
        *,
        api: str | None = None,
        base_url: str | None = None,
        api_key: str | Key | None = None,
        server: str | None = None,
        capabilities: Capabilities | None = None,
        is_chat_model: bool | None = None,
        reasoning_effort: str | None = None,
        extra_body: Mapping[str, object] | None = None,
        organization: str | None = None,
        project: str | None = None,
        default_headers: Mapping[str, str] | None = None,
        azure_endpoint: str | None = None,
        api_version: str | None = None,
        timeout: float | None = None,
        max_retries: int | None = None,
        **options: Unpack[Options],
    ) -> None:
        provider, url = _where(base_url, azure_endpoint, is_azure)
        endpoint = find_endpoint(provider, url, api_key=api_key)
        if not isinstance(model_name, str) or not model_name.strip():
            raise BadArgument(f"model_name must be the name of a model, not {model_name!r}", hint='such as "gpt-4o-mini"')
        if api is None and is_chat_model is not None:
            api = CHAT if is_chat_model else COMPLETIONS
        if api is not None and api not in APIS:
            raise BadArgument(f"api must be {', '.join(APIS)}, not {api!r}")
        if server is not None and server not in SERVERS and server != "openai":
            raise BadArgument(f"server must be one of {', '.join(SERVERS)}, not {server!r}")
        if timeout is not None:
            options.setdefault("deadlines", Deadlines(total=timeout))
        if max_retries is not None:
            options.setdefault("retries", min(max_retries, 2))
        self._sdk_module = need("openai", "openai", "OpenAI")
        self._identity = {"organization": organization, "project": project}
        self._headers = dict(default_headers or {})
        self._query = {"api-version": api_version} if api_version else {}
        self._effort = reasoning_effort
        self._extra = dict(extra_body or {})
        is_own = server == "openai" or (server is None and endpoint.is_own)
        found = _Found("openai", model_name)
        # What is asked before the card is there needs the client, and the client the server alone.
        bare = ModelCard(model_name, (endpoint.place, model_name), 1 << 20, 0, endpoint.place, "unknown", Capabilities())
        super().__init__(endpoint, bare, options)
        if not is_own:
            found = self._ask_who(model_name, server)
        listed = find_prices("openai", found.model) if is_own else None
        kind = self._kind(found, listed, is_own=is_own)
        only = COMPLETIONS if found.model.startswith(COMPLETES) else RESPONSES if listed and "responses_only" in listed.can else CHAT
        self.mode = api or only
        can = capabilities or _capabilities(kind, self.mode)
        self._server = kind if capabilities is None else replace(kind, can=can)
        context = found.context or (listed.context if listed else None) or 1 << 20
        self._be(replace(bare, name=found.model, namespace=(endpoint.place, found.model), context=context, capabilities=can), options)
        self.own_template = chat_template

    def _kind(self, found: _Found, listed: Listed | None, *, is_own: bool) -> Server:
        if not is_own:
            server = SERVERS[found.kind]
            can = server.can if found.sees else replace(server.can, images=False)
            return replace(server, decides=found.decides, can=can)
        # A model that the table does not know is taken for one of the newest kind, which thinks.
        known = listed.can if listed else frozenset({"images", "tools", "schema", "thinks"})
        server = openai_model(known, found.model, self._effort)
        return replace(server, decides="decisions" if found.model in DECIDE else "")

    # ------------------------------------------------------------ asking the server who it is

    def _ask_who(self, model: str, server: str | None) -> _Found:
        """ConnectionFailed, AuthenticationFailed or ModelMissing; costs no token."""

        def ask(call: Call) -> tuple[list[Body], str, str]:
            response = self.client.get(f"{self.server.base_url}/models", headers=self._headers)
            if response.status_code in (401, 403) or response.status_code >= 500:
                response.raise_for_status()
            listed = _listed(response) if response.status_code == 200 else []
            kind = server or next((_OWNERS[owner] for each in listed if (owner := str(each.get("owned_by"))) in _OWNERS), "")
            decides = next((path for path in ("decisions", "systemone") if self._has(path, call)), "")
            if not kind:
                kind = "transformers" if decides == "systemone" and response.headers.get("server") == "uvicorn" else "other"
            return listed, kind, decides

        listed, kind, decides = self.answer_of(ask)
        if kind == "vllm" and decides == "systemone" and not self.answer_of(self._vllm_decides):
            decides = ""
        names = [str(each.get("id")) for each in listed]
        model = names[0] if model == "default" and names else model
        if kind in _NAMES_MODELS and names and not any(name == model or name.startswith(f"{model}:") for name in names):
            close = nearest(model, names)
            hint = f"did you mean {close!r}?" if close else f"it serves {', '.join(names[:5])}"
            raise ModelMissing(f"{self.server.place} does not serve {model!r}", hint=hint)
        about = next((each for each in listed if each.get("id") == model), {})
        sees = self.answer_of(self._vllm_sees) if kind == "vllm" else _sees(about)
        return _Found(kind, model, _context(about), decides, sees)

    def _has(self, path: str, call: Call) -> bool:
        """Whether there is such an endpoint: an empty question is malformed there, and unknown
        elsewhere. No token is spent."""
        response = self.client.post(f"{self.server.base_url}/{path}", json={}, headers=self._headers)
        return response.status_code in (400, 422)

    def _vllm_decides(self, call: Call) -> bool:
        """It has the endpoint for every model, and answers 501 for those that cannot decide, before
        it looks which one is asked.
        """
        body = decisions.systemone_request(DecisionJob("?", ("a", "b")), "-")
        return self.client.post(f"{self.server.base_url}/systemone", json=body, headers=self._headers).status_code != 501

    def _vllm_sees(self, call: Call) -> bool:
        """Its list of models does not say it: a model without images refuses to tokenize one."""
        image = {"type": "image_url", "image_url": {"url": _BLACK}}
        body = {"messages": [{"role": "user", "content": [image]}]}
        root = self.server.base_url.removesuffix("/v1")
        return self.client.post(f"{root}/tokenize", json=body, headers=self._headers).status_code != 400

    # ------------------------------------------------------------ jobs

    @cached_property
    def _sdk(self) -> openai.OpenAI:
        sdk: openai.OpenAI = self._sdk_module.OpenAI(
            api_key=PLACEHOLDER,
            base_url=self.server.base_url,
            http_client=self.client,
            max_retries=0,
            default_headers=self._headers,
            default_query=self._query,
            **self._identity,
        )
        return sdk

    def _converse(self, job: ChatJob, call: Call) -> tuple[ChatOutput, ...]:
        model, server, sdk = self._card.name, self._server, self._sdk
        if self.mode == RESPONSES:
            respond: Callable[..., Stream[ResponseStreamEvent]] = sdk.responses.create
            with call.closing(respond(**self._with_extras(responses.request(job, model, server)))) as events:
                return responses.read(events, job, call, server)
        if self.mode == COMPLETIONS:
            complete: Callable[..., Stream[Completion]] = sdk.completions.create
            with call.closing(complete(**self._with_extras(completions.request(job, model, server)))) as texts:
                return completions.read(texts, job, call)
        chat_on: Callable[..., Stream[ChatCompletionChunk]] = sdk.chat.completions.create
        with call.closing(chat_on(**self._with_extras(chat.request(job, model, server)))) as chunks:
            return chat.read(chunks, job, call, server)

    def _with_extras(self, body: Body) -> Body:
        if self._effort is not None:
            body |= {"reasoning": {"effort": self._effort}} if self.mode == RESPONSES else {"reasoning_effort": self._effort}
        own = body.get("extra_body")
        extra = (own if isinstance(own, dict) else {}) | self._extra
        if not self._server.counts_streams:
            body.pop("stream_options", None)
        return body | ({"extra_body": extra} if extra else {})

    def _decide(self, job: DecisionJob, call: Call) -> DecisionOutput:
        model, by = self._card.name, self._card.name
        if self._card.capabilities.choices == "first token":
            return first_token.read(self._converse(first_token.asked(job, self._card.capabilities.top_logprobs), call)[0], job, by)
        if self._server.decides == "decisions":
            decide: Callable[..., Decision] = self._sdk.decisions.create
            return decisions.read(decide(**decisions.request(job, model)), job, by)
        response = self.client.post(
            f"{self.server.base_url}/systemone", json=decisions.systemone_request(job, model), headers=self._headers
        )
        response.raise_for_status()
        return decisions.systemone_read(response.json(), job, by)

    def _refuse(self, job: ChatJob | DecisionJob) -> None:
        if isinstance(job, DecisionJob):
            decisions.check(job)
            if self._card.capabilities.choices == "first token":
                first_token.check(job, self._card.name)
            has_images = not isinstance(job.prompt, str) and any(isinstance(part, ImagePart) for turn in job.prompt for part in turn.parts)
            if has_images and self._server.decides == "systemone":
                raise BackendUnsupported(f"{self._card.name} decides about text only", hint="let a gen answer, with regex= or a stop")
        elif self.mode == COMPLETIONS and not isinstance(job.prompt, str):
            raise BackendUnsupported(f"{self._card.name} has no roles through completions", hint="leave the roles out, or take api='chat'")
        elif self.mode != COMPLETIONS and isinstance(job.prompt, str):
            raise self._card.capabilities.missing("plain_text", self._card.name)

    def _prepare(self, constraint: Constraint) -> None:
        if constraint.kind == "json_schema" and self._server.is_strict:
            strict(chat.wrapped(json.loads(constraint.source))[0], self._card.name)

    def _about(self) -> dict[str, object]:
        return super()._about() | {"effort": self._effort, "extra": self._extra, "server": self._server.name}

    def _fault(self, error: Exception, call: Call) -> Fault:
        fault = super()._fault(error, call)
        if isinstance(fault.error, ModelMissing) and self._server.name == "openai":
            close = nearest(self._card.name, listed_names("openai"))
            if close and close != self._card.name:
                return Fault(ModelMissing(fault.error.message, hint=f"did you mean {close!r}?"))
        return fault


_capabilities = capabilities


def _where(base_url: str | None, azure_endpoint: str | None, is_azure: bool) -> tuple[Provider, str]:
    if is_azure:
        url = base_url or azure_endpoint or os.environ.get("AZURE_OPENAI_ENDPOINT", "")
        if not url:
            raise BadArgument("an Azure deployment needs its server", hint="give azure_endpoint=, or set AZURE_OPENAI_ENDPOINT")
        url = url.rstrip("/")
        return AZURE, url if "/openai" in url else f"{url}/openai/v1"
    url = base_url or os.environ.get("OPENAI_BASE_URL", "").strip() or OWN_URL
    if isinstance(url, str) and "://" in url and urlsplit(url).path in ("", "/"):
        url = url.rstrip("/") + "/v1"  # an address alone
    return PROVIDER, url


def _listed(response: httpx2.Response) -> list[Body]:
    try:
        data = response.json().get("data")
    except (ValueError, AttributeError):
        return []
    return [each for each in data if isinstance(each, dict)] if isinstance(data, list) else []


def _sees(model: Mapping[str, object]) -> bool:
    """As llama.cpp says it."""
    architecture = model.get("architecture")
    takes = architecture.get("input_modalities") if isinstance(architecture, dict) else None
    return "image" in takes if isinstance(takes, list) else True


def _context(model: Mapping[str, object]) -> int | None:
    meta = model.get("meta")
    found = model.get("max_model_len") or (meta.get("n_ctx") or meta.get("n_ctx_train") if isinstance(meta, dict) else None)
    return found if type(found) is int and found > 0 else None
