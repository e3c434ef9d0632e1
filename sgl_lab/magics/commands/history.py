"""Shows what a run did: its lanes and its tokens."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from ...viz.draw import experts, still, text
from ...viz.draw import inspection as draw_inspection
from ...viz.draw.escape import joined
from ...viz.freeze import LIMIT
from ...viz.views.experts import load_of
from ...viz.views.inspection import STEP, Inspection, inspections
from ..folded import Folded
from ..options import OptionError, nearest
from ..output import in_kernel
from ..session import Session
from ..shell import Shell
from .command import Command, Words, show

if TYPE_CHECKING:
    from ...trace import Record

MAX_NAMES = 60
"""names offered for completion"""


def _timeline(shell: Shell, session: Session, words: Words) -> None:
    bars = Folded(session.run(words.name())).lanes.full()
    show(shell, words, still.frame([still.lanes(bars)]), text.lanes(bars), {"lanes": len(bars["lanes"])})


def _tokens(shell: Shell, session: Session, words: Words) -> None:
    """`tokens`, `tokens NAME`, `tokens RUN` and `tokens RUN NAME`: the exact prompts and answers of
    a run, all of them or those under a name; of a mixture of experts also who computed them.
    """
    record, name = run_and_name(session, words)
    found = inspections(record.entries)
    chosen = [one for one in found if name is None or is_called(one, name)]
    if not found:
        raise OptionError(f"{record.title} sent no request to the model")
    if not chosen:
        raise nearest(str(name), names_of(found), f"gen, select or fork of {record.title}")
    load = load_of(record.entries)
    if (layer := words.options.get("--layer")) is not None:
        _show_layer(chosen, layer)
    lab = session.lab_of(record)
    spell = record.spell if lab is None else lab.spell
    page, plain = draw_inspection.listing(chosen, spell, LIMIT, is_text="--text" in words.options or not in_kernel(shell))
    counts = {"prompt_tokens": sum(len(one.prompt) for one in chosen), "completion_tokens": sum(len(one.samples) for one in chosen)}
    if load is not None:
        page, plain = joined([experts.html(load), page]), f"{experts.text(load)}\n\n{plain}"
        counts |= {"routed_tokens": load.n_tokens}
    show(shell, words, page, plain, counts)


def _show_layer(chosen: Iterable[Inspection], word: str) -> None:
    """Colour tokens by what they chose in one layer. OptionError unless it has experts."""
    for one in chosen:
        if one.routes is None:
            raise OptionError("--layer is for models with experts, and this run's has none", hint="leave it out")
        layers = one.routes.layers
        if not word.isdecimal() or int(word) not in layers:
            raise OptionError(f"--layer {word} has no experts", hint=f"give a number from {layers[0]} to {layers[-1]}")
        one.routes = one.routes.of_layer(int(word))


def run_and_name(session: Session, words: Words) -> tuple[Record, str | None]:
    """A single word is a name in the last run if one exists, otherwise a run."""
    first, second = words.name(), words.name(1)
    if second is not None:
        return session.run(first), second
    last = session.run()
    if first is None:
        return last, None
    found = inspections(last.entries)
    if any(is_called(one, first) for one in found):
        return last, first
    try:
        return session.run(first), None
    except OptionError:
        raise nearest(first, (*names_of(found), *session.run_names()), f"gen, select or fork of {last.title}, or run") from None


def is_called(one: Inspection, name: str) -> bool:
    """Whether `name` is the inspection's own name, the name of a fork that contains it, or both, as
    `s[0] > answer`.
    """
    steps = re.split(r"\s*[›>]\s*", name)
    path = one.title.split(STEP)
    return name in path or steps in (path[: len(steps)], path[-len(steps) :])


def names_of(found: Iterable[Inspection]) -> tuple[str, ...]:
    """The names that `is_called` accepts, shortest first."""
    paths = [one.title.split(STEP) for one in found]
    steps = [path[-1] for path in paths] + [step for path in paths for step in path[:-1]]
    return tuple(dict.fromkeys([*steps, *(one.title for one in found)]))


def completions(session: Session, before: Sequence[str]) -> tuple[str, ...]:
    """The names in the given run, or in the last one."""
    with suppress(OptionError):
        return names_of(inspections(session.run(before[0] if before else None).entries))[:MAX_NAMES]
    return ()


COMMANDS = {
    "timeline": Command(_timeline, "[RUN] [--text]   the timeline of the last run, or of RUN", 1, {"--text": ""}, takes_runs=True),
    "tokens": Command(
        _tokens,
        "[RUN] [NAME] [--layer N] [--text]   exact prompts and answers with token ids: of the last run or RUN, of the gen or fork "
        "NAME; in the colours of the experts that they chose, if the model has some, in all layers or in layer N",
        2,
        {"--text": "", "--layer": "the number of a layer"},
        takes_runs=True,
        names_in=completions,
    ),
}
