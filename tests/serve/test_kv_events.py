"""The tree that KV events tell is the engine's tree."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest
import zmq

from sgl_lab.contracts.tree import TreeSnapshot
from sgl_lab.serve import serve
from sgl_lab.serve.kv_events import Blocks
from sgl_lab.session import Lab

from .calls import call, until

Path = tuple[int, ...]


def paths_of(snapshot: TreeSnapshot, size: int) -> set[Path]:
    """Every block of the tree, as all tokens up to its end."""
    ends: dict[int, Path] = {}
    found = set()
    for node in snapshot.nodes:
        before = ends.get(node.parent, ()) if node.parent is not None else ()
        ends[node.node] = before + node.tokens
        found |= {(before + node.tokens)[:end] for end in range(len(before) + size, len(before) + len(node.tokens) + 1, size)}
    return found


class Drawn:
    """A viewer: blocks by hash, each with the one before it."""

    def __init__(self) -> None:
        self.blocks: dict[int, tuple[int | None, Path]] = {}

    def apply(self, event: dict[str, Any]) -> None:
        match event["type"]:
            case "AllBlocksCleared":
                self.blocks.clear()
            case "BlockRemoved":
                for block in event["block_hashes"]:
                    del self.blocks[block]
            case "BlockStored":
                above, size = event["parent_block_hash"], event["block_size"]
                for i, block in enumerate(event["block_hashes"]):
                    self.blocks[block] = above, tuple(event["token_ids"][i * size : (i + 1) * size])
                    above = block

    def paths(self) -> set[Path]:
        def path(block: int | None) -> Path:
            return () if block is None else path(self.blocks[block][0]) + self.blocks[block][1]

        return {path(block) for block in self.blocks}


@pytest.mark.parametrize("page_size", [1, 4])
def test_folded_events_are_the_tree(folder: Any, page_size: int) -> None:
    with Lab(folder, cache_tokens=200, page_size=page_size) as lab, serve(lab) as door:
        drawn, blocks, cursor = Drawn(), Blocks(page_size), lab.snapshot().seq
        texts = ["abcdefgh", "abcdxyz", "abcdefgh and so on", "ab", "something long " * 7, "other words are " * 7, "abcdefgh a", "abc"]
        for text in texts:
            assert call(door, "/generate", {"text": text, "sampling_params": {"max_new_tokens": 3}})[0] == 200
            assert until(lambda: not lab.is_busy)
            batch = lab.ring.read(cursor)
            cursor = batch.cursor
            for entry in batch.entries:
                for event in blocks.fold(entry.event):
                    drawn.apply(event)
            assert drawn.paths() == paths_of(lab.snapshot(), page_size)
        assert lab.stats()["evictions"] > 0
        late = Drawn()
        for event in Blocks(page_size).begin(lab.snapshot()):
            late.apply(event)
        assert late.paths() == drawn.paths()


def test_a_viewer_that_connects_late_draws_the_whole_tree(lab: Lab) -> None:
    with serve(lab, kv_events=True) as door, zmq.Context() as context, context.socket(zmq.SUB) as viewer:
        viewer.setsockopt(zmq.LINGER, 0)
        quick: Any = {"text": "before the viewer came", "sampling_params": {"max_new_tokens": 2}}
        call(door, "/generate", quick)
        about = call(door, "/server_info")[1]["kv_events"]
        viewer.setsockopt(zmq.SUBSCRIBE, b"")
        viewer.connect(f"tcp://127.0.0.1:{about['endpoint_port_base']}")
        drawn, numbers = Drawn(), []

        def agrees() -> bool:
            while viewer.poll(50):
                topic, number, payload = viewer.recv_multipart()
                _, events, rank = msgpack.unpackb(payload)
                assert (topic, rank) == (b"", 0)
                numbers.append(int.from_bytes(number, "big"))
                for event in events:
                    drawn.apply(event)
            return bool(drawn.blocks) and drawn.paths() == paths_of(lab.snapshot(), 1)

        assert until(agrees)
        call(door, "/generate", quick | {"text": "before the end"})
        assert until(agrees)
        lab.flush()
        assert until(lambda: agrees() or not drawn.blocks)
        assert not drawn.blocks
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
