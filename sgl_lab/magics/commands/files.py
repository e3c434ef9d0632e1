"""Where a command writes to, and what it says of it."""

from __future__ import annotations

from pathlib import Path

from ...trace.files import check_ours, write_whole
from ...viz.draw.numbers import counted
from ..options import OptionError
from ..printing import say
from .command import Words

FORCE = {"--force": ""}


def target(word: str | None, words: Words, mark: str, example: str) -> Path:
    """The file to write. OptionError without a name, BadArgument where somebody else's file is, unless --force says so."""
    if not word:
        raise OptionError("which file?", hint=f"such as `{example}`")
    path = Path(word).expanduser()
    if "--force" not in words.options:
        check_ours(path, mark)
    return path


def write(path: Path, source: str) -> None:
    write_whole(path, lambda file: file.write(source))
    told(path)


def told(path: Path) -> None:
    size = path.stat().st_size
    say(f"wrote {path}, {size / 1024:,.0f} KiB" if size >= 1024 else f"wrote {path}, {counted(size, 'byte')}")
