"""Why a prefix missed, in words: one paragraph a story, with both texts where they part, as HTML and as plain text."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from ...contracts.legible import clipped
from ..explain.change import Change
from ..explain.past import shared
from ..explain.why import GRAM, Miss, Why
from . import palette
from .escape import Child, Markup, css, joined, tag
from .html import RULE
from .numbers import counted, duration, percent

Spell = Callable[[int], str]

_WHAT = {
    "time": "a time or a date changed",
    "number": "a number changed",
    "case": "the same words in other letters, large for small",
    "space": "the same words with other spaces or line breaks",
    "same text": "the same text in other tokens",
    "model": "the model said something else",
    "choice": "another choice was picked",
    "markup": "the role or the template's own markup changed",
    "inserted": "something was put in",
    "removed": "something was taken out",
    "text": "the text changed",
}
_WAY_OUT = {
    "time": "put the time behind what stays the same, or round it",
    "number": "put the number behind what stays the same",
    "case": "write it as before",
    "space": "write the spaces as before",
    "same text": "split the text where it was split before: tokens are made of each piece by itself",
    "model": "--temperature 0 or a --seed makes the model say the same again",
    "choice": "what follows a choice has to be computed for each choice",
    "markup": "keep the roles in front as they were",
    "inserted": "put it behind what stays the same",
    "removed": "take it out at the end, not at the beginning",
    "text": "put what changes behind what stays the same",
}


def headline(why: Why) -> str:
    against = f" against {why.against}" if why.against else ""
    share = f" ({percent(why.n_cached / why.n_prompt)})" if why.n_prompt else ""
    total = counted(why.n_prompt, "prompt token")
    return f"{clipped(why.run, 60)}{clipped(against, 80)}: {why.n_cached:,} of {total} came from the cache{share}, {why.n_lost:,} were lost"


def name(miss: Miss) -> str:
    line = f", line {miss.line}" if miss.line else ""
    more = f", and {miss.n_alike:,} more like it" if miss.n_alike else ""
    return f"{clipped(miss.name, 60)}{line}{more}"


def sums(miss: Miss) -> str:
    if miss.n_alike and miss.cause in ("new", "whole"):
        return ""  # each has numbers of its own
    return f"{miss.n_hit:,} of {counted(miss.n_prompt, 'token')} from the cache" + (f", {miss.n_lost:,} lost" if miss.n_lost else "")


def story(miss: Miss) -> str:
    """What happened, in one sentence."""
    had = f"{clipped(miss.earlier, 80)} had {miss.n_known:,} of them"
    by = f" by {clipped(miss.by, 80)}" if miss.by else ""
    ago = f" {duration(miss.gone_ms)} before" if miss.gone_ms is not None else ""
    match miss.cause:
        case "whole":
            return "All that can come from a cache did."
        case "changed" if miss.change is not None:
            return f"{clipped(miss.earlier, 80)} begins with the same {counted(miss.change.at, 'token')}; then {_WHAT[miss.change.what]}."
        case "evicted":
            return f"{had}, but they were evicted{ago}: the room was needed{by}."
        case "flushed":
            return f"{had}, but the cache was flushed{ago}{' in ' + clipped(miss.by, 80) if miss.by else ''}."
        case "gone":
            return f"{had}, but the cache lost them between the runs, while nothing was recorded: a flush, or a program outside of a cell."
        case "together":
            return f"{had}, but they were still being computed when this one was let in."
        case "namespace":
            return f"{had}, but with another model, or with --deterministic and without it: neither can use the other's."
        case "unkept":
            return f"{had}, but not in the cache: an end of a page, or a request that was given up."
        case _:
            return f"What it asks beyond {clipped(miss.earlier, 80)} is new." if miss.earlier else "Nothing like it was asked before."


def way_out(miss: Miss) -> str:
    """The cheapest change that would have kept the tokens; empty where that is not worth a change."""
    if miss.n_lost < GRAM:
        return ""
    gain = f"{counted(miss.n_lost, 'token')} more would come from the cache"
    match miss.cause:
        case "changed" if miss.change is not None:
            return f"{_WAY_OUT[miss.change.what]}: {gain}"
        case "evicted":
            return f"pin it (lab.pin), or make the cache larger (%sgl whatif says how large): {gain}"
        case "flushed" | "gone":
            return f"pin what must stay (lab.pin): {gain}"
        case "together":
            return f"let one of them go first, the others then find it: {gain}"
        case "namespace":
            return f"run both alike: {gain}"
        case _:
            return ""


def edit_lines(change: Change) -> list[tuple[str, str]]:
    """(mark, text): the line as it was and as it is; a single one if it was not edited."""
    edit = change.edit
    if edit is None:
        return []
    if edit.old is None:
        said = "said by" if change.what in ("model", "choice") else "a value in"
        return [(" ", f"{said} line {edit.line}: {clipped(edit.new.strip(), 160)}")]
    n_same = shared(edit.old, edit.new)
    start = n_same - 40 if n_same > 60 else len(edit.new) - len(edit.new.lstrip())
    rows = [("-", edit.old), ("+", edit.new)]
    return [(mark, f"line {edit.line}: {'…' if n_same > 60 else ''}{clipped(text[start:], 120)}") for mark, text in rows if text.strip()]


def _ids(tokens: Iterable[int]) -> str:
    shown = list(tokens)[:6]
    return ", ".join(map(str, shown))


# ---------------------------------------------------------------- text


def text(why: Why, spell: Spell) -> str:
    parts = [headline(why)]
    for miss in why.misses:
        lines = [": ".join(filter(None, (name(miss), sums(miss)))), f"  {story(miss)}"]
        if miss.cause == "changed" and miss.change is not None:
            lines += [f"  {row}" for row in _context_text(miss.change, spell)]
            lines += [f"  {mark} {words}" for mark, words in edit_lines(miss.change)]
        if way := way_out(miss):
            lines.append(f"  → {way}")
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def _context_text(change: Change, spell: Spell) -> list[str]:
    before = clipped("".join(map(spell, change.before))[-50:], 50)
    rows = [("then", change.old), ("now", change.new)]
    return [
        f"{when:<5}…{before}⟦{clipped(_said(tokens, spell), 60)}⟧{clipped(_said(change.after, spell), 30)}   (ids {_ids(tokens) or 'none'})"
        for when, tokens in rows
    ]


def _said(tokens: Iterable[int], spell: Spell) -> str:
    return "".join(map(spell, tokens))


# ---------------------------------------------------------------- HTML


def html(why: Why, spell: Spell) -> Markup:
    frame = css(border=RULE, border_radius="8px", padding="14px 18px", margin="4px 0", font_size="14px", line_height="1.6")
    head = tag("div", {"style": css(font_weight="600")}, clipped(headline(why), 300))
    return tag("div", {"style": frame}, head, *(_miss(miss, spell) for miss in why.misses))


def _miss(miss: Miss, spell: Spell) -> Markup:
    head: list[Child] = [tag("span", {"style": css(font_weight="600")}, name(miss))]
    if numbers := sums(miss):
        head.append(tag("span", {"style": css(opacity="0.65", margin_left="10px", font_size="13px")}, numbers))
    parts = [tag("div", {}, *head), _bar(miss), tag("div", {}, story(miss))]
    if miss.cause == "changed" and miss.change is not None:
        parts += [_context("then", miss.change, miss.change.old, palette.EVICTED, spell)]
        parts += [_context("now", miss.change, miss.change.new, palette.COMPUTED, spell)]
        parts += [_edit(mark, words) for mark, words in edit_lines(miss.change)]
    if way := way_out(miss):
        style = css(border_left=f"3px solid {palette.GENERATED.both}", padding="0 0 0 10px", margin="6px 0 0 0")
        parts.append(tag("div", {"style": style}, f"→ {way}"))
    return tag("div", {"style": css(border_top=RULE, margin_top="10px", padding_top="10px")}, *parts)


def _bar(miss: Miss) -> Markup:
    """The prompt as a bar: from the cache, lost, new."""
    n_lost = min(miss.n_lost, miss.n_prompt - miss.n_hit)
    parts = [(miss.n_hit, palette.CACHED.both), (n_lost, palette.COMPUTED.both)]
    if not miss.n_prompt or (miss.n_alike and miss.cause in ("new", "whole")):
        return joined([])
    pieces = [
        tag("div", {"style": css(background_color=ink, width=f"{100 * n / miss.n_prompt:.2f}%", height="5px")}) for n, ink in parts if n
    ]
    track = css(display="flex", overflow="hidden", border_radius="3px", margin="4px 0", background_color="rgba(127,127,127,0.18)")
    said = f"{miss.n_hit:,} from the cache, {n_lost:,} lost, {miss.n_prompt - miss.n_hit - n_lost:,} new"
    return tag("div", {"style": track, "title": said}, *pieces)


def _context(when: str, change: Change, tokens: Iterable[int], ink: palette.Ink, spell: Spell) -> Markup:
    mono = css(font_family="monospace", font_size="13px", white_space="pre-wrap", overflow_wrap="break-word")
    label = css(display="inline-block", width="44px", font_size="12px", opacity="0.65")
    differing = css(border_bottom=f"2px {ink.line} {ink.both}", background_color=palette.tint(ink.both, 0.16), font_weight="600")
    shown = [*tokens]
    said = clipped(_said(shown, spell), 200) or "∅"
    return tag(
        "div",
        {"style": mono},
        tag("span", {"style": label}, when),
        tag("span", {"style": css(opacity="0.65")}, "…" + clipped(_said(change.before, spell)[-60:], 60)),
        tag("span", {"style": differing, "title": f"token {change.at} on, ids {_ids(shown) or 'none'}"}, said),
        tag("span", {"style": css(opacity="0.65")}, clipped(_said(change.after, spell), 40)),
        tag("span", {"style": css(opacity="0.65", font_size="11px", margin_left="10px")}, f"ids {_ids(shown) or 'none'}"),
    )


def _edit(mark: str, words: str) -> Markup:
    style = css(font_family="monospace", font_size="12px", margin_left="44px", white_space="pre-wrap", overflow_wrap="break-word")
    return tag("div", {"style": style}, f"{mark} {words}")
