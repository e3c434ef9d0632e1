"""The public names of the language."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

from ..contracts.errors import BadArgument
from ..contracts.near import did_you_mean
from .chat_template import ChatTemplate, get_chat_template, register_chat_template
from .choices import (
    ChoicesSamplingMethod,
    greedy_token_selection,
    token_length_normalized,
    unconditional_likelihood_normalized,
)
from .default import flush_cache, get_server_info, set_default_backend
from .expect import expect
from .expressions import Concat, Expr, Gen, Image, RoleBegin, RoleEnd, Select, SeparateReasoning, TokenIds, as_expr, requests_in
from .form import FORMS
from .global_config import global_config
from .graph.compiled import Compiled
from .graph.dataflow import Graph, load_graph
from .graph.flow import cond, loop, unordered
from .graph.tuning import Tuned, load_tuning
from .images import picture_of
from .keywords import suggests
from .program import SglFunction, function
from .sampling import GenDefaults, given
from .state import ProgramState, ProgramStateGroup, start, state_here
from .tools import ToolCall, describe_tools, of_tools
from .videos import frames_of

__all__ = [
    "SURFACE",
    "ChatTemplate",
    "Compiled",
    "GenDefaults",
    "Graph",
    "ProgramState",
    "ProgramStateGroup",
    "SglFunction",
    "ToolCall",
    "Tuned",
    "assistant",
    "assistant_begin",
    "assistant_end",
    "bound",
    "cond",
    "describe_tools",
    "expect",
    "flush_cache",
    "function",
    "gen",
    "gen_int",
    "gen_string",
    "get_chat_template",
    "get_server_info",
    "global_config",
    "greedy_token_selection",
    "image",
    "load_graph",
    "load_tuning",
    "loop",
    "register_chat_template",
    "select",
    "separate_reasoning",
    "set_default_backend",
    "start",
    "system",
    "system_begin",
    "system_end",
    "token_ids",
    "token_length_normalized",
    "unconditional_likelihood_normalized",
    "unordered",
    "user",
    "user_begin",
    "user_end",
    "video",
]

SURFACE = (
    "assistant",
    "assistant_begin",
    "assistant_end",
    "expect",
    "function",
    "gen",
    "gen_int",
    "gen_string",
    "greedy_token_selection",
    "image",
    "select",
    "separate_reasoning",
    "system",
    "system_begin",
    "system_end",
    "token_ids",
    "token_length_normalized",
    "unconditional_likelihood_normalized",
    "user",
    "user_begin",
    "user_end",
    "video",
)
"""The names that a cell's body has without an import."""


@suggests
def gen(
    name: str | None = None,
    max_tokens: int | None = None,
    min_tokens: int | None = None,
    n: int | None = None,
    stop: str | Sequence[str] | None = None,
    stop_token_ids: Sequence[int] | None = None,
    stop_regex: str | Sequence[str] | None = None,
    temperature: float | None = None,
    top_p: float | None = None,
    top_k: int | None = None,
    min_p: float | None = None,
    frequency_penalty: float | None = None,
    presence_penalty: float | None = None,
    ignore_eos: bool | None = None,
    return_logprob: bool | None = None,
    logprob_start_len: int | None = None,
    top_logprobs_num: int | None = None,
    return_text_in_logprobs: bool | None = None,
    dtype: type | str | None = None,
    choices: Sequence[str] | None = None,
    choices_method: ChoicesSamplingMethod | None = None,
    regex: str | None = None,
    json_schema: object = None,
    *,
    grammar: str | None = None,
    seed: int | None = None,
    tools: Sequence[Callable[..., object]] | None = None,
    execute: bool = False,
    logit_bias: Mapping[int, float] | None = None,
    skip_special_tokens: bool | None = None,
    adapter: str | None = None,
    heal: bool = True,
    begins: Sequence[int] = (),
) -> Gen | Select:
    """Text from the model, kept under `name`. Arguments that are not given are those of the run.

    If the preceding text ends in white space or inside a word, the model may generate its last
    tokens again, so that `"name: " + gen()` produces ` John` as one token. `heal=False` continues
    from the tokens as they are. Values contain no special tokens, unless `skip_special_tokens` is
    False.

    `adapter` names a LoRA adapter that is loaded (`lab.load_adapter`, `%sgl adapter`).

    `begins` are token ids that the text begins with. They are not drawn and not counted by
    `max_tokens`; what is drawn after them satisfies the constraint together with them. BadArgument,
    when it is asked for, if no text of the constraint begins so.

    With `n` samples, the value is a list and the program continues with the first. With `choices`
    it is a `select`.

    At most one of these constrains the text and defines the meaning `s.value(name)`:

    dtype        int, float, bool, str, or a type as for json_schema
    regex        a pattern of Python's `re` that matches the whole text
    json_schema  a dict, JSON text, a pydantic model, a dataclass, list[int], ...
    grammar      a Lark grammar
    choices      a list of texts
    tools        typed functions; the text is a call of one of them. `execute` makes the call, and
                 its result is a turn of role `tool` after this one

    BadArgument for an invalid argument; errors of the run are raised by reads.
    """
    constraints = {"choices": choices, "dtype": dtype, "regex": regex, "json_schema": json_schema, "grammar": grammar, "tools": tools}
    stated = [constraint for constraint, value in constraints.items() if value is not None]
    if len(stated) > 1:
        raise BadArgument(f"{' and '.join(f'{constraint}=' for constraint in stated)} cannot be combined", hint="give one of them")
    if execute and tools is None:
        raise BadArgument("execute= needs tools=")
    if choices is None and choices_method is not None:
        raise BadArgument("choices_method= needs choices=")
    arguments = {
        "max_tokens": max_tokens,
        "min_tokens": min_tokens,
        "n": n,
        "stop": stop,
        "stop_token_ids": stop_token_ids,
        "stop_regex": stop_regex,
        "temperature": temperature,
        "top_p": top_p,
        "top_k": top_k,
        "min_p": min_p,
        "frequency_penalty": frequency_penalty,
        "presence_penalty": presence_penalty,
        "ignore_eos": ignore_eos,
        "return_logprob": return_logprob,
        "logprob_start_len": logprob_start_len,
        "top_logprobs_num": top_logprobs_num,
        "seed": seed,
        "logit_bias": logit_bias,
        "skip_special_tokens": skip_special_tokens,
        "adapter": adapter,
    }
    _check_heal(heal)
    if choices is not None:
        _check_select(arguments)
        if begins:
            raise BadArgument("begins= has no meaning with choices=: choices are scored, not sampled", hint="leave out begins")
        return select(name, choices, temperature or 0.0, choices_method or token_length_normalized, heal=heal)
    form = _FORMS[stated[0]](constraints[stated[0]]) if stated else None
    first = token_ids(begins).ids if begins else ()
    return Gen(_checked(name), tuple(given(arguments).items()), form, execute, return_text_in_logprobs, heal=heal, begins=first)


