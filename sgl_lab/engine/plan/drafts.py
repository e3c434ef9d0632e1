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

from ...contracts.ids import Namespace, RequestId
from ..cache.tree import RadixTree, Tokens
from .request import Request

KEY = 3
"""tokens that must be the same before those that follow are worth a guess"""
DEPTHS = (32, 16, 8, 5)
"""of the places with the same key the one is taken before which most tokens are the same, told in these steps"""
PLACES = 8
"""the latest places of a key that are looked at"""
REMEMBERED = 1 << 16
"""tokens of requests that are over; of each what it generated and, of its prompt, the last"""
TAIL = 64
FIRST_WIDTH = {"tree": 32, "ngram": 4}
"""of a line, guessed at first; twice as many whenever all of them came true"""
LONGEST_PAUSE = 32
LEAST_TRUST = 0.2


class Corpus:
    """Tokens, and where in them each `KEY` of tokens is followed by something."""

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

    trust: float
    """share of recent guesses that came true"""
    line: Tokens = ()
    """what is expected from the `start`-th generated token on"""
    start: int = 0
    n_checked: int = 0
    """generated tokens that are known to agree with the line"""
    source: str = "tree"
    is_in_tree: bool = True
    """all tokens so far may be in the tree"""
    width: int = 0
    resume: int = 0
    """no n-gram is looked for before this many tokens are generated"""
    pause: int = 1
    own: Corpus = field(default_factory=Corpus)

    def follow(self, source: str, line: Tokens, request: Request) -> Tokens:
        """From here on `line` is expected."""
        if source != self.source or not self.width:
            self.width = FIRST_WIDTH[source]
        self.source, self.line, self.start = source, line, len(request.generated)
        return line

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
        self._said: dict[Namespace, Corpus] = {}
        self._courses: dict[RequestId, Course] = {}
        self._trust = 0.5

    def guess(self, tree: RadixTree, request: Request, n_most: int, n_rows: int) -> Tokens:
        """What may be drawn next, best as far as it is worth its price in a step of `n_rows` rows; often nothing."""
        course = self._courses.get(request.id)
        if course is None:
            course = self._courses[request.id] = Course(max(self._trust, LEAST_TRUST))
        is_worth = course.trust >= _price(n_rows)
        expected = course.expected(request.generated) or self._from_tree(tree, request, course)
        if not expected and is_worth:
            expected = self._from_ngrams(request, course)
        return expected[: min(course.width, n_most)] if is_worth or course.source == "tree" else ()

    def learn(self, request: Request, n_drafted: int, n_accepted: int) -> str:
        """How a guess came out; returns where it was from."""
        course = self._courses[request.id]
        course.trust += 0.3 * (n_accepted / n_drafted - course.trust)
        if n_accepted == n_drafted:
            course.width = min(2 * course.width, self._most)
            course.pause = 1
            return course.source
        course.width = FIRST_WIDTH[course.source]
        if course.source == "ngram":
            course.pause = 1 if n_accepted else min(2 * course.pause, LONGEST_PAUSE)
            course.resume = len(request.generated) + course.pause - 1
            self._trust += 0.1 * (course.trust - self._trust)
        return course.source

    def close(self, request: Request) -> None:
        """The request is over: what it said may be said again."""
        self._courses.pop(request.id, None)
        if not request.generated:
            return
        said = self._said.setdefault(request.namespace, Corpus())
        if len(said.tokens) > REMEMBERED:
            latest = said.tokens[REMEMBERED // 2 :]
            said = self._said[request.namespace] = Corpus()
            said.extend(latest)
        said.extend((BORDER, *request.prompt[-TAIL:], *request.generated))

    def forget(self) -> None:
        """As if nothing had ever been said; requests that run keep their own."""
        self._said.clear()

    # ------------------------------------------------------------ where guesses come from

    def _from_tree(self, tree: RadixTree, request: Request, course: Course) -> Tokens:
        if not course.is_in_tree:
            return ()
        line = tree.continuation(request.namespace, request.span(0, request.n_tokens), request.limit)
        course.is_in_tree = bool(line)
        return course.follow("tree", line, request)

    def _from_ngrams(self, request: Request, course: Course) -> Tokens:
        if len(request.generated) < course.resume:
            return ()
        own = course.own
        own.extend(request.span(len(own.tokens), request.n_tokens))
        tail = own.tokens[-DEPTHS[0] :]
        corpora = (own, self._said.get(request.namespace, own))
        n_same, place, corpus = max(((*corpus.after(tail), corpus) for corpus in corpora), key=lambda found: found[0])
        line = tuple(corpus.tokens[place : place + request.limit]) if n_same else ()
        return course.follow("ngram", line[: line.index(BORDER)] if BORDER in line else line, request)


BORDER = -1
"""between what different requests said"""


def _price(n_rows: int) -> float:
    """Share of guesses that must come true: a further token of a step costs so much of what a row of its own costs.

    Measured on the native step: one row is bound by memory, eight and more by arithmetic.
    """
    return min(0.75, 0.12 + 0.08 * (n_rows - 1))
