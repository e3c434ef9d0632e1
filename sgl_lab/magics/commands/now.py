"""Shows the current state: the engine's counts, the radix tree, and what runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...contracts.legible import clipped
from ...elsewhere import BackendLab, opened
from ...recorded import RecordedLab
from ...viz.draw import dot, html, stats, still, text
from ...viz.draw.escape import joined
from ...viz.draw.numbers import counted, money, percent
from ...viz.views.hits import hits
from ..folded import Folded, tree_counts, tree_of
from ..options import OptionError
from ..printing import say
from ..session import Session
from ..shell import Shell
from .command import Command, Words, aligned, current_lab, engine_of, memory_text, show
from .files import FORCE, target, write

TREE_NODES, TREE_HIGH = 300, 640
"""nodes that are drawn, and height in pixels of the box that scrolls"""


def _status(shell: Shell, session: Session, words: Words) -> None:
    current = current_lab(shell, session)
    if isinstance(current, BackendLab):
        _status_elsewhere(shell, words, current)
        return
    lab = engine_of(current, "%sgl status")
    found, card = lab.stats(), lab.card
    used = found["pages_total"] - found["pages_free"]
    nodes = lab.snapshot().nodes
    counts = _token_counts(found)
    counts |= {"nodes": len(nodes), "tree_tokens": sum(len(node.tokens) for node in nodes)}
    share = f"{percent(found['hit_rate'])}  ({found['cached_prompt_tokens']:,} of {found['prompt_tokens']:,} prompt tokens from the tree)"
    rows = [
        ("model", f"{card.name} · {card.device} · {card.dtype}"),
        ("hit rate", share),
        ("generated", f"{found['generated_tokens']:,} tokens"),
        ("steps", f"{found['steps']:,}, which computed {found['computed_tokens']:,} tokens"),
        ("radix tree", f"{counts['nodes']:,} nodes, {counts['tree_tokens']:,} tokens, {found['evicted_tokens']:,} evicted"),
        ("memory", memory_text(lab)),
        ("cache", f"{used:,} of {found['pages_total']:,} pages in use"),
        ("requests", f"{found['requests_running']} running, {found['requests_waiting']} waiting"),
    ]
    show(shell, words, html.table(rows), "\n".join(f"{name:<12}{value}" for name, value in rows), counts)


def _status_elsewhere(shell: Shell, words: Words, lab: BackendLab) -> None:
    found, card = lab.stats(), lab.card
    cached = f"{found['cached_prompt_tokens']:,} of {found['prompt_tokens']:,} prompt tokens, as the server reports"
    rows = [
        ("backend", lab.title),
        ("context", f"{card.context:,} tokens"),
        ("cached", cached if card.capabilities.cached_counts else "the server does not say"),
        ("generated", f"{found['generated_tokens']:,} tokens"),
        ("cost", _cost(found)),
        ("requests", f"{found['answered']:,} answered, {found['requests_running']} running"),
    ]
    counts = {name: found[name] for name in ("prompt_tokens", "cached_prompt_tokens", "generated_tokens", "answered")}
    show(shell, words, html.table(rows), "\n".join(f"{name:<12}{value}" for name, value in rows), counts)


def _cost(found: Mapping[str, Any]) -> str:
    if not found["currency"]:
        return "unknown: no price is known for this model" if found["answered"] else "none yet"
    others = f", and {counted(found['unpriced'], 'request')} of unknown cost" if found["unpriced"] else ""
    return money(found["cost"], found["currency"]) + others


def _stats(shell: Shell, session: Session, words: Words) -> None:
    """The counters of the lab in use, and a line for every other backend that was used."""
    lab = current_lab(shell, session)
    entries = lab.events()
    found, title = lab.stats(), lab.title
    others = backends_table(lab)
    points = hits(entries, found["prompt_tokens"], found["cached_prompt_tokens"])
    last = _last_run(session)
    notes = [note for note in (_spent() if others else "", last) if note]
    page = joined([stats.html(title, found, points), *([html.grid(others)] if others else []), *map(html.note, notes)])
    plain = "\n".join(filter(None, (stats.text(title, found), aligned(others) if others else "", *notes)))
    show(shell, words, page, plain, _token_counts(found))


def _spent() -> str:
    """What the session spent, also on backends without a lab."""
    from ...backends.remote.budget import SESSION, amount

    if not SESSION.by_model:
        return ""
    limit = "" if SESSION.limit is None else f" of a budget of {amount(SESSION.limit)}"
    unknown = f", and {counted(SESSION.n_unknown, 'call')} of unknown price" if SESSION.n_unknown else ""
    return f"this session: {amount(SESSION.spent)} {SESSION.currency} spent{limit}{unknown}"


def backends_table(current: RecordedLab) -> list[tuple[str, ...]]:
    """Usage and cost of each backend that answered, in rows below a heading; empty if none but
    the engine in this kernel did.
    """
    rows = []
    for lab in opened():
        found = lab.stats()
        if found["answered"]:
            cached = f"{found['cached_prompt_tokens']:,}" if lab.card.capabilities.cached_counts else "not reported"
            numbers = (f"{found['answered']:,}", f"{found['prompt_tokens']:,}", cached, f"{found['generated_tokens']:,}")
            rows.append((f"{lab.title}{' (in use)' if lab is current else ''}", *numbers, _cost(found)))
    return [("backend", "requests", "prompt tokens", "cached", "generated", "cost"), *rows] if rows else []


def _last_run(session: Session) -> str:
    """The speed of the last run, counted as in its cell."""
    if session.last is None:
        return ""
    last = session.run()
    strip = Folded(last).metrics.full()
    speed = f"{strip['tok_s']:,.0f} tokens/s from the first request to the last token"
    return f"{clipped(last.title, 60)}: {counted(strip['generated'], 'token')} generated, {speed}" if strip["generated"] else ""


def _token_counts(found: Mapping[str, int]) -> dict[str, int]:
    """Counts that are equal whenever a program is run again. The number of rejected draft tokens
    depends on what else runs.
    """
    counts = {name: found.get(name, 0) for name in ("prompt_tokens", "cached_tokens", "generated_tokens", "evicted_tokens")}
    if "answered" in found:
        return counts | {"cached_tokens": found["cached_prompt_tokens"], "answered": found["answered"]}
    return counts | {"computed_tokens": found["computed_tokens"] - found["rejected_tokens"]}


def _tree(shell: Shell, session: Session, words: Words) -> None:
    lab = current_lab(shell, session)
    if not lab.has_tree:
        raise OptionError(f"{lab.title} shows no tree, and none is inferred", hint="%sgl backend local has one")
    nodes = tree_of(lab.snapshot(), lab.spell).full()
    files = {flag: target(words.options[flag], words, dot.NAME, "%sgl tree --dot tree.dot") for flag in FILES if flag in words.options}
    for flag, path in files.items():
        source = dot.source(nodes) if flag == "--dot" else dot.svg(nodes)
        if source is None:
            raise OptionError("--svg needs Graphviz, whose `dot` is not installed here", hint="--dot writes the source for it")
        write(path, source)
    if files:
        return
    elsewhere = isinstance(lab, BackendLab)
    drawn = still.tree(nodes, TREE_NODES, TREE_HIGH, elsewhere=elsewhere)
    show(shell, words, still.frame([drawn]), text.tree(nodes, elsewhere=elsewhere), tree_counts(nodes))


def _stop(shell: Shell, session: Session, words: Words) -> None:
    stopped = " and ".join(counted(n, what) for n, what in zip(session.stop(), ("job", "request"), strict=True) if n)
    say(f"stopped {stopped}" if stopped else "nothing is running")


FILES = {"--dot": "FILE", "--svg": "FILE"}

COMMANDS = {
    "status": Command(_status, "hit rate, tokens, tree, pages"),
    "stats": Command(_stats, "all counters of the engine: tokens, cache, requests, steps, time"),
    "tree": Command(
        _tree, "[--text] [--dot FILE] [--svg FILE] [--force]   the current radix tree", options={"--text": "", **FILES, **FORCE}
    ),
    "stop": Command(_stop, "abort every request, including those of background cells and streams"),
}
