"""Which rows attend to a common beginning together: never to what they do not share, and to what saves most."""

from __future__ import annotations

import random
from array import array
from collections.abc import Sequence

import numpy as np

from sgl_lab.contracts.ids import RequestId
from sgl_lab.engine.compute.runners.gpu.sharing import Group, Sharing, groups
from sgl_lab.engine.plan import Row


def tables(*rows: Sequence[int]) -> list[np.ndarray]:
    return [np.array(row, np.int32) for row in rows]


def test_rows_with_the_same_first_pages_are_a_group() -> None:
    assert groups(tables([1, 2, 3, 4], [9, 2, 3], [1, 2, 3, 5, 6]), 2) == (Group((0, 2), 3),)


def test_a_short_common_beginning_is_none() -> None:
    assert groups(tables([1, 2, 3, 4], [1, 2, 5]), 3) == ()
    assert groups(tables([1, 2], [1, 2]), 3) == ()


def test_a_row_that_ends_inside_the_others_beginning_shortens_it() -> None:
    assert groups(tables([1, 2, 3], [1, 2, 3, 4], [1, 2, 3, 4, 5]), 1) == (Group((0, 1, 2), 3),)


def test_two_trunks_on_one_root_are_separate_where_that_saves_more() -> None:
    long, other = [1, 2, *range(10, 30)], [1, 2, *range(40, 60)]
    assert set(groups(tables([*long, 5], [*other, 6], [*long, 7], [*other, 8]), 2)) == {Group((0, 2), 22), Group((1, 3), 22)}
    assert groups(tables([1, 2, 3, 4], [1, 2, 3, 5, 6], [1, 2, 3, 5, 7]), 2) == (Group((0, 1, 2), 3),)


def test_random_trees_are_grouped_by_what_they_really_share() -> None:
    draw = random.Random(0)
    n_groups = 0
    for _ in range(200):
        rows: list[list[int]] = []
        for page in range(draw.randrange(1, 12)):
            start = draw.choice(rows)[: draw.randrange(8)] if rows else []
            rows.append([*start, *(100 * page + 100 + i for i in range(draw.randrange(6)))])
        found = groups(tables(*rows), 2)
        members = [row for group in found for row in group.rows]
        assert len(members) == len(set(members))
        for group in found:
            assert len(group.rows) > 1
            assert group.n_pages >= 2
            assert len({tuple(rows[row][: group.n_pages]) for row in group.rows}) == 1
            assert all(len(rows[row]) >= group.n_pages for row in group.rows)
        n_groups += len(found)
    assert n_groups > 50


def row(request: int, pages: Sequence[int], start: int) -> Row:
    return Row(RequestId(request), (1,), start, array("i", pages), None)


def test_groups_stay_while_their_rows_only_grow() -> None:
    """And are never of a page that a row still writes."""
    sharing = Sharing(4, least=8)
    assert sharing.of([row(1, [5, 6, 7], 8), row(2, [5, 6, 8], 9)], False) == (Group((0, 1), 2),)
    assert sharing.of([row(1, [5, 6, 7], 9), row(2, [5, 6, 8, 9], 12)], True) == (Group((0, 1), 2),)
    assert sharing.of([row(1, [5, 6, 7], 9), row(2, [5, 1, 8, 9], 12)], False) == ()
    assert sharing.of([row(1, [5, 6], 7), row(2, [5, 6], 7)], False) == ()
    assert sharing.of([row(1, [5, 6, 7], 9), row(3, [5, 6, 8, 9], 12)], True) == (Group((0, 1), 2),), "another row"
