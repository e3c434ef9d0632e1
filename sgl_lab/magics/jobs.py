"""Background cells: what `%%sgl --bg` starts, and the handle that it returns.

A job runs its body on a thread of its own. Everything that it prints, shows or raises is kept on
its handle and appears nowhere else. Where the handle is shown, it shows the live view until the job
is over, and the frozen view afterwards.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time
import traceback
from collections.abc import Callable, Generator, Iterator, Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotYet
from contextlib import suppress
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any

from ..contracts.errors import ProgramError, Stopped
from ..contracts.legible import clipped, legible
from ..lang.interrupts import is_below_us
from ..viz.draw import html
from ..viz.draw.numbers import counted
from ..viz.views import MetricsView
from .cell_view import live_panel, run_views, title_of
from .errors import user_frames
from .folded import Folded
from .options import OptionError
from .output import Bundle, Output, Pictures, in_kernel
from .printing import Printed, captured, route, say, unroute
from .shell import Shell

if TYPE_CHECKING:
    from ..lang.state import ProgramState
    from ..recorded import RecordedLab
    from ..trace import Record
    from ..viz.panel import Panel

MAX_RUNNING = 64
KEPT = 50
"""finished jobs that can still be queried"""
KEPT_LIVE = 8
"""finished jobs whose live view still answers reloaded pages"""
PATIENCE_S = 5.0
MAX_VALUE = 4_000
"""characters of a job's value"""

Work = Callable[["Job"], object]
"""Runs the body. It calls `begun` when the program has a state and `check` at every safe point, and
returns the value.
"""


def _how_it_ended(error: BaseException) -> str:
    return "it awaited a cancelled task" if isinstance(error, asyncio.CancelledError) else f"ended with {type(error).__name__}"


