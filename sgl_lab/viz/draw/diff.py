"""Two runs side by side, as HTML and as plain text: their costs, the edits, and where the answers
differ.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

from ...contracts.events import Sample
from ...contracts.legible import clipped, finite
from ..explain.diff import Diff, Pair, runner_up
from ..views.inspection import Inspection
from . import palette
from .escape import Child, Markup, css, tag
from .html import RULE
from .numbers import counted, duration, percent

Spell = Callable[[int], str]

MAX_PAIRS = 100
MAX_EDITS = 40
CONTEXT = 16
"""tokens shown before the answers differ"""
SHOWN = 80
"""tokens shown from there on"""


def heading(diff: Diff) -> str:
    n_prompts, n_answered = sum(pair.has_equal_prompts for pair in diff.pairs), sum(pair.has_equal_answers for pair in diff.pairs)
    both = f"{clipped(diff.a, 60)} and {clipped(diff.b, 60)}"
    prompts, answers = (counted(len(diff.pairs), what) for what in ("prompt", "answer"))
    return f"{both}: {n_prompts:,} of {prompts} equal, {n_answered:,} of {answers} equal"


def costs(diff: Diff) -> list[tuple[str, str, str, str]]:
    """Rows of (label, value of A, value of B, B minus A)."""
    a, b = diff.costs
    rows = [(name, getattr(a, name), getattr(b, name)) for name in ("cached", "computed", "generated", "forced", "evicted", "steps")]
    counts = [(name, f"{one:,}", f"{other:,}", f"{other - one:+,}" if other != one else "") for name, one, other in rows if one or other]
    times = [("time in steps", a.step_ms, b.step_ms), ("time", a.ms, b.ms)]
    return counts + [(name, duration(one), duration(other), f"{other / one:.2g} x" if one else "") for name, one, other in times]


def _names(diff: Diff) -> tuple[str, str]:
    """The names of the two runs, as in the heading."""
    a, b = clipped(diff.a, 60), clipped(diff.b, 60)
    return (a, b) if a != b else (f"A, {a}", f"B, {b}")


def verdict(diff: Diff, pair: Pair) -> str:
    """Where the two runs differ, in one sentence."""
    if pair.a is None or pair.b is None:
        return f"only in {_names(diff)[pair.a is None]}"
    n, parts = pair.n_answer_same, []
    if not pair.has_equal_prompts:
        lengths = f"{len(pair.a.prompt):,} and {counted(len(pair.b.prompt), 'token')}"
        where = f"after {counted(pair.n_prompt_same, 'equal token')}" if pair.n_prompt_same else "from their first token on"
        parts.append(f"the prompts ({lengths}) differ {where}")
    if pair.kind != "gen":
        one, other = clipped(pair.a.value, 60), clipped(pair.b.value, 60)
        parts.append(f"the same choice: {other}" if pair.has_equal_answers else f"{one}, then {other}")
    elif pair.has_equal_answers:
        parts.append(f"the same answer of {counted(n, 'token')}")
    else:
        parts.append(f"the answers are equal for {counted(n, 'token')}" if n else "the answers differ from their first token on")
    return "; ".join(parts)


def closeness(sample: Sample | None, spell: Spell) -> str:
    """The first token of an answer that differs, its probability, and the distance to the
    runner-up.
    """
    if sample is None:
        return "had ended"
    described = f"{_visible(spell(sample.token))} (id {sample.token}"
    logprob = finite(sample.logprob)
    if logprob is None:
        return f"{described})"
    described += f", logprob {logprob:.3f}, p = {percent(math.exp(min(logprob, 0.0)))})"
    second = runner_up(sample)
    if second is None:
        return described
    return f"{described}; runner-up {_visible(spell(second[0]))}, logprob difference {logprob - second[1]:+.3f}"


def _visible(text: str) -> str:
    return f"{clipped(text, 40)!r}"


def _parts_answers(pair: Pair) -> bool:
    return pair.kind == "gen" and pair.a is not None and pair.b is not None and not pair.has_equal_answers


# ---------------------------------------------------------------- text


def text(diff: Diff, spell_a: Spell, spell_b: Spell) -> str:
    rows = [f"{name:<14}{one:>12}{other:>12}{change:>12}".rstrip() for name, one, other, change in costs(diff)]
    lines = [heading(diff), "", f"{'':<14}{clipped(diff.a, 11):>12}{clipped(diff.b, 11):>12}", *rows]
    if diff.edits:
        lines += ["", *(clipped(line, 160) for line in diff.edits[:MAX_EDITS]), *_more(len(diff.edits) - MAX_EDITS, "line")]
    for pair in diff.pairs[:MAX_PAIRS]:
        lines += ["", f"{clipped(pair.name, 80)}: {verdict(diff, pair)}"]
        if _parts_answers(pair):
            for label, side, sample, spell in _sides(diff, pair, spell_a, spell_b):
                before, after = _around(side, pair.n_answer_same, spell)
                lines += [f"  {label}  …{clipped(before, 60)}⟦{clipped(after, 100)}⟧", f"     {closeness(sample, spell)}"]
    return "\n".join([*lines, *_more(len(diff.pairs) - MAX_PAIRS, "answer")])


def _sides(diff: Diff, pair: Pair, spell_a: Spell, spell_b: Spell) -> Iterable[tuple[str, Inspection, Sample | None, Spell]]:
    one, other = pair.parting()
    name_a, name_b = _names(diff)
    sides = ((name_a, pair.a, one, spell_a), (name_b, pair.b, other, spell_b))
    return [(label, side, sample, spell) for label, side, sample, spell in sides if side is not None]


def _around(side: Inspection, n_same: int, spell: Spell) -> tuple[str, str]:
    """The last tokens that both runs share, and this run's tokens after them."""
    before = "".join(spell(sample.token) for sample in side.samples[max(0, n_same - CONTEXT) : n_same])
    return before, "".join(spell(sample.token) for sample in side.samples[n_same : n_same + SHOWN])


