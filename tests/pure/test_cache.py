"""The radix tree and the page pool against a model that stores every prefix by itself."""

from __future__ import annotations

import random
from array import array
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest

from sgl_lab.contracts.errors import InvariantBroken
from sgl_lab.contracts.events import LocksChanged, NodeEvicted, NodeInserted, NodeSplit, Touched
from sgl_lab.contracts.ids import RequestId
from sgl_lab.engine.serving.cache.audit import audit
from sgl_lab.engine.serving.cache.node import Node, Tokens
from sgl_lab.engine.serving.cache.policies import POLICIES
from sgl_lab.engine.serving.cache.policy import Plain, Used
from sgl_lab.engine.serving.cache.pool import PagePool
from sgl_lab.engine.serving.cache.tree import TRIM, Lease, RadixTree, common_length

from .driving import SOAK, Fold

SPACE = ("a",)
ME = RequestId(1)


def filled(page_size: int, *sequences: str, n_pages: int = 64) -> tuple[RadixTree, Fold]:
    fold = Fold()
    tree = RadixTree(PagePool(n_pages, page_size), emit=fold)
    for sequence in sequences:
        put(tree, sequence)
    return tree, fold


def put(tree: RadixTree, text: str) -> None:
    tokens = tuple(text.encode())
    tree.insert(SPACE, tokens, tree.pool.take(len(tokens) // tree.pool.page_size, ME), ME)


def lease(tree: RadixTree, text: str) -> Lease:
    return tree.acquire(SPACE, tuple(text.encode()))


def shape(tree: RadixTree) -> dict[str, int]:
    """Tokens of each node, spelled with those above it, and its refs."""
    spelled: dict[int, tuple[str, int]] = {}
    for node in tree.nodes():
        above = spelled[node.parent.id][0] if node.parent else ""
        spelled[node.id] = above + "|" + bytes(node.tokens).decode(), node.refs
    return dict(spelled.values())


def test_a_prefix_shared_by_two_sequences_becomes_one_node() -> None:
    tree, fold = filled(1, "hello world", "hello there")
    assert shape(tree) == {"|": 0, "||hello ": 0, "||hello |world": 0, "||hello |there": 0}
    assert [type(event) for event in fold.events] == [NodeInserted, NodeInserted, NodeSplit, NodeInserted]


def test_peek_changes_nothing_and_says_nothing() -> None:
    tree, fold = filled(1, "hello world")
    n_events = len(fold.events)
    before = tree.snapshot(0)
    assert tree.peek(SPACE, tuple(b"hello there")).n_tokens == 6
    assert tree.peek(("never seen",), tuple(b"hello")).n_tokens == 0
    assert (tree.snapshot(0), len(fold.events)) == (before, n_events)


def test_a_match_ends_at_a_page_border() -> None:
    tree, _ = filled(4, "abcdefghijkl")
    assert tree.peek(SPACE, tuple(b"abcdefgX")).n_tokens == 4
    assert tree.peek(SPACE, tuple(b"abc")).n_tokens == 0
    assert lease(tree, "abcdefghijX").n_tokens == 8
    assert tree.peek(SPACE, tuple(b"abcdefghijklm")).n_tokens == 12


def test_leasing_a_whole_sequence_does_not_split_it() -> None:
    tree, fold = filled(1, "parent")
    lease(tree, "parent and child")
    assert shape(tree) == {"|": 1, "||parent": 1}
    assert not fold.of(NodeSplit)


def test_a_split_keeps_leases_on_the_lower_node_and_counts_them_on_the_upper() -> None:
    tree, _ = filled(1, "abcdef")
    below = lease(tree, "abcdef")
    above = lease(tree, "abc")
    assert shape(tree) == {"|": 2, "||abc": 2, "||abc|def": 1}
    tree.release(below)
    assert shape(tree) == {"|": 1, "||abc": 1, "||abc|def": 0}
    tree.release(above)
    assert set(shape(tree).values()) == {0}


def test_a_locked_prefix_is_never_evicted() -> None:
    tree, _ = filled(1, "shared one", "shared two")
    lease(tree, "shared o")
    assert tree.flush() == 5  # "ne" and "two"
    assert shape(tree) == {"|": 1, "||shared ": 1, "||shared |o": 1}


def test_the_least_recently_used_leaf_goes_first_and_its_parent_after_it() -> None:
    tree, fold = filled(1, "ab", "ac", "x")
    for text in ("ac", "x", "ab"):
        tree.release(lease(tree, text))
    names = {node.id: bytes(node.tokens).decode() for node in tree.nodes()}
    tree.flush()
    assert [names[event.node] for event in fold.of(NodeEvicted)] == ["c", "x", "b", "a"]


def test_the_least_often_used_or_the_first_that_came_goes_first_where_that_is_the_policy() -> None:
    for evict, order in (("lfu", ["x", "b", "c", "a"]), ("fifo", ["b", "c", "a", "x"])):
        fold = Fold()
        tree = RadixTree(PagePool(64, 1), POLICIES[evict](), fold)
        for text in ("ab", "ac"):
            put(tree, text)
        for text in ("ac", "ab", "ac"):
            tree.release(lease(tree, text))
        put(tree, "x")
        names = {node.id: bytes(node.tokens).decode() for node in tree.nodes()}
        tree.flush()
        assert [names[event.node] for event in fold.of(NodeEvicted)] == order


@pytest.mark.parametrize("evict", POLICIES)
def test_a_tree_that_is_restored_from_a_snapshot_evicts_in_the_same_order(evict: str) -> None:
    tree = RadixTree(PagePool(64, 1), POLICIES[evict]())
    for text in ("one", "two", "three", "one more"):
        put(tree, text)
        tree.release(lease(tree, "two" if text == "three" else text[:2]))
    again = RadixTree(PagePool(64, 1), POLICIES[evict]())
    again.restore(tree.snapshot(0).nodes)
    gone = []
    for one in (tree, again):
        gone.append([])
        while before := shape(one).keys() - {"|"}:
            one.evict(1)
            gone[-1] += before - shape(one).keys()
    assert gone[0] == gone[1] != []


def test_eviction_stops_when_there_is_room() -> None:
    tree, _ = filled(1, "aaaa", "bbbb", "cccc")
    assert tree.evict(5) == 8
    assert shape(tree) == {"|": 0, "||cccc": 0}


def test_releasing_twice_changes_nothing() -> None:
    tree, _ = filled(1, "abc")
    first, second = lease(tree, "abc"), lease(tree, "abc")
    tree.release(first)
    tree.release(first)
    assert shape(tree) == {"|": 1, "||abc": 1}
    tree.release(second)
    pages = tree.pool.take(3, ME)
    tree.pool.release(pages, ME)
    tree.pool.release(pages, ME)
    assert tree.pool.n_free == 61


def test_pages_of_what_was_there_already_are_freed() -> None:
    tree, _ = filled(1, "abc")
    put(tree, "abcd")
    assert tree.pool.n_free == 60
    audit(tree, [], {})


def test_namespaces_never_meet() -> None:
    tree, _ = filled(1, "abc")
    other = tree.acquire(("b",), tuple(b"abc"))
    assert other.n_tokens == 0
    tree.insert(("b",), tuple(b"abc"), tree.pool.take(3, ME), ME)
    assert tree.pool.n_free == 58
    assert sorted(node.namespace for node in tree.nodes()) == [("a",), ("a",), ("b",), ("b",)]


def test_locks_are_reported_as_net_changes() -> None:
    tree, fold = filled(1, "abc")
    node = next(node for node in tree.nodes() if node.tokens)
    kept, gone = lease(tree, "abc"), lease(tree, "abc")
    tree.release(gone)
    tree.report_locks()
    assert fold.of(LocksChanged)[-1] == LocksChanged(((node.parent.id, 1), (node.id, 1)))  # type: ignore[union-attr]
    tree.release(kept)
    tree.release(lease(tree, "abc"))
    again = lease(tree, "abc")
    tree.report_locks()
    assert len(fold.of(LocksChanged)) == 1
    assert again.is_open


def test_the_audit_finds_a_lost_page_a_wrong_count_and_a_page_in_two_places() -> None:
    tree, _ = filled(1, "abc")
    out = lease(tree, "abc")
    audit(tree, [out], {})
    with pytest.raises(InvariantBroken, match="leases"):
        audit(tree, [], {})
    page = tree.pool.free.pop()
    with pytest.raises(InvariantBroken, match="in none"):
        audit(tree, [out], {})
    tree.pool.free += [page, page]
    with pytest.raises(InvariantBroken, match="in two places"):
        audit(tree, [out], {})
    tree.pool.free.pop()
    audit(tree, [out], {})
    out.node.hits += 1
    with pytest.raises(InvariantBroken, match="used 2 times"):
        audit(tree, [out], {})


def test_taking_more_pages_than_there_are_is_a_bug() -> None:
    with pytest.raises(InvariantBroken, match="65 pages"):
        PagePool(64, 1).take(65, ME)


def test_common_length_equals_a_plain_loop() -> None:
    draw = random.Random(0)
    for _ in range(500):
        a, b = ([draw.choice((0, 0, 0, 1)) for _ in range(draw.randrange(12))] for _ in range(2))
        plain = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
        assert common_length(tuple(a), tuple(b)) == plain


# ---------------------------------------------------------------- against a brute-force model

Key = tuple[tuple[str, ...], tuple[int, ...]]


@dataclass
class Run:
    """A node of the model: the tokens from `start` to `end`, which is the length of its key."""

    start: int
    end: int
    last_used: int
    age: int
    born: int
    hits: int = 0
    place: tuple[int, int] = (0, 0)
    """of S3-FIFO: queue (0 small, 1 main) and number there"""
    credit: int = 0
    """of S3-FIFO: uses that count, less the hits of that time"""


N_PAGES = 48
WORTH: dict[str, Callable[[Run], object]] = {
    "lru": lambda run: run.last_used,
    "lfu": lambda run: (run.hits, run.last_used),
    "fifo": lambda run: run.born,
    "s3-fifo": lambda run: run.place,
    "program": lambda run: run.last_used,  # of all that is here nothing is known
}


class Model:
    """Every stored prefix by itself: the page of its end, and the ends of nodes among them."""

    def __init__(self, page_size: int, evict: str = "lru") -> None:
        self.size = page_size
        self.worth = WORTH[evict]
        self.trims = POLICIES[evict].trims
        self.pages: dict[Key, int] = {}
        self.runs: dict[Key, Run] = {}
        self.leases: list[Key] = []
        self.clock = 0
        self.n_made = 0
        self.n_placed = 0
        self.ghosts: list[tuple[Key, int]] = []
        self.is_s3 = evict == "s3-fifo"

    def run(self, start: int, end: int, last_used: int, born: int, hits: int = 0) -> Run:
        self.n_made += 1
        return Run(start, end, last_used, self.n_made, born, hits)

    def match(self, space: tuple[str, ...], tokens: tuple[int, ...]) -> list[int]:
        found: list[int] = []
        while (key := (space, tokens[: (len(found) + 1) * self.size])) in self.pages and len(key[1]) == (len(found) + 1) * self.size:
            found.append(self.pages[key])
        return found

    def cut(self, space: tuple[str, ...], tokens: tuple[int, ...]) -> None:
        """Make `tokens`, which are stored, end a node."""
        if not tokens or (space, tokens) in self.runs:
            return
        n = len(tokens)
        over = next(run for (s, end), run in self.runs.items() if s == space and end[:n] == tokens and run.start < n < len(end))
        self.runs[space, tokens] = new = self.run(over.start, n, over.last_used, over.born, over.hits)
        new.place, new.credit = over.place, over.credit
        over.start = n

    def path(self, key: Key) -> list[Run]:
        space, tokens = key
        return [self.runs[space, tokens[:n]] for n in range(len(tokens) + 1) if (space, tokens[:n]) in self.runs]

    def acquire(self, space: tuple[str, ...], tokens: tuple[int, ...]) -> Key:
        n = len(self.match(space, tokens)) * self.size
        key = (space, tokens[:n])
        self.cut(*key)
        self.clock += 1
        for run in self.path(key):
            run.last_used = self.clock
            run.hits += 1
        self.leases.append(key)
        return key

    def insert(self, space: tuple[str, ...], tokens: tuple[int, ...], pages: array[int]) -> None:
        tokens = tokens[: len(tokens) // self.size * self.size]
        n = len(self.match(space, tokens)) * self.size
        if n == len(tokens):
            return
        self.cut(space, tokens[:n])
        self.runs[space, tokens] = new = self.run(n, len(tokens), self.clock, self.clock)
        self.n_placed += 1
        ghost = next((each for each in self.ghosts if each[0] == (space, tokens[: n + self.size])), None)
        new.place = (ghost is not None, self.n_placed)
        if ghost is not None:
            self.ghosts.remove(ghost)
        for i in range(n // self.size, len(tokens) // self.size):
            self.pages[space, tokens[: (i + 1) * self.size]] = pages[i]

    def s3(self, idle: list[Key]) -> Key:
        """Which of them goes first by the rules of S3-FIFO."""
        n_small = sum(len(end) - run.start for (_, end), run in self.runs.items() if run.place[0] == 0 and end)
        small, main = ([key for key in idle if self.runs[key].place[0] == queue] for queue in (0, 1))
        for key in small if 10 * n_small >= N_PAGES * self.size else ():
            run = self.runs[key]
            if (n_used := min(3, run.hits + run.credit)) <= 1:
                return self.remembered(key)
            self.n_placed += 1
            run.place, run.credit = (1, self.n_placed), -run.hits
            return self.s3(self.by_place(idle))
        for key in main:
            run = self.runs[key]
            if not (n_used := min(3, run.hits + run.credit)):
                return key
            self.n_placed += 1
            run.place, run.credit = (1, self.n_placed), n_used - 1 - run.hits
            return self.s3(self.by_place(idle))
        return self.remembered(small[0])

    def remembered(self, key: Key) -> Key:
        (space, end), start = key, self.runs[key].start
        ghost = (space, end[: start + self.size])
        self.ghosts = [*(each for each in self.ghosts if each[0] != ghost), (ghost, len(end) - start)]
        while sum(n for _, n in self.ghosts) > 0.9 * N_PAGES * self.size:
            self.ghosts.pop(0)
        return key

    def by_place(self, keys: list[Key]) -> list[Key]:
        return sorted(keys, key=lambda key: (self.runs[key].place, self.runs[key].age))

    def refs(self, key: Key) -> int:
        space, tokens = key
        return sum(s == space and end[: len(tokens)] == tokens for s, end in self.leases)

    def evict(self, n_pages: int) -> int:
        freed = 0
        while freed < n_pages:
            parents = {(space, end[: run.start]) for (space, end), run in self.runs.items()}
            idle = [(self.worth(run), run.age, key) for key, run in self.runs.items() if key not in parents and not self.refs(key)]
            if not idle:
                break
            space, tokens = self.s3([key for *_, key in sorted(idle)]) if self.is_s3 else min(idle)[2]
            most = max(n_pages - freed, TRIM // self.size, 1) * self.size
            if self.trims and len(tokens) - self.runs[space, tokens].start > most:
                self.cut(space, tokens[:-most])
            run = self.runs.pop((space, tokens))
            for n in range(run.start + self.size, len(tokens) + 1, self.size):
                del self.pages[space, tokens[:n]]
                freed += 1
        return freed


def test_a_key_may_read_how_long_a_node_is_although_a_split_changes_it() -> None:
    class Longest(Plain):
        def key(self, node: Used) -> tuple[int, ...]:
            return (-node.n_tokens,)

    fold = Fold()
    tree = RadixTree(PagePool(64, 1), Longest(), fold)
    for text in ("a" * 9, "abbbb", "aaac"):
        put(tree, text)
        audit(tree, [], {})
    assert shape(tree) == {"|": 0, "||a": 0, "||a|aa": 0, "||a|aa|aaaaaa": 0, "||a|aa|c": 0, "||a|bbbb": 0}
    assert tree.flush() == 14
    assert [event.n_tokens for event in fold.of(NodeEvicted)] == [6, 4, 1, 2, 1]


@pytest.mark.parametrize(("page_size", "evict"), [(1, "lru"), (16, "lru"), *((4, name) for name in POLICIES)])
def test_random_operations_agree_with_the_model(page_size: int, evict: str, record_table: Callable[..., None]) -> None:
    draw = random.Random(page_size)
    n_pages = N_PAGES
    fold = Fold()
    pool = PagePool(n_pages, page_size)
    tree, model = RadixTree(pool, POLICIES[evict](), fold), Model(page_size, evict)
    leases: list[Lease] = []
    done: dict[str, int] = {}
    n_freed = 0

    def some_tokens() -> tuple[int, ...]:
        pages = [draw.choice(((0,) * page_size, (1,) * page_size, (0,) * (page_size - 1) + (2,))) for _ in range(draw.randrange(9))]
        return tuple(token for page in pages for token in page) + (1,) * draw.randrange(page_size)

    n_operations = 20_000 * SOAK
    for operation in range(n_operations):
        space = draw.choice((("a",), ("b",)))
        tokens = some_tokens()
        kind = draw.choices(("acquire", "insert", "release", "evict", "peek", "report", "reset"), (30, 30, 30, 4, 10, 6, 0.02))[0]
        done[kind] = done.get(kind, 0) + 1
        if kind == "acquire" and len(leases) < 12:
            expected = model.match(space, tokens)
            leases.append(tree.acquire(space, tokens))
            model.acquire(space, tokens)
            assert list(leases[-1].pages) == expected
            assert leases[-1].n_tokens == len(expected) * page_size
        elif kind == "insert":
            need = len(tokens) // page_size
            missing = max(0, need - pool.n_free)
            assert tree.evict(missing) == model.evict(missing)
            if pool.n_free < need:
                continue
            pages = pool.take(need, ME)
            tree.insert(space, tokens, pages, ME)
            model.insert(space, tokens, pages)
        elif kind == "release" and leases:
            i = draw.randrange(len(leases))
            lease = leases.pop(i)
            model.leases.pop(i)
            tree.release(lease)
            if draw.random() < 0.1:
                tree.release(lease)
        elif kind == "evict":
            n = draw.randrange(1, 12)
            freed = tree.evict(n)
            assert freed == model.evict(n)
            n_freed += freed
        elif kind == "peek":
            assert tree.peek(space, tokens).n_tokens == len(model.match(space, tokens)) * page_size
        elif kind == "reset":
            tree.reset()
            leases.clear()
            model.leases.clear()
            model.pages.clear()
            model.runs.clear()
            model.ghosts.clear()
        if operation % 7 == 0:
            tree.report_locks()
            compare(tree, model)
            fold.expect(tree.snapshot(0))
            del fold.events[:-10_000]
            audit(tree, leases, {})
    record_table("R1", page_size=page_size, evict=evict, operations=n_operations, pages_freed=n_freed)
    assert n_freed > 0
    assert min(done.values()) > 0
    assert fold.of(NodeSplit)
    assert fold.of(Touched)


def compare(tree: RadixTree, model: Model) -> None:
    real = {}
    for node in tree.nodes():
        end, above = node.tokens, node.parent
        while above is not None:
            end, above = above.tokens + end, above.parent
        if end:
            real[node.namespace, end] = (len(end) - len(node.tokens), node.last_used, node.hits, node.refs, list(node.pages))
    expected = {
        (space, end): (
            run.start,
            run.last_used,
            run.hits,
            model.refs((space, end)),
            [model.pages[space, end[:n]] for n in range(run.start + model.size, len(end) + 1, model.size)],
        )
        for (space, end), run in model.runs.items()
    }
    assert real == expected


# ---------------------------------------------------------------- a lease that grows


@pytest.mark.parametrize("page_size", [1, 3])
def test_what_a_lease_has_is_not_looked_at_again_and_all_is_as_if_it_were(page_size: int) -> None:
    """Chats that grow and share beginnings, in one tree by their leases, in the other from its root."""
    trees = [RadixTree(PagePool(400, page_size)) for _ in range(2)]
    held: list[tuple[list[int], list[Lease]]] = []
    walked, rng = Counter[int](), random.Random(1)
    for at, tree in enumerate(trees):
        tree._walk = partial(counted_walk, tree._walk, walked, at)  # type: ignore[method-assign]
    for _ in range(300):
        if not held or rng.random() < 0.2:
            chat = [0] * rng.randrange(1, 9) if not held or rng.random() < 0.5 else rng.choice(held)[0][:6]
            held.append((chat[:], [tree.acquire(SPACE, tuple(chat)) for tree in trees]))
        chat, leases = rng.choice(held)
        chat += [rng.randrange(2) for _ in range(rng.randrange(7))]
        tokens = tuple(chat)
        for at, tree in enumerate(trees):
            lease = leases[at]
            n_here = len(lease.pages)
            tree.evict(len(tokens) // page_size - n_here - tree.pool.n_free)
            pages = lease.pages + tree.pool.take(len(tokens) // page_size - n_here, ME)
            tree.insert(SPACE, tokens, pages, ME, lease if at else None)
            if at:
                tree.extend(lease, tokens)
            else:
                leases[at] = tree.acquire(SPACE, tokens, is_hit=False)
                tree.release(lease)
        if len(held) > 5:
            for tree, lease in zip(trees, held.pop(rng.randrange(6))[1], strict=True):
                tree.release(lease)
        one, other = ([(node.tokens, node.refs, list(node.pages), node.n_tokens) for node in tree.nodes()] for tree in trees)
        assert one == other
        assert leases[0].pages == leases[1].pages
        assert trees[0].pool.owners == trees[1].pool.owners
        assert trees[0].n_idle_pages == trees[1].n_idle_pages
    assert walked[1] < walked[0] / 2


def counted_walk(walk: Any, walked: Counter[int], at: int, node: Node, tokens: Tokens, n_tokens: int = 0) -> Any:
    found = walk(node, tokens, n_tokens)
    walked[at] += found[2] - n_tokens
    return found


# ---------------------------------------------------------------- what a half-matched node leaves behind


class RefreshingTree(RadixTree):
    """As the original: the part of a split node that the request did not read counts as used now."""

    def _split(self, node: Node, n_upper: int) -> Node:
        upper = super()._split(node, n_upper)
        node.last_used = self.clock + 1
        self._offer(node)
        return upper


def served(tree: RadixTree, prompts: Iterable[Tokens]) -> int:
    """How many tokens were there, of prompts that came one after the other."""
    n_hit = 0
    for prompt in prompts:
        held = tree.acquire(SPACE, prompt)
        n_hit += held.n_tokens
        tree.evict(len(prompt) - tree.pool.n_free)
        tree.insert(SPACE, prompt, tree.pool.take(len(prompt), ME), ME)
        tree.release(held)
    return n_hit


def test_what_a_request_did_not_read_of_a_node_keeps_its_age() -> None:
    tree = RadixTree(PagePool(12, 1))
    served(tree, [(1, 2, 3, 4), (5, 6, 7, 8), (1, 2)])  # the third reads the first half of the first
    served(tree, [(9, 9, 9, 9, 9)])
    assert tree.peek(SPACE, (1, 2, 3, 4)).n_tokens == 2, "3, 4 were used longest ago and went first"
    assert tree.peek(SPACE, (5, 6, 7, 8)).n_tokens == 4


def test_keeping_the_age_of_what_was_not_read_hits_no_less_than_refreshing_it() -> None:
    """Few-shot prompts over a cache that is too small: what refreshing keeps are endings that nothing asks for again."""
    gained = []
    for seed in range(4):
        rng = random.Random(seed)
        leads = [tuple(rng.randrange(9999) for _ in range(60)) for _ in range(8)]
        prompts = [
            leads[min(int(rng.expovariate(0.4)), 7)] + tuple(rng.randrange(9999) for _ in range(rng.randint(3, 20))) for _ in range(200)
        ]
        kept, refreshed = (served(kind(PagePool(300, 1)), prompts) for kind in (RadixTree, RefreshingTree))
        gained.append(kept - refreshed)
    assert min(gained) >= 0
    assert sum(gained) > 0
