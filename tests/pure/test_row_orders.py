"""Unordered items in an order of their own for each row of a batch."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import sgl_lab as sgl
from sgl_lab.lang.graph.passes.ordering import greedy

from .generated import LONG
from .words import lab


@sgl.function
def describe(s: Any, maker: str, place: str) -> None:
    s += sgl.unordered(["Maker: " + maker + "\n", "Place: " + place + "\n"]) + sgl.gen("a", max_tokens=2)


def test_a_batch_orders_items_row_by_row_where_that_shares_more(tmp_path: Path) -> None:
    # the first half shares its maker, the other its place: no one order serves both
    rows = [{"maker": f"M {LONG}", "place": f"{number} {LONG}"} for number in range(4)]
    rows += [{"maker": f"{number} {LONG}", "place": f"P {LONG}"} for number in range(4)]

    def run(**options: Any) -> tuple[int, list[str]]:
        made = lab(tmp_path)
        states = describe.compile(**options).run_batch(rows, backend=made, temperature=0, num_threads=1)
        n = int(made._resident.stats()["computed_tokens"])
        made._resident.close()
        assert all("a" in state for state in states)
        return n, [state.text() for state in states]

    (computed, texts), (plain, others) = run(), run(without=["fields"])
    assert computed * 1.2 < plain
    assert all(row["maker"] in text and row["place"] in text for row, text in zip(rows, texts, strict=True))
    assert [text.startswith("Maker") for text in texts] == [True] * 4 + [False] * 4
    assert all(text.startswith("Maker") for text in others)


def test_a_text_is_shared_in_whatever_place_it_stands() -> None:
    # passages as they were retrieved: no column has a text twice
    orders = greedy([["one", "two", "long one"], ["long one", "other", "three"], ["four", "long one", "other"]])
    assert [order[0] for order in orders] == [2, 0, 1]
    assert [order[1] for order in orders][1:] == [1, 2]
    assert [sorted(order) for order in orders] == [[0, 1, 2]] * 3


def saved(table: Sequence[Sequence[str]], orders: Sequence[Sequence[int]]) -> int:
    """Characters of whole texts that each row has in common with the row before, at its beginning."""
    rows = sorted([[texts[place] for place in order] for texts, order in zip(table, orders, strict=True)])
    total = 0
    for one, other in itertools.pairwise(rows):
        alike = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=True))
        total += sum(len(text) for text, _ in alike)
    return total


def test_greedy_orders_come_near_the_best_of_all() -> None:
    chance = random.Random(3)
    total, best_total = 0, 0
    every = list(itertools.permutations(range(3)))
    for _ in range(40):
        table = [[f"{column}{'x' * 4 * column}{chance.randrange(2)}" for column in range(3)] for _ in range(3)]
        found, best = saved(table, greedy(table)), max(saved(table, orders) for orders in itertools.product(every, repeat=3))
        assert found <= best
        total, best_total = total + found, best_total + best
    assert 0.9 * best_total <= total


def test_orders_of_a_table_without_anything_in_common_stay() -> None:
    assert greedy([["a", "b"], ["c", "d"]]) == [(0, 1), (0, 1)]
    assert greedy([]) == []
    assert greedy([["a"], ["a"]]) == [(0,), (0,)]
    large = [[str(row % 7), str(row % 3), str(row)] for row in range(2000)]
    assert {order[-1] for order in greedy(large)} == {2}
