"""KV events as SGLang and vLLM publish them, as events of this project's tree: a tree that is *seen*.

Both publish batches `[time, [event, ...], rank]` in msgpack. An event is an array whose first item is
its name: `BlockStored` (hashes, the hash before them, token ids, block size, ...), `BlockRemoved`
(hashes) and `AllBlocksCleared`; vLLM can write it as a map with "type" too. Hashes are numbers or
bytes. A block is a node, or a part of one: the blocks of one event are one run of tokens.

Pure: `listen.py` has the socket.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import NotRequired, TypedDict, cast

from ...contracts.events import Emit
from ...contracts.ids import Namespace
from ...contracts.tree import CacheRules
from .growing import Node, Tokens
from .requests import RemoteTree

Hash = int | bytes | str
_STORED = ("block_hashes", "parent_block_hash", "token_ids", "block_size", "lora_id", "medium", "lora_name", "extra_keys")


class Stored(TypedDict):
    """Fields of `BlockStored`."""

    block_hashes: Sequence[Hash]
    token_ids: Sequence[int]
    parent_block_hash: NotRequired[Hash | None]
    block_size: NotRequired[int | None]


class SeenTree(RemoteTree):
    """The tree of one engine (one rank of it), as its events tell. Requests only find what they hit
    in it.
    """

    def __init__(self, namespace: Namespace, emit: Emit, *, engine: str = "", clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(namespace, CacheRules("seen", engine), emit, clock=clock)
        self._places: dict[Hash, tuple[Node, int]] = {}
        """of each block: the node that its last token is in, and how many tokens of the node its
        end leaves before it"""
        self._of: dict[int, list[Hash]] = {}
        """by node: the blocks that end in it, in order"""
        self.n_events = 0
        self.n_orphans = 0
        """blocks whose predecessor was never reported: they cannot be placed"""

    def stats(self) -> dict[str, int | str]:
        with self._lock:
            return super().stats() | {"blocks": len(self._places), "kv_events": self.n_events, "orphan_blocks": self.n_orphans}

    def sequences(self) -> set[Tokens]:
        """The tokens from the root to each leaf."""
        with self._lock:
            return {
                tuple(token for each in self._tree.path(node) for token in each.tokens)
                for node in self._tree
                if not node.children and node.parent is not None
            }

    def take(self, batch: object) -> None:
        """One batch, as msgpack gives it. ValueError for what is none."""
        if not isinstance(batch, list | tuple) or len(batch) < 2 or not isinstance(batch[1], list | tuple):
            raise ValueError(f"a batch of KV events is [time, events, ...], not {batch!r:.80}")
        with self._lock:
            for event in batch[1]:
                self.n_events += 1
                self._take(event)

    def restart(self) -> None:
        """The engine began again, or too much was missed: what is known of it is void."""
        with self._lock:
            self._forget()

    # ------------------------------------------------------------ events

    def _take(self, event: object) -> None:
        if isinstance(event, Mapping):
            name, fields = event.get("type"), dict(event)
        elif isinstance(event, list | tuple) and event:
            name = event[0]
            fields = dict(zip(_STORED if name == "BlockStored" else ("block_hashes", "medium"), event[1:], strict=False))
        else:
            raise ValueError(f"a KV event is an array or a map, not {event!r:.80}")
        if fields.get("medium") not in (None, "GPU", "gpu"):
            return  # a copy in another memory, which no request reads before it is loaded
        match name:
            case "BlockStored":
                self._store(cast(Stored, fields))
            case "BlockRemoved":
                self._remove(fields["block_hashes"])
            case "AllBlocksCleared":
                self._forget()
            case _:
                pass  # of a later version

    def _store(self, fields: Stored) -> None:
        hashes: list[Hash] = list(fields["block_hashes"])
        tokens = tuple(fields["token_ids"])
        size = int(fields.get("block_size") or 1)
        ends = [min((index + 1) * size, len(tokens)) for index in range(len(hashes))]
        parent = fields.get("parent_block_hash")
        if parent is not None and parent not in self._places:
            self.n_orphans += len(hashes)
            return
        at = self._tree.root if parent is None else self._end_of(parent)
        start = 0
        for hashed, end in zip(hashes, ends, strict=True):
            if hashed in self._places:
                at, start = self._end_of(hashed), end
            else:
                break
        for index, end in enumerate(ends):
            if end > start:
                self._append(at, hashes[index:], tokens[start:], [each - start for each in ends[index:]])
                break

    def _append(self, parent: Node, hashes: Sequence[Hash], tokens: Tokens, ends: Sequence[int]) -> None:
        """A run of blocks below a node that ends where it begins. Another node may begin with the
        same tokens."""
        beside = parent.children.get(tokens[0])
        if beside is not None:
            n = 0
            while n < min(len(tokens), len(beside.tokens)) and tokens[n] == beside.tokens[n]:
                n += 1
            at = beside if n == len(beside.tokens) else self._split(beside, n)
            known = [hashed for hashed, end in zip(hashes, ends, strict=True) if end <= n]
            for hashed, end in zip(known, ends, strict=False):
                self._places[hashed] = (at, end)
                self._of.setdefault(at.id, []).append(hashed)
            if n < len(tokens):
                rest = len(known)
                self._append(at, hashes[rest:], tokens[n:], [end - n for end in ends[rest:]])
            return
        node = self._tree.append(parent, tokens, self._clock())
        self._of[node.id] = list(hashes)
        for hashed, end in zip(hashes, ends, strict=True):
            self._places[hashed] = (node, end)

    def _end_of(self, hashed: Hash) -> Node:
        """The node that ends with this block."""
        node, end = self._places[hashed]
        return node if end == len(node.tokens) else self._split(node, end)

    def _split(self, node: Node, n_upper: int) -> Node:
        upper = self._tree.split(node, n_upper)
        for hashed in self._of.pop(node.id, ()):
            _, end = self._places[hashed]
            place = (upper, end) if end <= n_upper else (node, end - n_upper)
            self._places[hashed] = place
            self._of.setdefault(place[0].id, []).append(hashed)
        return upper

    def _remove(self, hashes: Sequence[Hash]) -> None:
        """Blocks are gone; with a block, everything after it cannot be reached any more."""
        for hashed in hashes:
            if (place := self._places.pop(hashed, None)) is None:
                continue
            node, end = place
            others = self._of[node.id] = [other for other in self._of.get(node.id, ()) if other != hashed]
            ends = [self._places[other][1] for other in others]
            if end in ends:
                continue  # the same tokens in another block, as of another adapter
            self._cut(node, max((each for each in ends if each < end), default=0))

    def _cut(self, node: Node, n_kept: int) -> None:
        """Take everything away after the first `n_kept` tokens of `node`, and before them what is
        no whole block any more."""
        if n_kept == len(node.tokens):
            return
        parent = self._split(node, n_kept) if n_kept else node.parent
        below = [node]
        for each in below:
            below += each.children.values()
            for gone in self._of.pop(each.id, ()):
                self._places.pop(gone, None)
        self._tree.evict(node)
        if parent is not None and parent.parent is not None and not parent.children:
            self._cut(parent, max((self._places[other][1] for other in self._of.get(parent.id, ())), default=0))

    def _forget(self) -> None:
        self._places.clear()
        self._of.clear()
        self._tree.clear()
