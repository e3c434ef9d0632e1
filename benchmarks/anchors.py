"""Agent workflows of the shapes that Helium and Halo measure: interpreter against compiled batch.

    python benchmarks/anchors.py [--model NAME] [--rows 4] [--cache-tokens 1024]

Prints, for each shape, the tokens through the model and the seconds of a batch in the interpreter and
compiled (safe passes, node by node where that pays), the ratios, whether the texts are the same, and the
milliseconds of planning: trace, passes and the count of both orders. Beside them the figures of the
papers, on their models and machines: they are of the same shapes, and not of the same workloads.

Helium, arXiv:2603.16104: exact outputs, planning under 230 ms, 1.3 to 1.6 times as fast as agent systems.
Halo, arXiv:2509.02121: batches of agent workflows planned as one graph.
"""

from __future__ import annotations

import argparse
import time
from functools import partial
from typing import Any

import graph as programs

import sgl_lab as sgl

ROLE = "You are an expert who reads with care and answers in one short sentence. Be exact, name what is known, and say what is not. " * 3


@sgl.function
def agent(s: Any, role: str, text: str) -> None:
    s += ROLE + role + "\n" + text + "\nAnswer:" + sgl.gen("answer", max_tokens=8)


@sgl.function
def map_reduce(s: Any, text: str) -> None:
    parts = [agent(role=f"You read part {number}.", text=text)["answer"] for number in range(4)]
    s += "Parts: " + "; ".join(parts) + "\nSummary:" + sgl.gen("summary", max_tokens=8)


@sgl.function
def debate(s: Any, text: str) -> None:
    talk = text
    for _ in range(2):
        turns = [agent(role=f"You are debater {number}.", text=talk)["answer"] for number in range(3)]
        talk += "\n" + "\n".join(turns)
    s += talk + "\nVerdict:" + sgl.gen("verdict", max_tokens=4)


@sgl.function
def refinement(s: Any, text: str) -> None:
    draft = agent(role="You write.", text=text)["answer"]
    for _ in range(3):
        draft = agent(role="You write again.", text=draft + "\n" + agent(role="You criticise.", text=draft)["answer"])["answer"]
    s += "Final: " + draft + sgl.gen("end", max_tokens=2)


@sgl.function
def chains(s: Any, text: str) -> None:
    ends = []
    for number in range(3):
        step = text
        for place in range(2):
            step = agent(role=f"You are link {place}.", text=f"{number}: " + step)["answer"]
        ends.append(step)
    s += " ".join(ends) + "\nBest:" + sgl.gen("best", max_tokens=4)


SHAPES = {"map-reduce agents": map_reduce, "multi-agent debate": debate, "iterative refinement": refinement, "parallel chains": chains}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=None)
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--cache-tokens", type=int, default=1024)
    arguments = parser.parse_args()
    model: dict[str, Any] = {"model": arguments.model} if arguments.model else {}
    rows = [{"text": f"Case {number}: the lamp on shelf {number} does not light."} for number in range(arguments.rows)]
    with sgl.Lab(**model, cache_tokens=arguments.cache_tokens) as lab:
        common: dict[str, Any] = {"backend": lab.backend_for(deterministic=True), "temperature": 0, "ignore_eos": True}
        for name, program in SHAPES.items():
            began = time.perf_counter()
            compiled = program.compile()
            compiled.reports  # noqa: B018  # the passes run
            compiled.batch_report(rows, backend=lab.backend)
            planning = 1000 * (time.perf_counter() - began)
            first = programs.measured(lab, partial(program.run_batch, rows, **common))
            then = programs.measured(lab, partial(compiled.run_batch, rows, **common))
            same = "same texts" if first.texts == then.texts else "texts differ"
            tokens = f"{first.computed:>6,} -> {then.computed:>6,} tokens ({first.computed / then.computed:.2f}x)"
            print(f"{name:<21} {tokens}  {first.seconds:6.2f} -> {then.seconds:6.2f} s ({first.seconds / then.seconds:.2f}x)  ", end="")
            print(f"planned in {planning:.0f} ms  {same}", flush=True)
    print("Helium (arXiv:2603.16104) on its own: planned in under 230 ms, 1.3 to 1.6x, exact outputs")


if __name__ == "__main__":
    main()
