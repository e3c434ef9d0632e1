"""Tree of thought on GSM8K: plans fork from the question, solutions fork from the plans, and a vote
ends it.
"""

from __future__ import annotations

import re
from collections import Counter

from ..lang import surface as sgl
from ..lang.state import ProgramState
from .data import Data
from .workload import Item, Workload

N_PLANS = 3
N_SOLUTIONS = 2


@sgl.function
def tree_of_thought(s: ProgramState, examples: str, question: str) -> str:
    s += f"{examples}Question: {question}\n"
    plans = s.fork(N_PLANS)
    plans += "Plan, in one sentence: " + sgl.gen("plan", max_tokens=32, stop="\n", temperature=0.7)
    leaves = []
    for plan in plans:
        solutions = plan.fork(N_SOLUTIONS)
        solutions += "\nSolution: " + sgl.gen("solution", max_tokens=64, stop="\n\n", temperature=0.7)
        solutions += "\nThe answer is " + sgl.gen("answer", regex=r"-?[0-9]{1,6}")
        leaves += list(solutions)
    votes = Counter(str(leaf["answer"]) for leaf in leaves)
    return votes.most_common(1)[0][0]


def read(data: Data, n: int | None) -> list[Item]:
    shots = data.rows("gsm8k_fewshot", question=str, solution=str, answer=str)[:4]
    examples = "".join(f"Question: {row['question']}\nSolution: {row['solution']}\nThe answer is {row['answer']}\n\n" for row in shots)
    rows = data.rows("gsm8k_test", question=str, answer=str)[:n]
    return [Item(str(row.get("id", i)), {"examples": examples, "question": row["question"]}, row["answer"]) for i, row in enumerate(rows)]


def judge(item: Item, state: ProgramState) -> bool:
    return bool(re.sub(r"[^0-9-]", "", item.answer or "") == state.ret_value)


WORKLOAD = Workload(
    "tree-of-thought", "Tree of thought", f"GSM8K: {N_PLANS} plans, {N_SOLUTIONS} solutions of each, a vote", tree_of_thought, read, judge
)
