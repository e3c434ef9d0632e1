"""A prompt is a run of spans: token ids, and embedded blocks such as the patches of an image.

Both are integers in one tuple, so a prompt is sliced, hashed and compared as a whole. A position of
a block has a negative id, composed of the block's number and the offset in the block. A number
belongs to one content (full digests are compared when it is assigned). Comparing ids therefore
compares contents, and two contents never collide. Without negative ids there is no block, and a
prompt costs the same as before.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from .errors import BadArgument

OBJECT = "\ufffc"
"""a block in text: Unicode's object replacement character"""
MAX_POSITIONS = 1 << 20
"""positions of one block"""
_NUMBERS = (1 << 32) - 1
"""numbers of contents, from 1; an id then stays below 2**53, which every reader of JSON keeps
exactly
"""
MAX_PICTURE = 16 << 10
"""characters of a picture for views"""
_PICTURE = re.compile(rf"(?=.{{0,{MAX_PICTURE}}}\Z)(data:image/(png|jpeg);base64,[A-Za-z0-9+/]+={{0,2}})?", re.ASCII)
_DIGEST = re.compile(r"[0-9a-f]{16,128}")
_KIND = re.compile(r"[a-z]{1,20}")


@dataclass(frozen=True, slots=True)
class Content:
    """The content of a block. Two blocks of equal content are the same to the cache.

    digest   lower-case hex, 16 to 128 digits, of everything that the embeddings depend on: the
             displayed content and its encoder
    n        positions
    kind     its kind, in one word
    picture  a data URL of a small PNG or JPEG that shows it in views; empty without one
    """

    digest: str
    n: int
    kind: str = "image"
    picture: str = field(default="", compare=False, repr=False)

    def __post_init__(self) -> None:
        if not isinstance(self.digest, str) or not _DIGEST.fullmatch(self.digest):
            raise BadArgument(f"a digest cannot be {self.digest!r:.80}", hint="give 16 to 128 lower-case hex digits")
        if not isinstance(self.kind, str) or not _KIND.fullmatch(self.kind):
            raise BadArgument(f"a kind of block cannot be {self.kind!r:.80}", hint="give one word in lower-case letters, such as image")
        if type(self.n) is not int or not 0 < self.n <= MAX_POSITIONS:
            raise BadArgument(f"a block cannot have {self.n!r:.80} positions", hint=f"give 1 to {MAX_POSITIONS:,}")
        if not isinstance(self.picture, str) or not _PICTURE.fullmatch(self.picture[: MAX_PICTURE + 1]):
            hint = f"give a data URL of a PNG or JPEG, at most {MAX_PICTURE:,} characters"
            raise BadArgument(f"a picture cannot be {self.picture!r:.80}", hint=hint)

    @property
    def title(self) -> str:
        """A short text that distinguishes it from others of its kind."""
        return self.digest[:6]

    def shown(self, n: int | None = None) -> str:
        """The chip for `n` of its positions in a view, by default for all."""
        part = "" if n is None or n == self.n else f"{n:,} of "
        return f"[▣ {self.kind} {part}{self.n:,} {'position' if self.n == 1 else 'positions'}]"


@dataclass(frozen=True, slots=True)
class Block:
    """Positions of a prompt with given embeddings.

    `embeddings` are float32 [n, hidden] in C order: what the embedding layer returns for a token,
    after its scale.
    """

    content: Content
    embeddings: memoryview | None = field(default=None, compare=False, repr=False)

    @property
    def is_image(self) -> bool:
        """Whether an engine elsewhere computes its embeddings, out of an image."""
        return False

    @property
    def ids(self) -> tuple[int, ...]:
        """The ids of its positions, in order."""
        first = first_id(self.content)
        return tuple(range(first, first - self.content.n, -1))


@dataclass(frozen=True, slots=True)
class ImageBlock(Block):
    """An image that a server sees; `data` is its file."""

    data: bytes = field(default=b"", compare=False, repr=False)

    @property
    def is_image(self) -> bool:
        return True


class BlockPosition(NamedTuple):
    content: Content
    offset: int


_contents: dict[int, Content] = {}
"""by number; a number is never reused within one process"""
_lock = threading.Lock()


def first_id(content: Content) -> int:
    """The id of the first position; the next positions have the ids below it. It is the same in
    every process, unless numbers clash.
    """
    number = int(content.digest[:8], 16) % _NUMBERS + 1
    with _lock:
        while (known := _contents.setdefault(number, content)) != content:
            number = number % _NUMBERS + 1
        if content.picture and not known.picture:
            _contents[number] = content
    return -number * MAX_POSITIONS


def block_position(token: int) -> BlockPosition | None:
    """The content and offset of an id; None for a token, and for an id without a content."""
    if token >= 0:
        return None
    number, offset = divmod(-token, MAX_POSITIONS)
    content = _contents.get(number)
    return None if content is None or offset >= content.n else BlockPosition(content, offset)


def is_inside(token: int) -> bool:
    """Whether the id is a position of a block other than the first."""
    return token < 0 and (-token) % MAX_POSITIONS > 0


def text_of(token: int) -> str:
    """The text of a position of a block: a block is one character, at its first position."""
    return "" if is_inside(token) else OBJECT


def shown_at(token: int) -> str:
    """The text in a view for a position of a block: the chip at the first one, nothing at the
    others.
    """
    position = block_position(token)
    return f"<{token}>" if position is None else "" if position.offset else position.content.shown()


def distinguishing(spell: Callable[[int], str]) -> Callable[[int], str]:
    """A spelling for comparisons: it distinguishes blocks of one kind and size."""

    def named(token: int) -> str:
        position = block_position(token)
        return spell(token) if position is None else "" if position.offset else f"{position.content.shown()} ({position.content.title})"

    return named


def has_blocks(tokens: Sequence[int]) -> bool:
    return bool(tokens) and min(tokens) < 0


def blocks_in(tokens: Sequence[int]) -> Iterator[tuple[int, int, BlockPosition]]:
    """The beginning and end of each block, or part of a block, in `tokens`, and its beginning in
    its content. ValueError for an unknown id.
    """
    at = 0
    while at < len(tokens):
        if tokens[at] >= 0:
            at += 1
            continue
        position = block_position(tokens[at])
        if position is None:
            raise ValueError(f"{tokens[at]} is the id of no block")
        end = min(at + position.content.n - position.offset, len(tokens))
        end = next((i for i in range(at, end) if tokens[i] != tokens[at] - (i - at)), end)
        yield at, end, position
        at = end


def spelled(tokens: Sequence[int], spell: Callable[[int], str], n_most: int) -> str:
    """The first `n_most` tokens as a view shows them. A block, or a part of one, counts as one
    token.
    """
    if not has_blocks(tokens[:n_most]):
        return "".join(map(spell, tokens[:n_most]))
    parts: list[str] = []
    at = 0
    for start, end, position in (*blocks_in(tokens), (len(tokens), len(tokens), None)):
        parts += map(spell, tokens[at : min(start, at + n_most - len(parts))])
        if len(parts) >= n_most:
            break
        if position is not None:
            parts.append(position.content.shown(end - start))
        at = end
    return "".join(parts)
