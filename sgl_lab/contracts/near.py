"""Suggestions for misspelled words."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The word in `known` that `word` was probably meant to be: one with the same beginning, or
    with a similar spelling. None if there is none.
    """
    names = list(known)
    bare = {name.lower().replace("-", "_"): name for name in names}
    wanted = word.lower().replace("-", "_")
    close = difflib.get_close_matches(wanted, bare, n=1)
    begins = [name for name in bare if len(name) > 2 and len(wanted) > 2 and (wanted.startswith(name) or name.startswith(wanted))]
    return bare[(close or begins)[0]] if close or begins else None


def did_you_mean(word: object, known: Iterable[str]) -> str:
    """A hint: the nearest word in `known`, or all of them."""
    names = list(known)
    close = nearest(word, names) if isinstance(word, str) else None
    return f"did you mean {close!r}?" if close else f"one of {', '.join(names)}"
