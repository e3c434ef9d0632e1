"""Programs drawn at random: the same for the same number, with every construct that a graph can contain."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

import sgl_lab as sgl

TEXTS = ["Now", " the capital of Fra", "nce. ", "name: ", "\n\n", "好", "1. One thing.\n", " Is it hot? "]
LONG = "Now, here is a list: 1. One thing. 2. Another thing! The capital of France is Paris. " * 3
Step = Callable[[Any, str], None]


def drawn(number: int) -> sgl.SglFunction:
    draw = Random(number)
    steps = [_step(draw, depth=0) for _ in range(draw.randint(2, 6))]

    def program(s: Any, question: str) -> Any:
        s += draw_text + question
        for step in steps:
            step(s, question)
        s += "end" + sgl.gen("last", max_tokens=3)
        return {"last": s["last"], "all": s.text(), "state": s}

    draw_text = draw.choice(TEXTS)
    return sgl.function(program)


def _gen(draw: Random, name: str) -> Any:
    kind = draw.randrange(6)
    if kind == 0:
        return sgl.gen(name, regex=draw.choice(["[A-Z][a-z]{2,5}", "(yes|no)"]), max_tokens=8)
    if kind == 1:
        return sgl.select(name, draw.choice([["hot", "cold"], [" the", "好"], ["yes", "no", "maybe"]]))
    if kind == 2:
        return sgl.gen_int(name, max_tokens=4)
    settings: dict[str, Any] = {"max_tokens": draw.randint(1, 5), "return_logprob": draw.random() < 0.4}
    return sgl.gen(name, **settings, **({"stop": [".", "e"]} if draw.random() < 0.4 else {}))


def _step(draw: Random, depth: int) -> Step:
    text, name = draw.choice(TEXTS), f"v{draw.randrange(4)}"
    asked = _gen(draw, name)
    kinds = ["gen", "gen", "read", "turn", "scope", "samples"]
    kind = draw.choice([*kinds, *(["fork", "call", "calls", "cond", "loop", "copy", "keep"] if depth < 2 else [])])
    inner = [_step(draw, depth + 1) for _ in range(draw.randint(1, 2))] if depth < 2 else []
    flag, twin = draw.random() < 0.5, draw.random() < 0.5

    def run_inner(s: Any, question: str) -> None:
        for step in inner:
            step(s, question)

    def gen(s: Any, question: str) -> None:
        s += text + asked + "\n"

    def read(s: Any, question: str) -> None:
        s += text + asked
        s += f"[{s[name]}|{question}]"

    def turn(s: Any, question: str) -> None:
        if s._stream.role is None:
            s += sgl.user(text + question) + sgl.assistant(asked)

    def scope(s: Any, question: str) -> None:
        with s.var_scope("scope"):
            s += text + asked
        s += "(" + s["scope"] + ")"

    def samples(s: Any, question: str) -> None:
        s += sgl.gen("two", n=2, max_tokens=3)
        s += "".join(s["two"])

    def fork(s: Any, question: str) -> None:
        forks = s.fork(2)
        for index, each in enumerate(forks):
            each += f"{index}" + text + sgl.gen("of_fork", max_tokens=3)
            if flag and index:
                run_inner(each, question)
        forks.join("concate_and_append" if twin else "gather_variable")
        s += "joined" if twin else s["of_fork"][1]

    def call(s: Any, question: str) -> None:
        other = sgl.function(lambda t, words: _body(t, words, text, run_inner if flag else None))
        state = other.run(words=question)
        s += state["inside"] + ("" if flag else state.text())

    def calls(s: Any, question: str) -> None:
        other = sgl.function(lambda t, words: _body(t, words, LONG, None))
        s += sgl.gen("before", max_tokens=2)
        states = [other.run(words=words) for words in (question, s["before"], question, question + "!")]
        s += "".join(state["inside"] for state in states)

    def cond(s: Any, question: str) -> None:
        s += text + sgl.select("verdict", ["hot", "cold"])
        sgl.cond(s, s["verdict"], {"hot": lambda s: gen(s, question)}, (lambda s: run_inner(s, question)) if flag else None)

    def loop(s: Any, question: str) -> None:
        def body(s: Any, number: int) -> None:
            s += f"{number}: " + sgl.select("act", ["hot", "cold", " the"])

        sgl.loop(s, body, most=3, until={"act": "cold"})
        s += s["act"]

    def copy(s: Any, question: str) -> None:
        with s.copy() as aside:
            aside += text + sgl.gen("aside", max_tokens=3)
        s += s["aside"][0]

    def keep(s: Any, question: str) -> None:
        s["kept"] = f"<{question}>"
        s += s["kept"] + text

    made: dict[str, Step] = {
        "gen": gen, "read": read, "turn": turn, "scope": scope, "samples": samples, "fork": fork, "call": call, "calls": calls,
        "cond": cond, "loop": loop, "copy": copy, "keep": keep,
    }  # fmt: skip
    return made[kind]


def _body(t: Any, words: str, text: str, more: Callable[[Any, str], None] | None) -> None:
    t += text + words + sgl.gen("inside", max_tokens=3)
    if more:
        more(t, words)
