"""The options of `%%sgl` and `%sgl`: one table, from which parsing, help and completion are
derived.

Knows no IPython. A wrong option is an `OptionError` of one line with the nearest valid one.
"""

from __future__ import annotations

import ast
import difflib
import keyword
import math
import re
import shlex
import textwrap
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, fields
from typing import Any

from ..backends.names import KNOWN, parsed
from ..contracts.errors import BadArgument
from ..contracts.legible import clipped, legible

MAX_KNOWN = 30
"""names that an error lists, the last ones"""
VIEWS = ("tokens", "graph", "tree", "timeline")
_SWITCH = {"yes": True, "true": True, "on": True, "1": True, "no": False, "false": False, "off": False, "0": False}


class OptionError(BadArgument):
    """One line: what is wrong, and what was probably meant."""


def nearest(word: str, known: Iterable[str], what: str) -> OptionError:
    """The error for `word`, which is not in `known`."""
    names = list(known)
    bare = {name.lstrip("-"): name for name in names}  # leading dashes do not count as similarity
    # neither do shared digits of two numbers
    close = [] if word.isdigit() else difflib.get_close_matches(word.lstrip("-"), bare)
    last = names if len(names) <= MAX_KNOWN else ["…", *names[-MAX_KNOWN:]]
    return OptionError(f"unknown {what} {word!r}", hint=f"did you mean {bare[close[0]]!r}?" if close else f"known: {', '.join(last)}")


@dataclass(frozen=True, slots=True)
class Control:
    """A name that a cell runs with, and the values that it may take."""

    name: str
    values: tuple[Any, ...]

    def described(self, index: int) -> dict[str, object]:
        """The control as the page reads it. The page identifies values by their index."""
        is_number = [isinstance(value, int | float) and not isinstance(value, bool) for value in self.values]
        texts = [legible(value) if isinstance(value, str) else repr(value) for value in self.values]
        found = {
            "name": self.name,
            "index": index,
            "values": [{"text": t, "number": n} for t, n in zip(texts, is_number, strict=True)],
        }
        return found | ({"label": f"--{self.name.replace('_', '-')}"} if self.name in SETTINGS else {})


@dataclass(frozen=True, slots=True)
class CellOptions:
    """The options of one `%%sgl` cell; None means "not given"."""

    out: str | None = None
    capture: str | None = None
    backend: str | None = None
    model: str | None = None
    device: str | None = None
    temperature: float | None = None
    max_tokens: int | None = None
    seed: int | None = None
    adapter: str | None = None
    deterministic: bool | None = None
    budget: float | None = None
    lint: bool | None = None
    view: tuple[str, ...] | None = None
    bg: bool = False
    interact: tuple[Control, ...] = ()
    save: str | None = None
    force: bool = False
    over: str | None = None
    """a variable or a file with rows"""
    as_name: str | None = None
    """of the grid"""
    fresh: bool = False
    define: str | None = None
    """the signature after --def, such as `tip(topic, k=3)`"""

    @property
    def views(self) -> tuple[str, ...]:
        return VIEWS if self.view is None else self.view


# Parsers of option values. Their ValueError describes the valid values.


def _number(kind: type[int] | type[float], low: int) -> Callable[[str], int | float]:
    def parse(text: str) -> int | float:
        with suppress(ValueError):
            if low <= (value := kind(text)) < math.inf:
                return value
        raise ValueError(f"a {'whole ' if kind is int else ''}number, {low} or more")

    return parse


def _switch(text: str) -> bool:
    if text.lower() not in _SWITCH:
        raise ValueError("yes or no")
    return _SWITCH[text.lower()]


def _name(text: str) -> str:
    if not text.isidentifier() or keyword.iskeyword(text):
        raise ValueError("a valid variable name")
    if text in ("In", "Out", "get_ipython") or re.fullmatch(r"__\w*__", text):
        raise ValueError("a name that Python and IPython do not use")
    return text


def _device(text: str) -> str:
    if not re.fullmatch(r"cpu|cuda(:\d{1,3})?", text):
        raise ValueError("cpu, cuda, or a numbered GPU such as cuda:1")
    return text


def _grid(text: str) -> str:
    if text.startswith("-") or not text.isprintable():
        raise ValueError("a name of printable characters that begins with no hyphen")
    return text


