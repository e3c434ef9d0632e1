"""Creates the loads: numbers of prompts and tokens, as in the head of the table.

Only the tokenizer is used; the text is `prose`. Repetition 0 warms up; every other one has a text
of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from random import Random
from typing import Protocol

from .loads import Chats, Decode, FirstToken, Forks, Form, Ids, Load, Prefill, Questions, Records
from .prose import approach, paragraphs, question, request

BATCHES = (1, 8, 32)
N_NEW = 64
N_PREFILL = 1024
RECORD = Form(
    regex=r'\{"name": "[A-Z][a-z]{3,9} [A-Z][a-z]{3,9}", "category": "(person|place|artifact|creature)", '
    r'"year": [1-2][0-9]{3}, "rating": [0-9]\.[0-9]{2}, "tags": \["[a-z]{4,10}", "[a-z]{4,10}", "[a-z]{4,10}"\], '
    r'"origin": \{"city": "[A-Z][a-z]{3,10}", "country": "[A-Z][a-z]{3,10}"\}, "verified": (true|false), '
    r'"summary": "[A-Za-z][a-z ]{78,98}[a-z]\."\}',
    gbnf=r'root ::= "{\"name\": \"" name " " name "\", \"category\": \"" ("person" | "place" | "artifact" | "creature") '
    r'"\", \"year\": " [1-2] [0-9]{3} ", \"rating\": " [0-9] "." [0-9]{2} '
    r'", \"tags\": [\"" tag "\", \"" tag "\", \"" tag "\"], \"origin\": {\"city\": \"" place "\", \"country\": \"" place '
    r'"\"}, \"verified\": " ("true" | "false") ", \"summary\": \"" [A-Za-z] [a-z ]{78,98} [a-z] ".\"}"'
    "\nname ::= [A-Z] [a-z]{3,9}\ntag ::= [a-z]{4,10}\nplace ::= [A-Z] [a-z]{3,10}\n",
)
"""About 110 tokens of JSON, in both notations."""


class Encode(Protocol):
    def __call__(self, text: str, *, markup: bool = False) -> tuple[int, ...]: ...


def text(encode: Encode, deal: Random, n: int) -> Ids:
    """The first `n` tokens of sufficient prose."""
    ids = encode(paragraphs(deal, n // 8 + 1))
    if len(ids) < n:
        raise ValueError(f"{n} tokens were wanted, the text has {len(ids)}")
    return list(ids[:n])


def last(encode: Encode, words: str, n: int) -> Ids:
    """The last `n` tokens of `words`, which must be long enough."""
    ids = encode(words)
    if len(ids) < n:
        raise ValueError(f"{n} tokens were wanted of {words!r}, it has {len(ids)}")
    return list(ids[-n:])


def decode(encode: Encode, deal: Random, batch: int) -> Decode:
    return Decode([text(encode, deal, 128) for _ in range(batch)], n_new=N_NEW)


def prefill(encode: Encode, deal: Random) -> Prefill:
    return Prefill(text(encode, deal, N_PREFILL))


def first_token(encode: Encode, deal: Random) -> FirstToken:
    return FirstToken(text(encode, deal, 1000), tail=text(encode, deal, 24))


def questions(encode: Encode, deal: Random) -> Questions:
    head = "Notes from the archive, then questions about them. Answer each with one letter.\n\n"
    prefix = list(encode(head)) + text(encode, deal, 826)
    return Questions(prefix[:826], [last(encode, "\n\n" + question(deal), 48) for _ in range(32)], [encode(f" {c}")[0] for c in "ABCD"])


def forks(encode: Encode, deal: Random) -> Forks:
    judge = "\n\nJudge: on a scale from one to ten, and in a few words, this plan deserves"
    return Forks(
        root=text(encode, deal, 400),
        forks=[list(encode(approach(deal, number))) for number in range(1, 9)],
        n_plan=64,
        judge=list(encode(judge)),
        n_verdict=8,
    )


def records(encode: Encode, deal: Random) -> Records:
    ask = list(encode("\nDescribe the subject as JSON: "))
    return Records([text(encode, deal, 150) + ask for _ in range(8)], RECORD, n_most=200)


def chats(encode: Encode, deal: Random) -> Chats:
    def turn(role: str, turn_ids: Ids) -> Ids:
        return [*encode(f"<|im_start|>{role}\n", markup=True), *turn_ids, *encode("<|im_end|>\n", markup=True)]

    assistant = list(encode("<|im_start|>assistant\n", markup=True))
    return Chats(
        system=turn("system", text(encode, deal, 64)),
        turns=[[turn("user", last(encode, request(deal), 32)) + assistant for _ in range(4)] for _ in range(8)],
        n_reply=48,
        end=list(encode("<|im_end|>\n", markup=True)),
    )


MAKERS: dict[str, dict[str, Callable[[Encode, Random], Load]]] = {
    "decode": {f"decode {n}": partial(decode, batch=n) for n in BATCHES},
    "prefill": {"prefill": prefill},
    "ttft": {"ttft": first_token},
    "W1": {"W1": questions},
    "W2": {"W2": forks},
    "W3": {"W3": records},
    "W4": {"W4": chats},
}
"""Names for `--loads` -> their figures -> the function that creates a load."""


def load(figure: str, encode: Encode, rep: int) -> Load:
    """The load of a figure, different for every `rep`."""
    (maker,) = (makers[figure] for makers in MAKERS.values() if figure in makers)
    return maker(encode, Random(f"{figure}, repetition {rep}"))
