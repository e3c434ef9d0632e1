"""What continues between cells: background jobs and the dashboard."""

from __future__ import annotations

from ...viz.draw import html
from ..options import OptionError, nearest
from ..output import in_kernel
from ..printing import say
from ..session import Session
from ..shell import Shell
from .command import Command, Words, aligned, current_lab, show


def _jobs(shell: Shell, session: Session, words: Words) -> None:
    if words.names:
        _stop_jobs(session, words)
        return
    jobs = list(session.jobs)
    rows = [("job", "cell", "state", "tokens", "seconds")]
    for job in jobs:
        note = f": {type(job.error).__name__}" if job.status == "error" else ""
        rows.append((str(job.number), job.title, job.status + note, f"{job.n_tokens:,}", f"{job.seconds:.1f}"))
    plain = aligned(rows) if jobs else "no background cell has run"
    running = sum(not job.is_over for job in jobs)
    show(shell, words, html.grid(rows) if jobs else html.plain(plain), plain, {"jobs": len(jobs), "running": running})


def _stop_jobs(session: Session, words: Words) -> None:
    verb, word = words.name(), words.name(1)
    if verb != "stop":
        raise nearest(str(verb), ("stop",), "word after `%sgl jobs`")
    if word is None:
        raise OptionError("which job?", hint="such as `%sgl jobs stop 1`, or `%sgl jobs stop all`")
    stopping = session.jobs.running() if word == "all" else [session.jobs.find(word)]
    for job in stopping:
        say(f"job {job.number} is {'over already' if job.is_over else 'being stopped'}")
        job.cancel()
    if not stopping:
        say("no job is running")


def _numbers(session: Session) -> dict[str, tuple[str, ...]]:
    return {"stop": ("all", *(str(job.number) for job in session.jobs.running()))}


def _dashboard(shell: Shell, session: Session, words: Words) -> None:
    verb = words.name()
    if verb == "off":
        if session.dashboard is None:
            raise OptionError("no dashboard is open")
        session.dashboard.close()
        session.dashboard = None
        return
    if verb is not None:
        raise nearest(verb, ("off",), "word after `%sgl dashboard`")
    from ..dashboard import Dashboard, picture

    lab = current_lab(shell, session)
    if not in_kernel(shell) or "--text" in words.options:
        say(picture(lab)["text/plain"])
        return
    if session.dashboard is None:
        session.dashboard = Dashboard(shell, lab, session.stop)
    session.dashboard.show()


COMMANDS = {
    "dashboard": Command(
        _dashboard,
        "[off] [--text]   one live view for all cells: every request of the engine, the queue, the tree",
        1,
        {"--text": ""},
        values=("off",),
    ),
    "jobs": Command(_jobs, "[stop N|all]   list or stop background cells", 2, {"--text": ""}, values=("stop",), after=_numbers),
}