def _backend(text: str) -> str:
    try:
        for each in text.split(","):
            parsed(each)
    except BadArgument as error:
        raise OptionError(error.message, hint=error.hint) from None
    return text


def _views(text: str) -> tuple[str, ...]:
    if text == "none":
        return ()
    views = tuple(part.strip() for part in text.split(",") if part.strip())
    for view in views:
        if view not in VIEWS:
            raise nearest(view, (*VIEWS, "none"), "view")
    if not views:
        raise ValueError(f"any of {', '.join(VIEWS)}, or none")
    return views


@dataclass(frozen=True, slots=True)
class Option:
    flags: tuple[str, ...]
    field: str
    parse: Callable[[str], object]
    value: str
    """the kind of value, for help and errors; empty for a flag"""
    help: str
    words: tuple[str, ...] = ()
    """values for completion"""
    default: str = ""
    """the default, in words; an option with a default is also a setting"""

    def read(self, text: str, where: str) -> object:
        """The value that `text` spells. OptionError that names the position `where` it was given."""
        try:
            return self.parse(text)
        except OptionError as error:
            raise OptionError(f"{where}: {error.message}", hint=error.hint) from None
        except ValueError as error:
            raise OptionError(f"{where} cannot be {text!r}", hint=f"it takes {error}") from None


CELL_OPTIONS = (
    Option(("-o", "--out"), "out", _name, "NAME", "keep the program's state under NAME"),
    Option(("-b", "--backend"), "backend", _backend, "NAME", "run on another engine: NAME[:MODEL][@URL]", tuple(KNOWN), default="local"),
    Option(
        ("-m", "--model"),
        "model",
        str,
        "MODEL",
        "run on MODEL, as `%sgl model MODEL` would load it; several with --over",
        default="smollm2",
    ),
    Option(("--device",), "device", _device, "DEVICE", "run on cpu, cuda or cuda:1", ("cpu", "cuda"), default="a GPU if there is one"),
    Option(("--temperature",), "temperature", _number(float, 0), "T", "sampling temperature; 0 takes the likeliest token", default="1.0"),
    Option(("--max-tokens",), "max_tokens", _number(int, 1), "N", "token limit of gens that set none", default="128"),
    Option(("--seed",), "seed", _number(int, 0), "N", "makes sampling repeatable on one kind of CPU", default="none"),
    Option(("--adapter",), "adapter", str, "NAME", "run with a LoRA adapter that `%sgl adapter` has loaded", default="none"),
    Option(("--deterministic",), "deterministic", _switch, "", "bitwise equal results on one kind of CPU, under any load", default="no"),
    Option(("--budget",), "budget", _number(float, 0), "USD", "stop before a call to an API that may pass it", default="none"),
    Option(("--lint",), "lint", _switch, "yes|no", "one quiet line under a cell whose run shows a fault", ("yes", "no"), default="yes"),
    Option(("--view",), "view", _views, "VIEWS", "views to show, or none", (*VIEWS, "none"), default=",".join(VIEWS)),
    Option(("--bg",), "bg", _switch, "", "run in the background; the value is a job: status, result(), cancel(), await"),
    Option(("--interact",), "interact", str, "x=1..5", "sliders (a..b, a..b:step) and lists ([...]) that rerun the cell"),
    Option(("--save",), "save", str, "FILE", "write the recorded run to FILE, for `%sgl replay`"),
    Option(("--force",), "force", _switch, "", "let --save overwrite a file that sgl_lab did not write"),
    Option(("--over",), "over", str, "ROWS", "run the body for each row of a list of dicts, a DataFrame, a .csv or a .jsonl file"),
    Option(("--as",), "as_name", _grid, "NAME", "with --over: keep the results under NAME, a version for each body"),
    Option(("--fresh",), "fresh", _switch, "", "with --over: compute all rows again, as a new version"),
    Option(("--def",), "define", str, "NAME(args)", "make the body a function instead of running it"),
)
_OUT = CELL_OPTIONS[0]
SETTINGS = {option.field: option for option in CELL_OPTIONS if option.default}
"""Options that can be set for all cells, by their names there."""

