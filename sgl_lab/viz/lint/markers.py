"""Markup of a chat template that is typed as text, and a text that begins twice.

Content is never read as markup: `<|im_start|>` in a string becomes several ordinary tokens, which
the model has not learnt to read as a turn.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from .finding import Case, Finding
from .seen import Seen
from .words import quoted, tokens

MARKER = re.compile(
    r"<\|[^|<>\s]{1,40}\|>|\[/?INST\]|<</?SYS>>|<(?:start|end)_of_turn>|<(?:bos|eos)>"
    r"|(?:\A|(?<=\n))[ \t]*(?:assistant|ASSISTANT|Assistant):[ \t]*\Z"
)
SPECIAL = re.compile(r"<\|?[^<>\s]{1,40}>|\[/?[A-Z_]{2,20}\]")
"""spelling of a token that only a template writes"""
MAX_FOUND = 8


def typed_marker(case: Case) -> Iterator[Finding]:
    """A marker in literal text that is no token of its own there."""
    known = {marker for text in case.seen.texts for marker in map(case.seen.spell, text) if SPECIAL.fullmatch(marker)}
    reported: set[str] = set()
    lines: set[int] = set()
    for ids, text in zip(case.seen.texts, case.seen.literals, strict=True):
        for found in MARKER.finditer(text):
            marker = found[0].strip()
            line = case.source.line_of_text(marker)
            if line in lines or marker in reported or len(reported) >= MAX_FOUND or _is_token(case.seen, ids, found.start(), found.end()):
                continue
            if not line and marker not in known:  # it may be the template's own text
                continue
            if marker.endswith(":") and not _is_in_role(case, marker):
                continue
            reported.add(marker)
            lines.update({line} if line else ())
            if _begins_twice(case.seen, ids, marker):
                continue
            n = case.seen.token_at(ids, found.end() - 1) - case.seen.token_at(ids, found.start()) + 1
            yield Finding(
                "typed-marker",
                line,
                f"{quoted(marker)} is typed as text",
                f"the model reads it as {tokens(n)} of plain text, and no turn begins or ends there",
                "write system(...), user(...) and assistant(...): they use the model's own template",
            )


def double_bos(case: Case) -> Iterator[Finding]:
    """A prompt whose beginning of text stands there twice, as a token or as typed text."""
    reported: set[int] = set()
    for request in case.seen.requests:
        prompt = request.prompt
        if len(prompt) < 2 or prompt[0] in reported or prompt[0] < 0:
            continue
        begin = case.seen.spell(prompt[0])
        if not SPECIAL.fullmatch(begin):
            continue
        rest = case.seen.text(prompt[1:24])
        if prompt[1] == prompt[0] or rest.startswith(begin):
            reported.add(prompt[0])
            is_typed = prompt[1] != prompt[0]
            yield Finding(
                "double-bos",
                case.source.line_of_text(begin) if is_typed else case.source.request_line(request.expr.line),
                f"the prompt of {request.name} begins with {quoted(begin)} twice",
                "the second one is "
                + ("plain text to the model" if is_typed else "a beginning inside the text, which the model never saw"),
                f"leave {quoted(begin)} out: the prompt gets it without being asked",
            )


def _begins_twice(seen: Seen, ids: tuple[int, ...], marker: str) -> bool:
    """Whether `double_bos` reports this marker."""
    return any(
        request.prompt and seen.spell(request.prompt[0]) == marker and seen.text(request.prompt[1:24]).startswith(marker)
        for request in seen.requests
    )


def _is_token(seen: Seen, ids: tuple[int, ...], start: int, end: int) -> bool:
    """Whether one token spells exactly the characters from `start` to `end`."""
    first = seen.token_at(ids, start)
    return first < len(ids) and first == seen.token_at(ids, end - 1) and len(seen.spell(ids[first])) == end - start


def _is_in_role(case: Case, marker: str) -> bool:
    """Whether the run uses turns, so that a label of one at the end of a text is none."""
    return any(request.expr.role for request in case.seen.requests)
