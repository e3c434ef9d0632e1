"""The experts that the tokens of a run passed through, and how the load was shared among them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from ...contracts.events import FIRST_EXPERT, Entry, ExpertsChosen, RequestQueued, TextArrived, TokensSampled
from ...contracts.ids import RequestId

MOST = 1_024
"""layers, and experts of a layer, that are shown"""


@dataclass(frozen=True, slots=True)
class Routes:
    """What the tokens of one sequence chose. Tokens that were cached before the run are not among them."""

    layers: tuple[int, ...]
    top_k: int
    at: Mapping[int, str]
    """position -> experts, as `ExpertsChosen` writes them"""

    def of_layer(self, layer: int) -> Routes:
        """The same for one layer, which must be among `layers`."""
        place = self.layers.index(layer) * self.top_k
        return Routes((layer,), self.top_k, {position: chosen[place : place + self.top_k] for position, chosen in self.at.items()})

    def first(self, position: int) -> tuple[int, int] | None:
        """As `most_often`; None if it is not known."""
        return most_often(self.at[position], self.top_k) if position in self.at else None


def most_often(chosen: str, top_k: int) -> tuple[int, int]:
    """The expert with the largest weight in most layers, and in how many; of several the one with
    the lowest number.
    """
    counts = Counter(chosen[::top_k])
    expert = min(counts, key=lambda char: (-counts[char], char))
    return ord(expert) - FIRST_EXPERT, counts[expert]


@dataclass(slots=True)
class Load:
    """How many of `n_tokens` tokens each expert of each layer computed."""

    layers: tuple[int, ...] = ()
    count: int = 0
    top_k: int = 0
    n_tokens: int = 0
    by_layer: list[Counter[int]] = field(default_factory=list)
    """of each of `layers`: expert -> tokens"""

    def share(self, expert: int, place: int | None = None) -> float:
        """Of the choices in one layer, or in all, the share that took this expert."""
        counted = self.by_layer if place is None else self.by_layer[place : place + 1]
        total = self.n_tokens * self.top_k * len(counted)
        return sum(one[expert] for one in counted) / total if total else 0.0


class ExpertsView:
    """A fold over one run: the load, and the routes of each request."""

    def __init__(self) -> None:
        self.load = Load()
        self._tokens: dict[RequestId, list[int]] = {}
        self._at: dict[RequestId, dict[int, str]] = {}
        self._known: dict[int, str] | None = None
        """what a token chose, by a number that stands for all tokens up to it"""

    def fold(self, entry: Entry) -> None:
        match entry.event:
            case RequestQueued(request=request, prompt=prompt):
                self._tokens[request] = list(prompt)
            case TokensSampled(samples=samples) | TextArrived(index=0, samples=samples):
                for sample in samples:
                    if sample.request in self._tokens:
                        self._tokens[sample.request].append(sample.token)
            case ExpertsChosen() as event if 0 < event.top_k <= event.count <= MOST and 0 < len(event.layers) <= MOST:
                self._choose(event)

    def _choose(self, event: ExpertsChosen) -> None:
        load = self.load
        if not load.layers:
            load.layers, load.count, load.top_k = event.layers, event.count, event.top_k
            load.by_layer = [Counter() for _ in event.layers]
        if (load.layers, load.count, load.top_k) != (event.layers, event.count, event.top_k):
            return
        n_each = event.top_k * len(event.layers)
        for request, start, chosen in event.chosen:
            if request not in self._tokens:
                continue
            at = self._at.setdefault(request, {})
            for n in range(len(chosen) // n_each):
                one = chosen[n * n_each : (n + 1) * n_each]
                at[start + n] = one
                load.n_tokens += 1
                for place, counts in enumerate(load.by_layer):
                    counts.update(ord(char) - FIRST_EXPERT for char in one[place * event.top_k : (place + 1) * event.top_k])

    def routes(self, request: RequestId) -> Routes | None:
        """Of a request that is over, with what earlier requests of the run computed of its
        beginning. None without experts.
        """
        if not self.load.layers:
            return None
        if self._known is None:
            self._known = {
                key: self._at[other][position]
                for other, tokens in self._tokens.items()
                if other in self._at
                for position, key in enumerate(_keys(tokens))
                if position in self._at[other]
            }
        known = self._known
        at = {position: known[key] for position, key in enumerate(_keys(self._tokens.get(request, ()))) if key in known}
        return Routes(self.load.layers, self.load.top_k, at)


def _keys(tokens: Iterable[int]) -> Iterable[int]:
    key = 0
    for token in tokens:
        yield (key := hash((key, token)))


def load_of(entries: Iterable[Entry]) -> Load | None:
    """None if no token of the run passed through experts."""
    view = ExpertsView()
    for entry in entries:
        view.fold(entry)
    return view.load if view.load.n_tokens else None