_NOT_OVER = {"bg": "--bg", "interact": "--interact", "capture": "`<<`"}
MAX_VALUES = 1_000
"""values of one control"""
_CONTROLLABLE = ("temperature", "max_tokens", "seed")
_INTERACT_HINT = 'such as --interact x=1..5 temperature=0..1 style=["short", "long"]'
_INTERACT = re.compile(r"(?:(?<=\s)|\A)--interact(?=[=\s]|\Z)=?")
_CONTROL = re.compile(r"""\s*(?P<name>[^\W\d][\w-]*)=(?P<value>\[(?:[^\]"']|"[^"]*"|'[^']*')*\]|[^\s\[]\S*)(?=\s|\Z)""")
_DEFINE = re.compile(r"--def(?:=|\s+)([^\W\d]\w*)\s*(\()?")
_CAPTURE = re.compile(r"\s*([^\W\d]\w*)\s*<<(?=\s|$)")


HELP_FLAGS = ("-h", "--help")
_WIDTH = 96
"""characters per line of help: a notebook breaks longer lines in the middle of a word"""


def wrapped(head: str, text: str) -> str:
    """`text` after `head`, with its further lines aligned below the first."""
    below = " " * len(head)
    return textwrap.fill(text, _WIDTH, initial_indent=head, subsequent_indent=below, break_long_words=False, break_on_hyphens=False)


def cell_help() -> str:
    rows = [wrapped(f"  {', '.join(option.flags):<16}{option.value:<12}", _with_default(option)) for option in CELL_OPTIONS]
    return "\n".join(
        [
            "%%sgl [NAME <<] [options]      run the cell as an SGLang program and show the run",
            "",
            *rows,
            f"  {'NAME <<':<28}keep the last expression's value under NAME instead of showing it",
            "",
            "The body is Python, and `s` is its state. Expressions alone on a line are appended to it:",
            "user(...), gen(...) and literal text. The last expression is the value of the cell: literal",
            "text there is appended only if a `;` follows it. Names that the body assigns become notebook",
            "variables, except `s` and loop variables.",
        ]
    )


def _with_default(option: Option) -> str:
    return f"{option.help} (default {option.default})" if option.value and option.default else option.help


def _take_signature(line: str) -> tuple[str, str | None]:
    """Cut `--def NAME(args)` out of the line. Its parentheses may contain spaces and quotes."""
    found = _DEFINE.search(line)
    if found is None:
        return line, None
    end = found.end()
    if found.group(2):
        depth, quote = 1, ""
        while depth and end < len(line):
            char = line[end]
            if quote:
                quote = "" if char == quote else quote
            elif char in "'\"":
                quote = char
            else:
                depth += (char in "([{") - (char in ")]}")
            end += 1
        if depth:
            raise OptionError("--def: the parenthesis is never closed", hint="write --def NAME(args)")
        signature = line[found.start(1) : end]
        if line[end:].lstrip().startswith("->"):
            raise OptionError("--def takes no return annotation", hint=f"write --def {signature}")
    else:
        signature = f"{found.group(1)}()"
    return line[: found.start()] + " " + line[end:], signature


def _take_controls(line: str) -> tuple[str, tuple[Control, ...]]:
    """Cut `--interact x=1..5 y=["a", "b"]` out of the line. Its lists may contain spaces and
    quotes.
    """
    found = _INTERACT.search(line)
    if found is None:
        return line, ()
    controls: list[Control] = []
    end = found.end()
    while part := _CONTROL.match(line, end):
        name, value = part.group("name").replace("-", "_"), part.group("value")
        if name in [control.name for control in controls]:
            raise OptionError(f"--interact: {name} is given twice")
        controls.append(Control(name, _control_values(name, value)))
        end = part.end()
    if not controls or not re.match(r"\s+-|\s*\Z", line[end:]):
        wrong = line[end:].split()
        raise OptionError(f"--interact cannot be {wrong[0]!r}" if wrong else "--interact needs a value: x=1..5", hint=_INTERACT_HINT)
    return line[: found.start()] + " " + line[end:], tuple(controls)


def _control_values(name: str, text: str) -> tuple[Any, ...]:
    """The values that `1..5`, `0..1:0.25` or `["a", "b"]` stands for. If `name` is an option, they
    are parsed as its values.
    """
    option = SETTINGS.get(name)
    if name in SETTINGS and name not in _CONTROLLABLE:
        raise OptionError(f"--interact cannot control {name}", hint=f"it can control {', '.join(_CONTROLLABLE)} and variables of the cell")
    try:
        values = tuple(ast.literal_eval(text)) if text.startswith("[") else _range(text, is_real=name == "temperature")
    except (ValueError, SyntaxError, MemoryError, RecursionError, OverflowError):
        raise OptionError(f"--interact {name} cannot be {clipped(text, 40)!r}", hint=_INTERACT_HINT) from None
    if not 1 <= len(values) <= MAX_VALUES:
        raise OptionError(f"--interact {name} has {len(values):,} values", hint=f"1 to {MAX_VALUES} are possible; use a..b:step")
    return values if option is None else tuple(option.read(str(value), f"--interact {name}") for value in values)


