"""Commands for the cache: flush it, pin a prefix in it, show its counts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...viz.draw import html
from ...viz.draw.numbers import counted, percent
from ..jobs import Job
from ..options import OptionError, nearest
from ..printing import say
from ..session import Session
from ..shell import Shell
from .command import Command, Words, current_lab, engine_of, show

if TYPE_CHECKING:
    from ...session import Lab


def _cache(shell: Shell, session: Session, words: Words) -> None:
    verb, name = words.name() or "stats", words.name(1)
    if verb not in VERBS:
        raise nearest(verb, VERBS, "word after `%sgl cache`")
    if name is not None and verb in ("flush", "stats"):
        raise OptionError(f"%sgl cache {verb} takes no further word: {name!r}")
    if verb == "unpin":
        _unpin(session, name)
        return
    current = current_lab(shell, session)
    if verb == "flush" and not hasattr(current, "pin"):
        current.flush()
        say(f"flushed: {current.title}")
        return
    lab = engine_of(current, f"%sgl cache {verb}")
    if verb == "pin":
        _pin(shell, session, lab, name)
    elif verb == "flush":
        before = lab.stats()
        lab.flush()
        n_nodes, n_freed = before["nodes"] - lab.stats()["nodes"], lab.stats()["pages_free"] - before["pages_free"]
        say(f"flushed {counted(n_nodes, 'node')}, {counted(n_freed, 'page')} freed; pinned and used prefixes stay")
    else:
        _stats(shell, session, words, lab)


def _pin(shell: Shell, session: Session, lab: Lab, name: str | None) -> None:
    """Pin the notebook's variable `name`: a state, a job or a text."""
    from ...lang.surface import ProgramState

    if name is None:
        raise OptionError("pin what?", hint="a variable that holds a program's state (`%%sgl -o NAME`) or a text")
    if name not in shell.user_ns:
        raise nearest(name, session.names, "variable") if session.names else OptionError(f"there is no variable {name!r}")
    value = shell.user_ns[name]
    prefix = value.state if isinstance(value, Job) else value
    if not isinstance(prefix, str | ProgramState):
        raise OptionError(f"{name} is neither a program's state nor a text, but {type(value).__name__}")
    if name in session.pins:
        _unpin(session, name)
    before = lab.stats()["pages_pinned"]
    session.pins[name] = lab, lab.pin(prefix)
    say(f"pinned {name}: {counted(lab.stats()['pages_pinned'] - before, 'more page')} cannot be evicted until `%sgl cache unpin {name}`")


def _unpin(session: Session, name: str | None) -> None:
    if name is not None and name not in session.pins:
        raise nearest(name, session.pins, "pin") if session.pins else OptionError("nothing is pinned")
    names = [name] if name is not None else list(session.pins)
    for each in names:
        lab, pin = session.pins.pop(each)
        if lab.is_open:
            lab.unpin(pin)
    say(f"unpinned {', '.join(names)}" if names else "nothing is pinned")


def _stats(shell: Shell, session: Session, words: Words, lab: Lab) -> None:
    found = lab.stats()
    pins = [name for name, (pinned, _) in session.pins.items() if pinned is lab]
    rows = [
        ("hit rate", f"{percent(found['hit_rate'])}  ({found['cached_prompt_tokens']:,} of {found['prompt_tokens']:,} prompt tokens)"),
        ("nodes", f"{found['nodes']:,}"),
        ("pages", f"{found['pages_total'] - found['pages_free']:,} of {found['pages_total']:,} in use"),
        (
            "pinned",
            f"{counted(found['pages_pinned'], 'page')} by {counted(found['pins'], 'pin')}" + (f": {', '.join(pins)}" if pins else ""),
        ),
        ("evicted", f"{counted(found['evicted_tokens'], 'token')} in {counted(found['evictions'], 'node')}"),
    ]
    counts = {name: found[name] for name in ("cached_tokens", "prompt_tokens", "nodes", "pages_pinned", "evicted_tokens")}
    show(shell, words, html.table(rows), "\n".join(f"{name:<10}{value}" for name, value in rows), counts)


VERBS = ("flush", "pin", "unpin", "stats")
COMMANDS = {
    "cache": Command(
        _cache,
        "flush | pin NAME | unpin [NAME] | stats   flush the cache, pin a state or text in it, show its counts",
        2,
        {"--text": ""},
        VERBS,
        after=lambda session: {"pin": tuple(session.names), "unpin": tuple(session.pins)},
    ),
}
