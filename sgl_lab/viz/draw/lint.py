"""The findings of a lint: all of them as a list, and the one quiet line under a cell."""

from __future__ import annotations

from collections.abc import Sequence

from ...contracts.legible import clipped
from ..lint.finding import Finding
from . import palette
from .escape import Child, Markup, css, tag
from .html import RULE
from .numbers import counted

MAX_FOUND = 60
"""findings that are shown"""
CLEAN = "no finding"
_LABELS = ("costs", "mend")


def headline(title: str, findings: Sequence[Finding]) -> str:
    n_tokens = sum(finding.n_tokens for finding in findings)
    cost = f", {counted(n_tokens, 'token')} a run" if n_tokens else ""
    return f"{clipped(title, 60)}: {counted(len(findings), 'finding') if findings else CLEAN}{cost}"


def quiet(findings: Sequence[Finding]) -> str:
    """One line for all of them: the first, and how many more there are."""
    first = findings[0]
    more = f" (and {len(findings) - 1:,} more)" if len(findings) > 1 else ""
    return f"lint: {_where(first)}{clipped(first.fault, 160)}{more} · %sgl lint"


def _where(finding: Finding) -> str:
    return f"line {finding.line}: " if finding.line else ""


# ---------------------------------------------------------------- text


def text(title: str, findings: Sequence[Finding], lines: Sequence[str] = ()) -> str:
    """`lines` are those of the cell."""
    parts = [headline(title, findings)]
    for finding in findings[:MAX_FOUND]:
        rows = [f"{_where(finding)}{clipped(finding.fault, 300)}  [{clipped(finding.code, 40)}]"]
        rows += [f"    | {clipped(code, 100)}"] if (code := _code(finding, lines)) is not None else []
        rows += [f"    {label + ':':<7}{clipped(value, 300)}" for label, value in zip(_LABELS, (finding.cost, finding.mend), strict=True)]
        parts.append("\n".join(rows))
    if len(findings) > MAX_FOUND:
        parts.append(f"… {counted(len(findings) - MAX_FOUND, 'more finding')}")
    return "\n\n".join(parts)


# ---------------------------------------------------------------- HTML


def html(title: str, findings: Sequence[Finding], lines: Sequence[str] = ()) -> Markup:
    frame = css(border=RULE, border_radius="8px", padding="14px 18px", margin="4px 0", font_size="14px", line_height="1.6")
    head = tag("div", {"style": css(font_weight="600")}, headline(title, findings))
    more = len(findings) - MAX_FOUND
    rest = [tag("div", {"style": css(opacity="0.65", margin_top="10px")}, f"… {counted(more, 'more finding')}")] if more > 0 else []
    return tag("div", {"style": frame}, head, *(_finding(one, _code(one, lines)) for one in findings[:MAX_FOUND]), *rest)


def _finding(finding: Finding, code: str | None) -> Markup:
    number = css(display="inline-block", width="64px", min_width="64px", color=palette.COMPUTED.both, font_weight="600")
    pill = css(font_size="12px", opacity="0.65", margin_left="8px", white_space="nowrap")
    fault = css(flex="1 1 240px", min_width="0", overflow_wrap="break-word", font_weight="600")
    where = f"line {finding.line}" if finding.line else "run"
    name = tag("span", {"style": f"{pill};font-weight:400"}, clipped(finding.code, 40))
    first = tag("div", {"style": fault}, clipped(finding.fault, 300), name)
    parts: list[Child] = [tag("div", {"style": css(display="flex")}, tag("span", {"style": number}, where), first)]
    mono = css(font_family="monospace", font_size="13px", white_space="pre-wrap", overflow_wrap="anywhere", opacity="0.8")
    parts += [_row("", tag("div", {"style": mono}, clipped(code, 140)))] if code is not None else []
    parts += [_row(label, clipped(value, 400)) for label, value in zip(_LABELS, (finding.cost, finding.mend), strict=True)]
    return tag("div", {"style": css(border_top=RULE, margin_top="10px", padding_top="10px")}, *parts)


def _row(label: str, content: Child) -> Markup:
    wide = css(display="inline-block", width="64px", min_width="64px", font_size="13px", opacity="0.65")
    body = css(flex="1 1 240px", min_width="0", overflow_wrap="break-word")
    return tag("div", {"style": css(display="flex")}, tag("span", {"style": wide}, label), tag("div", {"style": body}, content))


def line(findings: Sequence[Finding]) -> Markup:
    """The quiet line."""
    small = css(font_size="12px", line_height="1.5", opacity="0.75", margin="2px 0")
    return tag("div", {"style": small}, quiet(findings))


def _code(finding: Finding, lines: Sequence[str]) -> str | None:
    """The line of the cell; None if it is not known."""
    return lines[finding.line - 1].strip() if 0 < finding.line <= len(lines) else None
