"""Chats of four turns: each turn continues all turns before it. Short and long answers."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from ..lang import surface as sgl
from ..lang.state import ProgramState
from .data import Data
from .workload import Item, Workload

N_TURNS = 4


@sgl.function
def chat(s: ProgramState, document: str, turns: Sequence[str], max_tokens: int) -> None:
    s += sgl.system(f"Answer questions about this text.\n\n{document}")
    for number, turn in enumerate(turns):
        s += sgl.user(turn)
        s += sgl.assistant(sgl.gen(f"answer_{number}", max_tokens=max_tokens))


def read(data: Data, n: int | None, max_tokens: int) -> list[Item]:
    rows = data.rows("article_chat", document=str, turns=list)[:n]
    return [
        Item(
            str(row.get("id", i)),
            {"document": row["document"], "turns": [turn["user"] for turn in row["turns"][:N_TURNS]], "max_tokens": max_tokens},
        )
        for i, row in enumerate(rows)
    ]


SHORT = Workload("chat-short", "Chat, short", "four turns about a text, answers of 8 tokens", chat, partial(read, max_tokens=8))
LONG = Workload("chat-long", "Chat, long", "four turns about a text, answers of up to 256 tokens", chat, partial(read, max_tokens=256))
