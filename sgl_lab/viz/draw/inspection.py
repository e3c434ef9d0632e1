"""The exact tokens of a gen or select, prompt and answer: as HTML that untrusted notebooks keep,
with each text above its id, and as lines of text.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from ...contracts.legible import clipped, finite, legible
from ...contracts.pieces import is_piece, is_text
from ...contracts.spans import block_position, is_inside
from ..explain.history import shared
from ..views.inspection import Inspection
from . import experts, palette
from .escape import Child, Markup, css, joined, tag
from .numbers import counted, money, percent
from .streams import fair_share

MAX_TOKENS = 1200
"""tokens shown of one prompt or answer; of a longer one the middle is left out"""

MAX_TEXT = 4
"""multiple of the limit up to which plain text may grow before any of it is left out"""
DETAIL = 520
"""approximate bytes of one token with all its details, in HTML and in its line of text together"""

Spell = Callable[[int], str]


@dataclass(frozen=True, slots=True)
class Line:
    """One token with its details. If `position` is None, the line stands for omitted tokens and
    `id` is their number.
    """

    position: int | None
    id: int
    text: str = ""
    cls: str = ""
    logprob: float | None = None
    n_allowed: int | None = None
    is_forced: bool = False
    expert: int | None = None
    """the one that it is coloured by"""
    expert_note: str = ""
    is_routed: bool = False
    """whether colours are those of experts"""

    @property
    def name(self) -> str:
        """The token's id; what the digest of a block begins with; nothing for a piece of text."""
        if is_piece(self.id):
            return ""
        position = block_position(self.id)
        return str(self.id) if position is None else position.content.title

    @property
    def note(self) -> str:
        """The details beside the token's origin."""
        parts = []
        if self.logprob is not None:
            parts.append(f"p = {percent(math.exp(min(self.logprob, 0.0)))}")
        if self.n_allowed is not None and not self.is_forced:
            parts.append(f"{self.n_allowed:,} allowed")
        if self.expert_note:
            parts.append(self.expert_note)
        return ", ".join(parts)


def prompt_lines(inspection: Inspection, spell: Spell, first: int | None = None) -> list[Line]:
    """All tokens from `first` on. If `first` is None: all tokens, without the middle of a long
    prompt.
    """
    lines = (
        _routed(inspection, Line(position, token, legible(spell(token)), _origin(inspection, position)))
        for position, token in enumerate(inspection.prompt[first or 0 :], first or 0)
        if not is_inside(token)
    )
    n_lines = sum(not is_inside(token) for token in inspection.prompt)
    return list(_cut(lines, n_lines)) if first is None else list(lines)


def _origin(inspection: Inspection, position: int) -> str:
    """Of a prompt's token; of a piece of text it is not known, because the server counts tokens."""
    if is_text(inspection.prompt):
        return "text"
    return "cached" if position < (inspection.n_hit or 0) else "computed"


def answer_lines(inspection: Inspection, spell: Spell, n: int | None = None) -> list[Line]:
    """The first `n` tokens. If `n` is None: all tokens, without the middle of a long answer."""
    first = len(inspection.prompt)
    lines = (
        _routed(
            inspection,
            Line(
                position,
                sample.token,
                legible(spell(sample.token)),
                "forced" if sample.forced else "generated",
                finite(sample.logprob),
                sample.n_allowed,
                sample.forced,
            ),
        )
        for position, sample in enumerate(inspection.samples[:n], first)
    )
    return list(_cut(lines, len(inspection.samples))) if n is None else list(lines)


def _routed(inspection: Inspection, line: Line) -> Line:
    if inspection.routes is None or line.position is None:
        return line
    expert, words = experts.noted(inspection.routes, line.position)
    return replace(line, expert=expert, expert_note=words, is_routed=True)


def _cut(lines: Iterable[Line], n: int) -> Iterator[Line]:
    head, tail = MAX_TOKENS // 3, MAX_TOKENS - MAX_TOKENS // 3
    for index, line in enumerate(lines):
        if n <= MAX_TOKENS or index < head or index >= n - tail:
            yield line
        elif index == head:
            yield Line(None, n - MAX_TOKENS)


