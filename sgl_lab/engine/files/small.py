"""Small files of a model's folder, read whole and checked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ...contracts.errors import ModelDamaged, ModelError, ModelMissing

MAX_JSON = 8 << 20


def read_bytes(path: Path, *, most: int = MAX_JSON) -> bytes:
    """A file of at most `most` bytes. ModelMissing, ModelDamaged, ModelError."""
    try:
        size = path.stat().st_size
        if size > most:
            raise ModelDamaged(f"{path} has {size} bytes, at most {most} are read")
        return path.read_bytes()
    except FileNotFoundError:
        raise ModelMissing(f"{path} does not exist", hint="put that file of the original model beside the weights") from None
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror}") from None


def read_json(path: Path) -> dict[str, Any]:
    """The object in a small JSON file. ModelMissing, ModelDamaged, ModelError."""
    return json_object(read_bytes(path), str(path))


def json_object(text: bytes, origin: str) -> dict[str, Any]:
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ModelDamaged(f"{origin} is not JSON: {error}") from None
    if not isinstance(data, dict):
        raise ModelDamaged(f"{origin} is not a JSON object")
    return data
