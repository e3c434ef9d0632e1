"""A prompt is a run of spans: token ids, and embedded blocks such as the patches of an image.

Both are integers in one tuple, so a prompt is sliced, hashed and compared as a whole. The position of a block has a
negative id, made of the block's number and the offset in the block. A number belongs to one content (full digests are
compared when it is given out), so one comparison of ids compares contents, and two contents never collide. Where no id
is negative there is no block, and a prompt costs what it costs without blocks.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from .errors import BadArgument

OBJECT = "\ufffc"
"""how text shows a block: Unicode's object replacement character"""
MAX_POSITIONS = 1 << 20
"""of one block"""
_NUMBERS = (1 << 32) - 1
"""of contents, from 1; an id then stays below 2**53, which every reader of JSON keeps exact"""
_DIGEST = re.compile(r"[0-9a-f]{16,128}")
_KIND = re.compile(r"[a-z]{1,20}")


@dataclass(frozen=True, slots=True)
class Content:
    """What a block stands for. Two blocks of equal content are one to the cache.

    digest  lower-case hex, 16 to 128 digits, of all that the embeddings depend on: what is shown and what encodes it
    n       positions
    kind    what it is, in one word
    """

    digest: str
    n: int
    kind: str = "image"

    def __post_init__(self) -> None:
        if not isinstance(self.digest, str) or not _DIGEST.fullmatch(self.digest):
            raise BadArgument(f"a digest cannot be {self.digest!r:.80}", hint="give 16 to 128 lower-case hex digits")
        if not isinstance(self.kind, str) or not _KIND.fullmatch(self.kind):
            raise BadArgument(f"a kind of block cannot be {self.kind!r:.80}", hint="give one word in lower-case letters, such as image")
        if type(self.n) is not int or not 0 < self.n <= MAX_POSITIONS:
            raise BadArgument(f"a block cannot have {self.n!r:.80} positions", hint=f"give 1 to {MAX_POSITIONS:,}")

    @property
    def title(self) -> str:
        """What tells it from others of its kind, in short."""
        return self.digest[:6]

    def shown(self, n: int | None = None) -> str:
        """The chip that stands for `n` of its positions in a view, by default for all."""
        part = "" if n is None or n == self.n else f"{n:,} of "
        return f"▣ {self.kind} {part}{self.n:,} {'position' if self.n == 1 else 'positions'}"


@dataclass(frozen=True, slots=True)
class Block:
    """Positions of a prompt whose embeddings are given.

    `embeddings` are float32 [n, hidden] in C order: what the embedding layer gives for a token, after its scale.
    """

    content: Content
    embeddings: memoryview | None = field(default=None, compare=False, repr=False)

    @property
    def ids(self) -> tuple[int, ...]:
        """Of its positions, in order."""
        first = first_id(self.content)
        return tuple(range(first, first - self.content.n, -1))


class Place(NamedTuple):
    content: Content
    offset: int


_contents: dict[int, Content] = {}
"""by number; a number is never reused within one process"""
_lock = threading.Lock()


def first_id(content: Content) -> int:
    """The id of the first position; those after it have the ids below it. The same in every process, unless numbers clash."""
    number = int(content.digest[:8], 16) % _NUMBERS + 1
    with _lock:
        while _contents.setdefault(number, content) != content:
            number = number % _NUMBERS + 1
    return -number * MAX_POSITIONS


def place_of(token: int) -> Place | None:
    """Where in which content an id stands; None for a token, and for an id that no content has."""
    if token >= 0:
        return None
    number, offset = divmod(-token, MAX_POSITIONS)
    content = _contents.get(number)
    return None if content is None or offset >= content.n else Place(content, offset)


def is_inside(token: int) -> bool:
    """Whether it is a position of a block, and not the first."""
    return token < 0 and (-token) % MAX_POSITIONS > 0


def text_of(token: int) -> str:
    """The text of a position of a block: a block is one character, which its first position has."""
    return "" if is_inside(token) else OBJECT


def shown_at(token: int) -> str:
    """What a view shows at a position of a block: the chip at the first one, nothing at the others."""
    place = place_of(token)
    return f"<{token}>" if place is None else "" if place.offset else place.content.shown()


def told_apart(spell: Callable[[int], str]) -> Callable[[int], str]:
    """A spelling for texts that are compared: it tells blocks of one kind and size apart."""

    def named(token: int) -> str:
        place = place_of(token)
        return spell(token) if place is None else "" if place.offset else f"{place.content.shown()} ({place.content.title})"

    return named


def has_blocks(tokens: Sequence[int]) -> bool:
    return bool(tokens) and min(tokens) < 0


def blocks_in(tokens: Sequence[int]) -> Iterator[tuple[int, int, Place]]:
    """Where each block, or part of one, begins and ends in `tokens`, and where in its content it begins. ValueError for an unknown id."""
    at = 0
    while at < len(tokens):
        if tokens[at] >= 0:
            at += 1
            continue
        place = place_of(tokens[at])
        if place is None:
            raise ValueError(f"{tokens[at]} is the id of no block")
        end = min(at + place.content.n - place.offset, len(tokens))
        end = next((i for i in range(at, end) if tokens[i] != tokens[at] - (i - at)), end)
        yield at, end, place
        at = end


def spelled(tokens: Sequence[int], spell: Callable[[int], str], n_most: int) -> str:
    """What a view shows of the first `n_most` tokens; a block counts as one, and so does a part of one."""
    if not has_blocks(tokens[:n_most]):
        return "".join(map(spell, tokens[:n_most]))
    parts: list[str] = []
    at = 0
    for start, end, place in (*blocks_in(tokens), (len(tokens), len(tokens), None)):
        parts += map(spell, tokens[at : min(start, at + n_most - len(parts))])
        if len(parts) >= n_most:
            break
        if place is not None:
            parts.append(place.content.shown(end - start))
        at = end
    return "".join(parts)
