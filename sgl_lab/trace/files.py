"""Writing a file whole or not at all, and never over one that is somebody else's."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import IO

from ..contracts.errors import BadArgument, SglError

HEAD = 4096
"""bytes at a file's beginning in which its mark stands, if it is ours"""


def write_whole(path: Path, write: Callable[[IO[str]], object]) -> None:
    """Let `write` fill a file that takes the place of `path` when it is complete; SglError if that fails, and `path` is as before."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("w", encoding="utf-8", errors="backslashreplace") as file:
            write(file)
        part.replace(path)
    except OSError as error:
        raise SglError(f"cannot write {path}: {error.strerror or error}", hint="choose another place") from None
    finally:
        part.unlink(missing_ok=True)


def check_ours(path: Path, mark: str) -> None:
    """BadArgument if there is something at `path` that does not carry `mark`."""
    if path.is_dir():
        raise BadArgument(f"{path} is a folder", hint="name a file")
    try:
        with path.open("rb") as file:
            head = file.read(HEAD)
    except FileNotFoundError:
        return
    except OSError as error:
        raise SglError(f"cannot look into {path}: {error.strerror or error}", hint="choose another place") from None
    if head and mark.encode() not in head:
        raise BadArgument(f"{path} is there and is none of sgl_lab's", hint="--force replaces it")
