"""What a request asks of the engine, and how its answer is spelled: the seam between the APIs and
the door.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePath
from typing import NamedTuple, Protocol

from ..contracts.errors import ModelMissing
from ..contracts.port import Backend, GenJob, GenOutput, Message, ModelCard, ScoreJob, ScoreOutput, Segment, TokenLogprob
from ..lang.chat_template import Chat, chat_of
from .conversations import Conversations
from .images import IMAGE, Images

Job = GenJob | ScoreJob
Answer = tuple[GenOutput, ...] | ScoreOutput
"""of one job"""
CHOICES = 16
"""choices that count as one sequence"""


class Piece(NamedTuple):
    """Sample number `sample` of job number `job` grew."""

    job: int
    sample: int
    text: str
    ids: tuple[int, ...]
    logprobs: tuple[TokenLogprob, ...]
    n_cached: int = 0
    """tokens of the prompt"""


class Reply(Protocol):
    """Spells an answer: whole, or as the frames of a stream of server-sent events."""

    def whole(self, answers: Sequence[Answer]) -> object:
        """The JSON value of the answer."""

    def opening(self) -> bytes: ...

    def piece(self, piece: Piece) -> bytes: ...

    def closing(self, answers: Sequence[Answer]) -> bytes: ...


@dataclass(frozen=True, slots=True)
class ParsedRequest:
    jobs: tuple[Job, ...]
    reply: Reply
    streams: bool = False
    rid: str | None = None
    """the client's name for it, by which it can be aborted"""
    keep: Callable[[str, Sequence[Answer]], None] | None = None
    """called with the client and the answers before they are sent"""

    @property
    def n_sequences(self) -> int:
        """How much it holds; a choice is little, since it shares its prompt and decodes nothing."""
        return sum(job.params.n if isinstance(job, GenJob) else -(-len(job.choices) // CHOICES) for job in self.jobs)


def frame(data: object, event: str | None = None) -> bytes:
    """One server-sent event."""
    head = f"event: {event}\n" if event else ""
    return f"{head}data: {dumps(data)}\n\n".encode()


def dumps(data: object) -> str:
    return json.dumps(data, ensure_ascii=False, separators=(",", ":"))


DONE = b"data: [DONE]\n\n"


class Model:
    """The served model, as the APIs need it: rendering, encoding, spelling. Used on several threads."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.conversations = Conversations()
        self.images = Images(backend)
        self.card: ModelCard = backend.describe()
        path = PurePath(self.card.name)
        self.name = path.name if path.is_absolute() else self.card.name
        """as clients see it: of a folder, its last part"""
        self.names = tuple(dict.fromkeys((self.name, self.card.name, path.name, "default")))

    @cached_property
    def chat(self) -> Chat:
        return chat_of(self.backend, self.card)

    def check_name(self, name: str | None) -> None:
        """ModelMissing unless it is the served model's."""
        if name is not None and name not in self.names:
            raise ModelMissing(f"there is no model {name!r:.80} here", hint=f"the door serves {self.name!r}")

    def encode(self, segments: Iterable[Segment]) -> tuple[int, ...]:
        """Images that are marked in the texts are in their places (`images.blocks` finds them again)."""
        ids: tuple[int, ...] = ()
        waiting: list[Segment] = []
        for segment in segments:
            for part in self.images.split(segment.text):
                if isinstance(part, str):
                    waiting.append(Segment(part, segment.markup))
                    continue
                ids += (*self.backend.encode_all(tuple(waiting)), *part.ids)
                waiting = []
        return ids + self.backend.encode_all(tuple(waiting))

    def encode_text(self, text: str) -> tuple[int, ...]:
        """Of a prompt without roles."""
        return self.encode(self.backend.render_text(text))

    def encode_chat(self, messages: Sequence[Message], *, continues: bool = False) -> tuple[int, ...]:
        """The prompt of the assistant's next turn; `continues`: the last message is its beginning."""
        begun = messages[-1].content if continues else ""
        segments = self.chat.render(messages[:-1] if continues else messages, True)
        return self.encode((*segments, Segment(begun, False)) if begun else segments)

    @cached_property
    def turn_end(self) -> tuple[int, ...]:
        """The first token after an assistant's turn; nothing if the template shows none."""
        mark = secrets.token_hex(8)
        segments = self.chat.render((Message("user", "a"), Message("assistant", mark)), False)
        after = "".join(segment.text for segment in segments).partition(mark)[2]
        return self.backend.encode(after, markup=True)[:1]

    @cached_property
    def image_token(self) -> int | None:
        """The token of `<image>` in a prompt of ids."""
        found = self.backend.encode(IMAGE, markup=True)
        return found[0] if self.images.sees and len(found) == 1 else None

    def spell(self, token: int) -> str:
        return self.backend.decode((token,))
