"""The last run under other eviction policies and cache sizes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ...contracts.policies import BELADY, EVICTIONS
from ...viz.draw import html, whatif
from ..options import OptionError, nearest
from ..output import Output, in_kernel
from ..printing import say
from ..session import Session
from ..shell import Shell
from .command import Command, Words, engine_of, ready_lab

if TYPE_CHECKING:
    from ...trace import Record

POLICIES = (*EVICTIONS, BELADY)
SIZES = {"--tokens": "SIZES", "--pages": "SIZES"}
N_SIZES = 8
MAX_SIZES = 32
_RANGE = re.compile(r"(\d+)\.\.(\d+)")


def _whatif(shell: Shell, session: Session, words: Words) -> None:
    record = session.run(words.name())
    policies = _policies(words.options.get("--policy"))
    lab = engine_of(session.lab_of(record) or ready_lab(shell, session), "%sgl whatif")
    page = lab.page_size
    actual = record.snapshot.n_pages * page
    given = [(flag, words.options[flag]) for flag in SIZES if flag in words.options]
    if len(given) > 1:
        raise OptionError("--tokens and --pages both set the sizes", hint="give only one of them")
    sizes = _sizes(*given[0], page) if given else _usual(record, page, actual)
    outcomes: list[whatif.Counts] = []
    for size in sizes:
        session.interrupts.check()
        outcomes += lab.what_if(record, evict=policies, cache_tokens=(size,))
    if not any(one.prompt_tokens or one.n_refused for one in outcomes):
        raise OptionError("the run sent no request to the model", hint="`%sgl whatif RUN` uses another run")
    found = whatif.WhatIf(record.title, tuple(outcomes), page, actual if sizes[0] <= actual <= sizes[-1] else None)
    plain = whatif.text(found)
    if "--text" in words.options or not in_kernel(shell):
        say(plain)
        return
    still = html.picture(whatif.picture(found), whatif.heading(found)).source
    counts = {f"{one.evict}_{found.size(one)}": one.cached_prompt_tokens for one in outcomes}
    Output(shell).show({"application/vnd.plotly.v1+json": whatif.figure(found), "text/html": still, "text/plain": whatif.heading(found)})
    Output(shell).show({"text/html": whatif.html(found).source, "text/plain": plain}, {"sgl_lab": {"counts": counts}})


def _policies(text: str | None) -> tuple[str, ...]:
    if text is None:
        return POLICIES
    chosen = tuple(dict.fromkeys(word.strip() for word in text.split(",") if word.strip()))
    for word in chosen:
        if word not in POLICIES:
            raise nearest(word, POLICIES, "policy")
    if not chosen:
        raise OptionError("--policy needs a value: POLICIES", hint=",".join(POLICIES))
    return chosen


def _sizes(flag: str, text: str, page: int) -> list[int]:
    """Sizes in tokens: `64..4096` in steps of about a factor of two, or `64,128,512`. Whole pages,
    ascending.
    """
    unit = page if flag == "--pages" else 1
    if found := _RANGE.fullmatch(text):
        low, high = int(found[1]), int(found[2])
        sizes = _steps(low, high, 2.0) if 0 < low <= high else []
    else:
        words = text.split(",")
        sizes = [int(word) for word in words] if all(re.fullmatch(r"\s*\d{1,12}\s*", word) for word in words) else []
    if not sizes or not all(page <= size * unit <= 10**12 for size in sizes):
        at_least = f"of a page ({page}) or more" if unit < page else "1 or more"
        raise OptionError(f"{flag} cannot be {text!r:.60}", hint=f"sizes {at_least}, such as 64..4096 or 64,128,512")
    if len(sizes) > MAX_SIZES:
        raise OptionError(f"{flag} names {len(sizes)} sizes; at most {MAX_SIZES} are possible")
    return sorted({size * unit // page * page for size in sizes})


def _usual(record: Record, page: int, actual: int) -> list[int]:
    """Sizes from the largest request to what the run would fill without evictions, and the actual
    size if it is close to that range.
    """
    from ...viz.explain.history import history_of

    requests = [served for served in history_of([record]).requests if served.queued.max_tokens or served.queued.kind != "gen"]
    before = sum(len(node.tokens) for node in record.snapshot.nodes)
    low = max((len(served.computed) for served in requests), default=page) + page
    high = max(low, min(actual, before + sum(len(served.computed) for served in requests)))
    sizes = _steps(low, high, max(1.02, (high / low) ** (1 / (N_SIZES - 1))))
    return sorted({-(-size // page) * page for size in (*sizes, *([actual] if actual <= 4 * high else []))})


def _steps(low: int, high: int, factor: float) -> Sequence[int]:
    sizes, size = [], float(low)
    while size < high:
        sizes.append(round(size))
        size *= factor
    return [*sizes, high]


COMMANDS = {
    "whatif": Command(
        _whatif,
        f"[RUN] [--policy {','.join(POLICIES)}] [--tokens 64..4096 | --pages ...] [--text]   the run under other policies and cache sizes",
        1,
        {"--policy": "POLICIES", **SIZES, "--text": ""},
        takes_runs=True,
        after=lambda session: {"--policy": POLICIES},
    ),
}
