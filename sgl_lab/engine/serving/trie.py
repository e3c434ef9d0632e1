"""Choices as a trie: the rows that score all of them while computing each shared prefix as rarely
as possible.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

Path = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Branch:
    """Tokens to compute after the prompt, and the logprobs to read there.

    `wanted[i]` are the candidates after `tokens[:i]`; empty if another branch reads them.
    """

    tokens: Path
    wanted: tuple[Path, ...]


def branches(choices: Sequence[Path]) -> tuple[Branch, ...]:
    """The fewest branches whose rows cover every choice's tokens except the last, with each
    position read once.

    Choices that differ only in their last token share a branch; single-token choices share the
    empty one.
    """
    following: dict[Path, dict[int, None]] = {}
    for choice in choices:
        for i, token in enumerate(choice):
            following.setdefault(choice[:i], {})[token] = None
    inner = {path[:i] for path in following for i in range(len(path))}
    unread = set(following)
    found = []
    for path in (path for path in following if path not in inner):
        wanted = []
        for i in range(len(path) + 1):
            wanted.append(tuple(following[path[:i]]) if path[:i] in unread else ())
            unread.discard(path[:i])
        found.append(Branch(path, tuple(wanted)))
    return tuple(found)
