"""Commands for backends: show the one in use, choose another, list the names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from textwrap import fill
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from ...backends.names import KNOWN, LOCAL, Known
from ...contracts.capabilities import ABOUT
from ...contracts.ids import ForkId
from ...elsewhere import BackendLab, opened
from ...recorded import RecordedLab
from ...viz.draw import html, workers
from ..options import OptionError
from ..printing import say
from ..session import Session, named_with
from ..shell import Shell
from .command import Command, Words, aligned, current_lab, ready_lab, show

if TYPE_CHECKING:
    from ...backends.sglang.router import Worker


def _backend(shell: Shell, session: Session, words: Words) -> None:
    """`backend`, `backend NAME[:MODEL][@URL]`, `backend NAME MODEL`, and `backend list`."""
    name = words.name()
    if name == "list":
        _list(shell, session, words)
        return
    if name is None:
        if (model := session.unloaded_model()) is not None:
            say(f"backend: {LOCAL}, {model}, which the first cell loads")
        else:
            lab = current_lab(shell, session)
            tell(lab)
            if rows := _workers(lab):
                show(shell, words, workers.html(rows), aligned(workers.table(rows)), {"workers": len(rows)})
        return
    named = named_with(name, words.name(1))
    if named.name == LOCAL:
        session.go_local()
        tell(ready_lab(shell, session, named.model or None))
        return
    from ...labs import lab_named

    lab = lab_named(str(named))
    session.go_to(lab)
    tell(lab)
    if rows := _workers(lab):
        show(shell, words, workers.html(rows), aligned(workers.table(rows)), {"workers": len(rows)})


def _key(shell: Shell, session: Session, words: Words) -> None:
    """`key NAME`: NAME is a provider, or the `host:port` of a server."""
    name = words.name()
    if name is None:
        raise OptionError("whose key?", hint=f"such as %sgl key openai; {', '.join(_keyed())}, or HOST:PORT of a server")
    from ...backends.remote.keys import ask

    ask(name)
    say(f"the key for {name} is kept until the kernel ends; it is in no cell and no output")


def _keyed() -> list[str]:
    return [name for name, known in KNOWN.items() if known.keys]


def tell(lab: RecordedLab) -> None:
    """Print where programs run, and what of the language is refused there."""
    say(f"backend: {lab.title}, context {lab.card.context:,} tokens")
    if isinstance(lab, BackendLab):
        can = lab.card.capabilities
        lacking = [about.what for name, about in ABOUT.items() if about.asked_by and not getattr(can, name)]
        if lacking:
            say(fill(f"refused there: {', '.join(lacking)}", 96, subsequent_indent="  "))
        say("cells and programs without backend= run there; %sgl backend local comes back")


@runtime_checkable
class _Routes(Protocol):
    """A backend that may be a router in front of several servers."""

    def workers(self) -> Sequence[Worker]: ...

    def served(self) -> Mapping[ForkId, Mapping[str, int]]: ...


def _workers(lab: RecordedLab) -> list[workers.WorkerRow]:
    """The servers behind a router, if the lab's backend is one."""
    backend = lab.backend_for() if isinstance(lab, BackendLab) else None
    if not isinstance(backend, _Routes):
        return []
    return worker_rows(backend.workers(), backend.served(), workers.fork_names(lab.events()))


def worker_rows(
    found: Iterable[Worker], served: Mapping[ForkId, Mapping[str, int]], names: Mapping[ForkId, str]
) -> list[workers.WorkerRow]:
    """With the forks that each worker served, by the names of these forks."""
    rows = []
    for each in found:
        place = each.url.rstrip("/").partition("://")[2]
        forks = [(names.get(fork, f"fork {fork}"), n) for fork, counts in served.items() if (n := counts.get(place))]
        ordered = tuple(sorted(forks, key=lambda pair: (-pair[1], pair[0])))
        rows.append(workers.WorkerRow(place, each.is_healthy, each.load, each.n_requests, each.n_prompt, each.n_cached, ordered))
    return rows


def _list(shell: Shell, session: Session, words: Words) -> None:
    used = {lab.name: lab for lab in opened()}
    table = [("name", "what", "model", "state")]
    table += [(name, known.about, known.model, _state(name, known, used.get(name))) for name, known in KNOWN.items()]
    show(shell, words, html.grid(table), aligned(table), {"backends": len(KNOWN)})


def _state(name: str, known: Known, lab: BackendLab | None) -> str:
    if lab is not None:
        return f"in use: {lab.title}"
    if not known.is_installed:
        return f"needs {known.install}"
    if known.keys and not (found := known.keys_set()):
        return f"set {' or '.join(known.keys)}"
    if known.keys:
        return f"{found[0]} is set"
    if known.url == "":
        return f"{name}@http://HOST:PORT"
    return "ready" if not known.url else f"{known.url}, or {name}@http://HOST:PORT"


def _words(session: Session, before: Sequence[str]) -> tuple[str, ...]:
    return () if before else (*KNOWN, "list")


COMMANDS = {
    "backend": Command(
        _backend,
        "[NAME[:MODEL][@URL] | list] [MODEL] [--text]   show where programs run, go to another backend, list the backends",
        2,
        {"--text": ""},
        names_in=_words,
    ),
    "key": Command(
        _key, "NAME   enter the key of a provider or a server, without showing it", 1, names_in=lambda session, before: tuple(_keyed())
    ),
}
