"""What each server that speaks OpenAI's API can do, as data. Sources: the vendors' own references,
and the servers' source."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from ...contracts.capabilities import Capabilities
from ...contracts.params import MAX_N, MAX_STOPS, MAX_TOP_LOGPROBS

CHAT, RESPONSES, COMPLETIONS = "chat", "responses", "completions"
APIS = (CHAT, RESPONSES, COMPLETIONS)
COMPLETES = ("gpt-3.5-turbo-instruct", "babbage-002", "davinci-002")
"""names of OpenAI's models that complete plain text and have no chat, without the date of a version"""

_PLAIN = ("max_tokens", "temperature", "top_p", "stop", "frequency_penalty", "presence_penalty", "seed", "logit_bias")


@dataclass(frozen=True)
class Server:
    """A kind of server: what its chat and completions take, and what they are called there."""

    name: str
    can: Capabilities
    """of a chat; completions take plain text as well"""
    max_tokens: str = "max_tokens"
    names: Mapping[str, str] = field(default_factory=dict)
    """parameters that the API does not have, and their names here"""
    constraints: Mapping[str, str] = field(default_factory=dict)
    """where a constraint that is no JSON schema stands in a request"""
    to_continue: Mapping[str, bool] = field(default_factory=dict)
    """what a request says so that the answer goes on with the last message"""
    wraps: bool = False
    """whether a schema's root has to be an object"""
    is_strict: bool = False
    """whether a schema has to be of the kind that OpenAI calls strict"""
    holds_strict_calls: bool = False
    """whether it holds a call to its tool's schema only if the tool is called strict"""
    temperature_is_sent: bool = False
    """whether its default is another than 1"""
    counts_streams: bool = True
    """whether a stream can be asked for its counts"""
    decides: str = ""
    """path of its endpoint for decisions, if that is known: decisions or systemone"""


_EXTRA = {
    name: name for name in ("top_k", "min_p", "repetition_penalty", "min_tokens", "stop_token_ids", "ignore_eos", "skip_special_tokens")
}

OPENAI = Server(
    "openai",
    Capabilities(sampling=_PLAIN, stops=4, samples=128, logprobs=True, top_logprobs=20, cached_counts=True),
    max_tokens="max_completion_tokens",
    wraps=True,
    is_strict=True,
)
_SERVED = Capabilities(
    sampling=(*_PLAIN, *_EXTRA),
    continues=True,
    stops=MAX_STOPS,
    samples=MAX_N,
    constraints=("regex", "json_schema"),
    logprobs=True,
    top_logprobs=MAX_TOP_LOGPROBS,
    images=True,
    tools=True,
    cached_counts=True,
)
_CONTINUED = {"continue_final_message": True, "add_generation_prompt": False}

SERVERS = {
    "vllm": Server(
        "vllm",
        _SERVED,
        names=_EXTRA,
        constraints={"regex": "structured_outputs"},
        to_continue=_CONTINUED,
        holds_strict_calls=True,
        temperature_is_sent=True,
    ),
    "sglang": Server(
        "sglang",
        replace(_SERVED, sampling=(*_SERVED.sampling, "stop_regex")),
        names=_EXTRA | {"stop_regex": "stop_regex"},
        constraints={"regex": "regex"},
        to_continue={"continue_final_message": True},
        temperature_is_sent=True,
    ),
    "sgl_lab": Server(
        "sgl_lab",
        replace(_SERVED, sampling=(*_SERVED.sampling, "stop_regex")),
        names=_EXTRA | {"stop_regex": "stop_regex"},
        constraints={"regex": "regex"},
        to_continue={"continue_final_message": True, "add_generation_prompt": False},
        temperature_is_sent=True,
    ),
    "llama.cpp": Server(
        "llama.cpp",
        replace(
            _SERVED,
            sampling=(*_PLAIN, "top_k", "min_p", "repetition_penalty", "ignore_eos"),
            constraints=("json_schema",),
            samples=1,
            tools=False,  # it holds no model to a call whose template knows of none; to a schema it does
        ),
        names={"top_k": "top_k", "min_p": "min_p", "repetition_penalty": "repeat_penalty", "ignore_eos": "ignore_eos"},
        temperature_is_sent=True,
    ),
    "tgi": Server(
        "tgi",
        Capabilities(
            sampling=("max_tokens", "temperature", "top_p", "stop", "frequency_penalty", "presence_penalty", "seed"),
            stops=4,
            constraints=("regex", "json_schema"),
            logprobs=True,
            top_logprobs=5,
            images=True,
            tools=True,
        ),
        constraints={"regex": "response_format"},
    ),
    "ollama": Server(
        "ollama",
        Capabilities(
            sampling=("max_tokens", "temperature", "top_p", "stop", "frequency_penalty", "presence_penalty", "seed"),
            stops=MAX_STOPS,
            constraints=("json_schema",),
            images=True,
            tools=True,
        ),
        temperature_is_sent=True,
    ),
    "transformers": Server(
        "transformers",
        Capabilities(
            # It ignores stops, so its answers are cut here. It holds no model to a call.
            sampling=("max_tokens", "temperature", "top_p", "stop", "frequency_penalty", "seed", "logit_bias"),
            stops=MAX_STOPS,
        ),
        temperature_is_sent=True,
        counts_streams=False,
    ),
    "other": Server("other", Capabilities(sampling=("max_tokens", "temperature", "top_p", "stop"), stops=4), temperature_is_sent=True),
}
"""By the name that `server=` takes. Where it is not given, `backend.py` asks the server who it is."""


def openai_model(can: frozenset[str], model: str, effort: str | None) -> Server:
    """OpenAI's own, as far as this model goes. `can` is what the table of prices knows of it
    (`prices.CAN`)."""
    what = OPENAI.can
    constraints = ("json_schema",) if "schema" in can else ()
    what = replace(what, constraints=constraints, images="images" in can, tools="tools" in can)
    if "thinks" in can and not model.endswith("chat-latest") and not ("none_effort" in can and effort == "none"):
        # A model that thinks takes none of these, at any value, and no stop.
        what = replace(what, sampling=("max_tokens", "seed"), stops=0, logprobs=False, top_logprobs=0, samples=8)
    return replace(OPENAI, can=what)


def capabilities(server: Server, api: str) -> Capabilities:
    """Of a server through one of its APIs. Choices follow from the rest: decided, else generated
    under a constraint, else by the likeliest first tokens, else not at all.
    """
    can = server.can
    if api == RESPONSES:
        sampling = tuple(name for name in can.sampling if name in ("max_tokens", "temperature", "top_p"))
        can = replace(
            can,
            sampling=sampling,
            stops=0,
            samples=1,
            continues=False,
            constraints=tuple(kind for kind in can.constraints if kind == "json_schema"),
        )
    elif api == COMPLETIONS:
        can = replace(can, plain_text=True, continues=False, images=False, tools=False)
        if server.name in ("openai", "tgi", "ollama", "transformers", "other"):
            can = replace(can, constraints=(), top_logprobs=min(can.top_logprobs, 5))
    if server.decides and api != COMPLETIONS:
        return replace(can, choices="decided")
    if can.constraints:
        return replace(can, choices="generated")
    return replace(can, choices="first token" if can.top_logprobs > 1 and api != RESPONSES else "")
