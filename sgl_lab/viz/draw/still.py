"""The picture of a run without scripts. It has the parts, words, positions and heights of the live
page (`static/view.js`).

It uses only what an untrusted notebook keeps: elements, `title` and `style` with plain values (no
variables, no script, no inline SVG). Text and lines inherit the page's colour; our own colours are
legible on light and dark. It contains every character of every prompt and answer.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import groupby

from ...contracts.legible import clipped
from ..views.lanes import BarRow, LaneRow, LanesPicture
from ..views.metrics import MetricsPicture
from ..views.tok import Tok
from ..views.tokens import TokensPicture
from ..views.tree import TreePicture
from . import palette
from .escape import Child, Markup, css, joined, tag
from .numbers import UNCOUNTED, brief, counted, is_uncounted, money, seconds
from .outline import lane_order
from .plan import HEIGHT, Node, plan
from .streams import SPECIAL, Stream, streams, whole_characters
from .text import transcript

LINE = "rgba(127,127,127,0.28)"
BELOW = f"border-bottom:1px solid {LINE}"
SOFT = "opacity:0.68"
SMALL = "font-size:11.5px;line-height:18px"
MONO = "font-family:ui-monospace,Menlo,Consolas,monospace"
SEAM = "border-left:2px solid currentColor;padding-left:2px"
"""style of healed tokens"""
CHIP = css(border="1px solid", border_radius="4px", padding="0 4px")
"""style of a block, such as an image"""
FRAME = css(display="inline-block", margin="2px 3px 2px 1px", vertical_align="middle")
"""style of a block around its picture"""
IN_TEXT, IN_NODE = 44, 18
"""height in pixels of a picture"""
LONG = 400
"""a turn with more tokens than this is folded"""
TOKENS_HIGH, FORK_HIGH, TREE_HIGH, LANES_HIGH = 240, 96, 232, 206
ALL = 10**9
MANY = 32
"""forks side by side that have boxes of their own"""
LANE, AXIS = 18, 20
GAPS = ("host", "forks")
"""kinds of bars for stretches in which a fork has no request"""
WAITS = ("wait", "sent")
"""kinds of bars of a request that nothing is known to be computed for"""
MAX_LANES = 100
MAX_BARS = 400
MAX_NODES = 60
WIDE, LEAST_ZOOM = 930, 0.6
"""width in pixels that a tree is fitted into, and the smallest zoom for it"""

_ENDED = {"ok": "done in", "stopped": "stopped after", "error": "failed after"}
_DOT = {"ok": palette.GENERATED, "running": palette.GENERATED, "stopped": palette.COMPUTED, "error": palette.CHOICE}
ALARM = palette.Ink("#b42318", "#ff8a7a", "#d9483b", "solid", "✕", "failed", "failed")


def frame(parts: Iterable[Markup]) -> Markup:
    style = css(
        border=f"1px solid {LINE}", border_radius="10px", margin="4px 2px 8px", font_size="12.5px", line_height="1.45", overflow="hidden"
    )
    return tag("div", {"style": style}, *parts)


def head(title: str, status: str, ms: float | None, message: str = "") -> Markup:
    """The header: model and state.

    status   ok, stopped, error or running
    ms       how long the run took, in milliseconds
    message  further details of a run that is not over
    """
    words = f"{_ENDED[status]} {seconds(ms)}" if ms is not None and status in _ENDED else message or {"ok": ""}.get(status, status)
    dot = css(
        display="inline-block",
        width="8px",
        height="8px",
        border_radius="50%" if status in ("ok", "running") else "2px",
        background_color=_DOT.get(status, palette.EVICTED).both,
    )
    row = css(
        display="flex",
        align_items="center",
        flex_wrap="wrap",
        gap="4px 8px",
        min_height="29px",
        padding="5px 14px",
        border_bottom=f"1px solid {LINE}",
    )
    return tag(
        "div",
        {"style": f"{row};{BELOW}"},
        tag("span", {"style": dot}),
        tag("span", {"style": css(font_weight="600")}, clipped(title, 120)),
        tag("span", {"style": SOFT}, clipped(words, 120)),
    )


def moment(words: str) -> Markup:
    """Shows the selected moment, where the live view has its slider."""
    return tag("div", {"style": f"{css(min_height='20px', padding='5px 14px')};{BELOW}"}, tag("div", {"style": f"{SMALL};{SOFT}"}, words))


def alarm(message: str) -> Markup:
    box = css(
        padding="7px 14px",
        max_height="96px",
        overflow="auto",
        border_bottom=f"1px solid {LINE}",
        background_color=palette.tint(ALARM.both, 0.1),
    )
    return tag(
        "div",
        {"style": f"{box};{css(font_weight='500', white_space='pre-wrap', overflow_wrap='anywhere')}"},
        tag("span", {"style": css(color=ALARM.both)}, "✕ "),
        message,
    )


# ---------------------------------------------------------------- counts


def counts(picture: MetricsPicture, is_engine: bool = False) -> Markup:
    """Token counts by origin, then the other numbers. For a whole engine all cached tokens are one
    count.
    """
    is_untold = is_uncounted(picture)
    origins = [
        (picture["found"], palette.words_of(elsewhere=picture["elsewhere"]).strip, palette.CACHED),
        (picture["reused"], "reused in this run", palette.REUSED),
        (picture["computed"], "prompt tokens" if is_untold else "computed", palette.COMPUTED),
        (picture["generated"], f"generated, {picture['forced']:,} forced" if picture["forced"] else "generated", palette.GENERATED),
    ]
    if is_engine:
        whole = palette.ELSEWHERE.strip if picture["elsewhere"] else "reused from the cache"
        origins = [(picture["cached"], whole, palette.CACHED if picture["elsewhere"] else palette.REUSED), *origins[2:]]
    elif picture["elsewhere"] and not picture["reused"]:
        del origins[1]
    cells = [_count(brief(n), words, ink) for n, words, ink in origins]
    if is_untold:
        cells[0] = _count("–", UNCOUNTED, palette.CACHED)
    speed = f"{picture['tok_s']:,.1f}" if picture["tok_s"] < 100 else f"{picture['tok_s']:,.0f}"
    facts = [(speed if picture["generated"] else "–", "tokens/s")]
    if picture["n_pages"]:
        facts.append((f"{brief(picture['n_pages'] - picture['free_pages'])}\u2009/\u2009{brief(picture['n_pages'])}", "cache pages"))
    if picture["currency"]:
        facts.append((money(picture["cost"], picture["currency"], picture["unpriced"]), "cost"))
    facts.append((f"{picture['running']} · {picture['waiting']}", "running · waiting") if is_engine else (f"{picture['forks']:,}", "forks"))
    row = tag(
        "div",
        {"style": css(display="flex", flex_wrap="wrap", padding="4px 6px 0")},
        *cells,
        *(_count(value, words) for value, words in facts),
    )
    parts = [tag("div", {"style": f"flex:{n} 1 0;background-color:{ink.both}"}) for n, _, ink in origins if n]
    bar = css(display="flex", gap="1px", height="4px", margin="4px 14px 7px", border_radius="2px", overflow="hidden")
    return tag("div", {"style": BELOW}, row, tag("div", {"style": bar}, *parts))


def _count(value: str, words: str, ink: palette.Ink | None = None) -> Markup:
    cell = css(flex="1.5 1 120px" if ink else "1 1 120px", padding="3px 8px")
    number = css(font_size="15px", line_height="20px", font_weight="600")
    mark: list[Child] = [tag("span", {"style": css(color=ink.both, font_size="12px")}, f"{ink.glyph} ")] if ink else []
    label = f"{css(font_size='11px', line_height='14px')};{SOFT}"
    return tag("div", {"style": cell}, tag("div", {"style": number}, *mark, value), tag("div", {"style": label}, words))


def section(title: str, legend: Iterable[Markup], body: Markup, note: str = "") -> Markup:
    row = css(display="flex", flex_wrap="wrap", align_items="center", gap="2px 12px", min_height="26px", padding="3px 14px")
    more = [tag("span", {"style": f"{SMALL};{SOFT}"}, note)] if note else []
    bar = tag("div", {"style": row}, tag("span", {"style": css(font_weight="600", font_size="12px")}, title), *more, *legend)
    return tag("div", {"style": css(border_top=f"1px solid {LINE}", margin_top="-1px")}, bar, body)


def scroll_box(high: int, *children: Markup, style: str = "", label: str, at_end: bool = False, low: int = 0) -> Markup:
    """A scrolling box, also by keyboard. With `at_end` its last lines are visible at first, as in
    the live view.
    """
    box = css(max_height=f"{high}px", overflow="auto") + (f";min-height:{low}px" if low else "")
    if at_end:
        box, children = f"{box};display:flex;flex-direction:column-reverse", (tag("div", {}, *children),)
    return tag("div", {"style": f"{box};{style}" if style else box, "tabindex": 0, "role": "group", "aria-label": label}, *children)


# ---------------------------------------------------------------- tokens


def tokens(picture: TokensPicture, lanes: LanesPicture | None = None, *, elsewhere: bool = False) -> Markup:
    """All streams: a parent's text, then its forks side by side, then the parent's text after them."""
    reused: dict[str, int] = {}
    for bar in lanes["bars"] if lanes else ():
        if bar["kind"] == "reused":
            reused[bar["lane"]] = reused.get(bar["lane"], 0) + bar["n"]
    roots = streams(picture)
    seen = {tok[1] for op in picture["ops"] for tok in op["toks"]}
    always = ("cached", "computed", "generated")
    words = palette.words_of(elsewhere=elsewhere)
    keys = [_token_key(state, words) for state in palette.TOKENS if state in always or state in seen]
    if any(_healed(tok) for op in picture["ops"] for tok in op["toks"]):
        mark, word, meaning = palette.HEALED
        style = f"{SMALL};{css(white_space='nowrap', padding='0 3px')};{SEAM}"
        keys.append(tag("span", {"style": style, "title": meaning}, f"{mark} {word}"))
    if len(roots) > MANY:
        body = [_rows(roots, reused)]
    elif len(roots) > 1:
        body = _columns([_card(root, reused) for root in roots])
    else:
        body = [part for root in roots for part in _stream(root, reused)]
    has_forks = any(stream.children for stream in roots)
    return section(
        "Tokens", keys, scroll_box(TOKENS_HIGH - 14, *body, style=css(padding="2px 14px 12px"), label="Tokens", at_end=has_forks)
    )


def bare_tokens(picture: TokensPicture) -> Markup:
    """The text of all streams, with brackets in place of colours, so that all text of very many
    forks fits.
    """
    box = css(white_space="pre-wrap", overflow_wrap="anywhere", font_size="12.5px", line_height="22px")
    words = tag("div", {"style": f"{box};{MONO}"}, transcript(picture, n_tokens=ALL))
    note = "too long for colours: ⟦generated⟧, ⟨forced⟩ and ⟪chosen⟫ text has brackets"
    return section("Tokens", [], scroll_box(TOKENS_HIGH - 14, words, style=css(padding="2px 14px 12px"), label="Tokens", at_end=True), note)


def _token_key(state: str, words: palette.Words) -> Markup:
    ink = palette.INKS[state]
    meaning = {"cached": words.cached_meaning, "reused": words.reused_meaning, "computed": words.computed_meaning}.get(state, ink.meaning)
    return tag(
        "span",
        {"style": f"{SMALL};{css(white_space='nowrap', padding='0 3px')};{_look(state)}", "title": meaning},
        f"{ink.glyph} {words.cached if state == 'cached' else ink.word}",
    )


def _stream(stream: Stream, reused: dict[str, int]) -> list[Markup]:
    parts: list[Markup] = []
    is_plain = stream.row["parent"] is not None
    for toks, forked in stream.sections():
        parts += [_turn(role, spoken, is_plain) for role, spoken in turns(toks)]
        if len(forked) > MANY:
            parts.append(_rows(forked, reused))
        elif forked:
            parts += _columns([_card(child, reused) for child in forked])
    if not is_plain and (words := _broken(stream.row["state"])):
        parts.append(tag("div", {"style": css(color=ALARM.both, font_weight="600")}, words))
    return parts


def turns(toks: Iterable[Tok]) -> list[tuple[str, list[Tok]]]:
    """The turns of a stream, as (role, tokens).

    Markup has no role. Markup that closes a turn stays with that turn; markup that opens a turn
    becomes its first line. Consecutive turns that the template opens without text of the program
    remain separate.
    """
    found: list[tuple[str, list[Tok]]] = []
    for tok in whole_characters(list(toks)):
        role = tok[3]
        last, spoken = found[-1] if found else ("", [])
        opens = bool(spoken) and not last and bool(SPECIAL.fullmatch(spoken[0][0]))
        ended = bool(spoken) and spoken[-1][0].endswith("\n")
        again = opens and not role and tok[0] == spoken[0][0]
        if spoken and not again and (role == last or (opens if role else not ended)):
            spoken.append(tok)
            if role and opens:
                found[-1] = (role, spoken)
        else:
            found.append((role, [tok]))
    return found


def _turn(role: str, toks: list[Tok], is_plain: bool) -> Markup:
    name = tag(
        "div",
        {"style": f"{css(flex='none', width='68px', font_size='11px', line_height='16px' if is_plain else '22px')};{SOFT}"},
        clipped(role, 40),
    )
    text = css(flex="1 1 0", min_width="0", font_size="12.5px", line_height="22px", white_space="pre-wrap", overflow_wrap="anywhere")
    body: Markup = tag("div", {"style": f"{text};{MONO}"}, *_runs(toks))
    if len(toks) > LONG:
        start = "".join(tok[0] for tok in toks[:60])
        words = f"{clipped(start, 160)} ({counted(len(toks), 'token')})"
        fold = tag("summary", {"style": css(cursor="pointer", font_size="12px")}, words)
        body = tag("details", {"style": css(flex="1 1 0", min_width="0")}, fold, body)
    return tag(
        "div", {"style": css(display="block" if is_plain else "flex", padding_top="4px")}, *([name] if role or not is_plain else []), body
    )


def _runs(toks: list[Tok]) -> list[Child]:
    parts: list[Child] = []
    for (state, is_mark, healed, (block, picture)), run in groupby(
        toks, key=lambda tok: (tok[1], bool(SPECIAL.fullmatch(tok[0])), _healed(tok), _block(tok))
    ):
        words = "".join(tok[0] for tok in run)
        look = _look(state) + (";opacity:0.7;font-size:11px" if is_mark else "") + (f";{SEAM}" if healed else "")
        title = {"title": f'healed: "{healed}" was re-encoded together with the text after it'} if healed else {}
        if block:
            look, title = f"{look};{CHIP}" + (f";{FRAME}" if picture else ""), {"title": block}
        shown = [_picture(picture, IN_TEXT)] if picture else []
        parts.append(tag("span", {"style": look} | title if look else title, *shown, words))
    return parts


def _picture(source: str, high: int) -> Markup:
    """A small picture, with words beside it that say the same."""
    place = css(display="inline-block", vertical_align="middle", margin=f"{2 if high > IN_NODE else 0}px 5px 2px 0")
    style = f"{css(height=f'{high}px', width='auto', border_radius='3px')};{place}"
    return tag("img", {"src": source, "alt": "", "style": style})


def _healed(tok: Tok) -> str:
    """The text that this token spells again, encoded differently before."""
    return (tok[6] or {}).get("healed", "")


def _block(tok: Tok) -> tuple[str, str]:
    """The beginning of the digest of the block at this position, and its picture."""
    how = tok[6] or {}
    return how.get("block", ""), how.get("picture", "")


def _look(state: str) -> str:
    ink = palette.INKS.get(state)
    if ink is None:
        return SOFT
    ground = f"background-color:{palette.tint(ink.both, 0.13)};border-radius:3px"
    if ink.line == "none":
        return ground
    if ink.line == "wavy":
        return f"{ground};border-top:1px dotted {ink.both};border-bottom:1px dotted {ink.both}"
    return f"{ground};border-bottom:{3 if ink.line == 'double' else 1.5}px {ink.line} {ink.both}"


def _card(stream: Stream, reused: dict[str, int]) -> Markup:
    """One fork."""
    n_reused = reused.get(f"f{stream.row['fork']}", 0)
    size = f"↻ {n_reused:,} · " if n_reused else ""
    failed = stream.row["state"] == "error"
    row = css(
        display="flex",
        gap="8px",
        height="18px",
        padding="3px 10px",
        border_bottom=f"1px solid {LINE}",
        background_color="rgba(127,127,127,0.07)",
        font_size="11.5px",
        line_height="18px",
    )
    words = _broken(stream.row["state"])
    top = tag(
        "div",
        {"style": row},
        tag(
            "span",
            {"style": css(font_weight="600", white_space="nowrap", overflow="hidden", text_overflow="ellipsis")},
            clipped(stream.name or "stream", 60),
        ),
        *([tag("span", {"style": css(color=ALARM.both, font_weight="600", white_space="nowrap")}, words)] if words else []),
        tag("span", {"style": f"{css(margin_left='auto', white_space='nowrap')};{SOFT}"}, f"{size}{counted(len(stream.toks), 'token')}"),
    )
    high = 300 if stream.children else FORK_HIGH
    body = scroll_box(
        high - 9, *_stream(stream, reused), style=css(padding="3px 10px 6px"), label=clipped(stream.name or "stream", 60), at_end=True
    )
    edge = f"2px solid {ALARM.both}" if failed else f"1px solid {LINE}"
    return tag("div", {"style": css(flex="1 1 0", min_width="0", border=edge, border_radius="8px", overflow="hidden")}, top, body)


def _rows(forked: list[Stream], reused: dict[str, int]) -> Markup:
    """Many forks, one paragraph each. The markup is minimal, so that all of their text fits."""
    text = css(line_height="22px", white_space="pre-wrap", overflow_wrap="anywhere", padding_left="10px", border_left=f"2px solid {LINE}")
    rows: list[Markup] = []
    for stream in forked:
        if stream.children:
            rows.append(_card(stream, reused))
            continue
        name = f"{clipped(stream.name or 'stream', 60)}{' ' if stream.row['state'] else ''}{_broken(stream.row['state'])}"
        row: list[Child] = []
        for role, toks in turns(stream.toks):
            row += [tag("i", {}, f" {clipped(role, 40)} ")] if role else []
            row += _runs(toks)
        rows.append(tag("div", {}, tag("b", {}, name), " ", *row))
    return tag("div", {"style": f"{text};{MONO}"}, *rows)


def _broken(state: str) -> str:
    return "✕ failed here" if state == "error" else f"■ {clipped(state, 20)} here" if state else ""


def _columns(cards: list[Markup]) -> list[Markup]:
    """Columns of equal width, two or four per row as space allows. Up to three share one row."""
    row = css(display="flex", gap="8px", padding="6px 0 0")
    if len(cards) <= 3:
        return [tag("div", {"style": row}, *cards)]
    empty = tag("div", {"style": css(flex="1 1 0", min_width="0")})
    filled = cards + [empty] * (-len(cards) % 4)
    pair = css(display="flex", gap="8px", flex="1 1 400px", min_width="0")
    rows = []
    for start in range(0, len(filled), 4):
        pairs = [tag("div", {"style": pair}, *filled[at : at + 2]) for at in (start, start + 2)]
        rows.append(tag("div", {"style": css(display="flex", flex_wrap="wrap", gap="8px", padding="6px 0 0")}, *pairs))
    return rows


# ---------------------------------------------------------------- radix tree


def tree(picture: TreePicture, max_nodes: int = MAX_NODES, high: int = TREE_HIGH, *, elsewhere: bool = False) -> Markup:
    planned = plan(picture, max_nodes)
    words = palette.words_of(elsewhere=elsewhere)
    of_tone = {"cached": words.before, "computed": words.new}
    inks = {tone: palette.INKS[tone].both for tone in palette.NODES}
    keys = [
        key(tag("span", {"style": css(color=inks[tone])}, glyph), of_tone.get(tone, word)) for tone, (glyph, word) in palette.NODES.items()
    ]
    growing = f" · {len(picture['tails'])} growing" if picture["tails"] else ""
    note = f"{counted(planned.n_shown, 'node')}{' of this run' if planned.n_others else ''}{growing}"
    if not planned.nodes:
        return section("Radix tree", keys, tag("div", {"style": css(padding="20px 14px")}, "The cache is empty."), note)
    zoom = min(1.0, max(LEAST_ZOOM, WIDE / (planned.width + 28)))
    world = css(position="relative", width=f"{planned.width + 28:g}px", height=f"{planned.height + 28:g}px", zoom=f"{zoom:.2f}")
    world += ";" + css(flex="none", margin_right="auto")
    marks = [mark for node in planned.nodes for mark in _edges(node)] + [_node(node) for node in planned.nodes]
    return section(
        "Radix tree",
        keys,
        # The box is scrolled to its right end at first, where the leaves are. A tree that fits is
        # on the left.
        scroll_box(
            high,
            tag("div", {"style": world}, *marks),
            style=css(display="flex", flex_direction="row-reverse"),
            label="Radix tree",
            low=stage_height(planned.height, high),
        ),
        note,
    )


def stage_height(height: float, high: int) -> int:
    """Height of the box in pixels. It grows in the same steps as the stage of the live page."""
    return min(high, 96 + 68 * max(0, math.ceil((height + 28 - 96) / 68)))


def _node(node: Node) -> Markup:
    ink = palette.INKS.get(node.tone, palette.EVICTED if node.tone == "others" else palette.LOCKED)
    line = "dashed" if node.state in ("tail", "others") else "solid"
    style = css(
        position="absolute",
        left=f"{node.x + 14:g}px",
        top=f"{node.y + 14:g}px",
        width=f"{node.width}px",
        height=f"{HEIGHT}px",
        box_sizing="border-box",
        padding="0 7px",
        border=f"{2 if node.state in ('locked', 'running') else 1}px {line} {ink.both}",
        border_radius="7px",
        background_color=palette.tint(ink.both, 0.08),
        font_size="11px",
        line_height=f"{HEIGHT - 2}px",
        white_space="pre",
        overflow="hidden",
    )
    glyph = "" if node.tone in ("root", "others") else ink.glyph
    parts: list[Child] = [tag("span", {"style": css(color=ink.both)}, f"{glyph} ")] if glyph else []
    parts += [_picture(node.picture, IN_NODE)] if node.picture else []
    parts.append(node.label)
    if node.meta:
        parts.append(tag("span", {"style": f"{css(font_size='10px')};{SOFT}"}, f"  {node.meta}"))
    return tag("div", {"style": f"{style};{MONO}"} | ({"title": node.title} if node.title else {}), *parts)


def _edges(node: Node) -> list[Markup]:
    """The edges from a parent's right side to its children: one line each, with a bend if their
    heights differ.
    """
    if node.parent is None:
        return []
    ink = palette.LOCKED.both if node.state in ("locked", "running") else LINE
    line = f"1.5px {'dashed' if node.state == 'tail' else 'solid'} {palette.GENERATED.both if node.state == 'tail' else ink}"
    left, right = node.parent.x + node.parent.width + 14, node.x + 14
    above, here = node.parent.y + 14 + HEIGHT / 2, node.y + 14 + HEIGHT / 2
    if abs(above - here) < 2:
        return [stroke(left, here, right - left, 0, border_top=line)]
    middle = right - 12
    first = stroke(left, above, middle - left, 0, border_top=line)
    top = min(above, here)
    corner = "0 0 0 5px" if here > above else "5px 0 0 0"
    side = {"border_bottom" if here > above else "border_top": line}
    return [first, stroke(middle, top, right - middle, abs(here - above), border_left=line, border_radius=corner, **side)]


def stroke(left: float, top: float, width: float, height: float, **border: str) -> Markup:
    return tag(
        "div",
        {"style": css(position="absolute", left=f"{left:g}px", top=f"{top:g}px", width=f"{width:g}px", height=f"{height:g}px", **border)},
    )


# ---------------------------------------------------------------- timeline


def lanes(picture: LanesPicture, max_bars: int = MAX_BARS, *, elsewhere: bool = False) -> Markup:
    """One lane per fork, with bars for the phases of its requests over time. If there are too many
    bars, the longest are drawn.
    """
    ordered = lane_order(picture["lanes"])
    shown = ordered[:MAX_LANES]
    rows = {lane["lane"]: number for number, (lane, _) in enumerate(shown)}
    now = picture["now"]
    every = [bar for bar in picture["bars"] if bar["lane"] in rows and bar["kind"] != "text"]
    longest = sorted(every, key=lambda bar: (now if bar["t1"] is None else bar["t1"]) - bar["t0"], reverse=True)[:max_bars]
    drawn = sorted(longest, key=lambda bar: (bar["kind"] in ("forced", "drafted"), bar["kind"] in ("found", "reused"), bar["id"]))
    start = picture["since"]
    span = 1.02 * max([(now if bar["t1"] is None else bar["t1"]) - start for bar in every] + [1e-3])
    kinds = {bar["kind"] for bar in every} | {"rejected" for bar in every if bar["wrong"]}
    words = {kind: word for kind, (_, word) in palette.BARS.items()} | {"found": palette.words_of(elsewhere=elsewhere).cached}
    keys = [_bar_key(kind, words[kind]) for kind in palette.BARS if kind in kinds]
    high = AXIS + LANE * max(2, len(shown)) + 6
    plot: list[Markup] = []
    for tick, x in ticks(span):
        time = f"{tick / 1000:g} s" if span >= 1000 else f"{tick:g} ms"
        style = css(
            position="absolute",
            left=f"{x:.2f}%",
            top="0",
            height=f"{high}px",
            border_left=f"1px solid {LINE}",
            padding_left="4px",
            font_size="10px",
            line_height="14px",
        )
        plot.append(tag("div", {"style": style}, tag("span", {"style": SOFT}, time if tick else "0")))
    for bar in drawn:
        end = now if bar["t1"] is None else bar["t1"]
        left, width = 100 * (bar["t0"] - start) / span, 100 * (end - bar["t0"]) / span
        plot.append(_bar(bar, words[bar["kind"]], AXIS + LANE * rows[bar["lane"]], left, width))
    names = [_lane(lane, depth) for lane, depth in shown]
    labels = tag(
        "div", {"style": css(flex="none", width="14%", min_width="72px", padding_top=f"{AXIS}px", border_right=f"1px solid {LINE}")}, *names
    )
    right = tag(
        "div",
        {"style": css(flex="1 1 0", min_width="0", position="relative", height=f"{high}px", margin_left="9px", overflow="hidden")},
        *plot,
    )
    less = f"the longest {len(drawn):,} of {counted(len(every), 'bar')}" if len(drawn) < len(every) else ""
    more = f"+ {counted(len(ordered) - len(shown), 'more lane')}" if len(ordered) > len(shown) else ""
    return section(
        "Timeline",
        keys,
        scroll_box(LANES_HIGH, labels, right, style=css(display="flex"), label="Timeline"),
        " · ".join(filter(None, (less, more))),
    )


def _lane(lane: LaneRow, depth: int) -> Markup:
    style = css(
        height=f"{LANE}px",
        padding_left=f"{12 + 12 * min(depth, 4)}px",
        font_size="11.5px",
        line_height=f"{LANE}px",
        white_space="nowrap",
        overflow="hidden",
        text_overflow="ellipsis",
    )
    mark = {"": "", "error": "✕ "}.get(lane["state"], "■ ")
    return tag(
        "div", {"style": style}, *([tag("span", {"style": css(color=ALARM.both)}, mark)] if mark else []), clipped(lane["label"], 60)
    )


def _bar_key(kind: str, word: str) -> Markup:
    swatch = f"display:inline-block;width:13px;height:8px;{_bar_look(kind)}"
    return key(_hit(kind) if kind in ("found", "reused") else tag("span", {"style": swatch}), word)


def key(mark: Markup, word: str) -> Markup:
    return tag("span", {"style": f"{SMALL};white-space:nowrap"}, mark, tag("span", {"style": SOFT}, f" {word}"))


def _hit(kind: str) -> Markup:
    return tag("span", {"style": css(color=palette.INKS[palette.BARS[kind][0]].both)}, "◆" if kind == "found" else "◇")


def _bar_look(kind: str) -> str:
    ink = palette.INKS[palette.BARS[kind][0]]
    if kind in GAPS:
        return f"background-color:{LINE}"
    line = "dotted" if kind in (*WAITS, "score") else {"prefill": "dashed", "preempted": "double", "forced": "dashed"}.get(kind, "solid")
    shade = {"decode": 0.45, "prefill": 0.28, "score": 0.28}.get(kind, 0.12)
    return f"box-sizing:border-box;border:1px {line} {ink.both};border-radius:2.5px;background-color:{palette.tint(ink.both, shade)}"


def _bar(bar: BarRow, word: str, top: int, left: float, width: float) -> Markup:
    kind = bar["kind"]
    lasted = seconds((bar["t0"] if bar["t1"] is None else bar["t1"]) - bar["t0"])
    title = f"{clipped(bar['name'], 60)} · {word} · {counted(bar['n'], 'token')}"
    title = f"{word} · {lasted}" if kind in GAPS else f"{title} · {lasted}" if kind in WAITS else title
    if kind in ("found", "reused"):
        style = css(position="absolute", left=f"{left:.2f}%", top=f"{top}px", margin_left="-5px", font_size="12px", line_height=f"{LANE}px")
        return tag("span", {"style": style, "title": title}, _hit(kind))
    thin = dict.fromkeys(WAITS, (4, 7)) | dict.fromkeys(GAPS, (2, 8)) | {"forced": (3, 0), "drafted": (3, 15)}
    height, shift = thin.get(kind, (12, 3))
    style = css(
        position="absolute",
        left=f"{left:.2f}%",
        top=f"{top + shift}px",
        width=f"{width:.2f}%",
        min_width="2px",
        height=f"{height}px",
        font_size="10px",
        line_height="10px",
        overflow="hidden",
        white_space="nowrap",
    )
    label = f"\u2009{clipped(bar['name'], 24)} {bar['n']:,}" if height == 12 and width > 6 else ""
    if (kind in WAITS or kind in GAPS) and width > 18:
        # cut at the bar's end, where the next bar begins
        words = css(
            position="absolute",
            left=f"{left:.2f}%",
            top=f"{top}px",
            box_sizing="border-box",
            width=f"{width:.2f}%",
            padding_left="5px",
            font_size="10px",
            line_height=f"{LANE}px",
            white_space="nowrap",
            overflow="hidden",
            text_overflow="ellipsis",
        )
        name = tag("div", {"style": f"{words};{SOFT}"}, word)
        # The label is above the line.
        style = style.replace(f"top:{top + shift}px", f"top:{top + LANE - 3}px")
        return joined([tag("div", {"style": f"{style};{_bar_look(kind)}", "title": title}), name])
    if not bar["wrong"]:
        return tag("div", {"style": f"{style};{_bar_look(kind)}", "title": title}, label)
    rejected = width * bar["wrong"] / (bar["n"] + bar["wrong"])

    def part(x: float, wide: float) -> str:
        return style.replace(f"left:{left:.2f}%", f"left:{x:.2f}%").replace(f"width:{width:.2f}%", f"width:{wide:.2f}%")

    title = f"{title} · {counted(bar['wrong'], 'draft token')} rejected"
    parts = [(part(left, width - rejected), kind)] * bool(bar["n"]) + [(part(left + width - rejected, rejected), "rejected")]
    return joined([tag("div", {"style": f"{where};{_bar_look(look)}", "title": title}) for where, look in parts])


def ticks(span: float) -> list[tuple[float, float]]:
    """Four to eight round times from 0 on, each with its position in percent."""
    step = 10.0**-3
    for n in range(60):
        if span / step <= 8:
            break
        step *= (2.0, 2.5, 2.0)[n % 3]
    times = [step * number for number in range(int(span / step) + 1)]
    return [(time, 100 * time / span) for time in times if time / span < 0.95]