def heading(inspection: Inspection) -> str:
    title, kind, n = clipped(inspection.title, 100), clipped(inspection.kind, 20), len(inspection.prompt)
    if is_text(inspection.prompt):
        answer = inspection.answered
        if answer is None or not answer.n_prompt:
            return f"{title}: a {kind} after a prompt in {counted(n, 'piece')} of text"
        cached = "" if answer.n_cached is None else f", {answer.n_cached:,} of them cached"
        return f"{title}: a {kind} after a prompt of {counted(answer.n_prompt, 'token')}, as the server counts{cached}"
    return f"{title}: a {kind} after a prompt of {counted(n, 'token')}, {inspection.n_hit or 0:,} from the cache"


def outcome(inspection: Inspection) -> str:
    n_forced = sum(sample.forced for sample in inspection.samples)
    forced = f", {n_forced:,} of them forced" if n_forced else ""
    if (answer := inspection.answered) is not None:
        cost = "" if answer.cost is None else f", {money(answer.cost, answer.currency)}"
        return f"{counted(answer.n_completion, 'token')} generated, as the server counts{cost}; finish reason: {clipped(answer.reason, 40)}"
    return f"{counted(len(inspection.samples), 'token')} generated{forced}; finish reason: {clipped(inspection.reason, 40) or 'none yet'}"


def seams(inspection: Inspection, spell: Spell) -> list[str]:
    """One line for each seam, where the same text was encoded again in other tokens."""

    def spelled(tokens: Sequence[int]) -> str:
        return " ".join(f"{_visible(legible(spell(token)))} ({token})" for token in tokens[:8])

    return [f"healed seam: {spelled(before)} became {spelled(after)}" for before, after in inspection.seams]


def html(inspection: Inspection, spell: Spell) -> Markup:
    small = css(font_size="12px", opacity="0.7", margin="10px 0 4px 0")
    parts: list[Child] = [tag("div", {"style": css(font_weight="600")}, clipped(heading(inspection), 200))]
    parts.append(_chips(prompt_lines(inspection, spell)))
    parts += [tag("div", {"style": small}, seam) for seam in seams(inspection, spell)]
    if inspection.kind == "gen":
        parts += [tag("div", {"style": small}, outcome(inspection)), _chips(answer_lines(inspection, spell))]
    else:
        parts.append(tag("div", {"style": small}, f"chosen: {clipped(inspection.value, 200)}"))
    return tag("div", {"style": css(font_size="14px", line_height="1.6", margin="4px 0 12px 0")}, *parts)


def _chips(lines: Iterable[Line]) -> Markup:
    return tag("div", {"style": css(display="flex", flex_wrap="wrap", gap="3px 2px", margin_top="6px")}, *map(_chip, lines))


def _chip(line: Line) -> Markup:
    if line.position is None:
        return tag("span", {"style": css(font_size="12px", opacity="0.65", padding="0 8px")}, f"… {counted(line.id, 'more token')} …")
    ink = palette.INKS.get(line.cls, palette.SENT)
    where = f"id {line.name}, position {line.position}" if line.name else f"a piece of text, number {line.position}"
    described = "\n".join(filter(None, (f"{ink.glyph} {line.cls}: {ink.meaning}", where, line.note)))
    edge, fill = f"2px {'solid' if ink.line == 'none' else ink.line} {ink.both}", palette.tint(ink.both, 0.12)
    if line.expert is not None:
        edge, fill = f"2px solid {experts.ink(line.expert)}", palette.tint(experts.ink(line.expert), 0.3)
    elif line.is_routed:
        edge, fill = "2px dotted rgba(128,128,128,0.6)", "transparent"
    box = css(
        display="inline-block",
        text_align="center",
        border_bottom=edge,
        background_color=fill,
        border_radius="3px",
        padding="0 3px",
    )
    text = tag("span", {"style": css(display="block", font_family="monospace", font_size="13px", white_space="pre")}, _visible(line.text))
    below = f"E{line.expert}" if line.expert is not None else "–" if line.is_routed else line.name
    number = tag("span", {"style": css(display="block", font_size="10px", line_height="1.3", opacity="0.7")}, below)
    return tag("span", {"title": described, "style": box}, text, number)


