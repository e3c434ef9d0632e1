"""ReAct: an agent that thinks, acts and reads. Recorded traces are replayed, so that each run does
the same work: at each step the model thinks on a fork, and the recorded step goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..lang import surface as sgl
from ..lang.state import ProgramState
from .data import Data, Row
from .workload import Item, Workload


@sgl.function
def react(s: ProgramState, instruction: str, question: str, steps: Sequence[Row]) -> list[str]:
    s += f"{instruction}Question: {question}\n"
    thoughts = []
    for number, step in enumerate(steps, 1):
        s += f"Thought {number}:"
        with s.copy() as model:
            model += sgl.gen("thought", max_tokens=64, stop=["\nObservation", "\nQuestion"])
        thoughts.append(str(model["thought"]))
        s += f" {step['thought']}\nAction {number}: {step['action']}\n"
        s += f"Observation {number}: {step.get('observation') or ''}\n"
    return thoughts


@sgl.function
def react_live(s: ProgramState, instruction: str, question: str, find: Callable[[str], str], max_steps: int = 6) -> str:
    """The agent itself: what it looks up is found in the corpus of the data."""
    s += f"{instruction}Question: {question}\n"
    for number in range(1, max_steps + 1):
        s += f"Thought {number}:" + sgl.gen("thought", max_tokens=64, stop="\n")
        s += f"\nAction {number}: " + sgl.gen("action", regex=r"(Search|Lookup|Finish)\[[^\]\n]{1,60}\]")
        kind, _, about = s["action"][:-1].partition("[")
        if kind == "Finish":
            return str(about)
        s += f"\nObservation {number}: {find(about)}\n"
    return ""


def _instruction(data: Data) -> str:
    prompt = data.value("react_prompt", instruction=str, examples=str)
    return f"{prompt['instruction']}{prompt['examples'].rstrip()}\n\n"


def read(data: Data, n: int | None) -> list[Item]:
    instruction = _instruction(data)
    rows = data.rows("react_traces", question=str, steps=list)[:n]
    return [
        Item(str(row.get("id", i)), {"instruction": instruction, "question": row["question"], "steps": row["steps"]})
        for i, row in enumerate(rows)
    ]


class Corpus:
    """A search tool: the first passage that shares most of the words asked for, rarer ones counting
    more.
    """

    def __init__(self, passages: Sequence[Row]) -> None:
        self._texts = [f"{row['title']}. {row['text']}" for row in passages]
        self._words = [set(_words(text)) for text in self._texts]
        self._n: dict[str, int] = {}
        for words in self._words:
            for word in words:
                self._n[word] = self._n.get(word, 0) + 1

    def __call__(self, about: str) -> str:
        wanted = set(_words(about))
        scores = [sum(1 / self._n[word] for word in wanted & words) for words in self._words]
        best = max(range(len(scores)), key=scores.__getitem__)
        return self._texts[best][:400] if scores[best] else f"Could not find [{about}]."


def _words(text: str) -> list[str]:
    return ["".join(filter(str.isalnum, word)) for word in text.lower().split()]


def read_live(data: Data, n: int | None) -> list[Item]:
    instruction = _instruction(data)
    find = Corpus(data.rows("wiki_passages_corpus", title=str, text=str))
    rows = data.rows("react_questions", question=str, answer=str)[:n]
    return [
        Item(str(row.get("id", i)), {"instruction": instruction, "question": row["question"], "find": find}, row["answer"])
        for i, row in enumerate(rows)
    ]


def judge_live(item: Item, state: ProgramState) -> bool:
    return _words(str(state.ret_value)) == _words(item.answer or "")


ABOUT = "an agent's recorded steps; each continues all before it"
WORKLOAD = Workload("react", "ReAct, replayed", ABOUT, react, read)
LIVE = Workload("react-live", "ReAct, live", "an agent that searches a corpus until it answers", react_live, read_live, judge_live)
