"""An exploration: the explored answer, its branches, and tries of what was sampled again from one
token. A fold of the events of its run.

Knows no tokenizer (`spell` is an argument) and no page.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypedDict

from ...contracts.events import (
    BranchChanged,
    Entry,
    ExplorationOpened,
    PrefixMatched,
    RequestFinished,
    RequestQueued,
    Sample,
    StepRan,
    TokensSampled,
)
from ...contracts.ids import ForkId, RequestId, RunId
from ...contracts.legible import finite, legible
from .trie import Cell, TriePicture, trie

Other = tuple[str, int, float]
"""text, id, logprob of an alternative, best first"""
Drawn = tuple[str, int, float | None, tuple[Other, ...]]
"""text, id, logprob and alternatives of a token"""


class PieceRow(TypedDict):
    n: int
    role: str
    kind: str
    text: str


class BranchRow(TypedDict):
    id: int
    """0 is the explored answer"""
    fork: int
    parent: int
    how: str
    label: str
    pinned: bool
    deleted: bool
    temperature: float
    seed: int | None
    piece: int | None
    text: str
    """of the edited piece"""
    n_forced: int
    n_kept: int
    """tokens that it shares with its parent's answer"""
    prompt: int
    cached: int | None
    """tokens before the first new one that were found in the cache; None until that is known"""
    computed: int
    """tokens before the first new one that were computed"""
    ms: float | None
    """until the first new token"""
    state: str
    """running, or why it ended: stop, length, abort or error"""
    toks: list[Drawn]


class ExplorePicture(TypedDict, total=False):
    """Empty while nothing is explored."""

    of: str
    name: str
    pieces: list[PieceRow]
    branches: list[BranchRow]
    tries: list[TriePicture]


@dataclass(slots=True)
class _Branch:
    about: BranchChanged | None
    cells: list[Cell] = field(default_factory=list)
    n_forced: int = 0
    n_kept: int = 0
    request: RequestId | None = None
    prompt: tuple[int, ...] = ()
    """without its answer"""
    cached: int | None = None
    computed: int = 0
    queued_ns: int = 0
    first_ns: int | None = None
    state: str = "running"

    @property
    def is_seen(self) -> bool:
        return self.about is None or not self.about.is_deleted


