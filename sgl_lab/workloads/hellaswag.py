"""HellaSwag, 20-shot: all questions share the examples, and the endings of one share its context."""

from __future__ import annotations

from collections.abc import Sequence

from ..lang import surface as sgl
from ..lang.state import ProgramState
from .data import Data, Row
from .workload import Item, Workload


def _context(row: Row) -> str:
    return f"{row['activity_label']}: {row['ctx']}"


@sgl.function
def hellaswag(s: ProgramState, examples: Sequence[Row], question: Row) -> None:
    for example in examples:
        s += f"{_context(example)} {example['endings'][example['label']]}\n\n"
    s += _context(question) + sgl.select("ending", choices=[f" {ending}" for ending in question["endings"]])


def read(data: Data, n: int | None) -> list[Item]:
    fields: dict[str, type] = {"activity_label": str, "ctx": str, "endings": list, "label": int}
    examples = data.rows("hellaswag_fewshot", **fields)[:20]
    rows = data.rows("hellaswag_test", **fields)[:n]
    return [
        Item(str(row.get("id", i)), {"examples": examples, "question": row}, row["endings"][row["label"]].strip())
        for i, row in enumerate(rows)
    ]


def judge(item: Item, state: ProgramState) -> bool:
    return bool(state["ending"].strip() == item.answer)


WORKLOAD = Workload("hellaswag", "HellaSwag", "20-shot choice among four endings, which share a context", hellaswag, read, judge)
