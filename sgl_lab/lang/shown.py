"""How states are shown: a summary in words, rows of a table, Markdown. Only rows wait.

The layout on a page is not known here; `contracts/summary.py` defines the data.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from importlib import import_module
from typing import Any, Protocol

from ..contracts.errors import ProgramError, SglError, Stopped
from ..contracts.legible import clipped, legible
from ..contracts.summary import Counts, Summary, Value
from .expressions import Name, RoleBegin, RoleEnd
from .run import Run, Strand
from .variable import Variable

MAX_TEXT = 2_000
"""characters of one turn in a summary in words"""


def summary(stream: Strand) -> Summary:
    """The current state of the stream, without waiting."""
    run = stream.run
    with run.lock:
        values = tuple(_value(name, variable) for name, variable in _own(stream))
        error = stream.error or (run.body_error if stream.parent is None else None)
        is_running = not stream.idle or run.body_active
        status = "running" if is_running else "done" if error is None else "stopped" if isinstance(error, Stopped) else "error"
        message = f"{type(error).__name__}: {error}" if error is not None and status == "error" else ""
        counts = sum((value.counts for value in values), Counts())
        return Summary(stream.label, status, message, tuple(_turns(stream)), values, counts, len(subtree(stream)) - 1)


def _own(stream: Strand) -> list[tuple[Name, Variable]]:
    """Its variables, without those inherited from the stream that it was forked from."""
    return [(name, variable) for name, variable in stream.variables.items() if stream.inherited.get(name) is not variable]


def subtree(stream: Strand) -> list[Strand]:
    """The stream and its descendants, in the order of the forks."""
    found = [stream]
    for each in stream.run.streams:
        if each.parent is not None and each.parent in found and each is not stream:
            found.append(each)
    return found


def _turns(stream: Strand) -> Iterator[tuple[str, str]]:
    role, text = "", ""
    for entry in stream.transcript.history:
        if isinstance(entry, RoleBegin | RoleEnd):
            if text or role:
                yield role, text
            role, text = entry.role if isinstance(entry, RoleBegin) else "", ""
        else:
            text += entry.text
    text += stream.partial
    if text or role:
        yield role, text


def _value(name: Name, variable: Variable) -> Value:
    if variable.error is not None:
        return Value(str(name), variable.text, Counts(), f"{type(variable.error).__name__}: {variable.error}")
    metas = list(_flat(variable.meta)) if variable.done else []
    value = variable.value if variable.done else variable.text
    counts = sum((_counts(meta) for meta in metas), Counts())
    reasons = dict.fromkeys(str(meta["finish_reason"]) for meta in metas if meta.get("finish_reason") is not None)
    return Value(str(name), value if isinstance(value, str) else repr(value), counts, ", ".join(reasons) if variable.done else "running")


def _flat(meta: object) -> Iterator[dict[str, object]]:
    """The meta infos of several samples, and of joined forks."""
    if isinstance(meta, list):
        for each in meta:
            yield from _flat(each)
    elif isinstance(meta, dict):
        yield meta


def counts_of(run: Run) -> Counts:
    """Of all gens and selects of a run; what a join copies counts once."""
    metas = {id(meta): meta for stream in run.streams for variable in stream.variables.values() for meta in _flat(variable.meta)}
    return sum(map(_counts, metas.values()), Counts())


def _counts(meta: dict[str, object]) -> Counts:
    return Counts(
        *(n if isinstance(n := meta.get(f"{name}_tokens"), int) else 0 for name in ("prompt", "cached", "computed", "completion"))
    )


# ---------------------------------------------------------------- words


def in_a_line(found: Summary, kind: str) -> str:
    values = ", ".join(f"{value.name}={clipped(value.text, 30)!r}" for value in found.values) or "no variables"
    return legible(f"<{kind} {found.label}: {values}; {_status(found)}>")


def _status(found: Summary) -> str:
    n = found.counts.generated
    return found.status + (f", {n} token{'s'[: n != 1]} generated" if found.counts else "")


def in_words(found: Summary, kind: str) -> str:
    """A few lines: turns, values, counts."""
    lines = [f"{kind} {found.label}: {_status(found)}"]
    if found.error:
        lines.append(found.error)
    for role, text in found.turns:
        shown = text if len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]} … {len(text) - MAX_TEXT:,} more characters"
        lines.append(f"[{role}] {shown}" if role else shown)
    if found.values:
        rows = [("", "value", "tokens", "prompt", "cached", "ends")]
        rows += [(value.name, clipped(value.text, 60), *_numbers(value.counts), clipped(value.ends, 60)) for value in found.values]
        lines += ["", _aligned(rows)]
    return legible("\n".join(lines))


def _numbers(counts: Counts) -> tuple[str, str, str]:
    return (f"{counts.generated:,}", f"{counts.prompt:,}", f"{counts.cached:,}") if counts else ("", "", "")


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)


# ---------------------------------------------------------------- rows


def row(stream: Strand) -> dict[str, object]:
    """The values of the stream under its own names, parsed if they have a type, and its counts. The
    stream must have ended.
    """
    found = summary(stream)
    values: dict[str, object] = {}
    for name, variable in _own(stream):
        if variable.error is None:
            values[str(name)] = variable.value
            with suppress(SglError):
                values[str(name)] = variable.read()
    counts = found.counts
    numbers = {
        "prompt_tokens": counts.prompt,
        "cached_tokens": counts.cached,
        "computed_tokens": counts.computed,
        "completion_tokens": counts.generated,
    }
    return {**values, **numbers, "error": found.error or ("stopped" if found.status == "stopped" else None)}


def rows(streams: Sequence[Strand]) -> list[dict[str, object]]:
    """One row per stream with a common order of columns: values, then counts, then `error`. Waits
    until the streams have ended.
    """
    for stream in streams:
        stream.run.wait(lambda stream=stream: stream.idle and not stream.run.body_elsewhere)  # type: ignore[misc]
    return _even([row(stream) for stream in streams])


def _even(found: list[dict[str, object]]) -> list[dict[str, object]]:
    """The rows with the same columns in all."""
    columns = dict.fromkeys(name for each in found for name in each if name not in _LAST)
    columns |= dict.fromkeys(name for name in _LAST if any(name in each for each in found))
    return [{name: each.get(name) for name in columns} for each in found]


_LAST = ("prompt_tokens", "cached_tokens", "computed_tokens", "completion_tokens", "error")


def frame(found: list[dict[str, object]], labels: Sequence[object]) -> Any:
    """The rows as a pandas DataFrame. ProgramError if pandas is not installed."""
    try:
        pandas = import_module("pandas")
    except ImportError:
        raise ProgramError("to_frame() needs pandas, which is not installed", hint="pip install pandas, or use rows(): dicts") from None
    return pandas.DataFrame(found, index=list(labels))


class Printer(Protocol):
    """IPython's, of representations."""

    def text(self, text: str) -> None: ...


