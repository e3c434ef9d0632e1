"""What a picture of the streams needs before anything is drawn: forks in order, runs of like tokens, a fair cut to size.

Knows the spelling of chat markup (`<|...|>`) and of bytes that are no character alone (`\\xNN`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import groupby

from ...contracts.legible import clipped
from ..views.tokens import ForkRow, Tok, TokensOp, TokensPicture
from .numbers import counted

SPECIAL = re.compile(r"<\|[^|<>\s]{1,40}\|>|</?s>")
MAX_FORKS = 64
"""of a picture that was cut"""
_BYTES_AT_END = re.compile(r"(\\x[89a-f][0-9a-f])+$")
_BYTES = re.compile(r"(?:\\x[89a-f][0-9a-f])+")


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


@dataclass(frozen=True, slots=True)
class Block:
    """What one role says in one go; `is_markup` when it is only the chat template's own tokens, outside of any role."""

    role: str
    runs: list[Run]

    @property
    def is_markup(self) -> bool:
        toks = [tok for run in self.runs for tok in run.toks]
        sampled = any(run.cls in ("generated", "forced", "choice") or run.n_left_out for run in self.runs)
        return not self.role and not sampled and any(SPECIAL.fullmatch(tok[0]) for tok in toks)


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


def blocks(toks: list[Tok], n_shown: int | None = None) -> list[Block]:
    """The runs, by role."""
    whole = list(whole_characters(toks))
    return [Block(role, list(group)) for role, group in groupby(runs(whole, n_shown), key=lambda run: run.role)]


def cut(picture: TokensPicture, n_tokens: int) -> TokensPicture:
    """About `n_tokens` tokens: of each longer stream the first two thirds and the last third of a fair share, and how many are left out."""
    share = fair_share([len(op["toks"]) for op in picture["ops"]], n_tokens)
    ops = []
    for op in picture["ops"]:
        toks, n_tail = op["toks"], share // 3
        if len(toks) > share:
            role = toks[share - n_tail - 1][3] if share > n_tail else toks[0][3]
            left_out: Tok = (f" … {counted(len(toks) - share, 'more token')} … ", "text", None, role, None, 0, None)
            toks = [*toks[: share - n_tail], left_out, *toks[len(toks) - n_tail :]]
        ops.append(TokensOp(fork=op["fork"], start=op["start"], toks=[_clipped(tok) for tok in toks]))
    return {
        "forks": picture["forks"][:MAX_FORKS],
        "ops": [op for op in ops if op["fork"] in {row["fork"] for row in picture["forks"][:MAX_FORKS]}],
    }


def _clipped(tok: Tok) -> Tok:
    return (clipped(tok[0], 60), *tok[1:]) if len(tok[0]) > 60 else tok


def whole_characters(toks: list[Tok]) -> Iterator[Tok]:
    """Tokens of one kind that are only together a character become one; bytes that stay without sense stay `\\xNN`."""
    held: Tok | None = None
    for tok in toks:
        if held is not None and held[1] == tok[1] and held[3] == tok[3] and _BYTES.match(tok[0]):
            tok = (held[0] + tok[0], *held[1:])
        elif held is not None:
            yield held
        text = _BYTES.sub(_character, tok[0])
        held = None
        if _BYTES_AT_END.search(text):
            held = tok
        else:
            yield (text, *tok[1:])
    if held is not None:
        yield held


def _character(match: re.Match[str]) -> str:
    try:
        return bytes.fromhex(match[0].replace("\\x", "")).decode()
    except UnicodeDecodeError:
        return match[0]


def fair_share(wanted: list[int], total: int) -> int:
    """The largest share at which nobody gets more than it wants and all together not more than `total`."""
    left = total
    for n, want in enumerate(sorted(wanted)):
        share = left // (len(wanted) - n)
        if want > share:
            return share
        left -= want
    return max(wanted, default=0)
