"""Digests of rows and of bodies: two with equal digests give equal results, as far as can be known.

A body's results depend on its source, the options of its cell, and the values of the notebook that
it reads: texts, numbers, their lists and dicts, and the code of functions, with what the notebook's own
functions read in turn. Other values (modules, models, open files) do not count.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from types import CodeType, FunctionType

from ...lang.program import SglFunction

MAX_DEPTH = 12
_PLAIN = (str, bytes, bool, int, float, complex, list, tuple, dict, set, frozenset)


def digest(value: object) -> str:
    """16 hexadecimal digits. Dicts count in their order."""
    found = hashlib.sha256()
    _feed(found, value, 0)
    return found.hexdigest()[:16]


def _feed(into: hashlib._Hash, value: object, depth: int, seen: frozenset[int] = frozenset()) -> None:
    kind = type(value).__name__
    if depth > MAX_DEPTH:
        into.update(b"deep")
    elif isinstance(value, str):
        _put(into, "str", value.encode("utf-8", "surrogatepass"))
    elif isinstance(value, bytes | bytearray):
        _put(into, "bytes", bytes(value))
    elif value is None or isinstance(value, bool | int | float | complex):
        _put(into, kind, repr(value).encode())
    elif isinstance(value, Mapping):
        _put(into, "dict", str(len(value)).encode())
        for key, each in value.items():
            _feed(into, key, depth + 1, seen)
            _feed(into, each, depth + 1, seen)
    elif isinstance(value, list | tuple):
        _put(into, "list", str(len(value)).encode())
        for each in value:
            _feed(into, each, depth + 1, seen)
    elif isinstance(value, set | frozenset):
        _put(into, "set", "".join(sorted(map(digest, value))).encode())
    elif isinstance(value, SglFunction):
        _feed(into, value.func, depth + 1, seen)
        _feed(into, value.bind_arguments, depth + 1, seen)
    elif isinstance(value, FunctionType):
        _feed(into, value.__code__, depth + 1, seen)
        _feed(into, (value.__defaults__, value.__kwdefaults__), depth + 1, seen)
        if value.__module__ == "__main__" and id(value) not in seen:
            seen = seen | {id(value)}
            names = value.__globals__
            for name in value.__code__.co_names:
                if name in names and _counts(names[name]):
                    _feed(into, names[name], depth + 1, seen)
    elif isinstance(value, CodeType):
        _put(into, "code", value.co_code + "\0".join((*value.co_names, *value.co_varnames, *value.co_freevars)).encode())
        for each in value.co_consts:
            _feed(into, each, depth + 1, seen)
    elif callable(to_bytes := getattr(value, "tobytes", None)):  # an array, or an image
        shape = [str(getattr(value, name, "")) for name in ("shape", "dtype", "size", "mode")]
        _put(into, " ".join([kind, *shape]), to_bytes())
    else:
        _put(into, kind, _repr(value).encode("utf-8", "surrogatepass"))


def _put(into: hashlib._Hash, kind: str, content: bytes) -> None:
    """With its kind and length, so that no two different values read alike."""
    into.update(f"{kind}:{len(content)}:".encode())
    into.update(content)


def _repr(value: object) -> str:
    try:
        return repr(value)
    except Exception:
        return "no repr"


def body_digest(source: str, settings: Iterable[tuple[str, object]], names: Mapping[str, object], read: Iterable[str]) -> str:
    """Of a version: its source, the settings of its cell, and what the notebook's names that it reads
    are now.
    """
    values = [(name, names[name]) for name in sorted(read) if name in names and _counts(names[name])]
    return digest([source.strip(), [list(each) for each in settings], values])


def _counts(value: object) -> bool:
    return value is None or isinstance(value, (*_PLAIN, SglFunction, FunctionType))