def _range(text: str, is_real: bool) -> tuple[int | float, ...]:
    low, dots, rest = text.partition("..")
    high, colon, step = rest.partition(":")
    if not dots:
        raise ValueError
    if not is_real and all(re.fullmatch(r"-?\d{1,15}", number) for number in (low, high, step or "1")):
        first, last, by = int(low), int(high), int(step or 1)
        return tuple(range(first, last + 1, by)[: MAX_VALUES + 1]) if by > 0 else ()
    start, stop = float(low), float(high)
    pace = float(step) if colon else (stop - start) / 10
    if not (math.isfinite(start) and math.isfinite(stop) and pace > 0 and stop >= start):
        raise ValueError
    n_steps = int(min((stop - start) / pace + 1e-9, MAX_VALUES))
    return tuple(float(f"{start + n * pace:.10g}") for n in range(n_steps + 1))


def parse_cell(line: str) -> CellOptions:
    """Parse the text after `%%sgl`. OptionError if it is wrong."""
    line, define = _take_signature(line)
    line, controls = _take_controls(line)
    given: dict[str, object] = {"define": define} if define else {}
    if define:
        _OUT.read(define.partition("(")[0], "--def")
    for control in controls:
        _OUT.read(control.name, "--interact")
    if controls:
        given["interact"] = controls
    if found := _CAPTURE.match(line):
        given["capture"] = _OUT.read(found.group(1), "NAME <<")
        line = line[found.end() :]
    by_flag = {flag: option for option in CELL_OPTIONS for flag in option.flags}
    try:
        words = shlex.split(line)
    except ValueError as error:
        raise OptionError(f"cannot read the options: {error}") from None
    rest = iter(words)
    for word in rest:
        flag, equals, value = word.partition("=")
        option = by_flag.get(flag)
        if option is None:
            if word.startswith("-"):
                raise nearest(flag, by_flag, "option")
            raise OptionError(f"%%sgl takes options only, not {word!r}", hint="write the program on the lines below")
        if not option.value and equals:
            raise OptionError(f"{flag} takes no value, not {value!r}", hint=f"write {flag} alone")
        if not equals:
            value = next(rest, "") if option.value else "yes"
        if not value:
            raise OptionError(f"{flag} needs a value: {option.value}", hint=option.help)
        if option.field in given:
            raise OptionError(f"{flag} is given twice")
        given[option.field] = option.read(value, flag)
    if define and (others := [option.flags[-1] for option in CELL_OPTIONS if option.field in given and option.field != "define"]):
        name = define.partition("(")[0]
        raise OptionError(f"{others[0]} applies to a run, and --def only defines a function", hint=f"run it with {name}.run(...)")
    if define and "capture" in given:
        raise OptionError("there is no value to capture: --def only defines a function", hint="leave `<<` out")
    if "force" in given and "save" not in given:
        raise OptionError("--force needs --save", hint="write --save FILE --force")
    if "over" in given:
        if wrong := [flag for field, flag in _NOT_OVER.items() if field in given]:
            raise OptionError(f"--over and {wrong[0]} cannot be combined", hint=f"leave {wrong[0]} out; -o NAME keeps the results")
    elif alone := [flag for field, flag in (("as_name", "--as"), ("fresh", "--fresh")) if field in given]:
        raise OptionError(f"{alone[0]} needs --over", hint="write --over ROWS")
    elif "," in str(given.get("backend", "")):
        raise OptionError("-b takes one engine", hint="several are columns of a grid, with --over ROWS")
    if controls and "bg" in given:
        raise OptionError("--interact always runs in the background", hint="leave --bg out")
    if moved := [control.name for control in controls if control.name in given]:
        raise OptionError(f"--{moved[0].replace('_', '-')} is given twice: --interact controls it too", hint="leave one of them out")
    names = {field.name for field in fields(CellOptions)}
    return CellOptions(**{name: value for name, value in given.items() if name in names})  # type: ignore[arg-type]
