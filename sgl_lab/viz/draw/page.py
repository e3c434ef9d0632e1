"""One self-contained HTML file: no requests, no scripts but ours, light or dark as the reader's
system is.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable

from ...contracts.legible import clipped
from .escape import Markup, module, style_sheet, tag

MARK = '<meta name="generator" content="sgl_lab">'

_SHEET = (
    ":root{color-scheme:light dark}"
    "body{font-family:system-ui,-apple-system,'Segoe UI',Roboto,sans-serif;background:Canvas;color:CanvasText;"
    "max-width:1080px;margin:24px auto;padding:0 16px;overflow-wrap:break-word}"
)
_POLICY = (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'; script-src "
)


def page(title: str, parts: Iterable[Markup], code: str = "") -> str:
    """The page's source. `code` is a module of ours, and the only code that the page's policy
    allows.
    """
    allowed = f"'sha256-{base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()}'" if code else "'none'"
    head = tag(
        "head",
        {},
        tag("meta", {"charset": "utf-8"}),
        tag("meta", {"name": "generator", "content": "sgl_lab"}),
        tag("meta", {"http-equiv": "Content-Security-Policy", "content": _POLICY + allowed}),
        tag("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}),
        tag("title", {}, clipped(title, 120)),
        style_sheet(_SHEET),
    )
    body = tag("body", {}, tag("main", {}, *parts), module(code) if code else "")
    return "<!doctype html>" + tag("html", {"lang": "en"}, head, body).source
