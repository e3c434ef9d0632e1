"""What the magics of one shell share: the lab, the interrupts of the cell that runs, the runs and what they are called.

A model is loaded on a thread of its own while the cell's thread waits in slices: an interrupt ends
the waiting, not the loading, and the next cell finds the lab ready or nearly so.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from ..contracts.errors import Stopped
from ..lang.interrupts import INTERRUPTS
from .jobs import Jobs
from .options import OptionError, nearest
from .printing import say
from .settings import Settings

if TYPE_CHECKING:
    from ..contracts.ids import RequestId, RunId
    from ..session import Lab
    from ..trace import Record
    from .dashboard import Dashboard

SLICE_S = 0.05
MAX_INTERACTS = 20
"""cells with controls that answer them"""

Report = Callable[[str, float | None], None]
"""(what is going on, share done or None)"""


class Open(Protocol):
    """What goes on after its cell has run, until it is closed."""

    def close(self) -> None: ...


class Session:
    def __init__(self, settings: Settings | None = None) -> None:
        self.settings = settings or Settings()
        self.last: Record | None = None
        """the run that was seen last"""
        self.interrupts = INTERRUPTS
        self.jobs = Jobs()
        self.dashboard: Dashboard | None = None
        self._interacts: list[Open] = []
        self.names: dict[str, RunId] = {}
        """of runs: what -o called their state"""
        self.pins: dict[str, tuple[Lab, RequestId]] = {}
        """by the names that `%sgl cache pin` was given"""
        self.replayed: dict[str, Record] = {}
        """runs that were read from files, by the files' names"""
        self._noticed: set[str] = set()
        """remarks of labs that were printed"""

    def runs(self) -> list[Record]:
        """Those of this session that are still kept, oldest first; runs that were read from files are not among them."""
        kept = {record.run: record for lab in _labs() for record in tuple(lab.records)}
        return [kept[run] for run in sorted(kept)]

    def answered(self) -> list[Record]:
        """Of `runs`, those in which the model said or chose something: a cell that failed before that is no run to compare with.

        All of them where there is no such run.
        """
        runs = self.runs()
        return [record for record in runs if record.has_answers] or runs

    def lab_of(self, record: Record) -> Lab | None:
        """The lab that the record is of; None if it was read from a file or its lab is closed."""
        labs = _labs()
        runs_now = not record.vocab and not any(read is record for read in self.replayed.values())  # a lab keeps a record when it has ended
        return next((lab for lab in labs if runs_now or any(kept is record for kept in tuple(lab.records))), None)

    def run(self, word: str | None = None) -> Record:
        """The run that was seen last, or the one that `word` names.

        -1 is the last that the model answered in, -2 the one before; a number is that of the cell (`In[5]` is 5); else a name
        given with -o, the title of a recording or the name of a file that was replayed.
        """
        runs = self.runs()
        if word is None:
            if self.last is None:
                raise OptionError("nothing has run yet", hint="run a %%sgl cell first")
            answered = [] if self.last.has_answers else self.answered()
            return answered[-1] if answered else self.last
        found: Record | None
        if word.startswith("-"):
            runs = self.answered()
            found = runs[int(word)] if 0 < -int(word) <= len(runs) else None
        else:
            wanted = (self.names.get(word), word, f"In[{word}]")
            found = self.replayed.get(word) or next((record for record in reversed(runs) if {record.run, record.title} & {*wanted}), None)
        if found is not None:
            return found
        names = self.run_names()
        raise nearest(word, names, "run") if names else OptionError(f"there is no run {word!r}", hint="run a %%sgl cell first")

    def run_names(self) -> tuple[str, ...]:
        """What runs can be called: numbers of cells and titles, names of -o, names of files."""
        runs = self.runs()
        kept = {record.run for record in runs}
        numbers = [record.title.removeprefix("In[").removesuffix("]") for record in runs]
        return tuple(dict.fromkeys([*numbers, *(name for name, run in self.names.items() if run in kept), *self.replayed]))

    def ready_lab(
        self, report: Report, model: str | None = None, device: str | None = None, *, check: Callable[[], None] | None = None
    ) -> Lab:
        """The default lab, loaded if need be; with `model` or `device`, a lab of that takes its place. ModelError, Stopped.

        `check` raises where whoever waits is to be stopped; it is the cell's own by default.
        """
        from ..labs import LABS
        from ..session import BUILT_IN

        settings = self.settings
        attempt = LABS.loading(model, device, first=settings.model or BUILT_IN, first_device=settings.device)
        try:
            while not attempt.wait(SLICE_S):
                report(attempt.text, attempt.share)
                (check or self.interrupts.check)()
        except KeyboardInterrupt:
            raise Stopped(f"stopped waiting: {attempt.model} goes on loading and will be there for a later cell") from None
        lab = attempt.lab()
        for notice in (attempt.remark, lab.notice):
            if notice is not None and notice not in self._noticed:
                self._noticed.add(notice)
                say(f"sgl: {notice}")
        return lab

    def keep_open(self, interact: Open) -> None:
        """A cell with controls listens to its page from now on; the oldest of many no longer does."""
        self._interacts.append(interact)
        while len(self._interacts) > MAX_INTERACTS:
            self._interacts.pop(0).close()

    def close(self) -> None:
        """End what goes on between cells."""
        for interact in self._interacts:
            interact.close()
        if self.dashboard is not None:
            self.dashboard.close()
        self.jobs.close()

    def after_cell(self, *_: object) -> None:
        """What has to be put right when any cell of the notebook has run."""
        self.jobs.after_cell()
        if self.dashboard is not None:
            self.dashboard.after_cell()

    def stop(self) -> tuple[int, int]:
        """Abort everything; returns how many jobs and requests that were."""
        from ..labs import LABS

        return self.jobs.stop(), LABS.stop()


def _labs() -> list[Lab]:
    from ..labs import LABS

    return [lab for lab in (LABS.current, *LABS.parked) if lab is not None]
