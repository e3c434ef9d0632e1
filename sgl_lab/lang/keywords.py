"""Unknown keyword arguments: the error names the argument that was probably meant.

This module is part of the language because its frames are between the user's line and the language,
and the search for the user's line skips frames of the language.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable
from typing import ParamSpec, TypeVar

from ..contracts.errors import UnknownArgument
from ..contracts.near import did_you_mean

P = ParamSpec("P")
R = TypeVar("R")
Class = TypeVar("Class", bound=type)

_BY_NAME = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def unknown_argument(function: str, word: str, known: Iterable[str]) -> UnknownArgument:
    names = list(known)
    hint = did_you_mean(word, names).replace("one of", "it takes", 1) if names else "it takes none"
    return UnknownArgument(f"{function}() got an unexpected keyword argument {word!r}", hint=hint)


def suggests(function: Callable[P, R]) -> Callable[P, R]:
    """The same function with an error that suggests the right keyword argument."""
    parameters = inspect.signature(function).parameters.values()
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters):
        return function
    names = tuple(parameter.name for parameter in parameters if parameter.kind in _BY_NAME and parameter.name != "self")

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        __tracebackhide__ = True
        for name in kwargs:
            if name not in names:
                raise unknown_argument(function.__name__.replace("__init__", function.__qualname__.partition(".")[0]), name, names)
        return function(*args, **kwargs)

    return call


def all_suggest(of: Class) -> Class:
    """A class whose constructor and public methods do that."""
    for name, method in list(vars(of).items()):
        if inspect.isfunction(method) and (name == "__init__" or not name.startswith("_")) and not inspect.iscoroutinefunction(method):
            setattr(of, name, suggests(method))
    return of
