"""One HTML file that needs nothing else: no script, no request, light and dark as the reader's system asks for."""

from __future__ import annotations

from collections.abc import Iterable

from ..legible import clipped
from .escape import Markup, style_sheet, tag

MARK = '<meta name="generator" content="sgl_lab">'

_SHEET = (
    ":root{color-scheme:light dark}"
    "body{font-family:system-ui,-apple-system,'Segoe UI',Roboto,sans-serif;background:Canvas;color:CanvasText;"
    "max-width:1080px;margin:24px auto;padding:0 16px;overflow-wrap:break-word}"
)
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


def page(title: str, parts: Iterable[Markup]) -> str:
    head = tag(
        "head",
        {},
        tag("meta", {"charset": "utf-8"}),
        tag("meta", {"name": "generator", "content": "sgl_lab"}),
        tag("meta", {"http-equiv": "Content-Security-Policy", "content": _POLICY}),
        tag("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}),
        tag("title", {}, clipped(title, 120)),
        style_sheet(_SHEET),
    )
    return "<!doctype html>" + tag("html", {"lang": "en"}, head, tag("body", {}, tag("main", {}, *parts))).source
