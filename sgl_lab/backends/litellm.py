"""What LiteLLM reaches, through `litellm.completion`: a request and its answer have the form of
OpenAI's chat completions.

LiteLLM knows what its models can do and what they cost, and sends a request by itself: its keys
come from the environment, by the names that it has for them. It cannot be installed beside this
package's own requirements as they are pinned: `make litellm` sets an environment up for it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol, Unpack, cast

from ..contracts.capabilities import Capabilities, Prices
from ..contracts.conversation import ChatJob, ChatOutput
from ..contracts.errors import AuthenticationFailed, BadArgument, ConnectionFailed
from ..contracts.params import MAX_TOP_LOGPROBS, Constraint
from ..contracts.port import ModelCard
from ..lang.chat_template import ChatTemplate
from .openai import chat
from .openai.servers import Server
from .openai.strict import strict
from .remote import Call, Deadlines, Endpoint, Fault, Key, Options, Provider, RemoteBackend, find_endpoint, need

if TYPE_CHECKING:
    from openai.types.chat import ChatCompletionChunk

PROVIDER = Provider("litellm")
_SAMPLING = ("max_tokens", "temperature", "top_p", "stop", "frequency_penalty", "presence_penalty", "seed", "logit_bias")
_MILLION = 1_000_000


class Module(Protocol):
    """What is used of LiteLLM, which is installed beside this package only where its requirements
    allow it.
    """

    def completion(self, **request: object) -> Iterable[ChatCompletionChunk]: ...

    def get_model_info(self, model: str) -> Mapping[str, float | None]: ...

    def get_llm_provider(self, model: str, *, api_base: str | None) -> tuple[str, str, str | None, str | None]: ...

    def validate_environment(self, model: str) -> Mapping[str, list[str]]: ...

    def get_supported_openai_params(self, model: str, *, custom_llm_provider: str) -> list[str] | None: ...

    def supports_response_schema(self, model: str) -> bool: ...

    def supports_vision(self, model: str) -> bool: ...

    def supports_prompt_caching(self, model: str) -> bool: ...


class LiteLLM(RemoteBackend):
    """A model by LiteLLM's name for it: `LiteLLM("groq/llama-3.3-70b-versatile")`.

    api_key, base_url  of a server of your own; without them LiteLLM asks the model's provider, with
                       the key that it finds in the environment (GROQ_API_KEY ...)
    default_headers    more headers of each request
    options            those of every remote backend (`Options`); prices are LiteLLM's if they are
                       not given

    AuthenticationFailed names the variables that a provider's key may be in; BadArgument, a model
    that LiteLLM cannot place.
    """

    def __init__(
        self,
        model_name: str,
        chat_template: ChatTemplate | None = None,
        api_key: str | Key | None = None,
        organization: str | None = None,
        base_url: str | None = None,
        timeout: float | None = None,
        max_retries: int | None = None,
        default_headers: Mapping[str, str] | None = None,
        **options: Unpack[Options],
    ) -> None:
        os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # it would fetch its table when it is imported
        module = need("litellm", "litellm", "LiteLLM")
        vars(module)["suppress_debug_info"] = True
        self._litellm = cast(Module, module)
        if timeout is not None:
            options.setdefault("deadlines", Deadlines(total=timeout))
        if max_retries is not None:
            options.setdefault("retries", min(max_retries, 2))
        provider = self._provider(model_name, base_url)
        if base_url is not None:
            server = find_endpoint(PROVIDER, base_url, api_key=api_key)
        else:
            server = self._own_server(model_name, provider, api_key)
        info: Mapping[str, float | None] = {}
        with suppress(Exception):  # it does not know the model: then neither its prices nor its limits
            info = self._litellm.get_model_info(model_name)
        if base_url is None and "prices" not in options and (prices := _prices(info)) is not None:
            options["prices"] = prices
        can = _capabilities(self._litellm, model_name, provider)
        self._server = Server("litellm", can, wraps=True, is_strict=True)
        self._organization, self._headers = organization, dict(default_headers or {})
        context = int(info.get("max_input_tokens") or 1 << 20)
        super().__init__(server, ModelCard(model_name, (server.place, model_name), context, 0, server.place, "unknown", can), options)
        self.own_template = chat_template

    def _provider(self, model: str, base_url: str | None) -> str:
        try:
            _, provider, _, _ = self._litellm.get_llm_provider(model, api_base=base_url)
        except Exception:
            raise BadArgument(
                f"LiteLLM has no provider for {model!r:.80}", hint="write PROVIDER/MODEL, such as groq/llama-3.3-70b"
            ) from None
        return str(provider)

    def _own_server(self, model: str, provider: str, api_key: str | Key | None) -> Endpoint:
        """The provider's, whose address LiteLLM knows. Its name stands for it in messages and limits."""
        url = f"https://{provider.replace('_', '-')}"
        if api_key is not None:
            return find_endpoint(PROVIDER, url, api_key=api_key)
        missing = self._litellm.validate_environment(model)["missing_keys"]
        if missing:
            raise AuthenticationFailed(f"no key for {provider}", hint=f"set {' and '.join(missing)} in the environment")
        return Endpoint(PROVIDER, url)

    def _prepare(self, constraint: Constraint) -> None:
        strict(chat.wrapped(json.loads(constraint.source))[0], self._card.name)

    def _converse(self, job: ChatJob, call: Call) -> tuple[ChatOutput, ...]:
        request = chat.request(job, self._card.name, self._server) | {"timeout": min(self.deadlines.idle, max(1.0, call.remaining_s))}
        request |= {"num_retries": 0, "max_retries": 0, "drop_params": False}
        if self._organization:
            request["organization"] = self._organization
        if self._headers:
            request["extra_headers"] = self._headers
        if self.server.key is not None:
            request["api_key"] = next(iter(self.server.key.headers().values())).removeprefix("Bearer ")
        if "." in self.server.place or ":" in self.server.place:
            request |= {"api_base": self.server.base_url} | ({} if self.server.key else {"api_key": "none"})
        stream = self._litellm.completion(**request)
        return chat.read(stream, job, call, self._server)

    def _fault(self, error: Exception, call: Call) -> Fault:
        """LiteLLM gives a connection that failed the status of a server that did."""
        if type(error).__name__ == "APIConnectionError":
            text = str(error).splitlines()[0]
            return Fault(ConnectionFailed(f"the connection to {self.server.place} failed: {text:.200}", hint="is it up?"), may_retry=True)
        return super()._fault(error, call)


