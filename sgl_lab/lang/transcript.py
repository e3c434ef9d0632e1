"""The tokens of one stream, and the text, turns and generations that they stand for.

Token ids are the state. Literal text is encoded when the model is about to see it, alone;
what was generated or chosen keeps the ids it came with. A chat template is not incremental:
the whole conversation is rendered each time, and the tokens that stand are kept up to the
first place where the rendering says something else.

Knows no queue, no thread and no event: `changed` is told what was placed where.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, takewhile

from ..contracts.errors import ProgramError
from ..contracts.port import Backend, Message, Segment
from .chat_template import Chat, render_until
from .ir import RoleBegin, RoleEnd


@dataclass(frozen=True, slots=True)
class Piece:
    """Some text. `ids` are None for a literal that has not been placed."""

    text: str
    ids: tuple[int, ...] | None = None
    kind: str = "text"
    """text, generated, choice or trim, as in StreamExtended"""
    role: str = ""
    markup: bool = False
    """the template's own: it may spell special tokens"""


@dataclass(frozen=True, slots=True)
class Turn:
    role: str
    parts: tuple[Piece, ...] = ()

    @property
    def content(self) -> str:
        return "".join(part.text for part in self.parts)

    @property
    def message(self) -> Message:
        return Message(self.role, self.content)


@dataclass(frozen=True, slots=True)
class Frozen:
    """Text outside roles ends here, so what stands before it is never rendered again."""

    n_pieces: int = 0
    n_turns: int = 0
    rendering: str = ""
    """what the template said of those turns"""


Said = Piece | RoleBegin | RoleEnd
"""One thing that a stream's program or model said."""

Changed = Callable[[int, Piece], None]
"""first position, the piece whose ids stand there now; everything that stood after it is gone"""


def clip(pieces: Iterable[Piece], start: int, end: int | None = None) -> Iterator[Piece]:
    """Characters `start` to `end` of the pieces; a piece that is cut is literal text from then on."""
    at = 0
    for piece in pieces:
        here = slice(max(start - at, 0), len(piece.text) if end is None else max(end - at, 0))
        text = piece.text[here]
        at += len(piece.text)
        if text and text == piece.text:
            yield piece
        elif text:
            yield Piece(text, role=piece.role, markup=piece.markup)


def attribute(segments: Sequence[Segment], turns: Sequence[Turn]) -> Iterator[Piece]:
    """The rendering as pieces: content that a turn holds comes back with its role and the ids it was generated with."""
    turn, at = 0, 0
    for segment in segments:
        if not segment.markup:
            for candidate in range(turn, len(turns)):
                found = turns[candidate].content.find(segment.text, at if candidate == turn else 0)
                if found >= 0:
                    turn, at = candidate, found + len(segment.text)
                    yield from clip(turns[turn].parts, found, at)
                    break
            else:
                yield Piece(segment.text)
        else:
            yield Piece(segment.text, markup=True)


