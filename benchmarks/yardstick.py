"""The common yardstick of small engines: 256 sequences, inputs and outputs uniform in 100 to 1,024
tokens, drawn with seed 0 in the order of nano-vllm's `bench.py`. All are given at once.

    python benchmarks/yardstick.py [--divide 16] [-n 256] [--model smollm2] [--dtype int4]

On a CPU the whole takes an hour, so the lengths are divided (by 16: 6 to 64 tokens) and the number
of sequences stays; what was divided is printed with the result. `gpu.py --parts yardstick` runs it
whole. Text ends by length alone. Printed are generated tokens a second with and without drafts,
each in a lab of its own, and what went through the model.
"""

from __future__ import annotations

import argparse
import os
import random
import time
from typing import NamedTuple

SEQUENCES, LEAST, MOST, VOCABULARY = 256, 100, 1024, 10_000


class Sequence(NamedTuple):
    prompt: tuple[int, ...]
    n_new: int


def sequences(n: int = SEQUENCES, divide: int = 1, vocabulary: int = VOCABULARY) -> list[Sequence]:
    draw = random.Random(0)
    prompts = [[draw.randint(0, VOCABULARY) for _ in range(draw.randint(LEAST, MOST))] for _ in range(n)]
    new = [draw.randint(LEAST, MOST) for _ in range(n)]
    return [
        Sequence(tuple(token % vocabulary for token in prompt[: max(1, len(prompt) // divide)]), max(1, length // divide))
        for prompt, length in zip(prompts, new, strict=True)
    ]


def main() -> None:
    from engines.ours import Gen

    from sgl_lab.contracts.params import SamplingParams
    from sgl_lab.contracts.port import GenJob
    from sgl_lab.session import BUILT_IN, Lab

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--divide", type=int, default=16, help="lengths are divided by this; default: %(default)s")
    parser.add_argument("-n", type=int, default=SEQUENCES, help="sequences; default: %(default)s")
    parser.add_argument("--model", default=BUILT_IN)
    parser.add_argument("--dtype")
    options = parser.parse_args()
    work = sequences(options.n, options.divide)
    n_in, n_out = sum(len(each.prompt) for each in work), sum(each.n_new for each in work)
    whole = "the yardstick" if (options.n, options.divide) == (SEQUENCES, 1) else f"lengths divided by {options.divide}"
    print(f"{options.n} sequences, {n_in:,} tokens in, {n_out:,} out ({whole}); load of the machine {os.getloadavg()[0]:.1f}")
    for name, n_drafts in (("as it comes", 64), ("without drafts", 0)):
        with Lab(options.model, dtype=options.dtype, draft_tokens=n_drafts) as lab:
            lab.backend.submit(GenJob(work[0].prompt, SamplingParams(max_tokens=2, ignore_eos=True)), first := Gen())
            first.result()
            lab.flush()
            before, began = lab.stats(), time.perf_counter()
            answers = [Gen() for _ in work]
            for each, answer in zip(work, answers, strict=True):
                params = SamplingParams(temperature=0.6, max_tokens=each.n_new, ignore_eos=True)
                lab.backend.submit(GenJob(each.prompt, params), answer)
            n_generated = sum(len(answer.result().ids) for answer in answers)
            seconds = time.perf_counter() - began
            counts = {key: int(lab.stats()[key] - before[key]) for key in ("steps", "computed_tokens", "accepted_tokens")}
            print(
                f"{name:16}{n_generated / seconds:9,.1f} generated tokens a second, {seconds:.1f} s; {counts['steps']:,} steps, "
                f"{counts['computed_tokens']:,} tokens computed, {counts['accepted_tokens']:,} drafted ones accepted",
                flush=True,
            )


if __name__ == "__main__":
    main()
