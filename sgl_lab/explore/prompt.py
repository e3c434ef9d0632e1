"""The program that says the prompt of a recorded gen: roles and texts where they encode to exactly
the recorded tokens, token ids otherwise.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

from ..contracts.errors import SglError
from ..contracts.events import Entry, ExprStarted, ForkOpened, PromptPiece, RequestQueued, StreamExtended
from ..contracts.ids import ForkId, RequestId
from ..contracts.port import Backend
from ..lang.chat_template import chat_of
from ..lang.expressions import Expr, RoleBegin, RoleEnd, Text, TokenIds
from ..lang.transcript import Transcript


class _Mark(NamedTuple):
    """Of one token of a stream: who put it there."""

    token: int
    kind: str
    role: str


@dataclass(frozen=True, slots=True)
class Saying:
    """A program up to a gen. `beginning[index]` says `pieces[n]` for each (n, index) of `literals`."""

    beginning: tuple[Expr, ...]
    prompt: tuple[int, ...]
    pieces: tuple[PromptPiece, ...]
    literals: tuple[tuple[int, int], ...]
    """the pieces of literal text that can be edited"""

    @property
    def open_role(self) -> str:
        """The role of the turn that the gen is in; empty outside of turns."""
        return role_after(self.beginning)


def role_after(beginning: Iterable[Expr]) -> str:
    """The role that is open after them; empty for none."""
    role = ""
    for part in beginning:
        role = part.role if isinstance(part, RoleBegin) else "" if isinstance(part, RoleEnd) else role
    return role


def saying(entries: Iterable[Entry], request: RequestId, backend: Backend) -> Saying:
    """The program of the prompt of this gen."""
    marks, prompt, role = _marks(entries, request)
    if tuple(mark.token for mark in marks[: len(prompt)]) == prompt:
        marks = marks[: len(prompt)]
        for candidate in (_in_turns(marks, role, backend), _in_turns(_without_start(marks, backend), "", backend)):
            if (found := _exact(candidate, prompt, backend)) is not None:
                return found
    whole = PromptPiece(0, len(prompt), "", "ids")
    return Saying((TokenIds(prompt),), prompt, (whole,), ())


def prompt_of(backend: Backend, beginning: Iterable[Expr]) -> tuple[int, ...]:
    """The tokens that this beginning of a program becomes. ProgramError if there are none."""
    transcript = Transcript(backend, chat_of(backend, backend.describe()), lambda *_: None)
    for part in beginning:
        _say(transcript, part)
    transcript.settle(to_generate=True)
    return transcript.prompt()


def _say(transcript: Transcript, part: Expr) -> None:
    match part:
        case RoleBegin(role):
            transcript.begin(role)
        case RoleEnd():
            transcript.end()
        case Text(text):
            transcript.say(text)
        case TokenIds(ids):
            transcript.place(ids)


def _marks(entries: Iterable[Entry], request: RequestId) -> tuple[list[_Mark], tuple[int, ...], str]:
    """The tokens of the gen's stream when it was queued, its prompt, and the role of its turn."""
    streams: dict[ForkId, list[_Mark]] = {}
    roles: dict[ForkId, str] = {}
    for entry in entries:
        match entry.event:
            case ForkOpened(fork=fork, parent=parent):
                streams[fork] = list(streams.get(parent, ())) if parent is not None else []
            case StreamExtended(fork=fork, start=start, tokens=tokens, kind=kind, role=role):
                streams.setdefault(fork, [])[start:] = [_Mark(token, kind, role) for token in tokens]
            case ExprStarted(fork=fork, role=role):
                roles[fork] = role
            case RequestQueued(request=found, fork=fork, prompt=prompt) if found == request and fork is not None:
                return streams.get(fork, []), prompt, roles.get(fork, "")
            case _:
                pass
    return [], (), ""


def _without_start(marks: Sequence[_Mark], backend: Backend) -> list[_Mark]:
    """Without what the backend puts before text that has no roles."""
    lead = backend.encode_all(backend.render_text(""))
    return list(marks[len(lead) :] if tuple(mark.token for mark in marks[: len(lead)]) == lead else marks)


def _in_turns(marks: Sequence[_Mark], role: str, backend: Backend) -> list[Expr]:
    """The marks as a program. With `role`, text outside of turns is the template's; without, the
    program's own.
    """
    beginning: list[Expr] = []
    open_role, is_after_template = "", False
    for (is_text, of), group in groupby(marks, key=lambda mark: (mark.kind == "text", mark.role)):
        ids = tuple(mark.token for mark in group)
        if role and not of:
            is_after_template = True
            continue
        if of != open_role or is_after_template:
            beginning += [*([RoleEnd(open_role)] if open_role else []), *([RoleBegin(of)] if of else [])]
        open_role, is_after_template = of, False
        beginning.append(Text(backend.decode(ids)) if is_text else TokenIds(ids))
    if role and (is_after_template or open_role != role):
        beginning += [*([RoleEnd(open_role)] if open_role else []), RoleBegin(role)]
    return beginning


def _exact(beginning: list[Expr], prompt: tuple[int, ...], backend: Backend) -> Saying | None:
    """The program with its pieces, if it says exactly these tokens. The end of a text that the gen
    was to draw again is left out.
    """
    found = _tokens_of(beginning, backend)
    if found[: len(prompt)] == prompt and len(found) > len(prompt) and isinstance(last := beginning[-1], Text):
        rest = backend.decode(found[len(prompt) :])
        if rest and last.text.endswith(rest):
            beginning = [*beginning[:-1], *([Text(last.text[: -len(rest)])] if last.text != rest else [])]
            found = _tokens_of(beginning, backend)
    if found != prompt:
        return None
    pieces, literals, at = list[PromptPiece](), list[tuple[int, int]](), 0
    for index, first, end in _places(beginning, backend):
        if first > at:
            pieces.append(PromptPiece(at, first - at, "", "template"))
        if is_text := isinstance(beginning[index], Text):
            literals.append((len(pieces), index))
        at = max(at, first)
        pieces.append(PromptPiece(at, end - at, role_after(beginning[:index]), "text" if is_text else "ids"))
        at = end
    if at < len(prompt):
        pieces.append(PromptPiece(at, len(prompt) - at, "", "template"))
    return Saying(tuple(beginning), prompt, tuple(pieces), tuple(literals))


def _tokens_of(beginning: Sequence[Expr], backend: Backend) -> tuple[int, ...]:
    try:
        return prompt_of(backend, beginning)
    except SglError:  # a template that refuses these turns
        return ()


def _places(beginning: Sequence[Expr], backend: Backend) -> Iterator[tuple[int, int, int]]:
    """(index, first token, token after the last) of each text and of the ids."""
    placed: list[tuple[int, str]] = []
    chat = chat_of(backend, backend.describe())
    transcript = Transcript(backend, chat, lambda start, piece, _: placed.append((start, piece.role)))
    for index, part in enumerate(beginning):
        if isinstance(part, TokenIds):
            transcript.settle()
        placed.clear()
        before = len(transcript.ids)
        _say(transcript, part)
        if isinstance(part, Text):
            transcript.settle()
            before = next((start for start, role in placed if start >= before and role == transcript.role), before)
        if isinstance(part, Text | TokenIds):
            yield index, before, len(transcript.ids)
