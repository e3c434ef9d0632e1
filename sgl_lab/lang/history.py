"""The history of one strand: text, turns, and generations. It can be read as messages.

`transcript.py` adds the token ids. A backend that takes messages needs only this.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace

from ..contracts.conversation import ImagePart, ToolCallPart
from ..contracts.errors import ProgramError
from ..contracts.port import Message, Segment
from ..contracts.spans import OBJECT, Block, Content, first_id
from .chat_template import Chat, render_until
from .expressions import RoleBegin, RoleEnd

MAX_END = 80
"""characters of literal text before a gen that an event has"""


@dataclass(frozen=True, slots=True)
class Piece:
    """A piece of text. `ids` is None for a literal that has not been placed."""

    text: str
    ids: tuple[int, ...] | None = None
    kind: str = "text"
    """text, block, generated, choice or trim, as in StreamExtended"""
    role: str = ""
    markup: bool = False
    """text of the template, which may spell special tokens"""
    lead: str = ""
    """the end of the preceding literal, which its tokens spell too"""
    fixed: bool = False
    """whether its ids are fixed, whatever is next to them"""
    special: bool = False
    """whether `text` spells the special tokens among them"""
    block: Block | None = None
    """the embedded block: `ids` are its positions"""
    call: ToolCallPart | None = None
    """a tool's call in the server's own form; `text` spells it"""
    image: ImagePart | None = None
    """the image here, whose `text` is one character"""


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


Turned = Piece | RoleBegin | RoleEnd
"""One contribution of a stream's program or model."""


class History:
    """Not thread-safe: the run's lock guards it."""

    def __init__(self, chat: Chat) -> None:
        self.history: list[Turned] = []
        self._chat = chat
        self._turns: list[Turn] = []
        self._messages: list[Message] = []
        """of the turns that are closed"""
        self._open = False

    def go_on_from(self, other: History) -> None:
        """Start with everything in that history."""
        self.history, self._turns, self._messages = list(other.history), list(other._turns), list(other._messages)
        self._open = other._open

    # ------------------------------------------------------------ appending

    def say(self, text: str) -> None:
        """Literal text, inside the open role or outside all roles."""
        self._add(Piece(text, role=self.role))

    def place(self, ids: tuple[int, ...]) -> None:
        """Tokens by their ids; only for a backend that takes them."""
        raise ProgramError("this history holds no token ids", hint="s.messages() is what the backend is sent")

    def embed(self, block: Block) -> None:
        """A block, inside the open role or outside all roles. In text it is one character, so a
        template treats it as text.
        """
        self._add(Piece(OBJECT, block.ids, "block", self.role, fixed=True, block=block))

    def show(self, image: ImagePart) -> None:
        """An image inside the open role. In text it is one character."""
        content = Content(hashlib.sha256(image.data).hexdigest(), 1, "image")
        self._add(Piece(OBJECT, (first_id(content),), "block", self.role, fixed=True, image=image))

    def begin(self, role: str) -> None:
        self._turns.append(Turn(role))
        self._open = True
        self.history.append(RoleBegin(role))

    def end(self) -> None:
        self._open = False
        self._messages.append(self._turns[-1].message)
        self.history.append(RoleEnd(self._turns[-1].role))

    def observe(self, text: str, in_roles: bool) -> None:
        """The result of a tool: a turn of its own, or a line of plain text."""
        if in_roles:
            self.begin("tool")
            self.say(text)
            self.end()
        else:
            self.say(f"\n{text}")

    def take(self, piece: Piece, held: tuple[int, ...] = ()) -> None:
        """The text that the model generated or chose. `held` are tokens that are in no text yet."""
        self._add(replace(piece, role=self.role))

    def settle(self, *, to_generate: bool = False) -> None:
        """Update the data that is sent to a backend."""

    def replay(self, history: Iterable[Turned]) -> None:
        """Append text of another history."""
        for entry in history:
            match entry:
                case RoleBegin(role):
                    self.begin(role)
                case RoleEnd():
                    self.end()
                case Piece(text, None, "text"):
                    self.say(text)
                case Piece(image=ImagePart() as image):
                    self.show(image)
                case Piece(block=Block() as block):
                    self.embed(block)
                case Piece() as piece:
                    self.settle(to_generate=True)
                    self.take(piece)

    def _add(self, piece: Piece) -> None:
        if self._open:
            turn = self._turns[-1]
            self._turns[-1] = replace(turn, parts=(*turn.parts, piece))
        self.history.append(piece)

    # ------------------------------------------------------------ reading

    @property
    def in_turn(self) -> bool:
        """Whether the following text is content of a turn."""
        return self._open

    @property
    def role(self) -> str:
        """Role of the open turn; empty outside of turns."""
        return self._turns[-1].role if self._open else ""

    def end_of_literal(self) -> str:
        """The last characters of the literal text that ends the history; empty if it ends otherwise."""
        text = ""
        for entry in reversed(self.history):
            if not isinstance(entry, Piece) or entry.kind != "text" or len(text) >= MAX_END:
                break
            text = entry.text + text
        return text[-MAX_END:]

    @property
    def messages(self) -> tuple[Message, ...]:
        return tuple(turn.message for turn in self._turns)

    def said_since(self, mark: int) -> str:
        """Text since `len(history)` was `mark`, without the template's."""
        return "".join(piece.text for piece in self.history[mark:] if isinstance(piece, Piece))

    def certain(self) -> str:
        """The beginning of `text` that no later text can change."""
        return ""

    def text(self) -> str:
        """All text, with turns as the chat template renders them."""
        text, rendered, n_turns = "", "", 0
        for entry in self.history:
            if isinstance(entry, RoleBegin):
                n_turns += 1
            elif isinstance(entry, Piece) and not entry.role:
                if n_turns:
                    rendering = "".join(segment.text for segment in self._chat.render(self._messages[:n_turns], False))
                    text, rendered = text + rendering[len(rendered) :], rendering
                text += entry.text
        if not self._turns:
            return text
        segments, tail = self._rendered()
        return text + "".join([*(segment.text for segment in segments), *(piece.text for piece in tail)])[len(rendered) :]

    def _rendered(self) -> tuple[tuple[Segment, ...], tuple[Piece, ...]]:
        """The turns as the template renders them, up to the beginning of the content of an open
        one, and that content.
        """
        if not self._open:
            return self._chat.render(self._messages, False), ()
        before, turn = self._messages, self._turns[-1]
        opening = turn.role == "assistant" and bool(before)
        return self._chat.render(before, True) if opening else render_until(self._chat.render, before, turn.role), turn.parts