def _visible(text: str) -> str:
    return clipped(text.replace("\n", "↵").replace(" ", "␣"), 60) or "∅"


def text(inspection: Inspection, spell: Spell) -> str:
    """One line per token: position, id, origin, details, text."""
    rows = [heading(inspection), *map(_row, prompt_lines(inspection, spell)), *seams(inspection, spell)]
    if inspection.kind == "gen":
        rows += [outcome(inspection), *map(_row, answer_lines(inspection, spell))]
    else:
        rows.append(f"chosen: {legible(inspection.value)}")
    return "\n".join(rows)


def _row(line: Line) -> str:
    if line.position is None:
        return f"  … {counted(line.id, 'more token')} …"
    ink = palette.INKS.get(line.cls, palette.SENT)
    note = line.note + "  " * bool(line.expert_note)
    return f"{line.position:>7}{line.name:>8}  {ink.glyph} {line.cls:<10}{note:<24}{line.text!r:.60}".rstrip()


# ---------------------------------------------------------------- many, within a limit


def listing(found: Sequence[Inspection], spell: Spell, limit: int, *, is_text: bool = False) -> tuple[Markup, str]:
    """All inspections as HTML and as text, in about `limit` bytes together.

    Details are dropped first, then text that is shown already:

    1. every token has its id;
    2. each prompt and answer is text. The part that a prompt shares with an earlier one is left
       out, and only the tokens around the end of the prompt have ids;
    3. each inspection is one line of plain text. Unless `is_text`, only the HTML contains these
       lines;
    4. what exceeds a multiple of the limit is counted, with the command that shows it.
    """
    lengths = [len(one.prompt) + len(one.samples) for one in found]
    if sum(lengths) * DETAIL <= limit and max(lengths, default=0) <= MAX_TOKENS:
        return joined([html(one, spell) for one in found]), "\n\n".join(text(one, spell) for one in found)
    bases = list(_bases(found))
    n_detailed = limit // DETAIL
    while True:
        share = fair_share(lengths, n_detailed) if n_detailed else 0
        if (whole := _brief(found, bases, spell, share, limit)) is not None:
            return whole
        if not share:
            return _lines(found, bases, spell, limit, is_text)
        n_detailed = n_detailed // 3 if n_detailed > 8 else 0


def _lines(found: Sequence[Inspection], bases: Sequence[tuple[int, str]], spell: Spell, limit: int, is_text: bool) -> tuple[Markup, str]:
    """One line of plain text for each inspection."""
    rows: list[str] = []
    room = MAX_TEXT * limit
    for one, (n_same, whose) in zip(found, bases, strict=True):
        same = f"[{n_same:,} tokens as in {clipped(whose, 60)}]" if n_same else ""
        prompt = legible("".join(map(spell, one.prompt[n_same:])))
        answer_text = legible(one.value if one.kind != "gen" else "".join(spell(sample.token) for sample in one.samples))
        healed = "".join(f" ({seam})" for seam in seams(one, spell))
        row = f"{clipped(one.title, 100)}: {same}{prompt} ⟶ {answer_text}{healed}"
        if (room := room - len(row.encode()) - 1) < 0:
            n_more = len(found) - len(rows)
            rows.append(f"… {n_more:,} more: `%sgl tokens NAME` shows those of one name or fork, `%sgl export FILE.html` the whole run")
            break
        rows.append(row)
    plain = "\n".join(rows)
    body = css(white_space="pre-wrap", overflow_wrap="break-word", font_size="13px", line_height="1.5")
    page = tag("div", {"style": body}, plain)
    return page, plain if is_text else f"{rows[0]}\n… {len(rows) - 1:,} more lines: `%sgl tokens --text` prints them"


