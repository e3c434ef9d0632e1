"""A judge: one essay, six dimensions on six forks, and a grade from all of them."""

from __future__ import annotations

from ..lang import surface as sgl
from ..lang.state import ProgramState
from .data import Data
from .workload import Item, Workload

DIMENSIONS = ("clarity", "originality", "evidence", "structure", "tone", "correctness")


@sgl.function
def llm_judge(s: ProgramState, essay: str) -> None:
    s += sgl.system("You judge essays.")
    s += sgl.user(f"Here is an essay.\n\n{essay}")
    forks = s.fork(len(DIMENSIONS))
    for fork, dimension in zip(forks, DIMENSIONS, strict=True):
        fork += sgl.user(f"Judge its {dimension} in one sentence.")
        fork += sgl.assistant(sgl.gen("judgment", max_tokens=48, stop="\n"))
    notes = "\n".join(f"{dimension}: {fork['judgment']}" for fork, dimension in zip(forks, DIMENSIONS, strict=True))
    s += sgl.user(f"These are your judgments.\n{notes}\nGive a grade.")
    s += sgl.assistant(sgl.select("grade", choices=["A", "B", "C", "D"]))


def read(data: Data, n: int | None) -> list[Item]:
    rows = data.rows("wiki_articles", text=str)[:n]
    return [Item(str(row.get("id", i)), {"essay": row["text"]}) for i, row in enumerate(rows)]


WORKLOAD = Workload("judge", "LLM judge", f"{len(DIMENSIONS)} judgments on forks of one essay, then a grade", llm_judge, read)
