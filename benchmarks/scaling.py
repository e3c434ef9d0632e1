"""How costs grow with what there is, without a model.

    python benchmarks/scaling.py [--most 10000] [--figure scaling.html]

For each size: the scheduler's milliseconds a step while that many requests wait, for each policy;
the microseconds in which a tree of so many nodes inserts, finds and evicts a prefix of its own, and
its memory; the cost of one request by the tokens of its context, of one child by the forks of a
program, of one insertion by the size of a full cache, of one cell by the cells of a notebook before
it, of one event by the length of its record, and of one turn by the turns of its chat.

Times are CPU time of this process (of the scheduler and the tree, of their thread), so that others
count little. The exponent is that of a power fitted to the sizes from 100 on: 0 if size does not
matter, 1 if cost grows with it. Memory is that of Python's objects, for each unit.
"""

from __future__ import annotations

import argparse
import gc
import math
import random
import time
import tracemalloc
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import sgl_lab as sgl
from sgl_lab.backends.local import LocalBackend
from sgl_lab.contracts.capabilities import TOKEN_LEVEL
from sgl_lab.contracts.events import Entry, Sample, TokensSampled
from sgl_lab.contracts.ids import RequestId, RunId
from sgl_lab.contracts.params import SamplingParams
from sgl_lab.contracts.policies import SCHEDULES
from sgl_lab.contracts.port import GenJob, GenOutput, ModelCard
from sgl_lab.engine.plan import Draw, Plan, RowOutput, output_of
from sgl_lab.engine.serving.cache.pool import TREE, PagePool
from sgl_lab.engine.serving.cache.tree import RadixTree
from sgl_lab.engine.serving.config import EngineConfig
from sgl_lab.engine.serving.engine import Engine
from sgl_lab.engine.serving.resident import Resident
from sgl_lab.engine.tools.fake import ByteTokenizer
from sgl_lab.trace import Record, Ring

SIZES = (10, 100, 1_000, 10_000, 100_000, 1_000_000)
N_STEPS = 200
N_TIMES = 50


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


def memory(make: Callable[[], object], n: int) -> float:
    """Bytes of Python's memory that each of the `n` units of what `make` returns takes."""
    gc.collect()
    tracemalloc.start()
    made = make()
    n_bytes, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    del made
    return n_bytes / n


def filled(n: int) -> RadixTree:
    """A tree with `n` prefixes of 8 tokens, and its pages."""
    draw = random.Random(0)
    pool = PagePool(8 * n, 1)
    found = RadixTree(pool)
    for _ in range(n):
        text = tuple(draw.choices(range(1000), k=8))
        found.insert((), text, pool.take(len(text), TREE), TREE)
    return found


def context(n: int) -> float:
    """Microseconds from a request on `n` cached tokens to its end, with one new token."""
    engine = Engine(EngineConfig(n_pages=n + 4096, draft_tokens=0), Constant(), ByteTokenizer(), context=n + 64)
    prompt = tuple(random.Random(0).choices(range(256), k=n))
    params = SamplingParams(max_tokens=1, temperature=0, ignore_eos=True)

    def ask(tail: int) -> None:
        engine.add(engine.gen(GenJob((*prompt, tail), params), Unread()))
        while engine.step():
            pass

    ask(0)
    began = time.process_time()
    for tail in range(N_TIMES):
        ask(tail)
    spent = time.process_time() - began
    engine.close()
    return 1e6 * spent / N_TIMES


