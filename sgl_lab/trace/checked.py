"""Validates records read from files: types, order, and the existence of forks and nodes.

A fold of a valid record never meets a sequence of events that engine and language could not have
emitted.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import Any

from ..contracts.events import (
    KINDS,
    Entry,
    ForkOpened,
    GraphNode,
    GraphStarted,
    LocksChanged,
    NodeEvicted,
    NodeInserted,
    NodesEntered,
    NodeSplit,
    PrefixMatched,
    PromptPiece,
    Sample,
    StreamExtended,
    Touched,
)
from ..contracts.ids import ForkId, NodeId
from ..contracts.spans import MAX_POSITIONS, Content, first_id
from ..contracts.tree import CacheRules, TreeNode, TreeSnapshot

LARGEST = 2**63
MAX_SPELLING = 4_096
"""characters of one token"""


@cache
def _hints(kind: type) -> dict[str, object]:
    return typing.get_type_hints(kind)


def fits(value: object, hint: object) -> bool:
    """Whether a JSON value has a field's type. An unknown float is null."""
    return _fitting(hint)(value)


@cache
def _fitting(hint: object) -> Callable[[object], bool]:
    """The check for one type. A type is analysed once and applied to every value."""
    hint = getattr(hint, "__supertype__", hint)
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        one_of = [_fitting(one) for one in typing.get_args(hint)]
        return lambda value: any(fitting(value) for fitting in one_of)
    if hint is int:
        return lambda value: type(value) is int and -LARGEST < value < LARGEST
    if hint is float:
        return lambda value: value is None or type(value) in (int, float)
    if hint in (Sample, PromptPiece, GraphNode):
        fields = [(name, _fitting(one)) for name, one in _hints(hint).items()]
        return lambda value: isinstance(value, hint) and all(fitting(getattr(value, name)) for name, fitting in fields)
    if typing.get_origin(hint) is tuple:
        wanted = typing.get_args(hint)
        if wanted == (int, ...) or (wanted[-1] is Ellipsis and getattr(wanted[0], "__supertype__", None) is int):
            return lambda value: isinstance(value, tuple) and all(type(item) is int and -LARGEST < item < LARGEST for item in value)
        if wanted[-1] is Ellipsis:
            each = _fitting(wanted[0])
            return lambda value: isinstance(value, tuple) and all(map(each, value))
        parts = [_fitting(one) for one in wanted]
        return lambda value: (
            isinstance(value, tuple) and len(value) == len(parts) and all(fitting(item) for fitting, item in zip(parts, value, strict=True))
        )
    assert isinstance(hint, type)
    return lambda value: isinstance(value, hint)


def _expect(ok: bool, what: str) -> None:
    if not ok:
        raise ValueError(what)


def _typed(found: object, kind: type) -> None:
    for name, hint in _hints(kind).items():
        value = getattr(found, name)
        if not fits(value, hint):
            raise ValueError(f"{kind.__name__}.{name} cannot be {value!r:.80}")


class Ids:
    """The ids of a file's blocks in this process, whose numbers may differ. BadArgument for an
    invalid content.
    """

    def __init__(self, blocks: Mapping[str, Iterable[object]]) -> None:
        content: Callable[..., Content] = Content
        self._contents = {int(first): content(*fields) for first, fields in blocks.items()}

    def known(self, data: dict[str, Any]) -> dict[str, Any]:
        """A row or an event of the file. ValueError for a negative id of none of its blocks."""
        for name in _ID_FIELDS:
            tokens = data.get(name)
            if isinstance(tokens, list) and tokens and min(tokens) < 0:
                data[name] = [token if token >= 0 else self._known(token) for token in tokens]
        return data

    def _known(self, token: int) -> int:
        offset = -token % MAX_POSITIONS
        content = self._contents.get(token + offset)
        if content is None or offset >= content.n:
            raise ValueError(f"{token} is the id of no block of this file")
        return first_id(content) - offset


_ID_FIELDS = ("tokens", "prompt", "healed")


def snapshot_from(data: Mapping[str, Any], ids: Ids) -> TreeSnapshot:
    """The tree in a header. ValueError unless parents come first and every node occurs once."""
    nodes: dict[NodeId, TreeNode] = {}
    for row in data["nodes"]:
        row = ids.known(row)
        node = TreeNode(**{**row, "tokens": tuple(row["tokens"]), "namespace": tuple(row["namespace"])})
        _typed(node, TreeNode)
        _expect(node.node not in nodes, f"node {node.node} occurs twice")
        _expect(node.parent is None or node.parent in nodes, f"node {node.node} comes before its parent")
        nodes[node.node] = node
    rules = None if data.get("rules") is None else CacheRules(**data["rules"])
    if rules is not None:
        _typed(rules, CacheRules)
        _expect(rules.step > 0 <= rules.minimum, "the rules of the cache have a step below 1, or a minimum below 0")
    snapshot = TreeSnapshot(tuple(nodes.values()), data["n_pages"], data["free_pages"], data["seq"], rules)
    _typed(snapshot, TreeSnapshot)
    return snapshot


