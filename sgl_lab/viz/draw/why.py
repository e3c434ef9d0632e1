"""Explains in words why a prefix missed: the first token that differs, the edit, the cost, and what
would avoid the miss.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from ...contracts.legible import clipped
from ...contracts.spans import distinguishing
from ...contracts.tree import CacheRules
from ..explain.change import Change
from ..explain.edit import Line
from ..explain.history import shared
from ..explain.why import Miss, Why
from . import palette
from .escape import Child, Markup, css, joined, tag
from .html import RULE
from .numbers import counted, duration

Spell = Callable[[int], str]

MIN_ADVICE = 24
"""tokens that must be lost before advice is given"""
FIRST, EDIT, COST, AVOID = "first difference", "edit", "cost", "to avoid it"

_SAME = ("whole", "short", "expired", "unmarked", "evicted", "flushed", "gone", "together", "namespace", "model", "unkept")
"""causes without a differing token"""


def headline(why: Why) -> str:
    against = f" against {clipped(why.against, 80)}" if why.against else ""
    before, computed = why.n_cached - why.n_inside, why.n_prompt - why.n_cached
    origin = palette.HERE.strip if why.rules is None else "cached for earlier runs or others"
    counts = f"{before:,} {origin}, {why.n_inside:,} reused within this run, {computed:,} computed"
    return f"{clipped(why.run, 60)}{against}: {counted(why.n_prompt, 'prompt token')}: {counts}{known_by(why.rules)}"


def known_by(rules: CacheRules | None) -> str:
    """How the hits of a cache elsewhere are known; empty for the cache of this process."""
    if rules is None:
        return ""
    whose = clipped(rules.engine, 80) or "the server"
    words = ", in pieces of text of about a token" if rules.unit == "words" else ""
    how = f"seen in the events of {whose}" if rules.origin == "seen" else f"inferred from the counts of {whose}"
    return f" ({how}{words})"


def name(miss: Miss) -> str:
    line = f", line {miss.line}" if miss.line else ""
    more = f", and {miss.n_alike:,} more for the same reason" if miss.n_alike else ""
    return f"{clipped(miss.name, 60)}{line}{more}"


def rows(miss: Miss, spell: Spell, rules: CacheRules | None = None) -> list[tuple[str, str]]:
    """(label, sentence): three rows, and a fourth if there is something to do."""
    found = [(FIRST, first_difference(miss, spell)), (EDIT, edit(miss, rules)), (COST, cost(miss))]
    is_ours = rules is None or miss.cause not in ("evicted", "flushed", "gone")
    return [*found, (AVOID, way)] if is_ours and (way := advice(miss)) else found


def first_difference(miss: Miss, spell: Spell) -> str:
    """The first token that differs from the earlier prompt, with both texts."""
    earlier = clipped(miss.earlier, 80)
    if miss.cause in _SAME:
        if not earlier or (miss.cause == "whole" and miss.n_alike):
            return "none: every token of the prompt had been computed before"
        if miss.cause in ("whole", "model"):
            return f"none: {earlier} had the same {'text' if miss.cause == 'model' else counted(miss.n_prompt, 'token')}"
        return f"none: {earlier} had computed the same {'tokens' if miss.n_alike else counted(miss.at, 'token')}"
    token = _token(miss.token, spell)
    where = f"after {counted(miss.at, 'equal token')}" if miss.at else "at the very beginning"
    if miss.change is not None:
        was, now = (_token(one, spell) for one in (miss.change.old_token, miss.change.new_token))
        there = f"the model's answer in {earlier} has" if miss.change.what == "answer" else f"{earlier} has"
        return f"{where}: {now}, where {there} {was}"
    if miss.cause == "first":
        return f"at the very beginning: {token}. No earlier prompt begins with it"
    new = clipped("".join(map(spell, miss.going_on)), 60)
    known = f"{counted(miss.at, 'token')} {'from earlier in this run' if miss.cause == 'inside' else f'shared with {earlier}'}"
    return f'after {known}: "{new}" is new'


def edit(miss: Miss, rules: CacheRules | None = None) -> str:
    """The line of the cell that caused the difference."""
    run, found = clipped(miss.run, 40) or "this run", miss.edit
    what = miss.change.what if miss.change else ""
    match miss.cause:
        case "whole" if found is not None and found.new is not None:
            return f"line 1 of {run}, which changes no prompt: {_both(miss, found.new, found.old)}"
        case "whole":
            return "none in the prompt"
        case "short" if rules is not None:
            return f"none: {miss.by or 'the server'} caches no prefix below {counted(rules.minimum, 'token')}"
        case "expired" if rules is not None and rules.ttl_s is not None and miss.gone_ms is not None:
            kept, idle = duration(rules.ttl_s * 1000), duration(miss.gone_ms)
            return f"none: {miss.by} keeps an unused prefix for {kept}, and this one was last used {idle} before"
        case "unmarked":
            return f"none: {miss.by} caches only up to a mark, and found nothing: the marks of both requests stand in other places"
        case "unkept" if rules is not None:
            return f"none: {miss.by or 'the server'} caches whole steps of {counted(rules.step, 'token')}, and nothing of a stopped request"
        case "evicted" if rules is not None and rules.origin == "inferred":
            return f"none: {clipped(rules.engine, 80) or 'the server'} did not have them any more (inferred from its count)"
        case "evicted":
            by = f" for {clipped(miss.by, 80)}" if miss.by else ""
            return f"none: the full cache evicted them to make room{by}{_ago(miss)}"
        case "flushed":
            return f"none: the cache was flushed{' in ' + clipped(miss.by, 80) if miss.by else ''}{_ago(miss)}"
        case "gone":
            return "none: the cache lost them between the two runs: it was flushed, or a program outside the cells needed the room"
        case "together":
            return "none: both requests ran at the same time, so neither could reuse the other's result"
        case "unkept":
            return "none: the cache keeps only whole pages of tokens, and nothing of a stopped request"
        case "namespace":
            ways = "with --deterministic", "without it"
            here, there = ways if miss.is_exact else ways[::-1]
            return f"none in the prompt: {run} ran {here}, {clipped(miss.earlier_run, 40)} {there}"
        case "model":
            return f"none in the prompt: {clipped(miss.earlier_run, 40)} ran on another model, {clipped(miss.by, 60)}"
        case "first":
            return "none: there is no earlier prompt to compare it with"
        case _:
            pass
    if what == "template":
        return "none in the cell: the chat template renders an earlier turn differently once another turn follows"
    if what == "same text":
        return "none: both texts are equal, but their tokens differ because of the text next to them"
    if what in ("model", "choice"):
        reason = "the model generated a different text" if what == "model" else "the model picked another choice"
        return f"none: {reason}{f' at line {found.new.number}: {_code(found.new)}' if found and found.new else ''}"
    if found is None:
        return f"no line of {run} contains this text: it comes from a value, or from a function of another cell"
    if found.is_value and found.new is not None and miss.cause == "inside":
        return f"none: line {found.new.number} of {run} gives a different text each time: {_code(found.new)}"
    if found.is_value and found.new is not None:
        return f"line {found.new.number} of {run} is unchanged, but a value in it differs: {_code(found.new)}"
    if found.new is None:
        old = found.old
        return f"line {old.number} of {clipped(miss.earlier_run, 40)} was removed: {_code(old)}" if old else "none"
    if found.old is not None:
        return f"line {found.new.number} of {run}: {_both(miss, found.new, found.old)}"
    return f"line {found.new.number} of {run} contains it: {_code(found.new)}"


def cost(miss: Miss) -> str:
    """The cost of the miss: tokens that had to be computed, and milliseconds."""
    time = "" if miss.ms is None else f" in {duration(miss.ms)}"
    prompts = f"the {miss.n_alike + 1:,} prompts" if miss.n_alike else "the prompt"
    if miss.cause == "whole" and not miss.n_computed:
        return f"nothing: no token of {prompts} had to be computed"
    done = f"{miss.n_computed:,} of {counted(miss.n_prompt, 'token')} computed{time}"
    if miss.cause == "whole":
        return f"{done}: the last token of a prompt is always computed"
    if miss.n_lost and miss.cause == "changed":
        again = "It is" if miss.n_lost == 1 else f"{miss.n_lost:,} of them are"
        return f"{done}. {again} the same as before, but only tokens in front of the first difference can be reused"
    if miss.n_lost and miss.cause in _SAME:
        return f"{done}, {miss.n_lost:,} of them for the second time"
    return f"{done}, {miss.n_hit:,} reused"


def advice(miss: Miss) -> str:
    """The cheapest change that would have kept the tokens. Empty if no change is worthwhile or the
    answer is obvious.
    """
    if miss.n_lost < MIN_ADVICE:
        return ""
    n = counted(miss.n_lost, "token")
    match miss.cause:
        case "changed" if miss.change is not None:
            if miss.change.what == "model":
                return "--temperature 0 or a --seed makes the model repeat its text"
            if miss.change.what in ("template", "same text", "choice", "markup"):
                return ""
            return f"move what changes after the {n} that stay the same"
        case "inside" if miss.change is not None:
            return f"move what differs after the {n} that all of them share"
        case "evicted":
            return "`%sgl cache pin NAME` keeps the tokens of NAME; `%sgl whatif` shows which cache size would keep all"
        case "short":
            return "put more of what the prompts share before what differs"
        case "expired":
            return "run them closer together, or buy a longer time if the vendor sells one"
        case "unmarked":
            return "fork, or run as a batch, what shares the prefix: the marks are placed where the program's own prompts part"
        case "flushed" | "gone":
            return "`%sgl cache pin NAME` keeps the tokens of NAME"
        case "together":
            return "run one first and read its answer, then run the others"
        case "namespace":
            return "run both with --deterministic, or both without"
        case _:
            return ""


def _ago(miss: Miss) -> str:
    return f", {duration(miss.gone_ms)} before" if miss.gone_ms is not None else ""


def _token(token: int | None, spell: Spell) -> str:
    return "the end" if token is None else f'"{clipped(spell(token), 40)}"'


def _code(line: Line, start: int = 0) -> str:
    return ("…" if start else "") + clipped(line.text[start:].strip(), 90)


def _both(miss: Miss, new: Line, old: Line | None) -> str:
    """A line now and before, shown from near the position where they differ."""
    if old is None:
        return _code(new)
    n_same = shared(old.text, new.text)
    start = n_same - 30 if n_same > 50 else 0
    return f"{_code(new, start)}  (in {clipped(miss.earlier_run, 40)}: {_code(old, start)})"


# ---------------------------------------------------------------- text


def text(why: Why, spell: Spell) -> str:
    parts, spell = [headline(why)], distinguishing(spell)
    for miss in why.misses:
        found = rows(miss, spell, why.rules)
        lines = [f"  {label + ':':<18}{sentence}" for label, sentence in found]
        parts.append("\n".join([name(miss), *lines]))
    return "\n\n".join(parts)


# ---------------------------------------------------------------- HTML


def html(why: Why, spell: Spell) -> Markup:
    frame = css(border=RULE, border_radius="8px", padding="14px 18px", margin="4px 0", font_size="14px", line_height="1.6")
    head = tag("div", {"style": css(font_weight="600")}, clipped(headline(why), 300))
    return tag("div", {"style": frame}, head, *(_miss(miss, distinguishing(spell), why.rules) for miss in why.misses))


def _miss(miss: Miss, spell: Spell, rules: CacheRules | None) -> Markup:
    parts: list[Child] = [tag("div", {"style": css(font_weight="600")}, name(miss)), _bar(miss)]
    for label, sentence in rows(miss, spell, rules):
        shown = [_row(label, sentence)]
        if label == FIRST and miss.change is not None:
            shown.append(_row("", _context(miss.change, miss.change.new, palette.COMPUTED, spell, "now")))
            shown.append(_row("", _context(miss.change, miss.change.old, palette.EVICTED, spell, "then")))
        parts += shown
    return tag("div", {"style": css(border_top=RULE, margin_top="10px", padding_top="10px")}, *parts)


def _row(label: str, content: Child) -> Markup:
    wide = css(display="inline-block", width="112px", min_width="112px", font_size="13px", opacity="0.65")
    body = css(flex="1 1 240px", min_width="0", overflow_wrap="break-word")
    return tag("div", {"style": css(display="flex")}, tag("span", {"style": wide}, label), tag("div", {"style": body}, content))


def _bar(miss: Miss) -> Markup:
    """The prompt as a bar: reused, computed again, new."""
    if not miss.n_prompt:
        return joined([])
    n_lost = min(miss.n_lost, miss.n_computed)
    parts = [(miss.n_hit, palette.CACHED.both), (n_lost, palette.COMPUTED.both)]
    pieces = [
        tag("div", {"style": css(background_color=ink, width=f"{100 * n / miss.n_prompt:.2f}%", height="5px")}) for n, ink in parts if n
    ]
    track = css(display="flex", overflow="hidden", border_radius="3px", margin="4px 0", background_color="rgba(127,127,127,0.18)")
    title = f"{miss.n_hit:,} reused, {n_lost:,} computed again, {miss.n_computed - n_lost:,} new"
    return tag("div", {"style": track, "title": title}, *pieces)


def _context(change: Change, tokens: Iterable[int], ink: palette.Ink, spell: Spell, when: str) -> Markup:
    mono = css(font_family="monospace", font_size="13px", white_space="pre-wrap", overflow_wrap="break-word")
    label = css(display="inline-block", width="44px", font_size="12px", opacity="0.65")
    differing = css(border_bottom=f"2px {ink.line} {ink.both}", background_color=palette.tint(ink.both, 0.16), font_weight="600")
    shown = [*tokens]
    words = clipped(_spelled(shown, spell), 200) or "∅"
    ids = ", ".join(map(str, shown[:6])) or "none"
    return tag(
        "div",
        {"style": mono},
        tag("span", {"style": label}, when),
        tag("span", {"style": css(opacity="0.65")}, "…" + clipped(_spelled(change.before, spell)[-60:], 60)),
        tag("span", {"style": differing, "title": f"token ids {ids}"}, words),
        tag("span", {"style": css(opacity="0.65")}, clipped(_spelled(change.after, spell), 40)),
    )


def _spelled(tokens: Iterable[int], spell: Spell) -> str:
    return "".join(map(spell, tokens))