_FORMS = FORMS | {"tools": of_tools}


_IDLE_WITH_CHOICES = {"max_tokens", "temperature", "seed"}
"""arguments that programs pass with choices and that hold for every choice anyway: its length is
fixed, and nothing is sampled
"""
_SELECTS = GenDefaults()


def _check_select(arguments: Mapping[str, object]) -> None:
    """BadArgument for arguments that would require a text other than one of the choices, or further
    details of it.
    """
    for name, value in arguments.items():
        if value is None or name in _IDLE_WITH_CHOICES:
            continue
        if any(getattr(_SELECTS, field) != found for field, found in given({name: value}).items()):
            raise BadArgument(f"{name}= has no meaning with choices=: choices are scored, not sampled", hint=f"leave out {name}")


def gen_int(name: str | None = None, max_tokens: int | None = None, n: int | None = None, **arguments: Any) -> Gen | Select:
    """Like `gen`, for a whole number: `s.value(name)` is an int."""
    return gen(name, max_tokens, n=n, dtype=int, **arguments)


def gen_string(name: str | None = None, max_tokens: int | None = None, n: int | None = None, **arguments: Any) -> Gen | Select:
    """Like `gen`, for a string in double quotes: `s.value(name)` is the quoted text."""
    return gen(name, max_tokens, n=n, dtype=str, **arguments)


@suggests
def separate_reasoning(expr: Expr | str | None = None, model_type: str | None = None) -> Concat:
    """`expr` whose gens reason first: `name` holds the answer, which is all that the model sees
    next, and `name_reasoning_content` the reasoning. `model_type` names the marks around it:
    deepseek-r1, qwen3, ... None is the model's own, found in its chat template or special tokens;
    BadArgument, when the expression is appended, if it has none.

    A constraint of a gen applies to its answer: the text before it is free, up to the mark that
    ends the reasoning. A regex or grammar that spells this mark itself constrains the whole text.
    """
    marked = SeparateReasoning(model_type, as_expr("" if expr is None else expr))
    if not any(requests_in(marked.expr)):
        raise BadArgument("separate_reasoning needs a gen", hint="write separate_reasoning(gen(...), model_type=...)")
    return Concat((marked.expr, marked))


@suggests
def select(
    name: str | None = None,
    choices: Sequence[str] | None = None,
    temperature: float = 0.0,
    choices_method: ChoicesSamplingMethod = token_length_normalized,
    *,
    heal: bool = True,
) -> Select:
    """The one of `choices` that the model finds likeliest, kept under `name`.

    Each choice is encoded together with the text before it, and scores begin at the first token
    that differs. With `heal=False` choices are encoded alone.
    """
    _check_heal(heal)
    options = () if choices is None or isinstance(choices, str) else tuple(choices)
    if not options or not all(isinstance(option, str) and option for option in options):
        raise BadArgument(f"choices must be a list of one or more non-empty strings, not {choices!r}")
    if not isinstance(temperature, int | float) or not temperature <= 1e-5:
        raise BadArgument(f"a select takes the likeliest choice: temperature must be 0, not {temperature!r}")
    if not isinstance(choices_method, ChoicesSamplingMethod):
        known = [f"sgl.{name}" for name in SURFACE if isinstance(globals()[name], ChoicesSamplingMethod)]
        raise BadArgument(f"choices_method cannot be {choices_method!r:.80}", hint=did_you_mean(f"sgl.{choices_method}", known))
    return Select(_checked(name), options, choices_method, heal=heal)


