"""What the language needs of a backend that takes token ids. The language owns this interface;
backends implement it.

`conversation.py` is the same for backends that take messages. A backend works on its own thread. It
answers a job by calling the job's listener: any number of progress calls, then exactly one of
`on_done` and `on_error`, also after a cancel. Listeners are called on the backend's thread and must
be quick; they may submit again.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

from .capabilities import Capabilities
from .events import Foreseen
from .ids import ExprId, ForkId, Namespace, RequestId
from .params import Constraint, SamplingParams
from .spans import Block
from .tools import ToolStyle


class ReasoningMarks(NamedTuple):
    """What a model writes around its reasoning. `is_open`: its chat template begins the reasoning of
    an answer, so that the model's own text starts inside it.
    """

    begin: str
    end: str
    is_open: bool = False


@dataclass(frozen=True, slots=True)
class ModelCard:
    """A backend's description of itself."""

    name: str
    namespace: Namespace
    context: int
    """longest sequence in tokens, prompt and completion together"""
    vocab: int
    device: str
    dtype: str
    capabilities: Capabilities
    tool_style: ToolStyle | None = None
    """how the model's chat template describes tools; None if it does not, or if the API describes them"""
    image_positions: int = 0
    """positions of every image in a prompt; 0 for a model that sees none, or whose images differ in that"""
    reasoning: ReasoningMarks | None = None
    """found in the model's chat template or its special tokens; None if neither has any"""


@dataclass(frozen=True, slots=True)
class Message:
    role: str
    content: str


class Segment(NamedTuple):
    """A piece of a rendered chat. Only `markup` may spell special tokens; content is always plain
    text.
    """

    text: str
    markup: bool


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    token: int
    logprob: float | None
    """None for a first token without a predecessor, for a token that no step computed, and for a
    position of a block
    """
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Usage:
    """Counts in tokens, times in seconds. README.md, "What the counts mean", defines each count."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    computed_tokens: int = 0
    forced_tokens: int = 0
    drafted_tokens: int = 0
    accepted_tokens: int = 0
    rejected_tokens: int = 0
    model_steps: int = 0
    preemptions: int = 0
    queue_s: float = 0.0
    first_token_s: float = 0.0
    """from submission to the first token"""
    total_s: float = 0.0
    written_tokens: int = 0
    """of the prompt, those that a server put into its cache at a price of their own"""
    cost: float | None = None
    """in the currency of the model's prices; None where it is unknown, and for an engine in this process"""


@dataclass(frozen=True, slots=True)
class GenJob:
    prompt: tuple[int, ...]
    """token ids, and ids of positions of blocks"""
    params: SamplingParams
    fork: ForkId | None = None
    expr: ExprId | None = None
    heal: int = 0
    """number of last prompt tokens that may be replaced by others with the same text, which may
    merge with what follows
    """
    begun: int = 0
    """number of last prompt tokens that belong to the answer: they begin its first character"""
    lead: str = ""
    """text of the first of them before the answer"""
    whole: bool = False
    """True: a text that ends inside a character ends before the token that begins it, and its
    tokens are `held`. False: it ends with U+FFFD
    """
    blocks: tuple[Block, ...] = ()
    """the blocks whose ids are in the prompt (`contracts.spans`), in any order, and possibly others"""
    goes_on: bool = False
    """whether `fork` may ask again, until `Following.ended` says that it does not"""
    foreseen: Foreseen | None = None
    """of a traced program"""


@dataclass(frozen=True, slots=True)
class GenOutput:
    """One sample. `ids` and `logprobs` are aligned and belong to `text`: text cut off by a stop is
    in none of them.

    If a stop cuts a token, the rest before the stop is encoded again: these tokens at the end of
    `ids` were never sampled and have no entry in `logprobs`. `ids` begin with the `begun` ones of
    the job.
    """

    text: str
    ids: tuple[int, ...]
    finish_reason: str
    """stop, length or abort; length also if a constraint completed the text because tokens ran out"""
    matched_stop: str | int | None
    logprobs: tuple[TokenLogprob, ...]
    """requested with `params.logprobs`; tokens that a constraint forced or that complete the text
    have none, because no step computed them
    """
    usage: Usage
    is_complete: bool | None = None
    """whether the text is complete under the constraint; None without a constraint"""
    prompt_logprobs: tuple[TokenLogprob, ...] = ()
    """of the prompt's tokens from `params.prompt_logprobs_from` on"""
    healed: tuple[int, ...] | None = None
    """tokens that replace the prompt's last `heal` tokens, before `ids`; None if the prompt is
    unchanged
    """
    lead: str = ""
    """the end of the prompt's text, if the first token of `ids` (or of `held`) begins with it"""
    held: tuple[int, ...] = ()
    """tokens after `ids` that end inside a character; they are in no text until more tokens
    complete it
    """


@dataclass(frozen=True, slots=True)
class ScoreJob:
    """Log-probabilities of each choice's tokens after the prompt. Choices share the prompt's KV."""

    prompt: tuple[int, ...]
    choices: tuple[tuple[int, ...], ...]
    fork: ForkId | None = None
    expr: ExprId | None = None
    blocks: tuple[Block, ...] = ()
    """as of a gen"""
    adapter: str | None = None
    """as in `SamplingParams`"""
    goes_on: bool = False
    """as of a gen"""
    foreseen: Foreseen | None = None
    """as of a gen"""


@dataclass(frozen=True, slots=True)
class ScoreOutput:
    logprobs: tuple[tuple[TokenLogprob, ...], ...]
    """one row per choice, one entry per token of that choice"""
    usage: Usage


