"""A model's chat template, rendered as untrusted code over untrusted text.

Templates run in jinja2's immutable sandbox with the settings of transformers, and with a bound
on work and output. What they render is returned in segments, so that the tokenizer can tell the
template's own markup from message content that merely spells it. Knows no token ids.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from ...contracts.errors import BadArgument, ModelError
from ...contracts.port import Message, Segment

_MAX_WORK = 50_000
"""loop iterations and calls of one rendering, and a hundredth of it more for each message"""
_MAX_OUTPUT = 1 << 20
"""characters that a template may add to the contents, and the most that one repetition may make"""

_work: ContextVar[list[int]] = ContextVar("work")


class _TooMuch(Exception):
    """The template passed a bound."""


class _Refused(Exception):
    """The template called `raise_exception`."""


def _spend() -> None:
    left = _work.get()
    left[0] -= 1
    if left[0] < 0:
        raise _TooMuch("too many steps")


def _counted(items: Iterable[Any]) -> Iterator[Any]:
    for item in items:
        _spend()
        yield item


class _Generation(Extension):
    """`{% generation %}` marks assistant text for training; here it is only its body."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Environment(ImmutableSandboxedEnvironment):
    """The sandbox, with every loop and call counted and every repetition bounded."""

    intercepted_binops = frozenset({"*", "**", "%"})

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        template = super()._parse(source, name, filename)
        for loop in list(template.find_all(nodes.For)):
            loop.iter = nodes.Filter(loop.iter, "counted", [], [], None, None, lineno=loop.lineno, environment=self)
        return template

    def call(self, *args: Any, **kwargs: Any) -> Any:
        _spend()
        return super().call(*args, **kwargs)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        sized = next((side for side in (left, right) if hasattr(side, "__len__")), None)
        if operator == "**" or (operator == "%" and sized is not None):
            raise _TooMuch(f"operator {operator}")
        if operator == "*" and sized is not None and len(sized) * int(right if sized is left else left) > _MAX_OUTPUT:
            raise _TooMuch("a repetition")
        return super().call_binop(context, operator, left, right)


def _raise_exception(message: Any) -> None:
    raise _Refused(str(message))


def _to_json(
    value: Any, ensure_ascii: bool = False, indent: int | None = None, separators: tuple[str, str] | None = None, sort_keys: bool = False
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _environment() -> _Environment:
    environment = _Environment(trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, "jinja2.ext.loopcontrols"])
    environment.filters["tojson"] = _to_json
    environment.filters["counted"] = _counted
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = lambda layout: datetime.now().strftime(layout)
    return environment


@dataclass(frozen=True, slots=True)
class Prefix:
    """The rule by which a tokenizer puts a space before a text."""

    every: bool
    """after each special token too, not only at the very start"""
    doubled: bool
    """also where the text begins with a space"""

    def before(self, text: str) -> str:
        return " " + text if text and (self.doubled or not text.startswith(" ")) else text


