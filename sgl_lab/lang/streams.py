"""The two kinds of stream: for a backend that takes token ids, and for one that takes messages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from contextvars import Context
from dataclasses import replace
from typing import Self, cast

from ..contracts.conversation import ConversationBackend, takes_tokens
from ..contracts.events import StreamExtended
from ..contracts.params import SamplingParams
from ..contracts.port import Backend
from .conversation import ChatGeneration, Conversation, Decision, GeneratedChoice
from .expressions import Embedded, Gen, Image, Leaf, Select, Text
from .history import Piece
from .run import Run
from .stream import Stream
from .tokens import Scoring, TokenGeneration, Warming
from .transcript import Healed, Transcript, likely_seam
from .variable import Variable


def stream_of(run: Run, label: str) -> Stream:
    """The root of a run."""
    if takes_tokens(run.backend):
        return TokenStream(run, run.backend, label)
    return ChatStream(run, cast(ConversationBackend, run.backend), label)


class TokenStream(Stream):
    transcript: Transcript

    def __init__(self, run: Run, backend: Backend, label: str, parent: Self | None = None, index: int = 0) -> None:
        super().__init__(run, label, parent, index)
        self.backend = backend
        self.transcript = Transcript(backend, run.chat, self._extended)
        self._text: str = parent._text if parent else ""
        """the literal text that was appended last"""

    def _child(self, label: str, index: int) -> Self:
        return type(self)(self.run, self.backend, label, self, index)

    def _begin_at(self, parent: Self) -> None:
        self.transcript = parent.transcript.fork(self._extended)

    def _prepare(self, parts: Sequence[Leaf]) -> Sequence[Leaf]:
        """Prepare each constraint, also with the end of the preceding text in front, which the
        model may generate again. An image becomes its embeddings.
        """
        text = self._text
        for leaf in parts:
            if isinstance(leaf, Gen) and leaf.form is not None:
                self.backend.prepare(leaf.form.constraint)
                if leaf.heal and (seam := likely_seam(self.backend, text)):
                    self.backend.prepare(replace(leaf.form.constraint, seam=seam))
            text = (text + leaf.text)[-512:] if isinstance(leaf, Text) else ""
        self._text = text
        return [self._seen(leaf) if isinstance(leaf, Image) else leaf for leaf in parts]

    def _seen(self, image: Image) -> Embedded:
        if not self.run.card.capabilities.images:
            raise self.run.missing("images")
        return Embedded(self.backend.see(image.data))

    def _generate(self, gen: Gen, variable: Variable, params: SamplingParams, context: Context | None) -> None:
        TokenGeneration(self, gen, variable, context).start(params)

    def _select(self, select: Select, variable: Variable) -> None:
        Scoring(self, select, variable).start()

    def _warm(self, warmed: Callable[[], None], failed: Callable[[Exception], None]) -> None:
        if self.transcript.ids and self.run.card.capabilities.warms:
            Warming(self, warmed, failed).start()
        else:
            warmed()

    def _at_once(self) -> AbstractContextManager[object]:
        return self.backend.at_once()

    def _extended(self, start: int, piece: Piece, healed: Healed) -> None:
        self.run.emit(StreamExtended(self.id, start, piece.ids or (), piece.kind, piece.role, healed.n, healed.before))


class ChatStream(Stream):
    transcript: Conversation

    def __init__(self, run: Run, backend: ConversationBackend, label: str, parent: Self | None = None, index: int = 0) -> None:
        super().__init__(run, label, parent, index)
        self.backend = backend
        self.transcript = Conversation(run, self._shown)

    def _child(self, label: str, index: int) -> Self:
        return type(self)(self.run, self.backend, label, self, index)

    def _begin_at(self, parent: Self) -> None:
        parent.transcript.share()
        self.transcript.go_on_from(parent.transcript)

    def _prepare(self, parts: Sequence[Leaf]) -> Sequence[Leaf]:
        for leaf in parts:
            if isinstance(leaf, Gen) and leaf.form is not None and not (leaf.form.tools and self.run.card.capabilities.tools):
                self.backend.prepare(leaf.form.constraint)
        return parts

    def _generate(self, gen: Gen, variable: Variable, params: SamplingParams, context: Context | None) -> None:
        ChatGeneration(self, gen, variable, context).start(params)

    def _select(self, select: Select, variable: Variable) -> None:
        if self.run.card.capabilities.choices in ("decided", "first token"):
            Decision(self, select, variable).start()
        else:
            GeneratedChoice(self, select, variable).start()

    def _shown(self, start: int, ids: tuple[int, ...], kind: str, role: str) -> None:
        self.run.emit(StreamExtended(self.id, start, ids, kind, role))
