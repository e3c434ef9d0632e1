"""What was said in one strand: text, turns, and what the model wrote. It can be read as messages.

`transcript.py` adds the token ids. A backend that takes messages needs no more than this.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from ..contracts.conversation import ToolCallPart
from ..contracts.port import Message, Segment
from ..contracts.spans import OBJECT, Block
from .chat_template import Chat, render_until
from .expressions import RoleBegin, RoleEnd


@dataclass(frozen=True, slots=True)
class Piece:
    """Some text. `ids` are None for a literal that has not been placed."""

    text: str
    ids: tuple[int, ...] | None = None
    kind: str = "text"
    """text, block, generated, choice or trim, as in StreamExtended"""
    role: str = ""
    markup: bool = False
    """the template's own: it may spell special tokens"""
    lead: str = ""
    """the end of the literal before it, which its tokens spell too"""
    fixed: bool = False
    """its ids stand as they are, whatever is next to them"""
    special: bool = False
    """`text` spells the special tokens among them"""
    block: Block | None = None
    """what it embeds: `ids` are its positions"""
    call: ToolCallPart | None = None
    """of a tool, in the server's own form; `text` spells it"""


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


Said = Piece | RoleBegin | RoleEnd
"""One thing that a stream's program or model said."""


class History:
    """Not thread-safe: the run's lock guards it."""

    def __init__(self, chat: Chat) -> None:
        self.history: list[Said] = []
        self._chat = chat
        self._turns: list[Turn] = []
        self._messages: list[Message] = []
        """of the turns that are closed"""
        self._open = False

    def go_on_from(self, other: History) -> None:
        """Start with all that stands there."""
        self.history, self._turns, self._messages = list(other.history), list(other._turns), list(other._messages)
        self._open = other._open

    # ------------------------------------------------------------ what a program says

    def say(self, text: str) -> None:
        """Literal text, inside the open role or outside all."""
        self._add(Piece(text, role=self.role))

    def embed(self, block: Block) -> None:
        """A block, inside the open role or outside all. In text it is one character, so a template places it as it places text."""
        self._add(Piece(OBJECT, block.ids, "block", self.role, fixed=True, block=block))

    def begin(self, role: str) -> None:
        self._turns.append(Turn(role))
        self._open = True
        self.history.append(RoleBegin(role))

    def end(self) -> None:
        self._open = False
        self._messages.append(self._turns[-1].message)
        self.history.append(RoleEnd(self._turns[-1].role))

    def observe(self, text: str, in_roles: bool) -> None:
        """What a tool said: a turn of its own, or a line of plain text."""
        if in_roles:
            self.begin("tool")
            self.say(text)
            self.end()
        else:
            self.say(f"\n{text}")

    def take(self, said: Piece, held: tuple[int, ...] = ()) -> None:
        """What the model wrote or chose. `held` are tokens that are in no text yet."""
        self._add(replace(said, role=self.role))

    def settle(self, *, to_generate: bool = False) -> None:
        """Bring what a backend is sent up to date."""

    def replay(self, history: Iterable[Said]) -> None:
        """Say here what was said elsewhere."""
        for said in history:
            match said:
                case RoleBegin(role):
                    self.begin(role)
                case RoleEnd():
                    self.end()
                case Piece(text, None, "text"):
                    self.say(text)
                case Piece(block=Block() as block):
                    self.embed(block)
                case Piece() as piece:
                    self.settle(to_generate=True)
                    self.take(piece)

    def _add(self, said: Piece) -> None:
        if self._open:
            turn = self._turns[-1]
            self._turns[-1] = replace(turn, parts=(*turn.parts, said))
        self.history.append(said)

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

    def certain(self) -> str:
        """The beginning of `text` that nothing which comes later changes."""
        return ""

    def text(self) -> str:
        """All text, turns as the chat template renders them."""
        text, rendered, n_turns = "", "", 0
        for said in self.history:
            if isinstance(said, RoleBegin):
                n_turns += 1
            elif isinstance(said, Piece) and not said.role:
                if n_turns:
                    rendering = "".join(segment.text for segment in self._chat.render(self._messages[:n_turns], False))
                    text, rendered = text + rendering[len(rendered) :], rendering
                text += said.text
        if not self._turns:
            return text
        segments, tail = self._rendered()
        return text + "".join([*(segment.text for segment in segments), *(piece.text for piece in tail)])[len(rendered) :]

    def _rendered(self) -> tuple[tuple[Segment, ...], tuple[Piece, ...]]:
        """The turns as the template renders them, up to where the content of an open one begins, and that content."""
        if not self._open:
            return self._chat.render(self._messages, False), ()
        before, turn = self._messages, self._turns[-1]
        opening = turn.role == "assistant" and bool(before)
        return self._chat.render(before, True) if opening else render_until(self._chat.render, before, turn.role), turn.parts
