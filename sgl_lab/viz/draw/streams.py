"""What a picture of the streams needs before anything is drawn: forks in order, runs of like tokens, a fair cut to size."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import groupby

from ..views.tokens import ForkRow, Tok, TokensPicture


@dataclass(slots=True)
class Stream:
    """One fork: its own tokens and the streams forked from it."""

    row: ForkRow
    toks: list[Tok]
    children: list[Stream] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.row["label"] or (f"fork {self.row['index'] + 1}" if self.row["parent"] is not None else "")

    def sections(self) -> Iterator[tuple[list[Tok], list[Stream]]]:
        """Own tokens up to where something was forked off, and what was; the rest comes last, with nothing."""
        at = 0
        for base, forked in groupby(sorted(self.children, key=lambda child: child.row["base"]), key=lambda child: child.row["base"]):
            end = max(at, min(base - self.row["base"], len(self.toks)))
            yield self.toks[at:end], list(forked)
            at = end
        yield self.toks[at:], []


@dataclass(frozen=True, slots=True)
class Run:
    """Neighbours of one role and one class; `n_left_out` tokens instead where the stream was cut."""

    role: str
    cls: str
    toks: list[Tok]
    n_left_out: int = 0


def streams(picture: TokensPicture) -> list[Stream]:
    """The root streams, their children in fork order. A fork whose parent is not shown is a root."""
    found = {row["fork"]: Stream(row, []) for row in picture["forks"]}
    for op in picture["ops"]:
        stream = found[op["fork"]]
        stream.toks[op["start"] - stream.row["base"] :] = op["toks"]
    roots: list[Stream] = []
    for stream in found.values():
        parent = found.get(stream.row["parent"]) if stream.row["parent"] is not None else None
        (parent.children if parent else roots).append(stream)
    return roots


def runs(toks: list[Tok], n_shown: int | None = None) -> Iterator[Run]:
    """Runs of like tokens. If there are more than `n_shown`, the first two thirds and the last third of that many."""
    if n_shown is None or len(toks) <= n_shown:
        parts = [(toks, 0)]
    else:
        n_tail = n_shown // 3
        parts = [(toks[: n_shown - n_tail], len(toks) - n_shown), (toks[len(toks) - n_tail :], 0)]
    for part, n_left_out in parts:
        for (role, cls), group in groupby(part, key=lambda tok: (tok[3], tok[1])):
            yield Run(role, cls, list(group))
        if n_left_out:
            yield Run(part[-1][3] if part else toks[0][3], "text", [], n_left_out)


def fair_share(wanted: list[int], total: int) -> int:
    """The largest share at which nobody gets more than it wants and all together not more than `total`."""
    left = total
    for n, want in enumerate(sorted(wanted)):
        share = left // (len(wanted) - n)
        if want > share:
            return share
        left -= want
    return max(wanted, default=0)
