"""The requests of a stream whose backend takes messages: the prompt as messages, a gen, and the two
ways to select.
"""

from __future__ import annotations

import json
import math
import re
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextvars import Context
from dataclasses import replace
from itertools import groupby
from typing import Protocol

from ..contracts.conversation import (
    ChatJob,
    ChatMessage,
    ChatOutput,
    ConversationBackend,
    DecisionJob,
    DecisionOutput,
    Part,
    Prompt,
    TextPart,
    ToolCallPart,
    ToolResultPart,
)
from ..contracts.errors import BackendUnsupported, ProgramError, RequestFailed, Stopped
from ..contracts.events import RequestAnswered, Sample, TextArrived
from ..contracts.ids import RequestId
from ..contracts.params import Constraint, SamplingParams
from ..contracts.pieces import mark, piece, pieces
from ..contracts.port import Usage
from ..contracts.prefixes import n_common
from .ahead import first_stop
from .expressions import Gen, Select
from .generation import Generation
from .history import History, Piece, Turn
from .run import Run
from .shared import Place, place_of
from .usage import usage_of
from .variable import Variable
from .work import Evaluation, Worked

Changed = Callable[[int, tuple[int, ...], str, str], None]
"""first position, the pieces that stand there now, everything that stood after it being gone, their
kind and their role"""


class Conversation(History):
    """A history that becomes a prompt of messages. `shown` is it as views show it, in pieces of text."""

    def __init__(self, run: Run, changed: Changed) -> None:
        super().__init__(run.chat)
        self._run = run
        self._changed = changed
        self._seen = ""
        self.shown: list[int] = []
        self.shared: tuple[tuple[int, int], ...] = ()
        """of the prompt that was made last: what `ChatJob` has by this name"""
        self._places: list[Place] = []
        """beginnings that other strands go on from"""
        self._n_prompts = 0
        self._n_closed = 0
        """turns that are closed and shown; the pieces of all of them are the first `_n_fixed`"""
        self._n_fixed = 0

    def go_on_from(self, other: History) -> None:
        super().go_on_from(other)
        self._seen = other.certain()
        if isinstance(other, Conversation):
            self.shown, self._n_closed, self._n_fixed = other.shown[:], other._n_closed, other._n_fixed
            self._places = other._places[:]

    def share(self) -> None:
        """Others go on from here."""
        if (place := place_of(self._turns)) not in self._places:
            self._places.append(place)

    def settle(self, *, to_generate: bool = False) -> None:
        self._seen = self.text()
        self._show()

    def take(self, piece: Piece, held: tuple[int, ...] = ()) -> None:
        super().take(piece, held)
        self._seen += piece.text
        self._show()

    def _show(self) -> None:
        """Bring `shown` up to date, and say what changed."""
        at = self._n_fixed
        for ids, kind, role in self._layout():
            n_same = n_common(self.shown[at : at + len(ids)], ids)
            if n_same < len(ids):
                self.shown[at + n_same :] = ids[n_same:]
                self._changed(at + n_same, ids[n_same:], kind, role)
            at += len(ids)
        n_closed = len(self._turns) - self._open
        if n_closed > self._n_closed:
            self._n_closed, self._n_fixed = n_closed, at - (self._n_shown_of(self._turns[-1]) if self._open else 0)

    def _layout(self) -> Iterator[tuple[tuple[int, ...], str, str]]:
        """The pieces after those of the turns that are fixed: (ids, kind, role)."""
        if not self._turns:
            yield from _laid_out([piece for piece in self.history if isinstance(piece, Piece)])
        for turn in self._turns[self._n_closed :]:
            yield (mark(turn.role),), "text", ""
            yield from _laid_out(turn.parts)

    def _n_shown_of(self, turn: Turn) -> int:
        return 1 + sum(len(ids) for ids, _, _ in _laid_out(turn.parts))

    def certain(self) -> str:
        return self._seen if self._turns else self.text()

    def prompt(self) -> Prompt:
        """The prompt of the next request. ProgramError or BackendUnsupported if messages cannot
        express it.
        """
        loose = "".join(piece.text for piece in self.history if isinstance(piece, Piece) and not piece.role)
        if not self._turns:
            if not self._run.card.capabilities.plain_text:
                raise self._run.missing("plain_text")
            return loose
        if loose:
            raise ProgramError("a backend that takes messages has no place for text outside roles", hint="keep all text inside roles")
        if self.role != "assistant":
            where = f"inside role {self.role!r}" if self.role else "after the last turn"
            raise ProgramError(f"a backend that takes messages answers as the assistant, not {where}", hint="write assistant(gen(...))")
        if self._turns[-1].content and not self._run.card.capabilities.continues:
            raise self._run.missing("continues")
        return tuple(self._as_messages(self._begun_alike()))

    def _begun_alike(self) -> set[Place]:
        """A strand that has asked before is expected to ask again: its whole prompt is then the
        beginning of the next."""
        places = set(self._places)
        if self._run.siblings is not None and not self._n_prompts and (place := self._run.siblings.place(self._turns)) is not None:
            self._places.append(place)
            places.add(place)
        if self._n_prompts:
            places.add(place_of(self._turns))
        self._n_prompts += 1
        return places

    def _as_messages(self, places: set[Place]) -> Sequence[ChatMessage]:
        messages: list[ChatMessage] = []
        shared: set[tuple[int, int]] = set()
        n_before = 0
        calls: list[ToolCallPart] = []
        """calls without a result yet"""
        for number, turn in enumerate(self._turns, 1):
            parts = tuple(_part(piece) for piece in turn.parts if piece.text)
            calls += [part for part in parts if isinstance(part, ToolCallPart)]
            if turn.role == "tool" and calls:
                message = ChatMessage("tool", (ToolResultPart(calls.pop(0).id, turn.content),))
            else:
                message = ChatMessage("user" if turn.role == "tool" else turn.role, _joined(parts))
            for _, n_pieces in (place for place in places if place[0] == number):
                shared.add(_position(n_before, turn, n_pieces, message))
            if message.parts:
                messages.append(message)
                n_before += len(message.parts)
        self.shared = tuple(sorted(shared - {(0, 0)}))
        return messages


