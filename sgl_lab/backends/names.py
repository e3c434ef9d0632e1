"""The names of backends, and how each is made: what `%sgl backend NAME`, `-b NAME` and
`backend="NAME"` stand for.

A name is `NAME`, `NAME:MODEL`, `NAME@URL` or `NAME:MODEL@URL`; an address alone is a server that
speaks OpenAI's protocol. A constructor and its SDK are imported when the name is used.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import NamedTuple
from urllib.parse import urlsplit

from ..contracts.conversation import AnyBackend
from ..contracts.errors import BadArgument
from ..contracts.near import did_you_mean

LOCAL = "local"


@dataclass(frozen=True, slots=True)
class Known:
    """One name.

    maker    module of this folder and the class in it, as `openai:OpenAI`
    about    what it is, in a few words
    model    the model without `:MODEL`; empty if one must be given, or the server says it
    keys     environment variables that may hold its key
    sdk      the module that has to be importable; empty for none
    extra    the extra of this package that installs it
    url      the address without `@URL`; None if it has none, empty if one must be given
    """

    maker: str
    about: str
    model: str = ""
    keys: tuple[str, ...] = ()
    sdk: str = ""
    extra: str = ""
    url: str | None = None
    needs_model: bool = False

    @property
    def is_installed(self) -> bool:
        if not self.sdk:
            return True
        try:
            return find_spec(self.sdk) is not None
        except ModuleNotFoundError:  # the package that would contain it
            return False

    def keys_set(self) -> tuple[str, ...]:
        """Names of the variables that hold a key. The keys are not read."""
        return tuple(name for name in self.keys if name in os.environ)

    @property
    def install(self) -> str:
        """The command that installs what is missing."""
        return f"pip install 'sgl-lab[{self.extra}]'"


KNOWN: dict[str, Known] = {
    LOCAL: Known("", "the engine in this kernel"),
    "openai": Known("openai:OpenAI", "OpenAI, or a server with its protocol", "gpt-4.1-mini", ("OPENAI_API_KEY",), "openai", "openai"),
    "anthropic": Known("anthropic:Anthropic", "Anthropic", "claude-sonnet-5", ("ANTHROPIC_API_KEY",), "anthropic", "anthropic"),
    "gemini": Known(
        "gemini:Gemini", "Google AI Studio", "gemini-3.5-flash", ("GEMINI_API_KEY", "GOOGLE_API_KEY"), "google.genai", "gemini"
    ),
    "vertexai": Known("gemini:VertexAI", "Google Vertex AI", "gemini-3.5-flash", ("GOOGLE_CLOUD_PROJECT",), "google.genai", "gemini"),
    "litellm": Known("litellm:LiteLLM", "what LiteLLM reaches", needs_model=True, sdk="litellm", extra="litellm"),
    "sglang": Known("sglang:RuntimeEndpoint", "an SGLang server, by its own protocol", url="http://127.0.0.1:30000"),
    "vllm": Known("openai:OpenAI", "a vLLM server", sdk="openai", extra="openai", url="http://127.0.0.1:8000"),
    "server": Known("openai:OpenAI", "a server with OpenAI's protocol: llama.cpp, TGI, Ollama, ...", sdk="openai", extra="openai", url=""),
    "scripted": Known("scripted:ScriptedConversation", "answers `ok`, without a model: to try a program"),
}
"""By name, in the order of the documentation."""


class Named(NamedTuple):
    """What a name says."""

    name: str
    model: str
    url: str

    @property
    def known(self) -> Known:
        return KNOWN[self.name]

    def __str__(self) -> str:
        return self.name + (f":{self.model}" if self.model else "") + (f"@{self.url}" if self.url else "")


_URL = re.compile(r"https?://\S+")


def parsed(text: str) -> Named:
    """BadArgument for a name that is not known, or that lacks a model or an address."""
    text = text.strip()
    if _URL.fullmatch(text):
        return Named("server", "", text.rstrip("/"))
    head, _, url = text.partition("@")
    name, _, model = head.partition(":")
    if _URL.fullmatch(f"{name}:{model}") or _URL.fullmatch(model):
        raise BadArgument(f"an address stands after @ in a backend's name, not {text!r:.80}", hint=f"write {name}@http://HOST:PORT")
    if name not in KNOWN:
        raise BadArgument(f"there is no backend {name!r:.80}", hint=did_you_mean(name, KNOWN))
    known = KNOWN[name]
    if url and not _URL.fullmatch(url):
        raise BadArgument(f"the address of a backend begins with http:// or https://, not {url!r:.80}")
    if url and known.url is None and not known.sdk:  # it is in this process
        raise BadArgument(f"{name} has no address", hint=f"write {name}")
    if not url and known.url == "":
        raise BadArgument(f"{name} needs an address", hint=f"write {name}@http://HOST:PORT")
    if not model and known.needs_model:
        raise BadArgument(f"{name} needs a model", hint=f"write {name}:PROVIDER/MODEL")
    return Named(name, model, url.rstrip("/"))


def make(named: Named, options: Mapping[str, object] | None = None) -> AnyBackend:
    """A new backend. BadArgument if its SDK is not installed; what its constructor raises, such as
    for a key that is not set.
    """
    known = named.known
    if not known.maker:
        raise BadArgument("the engine in this kernel is not made by its name", hint="take the backend of sgl.Lab()")
    if not known.is_installed:
        raise BadArgument(f"{named.name} needs the package {known.sdk!r}, which is not installed", hint=known.install)
    module, _, attribute = known.maker.partition(":")
    try:
        maker: Callable[..., AnyBackend] = getattr(import_module(f".{module}", __package__), attribute)
    except ModuleNotFoundError as error:
        if error.name != f"{__package__}.{module}":
            raise
        raise BadArgument(f"this version has no backend {named.name} yet") from None
    model, url = named.model or known.model, named.url or known.url
    given: dict[str, object] = dict(options or {})
    if named.name == "scripted":
        return maker(name=model or "scripted-chat", **given)
    if module == "sglang":
        return maker(url, **given)
    if url:
        given["base_url"] = url if urlsplit(url).path else f"{url}/v1" if module == "openai" else url
    return maker(model, **given) if model else maker(**given)
