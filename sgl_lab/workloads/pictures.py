"""Questions about pictures: the questions of one picture share its embeddings in the tree."""

from __future__ import annotations

from pathlib import Path

from ..lang import surface as sgl
from ..lang.state import ProgramState
from .data import Data
from .workload import Item, Workload


@sgl.function
def pictures(s: ProgramState, image: Path, question: str) -> None:
    s += sgl.user(sgl.image(str(image)) + question)
    s += sgl.assistant(sgl.gen("answer", max_tokens=64))


def read(data: Data, n: int | None) -> list[Item]:
    rows = data.rows("image_questions", image=str, text=str)[:n]
    return [
        Item(str(row.get("id", i)), {"image": data.file(row["image"]), "question": row["text"]}, row.get("answer"))
        for i, row in enumerate(rows)
    ]


def judge(item: Item, state: ProgramState) -> bool | None:
    return None if item.answer is None else bool(state["answer"].strip() == item.answer)


WORKLOAD = Workload(
    "pictures", "Pictures", "questions about pictures; those of one picture share it", pictures, read, judge, needs=("images",)
)
