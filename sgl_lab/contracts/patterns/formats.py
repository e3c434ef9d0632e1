"""The enforced formats of JSON schemas: a pattern and a short example for each. Generation and
validation use the same calendar.
"""

from __future__ import annotations

from functools import lru_cache

from . import ecma
from .tree import Like, Node, Text, chain

_LEAP = "(0[48]|[2468][048]|[13579][26])"
_YEAR = "([0-9]{3}[1-9]|[0-9]{2}[1-9]0|[0-9][1-9]00|[1-9]000)"
DAYS = "(0[13578]|1[02])-(0[1-9]|[12][0-9]|3[01])|(0[469]|11)-(0[1-9]|[12][0-9]|30)|02-(0[1-9]|1[0-9]|2[0-8])"
DATE = f"({_YEAR}-({DAYS})|([0-9]{{2}}{_LEAP}|{_LEAP}00)-02-29)"
CLOCK = r"([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\.[0-9]{1,6})?"
ZONE = "(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])"
_WORD = "[A-Za-z0-9](-?[A-Za-z0-9]){0,30}"
HOST = rf"{_WORD}(\.{_WORD}){{0,3}}"
_MAIL = r"[A-Za-z0-9_%+\-]+(\.[A-Za-z0-9_%+\-]+)*"
_DOMAIN = rf"({_WORD}\.){{1,3}}[A-Za-z]{{2,8}}"
_BYTE = "(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_IPV4 = rf"{_BYTE}(\.{_BYTE}){{3}}"
_H = "[0-9a-f]{1,4}"
_IPV6 = "|".join(
    [f"({_H}:){{7}}{_H}", *(f"({_H}:){{{n}}}(:{_H}){{1,{7 - n}}}" for n in range(1, 7)), f"({_H}:){{1,7}}:", f":((:{_H}){{1,7}}|:)"]
)
_TIMES = "T([0-9]{1,4}H([0-9]{1,4}M([0-9]{1,4}S)?)?|[0-9]{1,4}M([0-9]{1,4}S)?|[0-9]{1,4}S)"
_DURATION = f"P([0-9]{{1,4}}D({_TIMES})?|{_TIMES}|[0-9]{{1,4}}W)"
_PCHAR = r"([A-Za-z0-9\-._~!$&'()*+,;=:@]|%[0-9A-Fa-f]{2})"
TAIL = rf"(/{_PCHAR}{{0,60}}){{0,9}}(\?({_PCHAR}|[/?]){{0,200}})?(#({_PCHAR}|[/?]){{0,60}})?"
_PORT = "(:[1-9][0-9]{0,3})?"
_URI = rf"[a-z][a-z0-9+.\-]*:(//({_MAIL}@)?({HOST}|{_IPV4}){_PORT}{TAIL}|{_PCHAR}+{TAIL})"
BASE64 = "([A-Za-z0-9+/]{4})*([A-Za-z0-9+/][AQgw]==|[A-Za-z0-9+/]{2}[AEIMQUYcgkosw048]=)?"
_DIGITS64 = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
_HIGH, _MIDDLE, _LOW = ("[" + "".join(_DIGITS64[n] for n in range(64) if not n & bit) + "]" for bit in (32, 8, 2))
BASE64_TEXT = f"({_HIGH}{_MIDDLE}{_LOW}[A-Za-z0-9+/])*({_HIGH}[AQgw]==|{_HIGH}{_MIDDLE}[AEIMQUYcgkosw048]=)?"
"""ASCII only: the first bit of every byte is 0"""


def _uuid(version: str = "") -> str:
    variant = "[89ab]" if version else "[0-9a-f]"
    return f"[0-9a-f]{{8}}-[0-9a-f]{{4}}-{version or '[0-9a-f]'}[0-9a-f]{{3}}-{variant}[0-9a-f]{{3}}-[0-9a-f]{{12}}"


_NIL = "00000000-0000-{}000-{}000-000000000000"
FORMATS: dict[str, tuple[str, str]] = {
    "date-time": (f"{DATE}T{CLOCK}{ZONE}", "2000-01-01T00:00:00Z"),
    "date": (DATE, "2000-01-01"),
    "time": (CLOCK + ZONE, "00:00:00Z"),
    "duration": (_DURATION, "P1D"),
    "email": (f"{_MAIL}@{_DOMAIN}", "a@b.co"),
    "hostname": (HOST, "a.co"),
    "ipv4": (_IPV4, "1.1.1.1"),
    "ipv6": (_IPV6, "::1"),
    "uuid": (_uuid(), _NIL.format(0, 0)),
    **{f"uuid{n}": (_uuid(str(n)), _NIL.format(n, 8)) for n in range(1, 9)},
    "uri": (_URI, "http://a.co"),
    "byte": (BASE64, ""),
}


@lru_cache(64)
def of_format(name: str) -> Node:
    """The texts of an enforced format."""
    pattern, example = FORMATS[name]
    if name == "email":
        return Like(chain([ecma.read(f"^{_MAIL}$"), Text("@"), Like(ecma.read(f"^{_DOMAIN}$"), "b.co")]), example)
    return Like(ecma.read(f"^({pattern})$"), example)


def fits(name: str, text: str) -> bool:
    return ecma.matches(f"^({FORMATS[name][0]})$", text)
