"""The only place that builds HTML and SVG source. It escapes everything that is not markup.

A `Markup` comes only from `tag`, `joined`, and our own `style_sheet`, `script`, `module` and
`data`. A plain string is always text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ...contracts.legible import legible

_NAME = re.compile(r"[a-zA-Z][a-zA-Z0-9-]*")
_PACKED = re.compile(r"[A-Za-z0-9+/=]*")
_ENDS_SCRIPT = re.compile(r"<(?:[!/]|script)", re.IGNORECASE)
_VOID = frozenset({"img", "br", "meta"})
_ESCAPES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#39;", "`": "&#96;"})


@dataclass(frozen=True, slots=True)
class Markup:
    """Source that is safe to insert into a page."""

    source: str

    def __str__(self) -> str:
        return self.source


Child = Markup | str | int
Attributes = Mapping[str, str | int | float | bool]


def escaped(text: str) -> str:
    return legible(text).translate(_ESCAPES)


def tag(name: str, attributes: Attributes | None = None, *children: Child) -> Markup:
    """An element. An attribute that is False is left out; one that is True has no value. Event
    handlers are refused.
    """
    source = ["<", _named(name)]
    for key, value in (attributes or {}).items():
        if _named(key).lower().startswith("on"):
            raise ValueError(f"{key} would run code")
        if value is True:
            source += [" ", key]
        elif value is not False:
            source += [" ", key, '="', f"{value:g}" if isinstance(value, float) else escaped(str(value)), '"']
    source.append(">")
    if name not in _VOID:
        source += [joined(children).source, "</", name, ">"]
    return Markup("".join(source))


def joined(children: Iterable[Child]) -> Markup:
    return Markup("".join(child.source if isinstance(child, Markup) else escaped(str(child)) for child in children))


def style_sheet(css: str) -> Markup:
    """Our own CSS inside an SVG. It must not contain text from outside."""
    if "<" in css:
        raise ValueError("a style sheet holds no markup")
    return Markup(f"<style>{css}</style>")


def script(code: str) -> Markup:
    """Our own code. Text from outside must be packed."""
    if "<" in code:
        raise ValueError("a script holds no markup")
    return Markup(f"<script>{code}</script>")


def module(code: str) -> Markup:
    """Our own module, unchanged and without text from outside, so that a policy can allow it by its
    hash.
    """
    if _ENDS_SCRIPT.search(code):
        raise ValueError("a module holds nothing that could end it")
    return Markup(f'<script type="module">{code}</script>')


def data(name: str, about: str, packed: str) -> Markup:
    """Data for a script of the page: the text of an element that never runs, with `about` as its
    attribute.
    """
    if not _PACKED.fullmatch(packed):
        raise ValueError("data are packed")
    return tag("script", {"type": "application/gzip", f"data-{name}": about}, Markup(packed))


def css(**properties: str | int | float) -> str:
    """A `style` value: `css(margin_top="1em")` returns `margin-top:1em`."""
    return ";".join(f"{name.replace('_', '-')}:{value}" for name, value in properties.items())


def _named(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} is no name of an element or attribute")
    return name
