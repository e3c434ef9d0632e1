"""An exploration without scripts: the explored answer with what it could have said instead, its
branches, and the tries of what was sampled again. As HTML that untrusted notebooks keep, and as text.

The live panel (`static/explore.js`) has the same parts.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from ...contracts.legible import clipped, legible
from ..views.explore import BranchRow, Drawn, ExplorePicture
from ..views.trie import TriePicture, TrieRow
from . import palette, still
from .escape import Child, Markup, css, tag
from .numbers import counted, percent, seconds

MAX_ROWS = 60
"""rows of a trie, and branches, that are drawn"""
MAX_TOKENS = 240
"""tokens of an answer that are drawn one by one"""
CLOSE = 0.05
"""least probability of an alternative that is written below its token"""
HOW = {"token": "◆", "more": "▸", "edit": "✎", "answer": "●"}
"""a mark for how a branch left"""
_CELL = css(padding="2px 14px", min_width="0")
_TEXT = css(font_family="ui-monospace,Menlo,Consolas,monospace", font_size="12.5px", white_space="pre-wrap", overflow_wrap="anywhere")


def shown(picture: ExplorePicture) -> list[BranchRow]:
    """The branches that are not deleted: pinned ones first, then the newest."""
    rows = [row for row in picture["branches"] if row["id"] and not row["deleted"]]
    return sorted(rows, key=lambda row: (not row["pinned"], -row["id"]))


def answer(picture: ExplorePicture) -> BranchRow | None:
    return next((row for row in picture["branches"] if row["id"] == 0), None)


def visible(text: str) -> str:
    return text.replace("\n", "↵").replace("\t", "⇥")


def second(drawn: Drawn) -> tuple[str, float] | None:
    """The likeliest other token at this place, and its probability, if that is large enough to note."""
    for text, token, logprob in drawn[3]:
        if token != drawn[1]:
            p = math.exp(min(logprob, 0.0))
            return (text, p) if p >= CLOSE else None
    return None


def counts(row: BranchRow) -> str:
    """What a branch took."""
    n_new = len(row["toks"]) - row["n_forced"]
    parts = [f"{row['computed']:,} computed"]
    if row["cached"] is not None:
        parts.append(f"{row['cached']:,} cached")
    parts.append(f"{n_new:,} generated")
    if row["ms"] is not None:
        parts.append(f"first after {seconds(row['ms'])}")
    return ", ".join(parts)


def covered(found: TriePicture) -> str:
    """How much of what the model could say a trie covers."""
    if found["first"] is None:
        return f"{counted(found['n'], 'text')}; their probability is not known"
    whole = "" if found["whole"] is None else f", the whole texts {_share(found['whole'])}"
    return f"{counted(found['n'], 'text')}; their first tokens cover {_share(found['first'])} of what could follow{whole}"


def _share(p: float) -> str:
    return percent(p) if p >= 0.001 or p == 0 else f"{100 * p:.1e} %"


# ---------------------------------------------------------------- HTML


def html(picture: ExplorePicture) -> Markup:
    """Everything, in the frame of a frozen cell."""
    title = f"explore · {clipped(picture['of'], 60)} › {clipped(picture['name'], 60)}"
    return still.frame([still.head(title, "ok", None), body(picture)])


def body(picture: ExplorePicture) -> Markup:
    """Everything, as a part of a frozen cell."""
    rows = shown(picture)
    parts = [_prompt(picture)]
    if (explored := answer(picture)) is not None:
        parts.append(_answer(explored))
    if rows:
        parts.append(_section("Branches", [_branch(row) for row in rows[:MAX_ROWS]], _more(len(rows))))
    for found in picture["tries"]:
        body = [_trie_row(row) for row in found["rows"][:MAX_ROWS]]
        parts.append(_section("What it could have said", body, covered(found) + _more(len(found["rows"]))))
    return tag("div", {"style": still.BELOW}, *parts)


def _more(n: int) -> str:
    return f" · {n - MAX_ROWS:,} more" if n > MAX_ROWS else ""


def _section(title: str, rows: Iterable[Markup], note: str = "") -> Markup:
    head = tag("span", {"style": css(font_weight="600", font_size="12px")}, title)
    about = tag("span", {"style": f"{still.SMALL};{still.SOFT};margin-left:12px"}, note)
    bar = tag("div", {"style": css(padding="6px 14px 2px")}, head, about)
    return tag("div", {"style": css(border_top=f"1px solid {still.LINE}", padding_bottom="6px")}, bar, *rows)


def _line(role: str, *children: Child) -> Markup:
    grid = css(display="grid", grid_template_columns="76px minmax(0,1fr)", padding="2px 14px")
    return tag("div", {"style": grid}, tag("span", {"style": f"{still.SMALL};{still.SOFT}"}, role), tag("div", {"style": _TEXT}, *children))


def _prompt(picture: ExplorePicture) -> Markup:
    pieces = [piece for piece in picture["pieces"] if piece["kind"] != "template"]
    rows = [_line(piece["role"] or "text", clipped(piece["text"], 2_000)) for piece in pieces]
    return tag("div", {"style": css(padding_top="6px")}, *rows)


def _answer(row: BranchRow) -> Markup:
    chips = [_chip(drawn) for drawn in row["toks"][:MAX_TOKENS]]
    if len(row["toks"]) > MAX_TOKENS:
        chips.append(tag("span", {"style": still.SOFT}, f" … {counted(len(row['toks']) - MAX_TOKENS, 'more token')}"))
    return _line("answer", tag("div", {"style": css(display="flex", flex_wrap="wrap", row_gap="4px", padding_bottom="6px")}, *chips))


def _chip(drawn: Drawn) -> Markup:
    text, _, logprob, top = drawn
    other = second(drawn)
    share = [] if logprob is None else [f"{visible(text)}  {percent(math.exp(min(logprob, 0.0)))}"]
    about = "\n".join([*share, *(f"{visible(word)}  {percent(math.exp(min(lp, 0.0)))}" for word, _, lp in top)])
    edge = palette.CHOICE.both if other else palette.GENERATED.both
    box = css(display="inline-block", border_bottom=f"2px solid {edge}", background_color=palette.tint(edge, 0.1), margin_right="1px")
    small = css(display="block", font_size="10px", line_height="13px", opacity="0.75", padding="0 2px", min_height="13px")
    below = "" if other is None else f"{clipped(visible(other[0]).strip(), 14)} {percent(other[1])}"
    word = tag("span", {"style": css(display="block", white_space="pre", line_height="20px")}, visible(text) or "∅")
    return tag("span", {"style": box, "title": about}, word, tag("span", {"style": small}, below))


def _branch(row: BranchRow) -> Markup:
    kept, chosen, drawn = parts_of(row)
    grid = css(display="grid", grid_template_columns="170px minmax(0,1fr)", padding="3px 14px")
    name = f"{'★ ' if row['pinned'] else ''}{HOW.get(row['how'], '◆')} {clipped(row['label'], 60)}"
    label = tag("div", {"style": "min-width:0"}, tag("div", {"style": css(font_weight="600", overflow_wrap="anywhere")}, name))
    texts = [tag("span", {"style": still.SOFT}, kept), tag("span", {"style": _inked(palette.CHOICE)}, chosen)]
    texts.append(tag("span", {"style": _inked(palette.GENERATED)}, drawn))
    edited = [tag("div", {"style": f"{still.SMALL};{still.SOFT}"}, f"prompt: {clipped(row['text'], 300)}")] if row["how"] == "edit" else []
    about = tag("div", {"style": f"{still.SMALL};{still.SOFT}"}, f"{_origin(row)} · {counts(row)}")
    return tag("div", {"style": grid}, label, tag("div", {"style": "min-width:0"}, *edited, tag("div", {"style": _TEXT}, *texts), about))


def _inked(ink: palette.Ink) -> str:
    return css(color=ink.both, background_color=palette.tint(ink.both, 0.1))


def _origin(row: BranchRow) -> str:
    parent = "the answer" if not row["parent"] else f"branch {row['parent']}"
    heat = f", temperature {row['temperature']:g}" if row["temperature"] else ""
    if row["how"] == "edit":
        return f"edited prompt{heat}"
    return f"from {parent} at token {row['n_kept'] + 1}{heat}"


def parts_of(row: BranchRow) -> tuple[str, str, str]:
    """The text of a branch: kept, chosen, and drawn."""
    words = [drawn[0] for drawn in row["toks"]]
    kept, forced = row["n_kept"], row["n_forced"]
    return "".join(words[:kept]), "".join(words[kept:forced]), "".join(words[forced:])


def _trie_row(row: TrieRow) -> Markup:
    reach, mass = row["reach"], row["mass"]
    width = 0.0 if reach is None else max(1.0, 100.0 * reach)
    bar = tag(
        "div",
        {"style": css(height="6px", margin_top="7px", background_color="rgba(127,127,127,0.18)", border_radius="3px")},
        tag("div", {"style": css(width=f"{width:.1f}%", height="6px", border_radius="3px", background_color=palette.GENERATED.both)}),
    )
    grid = css(display="grid", grid_template_columns="90px 62px minmax(0,1fr)", column_gap="10px", padding="1px 14px")
    number = "–" if reach is None else percent(reach)
    indent = css(padding_left=f"{min(row['depth'], 12) * 18}px", border_left=f"{2 if row['depth'] else 0}px solid transparent")
    about = f"{counted(row['n'], 'text')}" + ("" if mass is None else f"; {_share(mass)} for all of these words")
    text = tag("div", {"style": f"{_TEXT};{indent}"}, f"{'└ ' if row['depth'] else ''}{visible(''.join(row['toks']))}")
    return tag("div", {"style": grid, "title": about}, bar, tag("div", {"style": f"{still.SMALL};text-align:right"}, number), text)


# ---------------------------------------------------------------- text


def text(picture: ExplorePicture) -> str:
    """The same in lines: the answer with a line for each token that had a close alternative."""
    lines = [f"explore {clipped(picture['of'], 60)} › {clipped(picture['name'], 60)}"]
    for number, piece in enumerate(picture["pieces"]):
        if piece["kind"] != "template":
            lines.append(f"  piece {number}, {piece['role'] or 'text'}: {_quoted(piece['text'])}")
    if (explored := answer(picture)) is not None:
        lines.append(f"  answer: {_quoted(''.join(drawn[0] for drawn in explored['toks']))}")
        lines += _choices(explored["toks"])
    for row in shown(picture):
        kept, chosen, drawn = parts_of(row)
        star = "★ " if row["pinned"] else ""
        lines.append(
            f"  {star}{HOW.get(row['how'], '◆')} {clipped(row['label'], 60)}: {_quoted(kept)} ⟶ {_quoted(chosen)} {_quoted(drawn)}"
        )
        if row["how"] == "edit":
            lines.append(f"      prompt: {_quoted(row['text'])}")
        lines.append(f"      {_origin(row)} · {counts(row)}")
    for found in picture["tries"]:
        lines.append(f"  what it could have said: {covered(found)}")
        for node in found["rows"][:MAX_ROWS]:
            reach = "–" if node["reach"] is None else percent(node["reach"])
            lines.append(f"    {reach:>7}  {'  ' * node['depth']}{_quoted(''.join(node['toks']))}")
    return "\n".join(lines)


def _choices(toks: Sequence[Drawn]) -> list[str]:
    """A line for each token with a close alternative: its position, and what else was likely."""
    found = []
    for at, drawn in enumerate(toks[:MAX_TOKENS]):
        if second(drawn) is not None:
            others = [f"{_quoted(word)} {percent(math.exp(min(lp, 0.0)))}" for word, token, lp in drawn[3][:5] if token != drawn[1]]
            own = "" if drawn[2] is None else f" {percent(math.exp(min(drawn[2], 0.0)))}"
            found.append(f"    {at:>4}  {_quoted(drawn[0])}{own}, or {', '.join(others)}")
    return found


def _quoted(words: str) -> str:
    return repr(clipped(legible(words), 400))
