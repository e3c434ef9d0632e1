"""The table on the device says of every row of a pass what the plan says, whatever became of its pages since."""

from __future__ import annotations

import random
from array import array
from dataclasses import replace

import pytest
import torch

from sgl_lab.contracts.errors import InvariantBroken
from sgl_lab.contracts.ids import RequestId
from sgl_lab.engine.compute.runners.gpu.table import PageTable, Written
from sgl_lab.engine.plan import Row

CPU = torch.device("cpu")


def row(request: int, pages: list[int]) -> Row:
    return Row(RequestId(request), (1,), len(pages) - 1, array("i", pages), None)


def write(table: PageTable, rows: list[Row]) -> Written:
    written = table.update(rows)
    table.tables.flat.index_copy_(0, torch.from_numpy(written.where), torch.from_numpy(written.pages))
    for one, line in zip(rows, written.lines, strict=True):
        assert table.tables.pages[line, : len(one.pages)].tolist() == list(one.pages)
    assert len(set(written.lines)) == len(rows)
    assert 0 not in written.lines
    return written


def test_only_what_is_new_is_sent() -> None:
    table = PageTable(CPU, width=8)
    first = write(table, [row(1, [5, 6]), row(2, [7])])
    assert (len(first.where), first.only_grew) == (3, False)
    assert (len(write(table, [row(1, [5, 6])]).where)) == 0
    grown = write(table, [row(2, [7, 9]), row(1, [5, 6, 8])])
    assert (sorted(grown.pages.tolist()), grown.only_grew) == ([8, 9], True)
    replaced = write(table, [row(1, [5, 4, 8, 3])])
    assert (replaced.pages.tolist(), replaced.only_grew) == ([4, 3], False)
    shorter = write(table, [row(1, [5])])
    assert (len(shorter.where), shorter.only_grew) == (0, False)
    assert write(table, [row(1, [5, 4, 9])]).pages.tolist() == [9]
    table.forget()
    assert len(write(table, [row(1, [5, 4, 9])]).where) == 3


def test_a_table_that_grows_keeps_what_it_holds() -> None:
    table = PageTable(CPU, width=2, n_lines=2)
    write(table, [row(1, [5, 6])])
    table.tables.drawn[1] = 42
    before = table.tables.flat
    assert len(write(table, [row(1, [5, 6, 7]), row(2, [9])]).where) == 2
    assert table.tables.flat is not before
    assert table.tables.pages.shape == (4, 4)
    assert table.tables.drawn[1] == 42


def test_random_requests_on_a_few_lines_always_find_their_pages() -> None:
    draw = random.Random(0)
    table = PageTable(CPU, width=4, n_lines=4)
    known: dict[int, list[int]] = {}
    n_sent = n_all = 0
    for _ in range(600):
        some = draw.sample(range(9), draw.randrange(1, 5))
        for request in some:
            pages = known.get(request, [])
            match draw.randrange(5):
                case 0:
                    pages = [draw.randrange(99) for _ in range(draw.randrange(1, 12))]
                case 1 if pages:
                    pages = pages[: draw.randrange(len(pages))]
                case 2 if pages:
                    pages = [*pages]
                    pages[draw.randrange(len(pages))] = draw.randrange(99)
            known[request] = [*pages, draw.randrange(99)]
        written = write(table, [row(request, known[request]) for request in some])
        assert len(set(written.where.tolist())) == len(written.where)
        n_sent += len(written.where)
        n_all += sum(len(known[request]) for request in some)
    assert n_sent < n_all


def test_passes_of_one_step_for_which_room_was_made_keep_all_their_lines() -> None:
    table = PageTable(CPU, width=2, n_lines=4)
    table.make_room(6)
    first = write(table, [row(request, [request]) for request in (1, 2, 3)])
    second = write(table, [row(request, [request]) for request in (4, 5, 6)])
    assert len({*first.lines, *second.lines}) == 6


def test_a_row_that_follows_a_request_without_a_line_is_refused() -> None:
    """It would read a token that was drawn for somebody else."""
    table = PageTable(CPU, width=2, n_lines=2)
    write(table, [row(1, [5])])
    follower = replace(row(1, [5, 6]), is_overlapped=True)
    write(table, [follower])
    write(table, [row(2, [7])])
    with pytest.raises(InvariantBroken, match="request 1 has no line"):
        table.update([follower])
