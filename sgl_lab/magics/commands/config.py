"""Shows the settings and the source of each."""

from __future__ import annotations

from ...viz.draw import html
from ...viz.draw.numbers import counted
from ..options import OptionError, nearest
from ..printing import say
from ..session import Session
from ..shell import Shell
from .command import Command, Words, aligned, show


def _config(shell: Shell, session: Session, words: Words) -> None:
    """`config`, `config budget` and `config budget AMOUNT|none`."""
    from ...backends.remote.budget import SESSION, amount

    if (name := words.name()) is not None:
        if name != "budget":
            raise nearest(name, ("budget",), "word after `%sgl config`")
        if (text := words.name(1)) is not None:
            SESSION.limit = None if text == "none" else _amount(text)
        limit = "no budget" if SESSION.limit is None else f"of a budget of {amount(SESSION.limit)} {SESSION.currency}"
        say(f"this session has spent {amount(SESSION.spent)} {SESSION.currency}, {limit}")
        if SESSION.n_unknown:
            say(f"{counted(SESSION.n_unknown, 'call')} of unknown price beside that")
        return
    settings = session.settings.all()
    rows = [("setting", "value", "from"), *((setting.name, setting.text, setting.origin) for setting in settings)]
    counts = {"settings": len(settings), "set": sum(setting.value is not None for setting in settings)}
    show(shell, words, html.grid(rows), aligned(rows), counts)
    for error in session.settings.ignored:
        say(f"ignored: {error}")


def _amount(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise OptionError(f"a budget is an amount of USD, not {text!r}", hint="such as %sgl config budget 0.50, or none") from None


COMMANDS = {
    "config": Command(
        _config,
        "[budget [USD|none]] [--text]   the settings and the source of each: %config SGL.*, SGL_LAB_*, [tool.sgl_lab]; "
        "what the session may spend on APIs",
        2,
        {"--text": ""},
        ("budget",),
    )
}
