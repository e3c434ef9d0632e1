"""Recorded runs in which every text is hostile: tokens, roles, names, titles, sources, messages, the model."""

from __future__ import annotations

from dataclasses import fields, replace
from functools import cache
from typing import Any

from sgl_lab.contracts.events import Entry, Event, ExprStarted, GraphNode, GraphStarted, NodesEntered, RequestQueued, StreamExtended
from sgl_lab.contracts.ids import ForkId
from sgl_lab.trace import Record
from sgl_lab.trace.checked import MAX_SPELLING

from .recording import Session

MEANT = {(StreamExtended, "kind"), (ExprStarted, "kind"), (RequestQueued, "kind")}
"""what a program cannot choose; a file can"""


@cache
def clean() -> tuple[Record, ...]:
    """Two runs that differ in their prompts, their cells and their answers."""
    session = Session(n_pages=90)
    for number, (city, seed) in enumerate((("Porto", 1), ("Faro", 2)), 1):
        with session.recording(f"In[{number}]", f"%%sgl\nuser('In {city}?')\ngen('a')") as record:
            nodes = (GraphNode("text", 0, "in", city, (), ()), GraphNode("gen", 0, "a", "gen('a')", (0,), ()))
            session.ring.emit(GraphStarted(record.run, number, number, "ask", nodes))
            session.ring.emit(NodesEntered(number, (0, 1), ForkId(1)))
            session.ask(record.run, [("a", f"in {city}?", 4), ("b", f"at {city}?", 3)], seed)
            session.select(record.run, "when", "when: ", ("day", "night"))
    return tuple(session.records)


def poisoned(payload: str, *, throughout: bool = False) -> tuple[Record, ...]:
    """The same runs with `payload` in the place of every text; with `throughout` also where only a file can have one."""
    return tuple(
        Record(
            record.run,
            replace(record.snapshot, nodes=tuple(replace(node, namespace=(payload,)) for node in record.snapshot.nodes)),
            dict.fromkeys(record.vocab, payload[:MAX_SPELLING]),
            [Entry(entry.seq, entry.t_ns, _poisoned(entry.event, payload, throughout)) for entry in record.entries],
        )
        for record in clean()
    )


def _poisoned(event: Event, payload: str, throughout: bool) -> Event:
    new: dict[str, Any] = {}
    for each in fields(event):
        value = getattr(event, each.name)
        if isinstance(value, str) and (throughout or (type(event), each.name) not in MEANT):
            new[each.name] = payload
        elif each.name == "namespace":
            new[each.name] = (payload,)
        elif isinstance(event, GraphStarted) and each.name == "nodes":
            kinds = {"kind": payload} if throughout else {}
            new[each.name] = tuple(node._replace(label=payload, words=payload, **kinds) for node in event.nodes)
    return replace(event, **new)
