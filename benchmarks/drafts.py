"""Speculative decoding on and off, in turns, and what its gate learned of this machine.

    python benchmarks/drafts.py [--loads W1 W2 W3 W4 single] [--reps 5] [--minutes 9] [--model smollm2]

The loads are those of `peers.py`, and `single`: one row, 64 tokens after a prompt of 128. Two labs of
the same model lie in one process: one as by default, one without drafts. Each load runs once on both
to warm up. In each repetition both run the same new text, and the one that goes first changes. The
ratio is the median of the repetitions' own ratios, so that a slow moment of the machine touches
both; the noise is half of the range of the middle half of those ratios. Above 1.02 the default would
be worse than drafts off by more than 2 %, and it counts as a miss if it is above by more than the
noise. W1 scores answers and generates nothing, so its ratio is the noise of this machine. Each load
gets an equal share of `--minutes`: it ends with at least two repetitions, and says how many.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time

from engines.make import load
from engines.ours import Engine

from sgl_lab.engine.files import store
from sgl_lab.engine.text.found import tokenizer_at
from sgl_lab.session import BUILT_IN

LOADS = {"W1": "W1", "W2": "W2", "W3": "W3", "W4": "W4", "single": "decode 1"}
"""as they are named in `engines/make.py`"""
MOST = 1.02
LEAST = 2
"""repetitions after the warm-up"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--loads", nargs="+", choices=tuple(LOADS), default=tuple(LOADS))
    parser.add_argument("--reps", type=int, default=5)
    parser.add_argument("--minutes", type=float, default=9.0, help="for all loads; default: %(default)s")
    parser.add_argument("--model", default=BUILT_IN)
    parser.add_argument("--dtype")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    options = parser.parse_args()
    encode = tokenizer_at(store.tokenizer_files(options.model)).encode
    on, off = (Engine(options.threads, model=options.model, dtype=options.dtype, draft_tokens=n) for n in (64, 0))
    print(f"sgl_lab {on.version}, {options.threads} threads, load of the machine {os.getloadavg()[0]:.1f}")
    print(f"{'':7}{'drafts s':>10}{'none s':>10}{'ratio':>8}{'noise':>7}{'reps':>5}{'drafted':>9}{'accepted':>9}   step + row + token, ms")
    for name in options.loads:
        until = time.monotonic() + 60 * options.minutes / len(options.loads)
        before = on.stats()
        seconds: dict[Engine, list[float]] = {on: [], off: []}
        for rep in range(options.reps + 1):
            work = load(LOADS[name], encode, rep)
            for engine in (on, off) if rep % 2 else (off, on):
                engine.reset()
                seconds[engine].append(work.run(engine).seconds)
            if rep >= LEAST and time.monotonic() > until:
                break
        after = on.stats()
        ratios = [a / b for a, b in zip(seconds[on], seconds[off], strict=True)][1:]
        ratio, quarters = statistics.median(ratios), statistics.quantiles(ratios, n=4)
        noise = (quarters[2] - quarters[0]) / 2
        times = "".join(f"{statistics.median(seconds[engine][1:]):10.2f}" for engine in (on, off))
        drafted, accepted = (int(after[key] - before[key]) for key in ("drafted_tokens", "accepted_tokens"))
        learned = " + ".join(f"{after[f'step_{part}_ms']:.2f}" for part in ("base", "row", "token"))
        verdict = "" if ratio <= MOST else f"   above {MOST}" if ratio - noise > MOST else f"   above {MOST}, within the noise"
        print(f"{name:7}{times}{ratio:8.3f}{noise:7.1%}{len(ratios):5}{drafted:9}{accepted:9}   {learned}{verdict}", flush=True)


if __name__ == "__main__":
    main()
