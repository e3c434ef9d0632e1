"""The port at the level of a conversation: messages in, text and tool calls out. For engines behind
an API.

It corresponds to `port.py` for engines that take token ids. A backend works on its own thread. It
answers a job by calling the job's listener: any number of deltas, then exactly one of `on_done` and
`on_error`, also after a cancel. A job requires nothing beyond the backend's capabilities.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, TypeGuard, runtime_checkable

from .capabilities import Capabilities
from .errors import BadArgument
from .ids import ExprId, ForkId, RequestId
from .params import SamplingParams
from .port import Backend, Port, Usage
from .tools import ToolSpec


@dataclass(frozen=True, slots=True)
class TextPart:
    text: str


@dataclass(frozen=True, slots=True)
class ImagePart:
    media_type: str
    """such as image/png"""
    data: bytes


@dataclass(frozen=True, slots=True)
class ToolCallPart:
    """A call that the model requests. The server's `id` links its result to it."""

    id: str
    name: str
    arguments: str
    """a JSON object"""
    signature: str = ""
    """what the server wants to have back with the call, as it came"""


@dataclass(frozen=True, slots=True)
class ToolResultPart:
    id: str
    text: str


Part = TextPart | ImagePart | ToolCallPart | ToolResultPart


@dataclass(frozen=True, slots=True)
class ChatMessage:
    """One turn. `role` is system, user, assistant or tool. A tool's turn holds results; an
    assistant's turn may hold calls.
    """

    role: str
    parts: tuple[Part, ...]

    @property
    def text(self) -> str:
        return "".join(part.text for part in self.parts if isinstance(part, TextPart | ToolResultPart))


Prompt = str | tuple[ChatMessage, ...]
"""Messages, the last of which is an assistant's if its answer has begun; or plain text to continue."""


@dataclass(frozen=True, slots=True)
class ChatJob:
    prompt: Prompt
    params: SamplingParams
    tools: tuple[ToolSpec, ...] = ()
    """one of them must be called; the params then hold no constraint"""
    fork: ForkId | None = None
    expr: ExprId | None = None
    shown: tuple[int, ...] = ()
    """the prompt as views show it, in pieces (`contracts.pieces`); a backend passes it on as
    `RequestQueued.prompt`"""
    shared: tuple[tuple[int, int], ...] = ()
    """where the prompt may end that other requests of the program begin with: after so many parts,
    counted over all messages, and so many characters of the next. Some servers cache only prefixes
    that a request marks; these are what to mark"""


@dataclass(frozen=True, slots=True)
class TextLogprob:
    """One token of an answer, identified by its text."""

    text: str
    logprob: float
    top: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, slots=True)
class ChatOutput:
    """One sample. `text` excludes what a stop cut off, and the model's reasoning if the server
    separates it.

    In `usage`, values that the server does not report are 0. `cached_tokens` is meaningful if the
    capabilities include it.
    """

    text: str
    finish_reason: str
    """stop, length, abort, or a word of the server's own, such as content_filter"""
    usage: Usage
    matched_stop: str | int | None = None
    """also None if the server does not report it"""
    tool_calls: tuple[ToolCallPart, ...] = ()
    reasoning: str = ""
    logprobs: tuple[TextLogprob, ...] = ()
    is_complete: bool | None = None
    """whether the text is complete under the constraint; None without a constraint"""
    is_cut: bool = False
    """whether the server went past a stop, and the rest was cut off here"""


class ChatListener(Protocol):
    def on_delta(self, index: int, text: str) -> None:
        """Sample `index` grew by `text`."""

    def on_done(self, outputs: tuple[ChatOutput, ...]) -> None: ...

    def on_error(self, error: Exception) -> None: ...


@dataclass(frozen=True, slots=True)
class DecisionJob:
    """Which of the choices comes next, decided by the server."""

    prompt: Prompt
    choices: tuple[str, ...]
    fork: ForkId | None = None
    expr: ExprId | None = None
    shown: tuple[int, ...] = ()
    """as of a gen"""


@dataclass(frozen=True, slots=True)
class DecisionOutput:
    probabilities: tuple[float, ...]
    """of each choice; their sum is 1"""
    usage: Usage


class DecisionListener(Protocol):
    def on_done(self, output: DecisionOutput) -> None: ...

    def on_error(self, error: Exception) -> None: ...


@runtime_checkable
class ConversationBackend(Port, Protocol):
    """The port. `converse` and `decide` raise at once if the job can never run; later errors reach
    the listener.

    A cancelled gen ends with `on_done`; its partial outputs have finish_reason "abort". A cancelled
    decision ends with `on_error(Stopped)`. `decide` is called only if the capabilities say that
    choices are decided.
    """

    def converse(self, job: ChatJob, listener: ChatListener) -> RequestId: ...

    def decide(self, job: DecisionJob, listener: DecisionListener) -> RequestId: ...


AnyBackend = Backend | ConversationBackend


def check_prompt(prompt: Prompt, can: Capabilities, by: str) -> None:
    """BackendUnsupported for a form of prompt that the backend called `by` does not take;
    BadArgument for an empty one."""
    if isinstance(prompt, str):
        if not can.plain_text:
            raise can.missing("plain_text", by)
        return
    if not prompt or not all(message.parts for message in prompt):
        raise BadArgument("a conversation has a message, and each message something in it")
    if prompt[-1].role == "assistant" and not can.continues:
        raise can.missing("continues", by)
    if not can.images and any(isinstance(part, ImagePart) for message in prompt for part in message.parts):
        raise can.missing("images", by)


def takes_tokens(backend: object) -> TypeGuard[Backend]:
    """Whether it implements the port at the level of tokens. Its class is checked first, because
    looking up each method takes 0.1 ms.
    """
    return issubclass(type(backend), Backend) or isinstance(backend, Backend)
