"""Frozen HTML: the streams token by token, the strip of numbers, the frame around both.

Only what an untrusted notebook keeps is used: elements, `title`, `style` with plain values (no
variables, no classes, no script). Colours come from the page by inheritance; ours are legible
on light and dark.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Iterable, Sequence

from ...contracts.legible import clipped
from ..views.metrics import MetricsPicture
from ..views.tokens import Tok, TokensPicture
from . import palette
from .escape import Attributes, Child, Markup, css, joined, tag
from .numbers import counted, metric_items, percent
from .streams import SPECIAL, Block, Run, Stream, blocks, fair_share, streams

MAX_FORKS = 64

RULE = "1px solid rgba(127,127,127,0.22)"
_SMALL = css(font_size="12px", line_height="1.5")
_MUTED = css(opacity="0.65")
_STATUS = {
    "stopped": ("■ stopped", palette.COMPUTED),
    "error": ("✕ error", palette.CHOICE),
    "running": ("▸ running", palette.GENERATED),
}


def panel(title: str, status: str, message: str, parts: Iterable[Markup]) -> Markup:
    """The frame of a frozen cell. status: ok, stopped, error or, of what goes on without its picture, running."""
    head: list[Child] = [tag("span", {"style": css(font_weight="600")}, clipped(title, 120))] if title else []
    if status in _STATUS:
        words, ink = _STATUS[status]
        pill = css(
            color=ink.both, border=f"1px solid {ink.both}", border_radius="10px", padding="0 8px", font_weight="600", margin_left="8px"
        )
        head.append(tag("span", {"style": f"{_SMALL};{pill}"}, words))
        note = message or "what had been generated is kept"
        head.append(tag("span", {"style": f"{_SMALL};{_MUTED};{css(margin_left='8px')}"}, clipped(note, 300)))
    frame = css(border=RULE, border_radius="8px", padding="14px 18px", margin="4px 0", font_size="14px", line_height="1.6")
    header = [tag("div", {"style": css(margin_bottom="10px")}, *head)] if head else []
    return tag("div", {"style": frame}, *header, *parts)


def metrics_strip(picture: MetricsPicture) -> Markup:
    """Where the tokens came from, as a bar and in words, then the other numbers."""
    origins = [
        (picture["cached"], "cached", palette.CACHED),
        (picture["computed"], "computed", palette.COMPUTED),
        (picture["generated"], "generated", palette.GENERATED),
    ]
    total = sum(n_tokens for n_tokens, _, _ in origins)
    bar = [
        tag("div", {"style": css(background_color=ink.both, width=f"{100 * n_tokens / total:.2f}%", height="6px")})
        for n_tokens, _, ink in origins
        if n_tokens
    ]
    words = [
        tag(
            "span",
            {"style": css(white_space="nowrap")},
            tag("span", {"style": css(color=ink.both, font_weight="700")}, f"{ink.glyph} "),
            tag("span", {"style": css(font_weight="600")}, f"{n_tokens:,}"),
            tag("span", {"style": _MUTED}, f" {name}"),
        )
        for n_tokens, name, ink in origins
    ]
    rest = [
        tag(
            "span",
            {"style": css(white_space="nowrap")},
            tag("span", {"style": css(font_weight="600")}, value),
            tag("span", {"style": _MUTED}, f" {name}"),
        )
        for value, name in metric_items(picture)
    ]
    row = css(display="flex", flex_wrap="wrap", column_gap="18px", row_gap="2px", font_size="13px")
    gauge = css(display="flex", overflow="hidden", border_radius="3px", margin="0 0 8px 0", background_color="rgba(127,127,127,0.15)")
    return tag(
        "div",
        {"style": css(margin_bottom="14px")},
        tag("div", {"style": gauge}, *bar) if bar else "",
        tag("div", {"style": row}, *words, *rest),
    )


def transcript(picture: TokensPicture, n_tokens: int = 6000) -> Markup:
    """All streams: a parent's text, then its forks side by side, then its text after them; about `n_tokens` tokens at most."""
    roots = streams(picture)
    share = fair_share([len(op["toks"]) for op in picture["ops"]], n_tokens)
    shown = [tag("div", {"style": css(margin_bottom="10px")}, _heading(root), *_stream(root, share)) for root in roots[:MAX_FORKS]]
    return tag("div", {}, *shown, *_more(len(roots) - MAX_FORKS, "stream"))


