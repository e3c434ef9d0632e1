"""MMLU, 5-shot: questions of one subject share its five examples."""

from __future__ import annotations

from collections.abc import Sequence

from ..lang import surface as sgl
from ..lang.state import ProgramState
from .data import Data, Row
from .workload import Item, Workload

LETTERS = ("A", "B", "C", "D")


def _asked(row: Row) -> str:
    choices = "".join(f"\n{letter}. {choice}" for letter, choice in zip(LETTERS, row["choices"], strict=False))
    return f"{row['question'].strip()}{choices}\nAnswer:"


@sgl.function
def mmlu(s: ProgramState, subject: str, examples: Sequence[Row], question: Row) -> None:
    s += f"The following are multiple choice questions (with answers) about {subject}.\n\n"
    for example in examples:
        s += f"{_asked(example)} {example['answer']}\n\n"
    s += _asked(question) + sgl.select("answer", choices=[f" {letter}" for letter in LETTERS])


def read(data: Data, n: int | None) -> list[Item]:
    fields: dict[str, type] = {"subject": str, "question": str, "choices": list, "answer": str}
    examples: dict[str, list[Row]] = {}
    for row in data.rows("mmlu_dev", **fields):
        examples.setdefault(row["subject"], []).append(row)
    return [
        Item(
            str(row.get("id", number)),
            {"subject": row["subject"].replace("_", " "), "examples": examples.get(row["subject"], [])[:5], "question": row},
            row["answer"],
        )
        for number, row in enumerate(data.rows("mmlu_test", **fields)[:n])
    ]


def judge(item: Item, state: ProgramState) -> bool:
    return bool(state["answer"].strip() == item.answer)


WORKLOAD = Workload("mmlu", "MMLU", "5-shot choices; questions of a subject share its examples", mmlu, read, judge)
