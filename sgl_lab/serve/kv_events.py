"""The radix tree as KV-cache events over ZMQ, as SGLang and vLLM publish theirs, so that their
viewers draw it.

A message is a topic, a number and msgpack: `[time, [event, ...], rank]`, an event being a map with its
`type`: BlockStored, BlockRemoved or AllBlocksCleared. A block is a page of the cache; its hash is made
of its tokens and of the block before it. A viewer that connects late gets the tree with the next
message: nothing is sent while no viewer listens.
"""

from __future__ import annotations

import hashlib
import threading
import time
from array import array
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from ..contracts.errors import BackendUnsupported, SglError
from ..contracts.events import Event, NodeEvicted, NodeInserted, NodeSplit
from ..contracts.ids import Namespace, NodeId
from ..contracts.tree import TreeSnapshot

if TYPE_CHECKING:
    from ..session import Lab

LOOK_S = 0.05
"""seconds between two looks at the ring"""
Hash = int
Wire = dict[str, object]


class Blocks:
    """Folds events of the tree into those of blocks. Pure."""

    def __init__(self, page_size: int) -> None:
        self._size = page_size
        self._of: dict[NodeId, list[Hash]] = {}
        """the blocks of each node"""
        self._last: dict[NodeId, Hash | None] = {}
        """the last block on the way down to and in each node"""
        self._parent: dict[NodeId, NodeId | None] = {}
        self._seeds: dict[NodeId, Namespace] = {}

    def begin(self, snapshot: TreeSnapshot) -> Iterator[Wire]:
        """The whole tree."""
        for table in (self._of, self._last, self._parent, self._seeds):
            table.clear()
        yield {"type": "AllBlocksCleared"}
        for node in snapshot.nodes:
            yield from self._stored(node.node, node.parent, node.tokens, node.namespace)

    def fold(self, event: Event) -> Iterator[Wire]:
        match event:
            case NodeInserted(node=node, parent=parent, tokens=tokens, namespace=namespace):
                yield from self._stored(node, parent, tokens, namespace)
            case NodeSplit(node=node, upper=upper, n_upper=n_upper) if node in self._of:
                blocks, n = self._of[node], n_upper // self._size
                self._of[upper], self._of[node] = blocks[:n], blocks[n:]
                self._parent[upper], self._parent[node] = self._parent[node], upper
                self._seeds[upper] = self._seeds[node]
                self._last[upper] = blocks[n - 1] if n else self._above(upper)
            case NodeEvicted(node=node) if node in self._of:
                blocks = self._of.pop(node)
                for table in (self._last, self._parent, self._seeds):
                    table.pop(node, None)
                if blocks:
                    yield {"type": "BlockRemoved", "block_hashes": blocks[::-1], "medium": "GPU"}
            case _:
                pass

    def _above(self, node: NodeId) -> Hash | None:
        parent = self._parent[node]
        return None if parent is None else self._last.get(parent)

    def _stored(self, node: NodeId, parent: NodeId | None, tokens: Sequence[int], namespace: Namespace) -> Iterator[Wire]:
        self._parent[node], self._seeds[node] = parent, namespace
        above = last = self._above(node)
        blocks = self._of[node] = []
        n = len(tokens) // self._size * self._size
        for start in range(0, n, self._size):
            last = _hash(last, tokens[start : start + self._size], namespace)
            blocks.append(last)
        self._last[node] = last
        if blocks:
            yield {
                "type": "BlockStored",
                "block_hashes": list(blocks),
                "parent_block_hash": above,
                "token_ids": list(tokens[:n]),
                "block_size": self._size,
                "lora_id": None,
                "medium": "GPU",
            }


def _hash(before: Hash | None, tokens: Sequence[int], namespace: Namespace) -> Hash:
    seed = repr((before, namespace)).encode()
    return int.from_bytes(hashlib.blake2b(seed + array("q", tokens).tobytes(), digest_size=8).digest(), "big", signed=True)


class Publisher:
    """Publishes on loopback, from a thread of its own."""

    def __init__(self, lab: Lab) -> None:
        try:
            import msgpack
            import zmq
        except ImportError:
            raise BackendUnsupported("KV events need pyzmq and msgpack", hint='pip install "sgl_lab[serve]"') from None
        self._lab = lab
        self._pack = msgpack.packb
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.XPUB)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.SNDHWM, 10_000)
        self._socket.setsockopt(zmq.XPUB_VERBOSE, 1)
        self.port: int = self._socket.bind_to_random_port("tcp://127.0.0.1")
        self._is_closed = threading.Event()
        self._n = 0
        self._thread = threading.Thread(target=self._run, name="sgl_lab kv events", daemon=True)
        self._thread.start()

    @property
    def info(self) -> dict[str, object]:
        """What /server_info says of it. Viewers dial the host of the server and this port; they
        insist on the wildcard."""
        about = {"publisher": "zmq", "endpoint_host": "*", "endpoint_port_base": self.port, "topic": "", "dp_size": 1}
        return {"kv_events": about | {"block_size": self._lab.page_size}}

    def close(self) -> None:
        self._is_closed.set()
        self._thread.join(2)

    def _run(self) -> None:
        try:
            self._publish()
        except SglError:
            pass  # the lab is closed
        finally:
            self._socket.close()
            self._context.term()

    def _publish(self) -> None:
        blocks, cursor = Blocks(self._lab.page_size), 0
        n_listening, is_new = 0, False
        while not self._is_closed.is_set():
            if self._socket.poll(int(LOOK_S * 1000)):
                joined = self._socket.recv()[:1] == b"\x01"
                n_listening += 1 if joined else -1
                is_new |= joined
                continue
            if n_listening <= 0:
                continue
            batch = self._lab.ring.read(cursor, 5000)
            if is_new or batch.n_missed:
                snapshot = self._lab.snapshot()
                cursor, is_new = snapshot.seq, False
                self._send(list(blocks.begin(snapshot)))
                continue
            cursor = batch.cursor
            events = [wire for entry in batch.entries for wire in blocks.fold(entry.event)]
            if events:
                self._send(events)

    def _send(self, events: list[Wire]) -> None:
        payload = self._pack([time.time(), events, 0])
        self._socket.send_multipart([b"", self._n.to_bytes(8, "big"), payload])
        self._n += 1