def legend(picture: TokensPicture) -> Markup:
    """What colours and underlines mean; what is rare is told where it is."""
    is_forced = any(tok[1] == "forced" for op in picture["ops"] for tok in op["toks"])
    samples = [
        tag(
            "span",
            {"style": css(white_space="nowrap")},
            tag("span", {"style": _token_style(cls)}, cls),
            tag("span", {"style": _MUTED}, f" {palette.INKS[cls].meaning}"),
        )
        for cls in ("cached", "computed", "generated", *(("forced",) if is_forced else ()), "choice")
    ]
    row = css(display="flex", flex_wrap="wrap", column_gap="18px", margin_top="6px", margin_bottom="10px")
    return tag("div", {"style": f"{_SMALL};{row}"}, *samples)


def output(page: Markup, attributes: Attributes | None = None) -> Markup:
    """The whole output of a cell: dollars and backslashes in it are none of a formula, neither in JupyterLab nor in nbconvert's page."""
    return tag("div", {"class": "mathjax_ignore tex2jax_ignore", **(attributes or {})}, page)


def details(summary: str, content: Markup, *, is_open: bool = False) -> Markup:
    head = tag("summary", {"style": css(cursor="pointer", font_size="13px", font_weight="600", padding="6px 0")}, summary)
    return tag("details", {"open": is_open, "style": css(border_top=RULE)}, head, content)


def note(words: str) -> Markup:
    return tag("div", {"style": f"{_SMALL};{_MUTED};{css(margin_bottom='10px')}"}, words)


def picture(svg: Markup, alt: str) -> Markup:
    """An SVG as an image: the only form of it that untrusted notebooks keep."""
    source = "data:image/svg+xml;base64," + base64.b64encode(svg.source.encode()).decode()
    return tag("img", {"src": source, "alt": alt, "style": css(max_width="100%", display="block", margin="4px 0 10px 0")})


def plain(text: str) -> Markup:
    style = css(font_size="12px", line_height="1.5", white_space="pre", overflow_x="auto", margin="0 0 8px 0")
    return tag("pre", {"style": style}, "\n" * text.startswith("\n"), text)  # a newline right after <pre> is none to a browser


def progress(words: str, share: float | None) -> Markup:
    """What is being waited for, and how far it has come."""
    done = css(background=palette.CACHED.both, width=f"{100 * (share or 0):.0f}%", height="4px", border_radius="2px")
    track = tag(
        "div",
        {"style": css(background="rgba(128,128,128,0.25)", width="260px", height="4px", border_radius="2px")},
        tag("div", {"style": done}),
    )
    return tag("div", {"style": css(padding="6px 0")}, tag("div", {"style": f"{_SMALL};{_MUTED}"}, words), track)


def table(rows: Iterable[tuple[str, str]]) -> Markup:
    """Names and values."""
    cell = css(padding="2px 18px 2px 0", text_align="left", border="none", background="transparent")
    return tag(
        "table",
        {"style": css(border_collapse="collapse", font_size="14px", margin="4px 0")},
        *(tag("tr", {}, tag("td", {"style": f"{cell};{_MUTED}"}, name), tag("td", {"style": cell}, value)) for name, value in rows),
    )


def grid(rows: Sequence[Sequence[str]]) -> Markup:
    """A table whose first row says what stands in the columns."""
    cell = css(padding="2px 18px 2px 0", text_align="left", border="none", background="transparent")
    head = tag("tr", {}, *(tag("th", {"style": f"{cell};{_MUTED};{css(font_weight='600')}"}, clipped(name, 60)) for name in rows[0]))
    body = [tag("tr", {}, *(tag("td", {"style": cell}, clipped(value, 200)) for value in row)) for row in rows[1:]]
    return tag("table", {"style": css(border_collapse="collapse", font_size="14px", margin="4px 0")}, head, *body)


# ---------------------------------------------------------------- streams


def _heading(stream: Stream) -> Markup:
    if not stream.name:
        return joined([])
    mark = "↳ " if stream.row["parent"] is not None else ""
    style = css(font_size="12px", font_weight="600", margin_bottom="4px")
    return tag("div", {"style": style}, tag("span", {"style": _MUTED}, mark), clipped(stream.name, 60))