def vocab_from(data: Mapping[str, object]) -> dict[int, str]:
    """The spelling of tokens in a header."""
    vocab: dict[int, str] = {}
    for token, text in data.items():
        if not isinstance(text, str):
            raise ValueError("a spelling is not text")
        _expect(len(text) <= MAX_SPELLING, "a spelling is too long for one token")
        vocab[int(token)] = text
    return vocab


class Checker:
    """Called with each entry in order. ValueError at the first entry that does not fit those before
    it.
    """

    def __init__(self, snapshot: TreeSnapshot) -> None:
        self._seq, self._t_ns = snapshot.seq - 1, -LARGEST
        self._sizes = {node.node: len(node.tokens) for node in snapshot.nodes}
        self._streams: dict[ForkId, int | None] = {}
        """number of tokens of each fork; None if it is unknown, because it or its parent was opened
        before the record began
        """
        self._graphs: dict[int, int] = {}
        """number of nodes of each execution of a graph that began here"""

    def __call__(self, entry: Entry) -> None:
        seq, t_ns, event = entry
        kind = KINDS[type(event).__name__]
        _expect(fits(seq, int) and seq > self._seq, f"event {seq!r} comes after {self._seq}")
        _expect(fits(t_ns, int) and t_ns >= self._t_ns, f"its time {t_ns!r} is before the previous one")
        self._seq, self._t_ns = seq, t_ns
        _typed(event, kind)
        match event:
            case ForkOpened(fork=fork, parent=parent):
                _expect(fork not in self._streams and fork != parent, f"fork {fork} is opened twice")
                self._streams[fork] = self._streams.setdefault(parent, None) if parent is not None else 0
            case StreamExtended(fork=fork, start=start, tokens=tokens):
                end = self._streams.get(fork)
                _expect(start >= 0 and (end is None or start <= end), f"fork {fork} is extended at {start}, beyond its end")
                self._streams[fork] = start + len(tokens) if end is not None else None
            case GraphStarted(execution=execution, graph=graph, nodes=nodes):
                _expect(execution not in self._graphs and (graph == execution or not nodes), f"execution {execution} begins twice")
                earlier = all(0 <= one < number for number, node in enumerate(nodes) for one in (*node.after, *node.reads))
                _expect(earlier, f"a node of execution {execution} does not come after what it reads")
                if graph == execution or graph in self._graphs:
                    self._graphs[execution] = len(nodes) if graph == execution else self._graphs[graph]
            case NodesEntered(execution=execution, nodes=entered):
                n_nodes = self._graphs.get(execution)
                _expect(n_nodes is None or all(0 <= one < n_nodes for one in entered), f"execution {execution} has no such node")
            case NodeInserted(node=node, parent=parent, tokens=tokens):
                is_below = parent is None or parent in self._sizes
                _expect(node not in self._sizes and is_below, f"node {node} occurs twice, or is inserted below a missing node")
                self._sizes[node] = len(tokens)
            case NodeSplit(node=node, upper=upper, n_upper=n_upper):
                _expect(upper not in self._sizes and 0 < n_upper < self._sizes.get(node, 0), f"node {node} cannot be split at {n_upper}")
                self._sizes[node], self._sizes[upper] = self._sizes[node] - n_upper, n_upper
            case NodeEvicted(node=node, n_tokens=n_tokens):
                _expect(self._sizes.pop(node, None) == n_tokens, f"node {node} with {n_tokens} tokens is evicted but not in the tree")
            case PrefixMatched(node=node, n_hit=n_hit, n_prompt=n_prompt):
                _expect(node in self._sizes, f"a prefix is found at node {node}, which is not in the tree")
                _expect(0 <= n_hit <= n_prompt, f"{n_hit} of {n_prompt} tokens is not a valid prefix")
            case Touched(nodes=nodes):
                if not self._sizes.keys() >= set(nodes):
                    raise ValueError(f"nodes {nodes!r:.80} are touched but not all in the tree")
            case LocksChanged(refs=refs):
                _expect(self._sizes.keys() >= {node for node, _ in refs}, "a locked node is not in the tree")
            case _:
                pass
