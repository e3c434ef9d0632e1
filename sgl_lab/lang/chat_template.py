"""Chat templates by name, for backends whose model has none.

A template here is plain text around each role. The backend renders the model's own template, if
there is one.
"""

from __future__ import annotations

import re
import secrets
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import NamedTuple, Protocol, runtime_checkable

from ..contracts.conversation import AnyBackend, takes_tokens
from ..contracts.errors import BackendUnsupported, BadArgument
from ..contracts.near import did_you_mean
from ..contracts.port import Message, ModelCard, Segment
from ..contracts.prefixes import nearest
from .keywords import suggests

_MAX_RECENT = 32
"""renderings that are kept for continuation"""

Render = Callable[[Sequence[Message], bool], tuple[Segment, ...]]
"""messages, whether to open the assistant's next turn -> the rendering"""


@dataclass(frozen=True)
class ChatTemplate:
    """Text before and after each role's content.

    `system_in_user` puts the system prompt, with its prefix and suffix, inside the first user turn.
    `stop_str` ends every gen. `model_pattern` is searched in a model's name, ignoring case.
    """

    name: str
    role_prefix_and_suffix: Mapping[str, tuple[str, str]]
    default_system_prompt: str | None = None
    stop_str: tuple[str, ...] = ()
    begin: str = ""
    system_in_user: bool = False
    model_pattern: str = field(default="", repr=False)

    def render(self, messages: Sequence[Message], add_generation_prompt: bool) -> tuple[Segment, ...]:
        """The turns as segments; the marks of turns are markup. BadArgument for a role it does not
        have.
        """
        return Renderer(self)(messages, add_generation_prompt)

    def get_prefix_and_suffix(self, role: str, hist_messages: Sequence[Message | Mapping[str, str]] = ()) -> tuple[str, str]:
        """The text around the next turn, of `role`, after these messages."""
        prefix, suffix = self.around(role)
        roles = [message["role"] if isinstance(message, Mapping) else message.role for message in hist_messages]
        if self.system_in_user and role == "system":
            return self.begin + self.around("user")[0] + prefix, suffix
        if self.system_in_user and role == "user" and roles == ["system"]:
            prefix = ""
        return prefix if roles else self.begin + prefix, suffix

    def around(self, role: str) -> tuple[str, str]:
        """Prefix and suffix of a turn of `role`, wherever it stands. BadArgument if there are none."""
        known = self.role_prefix_and_suffix
        if role == "tool" and role not in known:
            role = "user"  # these models were trained to read results of tools as user turns
        if role not in known:
            raise BadArgument(f"chat template {self.name!r} has no role {role!r}")
        return known[role]


class _Rendered(NamedTuple):
    messages: tuple[Message, ...]
    segments: tuple[Segment, ...]
    n_after: tuple[int, ...]
    """segments up to the end of each message; 0 if part of it is in the next message"""


class Renderer:
    """Renders conversations with a template. If a conversation continues a recently rendered one,
    only its new messages are rendered.
    """

    def __init__(self, template: ChatTemplate) -> None:
        self._template = template
        self._recent: deque[_Rendered] = deque(maxlen=_MAX_RECENT)

    def __call__(self, messages: Sequence[Message], add_generation_prompt: bool) -> tuple[Segment, ...]:
        template, prompt = self._template, self._template.default_system_prompt
        if prompt is not None and not any(message.role == "system" for message in messages):
            messages = (Message("system", prompt), *messages)
        given = tuple(messages)
        segments, n_after = self._begun(given)
        pending: list[Segment] = []
        for message in given[len(n_after) :]:
            prefix, suffix = template.around(message.role)
            turn = [Segment(message.content, False), Segment(suffix, True)]
            if message.role == "system" and template.system_in_user:
                pending = [Segment(prefix, True), *turn]
                n_after.append(0)
                continue
            segments += filter(_has_text, [Segment(prefix, True), *pending, *turn])
            n_after.append(len(segments))
            pending = []
        self._recent.append(_Rendered(given, tuple(segments), tuple(n_after)))
        if add_generation_prompt:
            pending.append(Segment(template.around("assistant")[0], True))
        return (*segments, *filter(_has_text, pending))

    def _begun(self, messages: tuple[Message, ...]) -> tuple[list[Segment], list[int]]:
        """The part of a recent rendering that `messages` share: its segments, and for each shared
        message the number of segments up to its end.
        """
        n, earlier = nearest(reversed(tuple(self._recent)), attrgetter("messages"), messages)
        while earlier and n and not earlier.n_after[n - 1]:
            n -= 1
        if earlier is None or not n:
            return [*filter(_has_text, [Segment(self._template.begin, True)])], []
        return [*earlier.segments[: earlier.n_after[n - 1]]], [*earlier.n_after[:n]]


def _has_text(segment: Segment) -> bool:
    return bool(segment.text)


_templates: dict[str, ChatTemplate] = {}
_matchers: list[Callable[[str], str | None]] = []


