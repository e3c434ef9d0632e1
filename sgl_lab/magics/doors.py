"""Pictures of runs that have ended, each with a button that explores the run below it.

The button asks this kernel, and works as long as the kernel holds the run and its model.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

from ..contracts.errors import SglError
from ..contracts.events import RequestQueued
from ..contracts.ids import RunId
from ..viz.views.inspection import Inspection, inspections
from .output import MOUNT_ATTRIBUTE, Bundle, Output, stacked
from .shell import Shell

if TYPE_CHECKING:
    from ..recorded import RecordedLab
    from ..trace import Record
    from ..viz.door import Door
    from ..viz.panel import Panel
    from .session import Session

Metadata = Mapping[str, object]


@dataclass
class Picture:
    """The output of a run that has ended, and explorations below it."""

    output: Output
    data: Bundle
    metadata: Metadata
    attributes: dict[str, str]
    below: dict[str, Bundle] = field(default_factory=dict)
    """what explorations show, by the names of their panels"""

    def draw(self) -> None:
        if not self.below:
            self.output.show(self.data, self.metadata, attributes=self.attributes)
            return
        below = [({MOUNT_ATTRIBUTE: mount}, data) for mount, data in self.below.items()]
        self.output.show(stacked([(self.attributes, self.data), *below]), self.metadata)

    def show(self, data: Mapping[str, object], metadata: Metadata | None = None, panel: Panel | None = None) -> None:
        """Show the exploration of this panel below the run."""
        if panel is not None:
            self.below[panel.mount] = {name: str(each) for name, each in data.items()}
            self.draw()


class Doors:
    """The pictures of one shell. Methods may be called from any thread."""

    def __init__(self, shell: Shell, session: Session) -> None:
        self._shell, self._session = shell, session
        self._lock = threading.Lock()
        self._pictures: dict[RunId, Picture] = {}
        self._door: Door | None = None

    def show(self, output: Output, data: Bundle, metadata: Metadata, lab: RecordedLab, record: Record) -> None:
        """Show the picture of a run that has ended; with a button, if it can be explored."""
        from ..explore.exploration import backend_of

        if backend_of(lab) is None or not any(isinstance(e.event, RequestQueued) and e.event.kind == "gen" for e in record.entries):
            output.show(data, metadata)
            return
        run = record.run
        with self._lock:
            if self._door is None:
                from ..viz.door import Door

                self._door = Door(self._on_press)
            held = {record.run for record in self._session.runs()}
            self._pictures = {known: picture for known, picture in self._pictures.items() if known in held}
            picture = self._pictures[run] = Picture(output, data, metadata, self._door.attributes(run))
            self._door.hold(self._pictures)
        picture.draw()

    def close(self) -> None:
        if self._door is not None:
            self._door.close()

    def _on_press(self, run: int, message: Mapping[str, object]) -> None:
        threading.Thread(target=self._open, args=(RunId(run), message), name="sgl-open", daemon=True).start()

    def _open(self, run: RunId, message: Mapping[str, object]) -> None:
        door = cast("Door", self._door)
        try:
            place = self._explore(run, message)
        except SglError as error:
            door.refused(run, f"{error.message}{'; ' if error.hint else ''}{error.hint or ''}")
        except Exception as error:
            door.refused(run, f"{type(error).__name__}: {error}")
        else:
            door.opened(run, place)

    def _explore(self, run: RunId, message: Mapping[str, object]) -> str:
        """Explore the gen that is meant, below the picture. Returns the name of the panel's element."""
        from .explore import explorer_of

        record = next((record for record in self._session.runs() if record.run == run), None)
        picture = self._pictures.get(run)
        if record is None or picture is None:
            raise SglError("this kernel no longer has that run", hint="run its cell again")
        fork, position = message.get("fork"), message.get("position")
        gens = [one for one in inspections(tuple(record.entries)) if one.kind == "gen"]
        one = _at(gens, fork if type(fork) is int else None, position if type(position) is int else None)
        lab = self._session.lab_of(record)
        if lab is None or not lab.is_open:
            raise SglError(f"the model of {record.title} is gone", hint="run its cell again")
        explorer = explorer_of(self._shell, self._session, lab, record, one)
        return explorer.show(picture)


def doors_of(shell: Shell, session: Session) -> Doors:
    """Those of this session."""
    doors = session.doors
    if not isinstance(doors, Doors):
        doors = session.doors = Doors(shell, session)
    return doors


def _at(gens: list[Inspection], fork: int | None, position: int | None) -> Inspection:
    """The gen of this fork whose answer has the token at `position`; else the last one that begins before
    it, or the last of the fork. Of a fork without a gen, the last of the run.
    """
    mine = [one for one in gens if one.fork == fork]
    if position is not None:
        mine = [one for one in mine if len(one.prompt) <= position] or mine[:1]
    return (mine or gens)[-1]
