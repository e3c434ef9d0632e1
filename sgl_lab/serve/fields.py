"""Reading a JSON object field by field: each has a type, and what was not read is refused."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from ..contracts.errors import BackendUnsupported, BadArgument
from ..contracts.near import nearest


def parse(body: bytes) -> dict[str, Any]:
    """The JSON object in `body`. BadArgument for anything else."""
    try:
        found = json.loads(body or b"null")
    except RecursionError:
        raise BadArgument("the body is nested too deeply") from None
    except ValueError as error:
        raise BadArgument(f"the body is no JSON: {error}") from None
    if not isinstance(found, dict):
        raise BadArgument(f"the body must be a JSON object, not {type(found).__name__}")
    return found


class Fields:
    """`where` precedes the names of fields in messages, such as `tools[0].`"""

    def __init__(self, given: Any, where: str = "") -> None:
        if not isinstance(given, Mapping):
            raise BadArgument(f"{where.rstrip('.') or 'the body'} must be an object, not {given!r:.60}")
        self._given = given
        self._where = where
        self._unread = dict.fromkeys(given)
        self._known: dict[str, None] = {}

    def __contains__(self, name: str) -> bool:
        return self._given.get(name) is not None

    def any(self, name: str) -> Any:
        """The value, whatever it is; None if it is null or missing."""
        self._known[name] = None
        self._unread.pop(name, None)
        return self._given.get(name)

    def _of(self, name: str, kinds: type | tuple[type, ...], what: str) -> Any:
        value = self.any(name)
        is_number = isinstance(value, bool) and bool not in (kinds if isinstance(kinds, tuple) else (kinds,))
        if value is not None and (is_number or not isinstance(value, kinds)):
            raise BadArgument(f"{self._where}{name} must be {what}, not {value!r:.60}")
        return value

    def text(self, name: str) -> str | None:
        value: str | None = self._of(name, str, "a string")
        return value

    def needed(self, name: str) -> str:
        value = self.text(name)
        if value is None:
            raise BadArgument(f"{self._where}{name} is missing", hint="it is a string")
        return value

    def whole(self, name: str) -> int | None:
        value: int | None = self._of(name, int, "a whole number")
        return value

    def number(self, name: str) -> float | None:
        value: float | None = self._of(name, (int, float), "a number")
        return value

    def flag(self, name: str) -> bool:
        return bool(self._of(name, bool, "true or false"))

    def items(self, name: str) -> Sequence[Any]:
        value: Sequence[Any] | None = self._of(name, list, "a list")
        return value or ()

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
