"""A complete record of one run, and its form on disk.

A record may not lose: it holds the tree as it was when the run began and every event until it
ended. JSON Lines: first a header with the snapshot, then one event a line.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..contracts.errors import ModelDamaged, SglError
from ..contracts.events import (
    CellStarted,
    Entry,
    NodeInserted,
    NodeSplit,
    PrefixMatched,
    RequestQueued,
    StreamExtended,
    TokensSampled,
    from_dict,
    to_dict,
)
from ..contracts.ids import Namespace, RunId
from ..contracts.tree import TreeNode, TreeSnapshot

FORMAT = "sgl_lab.record/1"


EMPTY = TreeSnapshot((), 0, 0, 0)


@dataclass
class Record:
    """One run. `entries` grows while the run lasts."""

    run: RunId
    snapshot: TreeSnapshot = EMPTY
    vocab: dict[int, str] = field(default_factory=dict)
    """spelling of the tokens that occur, filled when the run ends"""
    entries: list[Entry] = field(default_factory=list)
    _entry_bytes: int = field(default=0, repr=False, compare=False)

    @property
    def n_bytes(self) -> int:
        """An estimate of its size in memory, tree and spellings included."""
        snapshot = sum(200 + 40 * len(node.tokens) for node in self.snapshot.nodes)
        return self._entry_bytes + snapshot + sum(150 + len(text) for text in self.vocab.values())

    @property
    def title(self) -> str:
        """What the run was called when it began, such as `In[5]`."""
        return self._began.title

    @property
    def source(self) -> str:
        """The cell, as it was typed."""
        return self._began.source

    @property
    def _began(self) -> CellStarted:
        said = (entry.event for entry in self.entries)
        return next((e for e in said if isinstance(e, CellStarted) and e.run == self.run), CellStarted(self.run, f"run {self.run}", ""))

    @property
    def namespace(self) -> Namespace | None:
        """Where in the tree its first request looked; None if there was none."""
        of = {node.node: node.namespace for node in self.snapshot.nodes}
        for entry in self.entries:
            match entry.event:
                case NodeInserted(node=node, namespace=namespace):
                    of[node] = namespace
                case NodeSplit(node=node, upper=upper):
                    of[upper] = of[node]
                case PrefixMatched(node=node) if node in of:
                    return of[node]
                case _:
                    pass
        return None

    def spell(self, token: int) -> str:
        """The text of a token that occurs, once the run has ended; `<id>` before that."""
        return self.vocab.get(token) or f"<{token}>"

    def begin(self, snapshot: TreeSnapshot) -> None:
        """The tree that the entries change; those that are in it already are dropped."""
        self.snapshot = snapshot
        self.entries = [entry for entry in self.entries if entry.seq >= snapshot.seq]
        self._entry_bytes = sum(map(_n_bytes, self.entries))

    def append(self, entry: Entry) -> None:
        self.entries.append(entry)
        self._entry_bytes += _n_bytes(entry)

    def end(self, spell: Callable[[int], str]) -> None:
        """Keep the spelling of every token that occurs, so that the record reads without a tokenizer."""
        tokens = {token for node in self.snapshot.nodes for token in node.tokens}
        for entry in self.entries:
            match entry.event:
                case RequestQueued(prompt=ids) | StreamExtended(tokens=ids) | NodeInserted(tokens=ids):
                    tokens.update(ids)
                case TokensSampled(samples=samples):
                    for sample in samples:
                        tokens.add(sample.token)
                        tokens.update(token for token, _ in sample.top)
                case _:
                    pass
        self.vocab = {token: spell(token) for token in sorted(tokens)}


def _n_bytes(entry: Entry) -> int:
    event = entry.event
    n_bytes = 300 + sum(16 * len(getattr(event, name, ())) for name in ("tokens", "prompt", "decode", "source"))
    n_bytes += sum(100 * len(getattr(event, name, ())) for name in ("prefill", "refs"))
    if isinstance(event, TokensSampled):
        n_bytes += sum(150 + 120 * len(sample.top) for sample in event.samples)
    return n_bytes


class RecordUnreadable(ModelDamaged):
    """A file that is not a record, or a damaged one."""


def _snapshot_from(data: dict[str, Any]) -> TreeSnapshot:
    nodes = tuple(TreeNode(**{**node, "tokens": tuple(node["tokens"]), "namespace": tuple(node["namespace"])}) for node in data["nodes"])
    return TreeSnapshot(nodes, data["n_pages"], data["free_pages"], data["seq"])


def write_jsonl(record: Record, path: Path) -> None:
    """Write the record; the file appears whole or not at all."""
    part = path.with_name(path.name + ".part")
    header = {"format": FORMAT, "run": record.run, "snapshot": asdict(record.snapshot), "vocab": record.vocab}
    try:
        with part.open("w", encoding="utf-8") as file:
            file.write(json.dumps(header, separators=(",", ":")) + "\n")
            for seq, t_ns, event in record.entries:
                file.write(json.dumps({"seq": seq, "t_ns": t_ns} | to_dict(event), separators=(",", ":"), allow_nan=False) + "\n")
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise SglError(f"cannot write {path}: {error.strerror}", hint="choose another place") from None


def read_jsonl(path: Path) -> Record:
    """Read what `write_jsonl` wrote; RecordUnreadable names the line that is wrong."""

    number = 1
    try:
        with path.open(encoding="utf-8") as file:
            header = json.loads(file.readline() or "null")
            if not isinstance(header, dict) or header.get("format") != FORMAT:
                raise ValueError(f"not a {FORMAT} file")
            record = Record(RunId(header["run"]), _snapshot_from(header["snapshot"]), {int(k): v for k, v in header["vocab"].items()})
            for line in file:
                number += 1
                data = json.loads(line)
                record.append(Entry(data.pop("seq"), data.pop("t_ns"), from_dict(data)))
    except OSError as error:
        raise RecordUnreadable(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RecordUnreadable(f"{path} line {number}: {error}", hint="is it a file that `write_jsonl` wrote?") from None
    return record
