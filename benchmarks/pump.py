"""Measures the thread between the events and a page, without engine, kernel and page.

    python benchmarks/pump.py [--streams 64] [--steps 800]

Every step draws a token, with five alternatives, in each stream: two events. The views are polled
thirty times a second of the run's own time, at 200 steps a second.

    fold, poll, snapshot  CPU seconds for 10,000 tokens: folding events into views; building and
                          encoding messages; the state for pages that load later
    worst                 milliseconds of the longest call, during which the kernel does not answer
                          for longer than Python's switch interval if it is one call of C
    objects               that the garbage collector looks through afterwards, for a token
    collections           of the youngest, middle and oldest objects, and their CPU milliseconds
"""

from __future__ import annotations

import argparse
import gc
import random
import time
from collections.abc import Callable
from typing import TypeVar

from sgl_lab.contracts.events import (
    CellStarted,
    Entry,
    ForkOpened,
    NodeInserted,
    PrefixMatched,
    RequestQueued,
    Sample,
    StepRan,
    StreamExtended,
    TokensSampled,
)
from sgl_lab.contracts.ids import ForkId, NodeId, RequestId, RunId
from sgl_lab.trace import Ring
from sgl_lab.viz.sender import Sender, Views
from sgl_lab.viz.views import views_of

RUN = RunId(1)
STEP_NS = 5_000_000
STEPS_A_POLL = 7

T = TypeVar("T")
U = TypeVar("U")


class Clock:
    """CPU time of this process, by part."""

    def __init__(self) -> None:
        self.spent: dict[str, float] = {}
        self.worst: dict[str, float] = {}
        self.n_collections = [0, 0, 0]
        self.collecting = 0.0
        gc.callbacks.append(self._on_collection)

    def lap(self, part: str, call: Callable[[U], T], argument: U) -> T:
        began = time.process_time()
        found = call(argument)
        took = time.process_time() - began
        self.spent[part] = self.spent.get(part, 0.0) + took
        self.worst[part] = max(self.worst.get(part, 0.0), took)
        return found

    def _on_collection(self, phase: str, info: dict[str, int]) -> None:
        self.collecting += time.process_time() if phase == "stop" else -time.process_time()
        self.n_collections[info["generation"]] += phase == "stop"


def n_tracked() -> int:
    for _ in range(3):
        gc.collect()
    return len(gc.get_objects())


def measure(n_streams: int, n_steps: int) -> None:
    now = [0]
    ring, waiting = Ring(clock=lambda: now[0]), list[Entry]()
    ring.listen(waiting.append)
    sender = Sender(Views(*views_of(RUN, str)))
    ring.emit(NodeInserted(NodeId(1), None, (), ("model",)))
    ring.emit(CellStarted(RUN, "In[1]", ""))
    names = [RequestId(n) for n in range(1, n_streams + 1)]
    for name in names:
        fork = ForkId(name)
        ring.emit(ForkOpened(RUN, fork, None, 0, ""))
        ring.emit(StreamExtended(fork, 0, (7, name), "text", "user"))
        ring.emit(RequestQueued(name, fork, None, "gen", (7, name), n_steps, name))
        ring.emit(PrefixMatched(name, 0, 2, NodeId(1)))
    draw = random.Random(1)
    tops = [tuple((draw.randrange(500), -draw.expovariate(0.3)) for _ in range(5)) for _ in range(999)]
    n_before = n_tracked()
    clock, n_bytes, n_packets = Clock(), 0, 0
    for step in range(n_steps):
        drawn = [(name, draw.choice(tops)) for name in names]
        samples = tuple(Sample(name, *top[0], top, None, False) for name, top in drawn)
        ring.emit(TokensSampled(step, samples))
        ring.emit(StepRan(step, (), tuple(names), 0, 100_000, 5.0))
        now[0] += STEP_NS
        if step % STEPS_A_POLL == 0:
            batch = tuple(waiting)
            waiting.clear()
            clock.lap("fold", sender.fold, batch)
            packets = clock.lap("poll", sender.poll, now[0])
            clock.lap("snapshot", sender.snapshot, now[0])
            n_bytes += sum(len(packet.body) for packet in packets)
            n_packets += len(packets)
    n_tokens = n_streams * n_steps
    collections, collecting = clock.n_collections[:], clock.collecting
    print(f"{n_streams} streams, {n_tokens:,} tokens, {2 * n_steps:,} events, {n_packets} messages, {n_bytes / n_tokens:.0f} bytes a token")
    for part, spent in clock.spent.items():
        print(f"{part:<10}{1e4 * spent / n_tokens:>8.3f} s{1e3 * clock.worst[part]:>8.1f} ms worst")
    print(f"{'all':<10}{1e4 * sum(clock.spent.values()) / n_tokens:>8.3f} s")
    print(f"{(n_tracked() - n_before) / n_tokens:.2f} objects a token; collections {collections}, {1e3 * collecting:.0f} ms")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=64)
    parser.add_argument("--steps", type=int, default=800)
    options = parser.parse_args()
    measure(options.streams, options.steps)
