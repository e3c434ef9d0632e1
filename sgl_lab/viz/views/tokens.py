"""The text of every fork, token by token, with the origin of each token.

A fold of the events of language and engine. `StreamExtended` is the authority on the content of a
stream; until it arrives, sampled tokens are shown instead. A fork's own stream begins at its
`base`: everything before belongs to its parent and is sent there, once. The first request that
covers a literal token determines its origin, which never changes afterwards.

Knows no tokenizer (`spell` is an argument) and no page.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TypedDict

from ...contracts.events import (
    Entry,
    ExpertsChosen,
    ExprFinished,
    ExprStarted,
    ForkOpened,
    PrefixMatched,
    RequestAnswered,
    RequestFinished,
    RequestQueued,
    Sample,
    StepRan,
    StreamExtended,
    TextArrived,
    TokensSampled,
)
from ...contracts.ids import ForkId, RequestId, RunId
from ...contracts.legible import legible
from .clock import RunClock
from .experts import most_often
from .reuse import Reuse
from .tok import LEAST_BYTES, Layout, Tok, Token


class ForkRow(TypedDict):
    fork: int
    """negative for a further sample of a gen with `n` of them: then its request's number"""
    parent: int | None
    index: int
    label: str
    run: int
    base: int
    state: str
    """error or stopped if something in it ended so; otherwise empty"""


class TokensOp(TypedDict):
    fork: int
    start: int
    toks: list[Tok]


class TokensPicture(TypedDict):
    """`toks` replaces the fork's tokens from `start` on."""

    forks: list[ForkRow]
    ops: list[TokensOp]


class WrittenOp(TypedDict):
    fork: int
    start: int
    toks: list[str]
    """each as JSON text"""


class WrittenTokens(TypedDict):
    """A `TokensPicture` of which the tokens, its largest part, are JSON text."""

    forks: list[ForkRow]
    ops: list[WrittenOp]


@dataclass(slots=True)
class _Fork:
    opened: ForkOpened
    base: int
    own: list[Token] = field(default_factory=list)
    live: _Request | None = None
    """the last generation: its samples are shown as the end of the stream, and later lend it their
    logprobs
    """
    role: str = ""
    """role of the turn that contains the last expression"""
    state: str = ""

    @property
    def end(self) -> int:
        return self.base + len(self.own)


@dataclass(slots=True)
class _Request:
    fork: _Fork
    prompt: tuple[int, ...]
    t: float
    """when it was queued, then when its last token was drawn"""
    done: int = 0
    """tokens in KV"""
    drawn: list[Token] = field(default_factory=list)
    running: bool = True
    n_open: int = 0
    """tokens at the end of the stream that are not in the prompt, because they may be generated
    again
    """
    is_matched: bool = False
    """whether it is known how many of its prompt's tokens were cached"""
    n_again: int = 0
    """drawn tokens that were at the end of the stream already: the prompt's end, generated again"""