def _prices(info: Mapping[str, float | None]) -> Prices | None:
    """LiteLLM's, of a million tokens; None where it has none."""
    prompt, completion = info.get("input_cost_per_token"), info.get("output_cost_per_token")
    if prompt is None or completion is None:
        return None
    cached, written = info.get("cache_read_input_token_cost"), info.get("cache_creation_input_token_cost")
    return Prices(
        prompt * _MILLION,
        completion * _MILLION,
        None if cached is None else cached * _MILLION,
        written=None if written is None else written * _MILLION,
    )


def _capabilities(litellm: Module, model: str, provider: str) -> Capabilities:
    """As LiteLLM tells them. What it does not tell is not there."""
    taken = set(litellm.get_supported_openai_params(model, custom_llm_provider=provider) or ())

    def has(supports: Callable[[str], bool]) -> bool:
        try:
            return supports(model)
        except Exception:  # of a model that it does not know
            return False

    has_schemas = "response_format" in taken and has(litellm.supports_response_schema)
    return Capabilities(
        sampling=tuple(name for name in _SAMPLING if name in taken or (name == "max_tokens" and "max_completion_tokens" in taken)),
        stops=4 if "stop" in taken else 0,
        samples=8 if "n" in taken else 1,
        constraints=("json_schema",) if has_schemas else (),
        choices="generated" if has_schemas else "",
        logprobs="logprobs" in taken,
        top_logprobs=MAX_TOP_LOGPROBS if "top_logprobs" in taken else 0,
        images=has(litellm.supports_vision),
        tools="tools" in taken and "tool_choice" in taken,
        cached_counts=has(litellm.supports_prompt_caching),
        costly_calls=True,
    )
