"""Trees of engines that are elsewhere: inferred from counts, or seen through KV events. Their events fold to themselves."""

from __future__ import annotations

import random
from typing import Any

import pytest

from sgl_lab.backends.trees.blocks import SeenTree
from sgl_lab.backends.trees.inferred import InferredTree
from sgl_lab.backends.trees.listen import address_of
from sgl_lab.contracts.events import Entry, Event, NodeEvicted, PrefixMatched, RequestQueued
from sgl_lab.contracts.ids import NodeId, RequestId
from sgl_lab.contracts.port import Usage
from sgl_lab.contracts.tree import CacheRules, TreeNode, TreeSnapshot
from sgl_lab.trace.checked import Checker, Ids, snapshot_from
from sgl_lab.viz.views.tree import TreeView

TOKENS = CacheRules("inferred", "a server")


class Emitted:
    """Its events, numbered as a ring numbers them, folded by the tree's view and checked as a file's are."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.view = TreeView(lambda token: f"<{token}>")
        self.check = Checker(TreeSnapshot((), 0, 0, 0))

    def __call__(self, event: Event) -> None:
        entry = Entry(len(self.events), len(self.events), event)
        self.check(entry)
        self.view.fold(entry)
        self.events.append(event)

    def of(self, kind: type[Any]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]


class Remote:
    """A server with a cache of prefixes, and the tree that is inferred from what it counts."""

    def __init__(self, rules: CacheRules = TOKENS) -> None:
        self.emitted, self.now, self.n = Emitted(), 0.0, 0
        self.tree = InferredTree(("m", rules.origin), rules, self.emitted, clock=lambda: self.now)

    def send(self, prompt: tuple[int, ...], n_cacheable: int | None = None) -> RequestId:
        self.n += 1
        request = RequestId(self.n)
        self.emitted(RequestQueued(request, None, None, "gen", prompt, 8, request))
        self.tree.queued(request, prompt, n_cacheable=n_cacheable)
        self.now += 1
        return request

    def answer(self, request: RequestId, n_cached: int, n_prompt: int, answer: tuple[int, ...] = ()) -> None:
        self.tree.admitted(request, n_cached, n_prompt)
        if answer:
            self.tree.begun(request)
        self.tree.finished(request, answer, "stop", Usage(prompt_tokens=n_prompt, completion_tokens=len(answer), cached_tokens=n_cached))
        self.now += 1

    def ask(self, prompt: tuple[int, ...], n_cached: int, answer: tuple[int, ...] = ()) -> None:
        self.answer(self.send(prompt), n_cached, len(prompt), answer)

    def sequences(self) -> set[tuple[int, ...]]:
        return sequences(self.tree.snapshot())


def sequences(snapshot: TreeSnapshot) -> set[tuple[int, ...]]:
    whole: dict[NodeId | None, tuple[int, ...]] = {None: ()}
    for node in snapshot.nodes:
        whole[node.node] = whole[node.parent] + node.tokens
    inner = {node.parent for node in snapshot.nodes}
    return {whole[node.node] for node in snapshot.nodes if node.node not in inner}


def as_dict(nodes: Any) -> dict[NodeId, TreeNode]:
    return {node.node: node for node in nodes}


def test_a_tree_is_inferred_from_prompts_answers_and_counts() -> None:
    remote = Remote()
    remote.ask((1, 2, 3, 4), 0, (5, 6))
    assert remote.sequences() == {(1, 2, 3, 4, 5)}, "the last token of an answer was drawn and not computed"
    remote.ask((1, 2, 3, 9), 3)
    assert remote.sequences() == {(1, 2, 3, 4, 5), (1, 2, 3, 9)}
    matches = remote.emitted.of(PrefixMatched)
    assert [(match.n_hit, match.n_prompt) for match in matches] == [(0, 4), (3, 4)]
    assert remote.tree.snapshot().rules == TOKENS
    assert as_dict(remote.tree.snapshot().nodes) == dict(remote.emitted.view.nodes)


def test_fewer_cached_tokens_than_known_mean_an_eviction_and_more_mean_another_client() -> None:
    remote = Remote()
    remote.ask(tuple(range(10)), 0)
    remote.ask(tuple(range(10)), 4)
    gone = remote.emitted.of(NodeEvicted)
    assert sum(event.n_tokens for event in gone) == 6
    assert remote.sequences() == {tuple(range(10))}, "and now it was computed again"
    remote.ask((50, 51, 52, 53), 3)
    assert (50, 51, 52, 53) in remote.sequences()
    assert remote.emitted.of(PrefixMatched)[-1].n_hit == 3
    assert as_dict(remote.tree.snapshot().nodes) == dict(remote.emitted.view.nodes)


def test_the_last_token_of_a_repeat_is_computed_and_nothing_was_evicted() -> None:
    remote = Remote()
    remote.ask((1, 2, 3), 0)
    remote.ask((1, 2, 3), 2)
    assert not remote.emitted.of(NodeEvicted)


def test_forks_that_ran_together_do_not_evict_each_other() -> None:
    remote = Remote()
    both = [remote.send((1, 2, 3, 7)), remote.send((1, 2, 3, 8))]
    remote.answer(both[0], 0, 4)
    remote.answer(both[1], 0, 4)
    assert not remote.emitted.of(NodeEvicted), "the second was sent before the first had computed anything"
    assert remote.sequences() == {(1, 2, 3, 7), (1, 2, 3, 8)}


def test_a_cache_of_steps_with_a_minimum_holds_whole_steps() -> None:
    remote = Remote(CacheRules("inferred", "OpenAI", minimum=8, step=4, keeps_answers=False))
    remote.ask(tuple(range(7)), 0)
    assert remote.sequences() == {()}, "too short to be cached"
    remote.ask(tuple(range(11)), 0, (99,))
    assert remote.sequences() == {tuple(range(8))}
    remote.ask(tuple(range(11)), 8)
    assert not remote.emitted.of(NodeEvicted)


def test_only_what_a_mark_covers_is_cached_where_a_cache_wants_marks() -> None:
    remote = Remote(CacheRules("inferred", "Anthropic", marked=True, keeps_answers=False))
    remote.ask((1, 2, 3), 0)
    assert remote.sequences() == {()}
    remote.answer(remote.send((1, 2, 3, 4), n_cacheable=2), 0, 4)
    assert remote.sequences() == {(1, 2)}


def test_counts_in_tokens_move_a_tree_of_words() -> None:
    remote = Remote(CacheRules("inferred", "OpenAI", minimum=100, step=32, keeps_answers=False, unit="words"))
    prompt = tuple(range(60))
    remote.answer(remote.send(prompt), 0, 130)
    assert remote.sequences() == {prompt}
    remote.answer(remote.send((*prompt, 98, 99)), 128, 134)
    assert remote.emitted.of(PrefixMatched)[-1].n_hit == len(prompt), "128 of 134 tokens are what was known of it"
    remote.answer(remote.send(prompt), 0, 130)
    assert remote.emitted.of(NodeEvicted), "and none of 130 means that it is gone"


def test_a_flush_empties_it() -> None:
    remote = Remote()
    remote.ask((1, 2, 3), 0)
    remote.tree.flushed()
    assert remote.sequences() == {()}
    assert remote.tree.stats()["tree_tokens"] == 0


def test_rules_survive_a_file_and_bad_ones_are_refused() -> None:
    from dataclasses import asdict

    remote = Remote()
    remote.ask((1, 2, 3), 0)
    snapshot = remote.tree.snapshot()
    data = asdict(snapshot)
    assert snapshot_from(data, Ids({})) == snapshot
    with pytest.raises(ValueError, match="rules"):
        snapshot_from(data | {"rules": data["rules"] | {"step": 0}}, Ids({}))


# ---------------------------------------------------------------- seen


def stored(hashes: list[int], parent: int | None, tokens: list[int], size: int = 1) -> list[Any]:
    return ["BlockStored", hashes, parent, tokens, size, None]


def seen() -> tuple[SeenTree, Emitted]:
    emitted = Emitted()
    return SeenTree(("m", "seen"), emitted), emitted


def test_blocks_become_nodes_and_branches_split_them() -> None:
    tree, emitted = seen()
    tree.take([0.0, [stored([11, 12, 13], None, [1, 2, 3]), stored([24], 12, [4])]])
    assert tree.sequences() == {(1, 2, 3), (1, 2, 4)}
    tree.take([1.0, [["BlockRemoved", [13]]], 0])
    assert tree.sequences() == {(1, 2, 4)}
    tree.take([2.0, [["AllBlocksCleared"]]])
    assert tree.sequences() == set()
    assert as_dict(tree.snapshot().nodes) == dict(emitted.view.nodes)
    assert tree.snapshot().rules == CacheRules("seen")


def test_blocks_of_several_tokens_may_begin_alike() -> None:
    tree, emitted = seen()
    tree.take([0.0, [stored([1, 2], None, [1, 2, 3, 4, 5, 6, 7, 8], 4), stored([3], 1, [5, 6, 9, 9], 4)]])
    assert tree.sequences() == {(1, 2, 3, 4, 5, 6, 7, 8), (1, 2, 3, 4, 5, 6, 9, 9)}
    tree.take([0.0, [["BlockRemoved", [2]]]])
    assert tree.sequences() == {(1, 2, 3, 4, 5, 6, 9, 9)}
    tree.take([0.0, [["BlockRemoved", [3]]]])
    assert tree.sequences() == {(1, 2, 3, 4)}, "no part of a block is left behind"
    assert as_dict(tree.snapshot().nodes) == dict(emitted.view.nodes)


def test_events_as_maps_bytes_as_hashes_and_other_memories() -> None:
    tree, _ = seen()
    event = {
        "type": "BlockStored",
        "block_hashes": [b"a"],
        "parent_block_hash": None,
        "token_ids": [7, 8],
        "block_size": 2,
        "medium": "GPU",
    }
    tree.take([0.0, [event, event | {"block_hashes": [b"z"], "token_ids": [9, 9], "medium": "CPU_PINNED"}, {"type": "OfLater"}]])
    assert tree.sequences() == {(7, 8)}
    tree.take([0.0, [stored([5], 77, [1])]])
    assert tree.n_orphans == 1
    with pytest.raises(ValueError, match="batch of KV events"):
        tree.take("nothing")


@pytest.mark.parametrize("size", [1, 3])
def test_any_order_of_blocks_gives_the_tree_of_what_is_stored(size: int) -> None:
    """Against a dict of whole prefixes, as a block manager keeps them."""
    draw = random.Random(size)
    tree, emitted = seen()
    held: dict[int, tuple[int, ...]] = {}
    for _ in range(400):
        if held and draw.random() < 0.3:
            leaves = [
                hashed
                for hashed, prefix in held.items()
                if not any(len(other) > len(prefix) and other[: len(prefix)] == prefix for other in held.values())
            ]
            gone = draw.choice(leaves)
            del held[gone]
            tree.take([0.0, [["BlockRemoved", [gone]]]])
        else:
            parent = draw.choice([None, *held])
            before = held[parent] if parent is not None else ()
            run, hashes, tokens = before, [], []
            for _ in range(draw.randint(1, 3)):
                block = tuple(draw.randint(1, 2) for _ in range(size))
                run += block
                tokens += block
                hashes.append(hash(run))
                held[hash(run)] = run
            tree.take([0.0, [stored(hashes, parent, tokens, size)]])
        leaves_now = {p for p in held.values() if not any(len(o) > len(p) and o[: len(p)] == p for o in held.values())}
        assert tree.sequences() == leaves_now
    assert as_dict(tree.snapshot().nodes) == dict(emitted.view.nodes)


def test_where_a_server_publishes() -> None:
    config = '{"publisher": "zmq", "endpoint": "tcp://*:5557", "replay_endpoint": "tcp://0.0.0.0:5558", "topic": "kv"}'
    assert address_of({"kv_events_config": config}, "http://10.1.2.3:30000") == ("tcp://10.1.2.3:5557", "tcp://10.1.2.3:5558", "kv")
    assert address_of({"kv_events": {"endpoint": "tcp://127.0.0.1:7"}}, "http://localhost:1") == ("tcp://127.0.0.1:7", "", "")
    assert address_of({"kv_events_config": None}, "http://x") is None
    assert address_of({"kv_events_config": '{"publisher": "null"}'}, "http://x") is None
