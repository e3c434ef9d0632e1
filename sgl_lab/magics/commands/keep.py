"""Runs as files: saved and replayed, exported as one page, or as a trace for Perfetto."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from ...contracts.legible import clipped
from ...trace import read_jsonl, write_jsonl
from ...trace.record import MARK as RECORD_MARK
from ...viz import bundle
from ...viz.draw import experts, html, page, perfetto
from ...viz.draw import inspection as draw_inspection
from ...viz.draw import why as draw_why
from ...viz.draw.escape import Markup, joined
from ...viz.views.experts import load_of
from ...viz.views.inspection import inspections
from ..folded import Folded
from ..options import VIEWS, OptionError
from ..output import Output, in_kernel
from ..printing import say
from ..session import Session
from ..shell import Shell
from .command import Command, Words
from .explain import explained
from .files import FORCE, report_written, target, write

if TYPE_CHECKING:
    from ...trace import Record

MAX_INSPECTED = 200
"""gens and selects whose tokens an exported page lists"""


def _save(shell: Shell, session: Session, words: Words) -> None:
    path = target(words.name(), words, RECORD_MARK, "%sgl save run.jsonl")
    record = session.run(words.name(1))
    write_jsonl(record, path)
    report_written(path, clipped(record.title, 60))


def _replay(shell: Shell, session: Session, words: Words) -> None:
    if not words.names:
        raise OptionError("which file?", hint="such as `%sgl replay run.jsonl`")
    path = Path(words.names[0]).expanduser()
    record = read_jsonl(path)
    session.last = session.replayed[path.stem] = record
    folded, ended = Folded(record), record.ended
    shown = folded.bundle(VIEWS, f"{path.name} · {record.title}", ended.status, ended.message)
    if "--text" in words.options or not in_kernel(shell):
        say(shown["text/plain"])
    else:
        Output(shell).show(shown, {"sgl_lab": {"counts": folded.counts(), "status": ended.status}})


def _export(shell: Shell, session: Session, words: Words) -> None:
    path = target(words.name(), words, page.MARK, "%sgl export run.html")
    record = session.run(words.name(1))
    write(path, page.page(f"sgl_lab · {record.title}", exported(session, record), bundle.players()), clipped(record.title, 60))


def exported(session: Session, record: Record) -> list[Markup]:
    """The frozen views, the cell, the explanation of misses, and every token with its id."""
    ended, found = record.ended, inspections(record.entries)
    parts = [Folded(record).page(record.title, ended.status, ended.message)]
    if record.source:
        parts.append(html.details("The cell", html.plain(record.source)))
    parts.append(html.details("Why prefixes missed", draw_why.html(*explained(session, record))))
    if found:
        chips = joined([draw_inspection.html(one, record.spell) for one in found[:MAX_INSPECTED]])
        more = f", the first {MAX_INSPECTED} of {len(found):,} answers" if len(found) > MAX_INSPECTED else ""
        if (load := load_of(record.entries)) is not None:
            chips = joined([experts.html(load), chips])
        parts.append(html.details(f"Every token with its id{more}", chips))
    return parts


def _trace(shell: Shell, session: Session, words: Words) -> None:
    path = target(words.name(), words, perfetto.MARK, "%sgl trace run.json")
    record = session.run(words.name(1))
    write(path, json.dumps(perfetto.trace(record), separators=(",", ":"), allow_nan=False), clipped(record.title, 60))
    say("open it at ui.perfetto.dev or in chrome://tracing")


COMMANDS = {
    "save": Command(_save, "FILE.jsonl [RUN] [--force]   save the last run, or RUN, with all its events", 2, FORCE, takes_runs=True),
    "replay": Command(_replay, "FILE.jsonl [--text]   show a saved run again; the other commands accept it too", 1, {"--text": ""}),
    "export": Command(
        _export,
        "FILE.html [RUN] [--force]   write the run as one page that replays it, without kernel and network",
        2,
        FORCE,
        takes_runs=True,
    ),
    "trace": Command(_trace, "FILE.json [RUN] [--force]   write the run as a trace for Perfetto", 2, FORCE, takes_runs=True),
}