@suggests
def token_ids(ids: Sequence[int]) -> TokenIds:
    """Tokens by their ids, where text would stand: `s += token_ids([504, 253])`. They stay as they
    are, also where the tokenizer would encode their text otherwise.

    BadArgument for what is no list of whole numbers, 0 or more, or, when it is appended, for a token
    that the model does not have.
    """
    found = tuple(ids) if isinstance(ids, Iterable) and not isinstance(ids, str | bytes) else ()
    if not found or not all(type(each) is int and each >= 0 for each in found):
        raise BadArgument(f"token_ids takes a list of token ids, which are whole numbers, 0 or more, not {ids!r:.60}")
    return TokenIds(found)


@suggests
def image(source: object, *, fetch: bool = False) -> Image:
    """A picture, inside a turn, for a backend that takes images: `user(image("cat.png") + "What is
    this?")`.

    `source` is a PNG, JPEG, GIF or WebP file, its bytes, base64 or a data URL; an array of bytes
    [height, width, 3]; or an image of Pillow. It is read now. A web address is fetched with
    `fetch=True` only, and only from the public internet. BadArgument for what is no image or has
    more than 20 MiB.
    """
    if type(fetch) is not bool:
        raise BadArgument(f"fetch must be True or False, not {fetch!r:.80}")
    return Image(*picture_of(source, fetch=fetch))


@suggests
def video(source: object, num_frames: int = 8) -> Concat:
    """Frames of a video as images, inside a turn: `user(video("cat.gif", 4) + "What happens?")`.

    `source` is an animation (GIF, WebP, PNG), a film (MP4, WebM, AVI; PyAV decodes it), its bytes,
    or frames in a list or an array [frames, height, width, 3]. The frames are at equal distances,
    the first and the last among them; all of them if there are fewer. BadArgument for what is no
    video, has more than 200 MiB or 20,000 frames, and for more than 64 frames to show.
    """
    return Concat(tuple(Image(*frame) for frame in frames_of(source, num_frames)))


def _check_heal(heal: object) -> None:
    if type(heal) is not bool:
        raise BadArgument(f"heal must be True or False, not {heal!r:.80}")


def _checked(name: object) -> str | None:
    if name is not None and not isinstance(name, str):
        raise BadArgument(f"a name must be a string, not {name!r}")
    return name


@suggests
def system(expr: Expr | str | None = None) -> Expr:
    """A system turn; inside `with`, use the state's own `s.system()`."""
    return _turn("system", expr)


@suggests
def user(expr: Expr | str | None = None) -> Expr:
    """A user turn; inside `with`, use the state's own `s.user()`."""
    return _turn("user", expr)


@suggests
def assistant(expr: Expr | str | None = None) -> Expr:
    """An assistant turn; inside `with`, use the state's own `s.assistant()`."""
    return _turn("assistant", expr)


def _turn(role: str, expr: Expr | str | None) -> Expr:
    return Concat((RoleBegin(role), as_expr("" if expr is None else expr), RoleEnd(role)))


def system_begin() -> Expr:
    """The beginning of a system turn; `system_end()` ends it."""
    return RoleBegin("system")


def system_end() -> Expr:
    """The end of a system turn."""
    return RoleEnd("system")


def user_begin() -> Expr:
    """The beginning of a user turn; `user_end()` ends it."""
    return RoleBegin("user")


def user_end() -> Expr:
    """The end of a user turn."""
    return RoleEnd("user")


def assistant_begin() -> Expr:
    """The beginning of an assistant turn; `assistant_end()` ends it."""
    return RoleBegin("assistant")


def assistant_end() -> Expr:
    """The end of an assistant turn."""
    return RoleEnd("assistant")


def bound(state: ProgramState) -> dict[str, object]:
    """The names of a cell: those of SURFACE, `s`, and those that need a state, bound to `state` or
    to that of a program that calls them.
    """

    def role(name: str) -> Callable[..., object]:
        def turn(expr: Expr | str | None = None) -> Expr | AbstractContextManager[None]:
            return (state_here(state) or state)._turn(name) if expr is None else _turn(name, expr)

        turn.__name__ = turn.__qualname__ = name
        turn.__doc__ = f"A {name} turn of the cell's program; without an argument, for a `with`."
        return turn

    def fork(size: int = 1) -> ProgramStateGroup:
        return (state_here(state) or state).fork(size)

    def var_scope(name: str) -> AbstractContextManager[None]:
        return (state_here(state) or state).var_scope(name)

    fork.__doc__, var_scope.__doc__ = ProgramState.fork.__doc__, ProgramState.var_scope.__doc__
    roles = {name: role(name) for name in ("system", "user", "assistant")}
    return {name: globals()[name] for name in SURFACE} | roles | {"s": state, "fork": fork, "var_scope": var_scope}
