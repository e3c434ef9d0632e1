"""How costs grow: with waiting requests and with nodes of the radix tree, without a model.

    python benchmarks/scaling.py [--most 10000]

For each size: the scheduler's milliseconds a step while that many requests wait, for each policy;
and the microseconds in which a tree inserts, finds and evicts a prefix of its own. Times are CPU
time of the thread that computes, so that other processes count little. The exponent is that of a
power fitted to the sizes from 100 on: 0 if size does not matter, 1 if cost grows with it.
"""

from __future__ import annotations

import argparse
import math
import random
import time
from collections.abc import Sequence

from sgl_lab.contracts.params import SamplingParams
from sgl_lab.contracts.policies import SCHEDULES
from sgl_lab.contracts.port import GenJob, GenOutput
from sgl_lab.engine.plan import Draw, Plan, RowOutput, output_of
from sgl_lab.engine.serving.cache.pool import TREE, PagePool
from sgl_lab.engine.serving.cache.tree import RadixTree
from sgl_lab.engine.serving.config import EngineConfig
from sgl_lab.engine.serving.engine import Engine
from sgl_lab.engine.tools.fake import ByteTokenizer

SIZES = (10, 100, 1_000, 10_000, 100_000, 1_000_000)
N_STEPS = 200


class Constant:
    """Draws the same token at once."""

    is_exact = True

    def run(self, plan: Plan) -> tuple[RowOutput, ...]:
        return tuple(output_of(row, lambda n: Draw(65, -1.0, ())) for row in plan.rows)

    def copy_page(self, source: int, target: int) -> None: ...

    def close(self) -> None: ...


class Unread:
    def on_progress(self, index: int, text: str, ids: tuple[int, ...]) -> None: ...

    def on_done(self, outputs: tuple[GenOutput, ...]) -> None: ...

    def on_error(self, error: Exception) -> None:
        raise error


def waiting(n: int, schedule: str) -> float:
    """Milliseconds that scheduling takes a step while at least half of `n` requests wait."""
    config = EngineConfig(n_pages=200_000, draft_tokens=0, schedule=schedule)
    engine = Engine(config, Constant(), ByteTokenizer(), context=4096, clock=time.thread_time)
    draw = random.Random(0)
    prefixes = [tuple(draw.choices(range(256), k=200)) for _ in range(20)]
    for i in range(n):
        params = SamplingParams(max_tokens=8, temperature=0, ignore_eos=True)
        prompt = (*prefixes[i % 20], *draw.choices(range(256), k=20))
        engine.add(engine.gen(GenJob(prompt, params), Unread()))
    engine.step()
    before = engine.stats()
    while engine.stats()["requests_waiting"] > n / 2 and engine.stats()["steps"] - before["steps"] < N_STEPS:
        engine.step()
    after = engine.stats()
    engine.close()
    return 1000 * (after["scheduler_s"] - before["scheduler_s"]) / max(1, after["steps"] - before["steps"])


def tree(n: int) -> tuple[float, float, float]:
    """Microseconds to insert, find and evict one of `n` prefixes of 8 tokens."""
    draw = random.Random(0)
    texts = [tuple(draw.choices(range(1000), k=8)) for _ in range(n)]
    pool = PagePool(8 * n, 1)
    found = RadixTree(pool)
    started = time.thread_time()
    for text in texts:
        found.insert((), text, pool.take(len(text), TREE), TREE)
    inserted = time.thread_time()
    for text in texts:
        found.peek((), text)
    peeked = time.thread_time()
    found.flush()
    evicted = time.thread_time()
    return 1e6 * (inserted - started) / n, 1e6 * (peeked - inserted) / n, 1e6 * (evicted - peeked) / n


def exponent(sizes: Sequence[int], costs: Sequence[float]) -> float:
    """Least squares of the logarithms."""
    x, y = [math.log(size) for size in sizes], [math.log(max(cost, 1e-9)) for cost in costs]
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    return sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True)) / sum((a - mean_x) ** 2 for a in x)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--most", type=int, choices=SIZES[2:], default=10_000, help="largest size; of requests at most 10,000")
    options = parser.parse_args()
    sizes = [size for size in SIZES if size <= options.most]
    few = [size for size in sizes if size <= 10_000]
    print("scheduling with waiting requests, ms a step")
    print(f"{'':12}{''.join(f'{size:>10,}' for size in few)}  exponent")
    for schedule in SCHEDULES:
        costs = [waiting(size, schedule) for size in few]
        print(f"{schedule:12}{''.join(f'{cost:10.3f}' for cost in costs)}{exponent(few[1:], costs[1:]):10.2f}", flush=True)
    print("a prefix in the tree, microseconds")
    print(f"{'':12}{''.join(f'{size:>10,}' for size in sizes)}  exponent")
    found = [tree(size) for size in sizes]
    for column, name in enumerate(("insert", "find", "evict")):
        costs = [row[column] for row in found]
        print(f"{name:12}{''.join(f'{cost:10.2f}' for cost in costs)}{exponent(sizes[1:], costs[1:]):10.2f}", flush=True)


if __name__ == "__main__":
    main()