@suggests
def register_chat_template(template: ChatTemplate) -> ChatTemplate:
    """Register `template` under its name. Later templates are tried first for a model's name."""
    _templates[template.name] = template
    return template


@suggests
def get_chat_template(name: str) -> ChatTemplate:
    """The registered template of that name. BadArgument if there is none."""
    try:
        return _templates[name]
    except KeyError:
        raise BadArgument(f"no chat template named {name!r}", hint=did_you_mean(name, sorted(_templates))) from None


def register_chat_template_matching_function(matcher: Callable[[str], str | None]) -> Callable[[str], str | None]:
    """Decorator: `matcher` takes a model's name and returns the name of its template, or None. The
    last matcher with an answer counts.
    """
    _matchers.append(matcher)
    return matcher


def get_chat_template_by_model_path(model: str) -> ChatTemplate:
    """The answer of a registered function; otherwise the template registered last whose pattern is
    in the model's name; otherwise `default`.
    """
    for matcher in reversed(_matchers):
        if (name := matcher(model)) is not None:
            return get_chat_template(name)
    for template in reversed(_templates.values()):
        if template.model_pattern and re.search(template.model_pattern, model, re.IGNORECASE):
            return template
    return _templates["default"]


@runtime_checkable
class _Templated(Protocol):
    own_template: ChatTemplate | None


class Chat(NamedTuple):
    """How a run renders roles, and what else ends a turn."""

    render: Render
    stop: tuple[str, ...]


def chat_of(backend: AnyBackend, card: ModelCard) -> Chat:
    """The template assigned to the backend; otherwise the model's own; otherwise a registered one
    for the model's name.
    """
    if isinstance(backend, _Templated) and (own := backend.own_template) is not None:
        return Chat(Renderer(own), own.stop_str)
    if card.capabilities.chat_template and takes_tokens(backend):
        return Chat(lambda messages, opening: backend.render_chat(messages, add_generation_prompt=opening), ())
    template = get_chat_template_by_model_path(card.name)
    return Chat(Renderer(template), template.stop_str)


def render_until(render: Render, messages: Sequence[Message], role: str) -> tuple[Segment, ...]:
    """The rendering of `messages` and the opening of one more turn of `role`, up to the beginning
    of its content.
    """
    # a secret: content that spelled it would cut the prompt there
    mark = f"\ue000{secrets.token_hex(16)}\ue001"
    found: list[Segment] = []
    for segment in render((*messages, Message(role, mark)), False):
        before, mark_here, _ = segment.text.partition(mark)
        found.append(Segment(before, segment.markup))
        if mark_here:
            return tuple(found)
    raise BackendUnsupported(f"the chat template does not show the content of role {role!r}", hint="generate inside assistant(...)")


for _template in (
    ChatTemplate(
        "default",
        {"system": ("SYSTEM:", "\n"), "user": ("USER:", "\n"), "assistant": ("ASSISTANT:", "\n")},
        stop_str=("USER:",),
    ),
    ChatTemplate(
        "chatml",
        {role: (f"<|im_start|>{role}\n", "<|im_end|>\n") for role in ("system", "user", "assistant")},
        stop_str=("<|im_end|>",),
        model_pattern=r"chatml|smollm",
    ),
    ChatTemplate(
        "qwen",
        {role: (f"<|im_start|>{role}\n", "<|im_end|>\n") for role in ("system", "user", "assistant")},
        default_system_prompt="You are a helpful assistant.",
        stop_str=("<|im_end|>",),
        model_pattern=r"qwen.*(chat|instruct)",
    ),
    ChatTemplate(
        "llama-2-chat",
        {"system": ("<<SYS>>\n", "\n<</SYS>>\n\n"), "user": ("<s>[INST] ", " [/INST]"), "assistant": (" ", " </s>")},
        system_in_user=True,
        model_pattern=r"llama-2.*chat|mistral|mixtral",
    ),
    ChatTemplate(
        "llama-3-instruct",
        {role: (f"<|start_header_id|>{role}<|end_header_id|>\n\n", "<|eot_id|>") for role in ("system", "user", "assistant")},
        stop_str=("<|eot_id|>",),
        begin="<|begin_of_text|>",
        model_pattern=r"llama-3.*instruct",
    ),
    ChatTemplate(
        "vicuna_v1.1",
        {"system": ("", " "), "user": ("USER: ", " "), "assistant": ("ASSISTANT: ", "</s>")},
        default_system_prompt="A chat between a curious user and an artificial intelligence assistant. "
        "The assistant gives helpful, detailed, and polite answers to the user's questions.",
        stop_str=("USER:",),
        model_pattern=r"vicuna|llava-v1\.5",
    ),
    ChatTemplate(
        "gemma-it",
        {
            "system": ("", "\n\n"),
            "user": ("<start_of_turn>user\n", "<end_of_turn>\n"),
            "assistant": ("<start_of_turn>model\n", "<end_of_turn>\n"),
        },
        stop_str=("<end_of_turn>",),
        begin="<bos>",
        system_in_user=True,
        model_pattern=r"gemma.*it",
    ),
):
    register_chat_template(_template)
