"""The live panel of an exploration: what a page asks for is done one after the other, on a thread of
its own, and after a short pause the output is drawn again, so that a saved notebook has the last
picture.
"""

from __future__ import annotations

import keyword
import threading
from collections.abc import Callable, Mapping
from queue import SimpleQueue
from typing import TYPE_CHECKING

from ..contracts.errors import BadArgument, SglError
from ..contracts.events import Sample
from .cell_view import live_panel, run_views, views_for
from .folded import Folded, about
from .output import Output, Showing, in_kernel
from .printing import say
from .shell import Shell

if TYPE_CHECKING:
    from ..contracts.ids import RunId
    from ..explore.exploration import Exploration
    from ..recorded import RecordedLab
    from ..trace import Record
    from ..viz.panel import Panel
    from ..viz.views.inspection import Inspection
    from .session import Session

REST_S = 1.5
VIEWS = ("tree", "timeline")
SHOWN = 400
"""tokens of a planned prompt that are sent to the page"""

Message = Mapping[str, object]


class Explorer:
    """One exploration and its panel, if there is a page.

    `names` receives the run of each state that is kept, by the name of its variable.
    """

    def __init__(self, shell: Shell, exploration: Exploration, names: dict[str, RunId]) -> None:
        self._shell, self._names = shell, names
        self.exploration = exploration
        self._output: Showing = Output(shell)
        self._panel: Panel | None = None
        self._asked: SimpleQueue[Message | None] = SimpleQueue()
        self._timer: threading.Timer | None = None
        self._thread: threading.Thread | None = None

    @property
    def title(self) -> str:
        exploration = self.exploration
        return f"{exploration.title} · {exploration.lab.title}"

    def show(self, output: Showing | None = None) -> str:
        """Show it in the running cell, or in an output of before: live in a page, where its earlier
        output keeps its picture. Returns the name of the panel's element; empty without a page.
        """
        lab, record = self.exploration.lab, self.exploration.record
        self._output = output or Output(self._shell)
        if in_kernel(self._shell) and self._panel is None:
            views = views_for(lab, VIEWS)
            self._panel = live_panel(self.title, views, self._on_message, explore=True, **about(lab))
            self._panel.status("done")
            self._panel.bind(lab.ring, run_views(lab, record.run), lab.snapshot, since=record.snapshot.seq)
            self._thread = threading.Thread(target=self._work, name="sgl-explore", daemon=True)
            self._thread.start()
        self.draw()
        return self._panel.mount if self._panel is not None else ""

    def draw(self) -> None:
        """Replace the output by the current picture."""
        if in_kernel(self._shell):
            folded = self._folded()
            self._output.show(folded.bundle(VIEWS, self.title), {"sgl_lab": {"counts": folded.counts(), "status": "ok"}}, self._panel)

    def text(self) -> str:
        from ..viz.draw import explore

        return explore.text(self.exploration.picture())

    def keep(self, branch: int, name: str) -> None:
        """Put the state of a branch into a variable of the notebook."""
        if not name.isidentifier() or keyword.iskeyword(name):
            raise BadArgument(f"{name!r:.40} is no name of a variable")
        if branch not in self.exploration.branches:
            raise BadArgument("only a branch can be kept; the answer is in the state of its cell")
        self._shell.user_ns[name] = self.exploration.branches[branch].state
        self._names[name] = self.exploration.run

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._asked.put(None)
        if self._panel is not None:
            self._panel.close()
            self._panel = None
        self.exploration.close()

    # ------------------------------------------------------------ what a page asks for

    def _on_message(self, message: Message) -> None:
        if message.get("kind") == "stop":
            self.exploration.stop()
        elif message.get("kind") in _ACTS:
            self._asked.put(message)

    def _work(self) -> None:
        while (message := self._asked.get()) is not None:
            panel = self._panel
            if panel is None:
                return
            if self._timer is not None:
                self._timer.cancel()
            panel.status("running")
            try:
                answer = _ACTS[str(message["kind"])](self, message)
                panel.tell(kind="explored", of=str(message["kind"]), **answer)
            except SglError as error:
                panel.tell(kind="explored", of="error", text=f"{error.message}{'; ' if error.hint else ''}{error.hint or ''}")
            except Exception as error:
                panel.tell(kind="explored", of="error", text=f"{type(error).__name__}: {error}")
            panel.status("done")
            self._timer = threading.Timer(REST_S, self.draw)
            self._timer.daemon = True
            self._timer.start()

    def _folded(self) -> Folded:
        return Folded.of(self.exploration.lab, self.exploration.record)


