"""The port at the level of a conversation: messages in, text and tool calls out. For engines that stand behind an API.

As `port.py` is for engines that take token ids. A backend works on its own thread. It answers a job by calling the job's
listener: deltas any number of times, then exactly one of `on_done` and `on_error`, also after a cancel. A job asks for
nothing that the backend's capabilities do not name.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, TypeGuard, runtime_checkable

from .ids import ExprId, ForkId, RequestId
from .params import SamplingParams
from .port import Backend, Port, Usage


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
    """A call that the model asks for. The server's `id` ties its result to it."""

    id: str
    name: str
    arguments: str
    """a JSON object"""


@dataclass(frozen=True, slots=True)
class ToolResultPart:
    id: str
    text: str


Part = TextPart | ImagePart | ToolCallPart | ToolResultPart


@dataclass(frozen=True, slots=True)
class ChatMessage:
    """One turn. `role` is system, user, assistant or tool; a tool's turn holds results, calls stand in an assistant's."""

    role: str
    parts: tuple[Part, ...]

    @property
    def text(self) -> str:
        return "".join(part.text for part in self.parts if isinstance(part, TextPart | ToolResultPart))


@dataclass(frozen=True, slots=True)
class ToolSpec:
    name: str
    description: str
    parameters: str
    """the JSON schema of the arguments"""


Prompt = str | tuple[ChatMessage, ...]
"""Messages, of which the last is an assistant's where its answer is begun already; or plain text that is to be gone on with"""


@dataclass(frozen=True, slots=True)
class ChatJob:
    prompt: Prompt
    params: SamplingParams
    tools: tuple[ToolSpec, ...] = ()
    """one of them is to be called: then the params hold no constraint"""
    fork: ForkId | None = None
    expr: ExprId | None = None


@dataclass(frozen=True, slots=True)
class TextLogprob:
    """Of one token of an answer, which is known by its text."""

    text: str
    logprob: float
    top: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, slots=True)
class ChatOutput:
    """One sample: `text` without what a stop cut off, and without what the model thought aloud where the server tells it apart.

    Of `usage`, what the server does not report is 0; `cached_tokens` mean something where the capabilities name them.
    """

    text: str
    finish_reason: str
    """stop, length, abort, or a word of the server's own, such as content_filter"""
    usage: Usage
    matched_stop: str | int | None = None
    """None also where the server does not tell"""
    tool_calls: tuple[ToolCallPart, ...] = ()
    reasoning: str = ""
    logprobs: tuple[TextLogprob, ...] = ()
    is_complete: bool | None = None
    """whether the text is all that the constraint wants; None without a constraint"""


class ChatListener(Protocol):
    def on_delta(self, index: int, text: str) -> None:
        """Sample `index` grew by `text`."""

    def on_done(self, outputs: tuple[ChatOutput, ...]) -> None: ...

    def on_error(self, error: Exception) -> None: ...


@dataclass(frozen=True, slots=True)
class DecisionJob:
    """Which of the choices comes next, as the server decides it."""

    prompt: Prompt
    choices: tuple[str, ...]
    fork: ForkId | None = None
    expr: ExprId | None = None


@dataclass(frozen=True, slots=True)
class DecisionOutput:
    probabilities: tuple[float, ...]
    """of each choice; they sum up to 1"""
    usage: Usage


class DecisionListener(Protocol):
    def on_done(self, output: DecisionOutput) -> None: ...

    def on_error(self, error: Exception) -> None: ...


@runtime_checkable
class ConversationBackend(Port, Protocol):
    """The port. `converse` and `decide` raise what a job can never run for at once; what goes wrong later reaches the listener.

    A cancelled gen ends with `on_done`, its partial outputs having finish_reason "abort"; a cancelled decision ends with
    `on_error(Stopped)`. `decide` is called only where the capabilities say that choices are decided.
    """

    def converse(self, job: ChatJob, listener: ChatListener) -> RequestId: ...

    def decide(self, job: DecisionJob, listener: DecisionListener) -> RequestId: ...


AnyBackend = Backend | ConversationBackend


def takes_tokens(backend: object) -> TypeGuard[Backend]:
    """Whether it has the port at the level of tokens. Its class is asked first: to look for each method takes 0.1 ms."""
    return issubclass(type(backend), Backend) or isinstance(backend, Backend)