class Job:
    """One background cell. Displaying it shows its progress, and its result when it is over.

    status    running, loading while its model loads, done, stopped or error
    state     the program's state, once it exists; it keeps what was generated, whatever happens
    error     the exception that ended it, with the cell's own line
    printed   what its body printed and displayed, as text
    """

    def __init__(
        self,
        number: int,
        title: str,
        shell: Shell,
        views: tuple[str, ...],
        on_end: Callable[[Job], None],
        doors: Pictures | None = None,
        remark: Callable[[Record], str] = lambda record: "",
    ) -> None:
        self.number, self.title = number, title
        self.status = "running"
        self.state: ProgramState | None = None
        self.record: Record | None = None
        self.error: Exception | None = None
        self._shell, self._views, self._on_end, self._doors, self._remark = shell, views, on_end, doors, remark
        self._printed = Printed()
        self._began, self._ended_at = time.monotonic(), 0.0
        self._ended: Future[None] = Future()
        self._value: object = None
        self._trace: TracebackType | None = None
        self._stop: str | None = None
        self._lab: RecordedLab | None = None
        self._lock = threading.RLock()
        self._outputs: list[Output] = []
        self._panel: Panel | None = None
        self.frozen: tuple[Bundle, dict[str, object]] | None = None
        """its final picture and the metadata of that"""

    # ------------------------------------------------------------ for users

    @property
    def printed(self) -> str:
        return self._printed.text

    @property
    def is_over(self) -> bool:
        return self._ended.done()

    @property
    def n_tokens(self) -> int:
        """Number of tokens generated so far."""
        if self.record is None:
            return 0
        view = MetricsView(self.record.run)
        for entry in tuple(self.record.entries):
            view.fold(entry)
        return view.full()["generated"]

    @property
    def seconds(self) -> float:
        return (self._ended_at or time.monotonic()) - self._began

    def wait(self, seconds: float | None = None) -> bool:
        """Wait at most `seconds`. Returns whether the job is over."""
        with suppress(NotYet):
            self._ended.result(seconds)
        return self.is_over

    def result(self, timeout: float | None = None) -> Any:
        """The value of the cell's last expression, once the job is over. An exception of the body
        is raised here.

        TimeoutError after `timeout` seconds; the job continues.
        """
        __tracebackhide__ = True
        if not self.wait(timeout):
            raise TimeoutError(f"{self._name} is still {self.status} after {timeout:g} s; it continues")
        if self.error is not None:
            raise self.error.with_traceback(self._trace)
        return self._value

    def __await__(self) -> Generator[object, None, Any]:
        """Like `result`, while other tasks of the loop continue."""
        __tracebackhide__ = True
        yield from asyncio.wrap_future(self._ended).__await__()
        return self.result()

    def cancel(self) -> None:
        """Stop the job, as an interrupt stops a cell. What was generated is kept.

        A body that only computes stops at its next append or read.
        """
        with self._lock:
            if self.is_over:
                return
            self._stop = self._stop or f"{self._name} was stopped; the text generated so far is kept"
            state = self.state
        if state is not None:
            state.cancel(self._stop)

    def __repr__(self) -> str:
        words = f"{self.status}, {counted(self.n_tokens, 'token')} in {self.seconds:.1f} s"
        line = f"<{self._name}: {words}" + (f"; {type(self.error).__name__}: {self.error}" if self.status == "error" else "") + ">"
        return legible(f"{line}\n{self.error_line}" if self.error_line else line)

    @property
    def error_line(self) -> str:
        """The user's own line that raised, with its number; empty if there is none."""
        frames = list(traceback.extract_tb(self._trace))
        frames = [frame for frame in frames if not is_below_us(frame.filename)] or frames
        if self.status != "error" or not frames:
            return ""
        return f"line {frames[-1].lineno}: {frames[-1].line}"

    @property
    def _name(self) -> str:
        return f"job {self.number}, {self.title}"

    # ------------------------------------------------------------ for its body

    def check(self) -> None:
        """A safe point: raises Stopped if the job is to end."""
        if self._stop is not None:
            raise Stopped(self._stop)

    @property
    def print(self) -> Callable[..., None]:
        """The `print` of its body. Another cell's `%%capture` does not receive its output."""
        return partial(print, file=self._printed)

    def report(self, text: str, share: float | None) -> None:
        """Report the progress of loading the model, which is called only if something is loaded."""
        self.status = "loading"
        if self._panel is not None:
            self._panel.status("loading", text, share)

    def begun(self, lab: RecordedLab, record: Record, state: ProgramState) -> None:
        with self._lock:
            self._lab, self.record, self.state = lab, record, state
            self.status = "running"
            self._bind()
        if self._stop is not None:
            state.cancel(self._stop)

    # ------------------------------------------------------------ running

    def start(self, work: Work) -> None:
        context = contextvars.copy_context()
        threading.Thread(target=context.run, args=(self._run, work), name=f"sgl-job-{self.number}", daemon=True).start()

    def _run(self, work: Work) -> None:
        status = "done"
        with captured(self._printed, self._shell.display_pub):
            try:
                self._value = work(self)
                self.check()
            except (Stopped, KeyboardInterrupt) as error:
                status, self.error = "stopped", error if isinstance(error, Stopped) else Stopped(f"{self._name} was interrupted")
            except SystemExit as error:
                status, self.error = "error", RuntimeError(f"the body asked to exit ({error.code})")
            except Exception as error:
                status, self.error, self._trace = "error", error, user_frames(error.__traceback__)
            # an exception of a loop or generator would have another meaning where the result is
            # read
            except BaseException as error:
                self._trace = user_frames(error.__traceback__)
                status, self.error = "error", ProgramError(f"the body {_how_it_ended(error)}")
        try:
            self._end(status)
            self._on_end(self)
        finally:
            self._ended.set_result(None)

    def _end(self, status: str) -> None:
        with self._lock:
            self._ended_at = time.monotonic()
            self.status = status
            # a picture that cannot be drawn or shown must not block the reader of the result
            with suppress(Exception):
                self.frozen = self._freeze()
                if self._panel is not None:
                    self._panel.status(status)
                    self._panel.end()
                for output in self._outputs:
                    self._show_frozen(output)

    # ------------------------------------------------------------ showing

    def show(self) -> None:
        """Show the job in the running cell."""
        self._ipython_display_()

    def _ipython_display_(self) -> None:
        if not in_kernel(self._shell):
            say(self.frozen[0]["text/plain"] if self.frozen else repr(self))
            return
        with self._lock:
            if self.frozen is None and self._views and self._panel is None:
                self._panel = live_panel(self._name, self._views, self._on_message)
                self._bind()
            output = Output(self._shell)
            self._outputs.append(output)
            if self.frozen is None:
                output.show(self._running_bundle(), {}, self._panel)
            else:
                self._show_frozen(output)

    def _show_frozen(self, output: Output) -> None:
        if self.frozen is None:
            return
        if self._doors is not None and self._lab is not None and self.record is not None:
            self._doors.show(output, *self.frozen, self._lab, self.record)
        else:
            output.show(*self.frozen)

    def _running_bundle(self) -> Bundle:
        words = "this was still running when the notebook was saved" if self._panel is not None else self.status
        page = html.panel(self._name, "running", words, [])
        return {"text/html": page.source, "text/plain": repr(self)}

    def _bind(self) -> None:
        if self._panel is not None and self._lab is not None and self.record is not None:
            lab, run = self._lab, self.record.run
            self._panel.status(self.status)
            self._panel.bind(lab.ring, run_views(lab, run), lab.snapshot, since=self.record.snapshot.seq, title=self._title)

    def _on_message(self, message: Mapping[str, object]) -> None:
        if message.get("kind") == "stop" and self._panel is not None:
            self._panel.stopping()
            self.cancel()

    @property
    def _title(self) -> str:
        return f"{self._name} · {title_of(self._lab)}" if self._lab is not None else self._name

    def _freeze(self) -> tuple[Bundle, dict[str, object]]:
        status = "ok" if self.status == "done" else self.status
        message = f"{type(self.error).__name__}: {self.error}" if self.status == "error" else ""
        notes = [("Where it failed", f"{self.error_line}\n{message}")] if self.error_line else []
        notes += [("Value", value)] if (value := self._spelled_value()) else []
        notes += [("Printed", self.printed)] if self.printed else []
        if self.status != "stopped" and self.record is not None and (remark := self._remark(self.record)):
            notes.append(("Lint", remark))
        folded = None if self.record is None or self._lab is None else Folded.of(self._lab, self.record)
        if folded is None or (status == "error" and not folded.has_run):
            page = html.panel(self._name, status, message, [html.details(heading, html.plain(note)) for heading, note in notes])
            return {"text/html": page.source, "text/plain": repr(self)}, {}
        bundle = folded.bundle(self._views, self._title, status, message, notes)
        return bundle, {"sgl_lab": {"counts": folded.counts(), "status": status}}

    def _spelled_value(self) -> str:
        """The value as `Out` would show it."""
        if self._value is None:
            return ""
        try:
            return clipped(repr(self._value), MAX_VALUE)
        except Exception as error:  # it is the user's own error
            return f"<its repr raises {type(error).__name__}>"

    def forget_page(self) -> None:
        """Drop the live view. Pages that reload find the frozen one."""
        with self._lock:
            if self._panel is not None:
                self._panel.close()
                self._panel = None