def _stream(stream: Stream, n_shown: int) -> list[Markup]:
    parts: list[Markup] = []
    for toks, forked in stream.sections():
        markup: Block | None = None
        for block in blocks(toks, n_shown):
            if block.is_markup:
                markup = block
            else:
                parts.append(_block(block, markup))
                markup = None
        if markup is not None:
            parts.append(tag("div", {"style": css(margin_bottom="8px")}, _markup_line(markup)))
        if forked:
            parts.append(_side_by_side(forked, n_shown))
    return parts


def _side_by_side(forked: list[Stream], n_shown: int) -> Markup:
    column = css(flex="1 1 220px", min_width="200px", border_top=f"2px solid {palette.GENERATED.both}", padding="8px 0 0 0")
    columns = [tag("div", {"style": column}, _heading(stream), *_stream(stream, n_shown)) for stream in forked[:MAX_FORKS]]
    row = css(display="flex", flex_wrap="wrap", gap="20px", margin="10px 0 12px 0")
    return tag("div", {"style": row}, *columns, *_more(len(forked) - MAX_FORKS, "fork"))


def _block(block: Block, before: Block | None) -> Markup:
    """What one role says, under its name and the template's own tokens that lead to it."""
    name = css(font_size="11px", letter_spacing="0.06em", text_transform="uppercase", opacity="0.6", margin_right="10px")
    heading: list[Child] = [tag("span", {"style": name}, clipped(block.role, 40))] if block.role else []
    heading += [_markup_line(before)] if before is not None else []
    text = css(white_space="pre-wrap", overflow_wrap="break-word", line_height="1.75")
    return tag(
        "div",
        {"style": css(margin_bottom="8px")},
        tag("div", {"style": css(line_height="1.7", overflow_wrap="break-word")}, *heading) if heading else "",
        tag("div", {"style": text}, *(_run(run) for run in block.runs)),
    )


def _markup_line(block: Block) -> Markup:
    """Chat markup on one line, small: it is there, it has its cost, it is not what one reads."""
    words = [tag("span", {"style": _token_style(run.cls)}, clipped("".join(tok[0] for tok in run.toks), 200)) for run in block.runs]
    return tag("span", {"style": css(display="inline-block", font_size="11px", opacity="0.6")}, *words)


def _run(run: Run) -> Markup:
    if run.n_left_out:
        return tag("span", {"style": f"{_SMALL};{_MUTED}"}, f" … {counted(run.n_left_out, 'more token')} … ")
    return tag("span", {"style": _token_style(run.cls)}, *_merged(run.toks))


def _merged(toks: list[Tok]) -> list[Child]:
    """Tokens with a probability in spans of their own, all others as one text."""
    parts: list[Child] = []
    for tok in toks:
        text, _, logprob, _, top, *_ = tok
        shown = _shown(text)
        parts += [tag("span", {"title": _hint(logprob, top)}, *shown)] if logprob is not None else shown
    return parts


def _shown(text: str) -> list[Child]:
    if SPECIAL.fullmatch(text):
        return [tag("span", {"style": css(opacity="0.45", font_size="11px")}, text)]
    parts: list[Child] = []
    for n, line in enumerate(text.split("\n")):
        parts += [tag("span", {"style": css(opacity="0.35")}, "↵"), "\n"] if n else []
        parts += [line] if line else []
    return parts


def _hint(logprob: float, top: tuple[tuple[str, float], ...] | None) -> str:
    lines = [f"p = {percent(math.exp(min(logprob, 0.0)))}"]
    lines += [f"{percent(math.exp(min(other, 0.0)))}  {clipped(text, 24)}" for text, other in (top or ())[:8]]
    return "\n".join(lines)


def _token_style(cls: str) -> str:
    ink = palette.INKS.get(cls)
    if ink is None:
        return css(opacity="0.8")
    underline = css(border_bottom=f"{3 if ink.line == 'double' else 2}px {ink.line} {ink.both}")
    filled = css(background_color=palette.tint(ink.both, 0.16), border_radius="3px")
    return {"cached": underline, "computed": underline, "generated": filled}.get(cls, f"{filled};{underline}")


def _more(n: int, what: str) -> list[Markup]:
    return [tag("div", {"style": f"{_SMALL};{_MUTED}"}, f"… {counted(n, f'more {what}')}")] if n > 0 else []