def _position(n_before: int, turn: Turn, n_pieces: int, message: ChatMessage) -> tuple[int, int]:
    """Where the first pieces of a turn end: after so many parts of the prompt, and so many
    characters of the next."""
    if n_pieces == len(turn.parts):
        return n_before + len(message.parts), 0
    begun = _joined(tuple(_part(piece) for piece in turn.parts[:n_pieces] if piece.text))
    if begun and isinstance(begun[-1], TextPart) and begun[-1] != message.parts[len(begun) - 1]:
        return n_before + len(begun) - 1, len(begun[-1].text)
    return n_before + len(begun), 0


def _laid_out(parts: Sequence[Piece]) -> Iterator[tuple[tuple[int, ...], str, str]]:
    """Neighbouring literal texts as one."""
    for (kind, role), group in groupby(parts, key=lambda part: (part.kind, part.role)):
        if kind == "text":
            yield pieces("".join(part.text for part in group)), kind, role
        else:
            for part in group:
                yield pieces(part.text) if part.ids is None else part.ids, kind, role


def _part(piece: Piece) -> Part:
    return piece.call or piece.image or TextPart(piece.text)


def _joined(parts: Sequence[Part]) -> tuple[Part, ...]:
    """Joins neighbouring texts."""
    joined: list[Part] = []
    for part in parts:
        if isinstance(part, TextPart) and joined and isinstance(joined[-1], TextPart):
            joined[-1] = TextPart(joined[-1].text + part.text)
        else:
            joined.append(part)
    return tuple(joined)


class ChatWorked(Worked, Protocol):
    backend: ConversationBackend

    @property
    def transcript(self) -> Conversation: ...


