"""The door: open the resident engine to other programs of this machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ...viz.draw import html
from ..options import OptionError, nearest
from ..printing import say
from ..session import Session
from ..shell import Shell
from .command import Command, Words, aligned, ready_lab, show

if TYPE_CHECKING:
    from ...serve import Door


def _serve(shell: Shell, session: Session, words: Words) -> object:
    verb = words.name()
    if verb is not None and verb not in VERBS:
        raise nearest(verb, VERBS, "word after `%sgl serve`")
    door = _open_door(session)
    if verb == "stop":
        if door is None:
            raise OptionError("no door is open", hint="`%sgl serve` opens one")
        door.close()
        session.door = None
        say(f"closed {door.url}")
        return None
    if door is None and verb == "status":
        raise OptionError("no door is open", hint="`%sgl serve` opens one")
    is_new = door is None
    if door is None:
        door = session.door = _opened(shell, session, words)
    elif verb is None and words.options.keys() - {"--text"}:
        raise OptionError(f"a door is open already, at {door.url}", hint="`%sgl serve stop` closes it")
    rows = [("client", "requests", "in flight")]
    rows += [(name, f"{n:,}", f"{n_open:,}") for name, n, n_open in door.clients()]
    plain = door.help() + ("\n\n" + aligned(rows) if len(rows) > 1 else "")
    show(shell, words, html.plain(plain), plain, {"clients": len(rows) - 1, "held": door.counts()["held"]})
    return door if is_new else None


def _open_door(session: Session) -> Door | None:
    """The door, if it is still open: it ends with its lab."""
    if session.door is not None and not session.door.is_open:
        session.door = None
    return session.door


def _opened(shell: Shell, session: Session, words: Words) -> Door:
    from ...serve import serve

    port = words.options.get("--port", "0")
    if not port.isdecimal():
        raise OptionError(f"--port must be a number, not {port!r}")
    file = words.options.get("--token-file")
    token = None
    if file is not None:
        try:
            token = Path(file).expanduser().read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise OptionError(f"--token-file: {error}") from None
    return serve(ready_lab(shell, session), port=int(port), token=token, kv_events="--kv-events" in words.options)


VERBS = ("stop", "status")
COMMANDS = {
    "serve": Command(
        _serve,
        "[stop|status] [--port N] [--token-file F] [--kv-events]   serve the engine to other programs as OpenAI, Anthropic and SGLang do",
        1,
        {"--port": "a number; without it, a free port", "--token-file": "a file that holds the token", "--kv-events": "", "--text": ""},
        VERBS,
    ),
}
