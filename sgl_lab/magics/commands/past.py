"""What a run did: its lanes, its tokens."""

from __future__ import annotations

from typing import Any

from ...viz.draw import asked as draw_asked
from ...viz.draw import svg, text
from ...viz.draw.escape import joined
from ...viz.views.asked import asked
from ..desk import Desk
from ..options import OptionError, nearest
from ..show import Folded
from .command import Command, Words, picture, show


def _timeline(shell: Any, desk: Desk, words: Words) -> None:
    bars = Folded(desk.run(words.name())).lanes.full()
    picture(shell, words, svg.lanes(bars), text.lanes(bars), {"lanes": len(bars["lanes"])})


def _tokens(shell: Any, desk: Desk, words: Words) -> None:
    """Of the last run: what the model saw and said, under a name or everywhere."""
    record, name = desk.run(), words.name()
    found = asked(record.entries)
    chosen = [one for one in found if name in (None, one.name)]
    if not chosen:
        if found:
            raise nearest(str(name), {one.name: None for one in found}, "gen or select of the last run")
        raise OptionError("the last run asked the model nothing")
    plain = "\n\n".join(draw_asked.text(one, record.spell) for one in chosen)
    counts = {"prompt_tokens": sum(len(one.prompt) for one in chosen), "completion_tokens": sum(len(one.samples) for one in chosen)}
    show(shell, words, joined([draw_asked.html(one, record.spell) for one in chosen]), plain, counts)


COMMANDS = {
    "timeline": Command(_timeline, "[RUN] [--text]   the lanes of the last run, or of RUN", 1, {"--text": ""}, takes_runs=True),
    "tokens": Command(
        _tokens, "[NAME] [--text]   the tokens, with ids, that a gen or select of the last run saw and said", 1, {"--text": ""}
    ),
}