class States(list[Any]):
    """The states of a batch, in order. With `return_exceptions`, a failed item is its exception."""

    def summaries(self) -> list[Summary]:
        """The current state of each."""
        return [_failed(index, each) if isinstance(each, Exception) else each.summary() for index, each in enumerate(self)]

    def rows(self) -> list[dict[str, object]]:
        """A dict per item: its values, its counts, and its error if it has one. Waits for them."""
        found: list[dict[str, object]] = [
            {"error": f"{type(each).__name__}: {each}"} if isinstance(each, Exception) else rows([each._stream])[0] for each in self
        ]
        return _even(found)

    def to_frame(self) -> Any:
        """`rows` as a pandas DataFrame, with a row per item."""
        return frame(self.rows(), range(len(self)))


def _failed(index: int, error: Exception) -> Summary:
    return Summary(str(index), "error", f"{type(error).__name__}: {error}", (), (), Counts(), 0)


# ---------------------------------------------------------------- Markdown


class Markdown(str):
    """Text that a notebook renders. As a string it is unchanged. The rendering runs nothing, loads
    nothing, and links only to the web.
    """

    __slots__ = ()

    def _repr_markdown_(self) -> str:
        return tame(self)


_APART = "\u2060"
"""a word joiner: it is invisible, and interrupts markup"""
_TAG = re.compile(r"<(?=[A-Za-z/!?])")
_IMAGE = re.compile(r"!(?=\[)")
_DEFINITION = re.compile(r"^([ \t>*+-]*\[(?:[^\]\\\n]|\\.)*\])(?=:)", re.MULTILINE)
_LINK = re.compile(r"\](?=\(\s*<?\s*(?!https?://)[^)\s]*[:&\\%])", re.IGNORECASE)
_COMMAND = re.compile(r"\\(?=href|url|style|class|cssId|require|html|data|include|def|let|newcommand|renewcommand|unicode|mmlToken|bbox)")


def tame(text: str) -> str:
    """Markdown without working HTML, images, references, addresses other than http(s), or formula
    commands that affect the page.
    """
    text = _TAG.sub(f"<{_APART}", legible(text))
    text = _IMAGE.sub(f"!{_APART}", text)
    text = _DEFINITION.sub(rf"\1{_APART}", text)
    text = _LINK.sub(f"]{_APART}", text)
    return _COMMAND.sub(lambda match: f"\\{_APART}", text)


def markdown_of(value: object) -> Markdown:
    """For a list, which the values of several samples are, one after the other."""
    return Markdown("\n\n---\n\n".join(map(str, value if isinstance(value, list) else [value])))


def markdown_of_turns(found: Summary) -> Markdown:
    return Markdown("\n\n".join(f"**{role}**\n\n{text}" if role else text for role, text in found.turns))
