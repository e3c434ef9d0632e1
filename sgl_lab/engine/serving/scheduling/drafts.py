"""Guesses at the next tokens: what followed in the tree when the same sequence was here, and what followed the same few tokens.

A guess rides in a step as part of its request's row and is drawn anew there, so it changes how many steps a
text takes and never what it says. Here is decided what is guessed, and when it pays; what a step computes in
vain is the price. Prompts repeat themselves (J. Saxena, "prompt lookup decoding", 2023), and so does a person
who runs a cell again with a small edit. Knows neither pages nor rows.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from ....contracts.ids import Namespace, RequestId
from ..cache.tree import RadixTree, Tokens
from .request import Request

KEY = 3
"""tokens that must be the same before those that follow are worth a guess"""
DEPTHS = (32, 16, 8, 5)
"""of the places with the same key the one is taken before which most tokens are the same, told in these steps"""
PLACES = 8
"""the latest places of a key that are looked at"""
REMEMBERED = 1 << 13
"""tokens of finished requests that are kept; for each request its generated tokens and the last
ones of its prompt
"""
TAIL = 64
OWN = 2048
"""of a prompt, the last so many tokens are looked through"""
TREE, NGRAM, SEAM = "tree", "ngram", "seam"
SURE_WIDTH, FIRST_WIDTH = 64, 4
"""how much of a line is guessed at first, of a greedy text that was here before and elsewhere; twice as much whenever all came true"""
LONGEST_PAUSE = 32
BORDER = -1
"""between what different requests said"""
LEAST_TRUST = 0.2
QUIET = 8
"""tokens after a search in vain before the next is worth waiting for"""


class Corpus:
    """Tokens, with the positions after each sequence of `KEY` tokens."""

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self._places: defaultdict[Tokens, list[int]] = defaultdict(list)

    def extend(self, tokens: Sequence[int]) -> None:
        all_tokens, places = self.tokens, self._places
        for token in tokens:
            here = len(all_tokens)
            places[tuple(all_tokens[here - KEY : here])].append(here)
            all_tokens.append(token)

    def after(self, tail: list[int]) -> tuple[int, int]:
        """(how many tokens agree with `tail`, where that goes on which agrees best); the latest of equals, (0, 0) if there is none."""
        tokens = self.tokens
        best = (0, 0)
        for place in self._places.get(tuple(tail[-KEY:]), ())[-PLACES:]:
            n = next((n for n in DEPTHS if n <= place and tokens[place - n : place] == tail[-n:]), KEY)
            best = max(best, (n, place))
        return best


@dataclass(slots=True)
class Course:
    """What is expected of one request."""

    trust: dict[str, float]
    """by source: share of recent guesses that came true"""
    first_width: dict[str, int]
    ends: frozenset[int]
    """tokens that end the text: whatever follows them is not worth a guess"""
    line: Tokens = ()
    """expected tokens from the `start`-th generated one on"""
    start: int = 0
    n_checked: int = 0
    """generated tokens that are known to agree with the line"""
    source: str = TREE
    is_in_tree: bool = True
    """all tokens so far may be in the tree"""
    width: int = 0
    resume: int = 0
    """no n-gram is looked for before this many tokens are generated"""
    pause: int = 1
    quiet_until: int = 0
    """generated tokens, where a guess was looked for in vain, before which no other need be"""
    own: Corpus = field(default_factory=Corpus)
    n_indexed: int = 0
    """tokens of the request that are in `own`, or too old for it"""

    def follow(self, source: str, line: Tokens, n_generated: int) -> Tokens:
        """From here on `line` is expected."""
        if source != self.source or not self.width:
            self.width = self.first_width[source]
        line = drawable(line)
        end = next((i for i, token in enumerate(line) if token in self.ends), len(line))
        self.source, self.line, self.start = source, line[:end], n_generated
        return self.line

    def expected(self, generated: Sequence[int]) -> Tokens:
        """What is left of the line, if it came true so far."""
        n = len(generated)
        if self.line[max(0, self.n_checked - self.start) : n - self.start] != tuple(generated[max(self.start, self.n_checked) :]):
            self.line = ()
        self.n_checked = n
        return self.line[n - self.start :]


class Drafts:
    """`most` tokens are guessed at a time."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._said: dict[Namespace, tuple[Corpus, Corpus]] = {}
        """what was said, older and newer; the older is forgotten when the newer is full"""
        self._courses: dict[RequestId, Course] = {}
        self._trust = 0.5
        """share of recent n-gram guesses that came true, of all requests"""

    def guess(self, tree: RadixTree, request: Request, n_most: int, n_rows: int) -> Tokens:
        """What may be drawn next, best as far as it is worth its price in a step of `n_rows` rows; often nothing."""
        course = self._courses.get(request.id) or self._begin(request)
        price = _price(n_rows)
        expected = course.expected(request.generated)
        if request.respelled and not request.generated:
            expected = self._at_the_seam(tree, request, course, price)
        if not expected and course.is_in_tree and course.trust[TREE] >= price:
            line = tree.continuation(request.namespace, request.span(0, request.n_tokens), 4 * self._most)
            course.is_in_tree = bool(line)
            expected = course.follow(TREE, line, len(request.generated))
        if not expected and len(request.generated) >= course.resume and course.trust[NGRAM] >= price:
            expected = course.follow(NGRAM, self._like_before(request, course), len(request.generated))
        guess = expected[: min(course.width, self._most, n_most)] if course.trust[course.source] >= price else ()
        course.quiet_until = 0 if guess else len(request.generated) + QUIET
        return guess

    def _at_the_seam(self, tree: RadixTree, request: Request, course: Course, price: float) -> Tokens:
        """A draft of the prompt's end that is generated again: its successors in the tree,
        otherwise the successors of the same few tokens.
        """
        again = request.respelled
        line = tree.continuation(request.namespace, request.span(0, request.n_tokens), 4 * self._most)
        if line[: len(again)] == again and course.trust[TREE] == 1:
            return course.follow(TREE, line, 0)
        line = self._like_before(request, course) if course.trust[NGRAM] >= price else ()
        if line and request.guide is not None and request.guide.within(line[:1]):
            line = course.follow(NGRAM, line, 0)
            course.width += len(again)
            return line
        return course.follow(SEAM, again, 0)

    def is_quiet(self, request: Request) -> bool:
        """Whether nothing was found to guess a short while ago, so that a step need not wait for what might be found now."""
        course = self._courses.get(request.id)
        return course is not None and len(request.generated) < course.quiet_until

    def learn(self, request: Request, n_drafted: int, n_accepted: int, *, is_over: bool) -> str:
        """How a guess came out, unless the text ended inside it; returns where it was from."""
        course = self._courses[request.id]
        source = course.source
        if is_over:
            return source
        share = n_accepted / n_drafted
        course.trust[source] += 0.3 * (share - course.trust[source])
        if source == NGRAM:
            self._trust += 0.1 * (share - self._trust)
        if n_accepted == n_drafted:
            course.width = min(2 * course.width, self._most)
            course.pause = 1
            return source
        course.width = course.first_width[source]
        if source == NGRAM:
            course.pause = 1 if n_accepted else min(2 * course.pause, LONGEST_PAUSE)
            course.resume = len(request.generated) + course.pause - 1
        return source

    def close(self, request: Request) -> None:
        """The request is over: what it said may be said again."""
        self._courses.pop(request.id, None)
        if not request.generated:
            return
        older, newer = self._said.get(request.namespace, (Corpus(), Corpus()))
        if len(newer.tokens) > REMEMBERED:
            older, newer = newer, Corpus()
        self._said[request.namespace] = older, newer
        newer.extend((BORDER, *request.prompt[-TAIL:], *request.generated))

    def forget(self) -> None:
        """As if nothing had ever been said; requests that run keep their own."""
        self._said.clear()

    def _begin(self, request: Request) -> Course:
        """A greedy text comes again, one drawn with a seed of its own most likely; what others give is found out."""
        params = request.params
        is_greedy = params is not None and params.temperature == 0
        is_same = is_greedy or (params is not None and params.seed is not None)
        trust = {TREE: 1.0 if is_same else 0.5, NGRAM: max(self._trust, LEAST_TRUST), SEAM: 1.0}
        widths = {TREE: SURE_WIDTH if is_greedy else FIRST_WIDTH, NGRAM: FIRST_WIDTH, SEAM: len(request.respelled)}
        course = self._courses[request.id] = Course(trust, widths, frozenset(request.banned_early))
        return course

    def _like_before(self, request: Request, course: Course) -> Tokens:
        """What followed where most of the last tokens were the same, in the request itself or in what was said before."""
        own, start = course.own, max(course.n_indexed, len(request.prompt) - OWN)
        own.extend(request.span(start, request.n_tokens))
        course.n_indexed = request.n_tokens
        tail = own.tokens[-DEPTHS[0] :]
        corpora = (own, *reversed(self._said.get(request.namespace, ())))
        n_same, place, corpus = max(((*corpus.after(tail), corpus) for corpus in corpora), key=lambda found: found[0])
        return drawable(tuple(corpus.tokens[place : place + 4 * self._most])) if n_same else ()


def drawable(line: Tokens) -> Tokens:
    """The beginning of a line that a model can say: up to a border, or a position of a block."""
    return line if not line or min(line) >= 0 else line[: next(i for i, token in enumerate(line) if token < 0)]


def _price(n_rows: int) -> float:
    """Share of guesses that must come true: a further token of a step costs so much of what a row of its own costs.

    Measured on the native step: one row is bound by memory, eight and more by arithmetic.
    """
    return min(0.75, 0.12 + 0.08 * (n_rows - 1))
