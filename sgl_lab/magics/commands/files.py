"""Where a command writes its file, and what it prints about it."""

from __future__ import annotations

from pathlib import Path

from ...trace.files import check_ours, write_whole
from ...viz.draw.numbers import counted
from ..options import OptionError
from ..printing import say
from .command import Words

FORCE = {"--force": ""}


def target(word: str | None, words: Words, mark: str, example: str) -> Path:
    """The file to write. OptionError without a name; BadArgument if the file exists and is not
    ours, unless --force is given.
    """
    if not word:
        raise OptionError("which file?", hint=f"such as `{example}`")
    path = Path(word).expanduser()
    if "--force" not in words.options:
        check_ours(path, mark)
    return path


def write(path: Path, source: str, what: str = "") -> None:
    write_whole(path, lambda file: file.write(source))
    report_written(path, what)


def report_written(path: Path, what: str = "") -> None:
    """Print what was written and how large it is."""
    size = path.stat().st_size
    amount = f"{size / 1024:,.0f} KiB" if size >= 1024 else counted(size, "byte")
    say(f"wrote {path}: {what}, {amount}" if what else f"wrote {path}, {amount}")
