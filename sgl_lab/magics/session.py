"""The session of one shell, which its magics share: the lab, the running cell's interrupts, the
runs and their names.

A model is loaded on a thread of its own while the cell's thread waits in slices. An interrupt ends
the waiting, not the loading, so the next cell finds the lab ready or nearly ready.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from ..backends.names import LOCAL, Named, parsed
from ..contracts.errors import BadArgument, Stopped
from ..elsewhere import opened
from ..lang.interrupts import INTERRUPTS
from .jobs import Jobs
from .options import CellOptions, OptionError, nearest
from .printing import say
from .settings import Settings

if TYPE_CHECKING:
    from ..contracts.ids import Namespace, RequestId, RunId
    from ..recorded import RecordedLab
    from ..serve import Door
    from ..session import Lab
    from ..trace import Record
    from ..viz.explain.attribution.blame import Blame
    from ..viz.explain.versions import Grid
    from .dashboard import Dashboard

SLICE_S = 0.05
MAX_INTERACTS = 20
"""cells with controls that still respond"""

Report = Callable[[str, float | None], None]
"""(what is being done, share done or None)"""


class Open(Protocol):
    """Something that continues after its cell until it is closed."""

    def close(self) -> None: ...


class Session:
    def __init__(self, settings: Settings | None = None) -> None:
        self.settings = settings or Settings()
        self.last: Record | None = None
        """the run that was shown last"""
        self.interrupts = INTERRUPTS
        self.jobs = Jobs()
        self.is_local = False
        """whether `%sgl backend local` or `%sgl model NAME` ran last: the setting does not apply"""
        self.dashboard: Dashboard | None = None
        self.door: Door | None = None
        self._interacts: list[Open] = []
        self.names: dict[str, RunId] = {}
        """runs by the name that -o gave their state"""
        self.pins: dict[str, tuple[Lab, RequestId]] = {}
        """pins by the name given to `%sgl cache pin`"""
        self.replayed: dict[str, Record] = {}
        """runs read from files, by the files' names"""
        self.blamed: dict[tuple[RunId, str], Blame] = {}
        """what `%sgl blame` found, by run and title of the answer"""
        self.explorers: dict[tuple[RunId, RequestId], Open] = {}
        """explorations by the run and the request of their gen"""
        self.doors: Open | None = None
        """pictures of ended runs, with their buttons"""
        self.grids: dict[str, Grid] = {}
        """results of cells with --over by their names, the latest last"""
        self._noticed: set[str] = set()
        """notices of labs that were printed already"""

    def runs(self) -> list[Record]:
        """The kept runs of this session and of clients, oldest first. Runs read from files are not
        included.
        """
        kept = {record.run: record for lab in _labs() for record in (*lab.records, *lab.guests)}
        return [kept[run] for run in sorted(kept)]

    def answered(self) -> list[Record]:
        """The `runs` in which the model generated or chose something. A cell that failed before
        that is not worth comparing.

        If there are none, all runs.
        """
        runs = self.runs()
        return [record for record in runs if record.has_answers] or runs

    def lab_of(self, record: Record) -> RecordedLab | None:
        """The lab that produced the record; None if the record was read from a file or its lab is
        closed.
        """
        labs = _labs()
        if (host := next((lab for lab in labs if any(guest is record for guest in lab.guests)), None)) is not None:
            return host
        # a lab keeps a record after its end
        runs_now = not record.vocab and not any(read is record for read in self.replayed.values())
        return next((lab for lab in labs if runs_now or any(kept is record for kept in tuple(lab.records))), None)

    def lab_with(self, namespace: Namespace | None) -> RecordedLab | None:
        """A lab whose model has that namespace: it can score what another session recorded."""
        if namespace is None:
            return None
        return next((lab for lab in _labs() if (own := lab.card.namespace) and namespace[: len(own)] == own), None)

    def run(self, word: str | None = None) -> Record:
        """The run that was shown last, or the one that `word` names.

        -1 is the last run that the model answered, -2 the one before. A number is that of the cell
        (`In[5]` is 5). Otherwise it is a name given with -o, the title of a recording or the name
        of a replayed file. OptionError if there is no such run.
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
            if not 0 < -int(word) <= len(runs):
                hint = f"-1 is the last of {len(runs)}, -{len(runs)} the first" if runs else "run a %%sgl cell first"
                raise OptionError(f"there is no run {word!r}", hint=hint)
            found = runs[int(word)]
        else:
            wanted = (self.names.get(word), word, f"In[{word}]")
            running = [job.record for job in self.jobs.running() if job.record is not None]
            found = self.replayed.get(word) or next((one for one in reversed([*runs, *running]) if {one.run, one.title} & {*wanted}), None)
        if found is not None:
            return found
        names = self.run_names()
        raise nearest(word, names, "run") if names else OptionError(f"there is no run {word!r}", hint="run a %%sgl cell first")

    def run_names(self) -> tuple[str, ...]:
        """All names of runs: numbers of cells and titles, names given with -o, names of files."""
        runs = self.runs()
        kept = {record.run for record in runs}
        numbers = [record.title.removeprefix("In[").removesuffix("]") for record in runs]
        return tuple(dict.fromkeys([*numbers, *(name for name, run in self.names.items() if run in kept), *self.replayed]))

    def lab_for(self, report: Report, options: CellOptions, *, check: Callable[[], None] | None = None) -> RecordedLab:
        """The lab that a cell with these options runs on, loaded if necessary."""
        name = options.backend
        if name is None and options.model is None and options.device is None:
            return self.current_lab(report, check=check)
        named = None if name is None else named_with(name, options.model)
        if named is None or named.name == LOCAL:
            return self.ready_lab(report, (named.model if named else "") or options.model, options.device, check=check)
        if options.device is not None:
            raise OptionError(f"--device is of the engine in this kernel, and -b {name} is elsewhere", hint="leave one of them out")
        from ..labs import lab_named

        return lab_named(str(named))

    def current_lab(self, report: Report, *, check: Callable[[], None] | None = None) -> RecordedLab:
        """The lab of cells without options: that of the default backend, of `%sgl backend` or of the
        setting; the engine in this kernel if none is set.
        """
        from ..lang import default

        if (chosen := default.chosen()) is not None:
            from ..labs import lab_of

            return lab_of(chosen)
        name = None if self.is_local else self.settings.backend
        if name is None or (named := named_with(name)).name == LOCAL:
            return self.ready_lab(report, check=check)
        from ..labs import lab_named

        return lab_named(str(named))

    def unloaded_model(self) -> str | None:
        """The model that the next cell loads into this kernel; None if it loads none."""
        from ..labs import LABS
        from ..lang import default
        from ..session import BUILT_IN

        name = None if self.is_local else self.settings.backend
        is_here = default.chosen() is None and (name is None or named_with(name).name == LOCAL)
        return (self.settings.model or BUILT_IN) if is_here and LABS.current is None else None

    def go_local(self) -> None:
        """Cells run on the engine in this kernel from now on."""
        from ..lang import default

        default.set_default_backend(None)
        self.is_local = True

    def go_to(self, lab: RecordedLab) -> None:
        """Cells, and programs without `backend=`, run on this lab from now on."""
        from ..lang import default

        default.set_default_backend(lab.backend_for())
        self.is_local = False
        if self.dashboard is not None:
            self.dashboard.follow(lab)

    def ready_lab(
        self, report: Report, model: str | None = None, device: str | None = None, *, check: Callable[[], None] | None = None
    ) -> Lab:
        """The lab with an engine in this kernel, loaded if necessary. With `model` or `device`, one
        with these replaces it. ModelError; Stopped if the waiting is interrupted.

        `check` raises if the waiting must end; by default it is that of the cell.
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
            raise Stopped(f"stopped waiting: {attempt.model} continues to load and will be ready for a later cell") from None
        lab = attempt.lab()
        for notice in (attempt.remark, lab.notice):
            if notice is not None and notice not in self._noticed:
                self._noticed.add(notice)
                say(f"sgl: {notice}")
        return lab

    def keep_open(self, interact: Open) -> None:
        """Keep the controls of a cell responding. Of too many the oldest is closed."""
        self._interacts.append(interact)
        while len(self._interacts) > MAX_INTERACTS:
            self._interacts.pop(0).close()

    def close(self) -> None:
        """End everything that continues between cells."""
        for interact in self._interacts:
            interact.close()
        if self.doors is not None:
            self.doors.close()
        if self.dashboard is not None:
            self.dashboard.close()
        if self.door is not None:
            self.door.close()
        self.jobs.close()

    def after_cell(self, *_: object) -> None:
        """Runs after every cell of the notebook and restores what the cell may have changed."""
        self.jobs.after_cell()
        if self.dashboard is not None:
            self.dashboard.after_cell()

    def stop(self) -> tuple[int, int]:
        """Abort everything. Returns the numbers of jobs and requests."""
        from ..labs import LABS

        return self.jobs.stop(), LABS.stop() + sum(lab.stop() for lab in opened())


def named_with(text: str, model: str | None = None) -> Named:
    """The backend that a name stands for; `model` is that of `-m`. OptionError if it is wrong."""
    try:
        named = parsed(text)
    except BadArgument as error:
        raise OptionError(error.message, hint=error.hint) from None
    if model is not None and named.model:
        raise OptionError(f"the model is given twice: {named.model} and {model}", hint="leave one of them out")
    return named if model is None else named._replace(model=model)


def _labs() -> list[RecordedLab]:
    from ..labs import LABS

    return [lab for lab in (LABS.current, *LABS.parked, *opened()) if lab is not None]
