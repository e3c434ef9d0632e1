"""A complete record of one run, and its file format.

A record is lossless: it contains the tree as it was at the beginning of the run and every event
until its end. The format is JSON Lines: a header with the snapshot, then one event per line.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO

from ..contracts.errors import BadArgument, ModelDamaged
from ..contracts.events import (
    CellFinished,
    CellStarted,
    Entry,
    ExpertsChosen,
    ExplorationOpened,
    ExprFinished,
    ForkOpened,
    GraphStarted,
    NodeInserted,
    NodeSplit,
    PrefixMatched,
    RequestQueued,
    StreamExtended,
    TextArrived,
    TokensSampled,
    from_dict,
    to_dict,
)
from ..contracts.ids import ForkId, Namespace, RequestId, RunId
from ..contracts.legible import clipped
from ..contracts.spans import Content, blocks_in, first_id, shown_at
from ..contracts.tree import TreeSnapshot
from .checked import Checker, Ids, snapshot_from, vocab_from
from .files import write_whole

FORMATS = ("sgl_lab.record/1", "sgl_lab.record/2")
"""The second version has embedded blocks: the header contains their contents, by the ids of their
first positions.
"""
MARK = '{"format":"sgl_lab.record/'
"""the beginning of our files, in every version of the format"""


EMPTY = TreeSnapshot((), 0, 0, 0)


@dataclass
class Record:
    """One run. `entries` grows during the run."""

    run: RunId
    snapshot: TreeSnapshot = EMPTY
    vocab: dict[int, str] = field(default_factory=dict)
    """spelling of all tokens that occur; filled at the end of the run"""
    entries: list[Entry] = field(default_factory=list)
    _entry_bytes: int = field(default=0, repr=False, compare=False)

    @property
    def n_bytes(self) -> int:
        """Estimated size in memory, in bytes, including tree and spellings."""
        snapshot = sum(200 + 40 * len(node.tokens) for node in self.snapshot.nodes)
        return self._entry_bytes + snapshot + sum(150 + len(text) for text in self.vocab.values())

    @property
    def scope(self) -> RunId | None:
        """The run whose programs its views show. None stands for all programs, if the record itself
        began no run, as in a block of a script.
        """
        own = (entry.event for entry in self.entries)
        return self.run if any(isinstance(event, ForkOpened) and event.run == self.run for event in own) else None

    @property
    def title(self) -> str:
        """The title of the run, such as `In[5]`."""
        return self._began.title

    @property
    def source(self) -> str:
        """The source of the cell."""
        return self._began.source

    @property
    def ended(self) -> CellFinished:
        """The outcome of the run; "stopped" if no event reports it."""
        events = (entry.event for entry in reversed(self.entries))
        return next((e for e in events if isinstance(e, CellFinished) and e.run == self.run), CellFinished(self.run, "stopped", ""))

    @property
    def _began(self) -> CellStarted:
        events = (entry.event for entry in self.entries)
        return next((e for e in events if isinstance(e, CellStarted) and e.run == self.run), CellStarted(self.run, f"run {self.run}", ""))

    @property
    def has_answers(self) -> bool:
        """Whether the model generated or chose anything in this run. Other runs at the same time do
        not count.
        """
        own = self.scope
        forks, requests = set[ForkId](), set[RequestId]()
        for entry in self.entries:
            match entry.event:
                case ForkOpened(run=run, fork=fork) if own in (None, run):
                    forks.add(fork)
                case RequestQueued(request=request, fork=fork) if own is None or fork in forks:
                    requests.add(request)
                case TokensSampled(samples=samples) | TextArrived(samples=samples) if any(sample.request in requests for sample in samples):
                    return True
                case ExprFinished(fork=fork, status="ok") if own is None or fork in forks:
                    return True
                case _:
                    pass
        return False

    @property
    def namespace(self) -> Namespace | None:
        """The namespace of its first request; None if there was none."""
        return next((namespace for _, namespace in self._matched()), None)

    @property
    def namespaces(self) -> dict[RequestId, Namespace]:
        """The namespace of each request."""
        return dict(self._matched())

    def _matched(self) -> Iterator[tuple[RequestId, Namespace]]:
        """Requests and the namespaces of the nodes that they matched, as they come."""
        of = {node.node: node.namespace for node in self.snapshot.nodes}
        for entry in self.entries:
            match entry.event:
                case NodeInserted(node=node, namespace=namespace):
                    of[node] = namespace
                case NodeSplit(node=node, upper=upper):
                    of[upper] = of[node]
                case PrefixMatched(request=request, node=node) if node in of:
                    yield request, of[node]
                case _:
                    pass

    def spell(self, token: int) -> str:
        """The text of a token that occurs, once the run has ended; `<id>` before that. For a block's
        first position it is the chip.
        """
        return shown_at(token) if token < 0 else self.vocab.get(token) or f"<{token}>"

    def begin(self, snapshot: TreeSnapshot) -> None:
        """Set the tree to which the entries apply. Entries that it already includes are dropped."""
        self.snapshot = snapshot
        self.entries = [entry for entry in self.entries if entry.seq >= snapshot.seq]
        self._entry_bytes = sum(map(_n_bytes, self.entries))

    def append(self, entry: Entry) -> None:
        self.entries.append(entry)
        self._entry_bytes += _n_bytes(entry)

    def end(self, spell: Callable[[int], str]) -> None:
        """Store the spelling of every token that occurs, so that the record is readable without a
        tokenizer.
        """
        self.vocab = {token: spell(token) for token in sorted(self._ids()) if token >= 0}

    @property
    def contents(self) -> dict[int, Content]:
        """The contents of the blocks that occur, by the ids of their first positions."""
        ids = sorted(token for token in self._ids() if token < 0)
        return {first_id(place.content): place.content for _, _, place in blocks_in(ids[::-1])}

    def _ids(self) -> set[int]:
        """The ids of all tokens and positions of blocks that occur."""
        tokens = {token for node in self.snapshot.nodes for token in node.tokens}
        for entry in self.entries:
            match entry.event:
                case RequestQueued(prompt=ids) | StreamExtended(tokens=ids) | NodeInserted(tokens=ids):
                    tokens.update(ids)
                case TokensSampled(samples=samples) | TextArrived(samples=samples):
                    for sample in samples:
                        tokens.add(sample.token)
                        tokens.update(token for token, _ in sample.top)
                case ExplorationOpened(prompt=ids, answer=samples):
                    tokens.update(ids, *([sample.token, *(token for token, _ in sample.top)] for sample in samples))
                case _:
                    pass
        return tokens


def _n_bytes(entry: Entry) -> int:
    event = entry.event
    n_bytes = 300 + sum(16 * len(getattr(event, name, ())) for name in ("tokens", "prompt", "decode", "source"))
    n_bytes += sum(100 * len(getattr(event, name, ())) for name in ("prefill", "refs"))
    if isinstance(event, ExpertsChosen):
        n_bytes += sum(150 + len(experts) for _, _, experts in event.chosen)
    if isinstance(event, ExplorationOpened):
        n_bytes += sum(150 + 120 * len(sample.top) for sample in event.answer)
    if isinstance(event, GraphStarted):
        n_bytes += sum(300 + len(node.label) + len(node.words) for node in event.nodes)
    if isinstance(event, TokensSampled | TextArrived):
        n_bytes += sum(150 + 120 * len(sample.top) for sample in event.samples)
    return n_bytes


_HINT = "is it a file that `%sgl save` or `write_jsonl` wrote?"


class RecordUnreadable(ModelDamaged):
    """A file that is not a record, or is damaged."""


def write_jsonl(record: Record, path: Path) -> None:
    """Write the record. The file is written completely or not at all."""

    def write(file: IO[str]) -> None:
        contents = {
            first: [content.digest, content.n, content.kind, *([content.picture] if content.picture else [])]
            for first, content in record.contents.items()
        }
        header = {"format": FORMATS[bool(contents)], "run": record.run, "n_entries": len(record.entries)}
        header |= {"blocks": contents} if contents else {}
        file.write(json.dumps(header | {"snapshot": asdict(record.snapshot), "vocab": record.vocab}, separators=(",", ":")) + "\n")
        for seq, t_ns, event in record.entries:
            file.write(json.dumps({"seq": seq, "t_ns": t_ns} | to_dict(event), separators=(",", ":"), allow_nan=False) + "\n")

    write_whole(path, write)


def read_jsonl(path: Path) -> Record:
    """Read a file of `write_jsonl`. RecordUnreadable names the line that is wrong."""
    number = 1
    try:
        with path.open(encoding="utf-8-sig") as file:
            header = json.loads(file.readline() or "null")
            if not isinstance(header, dict) or header.get("format") not in FORMATS:
                raise ValueError(f"not a {' or '.join(FORMATS)} file")
            ids = Ids(header.get("blocks", {}))
            record = Record(RunId(header["run"]), snapshot_from(header["snapshot"], ids), vocab_from(header["vocab"]))
            check = Checker(record.snapshot)
            for line in file:
                number += 1
                data = json.loads(line)
                entry = Entry(data.pop("seq"), data.pop("t_ns"), from_dict(ids.known(data)))
                check(entry)
                record.append(entry)
            if len(record.entries) != header["n_entries"]:
                raise ValueError(f"the file ends after {len(record.entries)} of {header['n_entries']} events")
    except OSError as error:
        raise RecordUnreadable(f"cannot read {path}: {error.strerror or error}") from None
    except KeyError as error:
        raise RecordUnreadable(f"{path} line {number}: {error.args[0]!r:.80} is missing", hint=_HINT) from None
    except (BadArgument, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise RecordUnreadable(f"{path} line {number}: {clipped(str(error), 200)}", hint=_HINT) from None
    return record
