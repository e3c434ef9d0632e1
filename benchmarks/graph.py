"""Eight programs: the interpreter against the executor of their graphs, with each pass on and off.

    python benchmarks/graph.py [--model NAME] [--programs judge,rag] [--rows 4]

Prints, for each program and way to run it: tokens through the model, seconds, the share of prompt
tokens found cached, and whether the texts are those of the interpreter. Every way starts with an
empty cache, on the deterministic backend. `fields` may change texts: it orders what the program
marks as unordered. First: seconds to lay out and draw 1,000 nodes; tokens that agents in turns
compute with and without `foresight`, within a program and across the items of a batch; microseconds a
node.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import sgl_lab as sgl
from sgl_lab.viz.draw import dataflow

SAFE = ("fields", "common", "warm", "prefetch", "together", "foresight")
SHOTS = "".join(f"Text: the {noun} was {word}. Label: {label}\n" for noun, word, label in [
    ("food", "cold", "bad"), ("room", "bright", "good"), ("staff", "kind", "good"), ("bed", "hard", "bad"), ("view", "grand", "good"),
    ("price", "high", "bad"), ("bath", "clean", "good"), ("noise", "loud", "bad"),
] * 2)  # fmt: skip
RULES = "You judge essays. Read the essay and give one mark from 1 to 5. Be strict, be fair, think of the reader first. " * 4
DOCUMENT = "The lighthouse of Aveiro was built in 1893. It is 62 metres high. Its light is seen 23 miles away. " * 4


@sgl.function
def classifier(s: Any, text: str) -> None:
    s += sgl.unordered([f"Text: {text}\n", "Label each text as good or bad.\n" + SHOTS]) + "Label:" + sgl.gen("label", max_tokens=2)


@sgl.function
def mark(s: Any, essay: str, dimension: str) -> None:
    s += RULES + "Essay: " + essay + "\nDimension: " + dimension + "\nMark:" + sgl.gen("mark", max_tokens=2)


@sgl.function
def judge(s: Any, text: str) -> None:
    marks = [mark(essay=text, dimension=each)["mark"] for each in ("style", "logic", "facts", "form", "depth", "wit")]
    s += "Marks: " + ",".join(marks) + "\nVerdict:" + sgl.gen("verdict", max_tokens=4)


@sgl.function
def tree(s: Any, text: str) -> None:
    s += "Problem: " + text + "\n"
    forks = s.fork(3)
    for number, fork in enumerate(forks):
        fork += f"Plan {number}:" + sgl.gen("plan", max_tokens=8)
    forks.join()
    values = [mark(essay=plan, dimension="logic")["mark"] for plan in s["plan"]]
    s += "Values: " + ",".join(values) + "\nBest:" + sgl.gen("best", max_tokens=4)


@sgl.function
def react(s: Any, text: str) -> None:
    def step(s: Any, number: int) -> None:
        s += f"Thought {number}:" + sgl.gen(max_tokens=6) + "\nAct: " + sgl.select("act", ["search", "finish"]) + "\n"

    s += "Question: " + text + "\n"
    sgl.loop(s, step, most=3, until={"act": "finish"})


@sgl.function
def expand(s: Any, point: str) -> None:
    s += RULES + "Write about: " + point + "\n" + sgl.gen("text", max_tokens=8)


@sgl.function
def skeleton(s: Any, text: str) -> None:
    s += "Three points about " + text + ":\n1." + sgl.gen("p1", max_tokens=4) + "\n2." + sgl.gen("p2", max_tokens=4)
    s += "\n" + expand(point=s["p1"])["text"] + "\n" + expand(point=s["p2"])["text"]


@sgl.function
def rag(s: Any, text: str) -> None:
    s += "Question: " + text + "\nSearch words:" + sgl.gen("words", max_tokens=4)
    s += "\nAnswer:" + answer(words=s["words"])["answer"]


@sgl.function
def answer(s: Any, words: str) -> None:
    s += "Document: " + DOCUMENT + "\nWhat does it say of " + words + "?" + sgl.gen("answer", max_tokens=8)


@sgl.function
def extraction(s: Any, text: str) -> None:
    s += "Document: " + DOCUMENT + text + "\n"
    forks = s.fork(3)
    for fork, what in zip(forks, ("height", "year", "place"), strict=True):
        fork += f"The {what} is" + sgl.gen("value", max_tokens=4)
    forks.join()


@sgl.function
def chat(s: Any, text: str) -> None:
    s += sgl.system("Be short.") + sgl.user(text) + sgl.assistant(sgl.gen("first", max_tokens=8))
    s += sgl.user("Why?") + sgl.assistant(sgl.gen("second", max_tokens=8))


PROGRAMS = {each.func.__name__: each for each in (classifier, judge, tree, react, skeleton, rag, extraction, chat)}
ROWS = [{"text": f"{text} was {word}"} for text in ("the tea", "the walk") for word in ("fine", "long", "odd")]


class Measured(NamedTuple):
    computed: int
    seconds: float
    hits: float
    texts: list[str]


def measured(lab: sgl.Lab, run: Callable[[], Iterable[Any]]) -> Measured:
    lab.flush()
    before, began = lab.stats(), time.perf_counter()
    texts = [state.text() for state in run()]
    seconds, after = time.perf_counter() - began, lab.stats()
    counts = {name: after[name] - before[name] for name in ("prompt_tokens", "cached_tokens", "computed_tokens")}
    return Measured(int(counts["computed_tokens"]), seconds, counts["cached_tokens"] / max(1, counts["prompt_tokens"]), texts)


def compare(lab: sgl.Lab, program: sgl.SglFunction, rows: Sequence[Mapping[str, str]]) -> None:
    common: dict[str, Any] = {"backend": lab.backend_for(deterministic=True), "temperature": 0, "ignore_eos": True}
    ways: dict[str, Callable[[], Iterable[Any]]] = {"interpreter": lambda: program.run_batch(rows, **common)}
    settings: dict[str, dict[str, Any]] = {"executor": {"optimise": "none"}}
    settings |= {f"+ {each}": {"without": [other for other in SAFE if other != each]} for each in SAFE}
    for name, options in (settings | {"all safe": {}}).items():
        compiled = program.compile(**options)
        if name.startswith("+") and not any(report.numbers for report in compiled.reports):
            continue
        ways[name] = partial(compiled.run_batch, rows, **common)
    base: Measured | None = None
    for name, run in ways.items():
        found = measured(lab, run)
        base = base or found
        same = "same" if found.texts == base.texts else "differs"
        faster = base.seconds / found.seconds
        row = f"{found.computed:>6} tokens {found.seconds:>7.2f} s ({faster:4.2f}x) {found.hits:>5.0%} cached  {same}"
        print(f"{program.func.__name__:<11} {name:<12} {row}", flush=True)


@sgl.function
def agent(s: Any, rules: str, talk: str) -> None:
    s += rules + talk + "\nNext:" + sgl.gen("answer", max_tokens=8)


@sgl.function
def team(s: Any, text: str) -> None:
    """Agents with long rules of their own that take turns, as KVFlow measures."""
    talk_so_far = text
    for who in (0, 1, 0, 2, 0, 1, 0, 3, 0, 1, 0, 2):
        talk_so_far += agent(rules=f"You are agent {who}. " + RULES, talk=talk_so_far)["answer"]
    s += talk_so_far


def foresight(model: dict[str, Any]) -> None:
    """What it is worth to know the next use, in caches that are too small for all agents."""
    print("\nagents that take turns: tokens computed under evict=lru, =program, and =program with foresight")
    for cache_tokens in (384, 512, 640, 768):
        counts = []
        for evict, without in (("lru", ["foresight"]), ("program", ["foresight"]), ("program", [])):
            with sgl.Lab(**model, cache_tokens=cache_tokens, evict=evict) as lab:
                team.compile(without=without).run(text="Write a song. ", backend=lab.backend_for(deterministic=True), temperature=0).sync()
                counts.append(int(lab.stats()["computed_tokens"]))
        print(f"cache of {cache_tokens:>4} tokens  {'  '.join(f'{count:>6,}' for count in counts)}", flush=True)


@sgl.function
def panel(s: Any, text: str) -> None:
    """Four agents, each asked once: the next use of their rules is the next item's."""
    for who in range(4):
        text = agent(rules=f"You are agent {who}. " + RULES, talk=text)["answer"]
    s += text


