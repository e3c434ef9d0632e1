"""Answers that end because their tokens ran out, and samples that cost tokens for nothing."""

from __future__ import annotations

from collections.abc import Iterator

from ...contracts.params import Constraint
from .finding import Case, Finding
from .markers import SPECIAL
from .seen import Request
from .words import quoted, tokens


def cut(case: Case) -> Iterator[Finding]:
    """An answer cut by a limit that its author did not choose, or before the stop that should end it.

    A limit that a program sets itself, without a stop, is a choice: such an answer is no finding.
    """
    for request in _once(case):
        asked = request.asked
        if asked is None or request.reason != "length" or asked.constraint or not asked.max_tokens:
            continue
        limit = f"max_tokens={asked.max_tokens}"
        line = case.source.request_line(request.expr.line)
        if not asked.has_limit:
            fault = f"the answer of {request.name} is cut by the default limit, {limit}"
            yield Finding("cut", line, fault, "its end is missing", "give the gen a max_tokens= of its own, or a stop=", 0)
        elif asked.stop and not any(SPECIAL.search(stop) for stop in asked.stop):
            fault = f"the answer of {request.name} is cut by {limit}, before a stop"
            cost = f"its end is missing: none of {', '.join(map(quoted, asked.stop[:3]))} came in {tokens(asked.max_tokens)}"
            yield Finding("cut", line, fault, cost, "raise max_tokens, or ask for a shorter answer")


def unfit(case: Case) -> Iterator[Finding]:
    """A constraint whose shortest text needs more tokens than the gen may use."""
    for request in _once(case):
        asked, finished = request.asked, request.finished
        if asked is None or finished is None or finished.is_complete is not False or request.reason != "length" or not asked.constraint:
            continue
        constraint = Constraint(asked.constraint, asked.source, asked.lead)
        n = case.measures.n_shortest(constraint) if case.measures is not None else None
        if n is not None and asked.max_tokens is not None and n <= asked.max_tokens:
            continue
        least = f"has at least {tokens(n)}" if n is not None else "has more tokens"
        yield Finding(
            "unfit-constraint",
            case.source.request_line(request.expr.line),
            f"no text of the {asked.constraint} of {request.name} fits max_tokens={asked.max_tokens}",
            f"its shortest text {least}: {tokens(request.n_sampled)} were generated for an answer that has no value",
            f"set max_tokens to {n} or more" if n is not None else "raise max_tokens, or shorten what every text must have",
            request.n_sampled,
        )


def equal_samples(case: Case) -> Iterator[Finding]:
    """Several samples at temperature 0 are one sample several times."""
    for request in _once(case):
        asked = request.asked
        if asked is None or asked.n < 2 or asked.temperature != 0:
            continue
        n = request.n_sampled * (asked.n - 1) // asked.n
        yield Finding(
            "equal-samples",
            case.source.request_line(request.expr.line),
            f"{request.name} draws n={asked.n} samples at temperature 0",
            f"they are all the same: {tokens(n)} of {request.n_sampled:,} were generated for nothing",
            "set a temperature above 0, or leave n= out",
            n,
        )


def _once(case: Case) -> Iterator[Request]:
    """The requests, one for each line and name: forks and loops repeat them."""
    met: set[tuple[int, str]] = set()
    for request in case.seen.requests:
        key = (request.expr.line, request.expr.name)
        is_whole = request.asked is not None and (request.reason == "length" or request.asked.n > 1)
        if is_whole and key not in met:
            met.add(key)
            yield request
