"""Stand-ins for what does not exist while a program is traced: text, and values read from text.

A `Placeholder` is a string that occurs nowhere else, so it may be part of an f-string or be joined
with other text. A program that reads its characters is refused, because with the real text it might
take another branch. A `Later` stands for a value that is no text, such as a number.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator, Mapping
from typing import NoReturn

from ...contracts.errors import ProgramError
from ..expressions import Argument, Reference, Text
from ..location import SourceLocation, line_of_program

Part = Text | Argument | Reference
"""A part of a text: known, or not there while the program is traced."""


class DependsOnText(ProgramError):
    """The program decides by text that does not exist while it is traced."""

    def __init__(self, what: str, of: tuple[Argument | Reference, ...]) -> None:
        self.location: SourceLocation = line_of_program()
        super().__init__(f"{self.location} depends on text that is not there while the program is traced: {what}", hint=_advice(of))


def _advice(of: tuple[Argument | Reference, ...]) -> str:
    given = next((each.name for each in of if isinstance(each, Argument)), None)
    if given is not None and not any(isinstance(each, Reference) for each in of):
        return f"give the argument when tracing, trace({given}=...), or append it as it is"
    return "write sgl.cond(...) or sgl.loop(..., most=...), let select(...) decide, or split the program there"


def _cause(of: tuple[Argument | Reference, ...]) -> str:
    names = [f"argument {each.name!r}" if isinstance(each, Argument) else f"the text of {each.name!r}" for each in of]
    return ", ".join(dict.fromkeys(names)) or "text of the model"


class Placeholder(str):
    """Text that does not exist yet. It can be joined with other text and appended; everything else
    is refused.
    """

    __slots__ = ("of",)
    of: tuple[Argument | Reference, ...]

    def __new__(cls, text: str, of: tuple[Argument | Reference, ...] = ()) -> Placeholder:
        made = super().__new__(cls, text)
        made.of = of
        return made

    def _refuse(self, *_: object, **__: object) -> NoReturn:
        raise DependsOnText(_cause(self.of), self.of)

    def __format__(self, spec: str) -> str:
        return self._refuse() if spec else str(self)

    def __add__(self, other: str) -> str:
        return Placeholder(str.__add__(self, other), self.of + _of(other)) if isinstance(other, str) else NotImplemented

    def __radd__(self, other: str) -> str:
        return Placeholder(str.__add__(other, str(self)), _of(other) + self.of) if isinstance(other, str) else NotImplemented


def _of(text: str) -> tuple[Argument | Reference, ...]:
    return text.of if isinstance(text, Placeholder) else ()


_JOINS = {
    *("__new__", "__getattribute__", "__getnewargs__", "__doc__", "__hash__", "__sizeof__"),
    *("__str__", "__format__", "__add__", "__radd__"),
}
for _name in (vars(str).keys() | {"__bool__"}) - _JOINS:
    setattr(Placeholder, _name, Placeholder._refuse)


class Later:
    """A value that does not exist yet and is no text. A program may pass it on and return it."""

    def __init__(self, value: Reference) -> None:
        self._sgl_value = value

    def _refuse(self, *_: object, **__: object) -> NoReturn:
        raise DependsOnText(f"the value of {self._sgl_value.name!r}", (self._sgl_value,))

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("__"):  # protocols ask for these
            raise AttributeError(name)
        self._refuse()

    __bool__ = __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = __len__ = __iter__ = __getitem__ = __contains__ = _refuse
    __str__ = __format__ = __int__ = __float__ = __index__ = __call__ = _refuse
    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = __rtruediv__ = __neg__ = __mod__ = _refuse
    __hash__ = object.__hash__


class Details(Mapping[str, object]):
    """The meta info of a gen that has not run."""

    def __init__(self, of: Reference) -> None:
        self._of = of

    def _refuse(self) -> NoReturn:
        raise DependsOnText(f"the meta info of {self._of.name!r}", (self._of,))

    def __getitem__(self, name: str) -> NoReturn:
        self._refuse()

    def __iter__(self) -> NoReturn:
        self._refuse()

    def __len__(self) -> NoReturn:
        self._refuse()


class Symbols:
    """The placeholders of one trace."""

    def __init__(self) -> None:
        self._key = secrets.token_hex(16)
        self._promised: list[Argument | Reference] = []
        self._pattern = re.compile(f"\ue000{self._key}:([0-9]+)\ue001")

    def placeholder(self, value: Argument | Reference) -> Placeholder:
        self._promised.append(value)
        return Placeholder(f"\ue000{self._key}:{len(self._promised) - 1}\ue001", (value,))

    def wrapped(self, text: str) -> str:
        """Text that may contain placeholders: it is one itself then."""
        found = self.found(text)
        return Placeholder(str(text), found) if found else text

    def found(self, text: str) -> tuple[Argument | Reference, ...]:
        return tuple(self._promised[int(number)] for number in self._pattern.findall(str(text)))

    def parts(self, text: str) -> Iterator[Part]:
        """Text with its placeholders resolved. DependsOnText if a placeholder in it was changed."""
        for index, part in enumerate(self._pattern.split(str(text))):
            if index % 2:
                yield self._promised[int(part)]
            elif part:
                if self._is_damaged(part):
                    raise DependsOnText("a text that contains it was cut or changed", self.found(text))
                yield Text(part)

    def _is_damaged(self, text: str) -> bool:
        folded = text.casefold()
        marked = "\ue000" in text or "\ue001" in text
        return self._key in folded or (marked and (self._key[:6] in folded or self._key[-6:] in folded))
