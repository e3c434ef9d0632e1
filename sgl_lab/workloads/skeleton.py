"""Skeleton of thought: an outline first, then all its points at once, on forks."""

from __future__ import annotations

from ..lang import surface as sgl
from ..lang.state import ProgramState
from .data import Data
from .workload import Item, Workload

N_POINTS = 4


@sgl.function
def skeleton_of_thought(s: ProgramState, question: str) -> str:
    s += sgl.user(f"{question}\nFirst give an outline: {N_POINTS} points of a few words each, numbered.")
    outline = sgl.gen("outline", regex="".join(rf"{i}\. [A-Za-z ,'-]{{8,48}}\n" for i in range(1, N_POINTS + 1)))
    s += sgl.assistant(outline)
    forks = s.fork(N_POINTS)
    for number, fork in enumerate(forks, 1):
        fork += sgl.user(f"Write two sentences on point {number}.")
        fork += sgl.assistant(sgl.gen("point", max_tokens=64))
    return "\n".join(str(fork["point"]) for fork in forks)


def read(data: Data, n: int | None) -> list[Item]:
    rows = data.rows("mt_bench", turns=list)[:n]
    return [Item(str(row.get("id", i)), {"question": row["turns"][0]}) for i, row in enumerate(rows)]


WORKLOAD = Workload("skeleton", "Skeleton of thought", f"an outline, then its {N_POINTS} points on forks", skeleton_of_thought, read)
