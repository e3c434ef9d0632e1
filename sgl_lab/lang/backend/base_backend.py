"""For authors of backends: a base class, and the types of the port.

The interface is this project's own: `contracts/port.py` defines what a backend does.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from itertools import groupby
from typing import NoReturn, Self

from ...contracts.capabilities import TOKEN_LEVEL, Capabilities
from ...contracts.conversation import (
    ChatJob,
    ChatListener,
    ChatMessage,
    ChatOutput,
    ConversationBackend,
    DecisionJob,
    DecisionListener,
    DecisionOutput,
    ImagePart,
    TextPart,
    ToolCallPart,
    ToolResultPart,
)
from ...contracts.errors import BackendUnsupported
from ...contracts.ids import RequestId
from ...contracts.params import Constraint, SamplingParams
from ...contracts.port import (
    Backend,
    GenJob,
    GenListener,
    GenOutput,
    Message,
    ModelCard,
    ScoreJob,
    ScoreListener,
    ScoreOutput,
    Segment,
    TokenLogprob,
    Usage,
    WarmJob,
    WarmListener,
)
from ...contracts.spans import Block
from ...contracts.tools import ToolSpec
from ..chat_template import ChatTemplate, get_chat_template_by_model_path
from ..usage import TokenUsage, usage_of

__all__ = [
    "TOKEN_LEVEL",
    "BaseBackend",
    "BaseConversation",
    "Capabilities",
    "ChatJob",
    "ChatListener",
    "ChatMessage",
    "ChatOutput",
    "Constraint",
    "DecisionJob",
    "DecisionListener",
    "DecisionOutput",
    "GenJob",
    "GenListener",
    "GenOutput",
    "ImagePart",
    "Message",
    "ModelCard",
    "SamplingParams",
    "ScoreJob",
    "ScoreListener",
    "ScoreOutput",
    "Segment",
    "TextPart",
    "TokenLogprob",
    "ToolCallPart",
    "ToolResultPart",
    "ToolSpec",
    "Usage",
    "WarmJob",
    "WarmListener",
]


class Front:
    """The common part of all backends: the attributes that programs for the original use, and the
    members of both ports.
    """

    own_template: ChatTemplate | None = None
    """the value assigned to `chat_template`: programs then use it, whatever the model provides"""
    _capabilities = Capabilities()
    _port: str
    """the file that describes its methods"""

    # ------------------------------------------------------------ used by programs

    @property
    def chat_template(self) -> ChatTemplate:
        """The assigned template, otherwise the registered one that fits the model's name."""
        return self.own_template or get_chat_template_by_model_path(self.describe().name)

    @chat_template.setter
    def chat_template(self, template: ChatTemplate | None) -> None:
        self.own_template = template

    def get_chat_template(self) -> ChatTemplate:
        return self.chat_template

    @property
    def endpoint(self) -> Self:
        """The backend itself: there is no server between a program and its model."""
        return self

    @property
    def token_usage(self) -> TokenUsage:
        return usage_of(self)

    @property
    def model_info(self) -> dict[str, object]:
        card = self.describe()
        return {"model_path": card.name, "tokenizer_path": card.name, "is_generation": True, "context_length": card.context}

    def get_model_name(self) -> str:
        return self.describe().name

    def get_server_info(self) -> dict[str, object]:
        return asdict(self.describe())

    def flush_cache(self) -> None:
        """Drop all cached prefixes that no request uses."""
        self.flush()

    def flush(self) -> None:
        """Does nothing: there is no cache."""

    def shutdown(self) -> None:
        """Does nothing: there is nothing to shut down."""

    # ------------------------------------------------------------ what both ports have

    def describe(self) -> ModelCard:
        return ModelCard(type(self).__name__, (type(self).__name__,), 1 << 20, 1 << 20, "none", "none", self._capabilities)

    def prepare(self, constraint: Constraint) -> None:
        card = self.describe()
        card.capabilities.check_constraint(constraint, card.name)
        self._missing("prepare")

    def cancel(self, request: RequestId) -> None:
        """Nothing is running."""

    def poll(self) -> None:
        """The backend is available."""

    def _missing(self, method: str) -> NoReturn:
        raise BackendUnsupported(
            f"{type(self).__name__} has no model: it does not implement {method}()",
            hint=f"write {method}() as sgl_lab/contracts/{self._port} describes it, or take the backend of sgl.Lab()",
        )


class BaseBackend(Front):
    """The port at the level of tokens, without a model. A subclass implements its methods; a
    missing method raises when it is called.
    """

    _capabilities, _port = TOKEN_LEVEL, "port.py"
    support_concate_and_append = True

    def cache_prefix(self, prefix_str: str) -> None:
        """Compute a text, so that programs that begin with it find it cached."""
        tokens = tuple(token for text, markup in self.render_text(prefix_str) for token in self.encode(text, markup=markup))
        if tokens:
            self.warm(WarmJob(tokens), _NoListener())

    # ------------------------------------------------------------ the port

    def submit(self, job: GenJob, listener: GenListener) -> RequestId:
        self._missing("submit")

    def score(self, job: ScoreJob, listener: ScoreListener) -> RequestId:
        self._missing("score")

    def warm(self, job: WarmJob, listener: WarmListener) -> RequestId:
        self._missing("warm")

    def at_once(self) -> AbstractContextManager[object]:
        """Each job starts when it is submitted."""
        return nullcontext()

    def encode(self, text: str, *, markup: bool = False) -> tuple[int, ...]:
        self._missing("encode")

    def encode_all(self, segments: Sequence[Segment]) -> tuple[int, ...]:
        """Joins neighbours of one kind into one text. A backend that knows its special tokens can
        do better.
        """
        groups = groupby(segments, key=lambda segment: segment.markup)
        return tuple(token for markup, group in groups for token in self.encode("".join(text for text, _ in group), markup=markup))

    def decode(self, ids: Sequence[int], *, special: bool = True) -> str:
        self._missing("decode")

    def see(self, image: bytes) -> Block:
        raise self.describe().capabilities.missing("images", self.describe().name)

    def n_open(self, ids: Sequence[int]) -> int:
        """The backend does not heal."""
        return 0

    def render_chat(self, messages: Sequence[Message], *, add_generation_prompt: bool) -> tuple[Segment, ...]:
        raise BackendUnsupported(f"{type(self).__name__} has no chat template", hint="assign one to its chat_template")

    def render_text(self, text: str) -> tuple[Segment, ...]:
        return (Segment(text, False),)

    def render_start(self) -> tuple[Segment, ...]:
        """The backend has no token that begins a text."""
        return ()


class BaseConversation(Front):
    """The port at the level of a conversation, without a model. A subclass implements its methods."""

    _port = "conversation.py"

    def converse(self, job: ChatJob, listener: ChatListener) -> RequestId:
        self._missing("converse")

    def decide(self, job: DecisionJob, listener: DecisionListener) -> RequestId:
        self._missing("decide")


class _NoListener:
    """A listener that nothing waits for."""

    def on_done(self, usage: Usage) -> None:
        pass

    def on_error(self, error: Exception) -> None:
        pass


_: tuple[type[Backend], type[ConversationBackend]] = BaseBackend, BaseConversation
