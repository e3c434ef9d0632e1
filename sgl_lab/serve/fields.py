"""Reading a JSON object field by field: each has a type, and what was not read is refused."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TypeGuard, TypeVar

from ..contracts.errors import BackendUnsupported, BadArgument
from ..contracts.json_values import Json
from ..contracts.near import nearest

T = TypeVar("T")


def parse(body: bytes) -> dict[str, Json]:
    """The JSON object in `body`. BadArgument for anything else."""
    try:
        found: Json = json.loads(body or b"null")
    except RecursionError:
        raise BadArgument("the body is nested too deeply") from None
    except ValueError as error:
        raise BadArgument(f"the body is no JSON: {error}") from None
    if not isinstance(found, dict):
        raise BadArgument(f"the body must be a JSON object, not {type(found).__name__}")
    return found


def is_ids(value: object) -> TypeGuard[list[int]]:
    """Whether it is a list of token ids, and not empty."""
    return isinstance(value, list) and bool(value) and all(type(one) is int for one in value)


def are_texts(value: object) -> TypeGuard[list[str]]:
    return isinstance(value, list) and all(isinstance(one, str) for one in value)


class Fields:
    """`where` precedes the names of fields in messages, such as `tools[0].`"""

    def __init__(self, given: Json, where: str = "") -> None:
        if not isinstance(given, dict):
            raise BadArgument(f"{where.rstrip('.') or 'the body'} must be an object, not {given!r:.60}")
        self._given = given
        self._where = where
        self._unread = dict.fromkeys(given)
        self._known: dict[str, None] = {}

    def __contains__(self, name: str) -> bool:
        return self._given.get(name) is not None

    def any(self, name: str) -> Json:
        """The value, whatever it is; None if it is null or missing."""
        self._known[name] = None
        self._unread.pop(name, None)
        return self._given.get(name)

    def _of(self, name: str, kind: type[T] | tuple[type[T], ...], what: str) -> T | None:
        value = self.any(name)
        if value is None:
            return None
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise BadArgument(f"{self._where}{name} must be {what}, not {value!r:.60}")
        return value

    def text(self, name: str) -> str | None:
        return self._of(name, str, "a string")

    def needed(self, name: str) -> str:
        value = self.text(name)
        if value is None:
            raise BadArgument(f"{self._where}{name} is missing", hint="it is a string")
        return value

    def whole(self, name: str) -> int | None:
        return self._of(name, int, "a whole number")

    def number(self, name: str) -> float | None:
        return self._of(name, (int, float), "a number")

    def flag(self, name: str) -> bool:
        return bool(self._of(name, bool, "true or false"))

    def items(self, name: str) -> Sequence[Json]:
        return self._of(name, list, "a list") or ()

    def inner(self, name: str) -> Fields | None:
        value = self._of(name, dict, "an object")
        return None if value is None else Fields(value, f"{self._where}{name}.")

    def ignore(self, *names: str) -> None:
        """These change nothing here."""
        for name in names:
            self.any(name)

    def only(self, name: str, *values: object) -> None:
        """Anything but `values`, null and the field's absence is refused."""
        if (value := self.any(name)) is not None and not any(type(value) is type(one) and value == one for one in values):
            raise BackendUnsupported(f"{self._where}{name}={json.dumps(value):.60} is not supported here", hint=f"leave out {name}")

    def done(self) -> None:
        """BadArgument for the first field that nothing has read."""
        for name in self._unread:
            close = nearest(name, self._known)
            raise BadArgument(f"there is no parameter {self._where}{name}", hint=f"did you mean {close!r}?" if close else "")
