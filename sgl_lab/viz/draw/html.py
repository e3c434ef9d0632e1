"""Frozen HTML: frames, tables, pictures, collapsible parts.

It uses only what an untrusted notebook keeps: elements, `title` and `style` with plain values (no
variables, no classes, no script). Text inherits its colour from the page; our own colours are
legible on light and dark.
"""

from __future__ import annotations

import base64
from collections.abc import Collection, Iterable, Sequence

from ...contracts.legible import clipped
from . import palette
from .escape import Attributes, Child, Markup, css, tag

RULE = "1px solid rgba(127,127,127,0.22)"
_SMALL = css(font_size="12px", line_height="1.5")
_MUTED = css(opacity="0.65")
_STATUS = {
    "stopped": ("■ stopped", palette.COMPUTED),
    "error": ("✕ error", palette.CHOICE),
    "running": ("▸ running", palette.GENERATED),
}


def panel(title: str, status: str, message: str, parts: Iterable[Markup]) -> Markup:
    """The frame of a frozen cell.

    status  ok, stopped, error, or running if the run continues without its picture
    """
    head: list[Child] = [tag("span", {"style": css(font_weight="600")}, clipped(title, 120))] if title else []
    if status in _STATUS:
        words, ink = _STATUS[status]
        pill = css(
            color=ink.both, border=f"1px solid {ink.both}", border_radius="10px", padding="0 8px", font_weight="600", margin_left="8px"
        )
        head.append(tag("span", {"style": f"{_SMALL};{pill}"}, words))
        note = message or "the text generated so far is kept"
        head.append(tag("span", {"style": f"{_SMALL};{_MUTED};{css(margin_left='8px')}"}, clipped(note, 300)))
    frame = css(border=RULE, border_radius="8px", padding="14px 18px", margin="4px 0", font_size="14px", line_height="1.6")
    header = [tag("div", {"style": css(margin_bottom="10px")}, *head)] if head else []
    return tag("div", {"style": frame}, *header, *parts)


def output(page: Markup, attributes: Attributes | None = None) -> Markup:
    """The complete output of a cell. JupyterLab and nbconvert do not read dollars and backslashes
    in it as formulas.
    """
    return tag("div", {"class": "mathjax_ignore tex2jax_ignore", **(attributes or {})}, page)


def details(summary: str, content: Markup, *, is_open: bool = False) -> Markup:
    head = tag("summary", {"style": css(cursor="pointer", font_size="13px", font_weight="600", padding="6px 0")}, summary)
    return tag("details", {"open": is_open, "style": css(border_top=RULE)}, head, content)


def note(words: str) -> Markup:
    return tag("div", {"style": f"{_SMALL};{_MUTED};{css(margin_bottom='10px')}"}, words)


def picture(svg: Markup, alt: str) -> Markup:
    """An SVG as an image, the only form of it that untrusted notebooks keep."""
    source = "data:image/svg+xml;base64," + base64.b64encode(svg.source.encode()).decode()
    return tag("img", {"src": source, "alt": alt, "style": css(max_width="100%", display="block", margin="4px 0 10px 0")})


def plain(text: str) -> Markup:
    style = css(font_size="12px", line_height="1.5", white_space="pre", overflow_x="auto", margin="0 0 8px 0")
    # browsers drop a newline right after <pre>
    return tag("pre", {"style": style}, "\n" * text.startswith("\n"), text)


def progress(words: str, share: float | None) -> Markup:
    """A progress bar with its label. `share` is from 0 to 1, or None if it is not known."""
    done = css(background=palette.CACHED.both, width=f"{100 * (share or 0):.0f}%", height="4px", border_radius="2px")
    track = tag(
        "div",
        {"style": css(background="rgba(128,128,128,0.25)", width="260px", height="4px", border_radius="2px")},
        tag("div", {"style": done}),
    )
    return tag("div", {"style": css(padding="6px 0")}, tag("div", {"style": f"{_SMALL};{_MUTED}"}, words), track)


def table(rows: Iterable[tuple[str, str]]) -> Markup:
    """A table of names and values."""
    cell = css(padding="2px 18px 2px 0", text_align="left", border="none", background="transparent")
    return tag(
        "table",
        {"style": css(border_collapse="collapse", font_size="14px", margin="4px 0")},
        *(tag("tr", {}, tag("td", {"style": f"{cell};{_MUTED}"}, name), tag("td", {"style": cell}, value)) for name, value in rows),
    )


def grid(rows: Sequence[Sequence[str]], unbroken: Collection[int] = ()) -> Markup:
    """A table whose first row holds the column headings. Cells of the columns `unbroken` stay on one
    line.
    """
    cell = css(padding="2px 18px 2px 0", text_align="left", border="none", background="transparent")
    head = tag("tr", {}, *(tag("th", {"style": f"{cell};{_MUTED};{css(font_weight='600')}"}, clipped(name, 60)) for name in rows[0]))
    whole = f"{cell};{css(white_space='nowrap')}"
    body = [
        tag("tr", {}, *(tag("td", {"style": whole if at in unbroken else cell}, clipped(value, 200)) for at, value in enumerate(row)))
        for row in rows[1:]
    ]
    return tag("table", {"style": css(border_collapse="collapse", font_size="14px", margin="4px 0")}, head, *body)
