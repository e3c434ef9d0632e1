"""Writing a file whole or not at all, and never over one that is somebody else's."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
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
    except (OSError, ValueError) as error:
        raise SglError(f"cannot write {path}: {_reason(error)}", hint="choose another place") from None
    finally:
        with suppress(OSError, ValueError):
            part.unlink(missing_ok=True)


def check_ours(path: Path, mark: str) -> None:
    """BadArgument if there is something at `path` that does not carry `mark`."""
    try:
        with path.open("rb") as file:
            head = file.read(HEAD)
    except FileNotFoundError:
        return
    except IsADirectoryError:
        raise BadArgument(f"{path} is a folder", hint="name a file") from None
    except (OSError, ValueError) as error:
        raise SglError(f"cannot look into {path}: {_reason(error)}", hint="choose another place") from None
    if head and mark.encode() not in head:
        raise BadArgument(f"{path} is there and is none of sgl_lab's", hint="--force replaces it")


def _reason(error: OSError | ValueError) -> str:
    """A ValueError is of the name: a NUL or half a surrogate pair in it."""
    return error.strerror or str(error) if isinstance(error, OSError) else str(error)