class Jobs:
    """The jobs of one shell, by number."""

    def __init__(self) -> None:
        self._jobs: dict[int, Job] = {}
        self._n = 0
        self._lock = threading.Lock()

    def __iter__(self) -> Iterator[Job]:
        return iter(tuple(self._jobs.values()))

    def running(self) -> list[Job]:
        return [job for job in self if not job.is_over]

    def start(
        self,
        title: str,
        shell: Shell,
        views: tuple[str, ...],
        work: Work,
        on_end: Callable[[Job], None],
        doors: Pictures | None = None,
        remark: Callable[[Record], str] = lambda record: "",
    ) -> Job:
        """Run `work` in the background. OptionError if too many jobs are running.

        remark   a line about a recorded run that is part of its picture; empty for none
        """
        if len(self.running()) >= MAX_RUNNING:
            raise OptionError(f"{MAX_RUNNING} background cells are running already", hint="`%sgl jobs stop N` stops one")
        route()
        with self._lock:
            self._n += 1
            job = self._jobs[self._n] = Job(self._n, title, shell, views, on_end, doors, remark)
            over = [number for number, job in self._jobs.items() if job.is_over]
            for number in over[:-KEPT_LIVE]:
                self._jobs[number].forget_page()
            for number in over[:-KEPT]:
                del self._jobs[number]
        job.start(work)
        return job

    def after_cell(self) -> None:
        """Redirect the output streams again: `%%capture` may have restored those from before the
        job.
        """
        if self.running():
            route()

    def find(self, word: str) -> Job:
        job = self._jobs.get(int(word)) if word.isdigit() else None
        if job is None:
            known = ", ".join(map(str, self._jobs)) or "none"
            raise OptionError(f"there is no job {word!r}", hint=f"there are: {known}")
        return job

    def stop(self) -> int:
        """Cancel all jobs. Returns how many were running."""
        running = self.running()
        for job in running:
            job.cancel()
        return len(running)

    def close(self) -> None:
        """Cancel all jobs and wait briefly for them."""
        self.stop()
        end = time.monotonic() + PATIENCE_S
        for job in self:
            job.wait(max(0.0, end - time.monotonic()))
            job.forget_page()
        self._jobs.clear()
        unroute()
