"""Converts the language's sampling arguments to those of a request.

The language's None means "not given". Given arguments are kept under the names of `SamplingParams`
and override the run's defaults when the gen is appended.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ..contracts.errors import BadArgument
from ..contracts.params import SamplingParams

GenDefaults = SamplingParams
"""The defaults of a run's gens."""


def _strings(name: str, value: object) -> tuple[str, ...]:
    if isinstance(value, str):
        return (value,)
    items = tuple(value) if isinstance(value, Iterable) else (None,)
    if all(isinstance(item, str) for item in items):
        return items
    raise BadArgument(f"{name} must be a string or a list of strings, not {value!r}")


def _whole_numbers(name: str, value: object) -> tuple[int, ...]:
    items = tuple(value) if isinstance(value, Iterable) else (None,)
    if all(type(item) is int for item in items):
        return items
    raise BadArgument(f"{name} must be a list of token ids, not {value!r}")


def _bias(name: str, value: object) -> tuple[tuple[int, float], ...]:
    try:
        pairs = value.items() if isinstance(value, Mapping) else value
        return tuple((int(token), float(bias)) for token, bias in pairs)  # type: ignore[attr-defined]  # not iterable: a TypeError
    except (TypeError, ValueError):
        raise BadArgument(f"{name} must map token ids to numbers, not {value!r}") from None


def _all_tokens(name: str, value: object) -> object:
    return None if value == -1 else value


def _no_position(name: str, value: object) -> object:
    return None if value == -1 else value


def _plain(name: str, value: object) -> object:
    return value


ARGUMENTS: dict[str, tuple[str, Callable[[str, object], object]]] = {
    "max_tokens": ("max_tokens", _plain),
    "max_new_tokens": ("max_tokens", _plain),
    "min_tokens": ("min_tokens", _plain),
    "n": ("n", _plain),
    "stop": ("stop", _strings),
    "stop_token_ids": ("stop_token_ids", _whole_numbers),
    "stop_regex": ("stop_regex", _strings),
    "temperature": ("temperature", _plain),
    "top_p": ("top_p", _plain),
    "top_k": ("top_k", _all_tokens),
    "min_p": ("min_p", _plain),
    "frequency_penalty": ("frequency_penalty", _plain),
    "presence_penalty": ("presence_penalty", _plain),
    "ignore_eos": ("ignore_eos", _plain),
    "return_logprob": ("logprobs", _plain),
    "top_logprobs_num": ("top_logprobs", _plain),
    "seed": ("seed", _plain),
    "logit_bias": ("logit_bias", _bias),
    "skip_special_tokens": ("skip_special_tokens", _plain),
    "adapter": ("adapter", _plain),
    "logprob_start_len": ("prompt_logprobs_from", _no_position),
}
"""The language's name -> the name in SamplingParams and the conversion of its value."""


def given(arguments: Mapping[str, object]) -> dict[str, Any]:
    """The `arguments` that are not None, with names and values of SamplingParams. BadArgument for
    an invalid one.
    """
    fields: dict[str, Any] = {}
    for name, value in arguments.items():
        if value is not None:
            field, convert = ARGUMENTS[name]
            fields[field] = convert(name, value)
    try:
        SamplingParams(**{"max_tokens": None, **fields})
    except BadArgument as error:
        raise BadArgument(_in_users_words(error.message, arguments), hint=error.hint) from None
    return fields


def _in_users_words(message: str, arguments: Iterable[str]) -> str:
    """A message that begins with a field's name, with the name that the user gave."""
    field, _, rest = message.partition(" ")
    return f"{next((name for name in arguments if ARGUMENTS[name][0] == field), field)} {rest}"