class ExploreView:
    """Of the exploration of one run; empty while there is none. With `run=None`, of the first one."""

    def __init__(self, spell: Callable[[int], str], run: RunId | None = None) -> None:
        self._spell, self._run = spell, run
        self._opened: ExplorationOpened | None = None
        self._branches: dict[int, _Branch] = {}
        self._by_request: dict[RequestId, int] = {}
        self._by_fork: dict[ForkId, int] = {}
        self._changed: set[int] = set()
        self._is_new = False

    def fold(self, entry: Entry) -> None:
        match entry.event:
            case ExplorationOpened(run=run) as opened if self._run in (None, run) and len(self._branches) < 2:
                self._opened, self._run, self._is_new = opened, run, True
                self._by_request.clear()
                cells = [Cell(sample.token, sample.logprob, sample.top) for sample in opened.answer]
                self._branches[0] = _Branch(None, cells, prompt=opened.prompt, state="")
                self._changed.add(0)
                if opened.request is not None:
                    self._by_request[opened.request], self._branches[0].state = 0, "running"
            case _ if self._opened is None:
                pass
            case BranchChanged(run=run) as about if run == self._run:
                self._change(about)
            case RequestQueued(request=request, fork=fork, prompt=prompt) if fork in self._by_fork:
                self._queue(self._branches[self._by_fork[fork]], self._by_fork[fork], request, prompt, entry.t_ns)
            case PrefixMatched(request=request, n_hit=n_hit) if (mine := self._of(request)) is not None and mine.cached is None:
                mine.cached = n_hit
            case StepRan(prefill=prefill):
                for request, n_tokens in prefill:
                    if (mine := self._of(request)) is not None:
                        mine.computed += n_tokens
            case TokensSampled(samples=samples):
                for sample in samples:
                    if (mine := self._of(sample.request)) is not None:
                        self._sampled(mine, sample, entry.t_ns)
            case RequestFinished(request=request, reason=reason) if (mine := self._of(request)) is not None:
                mine.state = reason
            case _:
                pass

    def delta(self) -> ExplorePicture | None:
        """The changed branches, and all tries, in the shape of `full`. None if nothing changed."""
        if not self._changed and not self._is_new:
            return None
        return self._picture(sorted(self._changed))

    def full(self) -> ExplorePicture:
        return self._picture(list(self._branches))

    def least_bytes(self) -> int:
        return 40 * sum(len(branch.cells) for branch in self._branches.values())

    @property
    def is_empty(self) -> bool:
        return self._opened is None

    def cells(self, branch: int) -> Sequence[Cell]:
        """The tokens of a branch's answer so far; of 0, those of the explored answer."""
        return tuple(self._branches[branch].cells)

    # ------------------------------------------------------------ events

    def _of(self, request: RequestId) -> _Branch | None:
        number = self._by_request.get(request)
        if number is None:
            return None
        self._changed.add(number)
        return self._branches[number]

    def _change(self, about: BranchChanged) -> None:
        if about.branch not in self._branches:
            mine = self._branches[about.branch] = _Branch(about, n_forced=len(about.forced))
            before = self._branches[about.parent].cells if about.parent in self._branches and about.how != "edit" else []
            self._by_fork[about.fork] = about.branch
            for at, token in enumerate(about.forced):
                known = before[at] if at < len(before) and mine.n_kept == at else None
                mine.n_kept += known is not None and known.token == token
                if known is not None and known.token != token:
                    known = Cell(token, dict(known.top).get(token), known.top)
                mine.cells.append(known or Cell(token, None, ()))
        self._branches[about.branch].about = about
        self._changed.add(about.branch)

    def _queue(self, mine: _Branch, number: int, request: RequestId, prompt: tuple[int, ...], t_ns: int) -> None:
        if mine.request is None:
            mine.request, mine.queued_ns = request, t_ns
            mine.prompt = prompt[: len(prompt) - mine.n_forced]
            self._by_request[request] = number
            self._changed.add(number)

    def _sampled(self, mine: _Branch, sample: Sample, t_ns: int) -> None:
        if mine.first_ns is None and mine.about is not None:
            mine.first_ns = t_ns
        mine.cells.append(Cell(sample.token, sample.logprob, sample.top))

    # ------------------------------------------------------------ picture

    def _picture(self, numbers: Sequence[int]) -> ExplorePicture:
        self._changed, self._is_new = set(), False
        opened = self._opened
        if opened is None:
            return {}
        return {
            "of": legible(opened.of),
            "name": legible(opened.name),
            "pieces": [self._piece(*piece) for piece in opened.pieces],
            "branches": [self._row(number) for number in numbers],
            "tries": self._tries(),
        }

    def _piece(self, start: int, n: int, role: str, kind: str) -> PieceRow:
        prompt = self._opened.prompt if self._opened else ()
        return {"n": n, "role": legible(role), "kind": kind, "text": legible("".join(map(self._spell, prompt[start : start + n])))}

    def _row(self, number: int) -> BranchRow:
        mine = self._branches[number]
        about = mine.about
        return {
            "id": number,
            "fork": about.fork if about else 0,
            "parent": about.parent if about else 0,
            "how": legible(about.how) if about else "answer",
            "label": legible(about.label) if about else "answer",
            "pinned": bool(about and about.is_pinned),
            "deleted": bool(about and about.is_deleted),
            "temperature": about.temperature if about else 0.0,
            "seed": about.seed if about else None,
            "piece": about.piece if about else None,
            "text": legible(about.text) if about else "",
            "n_forced": mine.n_forced,
            "n_kept": mine.n_kept,
            "prompt": len(mine.prompt),
            "cached": mine.cached,
            "computed": mine.computed,
            "ms": None if mine.first_ns is None else round((mine.first_ns - mine.queued_ns) / 1e6, 1),
            "state": legible(mine.state),
            "toks": [self._drawn(cell) for cell in mine.cells],
        }

    def _drawn(self, cell: Cell) -> Drawn:
        top = tuple((legible(self._spell(token)), token, _short(logprob)) for token, logprob in cell.top if finite(logprob) is not None)
        known = cell.logprob is not None and finite(cell.logprob) is not None
        return legible(self._spell(cell.token)), cell.token, _short(cell.logprob or 0.0) if known else None, top

    def _tries(self) -> list[TriePicture]:
        """A trie for each place from which was sampled again, the last one first."""
        places: dict[tuple[tuple[int, ...], tuple[int, ...]], None] = {}
        for mine in self._branches.values():
            if mine.is_seen and mine.about is not None and mine.about.how == "more" and mine.prompt:
                places.pop(place := (mine.prompt, mine.about.forced), None)
                places[place] = None
        found = []
        for prompt, forced in reversed(places):
            lines = {
                number: mine.cells
                for number, mine in self._branches.items()
                if mine.is_seen and mine.prompt == prompt and tuple(cell.token for cell in mine.cells[: len(forced)]) == forced
            }
            found.append(trie(lines, len(forced), lambda token: legible(self._spell(token))))
        return found


def _short(number: float) -> float:
    return float(f"{number:.5g}")