@dataclass(frozen=True, slots=True)
class WarmJob:
    """Compute and keep the KV of `prompt`; generate nothing."""

    prompt: tuple[int, ...]
    fork: ForkId | None = None
    blocks: tuple[Block, ...] = ()
    """as of a gen"""
    adapter: str | None = None
    """as in `SamplingParams`"""
    goes_on: bool = False
    """as of a gen"""
    foreseen: Foreseen | None = None
    """as of a gen"""


class GenListener(Protocol):
    def on_progress(self, index: int, text: str, ids: tuple[int, ...]) -> None:
        """Sample `index` grew by `text` and `ids` (deltas). Text never ends inside a character or a
        possible stop.
        """

    def on_done(self, outputs: tuple[GenOutput, ...]) -> None: ...

    def on_error(self, error: Exception) -> None: ...


class CachedListener(Protocol):
    """A listener of gens that also receives how many tokens of the prompt were cached."""

    def on_cached(self, index: int, n_tokens: int) -> None:
        """Once for each sample that makes progress, before its first `on_progress`."""


class LogprobListener(Protocol):
    """A listener of gens that also receives log-probabilities while tokens arrive, if the job
    requests them.
    """

    def on_logprobs(self, index: int, logprobs: tuple[TokenLogprob, ...]) -> None:
        """Log-probabilities of the `ids` of the next `on_progress`. Forced tokens have none yet,
        but may have one in `on_done`.
        """


class ScoreListener(Protocol):
    def on_done(self, output: ScoreOutput) -> None: ...

    def on_error(self, error: Exception) -> None: ...


class WarmListener(Protocol):
    def on_done(self, usage: Usage) -> None: ...

    def on_error(self, error: Exception) -> None: ...


class Port(Protocol):
    """The common part of both ports. All methods may be called from any thread."""

    def describe(self) -> ModelCard:
        """The model, and what the backend can do with it."""

    def prepare(self, constraint: Constraint) -> None:
        """Compile the constraint. BadArgument if it is malformed, BackendUnsupported if the backend
        cannot enforce it.

        The first call may take seconds on the caller's thread. A job prepares a constraint that was
        not prepared before.
        """

    def cancel(self, request: RequestId) -> None:
        """End the request as soon as possible. An unknown or finished request is ignored."""

    def poll(self) -> None:
        """Raise EngineStopped if nothing submitted will ever be answered; otherwise do nothing."""


@runtime_checkable
class Allowing(Protocol):
    """A backend that says what a constraint allows."""

    def allowed(self, constraint: Constraint, begun: tuple[int, ...], tokens: tuple[int, ...]) -> tuple[bool, ...]:
        """Which of `tokens` may follow the first tokens, `begun`, of a text. BadArgument if no text begins
        with these.
        """


@runtime_checkable
class Backend(Port, Protocol):
    """The port at the level of tokens. A prompt has at least one.

    `submit`, `score` and `warm` raise BadArgument, BackendUnsupported, PromptTooLong or CacheFull
    at once if the job can never run. Later errors reach the listener. A cancelled gen ends with
    `on_done`; its partial outputs have finish_reason "abort". A cancelled score or warm ends with
    `on_error(Stopped)`.
    """

    def submit(self, job: GenJob, listener: GenListener) -> RequestId:
        """Start a generation; the listener is called on other threads. PromptTooLong, BadArgument
        or BackendUnsupported at once.
        """

    def score(self, job: ScoreJob, listener: ScoreListener) -> RequestId:
        """Start scoring choices after a prompt. Errors as of `submit`."""

    def warm(self, job: WarmJob, listener: WarmListener) -> RequestId:
        """Compute a prompt and keep it in the cache. Errors as of `submit`."""

    def at_once(self) -> AbstractContextManager[object]:
        """Jobs that this thread submits inside the block start together, at its end. Do not wait
        for one inside.
        """

    def encode(self, text: str, *, markup: bool = False) -> tuple[int, ...]:
        """Token ids of `text`. Special tokens are recognised only in markup. No BOS is added."""

    def encode_all(self, segments: Sequence[Segment]) -> tuple[int, ...]:
        """Token ids of several pieces as one text, split only at the special tokens of markup."""

    def decode(self, ids: Sequence[int], *, special: bool = True) -> str:
        """Text of `ids`, with special tokens spelled out or, with `special=False`, left out.

        Invalid UTF-8 becomes U+FFFD. A block is U+FFFC, at its first position.
        """

    def see(self, image: bytes) -> Block:
        """The block of an image file. It may take seconds, on the caller's thread.
        BackendUnsupported without the capability `images`, BadArgument for bytes that hold no
        picture.
        """

    def n_open(self, ids: Sequence[int]) -> int:
        """How many of the last of these tokens may have to be replaced once more text follows
        (`GenJob.heal`); 0 if the backend cannot heal.
        """

    def render_chat(self, messages: Sequence[Message], *, add_generation_prompt: bool) -> tuple[Segment, ...]:
        """The model's own chat template over all messages. BackendUnsupported if it has none."""

    def render_text(self, text: str) -> tuple[Segment, ...]:
        """The text before a prompt without roles (a BOS if the model uses one), then the text."""

    def render_start(self) -> tuple[Segment, ...]:
        """The text before a text that the model begins itself: BOS, or the separator of texts in
        its training; empty without either.
        """


@runtime_checkable
class Following(Protocol):
    """A backend that wants to know which streams go on: its cache then evicts the others first."""

    def ended(self, forks: tuple[ForkId, ...], *, is_all: bool, batch: int = 0) -> None:
        """As the event ForksEnded says. It never raises."""


@runtime_checkable
class Sized(Protocol):
    """A backend whose cache has a size that is known."""

    @property
    def cache_tokens(self) -> int: ...
