"""Prompt inspection: the exact tokens of each gen and select of a run, prompt and answer.

Reads a record after the run. Knows no tokenizer: ids remain ids.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from ...contracts.events import (
    Entry,
    ExprFinished,
    ExprStarted,
    ForkOpened,
    PrefixMatched,
    RequestAnswered,
    RequestFinished,
    RequestQueued,
    RowStarted,
    Sample,
    StreamExtended,
    TextArrived,
    TokensSampled,
)
from ...contracts.ids import ExprId, ForkId, RequestId
from .experts import ExpertsView, Routes
from .names import row_title

STEP = " › "


@dataclass(slots=True)
class Inspection:
    """One gen or select. With several samples, or for a select, it describes the request that
    carried the prompt.
    """

    name: str
    kind: str
    fork: ForkId
    request: RequestId
    prompt: tuple[int, ...]
    path: str = ""
    """path of the fork: `s[0] › `, preceded by `program 2 › ` if the cell runs several; empty in
    the main one
    """
    n_hit: int | None = None
    """leading tokens of the prompt that were found in the cache; None until the lookup"""
    samples: list[Sample] = field(default_factory=list)
    value: str = ""
    reason: str = ""
    answered: RequestAnswered | None = None
    """what an engine behind an API reports; prompt and samples may then be pieces of text, no tokens"""
    seams: list[tuple[tuple[int, ...], tuple[int, ...]]] = field(default_factory=list)
    """pairs: the tokens before healing, and the tokens that spell the same text instead, alone or
    with what follows
    """
    routes: Routes | None = None
    """the experts of its tokens, if the model has some"""

    @property
    def title(self) -> str:
        """Its name, preceded by the forks that contain it."""
        return self.path + self.name


def inspections(entries: Iterable[Entry]) -> tuple[Inspection, ...]:
    """The inspections in the order of their requests. A gen without a name is named by its number,
    from 0.
    """
    paths: dict[ForkId, str] = {}
    n_programs = 0
    names: dict[ExprId, tuple[str, str]] = {}
    by_expr: dict[ExprId, Inspection] = {}
    by_request: dict[RequestId, Inspection] = {}
    n_unnamed = 0
    seams: dict[ForkId, list[tuple[tuple[int, ...], tuple[int, ...]]]] = {}
    """seams of each fork since its last gen or select"""
    latest: dict[ForkId, Inspection] = {}
    experts = ExpertsView()
    for entry in entries:
        experts.fold(entry)
        match entry.event:
            case RowStarted(row=row, fork=fork) if fork is not None:
                paths[fork] = f"{row_title(row)}{STEP}"
            case ForkOpened(fork=fork, parent=None) if fork in paths:
                n_programs += 1
            case ForkOpened(fork=fork, parent=None, label=label, within=within) if within is not None and paths.get(within):
                n_programs += 1
                paths[fork] = f"{paths[within]}{label}{STEP}"
            case ForkOpened(fork=fork, parent=None):
                n_programs += 1
                paths[fork] = "" if n_programs == 1 else f"program {n_programs}{STEP}"
            case ForkOpened(fork=fork, parent=parent, index=index, label=label) if parent is not None:
                paths[fork] = f"{paths.get(parent, '')}{label or f'fork {index + 1}'}{STEP}"
            case ExprStarted(expr=expr, kind=kind, name=name):
                names[expr] = (name or f"#{n_unnamed}", kind)
                n_unnamed += not name
            case RequestQueued(request=request, expr=expr, fork=fork) as queued if expr in names and fork is not None:
                if expr is not None and expr not in by_expr:
                    name, kind = names[expr]
                    prompt = queued.prompt if kind == "gen" or queued.reusable is None else queued.prompt[: queued.reusable + 1]
                    now = by_expr[expr] = by_request[request] = Inspection(name, kind, fork, request, prompt, paths.get(fork, ""))
                    now.seams += seams.pop(fork, [])
                    latest[fork] = now
            case StreamExtended(fork=fork, kind=kind, healed=healed) as extended if healed:
                is_generated = kind != "text" and fork in latest
                (latest[fork].seams if is_generated else seams.setdefault(fork, [])).append((healed, extended.tokens[: extended.n_healed]))
            case PrefixMatched(request=request, n_hit=n_hit) if request in by_request and by_request[request].n_hit is None:
                by_request[request].n_hit = min(n_hit, len(by_request[request].prompt))
            case TokensSampled(samples=samples):
                for sample in samples:
                    if sample.request in by_request:
                        by_request[sample.request].samples.append(sample)
            case TextArrived(request=request, index=0, samples=samples) as arrived if request in by_request:
                mine = by_request[request].samples
                mine[:] = samples if arrived.is_whole else (*mine, *samples)
            case RequestAnswered(request=request) as answered if request in by_request:
                by_request[request].reason, by_request[request].answered = answered.reason, answered
            case RequestFinished(request=request, reason=reason) if request in by_request:
                by_request[request].reason = reason
            case ExprFinished(expr=expr, value=value) if expr in by_expr:
                by_expr[expr].value = value
    for request, one in by_request.items():
        one.routes = experts.routes(request)
    return tuple(by_expr.values())
