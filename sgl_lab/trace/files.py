"""Writes a file completely or not at all, and never overwrites a foreign file.

A link remains a link: its target is written. A replaced file keeps its mode, owner and other names.
A device or a pipe receives the text as it is. A read-only file is refused.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO

from ..contracts.errors import BadArgument, SglError

HEAD = 4096
"""bytes at the beginning of a file that contain our mark"""
_HINT = "choose another path"


def write_whole(path: Path, write: Callable[[IO[str]], object]) -> None:
    """Let `write` produce the content of `path`. SglError on failure; an existing file is then
    unchanged.
    """
    try:
        found = _stat(path)
        whole = Path(os.path.realpath(path))
        if found is not None and stat.S_ISBLK(found.st_mode):
            raise PermissionError(0, "it is a disk")
        if found is not None and not (stat.S_ISREG(found.st_mode) and whole.exists() and whole.samefile(path)):
            with path.open("w", encoding="utf-8", errors="backslashreplace") as file:
                write(file)
            return
        if found is not None and not os.access(path, os.W_OK):
            raise PermissionError(0, "the file is read-only")
        _replace(whole, found, write)
    except (OSError, ValueError) as error:
        raise SglError(f"cannot write {path}: {_reason(error)}", hint=_HINT) from None


def _replace(path: Path, found: os.stat_result | None, write: Callable[[IO[str]], object]) -> None:
    """Write a file next to `path`, which is not a link, and move it there. If no other file could
    be equivalent, write the content of `path` itself.
    """
    part = path.with_name(f".{path.name[:200]}.{os.getpid()}.part")
    mode = 0o666 if found is None else stat.S_IMODE(found.st_mode) & 0o777
    try:
        try:
            opened = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        except PermissionError:
            if found is None:
                raise
            # the folder does not allow a new file, but this file may be writable
            opened, name = tempfile.mkstemp()
            part = Path(name)
        with os.fdopen(opened, "w", encoding="utf-8", errors="backslashreplace") as file:
            write(file)
        if found is None:
            part.replace(path)
        elif not _is_put(part, path, found):
            with part.open("rb") as source, path.open("r+b") as target:
                shutil.copyfileobj(source, target)
                target.truncate()
    finally:
        with suppress(OSError, ValueError):
            part.unlink(missing_ok=True)


def _is_put(part: Path, path: Path, found: os.stat_result) -> bool:
    """Move `part` to `path` with all of the file's attributes. False if that is impossible: a
    second name, another owner, a mount.
    """
    if found.st_nlink > 1:
        return False
    try:
        os.chown(part, found.st_uid, found.st_gid)
        shutil.copystat(path, part)
        os.utime(part)
        part.replace(path)
    except OSError:
        return False
    return True


def check_ours(path: Path, mark: str) -> None:
    """BadArgument if `path` is a folder, or a file without `mark`."""
    head = beginning(path)
    if head and mark.encode() not in head:
        raise not_ours(path)


def beginning(path: Path, n_bytes: int = HEAD) -> bytes:
    """The first bytes of the file at `path`; empty if it is missing or a device. BadArgument if it
    is a folder.
    """
    try:
        found = _stat(path)
        if found is None or not (stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode)):
            return b""
        with path.open("rb") as file:
            return file.read(n_bytes)
    except IsADirectoryError:
        raise BadArgument(f"{path} is a folder", hint="name a file") from None
    except (OSError, ValueError) as error:
        raise SglError(f"cannot look into {path}: {_reason(error)}", hint=_HINT) from None


def check_place(path: Path) -> None:
    """SglError if no file can be written at `path`. Called before a long run."""
    folder = Path(os.path.realpath(path)).parent
    try:
        if not stat.S_ISDIR(folder.stat().st_mode):
            raise NotADirectoryError(errno.ENOTDIR, f"{folder} is not a folder")
        if not os.access(path if path.exists() else folder, os.W_OK):
            raise PermissionError(errno.EACCES, "it is read-only")
    except FileNotFoundError:
        raise SglError(f"cannot write {path}: there is not a folder {folder}", hint=_HINT) from None
    except (OSError, ValueError) as error:
        raise SglError(f"cannot write {path}: {_reason(error)}", hint=_HINT) from None


def not_ours(path: Path) -> BadArgument:
    return BadArgument(f"{path} exists and is not a file that sgl_lab wrote", hint="--force replaces it")


def _stat(path: Path) -> os.stat_result | None:
    """The status of the target of `path`; None if it does not exist."""
    try:
        return path.stat()
    except FileNotFoundError:
        return None


def _reason(error: OSError | ValueError) -> str:
    """The reason as text. A ValueError concerns the name: it contains a NUL or a surrogate."""
    return error.strerror or str(error) if isinstance(error, OSError) else str(error)
