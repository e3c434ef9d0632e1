"""What the rules read of a run, folded from its record within fixed limits: every gen and select
with its prompt, the origin of each token, what it asked and how it ended.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate

from ...contracts.events import (
    Entry,
    ExprAsked,
    ExprFinished,
    ExprStarted,
    ForkOpened,
    PrefixMatched,
    RequestAnswered,
    RequestFinished,
    RequestQueued,
    Sample,
    StreamExtended,
    TokensSampled,
)
from ...contracts.ids import ExprId, ForkId, RequestId
from ...trace import Record

MAX_ENTRIES = 20_000
"""events of a run that are read"""
MAX_REQUESTS = 128
"""gens and selects of a run that are kept"""
MAX_TOKENS = 100_000
"""tokens of all prompts of a run that are kept, and of all literal text"""

TEXT, OTHER = b"t"[0], b"o"[0]
"""origin of a token: literal text and markup; anything else"""
Spell = Callable[[int], str]


@dataclass(slots=True)
class Request:
    """One gen or select. With several samples, or for a select, the prompt is that of the first request."""

    expr: ExprStarted
    fork: int
    """number of its fork in the run"""
    prompt: tuple[int, ...] = ()
    origins: bytes = b""
    """of the prompt's tokens"""
    asked: ExprAsked | None = None
    n_hit: int | None = None
    first: Sample | None = None
    n_sampled: int = 0
    """tokens of all samples"""
    reason: str = ""
    finished: ExprFinished | None = None
    text: str | None = None
    """of the prompt, once it was spelled"""

    @property
    def name(self) -> str:
        """As a sentence names it."""
        return f"{self.expr.kind} {self.expr.name!r}" if self.expr.name else f"the {self.expr.kind}"

    def is_text(self, position: int) -> bool:
        return position < len(self.origins) and self.origins[position] == TEXT

    def n_text(self, start: int) -> int:
        """Tokens of literal text from a position on."""
        return self.origins.count(TEXT, start)


@dataclass
class Seen:
    """One run. `spell` gives the text of a token."""

    source: str
    spell: Spell = field(repr=False)
    requests: list[Request] = field(default_factory=list)
    texts: list[tuple[int, ...]] = field(default_factory=list)
    """the tokens of every stretch of literal text and markup, in order"""

    @cached_property
    def literals(self) -> tuple[str, ...]:
        return tuple(self.text(tokens) for tokens in self.texts)

    def text(self, tokens: Iterable[int]) -> str:
        return "".join(map(self.spell, tokens))

    def prompt_text(self, request: Request) -> str:
        if request.text is None:
            request.text = self.text(request.prompt)
        return request.text

    def token_at(self, tokens: tuple[int, ...], character: int) -> int:
        """The position of the token that has the character at this place of their text."""
        return bisect_right(list(accumulate(len(self.spell(token)) for token in tokens)), character)


def seen(record: Record, spell: Spell | None = None) -> Seen:
    """Reads at most MAX_ENTRIES events. A run with more is judged by its beginning."""
    fold = _Fold(Seen(record.source, spell or record.spell))
    for entry in record.entries[:MAX_ENTRIES]:
        fold.fold(entry)
    return fold.found


class _Fold:
    def __init__(self, found: Seen) -> None:
        self.found = found
        self._left = {"texts": MAX_TOKENS, "prompts": MAX_TOKENS}
        self._origins: dict[ForkId, bytearray] = {}
        self._forks: dict[ForkId, int] = {}
        self._exprs: dict[ExprId, Request] = {}
        self._requests: dict[RequestId, Request] = {}

    def _fits(self, what: str, n_tokens: int) -> bool:
        """Whether that many more are kept."""
        self._left[what] -= n_tokens
        return self._left[what] >= 0

    def fold(self, entry: Entry) -> None:
        match entry.event:
            case ForkOpened(fork=fork, parent=parent):
                self._forks[fork] = len(self._forks)
                self._origins[fork] = bytearray(self._origins.get(parent, b"") if parent is not None else b"")
            case StreamExtended(fork=fork, start=start, tokens=tokens, kind=kind):
                origins = self._origins.setdefault(fork, bytearray())
                origins[start:] = bytes([TEXT if kind == "text" else OTHER]) * len(tokens)
                if kind == "text" and self._fits("texts", len(tokens)):
                    self.found.texts.append(tokens)
            case ExprStarted(expr=expr, fork=fork) if len(self._exprs) < MAX_REQUESTS:
                self._exprs[expr] = Request(event := entry.event, self._forks.get(fork, 0))
                assert isinstance(event, ExprStarted)
            case ExprAsked(expr=expr) if expr in self._exprs:
                self._exprs[expr].asked = entry.event
            case RequestQueued(request=request, expr=expr, fork=fork) as queued if expr is not None and expr in self._exprs:
                self._requests[request] = mine = self._exprs[expr]
                if not mine.prompt and self._fits("prompts", len(queued.prompt)):
                    is_score = queued.kind == "score" and queued.reusable is not None
                    mine.prompt = queued.prompt[: (queued.reusable or 0) + 1] if is_score else queued.prompt
                    mine.origins = bytes(self._origins.get(fork, b""))[: len(mine.prompt)] if fork is not None else b""
                    self.found.requests.append(mine)
            case PrefixMatched(request=request, n_hit=n_hit) if request in self._requests and self._requests[request].n_hit is None:
                self._requests[request].n_hit = n_hit
            case TokensSampled(samples=samples):
                for sample in samples:
                    if (of := self._requests.get(sample.request)) is not None:
                        of.first = of.first or sample
                        of.n_sampled += 1
            case RequestFinished(request=request, reason=reason) | RequestAnswered(request=request, reason=reason):
                if (of := self._requests.get(request)) is not None and of.reason != "length":
                    of.reason = reason
            case ExprFinished(expr=expr) as finished if expr in self._exprs:
                self._exprs[expr].finished = finished
            case _:
                pass
