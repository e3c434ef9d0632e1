"""Text as ids, where no token ids are known: the prompts and answers of an engine behind an API.

A text is cut into pieces of about the size of a token. The id of a piece follows from its text
alone, so equal texts have equal ids in every process, and a record that names them can be compared
with another. Views, records and explanations then work on pieces as they work on tokens. A piece is
no token of any model: counts of tokens come from what the engine reports.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from hashlib import blake2b

FIRST = 1 << 52
"""ids from here on are pieces; no vocabulary is so large, and the page's numbers are exact up to
twice of it"""
MAX_PIECE = 400
"""characters of one piece"""

_CUT = re.compile(r" ?[^\W\d_]{1,16}| ?\d{1,3}|[^\S\n]+(?=[^\s\w])|\n+|[^\S\n]+|[^\w\s]{1,4}|.", re.DOTALL)
_texts: dict[int, str] = {}


def is_text(prompt: Sequence[int]) -> bool:
    """Whether a prompt is in pieces of text, which are no tokens."""
    return bool(prompt) and is_piece(prompt[0])


def is_piece(id: int) -> bool:
    return id >= FIRST


def piece(text: str) -> int:
    """The id of a text that is one piece, such as a token that a server reports by its text."""
    text = text[:MAX_PIECE]
    id = FIRST + int.from_bytes(blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big") % FIRST
    _texts[id] = text
    return id


def pieces(text: str) -> tuple[int, ...]:
    """The ids of a text's pieces, in order."""
    return tuple(map(piece, _CUT.findall(text)))


def mark(role: str) -> int:
    """The piece that begins a turn. It stands where a chat template would have its markup."""
    return piece(f"<|{role}|>")


def spelled(id: int) -> str:
    """The text of a piece that was made in this process; else its number."""
    return _texts.get(id) or f"<{id}>"


def text_of(ids: Iterable[int]) -> str:
    return "".join(map(spelled, ids))
