"""`%sgl bench`: the workloads of the paper on the model that is loaded, with figures."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from ...contracts.policies import EVICTIONS, SCHEDULES
from ...viz.draw import bars, html
from ...viz.draw.numbers import counted, percent
from ..cell_view import CellView
from ..options import OptionError, nearest
from ..output import Output, html_line, in_kernel
from ..printing import say
from ..session import Session
from ..shell import Shell
from .command import Command, Words, aligned, engine_of, ready_lab

if TYPE_CHECKING:
    from ...session import Lab
    from ...trace import Record
    from ...workloads.bench import Setup
    from ...workloads.results import Results

NUMBERS = {"-n": "N", "--parallel": "N", "--cache-tokens": "N"}
FLAGS = ("--no-cache", "--no-fork-hint", "--ablate", "--text")
OWN_ENGINE = ("--schedule", "--evict", "--cache-tokens", "--no-cache")
"""options that need an engine beside the one of the notebook"""


def _bench(shell: Shell, session: Session, words: Words) -> None:
    from ...workloads.catalogue import WORKLOADS
    from ...workloads.data import Data
    from ...workloads.suite import measure

    if "--compare" in words.options:
        _compare(words)
        return
    name = words.name()
    if name is None:
        say(aligned([(each.name, each.title, each.about) for each in WORKLOADS.values()]))
        say("%sgl bench NAME runs one, %sgl bench all runs those that this model and the data allow")
        return
    lab = engine_of(ready_lab(shell, session), "%sgl bench")
    setup, is_ablated = _setup(words, lab), "--ablate" in words.options
    output = Output(shell)

    def show(done: int, total: int, text: str) -> None:
        session.interrupts.check()
        share = done / total if total else None
        words = f"{text}: {done:,} of {total:,}"
        output.show({"text/html": html.progress(words, share).source, "text/plain": words})

    def watch(on: Lab, record: Record) -> AbstractContextManager[object]:
        session.last = record
        if name == "all" or is_ablated or "--text" in words.options:
            return nullcontext()
        return CellView(shell, Output(shell), on, record, ("tree",), session.interrupts.request)

    own = None if is_ablated or any(option in words.options for option in OWN_ENGINE) else lab
    data = Data(words.options.get("--data"))
    with session.interrupts.watched(whatever_handler=True):
        results = measure([name], data, setup, _number(words, "-n"), ablated=is_ablated, lab=own, notify=show, watch=watch)
    seconds = sum(one.seconds for one in results.outcomes.values())
    output.show(html_line(f"measured: {counted(len(results.outcomes), 'run')} in {seconds:.1f} s"))
    _show(shell, results, is_ablated=is_ablated, is_text="--text" in words.options)
    if target := words.options.get("-o"):
        results.write(Path(target).expanduser())
        say(f"wrote {target}")


def _setup(words: Words, lab: Lab) -> Setup:
    from ...workloads.bench import Setup

    for option, known in (("--schedule", SCHEDULES), ("--evict", EVICTIONS)):
        if (value := words.options.get(option)) is not None and value not in known:
            raise nearest(value, known, option.strip("-"))
    return Setup(
        lab.model,
        lab.card.device,
        lab.card.dtype,
        _number(words, "--parallel") or 16,
        words.options.get("--schedule", "lpm"),
        words.options.get("--evict", "lru"),
        "none" if "--no-cache" in words.options else "prefix",
        _number(words, "--cache-tokens"),
        hint="--no-fork-hint" not in words.options,
    )


def _number(words: Words, option: str) -> int | None:
    value = words.options.get(option)
    if value is None:
        return None
    if not value.isdecimal() or not 1 <= int(value) <= 10**9:
        raise OptionError(f"{option} has to be a whole number, 1 or more, not {value!r:.40}")
    return int(value)


def _compare(words: Words) -> None:
    from ...workloads.results import Results, compared

    first, comma, second = words.options["--compare"].partition(",")
    if not comma:
        raise OptionError("--compare takes two files", hint="--compare A.json,B.json")
    for found in compared(Results.read(Path(first).expanduser()), Results.read(Path(second).expanduser())):
        say(found.words())


def _show(shell: Shell, results: Results, *, is_ablated: bool, is_text: bool) -> None:
    from ...workloads.results import HEADING, average, table, text

    if results.outcomes and (is_text or not in_kernel(shell)):
        say(text(results.outcomes))
    elif results.outcomes:
        rows = [HEADING, *table(results.outcomes)]
        counts = {f"{name}_computed": one.computed_tokens for name, one in results.outcomes.items()}
        page = {"text/html": html.grid(rows).source, "text/plain": text(results.outcomes)}
        Output(shell).show(page, {"sgl_lab": {"counts": counts}})
        drawn = _speeds(results) if is_ablated else _hits(results)
        still = {"text/html": bars.still(drawn).source, "text/plain": drawn.title}
        Output(shell).show({"application/vnd.plotly.v1+json": bars.figure(drawn), **still})
    if not is_ablated and (words := average(results.outcomes)):
        say(words)
    for name, reason in results.left_out.items():
        say(f"{name} was left out: {reason}")
    for name, outcome in results.outcomes.items():
        for line in outcome.failed[:5]:
            say(f"{name}, item {line}")


def _hits(results: Results) -> bars.Bars:
    """What came from the cache, and what the best could have."""
    outcomes = results.outcomes.values()
    parts = [
        ("this run", [one.hit_rate for one in outcomes]),
        ("best in this order", [one.best_in_order for one in outcomes]),
        ("best order", [one.best for one in outcomes]),
    ]
    series = tuple(bars.Series(title, tuple(values), tuple(map(percent, values))) for title, values in parts)
    return bars.Bars("Share of the prompts' tokens that came from the cache", tuple(results.outcomes), series)


def _speeds(results: Results) -> bars.Bars:
    """Throughput as a share of the whole's, and computed tokens as a multiple of it."""
    full, outcomes = results.outcomes["full"], results.outcomes.values()
    speeds = tuple(one.programs_per_s / full.programs_per_s for one in outcomes)
    computed = tuple(one.computed_tokens / max(1, full.computed_tokens) for one in outcomes)
    series = (
        bars.Series("programs/s", speeds, tuple(f"{value:.2f} x" for value in speeds)),
        bars.Series("tokens computed", computed, tuple(f"{value:.2f} x" for value in computed)),
    )
    return bars.Bars(f"{full.workload} with one thing left out, against the whole", tuple(results.outcomes), series)


def _names(session: Session, before: object) -> tuple[str, ...]:
    from ...workloads.catalogue import WORKLOADS

    return (*WORKLOADS, "all")


COMMANDS = {
    "bench": Command(
        _bench,
        "[NAME|all] [-n N] [--data DIR] [--parallel N] [--schedule S] [--evict E] [--no-cache] [--ablate]   the paper's workloads",
        1,
        {
            **NUMBERS,
            "--data": "DIR",
            "--schedule": ",".join(SCHEDULES),
            "--evict": ",".join(EVICTIONS),
            "-o": "FILE.json",
            "--compare": "A.json,B.json",
            **dict.fromkeys(FLAGS, ""),
        },
        names_in=_names,
        after=lambda session: {"--schedule": SCHEDULES, "--evict": EVICTIONS},
    ),
}
