"""The settings of an engine and the width of a batch, chosen by measuring a program on some rows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ...viz.draw import html
from ..options import OptionError
from ..output import Output
from ..session import Session
from ..shell import Shell
from .command import Command, Words, aligned, engine_of, ready_lab, show
from .files import FORCE, target
from .graphs import compiled_named
from .plans import MOST, argument

MARK = '"format": "sgl_lab.tuning/'
SECONDS = 20.0


def _tune(shell: Shell, session: Session, words: Words) -> None:
    from ...lang.surface import Compiled, load_tuning

    name = words.name()
    compiled = compiled_named(shell, name, words)
    lab = engine_of(ready_lab(shell, session), "%sgl tune")
    if "--load" in words.options:
        tuned = load_tuning(Path(words.options["--load"]).expanduser())
    else:
        output = Output(shell)

        def report(line: str) -> None:
            session.interrupts.check()
            output.show({"text/html": html.progress(line, None).source, "text/plain": line})

        path = target(words.options["--save"], words, MARK, "%sgl tune PROGRAM --save tuning.json") if "--save" in words.options else None
        tuned = compiled.tune(_rows(shell, words), seconds=_seconds(words), backend=lab.backend, report=report)
        if path is not None:
            tuned.save(path)
    compiled.use(tuned, backend=lab.backend)
    lab.evict = tuned.choice.knobs.evict
    if name is not None and isinstance(value := shell.user_ns.get(name), Compiled):
        value.use(tuned, backend=lab.backend)
    grid = html.grid(tuned.rows())
    facts = f"{tuned.program} on {tuned.place.model}, {tuned.place.device}: {tuned.n_rows} rows in {tuned.default_seconds:.2f} s by default"
    notes = [line for line in (tuned.foretold(), tuned.verdict()) if line]
    page = html.panel("", "ok", "", [html.note(facts), grid, *map(html.note, notes)])
    plain = "\n".join([facts, aligned(tuned.rows()), *notes])
    show(shell, words, page, plain, {"trials": len(tuned.trials), "rows": tuned.n_rows, "changed": tuned.choice != tuned.default})


def _rows(shell: Shell, words: Words) -> Sequence[object]:
    """`rows=NAME`, a list in the notebook; or the arguments of one run."""
    found = dict(argument(shell, word) for word in words.names[1:])
    if "rows" not in found:
        return [found]
    rows = found.pop("rows")
    if found or not isinstance(rows, list | tuple):
        raise OptionError("rows=NAME names a list of the notebook, with the arguments of a run each", hint="rows=questions")
    return rows


def _seconds(words: Words) -> float:
    text = words.options.get("--seconds", f"{SECONDS:g}")
    try:
        return float(text)
    except ValueError:
        raise OptionError(f"--seconds takes a number, not {text!r:.40}") from None


COMMANDS = {
    "tune": Command(
        _tune,
        "PROGRAM rows=NAME [--seconds N] [--save FILE] or PROGRAM --load FILE   "
        "choose the batch's width and the engine's settings by measuring",
        MOST,
        {"--seconds": "N", "--save": "FILE", "--load": "FILE", "--apply": "PASSES", "--text": "", **FORCE},
    ),
}