class RequestEvents:
    """Emits the events of one request, from its first text on. The backend emits `RequestQueued`."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self.request: RequestId | None = None
        """None until the backend has returned its number: text that arrives before that is emitted
        at the end"""

    def grew(self, index: int, text: str) -> None:
        if self.request is not None and text:
            self._run.emit(TextArrived(self.request, index, tuple(_sample(self.request, id) for id in pieces(text))))

    def answered(self, outputs: Sequence[ChatOutput]) -> None:
        if self.request is None:
            return
        for index, output in enumerate(outputs):
            ids, logprobs = _ids_of(output), output.logprobs
            if logprobs and len(ids) == len(logprobs):
                samples = tuple(
                    _sample(self.request, id, each.logprob, tuple((piece(text), logprob) for text, logprob in each.top))
                    for id, each in zip(ids, logprobs, strict=True)
                )
            else:
                samples = tuple(_sample(self.request, id) for id in ids)
            self._run.emit(TextArrived(self.request, index, samples, is_whole=True))
        self.ended(outputs[0].finish_reason, *(output.usage for output in outputs))

    def ended(self, reason: str, *usages: Usage) -> None:
        """`usages` are those of the samples of one prompt, which counts once. A cost counts once
        too: of the whole request."""
        if self.request is None:
            return
        first, can = usages[0] if usages else Usage(), self._run.card.capabilities
        n_cached = first.cached_tokens if usages and can.cached_counts else None
        costs = [usage.cost for usage in usages if usage.cost is not None]
        n_completion = sum(usage.completion_tokens for usage in usages)
        cost = sum(costs) if costs else None
        currency = "" if cost is None else can.prices.currency if can.prices else "USD"
        self._run.emit(RequestAnswered(self.request, reason, first.prompt_tokens, n_completion, n_cached, cost, currency))
        self.request = None


def _sample(request: RequestId, id: int, logprob: float | None = None, top: tuple[tuple[int, float], ...] = ()) -> Sample:
    return Sample(request, id, logprob, top, None, False)


def _ids_of(output: ChatOutput) -> tuple[int, ...]:
    """Its pieces: the server's tokens, where their texts are known and are all of it."""
    texts = [each.text for each in output.logprobs]
    return tuple(map(piece, texts)) if texts and "".join(texts) == output.text else pieces(output.text)


class ChatGeneration(Generation[ChatWorked, ChatOutput]):
    def __init__(self, stream: ChatWorked, source: Gen, variable: Variable, context: Context | None) -> None:
        super().__init__(stream, source, variable, context)
        self._events = RequestEvents(self.run)
        can = self.run.card.capabilities
        self._tools = source.form.tools if source.form is not None and can.tools else ()

    def _adapted(self, params: SamplingParams) -> SamplingParams:
        if self.source.begins:
            raise BackendUnsupported("this engine takes no token ids, and begins= is made of them", hint="leave out begins")
        self.stream.transcript.settle(to_generate=True)
        return replace(params, constraint=None) if self._tools else params

    def _may_go_ahead(self, params: SamplingParams) -> bool:
        """Tokens cannot be counted here, so only a stop can cut the text."""
        return super()._may_go_ahead(params) and bool(params.stop or params.stop_regex)

    def _submit(self, params: SamplingParams) -> RequestId:
        transcript = self.stream.transcript
        prompt = transcript.prompt()
        job = ChatJob(prompt, params, self._tools, self.stream.id, self.expr, tuple(transcript.shown), transcript.shared)
        self._events.request = request = self.stream.backend.converse(job, self)
        return request

    def on_delta(self, index: int, text: str) -> None:
        with self.run.lock:
            self._grew(index, text)
            if not self._hides:
                self._events.grew(index, text)

    def on_done(self, outputs: tuple[ChatOutput, ...]) -> None:
        with self.run.lock:
            self._events.answered(outputs)
            super().on_done(outputs)

    def on_error(self, error: Exception) -> None:
        with self.run.lock:
            self._events.ended("abort" if isinstance(error, Stopped) else "error")
            super().on_error(error)

    def _take(self, outputs: tuple[ChatOutput, ...]) -> None:
        super()._take(tuple(map(self._spelled, outputs)) if self._tools else outputs)

    def _spelled(self, output: ChatOutput) -> ChatOutput:
        """A call in the server's own form, in the language's spelling."""
        if not output.tool_calls:
            return replace(output, is_complete=False)
        call = output.tool_calls[0]
        try:
            text = json.dumps({"name": call.name, "arguments": json.loads(call.arguments)}, ensure_ascii=False)
        except (ValueError, RecursionError):  # its tokens ran out
            text = f'{{"name": {json.dumps(call.name)}, "arguments": {call.arguments}'
            return replace(output, text=text, tool_calls=(), is_complete=False)
        return replace(output, text=text, is_complete=output.finish_reason != "abort")

    def _generated(self, output: ChatOutput, text: str) -> tuple[Piece, tuple[int, ...]]:
        ids = _ids_of(output) if text == output.text else None
        return Piece(text, ids, "generated", call=output.tool_calls[0] if output.tool_calls else None), ()

    def _meta(self, output: ChatOutput) -> dict[str, object]:
        meta = super()._meta(output)
        if output.is_cut:
            meta["cut_past_stop"] = True
        if output.reasoning:
            meta["reasoning_content"] = output.reasoning
        if self._params.logprobs:
            meta["output_token_logprobs"] = [(each.logprob, None, each.text) for each in output.logprobs]
            meta["output_top_logprobs"] = [[(logprob, None, text) for text, logprob in each.top] for each in output.logprobs]
        return meta

    def _served(self) -> ChatOutput:
        ahead = self.stream.ahead
        return self._own(ChatOutput(ahead.text, "stop" if ahead.ended else "length", Usage()))

    def _own(self, output: ChatOutput) -> ChatOutput:
        end = first_stop(output.text, self._params)
        text = output.text if end is None else output.text[: end.at]
        self.stream.ahead.hold(output.text[len(text) :], ended=output.finish_reason == "stop")
        return output if end is None else replace(output, text=text, finish_reason="stop", matched_stop=end.stop)