def full(n: int) -> float:
    """Microseconds to insert a prefix of 8 tokens into a full cache of `n`, with the eviction that it
    needs.
    """
    draw = random.Random(0)
    pool = PagePool(n // 8 * 8, 1)
    found = RadixTree(pool)
    began = time.process_time()
    for number in range(n // 8 + 2000):
        if number == n // 8:
            began = time.process_time()
        found.evict(8 - pool.n_free)
        text = tuple(draw.choices(range(1 << 20), k=8))
        found.insert((), text, pool.take(8, TREE), TREE)
    return 1e6 * (time.process_time() - began) / 2000


@sgl.function
def forking(s: sgl.ProgramState, n: int) -> None:
    s += "One text, and many children."
    forks = s.fork(n)
    for number, fork in enumerate(forks):
        fork += f" {number}:" + sgl.gen("x", max_tokens=1, ignore_eos=True)
    forks.join()


@sgl.function
def chatting(s: sgl.ProgramState, n: int, spent: list[float]) -> None:
    for number in range(n):
        s += sgl.user(f"Question {number}?") + sgl.assistant(sgl.gen("x", max_tokens=4, ignore_eos=True))
        s["x"]
        spent.append(time.process_time())


def backend(ring: Ring, n_pages: int = 1 << 17) -> tuple[LocalBackend, Resident]:
    tokenizer = ByteTokenizer()
    engine = Engine(EngineConfig(n_pages=n_pages, draft_tokens=0), Constant(), tokenizer, context=n_pages, emit=ring.emit)
    resident = Resident(engine)
    return LocalBackend(resident, tokenizer, ModelCard("constant", (), n_pages, 260, "cpu", "none", TOKEN_LEVEL), ring.emit), resident


def forks(n: int) -> float:
    """Microseconds of a child, of `n`: its text, its request and its join."""
    made, resident = backend(Ring())
    began = time.process_time()
    forking.run(n=n, backend=made).sync()
    spent = time.process_time() - began
    resident.close()
    return 1e6 * spent / n


def turns(sizes: Sequence[int]) -> list[float]:
    """Microseconds of a turn after so many: the mean of the ten before it."""
    made, resident = backend(Ring())
    spent: list[float] = []
    chatting.run(n=max(sizes), spent=spent, backend=made).sync()
    resident.close()
    return [1e6 * (spent[size - 1] - spent[max(0, size - 11)]) / min(10, size - 1) for size in sizes]


def cells(n: int) -> tuple[list[Record], list[float]]:
    """The records of `n` cells with one program each, and the times after each."""
    ring = Ring()
    made, resident = backend(ring)
    kept, times = [], [time.process_time()]
    for number in range(n):
        record = Record(RunId(number + 1))
        stop = ring.listen(record.append)
        forking.run(n=2, backend=made).sync()
        stop()
        kept.append(record)
        times.append(time.process_time())
    resident.close()
    return kept, times


def cell(times: Sequence[float], n: int) -> float:
    """Microseconds of a cell after `n`: the mean of the ten before it."""
    return 1e6 * (times[n] - times[max(0, n - 10)]) / min(10, n)


def recorded(n: int) -> Record:
    record = Record(RunId(1))
    for number in range(n):
        record.append(Entry(number, number, TokensSampled(number, (Sample(RequestId(1), 65, -1.0, (), 0, False, False),))))
    return record


def events(n: int) -> float:
    """Microseconds to append an event to a record of `n`, and to read it there."""
    began = time.process_time()
    n_read = sum(len(entry.event.samples) for entry in recorded(n).entries if isinstance(entry.event, TokensSampled))
    return 1e6 * (time.process_time() - began) / n_read


def exponent(sizes: Sequence[int], costs: Sequence[float]) -> float:
    """Least squares of the logarithms."""
    x, y = [math.log(size) for size in sizes], [math.log(max(cost, 1e-9)) for cost in costs]
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    return sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True)) / sum((a - mean_x) ** 2 for a in x)


Curve = tuple[str, list[int], list[float]]


def shown(name: str, sizes: Sequence[int], costs: Sequence[float], unit: str) -> Curve:
    """Prints a row with its sizes, for a curve that has sizes of its own."""
    fitted = [(size, cost) for size, cost in zip(sizes, costs, strict=True) if size >= 100]
    power = f"{exponent(*zip(*fitted, strict=True)):8.2f}" if len(fitted) > 1 else ""
    row = "".join(f"{size:>10,}: {cost:<9.2f}" for size, cost in zip(sizes, costs, strict=True))
    print(f"{name:28}{row}{unit}{power}", flush=True)
    return f"{name}, {unit}", list(sizes), list(costs)


def figure(curves: Sequence[Curve], path: Path) -> None:
    import plotly.graph_objects as go

    page = go.Figure([go.Scatter(x=sizes, y=costs, name=name) for name, sizes, costs in curves])
    page.update_layout(title="cost of one unit by how many there are", template="plotly_white")
    page.update_xaxes(type="log")
    page.update_yaxes(type="log")
    page.write_html(path, include_plotlyjs="cdn")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--most", type=int, choices=SIZES[2:], default=10_000, help="largest size; requests: at most 10,000, forks: 1,000")
    parser.add_argument("--figure", type=Path, help="an HTML file for the curves; needs plotly")
    options = parser.parse_args()
    sizes = [size for size in SIZES if size <= options.most]
    few = [size for size in sizes if size <= 10_000]
    curves: list[Curve] = []
    print("sizes, each with its cost; at the end the unit, and the exponent from 100 on")
    for schedule in SCHEDULES:
        curves.append(shown(f"waiting, {schedule}", few, [waiting(size, schedule) for size in few], "ms a step"))
    found = [tree(size) for size in sizes]
    for column, name in enumerate(("insert", "find", "evict")):
        curves.append(shown(f"nodes: {name}", sizes, [row[column] for row in found], "µs"))
    curves.append(shown("nodes: memory", sizes[2:], [memory(partial(filled, size), size) for size in sizes[2:]], "bytes a node"))
    long = [size for size in sizes if size <= 100_000]
    curves.append(shown("tokens of context", long, [context(size) for size in long], "µs a request"))
    curves.append(shown("forks of a program", few[:3], [forks(size) for size in few[:3]], "µs a child"))
    curves.append(shown("tokens of a full cache", sizes[1:], [full(size) for size in sizes[1:]], "µs an insertion"))
    books = [10, 100, 300, 1_000]
    _, times = cells(max(books))
    curves.append(shown("cells of a notebook", books, [cell(times, size) for size in books], "µs a cell"))
    curves.append(shown("events of a record", sizes, [events(size) for size in sizes], "µs an event"))
    print(f"{'memory':28}{memory(lambda: cells(100), 100):,.0f} bytes a cell, {memory(lambda: recorded(10_000), 10_000):,.0f} an event")
    chats = [11, 50, 100, 200, 400]
    curves.append(shown("turns of a chat", chats, turns(chats), "µs a turn"))
    if options.figure is not None:
        figure(curves, options.figure)


if __name__ == "__main__":
    main()
