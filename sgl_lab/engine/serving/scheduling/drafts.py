"""Drafts of the next tokens: those that followed the same sequence in the tree, and those that
followed the same few tokens.

A draft is part of its request's row in a step and is verified there. It changes the number of steps
of a text, never the text. This module decides what is drafted, and when it pays: rejected drafts
cost computation. Prompts repeat themselves (J. Saxena, "prompt lookup decoding", 2023), and so do
users who run a cell again with a small edit. Knows neither pages nor rows.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from ....contracts.ids import Namespace, RequestId
from ..cache.node import Tokens
from ..cache.tree import RadixTree
from .costs import StepCosts
from .request import Request

KEY = 3
"""number of equal tokens that are required before their successors are drafted"""
DEPTHS = (32, 16, 8, 5)
"""of the positions with the same key, that one is taken before which most tokens are the same,
counted in these steps
"""
POSITIONS = 8
"""the latest positions of a key that are looked at"""
REMEMBERED = 1 << 13
"""tokens of finished requests that are kept; for each request its generated tokens and the last
ones of its prompt
"""
TAIL = 64
OWN = 2048
"""of a prompt, the last so many tokens are looked through"""
TREE, NGRAM, SEAM = "tree", "ngram", "seam"
SURE_WIDTH, FIRST_WIDTH = 64, 4
"""tokens drafted at first, of a greedy text that comes again and of any other; twice as many
whenever all are accepted
"""
LONGEST_PAUSE = 32
BORDER = -1
"""between the tokens of different requests"""
LEAST_TRUST = 0.2
SURE = 0.8
"""trust in the tree above which other rows are taken to have drafts as good"""
QUIET = 8
"""tokens after a search that found nothing, before the next search is worth waiting for"""


class Corpus:
    """Tokens, with the positions after each sequence of `KEY` tokens."""

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self._positions: defaultdict[Tokens, list[int]] = defaultdict(list)

    def extend(self, tokens: Sequence[int]) -> None:
        all_tokens, positions = self.tokens, self._positions
        for token in tokens:
            here = len(all_tokens)
            positions[tuple(all_tokens[here - KEY : here])].append(here)
            all_tokens.append(token)

    def after(self, tail: list[int]) -> tuple[int, int]:
        """(number of tokens that agree with `tail`, the position after them) for the longest
        agreement; the latest of equals, (0, 0) without any.
        """
        tokens = self.tokens
        best = (0, 0)
        for position in self._positions.get(tuple(tail[-KEY:]), ())[-POSITIONS:]:
            n = next((n for n in DEPTHS if n <= position and tokens[position - n : position] == tail[-n:]), KEY)
            best = max(best, (n, position))
        return best


@dataclass(slots=True)
class DraftState:
    """The drafts of one request, and their success."""

    trust: dict[str, float]
    """by source: share of recent draft tokens that were accepted"""
    first_width: dict[str, int]
    ends: frozenset[int]
    """tokens that end the text: nothing is drafted beyond them"""
    continuation: Tokens = ()
    """expected tokens from the `start`-th generated one on"""
    start: int = 0
    n_checked: int = 0
    """generated tokens that are known to agree with it"""
    source: str = TREE
    is_in_tree: bool = True
    """all tokens so far may be in the tree"""
    width: int = 0
    is_proven: bool = False
    """all of the last draft was accepted"""
    resume: int = 0
    """no n-gram is looked for before this many tokens are generated"""
    pause: int = 1
    quiet_until: int = 0
    """no draft need be looked for before this many tokens are generated, since none was found"""
    own: Corpus = field(default_factory=Corpus)
    n_indexed: int = 0
    """tokens of the request that are in `own`, or too old for it"""

    def expect(self, source: str, continuation: Tokens, n_generated: int) -> Tokens:
        """From here on `continuation` is expected."""
        if source != self.source or not self.width:
            self.width = self.first_width[source]
        continuation = drawable(continuation)
        end = next((i for i, token in enumerate(continuation) if token in self.ends), len(continuation))
        self.source, self.continuation, self.start = source, continuation[:end], n_generated
        return self.continuation

    def expected(self, generated: Sequence[int]) -> Tokens:
        """The rest of the continuation, if the text agrees with it so far."""
        n = len(generated)
        if self.continuation[max(0, self.n_checked - self.start) : n - self.start] != tuple(generated[max(self.start, self.n_checked) :]):
            self.continuation = ()
        self.n_checked = n
        return self.continuation[n - self.start :]


class Drafts:
    """At most `most` tokens are drafted at a time."""

    def __init__(self, most: int, costs: StepCosts | None = None) -> None:
        self._most = most
        self._costs = costs or StepCosts()
        self._texts: dict[Namespace, tuple[Corpus, Corpus]] = {}
        """texts of requests that are over, older and newer; the older are forgotten when the newer
        are full
        """
        self._states: dict[RequestId, DraftState] = {}
        self._trust = {TREE: 1.0, NGRAM: 0.5}
        """by source: share of recent draft tokens that were accepted, of all requests"""

    def draft(self, tree: RadixTree, request: Request, n_most: int, n_rows: int) -> Tokens:
        """Draft tokens that are worth their cost in a step of `n_rows` rows; often none."""
        state = self._states.get(request.id) or self._begin(request)
        even, uneven, most = self._costs.prices(n_rows)
        prices = {TREE: even if state.trust[TREE] > SURE else uneven, NGRAM: uneven, SEAM: even}
        expected = state.expected(request.generated)
        if request.respelled and not request.generated:
            expected = self._at_the_seam(tree, request, state, prices[NGRAM])
        if not expected and state.is_in_tree and state.trust[TREE] >= prices[TREE]:
            continuation = tree.continuation(request.namespace, request.span(0, request.n_tokens), 4 * self._most)
            state.is_in_tree = bool(continuation)
            expected = state.expect(TREE, continuation, len(request.generated))
        if not expected and len(request.generated) >= state.resume and state.trust[NGRAM] >= prices[NGRAM]:
            expected = state.expect(NGRAM, self._like_before(request, state), len(request.generated))
        width = state.width if state.is_proven else min(state.width, most + len(request.respelled))
        draft = expected[: min(width, self._most, n_most)] if state.trust[state.source] >= prices[state.source] else ()
        state.quiet_until = 0 if draft else len(request.generated) + QUIET
        return draft

    def _at_the_seam(self, tree: RadixTree, request: Request, state: DraftState, price: float) -> Tokens:
        """A draft of the prompt's end that is generated again: its successors in the tree,
        otherwise the successors of the same few tokens.
        """
        again = request.respelled
        continuation = tree.continuation(request.namespace, request.span(0, request.n_tokens), 4 * self._most)
        if continuation[: len(again)] == again and state.trust[TREE] > SURE:
            return state.expect(TREE, continuation, 0)
        continuation = self._like_before(request, state) if state.trust[NGRAM] >= price else ()
        if continuation and request.matcher is not None and request.matcher.within(continuation[:1]):
            continuation = state.expect(NGRAM, continuation, 0)
            state.width += len(again)
            return continuation
        return state.expect(SEAM, again, 0)

    def is_quiet(self, request: Request) -> bool:
        """Whether no draft was found a short while ago, so that a step need not wait for the next
        search.
        """
        state = self._states.get(request.id)
        return state is not None and len(request.generated) < state.quiet_until

    def learn(self, request: Request, n_drafted: int, n_accepted: int, *, is_over: bool) -> str:
        """Learn how many of a draft were accepted, unless the text ended inside it; returns its source."""
        state = self._states[request.id]
        source = state.source
        if is_over:
            return source
        share = n_accepted / n_drafted
        state.trust[source] += 0.3 * (share - state.trust[source])
        if source in self._trust:
            self._trust[source] += 0.1 * (share - self._trust[source])
        state.is_proven = n_accepted == n_drafted and source != SEAM
        if n_accepted == n_drafted:
            state.width = min(2 * state.width, self._most)
            state.pause = 1
            return source
        state.width = state.first_width[source]
        if source == NGRAM:
            state.pause = 1 if n_accepted else min(2 * state.pause, LONGEST_PAUSE)
            state.resume = len(request.generated) + state.pause - 1
        return source

    def close(self, request: Request) -> None:
        """The request is over: its text may come again."""
        self._states.pop(request.id, None)
        if not request.generated:
            return
        older, newer = self._texts.get(request.namespace, (Corpus(), Corpus()))
        if len(newer.tokens) > REMEMBERED:
            older, newer = newer, Corpus()
        self._texts[request.namespace] = older, newer
        newer.extend((BORDER, *request.prompt[-TAIL:], *request.generated))

    def forget(self) -> None:
        """Forget all texts but those of running requests."""
        self._texts.clear()

    def _begin(self, request: Request) -> DraftState:
        """A greedy text usually repeats, and so does one with its own seed. For others this is
        learned.
        """
        params = request.params
        is_greedy = params is not None and params.temperature == 0
        is_same = is_greedy or (params is not None and params.seed is not None)
        trust = {TREE: max(self._trust[TREE], LEAST_TRUST) if is_same else 0.5, NGRAM: max(self._trust[NGRAM], LEAST_TRUST), SEAM: 1.0}
        widths = {TREE: SURE_WIDTH if is_greedy else FIRST_WIDTH, NGRAM: FIRST_WIDTH, SEAM: len(request.respelled)}
        state = self._states[request.id] = DraftState(trust, widths, frozenset(request.banned_early))
        return state

    def _like_before(self, request: Request, state: DraftState) -> Tokens:
        """The successors of the longest repetition of the last tokens, in the request itself or in
        earlier texts.
        """
        own, start = state.own, max(state.n_indexed, len(request.prompt) - OWN)
        own.extend(request.span(start, request.n_tokens))
        state.n_indexed = request.n_tokens
        tail = own.tokens[-DEPTHS[0] :]
        corpora = (own, *reversed(self._texts.get(request.namespace, ())))
        n_same, position, corpus = max(((*corpus.after(tail), corpus) for corpus in corpora), key=lambda found: found[0])
        return drawable(tuple(corpus.tokens[position : position + 4 * self._most])) if n_same else ()


def drawable(tokens: Tokens) -> Tokens:
    """The beginning of `tokens` that a model can draw: up to a border, or a position of a block."""
    return tokens if not tokens or min(tokens) >= 0 else tokens[: next(i for i, token in enumerate(tokens) if token < 0)]