def _bases(found: Sequence[Inspection]) -> Iterator[tuple[int, str]]:
    """For each inspection: the number of leading tokens that an earlier prompt shares, and that
    prompt's title.

    The earlier prompt is the one before, the last one of the same fork, or the first one.
    """
    last: dict[object, Inspection] = {}
    before: Inspection | None = None
    for one in found:
        others = [other for other in (before, last.get(one.fork), found[0]) if other is not None and other is not one]
        best = max(((shared(one.prompt, other.prompt), other.title) for other in others), key=lambda pair: pair[0], default=(0, ""))
        yield best
        before = last[one.fork] = one


def _brief(
    found: Sequence[Inspection], bases: Sequence[tuple[int, str]], spell: Spell, share: int, limit: int
) -> tuple[Markup, str] | None:
    """All inspections, each with `share` detailed tokens. None if they do not fit into `limit`
    bytes.
    """
    pages: list[Markup] = []
    plains: list[str] = []
    room = limit - 1_000  # for the legend
    for one, base in zip(found, bases, strict=True):
        page, plain = _one(one, base, spell, share)
        if (room := room - len(page.source.encode()) - len(plain.encode()) - 2) < 0:
            return None
        pages.append(page)
        plains.append(plain)
    legend = ", ".join(f"{ink.glyph} {name}" for name, ink in palette.INKS.items() if name in ("cached", "computed", "generated"))
    body = css(white_space="pre-wrap", overflow_wrap="break-word", font_size="13px", line_height="1.5")
    return tag("div", {"style": body}, f"{legend}\n", *pages), "\n\n".join(plains)


def _one(inspection: Inspection, base: tuple[int, str], spell: Spell, share: int) -> tuple[Markup, str]:
    """Heading, prompt and answer as text, with details for `share` tokens around the beginning of
    the answer.
    """
    n_same, whose = base if base[0] > 8 else (0, "")
    n_tail = min(len(inspection.prompt) - n_same, share // 2)
    n_head = min(len(inspection.samples), share - n_tail) if inspection.kind == "gen" else 0
    n_text = len(inspection.prompt) - n_tail
    answer_text = "".join(spell(sample.token) for sample in inspection.samples[n_head:])
    hits = min(max(inspection.n_hit or 0, n_same), n_text)
    cached, computed = ("".join(map(spell, inspection.prompt[a:b])) for a, b in ((n_same, hits), (hits, n_text)))
    same = f"… {n_same:,} tokens as in {clipped(whose, 60)} …" if n_same else ""
    tail = prompt_lines(inspection, spell, n_text)
    head = answer_lines(inspection, spell, n_head)
    title = f"{clipped(inspection.title, 100)}: {len(inspection.prompt):,} tokens, {inspection.n_hit or 0:,} from the cache"
    ending = f"{len(inspection.samples):,} tokens: {clipped(inspection.reason, 40) or 'none yet'}"
    if inspection.kind != "gen":
        answer_text, ending = inspection.value, "chosen"

    quiet = css(opacity="0.65")
    prompt = [_run(text, ink) for text, ink in ((cached, palette.CACHED), (computed, palette.COMPUTED)) if text]
    healed = seams(inspection, spell)
    parts: list[Child] = [tag("span", {"style": css(font_weight="600")}, title)]
    parts.append(tag("div", {}, tag("span", {"style": quiet}, same), *prompt))
    parts += [_chips(tail)] if tail else []
    parts += [tag("div", {"style": quiet}, seam) for seam in healed]
    answer: list[Child] = [] if head else [" ", _run(answer_text, palette.GENERATED)]
    parts.append(tag("div", {}, tag("span", {"style": quiet}, ending), *answer))
    parts += [_chips(head), tag("div", {}, _run(answer_text, palette.GENERATED))] if head else []

    rows = [title, same + legible(cached + computed), *map(_row, tail), *healed, ending, *map(_row, head), legible(answer_text)]
    return tag("div", {"style": css(margin="0 0 10px 0")}, *parts), "\n".join(filter(None, rows))


def _run(text: str, ink: palette.Ink) -> Markup:
    return tag("span", {"style": css(background_color=palette.tint(ink.both, 0.12))}, legible(text))