def _more(n: int, what: str) -> list[str]:
    return [f"… {counted(n, f'more {what}')}"] if n > 0 else []


# ---------------------------------------------------------------- HTML


def html(diff: Diff, spell_a: Spell, spell_b: Spell) -> Markup:
    frame = css(border=RULE, border_radius="8px", padding="14px 18px", margin="4px 0", font_size="14px", line_height="1.6")
    parts: list[Child] = [tag("div", {"style": css(font_weight="600", margin_bottom="8px")}, heading(diff)), _costs(diff)]
    if diff.edits:
        mono = css(font_family="monospace", font_size="12px", margin="10px 0 0 0", white_space="pre-wrap", overflow_wrap="break-word")
        lines = [*(clipped(line, 160) for line in diff.edits[:MAX_EDITS]), *_more(len(diff.edits) - MAX_EDITS, "line")]
        parts.append(tag("div", {"style": mono}, "\n".join(lines)))
    parts += [_pair(diff, pair, spell_a, spell_b) for pair in diff.pairs[:MAX_PAIRS]]
    return tag("div", {"style": frame}, *parts, *_more(len(diff.pairs) - MAX_PAIRS, "answer"))


def _costs(diff: Diff) -> Markup:
    number = css(padding="1px 14px 1px 0", border="none", background="transparent", text_align="right", white_space="nowrap")
    word = css(padding="1px 18px 1px 0", border="none", background="transparent", text_align="left", opacity="0.65")
    table = css(border_collapse="collapse", font_size="13px", margin="0", font_variant_numeric="tabular-nums")
    rows = [("", clipped(diff.a, 30), clipped(diff.b, 30), ""), *costs(diff)]
    return tag(
        "table",
        {"style": table},
        *(tag("tr", {}, *(tag("td", {"style": number if n else word}, value) for n, value in enumerate(row))) for row in rows),
    )


def _pair(diff: Diff, pair: Pair, spell_a: Spell, spell_b: Spell) -> Markup:
    head = tag("div", {}, tag("span", {"style": css(font_weight="600", margin_right="10px")}, clipped(pair.name, 80)), verdict(diff, pair))
    parts: list[Child] = [head]
    if _parts_answers(pair):
        inks = {id(pair.a): palette.CACHED, id(pair.b): palette.COMPUTED}
        sides = _sides(diff, pair, spell_a, spell_b)
        columns = [_side(label, side, pair.n_answer_same, sample, spell, inks[id(side)]) for label, side, sample, spell in sides]
        parts.append(tag("div", {"style": css(display="flex", flex_wrap="wrap", gap="20px", margin_top="6px")}, *columns))
    return tag("div", {"style": css(border_top=RULE, margin_top="10px", padding_top="10px")}, *parts)


def _side(label: str, side: Inspection, n_same: int, sample: Sample | None, spell: Spell, ink: palette.Ink) -> Markup:
    before, after = _around(side, n_same, spell)
    differs = css(background_color=palette.tint(ink.both, 0.14), border_bottom=f"2px {ink.line} {ink.both}")
    body = css(white_space="pre-wrap", overflow_wrap="break-word", font_size="13px")
    return tag(
        "div",
        {"style": css(flex="1 1 260px", min_width="220px")},
        tag("div", {"style": css(font_size="12px", opacity="0.65")}, label),
        tag("div", {"style": body}, tag("span", {"style": css(opacity="0.65")}, before), tag("span", {"style": differs}, after)),
        tag("div", {"style": css(font_size="12px", opacity="0.65", margin_top="4px")}, closeness(sample, spell)),
    )