def _number(message: Message, name: str, low: float, high: float) -> float:
    value = message.get(name)
    if type(value) not in (int, float) or not low <= float(value) <= high:  # type: ignore[arg-type]  # its type is checked
        raise BadArgument(f"{name} must be a number from {low:g} to {high:g}")
    return float(value)  # type: ignore[arg-type]  # as above


def _whole(message: Message, name: str) -> int:
    return int(_number(message, name, 0, 1e9))


def _text(message: Message, name: str) -> str:
    value = message.get(name)
    if not isinstance(value, str) or len(value) > 1_000_000:
        raise BadArgument(f"{name} must be a text")
    return value


def _branch(explorer: Explorer, message: Message) -> dict[str, object]:
    made = explorer.exploration.branch(_whole(message, "branch"), _whole(message, "at"), _whole(message, "token"))
    return {"branch": made.number}


def _refused(explorer: Explorer, message: Message) -> dict[str, object]:
    exploration, line, at = explorer.exploration, _whole(message, "line"), _whole(message, "at")
    return {"line": line, "at": at, "tokens": exploration.refused(line, at), "why": exploration.why_refused}


def _more(explorer: Explorer, message: Message) -> dict[str, object]:
    n, heat = int(_number(message, "n", 1, 64)), _number(message, "temperature", 0, 5)
    made = explorer.exploration.more(_whole(message, "branch"), _whole(message, "at"), n, heat)
    return {"branch": made[0].number}


def _plan(explorer: Explorer, message: Message) -> dict[str, object]:
    exploration = explorer.exploration
    planned = exploration.edited(_whole(message, "piece"), _text(message, "text"))
    first = max(0, planned.n_cached - SHOWN // 4)
    toks = [exploration.lab.spell(token) for token in planned.prompt[first : first + SHOWN]]
    counts = {"cached": planned.n_cached, "computed": planned.n_computed}
    return {"piece": _whole(message, "piece"), "toks": toks, "n_cached": planned.n_cached - first, "before": first, **counts}


def _edit(explorer: Explorer, message: Message) -> dict[str, object]:
    return {"branch": explorer.exploration.edit(_whole(message, "piece"), _text(message, "text")).number}


def _rename(explorer: Explorer, message: Message) -> dict[str, object]:
    explorer.exploration.rename(_whole(message, "branch"), _text(message, "text"))
    return {}


def _pin(explorer: Explorer, message: Message) -> dict[str, object]:
    explorer.exploration.pin(_whole(message, "branch"), is_pinned=message.get("on") is True)
    return {}


def _delete(explorer: Explorer, message: Message) -> dict[str, object]:
    explorer.exploration.delete(_whole(message, "branch"))
    return {}


def _undo(explorer: Explorer, message: Message) -> dict[str, object]:
    return {"text": "" if explorer.exploration.undo() else "there is nothing to undo"}


def _keep(explorer: Explorer, message: Message) -> dict[str, object]:
    name = _text(message, "text")
    explorer.keep(_whole(message, "branch"), name)
    return {"text": f"kept as {name}"}


def _copy(explorer: Explorer, message: Message) -> dict[str, object]:
    return {"text": explorer.exploration.as_cell(_whole(message, "branch"), cell_options(explorer.exploration))}


_ACTS: dict[str, Callable[[Explorer, Message], dict[str, object]]] = {
    "branch": _branch,
    "refused": _refused,
    "more": _more,
    "plan": _plan,
    "edit": _edit,
    "rename": _rename,
    "pin": _pin,
    "delete": _delete,
    "undo": _undo,
    "keep": _keep,
    "copy": _copy,
}


def cell_options(exploration: Exploration) -> str:
    """The options that make a cell run where the exploration does."""
    from ..session import BUILT_IN, Lab

    lab = exploration.lab
    return f"-m {lab.model}" if isinstance(lab, Lab) and lab.model != BUILT_IN else ""


def has_alternatives(answer: tuple[Sample, ...]) -> bool:
    return any(sample.top for sample in answer)


def explorer_of(shell: Shell, session: Session, lab: RecordedLab, record: Record, one: Inspection) -> Explorer:
    """The open exploration of this gen, or a new one."""
    from ..explore.exploration import Exploration

    key = (record.run, one.request)
    known = session.explorers.get(key)
    if not isinstance(known, Explorer) or known.exploration.is_closed:
        exploration = Exploration(lab, record, one, check=session.interrupts.check)
        known = session.explorers[key] = Explorer(shell, exploration, session.names)
        session.keep_open(known)
        if exploration.n_asked:
            say(f"{record.title} was recorded without alternatives: those of {exploration.n_asked:,} tokens were computed now")
    return known
