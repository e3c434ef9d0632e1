"""What remains of a failed cell: a line, or the picture with the error."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from sgl_lab.contracts.events import CellStarted, Entry, ExprFinished
from sgl_lab.contracts.ids import ExprId
from sgl_lab.magics.cell_view import CellView
from sgl_lab.magics.output import Output
from sgl_lab.trace import Record

from .story import Stage, record_of
from .test_hostile_text import Shown

CARD = SimpleNamespace(device="cpu", dtype="int4", vocab=49_152)


def left(stage: Stage, record: Record, error: BaseException) -> dict[str, Any]:
    """The last output of a cell that ended with `error`."""
    shown = Shown()
    lab: Any = SimpleNamespace(model="smollm2", title="smollm2", card=CARD, evict="lru", spell=stage.spell, has_tree=True)
    view = CellView(shown.shell, Output(shown.shell), lab, record, ("tokens", "tree", "timeline"), lambda: None)
    view.__exit__(type(error), error, None)
    return shown.data[-1]


def test_what_fails_before_anything_ran_is_one_line_and_no_picture() -> None:
    stage = Stage()
    stage.emit(CellStarted(stage.run, "In[3]", "%%sgl"))
    fork = stage.open(label="s")
    stage.say(fork, "very " * 500, "user")
    found = left(stage, record_of(stage), ValueError("the regex has no end"))
    assert found["text/plain"] == "✕ nothing ran: ValueError: the regex has no end"
    assert len(found["text/html"]) < 400
    assert "\n" not in found["text/plain"]


def test_what_fails_in_a_run_keeps_its_picture_with_the_message_on_top_and_the_fork_marked() -> None:
    stage = Stage()
    main = stage.open(label="s")
    stage.say(main, "one two three")
    forks = [stage.open(main, number) for number in range(3)]
    stage.gen(*[(fork, "tip", f"an answer {fork}") for fork in forks])
    stage.entries.append(Entry(len(stage.entries), stage.entries[-1].t_ns, ExprFinished(forks[1], ExprId(9), "error", "no room")))
    found = left(stage, record_of(stage), ValueError("no room"))["text/html"]
    assert found.index("ValueError: no room") < found.index("from earlier runs")
    assert found.count("✕ failed here") == 1
    assert f"an answer {forks[2]}" in found
