"""Text that is another one in every run and stands before text that is not: all that follows it is
computed again each time.

Two runs of the same cell show it. One run shows it where the cell itself reads a clock, draws a
random value or writes a set, whose order is that of the process.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from ..explain.edit import find_edit
from .compare import Difference, matters, moved, neighbours, reruns
from .finding import MIN_TOKENS, Case, Finding
from .seen import Request
from .volatile import Volatile, volatile_texts
from .words import computed_again, quoted, tokens

ADDRESS = re.compile(r"<[\w.]+(?: [\w.]+){0,4} at 0x[0-9a-f]{6,16}>")
END = re.compile(r"\n|<\|")
NEAR = 32
"""tokens between two places that are one finding"""
MAX_LINES = 400
_LATER = "move it behind the text that stays the same, for example into the last turn"


def changing_text(case: Case) -> Iterator[Finding]:
    places: list[tuple[int, int]] = []
    """(fork, position) of what is reported"""
    for volatile in volatile_texts(case.source):
        if (found := _placed(case, volatile)) is not None:
            request, at, n_after = found
            places.append((request.fork, at))
            if n_after >= MIN_TOKENS:
                fault = f"{volatile.what}, and stands before text that stays the same"
                yield Finding("changing-text", volatile.line, fault, computed_again(n_after), volatile.mend or _LATER, n_after)
    lines: set[int] = set()
    for one in reruns(case):
        if not matters(one) or _is_order(case, one) or _is_space(case, one):
            continue
        if any(abs(one.at - at) <= NEAR for _, at in places):
            continue
        places.append((one.request.fork, one.at))
        now, before = one.texts(case.seen)
        line = _line(case, one)
        if line and line in lines:
            continue
        lines.add(line)
        fault = f"the prompt of {one.request.name} has {quoted(now)} where the last run of this cell had {quoted(before)}"
        yield Finding("changing-text", line, fault, computed_again(one.n_after), _LATER, one.n_after)


def address(case: Case) -> Iterator[Finding]:
    """The address of an object, which no one meant to send."""
    reported: set[str] = set()
    for request in case.seen.requests:
        text = case.seen.prompt_text(request)
        for found in ADDRESS.finditer(text):
            at = case.seen.token_at(request.prompt, found.start())
            kind = found[0].split(" at ")[0]
            if kind in reported or not request.is_text(at):
                continue
            reported.add(kind)
            end = case.seen.token_at(request.prompt, found.end() - 1) + 1
            n = request.n_text(end)
            yield Finding(
                "object-address",
                _line_before(case, text[: found.start()]) or case.source.request_line(request.expr.line),
                f"the prompt of {request.name} has an object's address: {quoted(found[0], 60)}",
                f"the model cannot use it, it differs in every process, and {tokens(n)} after it are computed again then",
                "write the text that the object stands for: call it, index it, or give it a __str__",
                n,
            )


def example_order(case: Case) -> Iterator[Finding]:
    """The same lines in another order, in the last run of this cell or in an earlier prompt of this run."""
    for one in (*reruns(case), *(each for each in neighbours(case) if each.of is case.seen)):
        if _is_order(case, one):
            lines, n = _moved(case, one), one.request.n_text(one.at)
            when = "in the last run of this cell" if one.of is not case.seen else "in an earlier prompt of this run"
            yield Finding(
                "example-order",
                case.source.line_of_text(lines[0].strip()) or case.source.request_line(one.request.expr.line),
                f"{len(lines):,} lines of the prompt of {one.request.name}, from {quoted(lines[0].strip())}, stood in another order {when}",
                f"{tokens(n)} from the first of them on are computed again",
                "keep one order: sort them, seed the shuffle, or append them with unordered([...])",
                n,
            )
            return


def near_prefix(case: Case) -> Iterator[Finding]:
    """A prompt that differs from an earlier one in white space only, as far as the texts are equal."""
    reported: set[int] = set()
    for one in neighbours(case):
        if not matters(one) or not _is_space(case, one):
            continue
        line = _line(case, one)
        if line in reported:
            continue
        reported.add(line)
        now, before = one.texts(case.seen)
        yield Finding(
            "near-prefix",
            line,
            f"the prompt of {one.request.name} differs from an earlier one in white space alone: {quoted(now)}, there {quoted(before)}",
            f"{tokens(one.n_after)} after it were computed again",
            "write both the same way, for example with .strip()",
            one.n_after,
        )


def _placed(case: Case, volatile: Volatile) -> tuple[Request, int, int] | None:
    """The prompt with most text after a volatile text, the position of the latter, and tokens after it."""
    found: list[tuple[Request, int, int]] = []
    for request in case.seen.requests:
        text = case.seen.prompt_text(request)
        start = text.find(volatile.before) + len(volatile.before) if volatile.before in text else -1
        if start < 0:
            continue
        end = text.find(volatile.after, start) if volatile.after else _end_of_value(text, start)
        if end < 0:
            continue
        at = case.seen.token_at(request.prompt, max(start - 1, 0))
        if request.is_text(at):
            found.append((request, at, request.n_text(case.seen.token_at(request.prompt, max(end, start)))))
    return max(found, key=lambda one: one[2], default=None)


def _end_of_value(text: str, start: int) -> int:
    """Where a value that ends its string may end: at the end of its line or turn."""
    found = END.search(text, start)
    return found.start() if found else len(text)


def _is_space(case: Case, one: Difference) -> bool:
    now, before = one.texts(case.seen)
    return now != before and "".join(now.split()) == "".join(before.split())


def _is_order(case: Case, one: Difference) -> bool:
    return bool(_moved(case, one))


def _moved(case: Case, one: Difference) -> list[str]:
    now = case.seen.prompt_text(one.request).split("\n")[:MAX_LINES]
    before = one.of.prompt_text(one.earlier).split("\n")[:MAX_LINES]
    return moved(now, before)


def _line(case: Case, one: Difference) -> int:
    """The line that brought the text which differs."""
    now, before = one.texts(case.seen)
    prompt = one.request.prompt
    lead = case.seen.text(prompt[max(one.at - 12, 0) : one.at])
    rest = case.seen.text(prompt[one.at + len(one.now) :][:12])
    edit = find_edit(one.of.source, case.seen.source, lead, before, now, rest)
    return edit.new.number if edit is not None and edit.new is not None and edit.new.number > 1 else 0


def _line_before(case: Case, text: str) -> int:
    """The line whose string ends in the last words of `text`."""
    words = text[-24:].split("\n")[-1].strip()
    return case.source.line_of_text(words) if len(words) >= 3 else 0