class _ChatSelection(Evaluation[ChatWorked]):
    source: Select

    def __init__(self, stream: ChatWorked, source: Select, variable: Variable) -> None:
        super().__init__(stream, source, variable)
        self._events = RequestEvents(self.run)

    @abstractmethod
    def _ask(self) -> RequestId: ...

    def start(self) -> None:
        try:
            self.stream.transcript.settle(to_generate=True)
            self.request = self._events.request = self._ask()
        except Exception as error:
            self.on_error(error)

    def on_error(self, error: Exception) -> None:
        with self.run.lock:
            self._events.ended("abort" if isinstance(error, Stopped) else "error")
            super().on_error(error)

    def _chosen(self, choice: str, usage: Usage, meta: dict[str, object]) -> None:
        usage_of(self.run.backend).add(usage)
        if self.variable.reasoning:
            self.variable.reasoning.set("")  # a choice has no reasoning
        self.settle(Piece(choice, kind="choice"), (), choice, self.meta(usage, "stop") | meta)


class Decision(_ChatSelection):
    """The server decides which of the choices it is."""

    def _ask(self) -> RequestId:
        transcript = self.stream.transcript
        job = DecisionJob(transcript.prompt(), self.source.choices, self.stream.id, self.expr, tuple(transcript.shown))
        return self.stream.backend.decide(job, self)

    def on_done(self, output: DecisionOutput) -> None:
        with self.run.lock:
            self._events.ended("stop", output.usage)
            if self.current:
                best = max(range(len(output.probabilities)), key=output.probabilities.__getitem__)
                logprobs = [math.log(p) if p > 0 else -math.inf for p in output.probabilities]
                self._chosen(self.source.choices[best], output.usage, {"normalized_prompt_logprobs": logprobs})


class GeneratedChoice(_ChatSelection):
    """The choices are a constraint, and the text generated under it is the choice."""

    def _ask(self) -> RequestId:
        can = self.run.card.capabilities
        self._is_json = "regex" not in can.constraints
        if self._is_json:
            constraint = Constraint("json_schema", json.dumps({"enum": self.source.choices}))
        else:
            constraint = Constraint("regex", "|".join(map(re.escape, self.source.choices)))
        temperature = 0.0 if "temperature" in can.sampling else 1.0
        params = SamplingParams(max_tokens=None, temperature=temperature, constraint=constraint)
        self.stream.backend.prepare(constraint)
        transcript = self.stream.transcript
        prompt = transcript.prompt()
        job = ChatJob(prompt, params, (), self.stream.id, self.expr, tuple(transcript.shown), transcript.shared)
        return self.stream.backend.converse(job, self)

    def on_delta(self, index: int, text: str) -> None:
        """A choice is shown as a whole."""

    def on_done(self, outputs: tuple[ChatOutput, ...]) -> None:
        with self.run.lock:
            self._events.answered(outputs)
            if not self.current:
                return
            (output,) = outputs
            choice = _json_text(output.text) if self._is_json else output.text
            if choice is not None and choice in self.source.choices:
                self._chosen(choice, output.usage, {})
            elif output.finish_reason == "abort":
                self.give_up(self.run.stopped or Stopped("the selection was stopped"))
            else:
                self.give_up(RequestFailed(f"{self.run.card.name} answered {output.text!r:.80}, which is none of the choices"))


def _json_text(text: str) -> str | None:
    """The text that a JSON string spells, however it spells it; None for what is no such string."""
    try:
        value = json.loads(text)
    except ValueError:
        return None
    return value if isinstance(value, str) else None
