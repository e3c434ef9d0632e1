"""Cells saved by name, as plain files in the user's configuration folder."""

from __future__ import annotations

import os
import re
from pathlib import Path

from ...trace.files import write_whole
from ..options import OptionError, nearest
from ..printing import say
from ..session import Session
from ..shell import Shell
from .command import Command, Words

VERBS = ("save", "list", "show", "run", "rm")
MAX_BYTES = 1 << 20
SUFFIX = ".sgl"

_NAME = re.compile(r"\w[\w-]{0,59}")
_TYPED = re.compile(r"\s*(?:%%(?!sgl\b)[^\n]*\n\s*)*(%%sgl(?:[ \t\n].*)?)\Z", re.DOTALL)
"""also below `%%time` and similar magics"""
_CELL = re.compile(r"\s*%%sgl(?:[ \t]+(?P<line>[^\n]*))?(?:\n(?P<body>.*))?\Z", re.DOTALL)


def folder() -> Path:
    home = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(home) / "sgl_lab" / "snippets"


def _snippet(shell: Shell, session: Session, words: Words) -> object:
    verb, name = words.name() or "list", words.name(1)
    if verb not in VERBS:
        raise nearest(verb, VERBS, "word after `%sgl snippet`")
    if verb == "list":
        if name is not None:
            raise OptionError(f"%sgl snippet list takes no further word: {name!r}")
        _list()
        return None
    path = _path(verb, name)
    if verb == "save":
        _save(shell, session, path, "--force" in words.options)
        return None
    if verb == "run":
        found = _read(path)
        return shell.run_cell_magic("sgl", found["line"] or "", found["body"] or "")
    if verb == "show":
        say(_read(path)[0])
    else:
        _known(path).unlink(missing_ok=True)
        say(f"removed {path.stem}")
    return None


def _path(verb: str, name: str | None) -> Path:
    if name is None:
        raise OptionError("which snippet?", hint=f"such as `%sgl snippet {verb} greeting`")
    if not _NAME.fullmatch(name):
        raise OptionError(f"{name!r} is not a valid name for a snippet", hint="use letters, digits, _ and -, at most 60")
    return folder() / f"{name}{SUFFIX}"


def _names() -> list[str]:
    return sorted(path.stem for path in folder().glob(f"*{SUFFIX}"))


def _known(path: Path) -> Path:
    if not path.is_file():
        names = _names()
        raise (
            nearest(path.stem, names, "snippet")
            if names
            else OptionError("there are no snippets", hint="`%sgl snippet save NAME` keeps one")
        )
    return path


def _list() -> None:
    say("\n".join(_names()) or "there are no snippets; `%sgl snippet save NAME` keeps the last %%sgl cell")


def _save(shell: Shell, session: Session, path: Path, force: bool) -> None:
    """Save the cell of the run that has the snippet's name, otherwise the last `%%sgl` cell, as it
    was typed.
    """
    history = enumerate(shell.history_manager.input_hist_raw)
    typed = [(f"In[{number}]", found[1]) for number, cell in history if (found := _TYPED.match(cell))]
    which, run = "the last %%sgl cell", session.names.get(path.stem)
    if (record := next((record for record in session.runs() if record.run == run), None)) is not None:
        which = f"the cell of the run {path.stem}"
        typed = [cell for cell in typed if cell[0] == record.title] or [(record.title, record.source)]
    if not typed:
        raise OptionError("no %%sgl cell has run yet", hint="run one, then save it")
    if path.exists() and not force:
        raise OptionError(f"the snippet {path.stem} exists already", hint=f"`%sgl snippet save {path.stem} --force` replaces it")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OptionError(f"cannot make {path.parent}: {error.strerror}") from None
    title, source = typed[-1]
    write_whole(path, lambda file: file.write(source))
    say(f"wrote {path}: {which}, {title}")


def _read(path: Path) -> re.Match[str]:
    """The snippet's first line and body. OptionError if the file contains something else."""
    try:
        with _known(path).open("rb") as file:
            text = file.read(MAX_BYTES + 1).decode("utf-8-sig")
    except OSError as error:
        raise OptionError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise OptionError(f"{path} is not text") from None
    found = _CELL.match(text) if len(text) <= MAX_BYTES else None
    if found is None:
        raise OptionError(f"{path} is not a %%sgl cell", hint="its first line must be `%%sgl`, with or without options")
    return found


COMMANDS = {
    "snippet": Command(
        _snippet,
        "save NAME [--force] (the cell of the run NAME, or the last) | list | show NAME | run NAME | rm NAME   cells kept by name",
        2,
        {"--force": ""},
        VERBS,
        after=lambda session: dict.fromkeys(("show", "run", "rm"), _names()),
    ),
}
