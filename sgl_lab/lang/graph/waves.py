"""A batch of a graph node by node: all items execute one gen or select before any executes the next.

Item by item, each item needs the beginnings of all its calls, and a small cache has lost them when
the next item comes. Node by node, one beginning serves all items. But the items' own text has to wait
in the cache meanwhile. So both orders are counted before a batch runs.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import cache, partial

from ...contracts.errors import BadArgument
from ...contracts.port import Backend, Sized
from ..expressions import Fork, Gen, Select
from ..sampling import GenDefaults
from .dataflow import Graph
from .passes.report import Report
from .plan import requests
from .prompts import Prompts, is_plain

ORDERS = ("auto", "items", "nodes")
BLOCK = 16
"""tokens that are counted as cached together"""
GAIN = 0.95
"""share of the tokens that may be left, for items to wait for each other"""
LEAST_ROWS, MOST_ROWS = 16, 256
"""rows that are counted; between these, twice as many as run at once"""


def turns_of(graph: Graph) -> Mapping[int, int]:
    """The turn of each gen and select, from 0. Those at the same place in the children of a fork
    are one turn, because they share the parent's text.
    """
    keys: dict[tuple[int, int], int] = {}
    found: dict[int, int] = {}
    for strand, numbers in graph.strands.items():
        opener = graph.parents.get(strand)
        is_child = opener is not None and isinstance(graph.nodes[opener].value, Fork)
        asked = [number for number in numbers if isinstance(graph.nodes[number].value, Gen | Select)]
        for place, number in enumerate(asked):
            key = (opener, place) if is_child and opener is not None else (number, -1)
            found[number] = keys.setdefault(key, number)
    numbered = {first: step for step, first in enumerate(sorted(set(found.values())))}
    return {number: numbered[first] for number, first in found.items()}


class Waves:
    """Where the items of one batch wait for each other, on one event loop. At most `n_open` execute
    a step at once.
    """

    def __init__(self, n_items: int, n_open: int) -> None:
        self._n_items, self._n_here = n_items, 0
        self._places = asyncio.Semaphore(n_open)
        self._gate = asyncio.Event()

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """One step of one item, after all others have done the step before."""
        gate = self._gate
        self._n_here += 1
        self._look()
        await gate.wait()
        async with self._places:
            yield

    def leave(self) -> None:
        """Remove an item: the others no longer wait for it."""
        self._n_items -= 1
        self._look()

    def _look(self) -> None:
        if self._n_here >= self._n_items:
            gate, self._gate, self._n_here = self._gate, asyncio.Event(), 0
            gate.set()


def counted(graph: Graph, rows: Sequence[Mapping[str, str]], backend: object, n_open: int, defaults: GenDefaults) -> Report:
    """Tokens that would be computed in either order, in a cache of the backend's size. The report
    has no numbers where the orders are the same, or nothing is known of the cache.
    """
    steps = turns_of(graph)
    if len(rows) <= n_open or len(set(steps.values())) < 2:
        return Report("batch", "all items run at once: their nodes meet already")
    if not isinstance(backend, Backend) or not isinstance(backend, Sized):
        return Report("batch", "the size of the backend's cache is not known")
    if is_plain(graph):
        of = Prompts(graph, cache(backend.encode), steps, defaults).of
    else:
        of = partial(requests, graph, backend=backend, steps=steps, defaults=defaults)
    first = of(rows[0])
    if sum(len(prompt) for step in first for prompt in step) * len(rows) <= backend.cache_tokens:
        return Report("batch", "the cache has room for all items at once")
    n_rows = min(MOST_ROWS, max(LEAST_ROWS, 2 * n_open))
    asked = [[[(len(prompt), _blocks(prompt)) for prompt in step] for step in of(row)] for row in rows[:n_rows]]
    by_item = sum(_computed(asked, n_open, backend.cache_tokens))
    by_node = sum(_computed(asked, len(asked), backend.cache_tokens))
    numbers = {"tokens item by item": by_item, "tokens node by node": by_node}
    words = "node by node across the items computes less" if pays(numbers) else "item by item computes about as little"
    return Report("batch", words, numbers)


def check_order(order: object) -> None:
    """BadArgument unless it is one of `ORDERS`."""
    if order not in ORDERS:
        raise BadArgument(f"by must be one of {', '.join(ORDERS)}, not {order!r:.40}")


def pays(numbers: Mapping[str, int]) -> bool:
    """Whether the numbers of a report are for node by node."""
    return bool(numbers) and numbers["tokens node by node"] < GAIN * numbers["tokens item by item"]


def _computed(asked: Sequence[Sequence[Sequence[tuple[int, list[int]]]]], width: int, capacity: int) -> list[int]:
    """Tokens of each request that an LRU cache of blocks lacks, if so many items advance together.
    A request is the length of its prompt, and its blocks.
    """
    cache: OrderedDict[int, None] = OrderedDict()
    found = []
    for first in range(0, len(asked), width):
        wave = asked[first : first + width]
        for step in range(len(wave[0])):
            for n_tokens, blocks in (prompt for item in wave for prompt in item[step]):
                n_known = next((at for at, block in enumerate(blocks) if block not in cache), len(blocks))
                found.append(n_tokens - n_known * BLOCK)
                for block in reversed(blocks):  # the end of a text is evicted before its beginning
                    cache[block] = None
                    cache.move_to_end(block)
                while len(cache) * BLOCK > capacity:
                    cache.popitem(last=False)
    return found


def _blocks(prompt: tuple[int, ...]) -> list[int]:
    keys, key = [], 0
    for start in range(0, len(prompt) - BLOCK + 1, BLOCK):
        key = hash((key, prompt[start : start + BLOCK]))
        keys.append(key)
    return keys
