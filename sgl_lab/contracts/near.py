"""What was probably meant, for words that have to be one of several."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The one of `known` that `word` was probably meant to be: one that begins like it, or is spelled much like it."""
    names = list(known)
    bare = {name.lower().replace("-", "_"): name for name in names}
    wanted = word.lower().replace("-", "_")
    close = difflib.get_close_matches(wanted, bare, n=1)
    begins = [name for name in bare if len(name) > 2 and len(wanted) > 2 and (wanted.startswith(name) or name.startswith(wanted))]
    return bare[(close or begins)[0]] if close or begins else None


def did_you_mean(word: object, known: Iterable[str]) -> str:
    """A hint: the nearest of `known`, or all of them."""
    names = list(known)
    close = nearest(word, names) if isinstance(word, str) else None
    return f"did you mean {close!r}?" if close else f"one of {', '.join(names)}"
