"""Stop strings that can never end an answer, or that end it where it should go on."""

from __future__ import annotations

from collections.abc import Iterator

from ...contracts.errors import SglError
from ...contracts.patterns.python import read
from ...contracts.patterns.tree import ALL, Chain, Chars, Choice, Like, Many, Node, Ranges, Text, has, ranges
from .finding import Case, Finding
from .markers import SPECIAL
from .seen import Request
from .words import quoted, tokens


def stops(case: Case) -> Iterator[Finding]:
    reported: set[tuple[int, str]] = set()
    for request in case.seen.requests:
        for stop, found in _of(case, request):
            if (key := (request.expr.line, stop)) not in reported:
                reported.add(key)
                yield found


def _of(case: Case, request: Request) -> Iterator[tuple[str, Finding]]:
    asked, line = request.asked, case.source.request_line(request.expr.line)
    if asked is None or not asked.stop:
        return
    markup = {spelled for token in request.prompt if SPECIAL.fullmatch(spelled := case.seen.spell(token))} if request.expr.role else set()
    for stop in asked.stop:
        shorter = next((other for other in asked.stop if other != stop and stop.startswith(other)), None)
        if shorter is not None:
            fault = f"the stop {quoted(stop)} of {request.name} cannot occur: the stop {quoted(shorter)} ends the text first"
            yield stop, Finding("stop-cannot-occur", line, fault, "it has no effect", f"leave {quoted(stop)} or {quoted(shorter)} out")
        elif (character := _outside(stop, request)) is not None:
            fault = f"the stop {quoted(stop)} of {request.name} cannot occur: no text of its {asked.constraint} has {quoted(character)}"
            yield (
                stop,
                Finding("stop-cannot-occur", line, fault, "it has no effect", "leave it out: the constraint says where the text ends"),
            )
        elif any(stop in marker or marker in stop for marker in markup):
            fault = f"the stop {quoted(stop)} of {request.name} is markup of the chat template"
            yield (
                stop,
                Finding(
                    "stop-in-template", line, fault, "it adds nothing: the model ends its turn there in any case", "leave it out of stop="
                ),
            )
    if request.reason == "stop" and request.finished is not None and request.finished.status == "ok":
        yield from _ended(case, request, line)


def _ended(case: Case, request: Request, line: int) -> Iterator[tuple[str, Finding]]:
    """A stop that did harm in this run."""
    asked, finished = request.asked, request.finished
    assert asked is not None
    assert finished is not None
    if finished.is_complete is False:
        yield (
            "",
            Finding(
                "stop-in-template",
                line,
                f"a stop of {request.name} stands in the text that its {asked.constraint} asks for: {_all(asked.stop)}",
                f"the answer was cut inside the structure, after {tokens(request.n_sampled)}",
                "leave stop= out: the constraint says where the text ends",
                request.n_sampled,
            ),
        )
    elif not finished.value and not asked.constraint and request.n_sampled and asked.n == 1 and request.first is not None:
        first = case.seen.spell(request.first.token)
        if (stop := next((stop for stop in asked.stop if first.startswith(stop) or stop.startswith(first)), None)) is not None:
            yield (
                stop,
                Finding(
                    "stop-in-template",
                    line,
                    f"the answer of {request.name} is empty: it begins with the stop {quoted(stop)}",
                    f"{tokens(request.n_sampled)} were generated for no text",
                    f"end the text before it with {quoted(stop)}, or use a stop that only the end of an answer has",
                    request.n_sampled,
                ),
            )


def _all(stops: tuple[str, ...]) -> str:
    return ", ".join(quoted(stop) for stop in stops[:4])


def _outside(stop: str, request: Request) -> str | None:
    """A character of `stop` that no text of the regular expression has. None if it may have all."""
    asked = request.asked
    assert asked is not None
    if asked.constraint != "regex" or asked.lead:
        return None
    try:
        alphabet = ranges(_characters(read(asked.source)))
    except (SglError, ValueError, RecursionError):
        return None
    return next((character for character in stop if not has(alphabet, ord(character))), None)


def _characters(node: Node) -> Ranges:
    """Characters that texts of the tree may have; never too few."""
    match node:
        case Chars(found):
            return found
        case Text(text):
            return tuple((ord(each), ord(each)) for each in text)
        case Chain(of) | Choice(of):
            return tuple(pair for part in of for pair in _characters(part))
        case Many(what, _, _) | Like(what, _):
            return _characters(what)
    return ALL
