"""The capabilities of a backend as data: one declaration for refusals, documentation and views.

An undeclared feature is refused, with a message from here, at the line of the program that uses it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

from .errors import BackendUnsupported
from .params import CONSTRAINTS, MAX_N, MAX_STOPS, MAX_TOP_LOGPROBS, Constraint, SamplingParams

Choices = Literal["", "scored", "decided", "first token", "generated"]
"""How a backend selects: by the log-probabilities of each choice's tokens, by a call of the
server's own, by the log-probabilities of an answer's first token, or by a constrained gen.
"""

SAMPLING = (
    *("max_tokens", "min_tokens", "temperature", "top_p", "top_k", "min_p", "seed", "stop", "stop_token_ids", "stop_regex", "ignore_eos"),
    *("frequency_penalty", "presence_penalty", "repetition_penalty", "logit_bias", "skip_special_tokens"),
)
"""The parameters of a request that a backend supports or not."""
_DEFAULTS = SamplingParams()


@dataclass(frozen=True, slots=True)
class Prices:
    """Prices per million tokens, in one currency."""

    prompt: float
    completion: float
    cached: float | None = None
    """None if a cached token costs the same as any other"""
    currency: str = "USD"
    written: float | None = None
    """of prompt tokens that a server puts into its cache at a price of their own; None where that
    costs nothing more"""


@dataclass(frozen=True, slots=True)
class Capabilities:
    """The capabilities of one backend with its model. Everything that is not listed is missing."""

    token_ids: bool = False
    plain_text: bool = False
    continues: bool = False
    chat_template: bool = False
    sampling: tuple[str, ...] = ()
    stops: int = 0
    samples: int = 1
    constraints: tuple[str, ...] = ()
    choices: Choices = ""
    logprobs: bool = False
    top_logprobs: int = 0
    prompt_logprobs: bool = False
    images: bool = False
    blocks: bool = False
    tools: bool = False
    warms: bool = False
    cached_counts: bool = False
    adapters: bool = False
    deterministic: bool = False
    costly_calls: bool = False
    prices: Prices | None = None

    def missing(self, name: str, by: str, asked_by: str = "", what: str = "") -> BackendUnsupported:
        """The error for a feature that the backend called `by` does not support."""
        about, most = ABOUT[name], getattr(self, name)
        asked_by = asked_by or about.asked_by
        if type(most) is int and most:
            message = f"{by} offers at most {most} {about.what}, {asked_by} asks for more"
        else:
            message = f"{by} offers no {what or about.what}, which {asked_by} asks for"
        return BackendUnsupported(message, hint=about.instead or f"leave out {asked_by}")

    def check(self, params: SamplingParams, by: str, *, is_tool_call: bool = False) -> None:
        """BackendUnsupported for the first parameter in `params` that the backend called `by` does
        not support.
        """
        for name in SAMPLING if len(self.sampling) < len(SAMPLING) else ():
            value = getattr(params, name)
            if name not in self.sampling and value != getattr(_DEFAULTS, name):
                raise self.missing("sampling", by, f"{name}={value!r:.40}", f"sampling parameter {name}")
        for name, n in (
            ("stops", len(params.stop) + len(params.stop_regex)),
            ("samples", params.n),
            ("logprobs", params.logprobs),
            ("top_logprobs", params.top_logprobs),
            ("prompt_logprobs", params.prompt_logprobs_from is not None),
            ("adapters", params.adapter is not None),
        ):
            if n > getattr(self, name):
                raise self.missing(name, by)
        constraint = params.constraint
        if constraint is not None and constraint.kind not in self.constraints and not (is_tool_call and self.tools):
            if is_tool_call:
                raise self.missing("tools", by)
            self.check_constraint(constraint, by)

    def check_constraint(self, constraint: Constraint, by: str) -> None:
        """BackendUnsupported if the backend called `by` supports none of its kind."""
        if constraint.kind not in self.constraints:
            raise self.missing("constraints", by, f"{constraint.kind}=", f"constraint of kind {constraint.kind}")

    def check_choices(self, by: str, *, is_default: bool) -> None:
        """BackendUnsupported for a select that the backend called `by` cannot make. `is_default`:
        with the method that needs no tokens.
        """
        if not self.choices or not (is_default or self.choices == "scored"):
            raise self.missing("choices" if is_default else "logprobs", by, "" if is_default else "choices_method=")


class About(NamedTuple):
    """A capability: what a backend with it has, what in a program requires it, and what to do
    without it.
    """

    what: str
    asked_by: str = ""
    instead: str = ""


ABOUT = {
    "token_ids": About("token ids", "a prompt or an answer as tokens", "s.messages() is what the backend is sent"),
    "plain_text": About("prompts without roles", "text outside roles", "write user(...) and assistant(gen(...))"),
    "continues": About("answers that a program begins", "text before a gen in its turn", "let the turn begin with the gen"),
    "chat_template": About("a chat template of the model's own"),
    "sampling": About("sampling parameters", "an argument of gen or run"),
    "stops": About("stop strings and patterns in one request", "stop="),
    "samples": About("samples of one prompt", "n="),
    "constraints": About("constraints on a text", "regex=, json_schema=, grammar=, dtype="),
    "choices": About("selects", "select or choices=", "let a gen answer, with regex= or a stop"),
    "logprobs": About("log-probabilities of an answer", "return_logprob="),
    "top_logprobs": About("likeliest alternatives of a token", "top_logprobs_num="),
    "prompt_logprobs": About("log-probabilities of a prompt", "logprob_start_len="),
    "images": About("images in a prompt", "an image", "a server whose model looks takes them by sgl.OpenAI(model, base_url=...)"),
    "blocks": About("embedded blocks in a prompt", "a block"),
    "tools": About("tool calls in the server's own form", "tools="),
    "warms": About("prefixes computed ahead", "cache()"),
    "cached_counts": About("counts of cached tokens"),
    "adapters": About("LoRA adapters of a request's own", "adapter="),
    "deterministic": About("the same tokens and bitwise the same log-probabilities, whatever is cached or runs beside"),
    "costly_calls": About("calls so dear that one serves several gens, as num_api_spec_tokens allows"),
    "prices": About("prices of tokens"),
}
"""By the name of the capability."""

TOKEN_LEVEL = Capabilities(
    token_ids=True,
    plain_text=True,
    continues=True,
    sampling=SAMPLING,
    stops=MAX_STOPS,
    samples=MAX_N,
    constraints=CONSTRAINTS,
    choices="scored",
    logprobs=True,
    top_logprobs=MAX_TOP_LOGPROBS,
    prompt_logprobs=True,
    blocks=True,
    warms=True,
    cached_counts=True,
)
"""Capabilities of every backend that takes token ids; its model determines the rest."""


def table(backends: Mapping[str, Capabilities]) -> str:
    """A Markdown table with a row per capability and a column per backend."""
    rows = [("what", "asked for by", *backends), ("---",) * (2 + len(backends))]
    for name, about in ABOUT.items():
        rows.append((about.what, about.asked_by, *(_cell(getattr(each, name)) for each in backends.values())))
    return "\n".join(f"| {' | '.join(row)} |".replace("|  |", "| |") for row in rows) + "\n"


def _cell(value: object) -> str:
    match value:
        case bool():
            return "yes" if value else "no"
        case tuple() if value in (SAMPLING, CONSTRAINTS):
            return "all"
        case tuple() if value:
            return ", ".join(f"`{name}`" for name in value)
        case Prices(prompt, completion, _, currency):
            return f"{prompt:g} and {completion:g} {currency} for a million tokens in and out"
        case int() | str() if value:
            return str(value)
    return "no"
