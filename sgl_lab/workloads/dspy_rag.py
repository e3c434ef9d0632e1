"""Retrieval-augmented generation in DSPy, over the door: a program that is not written in this
language. DSPy is imported when it runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from zlib import crc32

from ..contracts.errors import BackendUnsupported
from ..lang import surface as sgl
from ..lang.state import ProgramState
from ..session import Lab
from .data import Data, Row
from .react import judge_live
from .workload import Item, Workload

WIDTH = 512
"""of an embedding"""
SHOTS = (
    ("The market of Lindby takes place on Saturdays.", "When is the market?", "The market takes place on Saturdays.", "on Saturdays"),
    ("Storms broke the southern pier in 1921.", "What broke the pier?", "Storms broke the southern pier.", "storms"),
)
"""demonstrations: passage, question, reasoning, answer"""


@sgl.function
def dspy_rag(s: ProgramState, passages: Sequence[str], question: str, ask: Callable[[Sequence[str], str], str]) -> str:
    s += f"Question: {question}\nAnswer: "
    answer = ask(passages, question)
    s += answer
    return answer


@contextmanager
def door(lab: Lab) -> Iterator[Row]:
    """`ask` is a DSPy program: an embedding retriever, and a chain of thought with demonstrations."""
    try:
        import dspy  # type: ignore[import-not-found, unused-ignore]
        import numpy
    except ImportError as error:
        raise BackendUnsupported(f"the workload dspy-rag needs DSPy: {error}", hint='pip install "sgl_lab[dspy]"') from None
    from ..serve import serve

    def embed(texts: Sequence[str]) -> Any:
        """Words hashed into a vector: enough to find a passage among few."""
        vectors = numpy.zeros((len(texts), WIDTH), numpy.float32)
        for row, text in enumerate(texts):
            for word in "".join(letter if letter.isalnum() else " " for letter in text.lower()).split():
                if len(word) > 3:
                    vectors[row, crc32(word[:6].encode()) % WIDTH] += 1
        return vectors / numpy.maximum(1e-6, numpy.linalg.norm(vectors, axis=1, keepdims=True))

    with serve(lab) as opened:
        url, key = opened.client["base_url"], opened.token
        lm = dspy.LM(f"openai/{lab.model}", api_base=url, api_key=key, cache=False, temperature=0.0, max_tokens=96)
        respond = dspy.ChainOfThought("context: list[str], question: str -> answer: str")
        respond.predict.demos = [
            dspy.Example(context=[passage], question=question, reasoning=reasoning, answer=answer)
            for passage, question, reasoning, answer in SHOTS
        ]
        finders: dict[Sequence[str], Any] = {}

        def ask(passages: Sequence[str], question: str) -> str:
            if passages not in finders:
                finders[passages] = dspy.retrievers.Embeddings(corpus=list(passages), embedder=dspy.Embedder(embed), k=2)
            with dspy.context(lm=lm, adapter=dspy.JSONAdapter()):
                return str(respond(context=finders[passages](question).passages, question=question).answer)

        yield {"ask": ask}


def read(data: Data, n: int | None) -> list[Item]:
    corpus = data.rows("wiki_passages_corpus", title=str, text=str)
    passages = tuple(f"{row['title']}. {row['text'][:400]}" for row in corpus)
    rows = data.rows("react_questions", question=str, answer=str)[:n]
    return [Item(str(row.get("id", i)), {"passages": passages, "question": row["question"]}, row["answer"]) for i, row in enumerate(rows)]


ABOUT = "retrieval and a chain of thought in DSPy, over the door; needs dspy"
WORKLOAD = Workload("dspy-rag", "RAG in DSPy", ABOUT, dspy_rag, read, judge_live, around=door)