def batch_foresight(model: dict[str, Any]) -> None:
    """What it is worth to know what later items of a batch read, where they run one after the other."""
    print("\na batch of 8 items that ask four agents in turn: tokens computed under evict=lru, =program, and =program with foresight")
    rows = [{"text": f"Write song {number}. "} for number in range(8)]
    for cache_tokens in (384, 448, 512, 576):
        counts = []
        for evict, without in (("lru", ["foresight"]), ("program", ["foresight"]), ("program", [])):
            with sgl.Lab(**model, cache_tokens=cache_tokens, evict=evict) as lab:
                backend = lab.backend_for(deterministic=True)
                panel.compile(without=without).run_batch(rows, num_threads=1, by="items", backend=backend, temperature=0)
                counts.append(int(lab.stats()["computed_tokens"]))
        print(f"cache of {cache_tokens:>4} tokens  {'  '.join(f'{count:>6,}' for count in counts)}", flush=True)


def overhead(backend: Any, n: int = 10_000) -> None:
    @sgl.function
    def program(s: Any) -> None:
        for _ in range(n):
            s += "a"

    graph = program.compile(optimise="none")
    for name, run in (("interpreter", program.run), ("executor", graph.run)):
        began = time.perf_counter()
        run(backend=backend)
        print(f"{name:<12} {(time.perf_counter() - began) / n * 1e6:6.1f} us a node, {n:,} nodes")


def layout() -> None:
    @sgl.function
    def program(s: Any) -> None:
        for number in range(125):
            forks = s.fork(2)
            for fork in forks:
                fork += f"{number}" + sgl.gen("x")
            forks.join()
            s += s["x"][0] + sgl.gen("y")

    graph = program.trace()
    began = time.perf_counter()
    dataflow.picture("a large program", [dataflow.Side("as traced", [dataflow.Row(*row) for row in graph.rows()])])
    graph.dot()
    print(f"{len(graph.nodes):,} nodes laid out and drawn in {time.perf_counter() - began:.2f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=None)
    parser.add_argument("--programs", default=",".join(PROGRAMS))
    parser.add_argument("--rows", type=int, default=2)
    arguments = parser.parse_args()
    layout()
    model: dict[str, Any] = {"model": arguments.model} if arguments.model else {}
    foresight(model)
    batch_foresight(model)
    with sgl.Lab(**model) as lab:
        overhead(lab.backend)
        for name in arguments.programs.split(","):
            compare(lab, PROGRAMS[name], ROWS[: arguments.rows])


if __name__ == "__main__":
    main()
