"""How much of a prompt may come from the tree. Less than all that matches is for measurements of
what the tree is worth.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ....contracts.ids import Namespace
from .node import Tokens


class Prefixes:
    """prefix: whatever matches, as RadixAttention does."""

    waits = True
    """whether a request waits for another that computes a part of its prompt"""

    def most(self, namespace: Namespace, tokens: Tokens) -> int:
        """How many leading `tokens` may be reused if they are there."""
        return len(tokens)

    def ended(self, namespace: Namespace, tokens: Tokens) -> None:
        """A request ended, and these are its tokens with KV."""


class Sequences(Prefixes):
    """sequence: only the whole of an earlier sequence, as a table of sequences without a tree would."""

    waits = False

    def __init__(self) -> None:
        self._known: dict[int, set[tuple[Namespace, Tokens]]] = {}
        """by length"""

    def most(self, namespace: Namespace, tokens: Tokens) -> int:
        fitting = (n for n, known in self._known.items() if n <= len(tokens) and (namespace, tokens[:n]) in known)
        return max(fitting, default=0)

    def ended(self, namespace: Namespace, tokens: Tokens) -> None:
        self._known.setdefault(len(tokens), set()).add((namespace, tokens))


class Nothing(Prefixes):
    """none: every prompt is computed whole."""

    waits = False

    def most(self, namespace: Namespace, tokens: Tokens) -> int:
        return 0


REUSES: Mapping[str, Callable[[], Prefixes]] = {"prefix": Prefixes, "sequence": Sequences, "none": Nothing}
