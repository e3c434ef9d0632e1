"""Prepares streams for drawing: orders forks, groups tokens, and shortens pictures evenly.

Knows the spelling of chat markup (`<|...|>`) and of bytes that are not a complete character
(`\\xNN`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import groupby

from ...contracts.legible import clipped
from ...contracts.spans import is_inside
from ..views.tok import Tok
from ..views.tokens import ForkRow, TokensOp, TokensPicture
from .numbers import counted

SPECIAL = re.compile(r"<\|[^|<>\s]{1,40}\|>|</?s>")
MAX_FORKS = 64
"""forks of a shortened picture"""
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
        """The stream's own tokens up to each fork point, with the streams forked there. The last
        section has no forks.
        """
        at = 0
        for base, forked in groupby(sorted(self.children, key=lambda child: child.row["base"]), key=lambda child: child.row["base"]):
            end = max(at, min(base - self.row["base"], len(self.toks)))
            yield self.toks[at:end], list(forked)
            at = end
        yield self.toks[at:], []


@dataclass(frozen=True, slots=True)
class Run:
    """Neighbouring tokens of one role and one class. If `n_left_out` is not 0, the run stands for
    omitted tokens.
    """

    role: str
    cls: str
    toks: list[Tok]
    n_left_out: int = 0


@dataclass(frozen=True, slots=True)
class Block:
    """What one role contributes in one piece. `is_markup` is true for tokens of the chat template
    outside of any role.
    """

    role: str
    runs: list[Run]

    @property
    def is_markup(self) -> bool:
        toks = [tok for run in self.runs for tok in run.toks]
        sampled = any(run.cls in ("generated", "forced", "choice") or run.n_left_out for run in self.runs)
        return not self.role and not sampled and any(SPECIAL.fullmatch(tok[0]) for tok in toks)


def streams(picture: TokensPicture) -> list[Stream]:
    """The root streams, with their children in fork order. A fork whose parent is not shown is a
    root.
    """
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
    """Runs of tokens of one kind. Of more than `n_shown` tokens the first two thirds and the last
    third of that number are kept.
    """
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
    """The runs, grouped by role."""
    whole = list(whole_characters(toks))
    return [Block(role, list(group)) for role, group in groupby(runs(whole, n_shown), key=lambda run: run.role)]


def cut(picture: TokensPicture, n_tokens: int) -> TokensPicture:
    """The picture reduced to about `n_tokens` tokens.

    Every stream gets a fair share. Of a longer stream the first two thirds and the last third of
    the share are kept, and the omitted tokens are counted.
    """
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


def without_pictures(picture: TokensPicture) -> TokensPicture:
    """The same, with images as chips alone."""

    def bare(tok: Tok) -> Tok:
        if not (tok[6] or {}).get("picture"):
            return tok
        how = (tok[6] or {}).copy()
        del how["picture"]
        return (*tok[:6], how)

    return {**picture, "ops": [{**op, "toks": list(map(bare, op["toks"]))} for op in picture["ops"]]}


def _clipped(tok: Tok) -> Tok:
    return (clipped(tok[0], 60), *tok[1:]) if len(tok[0]) > 60 else tok


def whole_characters(toks: list[Tok]) -> Iterator[Tok]:
    """Joins tokens of one kind that only together form a character, and the positions of a block.
    Bytes that form no character stay as `\\xNN`.
    """
    held: Tok | None = None
    for tok in toks:
        if is_inside(tok[5]):
            continue
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
    """The largest share such that min(share, wanted) over all streams sums to at most `total`."""
    left = total
    for n, want in enumerate(sorted(wanted)):
        share = left // (len(wanted) - n)
        if want > share:
            return share
        left -= want
    return max(wanted, default=0)