class Transcript:
    """One stream's text and tokens. Not thread-safe: the run's lock guards it."""

    def __init__(self, backend: Backend, chat: Chat, changed: Changed) -> None:
        self.ids: list[int] = []
        self.history: list[Said] = []
        self.n_rewritten = 0
        """tokens that stood and were taken away because the template said something else later"""
        self._backend = backend
        self._chat = chat
        self._changed = changed
        self._placed: list[Piece] = []
        self._turns: list[Turn] = []
        self._open = False
        self._loose = ""
        self._frozen = Frozen()
        self._n_lead = 0

    def fork(self, changed: Changed) -> Transcript:
        """A transcript of its own that starts with all that stands here."""
        child = Transcript(self._backend, self._chat, changed)
        for name in ("ids", "history", "_placed", "_turns"):
            setattr(child, name, list(getattr(self, name)))
        for name in ("n_rewritten", "_open", "_loose", "_frozen", "_n_lead"):
            setattr(child, name, getattr(self, name))
        return child

    # ------------------------------------------------------------ what a program says

    def say(self, text: str) -> None:
        """Literal text, inside the open role or outside all."""
        if self._open:
            self._add(Piece(text, role=self._turns[-1].role))
        else:
            self._leave_roles()
            self._loose += text
            self.history.append(Piece(text))

    def begin(self, role: str) -> None:
        if self._loose:
            self._place_loose()
        self._turns.append(Turn(role))
        self._open = True
        self.history.append(RoleBegin(role))

    def end(self) -> None:
        self._open = False
        self.history.append(RoleEnd(self._turns[-1].role))

    def take(self, text: str, ids: tuple[int, ...], kind: str) -> None:
        """What the model wrote or chose after `settle`."""
        piece = Piece(text, ids, kind, self._turns[-1].role if self._open else "")
        self._place(piece)
        if self._open:
            self._add(piece)
        else:
            self._frozen = replace(self._frozen, n_pieces=len(self._placed))
            self.history.append(piece)

    def replay(self, history: Iterable[Said]) -> None:
        """Say here what was said elsewhere, generated tokens included."""
        for said in history:
            match said:
                case RoleBegin(role):
                    self.begin(role)
                case RoleEnd():
                    self.end()
                case Piece(text, None):
                    self.say(text)
                case Piece(text, tuple(ids), kind):
                    self.settle(to_generate=True)
                    self.take(text, ids, kind)

    def _add(self, piece: Piece) -> None:
        turn = self._turns[-1]
        self._turns[-1] = replace(turn, parts=(*turn.parts, piece))
        self.history.append(piece)

    # ------------------------------------------------------------ what a program reads

    @property
    def in_turn(self) -> bool:
        """Whether what comes next is a turn's content."""
        return self._open

    @property
    def role(self) -> str:
        """Of the turn that is open; empty outside of turns."""
        return self._turns[-1].role if self._open else ""

    @property
    def messages(self) -> tuple[Message, ...]:
        return tuple(turn.message for turn in self._turns)

    def said_since(self, mark: int) -> str:
        """Text since `len(history)` was `mark`, without the template's."""
        return "".join(said.text for said in self.history[mark:] if isinstance(said, Piece))

    def seen(self) -> str:
        """The text that the tokens stand for so far, without a leading BOS."""
        return "".join(piece.text for piece in self._placed)[self._n_lead :]

    def text(self) -> str:
        """All text, the template's included, also what no model has seen yet."""
        if not self._in_roles:
            return self.seen() + self._loose
        before = "".join(piece.text for piece in self._placed[: self._frozen.n_pieces])
        return before[self._n_lead :] + "".join(piece.text for piece in self._layout())

    # ------------------------------------------------------------ from text to tokens

    def settle(self, *, to_generate: bool = False) -> None:
        """Bring `ids` up to date, so that they are the prompt of what comes next."""
        if self._in_roles and not (to_generate and not self._open):
            self._reconcile(self._layout())
            return
        self._leave_roles()
        if self._loose or (to_generate and not self.ids):
            self._place_loose()

    @property
    def _in_roles(self) -> bool:
        """Whether turns stand, or are to stand, after the last text outside roles."""
        return len(self._turns) > self._frozen.n_turns

    def _leave_roles(self) -> None:
        if self._in_roles:
            pieces = self._layout()
            self._reconcile(pieces)
            rendering = self._frozen.rendering + "".join(piece.text for piece in pieces)
            self._frozen = Frozen(len(self._placed), len(self._turns), rendering)

    def _place_loose(self) -> None:
        text, self._loose = self._loose, ""
        if self.ids:
            self._place(Piece(text))
        else:
            for segment in self._backend.render_text(text):
                self._place(Piece(segment.text, markup=segment.markup))
            self._n_lead = len(self.seen()) - len(text)
        self._frozen = replace(self._frozen, n_pieces=len(self._placed))

    def _layout(self) -> list[Piece]:
        """All that is to stand after the frozen part: the turns as the template renders them."""
        turns = self._turns[:-1] if self._open else self._turns
        messages = [turn.message for turn in turns]
        tail: tuple[Piece, ...] = ()
        if not self._open:
            segments = self._chat.render(messages, False)
        else:
            role, tail = self._turns[-1].role, self._turns[-1].parts
            opening = role == "assistant" and bool(messages)
            segments = self._chat.render(messages, True) if opening else render_until(self._chat.render, messages, role)
        rendering = "".join(segment.text for segment in segments)
        if not rendering.startswith(self._frozen.rendering):
            raise ProgramError(
                "the chat template rewrites turns that stand before text outside any role", hint="keep all text inside roles"
            )
        return [*clip(attribute(segments, turns), len(self._frozen.rendering)), *tail]

    def _reconcile(self, pieces: Sequence[Piece]) -> None:
        """Make `pieces` stand after the frozen part, keeping the tokens up to the first difference."""
        text = "".join(piece.text for piece in pieces)
        markup = "".join(("1" if piece.markup else "0") * len(piece.text) for piece in pieces)
        n_kept, at = self._frozen.n_pieces, 0
        cut: Piece | None = None
        for piece in self._placed[n_kept:]:
            end = at + len(piece.text)
            # What was generated may be content or, a space say, the template's own text by now.
            same_source = piece.kind != "text" or markup[at:end] == ("1" if piece.markup else "0") * (end - at)
            if not (same_source and text.startswith(piece.text, at)):
                cut = self._beginning(piece, text[at:]) if piece.kind != "text" else None
                break
            n_kept, at = n_kept + 1, end
        n_before = len(self.ids)
        del self._placed[n_kept:]
        del self.ids[sum(len(piece.ids or ()) for piece in self._placed) :]
        if cut:
            self._placed.append(cut)
            self.ids += cut.ids or ()
            at += len(cut.text)
        n_stand = len(self.ids)
        self.n_rewritten += n_before - n_stand
        for piece in joined(clip(pieces, at)):
            self._place(piece)
        if len(self.ids) == n_stand < n_before:
            self._changed(n_stand, Piece("", (), "trim"))

    def _beginning(self, piece: Piece, text: str) -> Piece | None:
        """As many tokens of a generated piece as `text` still begins with."""
        limit = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(piece.text, text, strict=False)))
        for n in range(len(piece.ids or ()) - 1, 0, -1) if limit else ():
            ids = (piece.ids or ())[:n]
            spelled = self._backend.decode(ids)
            if len(spelled) <= limit and piece.text.startswith(spelled):
                return replace(piece, text=spelled, ids=ids)
        return None

    def _place(self, piece: Piece) -> None:
        ids = self._backend.encode(piece.text, markup=piece.markup) if piece.ids is None else piece.ids
        if not ids:
            return
        start = len(self.ids)
        placed = replace(piece, ids=ids)
        self._placed.append(placed)
        self.ids += ids
        self._changed(start, placed)


def joined(pieces: Iterable[Piece]) -> Iterator[Piece]:
    """Neighbouring literals of one source as one piece: a tokenizer should see them whole."""
    for (literal, _, _), group in groupby(pieces, key=lambda piece: (piece.ids is None, piece.markup, piece.role)):
        if literal:
            members = list(group)
            yield replace(members[0], text="".join(member.text for member in members))
        else:
            yield from group
