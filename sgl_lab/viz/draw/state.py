"""One or several program states as HTML that any notebook renders: turns, values, counts."""

from __future__ import annotations

from collections.abc import Sequence

from ...contracts.legible import clipped
from ...contracts.summary import Counts, Summary
from .escape import Markup, css, tag
from .html import details, grid, note, output, panel
from .numbers import counted, percent

MAX_CHARS = 20_000
"""characters of one turn"""
MAX_ROWS = 100

_ROLE = css(font_size="12px", font_weight="600", opacity="0.65")
_TEXT = css(white_space="pre-wrap", overflow_wrap="anywhere", max_height="24em", overflow_y="auto", margin="0 0 8px 0")


def html(found: Summary) -> Markup:
    """One state."""
    parts = [note(_counts(found.counts))] if found.counts else []
    parts += [_turn(role, text) for role, text in found.turns]
    if found.values:
        rows = [("", "value", "tokens", "prompt", "from the cache", "ends")]
        rows += [(each.name, each.text, *_numbers(each.counts), each.ends) for each in found.values]
        parts.append(details(counted(len(found.values), "value"), grid(rows), is_open=True))
    if found.n_forks:
        parts.append(note(f"{counted(found.n_forks, 'fork')}: to_frame() has a row for each"))
    return output(panel(found.label, "ok" if found.status == "done" else found.status, found.error, parts))


def table(found: Sequence[Summary], title: str) -> Markup:
    """Several states, one per row."""
    names = tuple(dict.fromkeys(value.name for each in found for value in each.values))
    rows = [("", *names, "tokens", "prompt", "from the cache", "")]
    for each in found[:MAX_ROWS]:
        texts = {value.name: value.text for value in each.values}
        last = "" if each.status == "done" else each.error or each.status
        rows.append((each.label, *(texts.get(name, "") for name in names), *_numbers(each.counts), last))
    more = [note(f"… {len(found) - MAX_ROWS:,} more")] if len(found) > MAX_ROWS else []
    return output(panel(title, "ok", "", [note(_counts(sum((each.counts for each in found), Counts()))), grid(rows), *more]))


def _turn(role: str, text: str) -> Markup:
    shown = text if len(text) <= MAX_CHARS else f"{text[:MAX_CHARS]} … {len(text) - MAX_CHARS:,} more characters: text() has them all"
    head = [tag("div", {"style": _ROLE}, clipped(role, 60))] if role else []
    return tag("div", {}, *head, tag("div", {"style": _TEXT}, shown))


def _counts(counts: Counts) -> str:
    if not counts:
        return "nothing has been generated"
    share = f" ({percent(counts.cached / counts.prompt)})" if counts.prompt else ""
    return f"{counted(counts.generated, 'token')} generated after prompts of {counts.prompt:,}, {counts.cached:,}{share} from the cache"


def _numbers(counts: Counts) -> tuple[str, str, str]:
    return (f"{counts.generated:,}", f"{counts.prompt:,}", f"{counts.cached:,}") if counts else ("", "", "")