class ChatTemplate:
    """`variables` are what a template may name beside the messages (bos_token, ...); `specials` spell the special tokens."""

    def __init__(self, source: str, variables: Mapping[str, str], specials: Sequence[str]) -> None:
        self._source = source
        self._variables = dict(variables)
        self._special = re.compile("|".join(re.escape(text) for text in sorted(specials, key=len, reverse=True)) or r"(?!)")

    @cached_property
    def _template(self) -> jinja2.Template:
        try:
            return _environment().from_string(self._source)
        except (jinja2.TemplateError, RecursionError, ValueError, SyntaxError) as error:
            raise ModelError(f"the model's chat template is not usable: {error}") from None

    def render(self, messages: Sequence[Message], add_generation_prompt: bool) -> str:
        """The text as transformers' apply_chat_template gives it. BadArgument with the template's own words if it refuses."""
        most = _MAX_OUTPUT + 4 * sum(len(message.content) for message in messages)
        token = _work.set([_MAX_WORK + len(messages) * _MAX_WORK // 100])
        pieces: list[str] = []
        try:
            chat = [{"role": message.role, "content": message.content} for message in messages]
            given = {"messages": chat, "add_generation_prompt": add_generation_prompt, "tools": None, "documents": None}
            for piece in self._template.generate(self._variables | given):
                pieces.append(piece)
                most -= len(piece)
                if most < 0:
                    raise _TooMuch("its output")
        except _Refused as error:
            raise BadArgument(f"the model's chat template refuses these messages: {error}") from None
        except _TooMuch as error:
            raise ModelError(f"the model's chat template does too much: {error}") from None
        except ModelError:
            raise
        except Exception as error:  # a template is a program: it can fail in any way
            raise ModelError(f"the model's chat template failed: {type(error).__name__}: {error}") from None
        finally:
            _work.reset(token)
        return "".join(pieces)

    def segments(self, messages: Sequence[Message], add_generation_prompt: bool) -> tuple[Segment, ...]:
        """What `render` gives, cut where contents begin and end; contents are not markup."""
        text = self.render(messages, add_generation_prompt)
        parts = self._around(messages, add_generation_prompt)
        contents = [message.content for message in messages]
        for candidate in (contents, [content.strip() for content in contents]):
            segments = _filled(parts, candidate) if parts else ()
            if "".join(segment.text for segment in segments) == text:
                return segments
        return self._guarded(messages, add_generation_prompt)

    def _around(self, messages: Sequence[Message], add_generation_prompt: bool) -> list[str] | None:
        """The rendering with marks for contents, cut at the marks: text, number, text, ... None if the template minds the marks."""
        marks = _Marks()
        marked = [Message(message.role, marks.spell(number)) for number, message in enumerate(messages)]
        try:
            return marks.cut(self.render(marked, add_generation_prompt))
        except (BadArgument, ModelError):
            return None

    def _guarded(self, messages: Sequence[Message], add_generation_prompt: bool) -> tuple[Segment, ...]:
        """For templates that rewrite contents: all is markup but the special tokens that a content spells.

        Each such spelling is rendered as a mark, which a template has no reason to touch.
        """
        marks = _Marks()
        spelled: list[str] = []

        def mark(match: re.Match[str]) -> str:
            spelled.append(match[0])
            return marks.spell(len(spelled) - 1)

        guarded = [Message(message.role, self._special.sub(mark, message.content)) for message in messages]
        return _filled(marks.cut(self.render(guarded, add_generation_prompt)), spelled)

    def spaced(self, segments: Sequence[Segment], prefix: Prefix) -> tuple[Segment, ...]:
        """The segments with the prefix spelled out, as if the tokenizer had met them in one text."""
        result: list[Segment] = []
        due = True
        for segment in segments:
            text, at = "", 0
            specials = list(self._special.finditer(segment.text)) if segment.markup else []
            for begin, end in [*(match.span() for match in specials), (len(segment.text), len(segment.text))]:
                if begin > at:
                    piece = segment.text[at:begin]
                    text += prefix.before(piece) if due else piece
                    due = False
                if end > begin:
                    text += segment.text[begin:end]
                    due = prefix.every
                at = end
            result.append(Segment(text, segment.markup))
        return tuple(result)


class _Marks:
    """Numbers spelled so that no content can forge one: private-use characters around a secret and the number."""

    def __init__(self) -> None:
        self._secret = f"\U0010f8fe{secrets.randbelow(10**12):012}"

    def spell(self, number: int) -> str:
        return f"{self._secret}{number}\U0010f8ff"

    def cut(self, text: str) -> list[str]:
        return re.split(f"{self._secret}([0-9]+)\U0010f8ff", text)


def _filled(parts: list[str], contents: Sequence[str]) -> tuple[Segment, ...]:
    """Template text and contents in turn, empty ones left out."""
    segments = (Segment(contents[int(part)], False) if index % 2 else Segment(part, True) for index, part in enumerate(parts))
    return tuple(segment for segment in segments if segment.text)