class TokensView:
    """Streams of one run, or of all runs with `run=None`. `spell` returns the text of one token id."""

    def __init__(self, spell: Callable[[int], str], run: RunId | None = None, reuse: Reuse | None = None) -> None:
        self._layout = Layout(spell)
        self._reuse = reuse or Reuse(run)
        self._run = run
        self._clock = RunClock(run)
        self._now = 0.0
        self._forks: dict[ForkId, _Fork] = {}
        self._requests: dict[RequestId, _Request] = {}
        self._new_rows: dict[ForkId, None] = {}
        self._changed: dict[ForkId, int] = {}
        """own tokens from this index on have not been sent yet"""

    def fold(self, entry: Entry) -> None:
        self._reuse.fold(entry)
        self._now = self._clock.read(entry) or 0.0
        match entry.event:
            case ForkOpened() as event:
                self._open(event)
            case ExprStarted(fork=fork, role=role) if fork in self._forks:
                self._forks[fork].role = role
            case ExprFinished(fork=fork, status=status) if status != "ok" and fork in self._forks:
                self._forks[fork].state = status
                self._new_rows[fork] = None
            case StreamExtended(fork=fork) as event if fork in self._forks:
                self._extend(self._forks[fork], event)
            case RequestQueued() as event:
                self._queue(event)
            case PrefixMatched(request=request, n_hit=n_hit) if request in self._requests:
                n_reused = min(n_hit, self._reuse.n_reused(request))
                self._computed(self._requests[request], 0, n_reused, "reused")
                self._computed(self._requests[request], n_reused, n_hit, "cached")
                self._requests[request].is_matched = True
            case StepRan(prefill=prefill):
                for request, n_tokens in prefill:
                    if mine := self._requests.get(request):
                        self._computed(mine, mine.done, mine.done + n_tokens, "computed")
                self._forget()
            case ExpertsChosen(top_k=top_k, layers=layers, chosen=chosen) if top_k > 0 and layers:
                for request, start, experts in chosen:
                    if mine := self._requests.get(request):
                        self._routed(mine, start, experts, top_k, len(layers))
            case TokensSampled(samples=samples):
                requests = self._requests
                for sample in samples:
                    if mine := requests.get(sample.request):
                        self._sampled(mine, sample)
            case TextArrived(request=request, index=0, samples=samples) as arrived if mine := self._requests.get(request):
                self._begun(mine)
                if arrived.is_whole:
                    self._whole(mine, samples)
                else:
                    for sample in samples:
                        self._sampled(mine, sample)
            case RequestAnswered(request=request) if request in self._requests:
                self._begun(self._requests[request])
                self._requests.pop(request).running = False
            case RequestFinished(request=request) if request in self._requests:
                self._requests[request].running = False

    def delta(self) -> TokensPicture | None:
        """The changes since the last call of `delta` or `written`, or None."""
        forks, changed = self._news()
        return {"forks": forks, "ops": [self._op(fork, index) for fork, index in changed]} if forks or changed else None

    def full(self) -> TokensPicture:
        """Everything, in the shape of a delta."""
        forks, own = self._all()
        return {"forks": forks, "ops": [self._op(fork, index) for fork, index in own]}

    def written(self, *, whole: bool) -> WrittenTokens | None:
        """The same as `delta`, or as `full` if `whole`, with JSON text of the tokens."""
        forks, changed = self._all() if whole else self._news()
        return {"forks": forks, "ops": [self._written(fork, index) for fork, index in changed]} if whole or forks or changed else None

    def least_bytes(self) -> int:
        """A lower bound of the size of `full` as JSON."""
        return LEAST_BYTES * sum(len(fork.own) for fork in self._forks.values())

    # ------------------------------------------------------------ events

    def _open(self, event: ForkOpened) -> None:
        if self._run is None or event.run == self._run:
            parent = self._forks.get(event.parent) if event.parent is not None else None
            self._forks[event.fork] = _Fork(event, parent.end if parent else 0)
            self._new_rows[event.fork] = None

    def _queue(self, event: RequestQueued) -> None:
        fork = self._forks.get(event.fork) if event.fork is not None else None
        if fork is not None:
            is_further = event.kind == "gen" and event.group != event.request
            fork = self._sample(fork, event) if is_further else fork
            self._requests[event.request] = request = _Request(fork, event.prompt, self._now)
            request.n_open = max(0, fork.end - len(event.prompt)) if event.kind == "gen" else 0
            if event.kind == "gen":
                fork.live = request

    def _sample(self, fork: _Fork, event: RequestQueued) -> _Fork:
        """A stream for a further sample of a gen: the stream of its fork has only the first. Its
        number is that of its request, negated.
        """
        number = event.request - event.group
        opened = ForkOpened(fork.opened.run, ForkId(-event.request), fork.opened.fork, number, f"sample {number + 1}")
        self._forks[opened.fork] = sample = _Fork(opened, len(event.prompt), role=fork.role)
        self._new_rows[opened.fork] = None
        return sample

    def _extend(self, fork: _Fork, event: StreamExtended) -> None:
        if event.start < fork.base or (event.start > fork.base and not fork.own):
            # The border with the parent differs from what the opening of the fork suggested.
            fork.base, fork.own = event.start, []
            self._new_rows[event.fork] = None
            self._change(fork, 0)
        cls = event.kind if event.kind in ("generated", "choice") else "text"
        tokens = [Token(token, cls, event.role) for token in event.tokens]
        for token in tokens[: event.n_healed]:
            token.healed = event.healed
        live = fork.live
        if live is not None and cls == "generated":
            first = event.start - len(live.prompt)
            for token, drawn in zip(tokens, live.drawn[max(first, 0) :] if first >= 0 else (), strict=False):
                if drawn.id != token.id:
                    break
                token.sample, token.t, token.ms, token.expert = drawn.sample, drawn.t, drawn.ms, drawn.expert
            covered = first + len(tokens)
            if live.running and covered >= 0:
                # The stream is extended while its generation continues: tokens sampled since then
                # remain.
                tokens += [replace(drawn, cls=cls, role=event.role) for drawn in live.drawn[covered:]]
        self._replace(fork, event.start - fork.base, tokens)

    def _replace(self, fork: _Fork, start: int, tokens: list[Token]) -> None:
        """Put `tokens` at `start`. Known details of the tokens at these positions are kept."""
        old = fork.own[start:]
        for before, after in zip(old, tokens, strict=False):
            if before.id != after.id:
                break
            after.expert = after.expert or before.expert
            if after.cls == "text" and before.cls in ("cached", "reused", "computed"):
                after.cls = before.cls
        fork.own[start:] = tokens
        pairs = zip(old, tokens, strict=False)
        n_same = next((i for i, (before, after) in enumerate(pairs) if before != after), min(len(old), len(tokens)))
        if n_same < max(len(old), len(tokens)):
            self._change(fork, start + n_same)

    def _computed(self, request: _Request, first: int, end: int, cls: str) -> None:
        """The request's tokens first..end are in KV now. Those without an origin get `cls`, in
        whichever ancestor they are.
        """
        request.done = end
        end = min(end, len(request.prompt))
        fork: _Fork | None = request.fork
        while fork is not None and end > first:
            for index in range(max(first - fork.base, 0), min(end, fork.end) - fork.base):
                token = fork.own[index]
                if token.cls == "text" and token.id == request.prompt[fork.base + index]:
                    token.cls = cls
                    self._change(fork, index)
            end = min(end, fork.base)
            fork = self._forks.get(fork.opened.parent) if fork.opened.parent is not None else None

    def _routed(self, request: _Request, start: int, experts: str, top_k: int, n_layers: int) -> None:
        """Of the request's tokens from `start` on, in whichever ancestor they are."""
        each = top_k * n_layers
        end = start + len(experts) // each
        fork: _Fork | None = request.fork
        while fork is not None and end > start:
            first = max(start, fork.base)
            for position in range(first, min(end, fork.end)):
                token = fork.own[position - fork.base]
                token.expert = (*most_often(experts[(position - start) * each : (position - start + 1) * each], top_k), n_layers)
            if first < min(end, fork.end):
                self._change(fork, first - fork.base)
            end = min(end, fork.base)
            fork = self._forks.get(fork.opened.parent) if fork.opened.parent is not None else None

    def _begun(self, request: _Request) -> None:
        """An engine behind an API has computed the prompt: all of it that was not cached, if that
        is known.
        """
        if request.is_matched:
            self._computed(request, request.done, max(request.done, len(request.prompt)), "computed")

    def _sampled(self, request: _Request, sample: Sample) -> None:
        fork, now, drawn = request.fork, self._now, request.drawn
        token = Token(sample.token, "generated", fork.role, sample, now, now - request.t)
        request.t = now
        drawn.append(token)
        if fork.live is not request:
            return
        own, n_prompt, n_again = fork.own, len(request.prompt), request.n_again
        if n_again == len(drawn) - 1 and 0 <= (at := n_prompt + n_again - fork.base) < len(own) and own[at].id == sample.token:
            request.n_again += 1
        elif request.n_open + n_prompt + len(drawn) - n_again == fork.base + len(own) + 1:
            self._changed.setdefault(fork.opened.fork, len(own))
            own.append(token)

    def _whole(self, request: _Request, samples: tuple[Sample, ...]) -> None:
        """The answer is these: the stream lends it their logprobs when it is extended by them."""
        before, fork = request.drawn, request.fork
        request.drawn = []
        for index, sample in enumerate(samples):
            same = before[index] if index < len(before) and before[index].id == sample.token else None
            t, ms = (same.t, same.ms) if same else (self._now, 0.0)
            request.drawn.append(Token(sample.token, "generated", fork.role, sample, t, ms))

    def _forget(self) -> None:
        """Drop finished requests. Each stays until the next step report, which may arrive after its
        end.
        """
        for request in [request for request, mine in self._requests.items() if not mine.running]:
            del self._requests[request]

    def _change(self, fork: _Fork, index: int) -> None:
        name = fork.opened.fork
        self._changed[name] = min(index, self._changed.get(name, index))

    # ------------------------------------------------------------ JSON

    def _row(self, fork: _Fork) -> ForkRow:
        event = fork.opened
        return {
            "fork": event.fork,
            "parent": event.parent,
            "index": event.index,
            "label": legible(event.label),
            "run": event.run,
            "base": fork.base,
            "state": legible(fork.state),
        }

    def _news(self) -> tuple[list[ForkRow], list[tuple[_Fork, int]]]:
        """New rows, and forks with the index of their first new token."""
        forks = [self._row(self._forks[fork]) for fork in self._new_rows]
        changed = [(self._forks[fork], index) for fork, index in self._changed.items()]
        self._new_rows.clear()
        self._changed.clear()
        return forks, changed

    def _all(self) -> tuple[list[ForkRow], list[tuple[_Fork, int]]]:
        forks = self._forks.values()
        return [self._row(fork) for fork in forks], [(fork, 0) for fork in forks if fork.own]

    def _op(self, fork: _Fork, index: int) -> TokensOp:
        return {"fork": fork.opened.fork, "start": fork.base + index, "toks": self._layout.plain(fork.own[index:])}

    def _written(self, fork: _Fork, index: int) -> WrittenOp:
        return {"fork": fork.opened.fork, "start": fork.base + index, "toks": self._layout.written(fork.own[index:])}
