"""A model's chat template, rendered as untrusted code over untrusted text.

A rendering is returned in segments, so that the tokenizer can distinguish the template's own markup
from message content that spells the same. Knows no token ids.
"""

from __future__ import annotations

import re
import secrets
from collections import deque
from collections.abc import Mapping, Sequence
from functools import cached_property
from operator import attrgetter
from typing import TypeAlias

import jinja2

from ...contracts.errors import BadArgument, ModelError
from ...contracts.port import Message, Segment
from ...contracts.prefixes import nearest
from ...contracts.spans import OBJECT
from . import sandbox
from .locality import Locality, locality_of

Turn: TypeAlias = "dict[str, object]"

_OBJECTS = re.compile(f"({OBJECT})")
_MAX_SOURCE = 1 << 17
"""characters of a template"""
_MAX_RECENT = 32
"""renderings that are kept for continuation"""
_MAX_WORK = 50_000
"""loop iterations and calls of one rendering, and a hundredth of it more for each message"""


class ChatTemplate:
    """`variables` are names that a template may use beside the messages (bos_token, ...);
    `specials` spell the special tokens.
    """

    def __init__(self, source: str, variables: Mapping[str, str], specials: Sequence[str]) -> None:
        self.source = source
        self._variables = dict(variables)
        self._recent: deque[Rendered] = deque(maxlen=_MAX_RECENT)
        self._special = re.compile("|".join(re.escape(text) for text in sorted(specials, key=len, reverse=True)) or r"(?!)")

    @cached_property
    def _template(self) -> jinja2.Template:
        if len(self.source) > _MAX_SOURCE:
            raise ModelError(f"the model's chat template has {len(self.source)} characters, the limit is {_MAX_SOURCE}")
        try:
            return sandbox.environment().from_string(self.source)
        except Exception as error:  # a parser of untrusted text
            raise ModelError(f"the model's chat template is not usable: {error}") from None

    def render(self, messages: Sequence[Message], add_generation_prompt: bool) -> str:
        """The text that transformers' apply_chat_template returns. BadArgument, with the template's
        own message, if it refuses.
        """
        contents = [parts_of(message.content) if self._takes_parts else message.content for message in messages]
        turns: list[Turn] = [{"role": message.role, "content": given} for message, given in zip(messages, contents, strict=True)]
        return self.rendered(turns, add_generation_prompt)

    @cached_property
    def _takes_parts(self) -> bool:
        """Whether it drops a content that is a text, and takes a list of parts (text, images)."""
        mark = _Marks().spell(0)
        return not self._keeps(mark, mark) and self._keeps(parts_of(mark), mark)

    def _keeps(self, content: object, mark: str) -> bool:
        try:
            return mark in self.rendered([{"role": "user", "content": content}], True)
        except (BadArgument, ModelError):
            return False

    @cached_property
    def _image(self) -> str:
        """What a template that takes parts writes for an image: a special token that no text has."""
        plain, shown = ({*self._special.findall(self.render([Message("user", text)], True))} for text in ("a", OBJECT + "a"))
        found: list[str] = sorted(shown - plain, key=lambda token: ("image" not in token, token))
        if not found:
            raise ModelError("the model's chat template writes no special token for an image")
        return found[0]

    def rendered(self, chat: Sequence[Turn], add_generation_prompt: bool, tools: Sequence[Turn] | None = None) -> str:
        """The same of turns as a template takes them, which may have more than a role and a content, and
        with tools.
        """
        given = {"messages": list(chat), "add_generation_prompt": add_generation_prompt, "tools": tools, "documents": None}
        template = self._template
        try:
            return sandbox.render(template, self._variables | given, max_work=_MAX_WORK + len(chat) * _MAX_WORK // 100)
        except sandbox.Refused as error:
            raise BadArgument(f"the model's chat template refuses these messages: {error}") from None
        except sandbox.TooMuch as error:
            raise ModelError(f"the model's chat template was stopped: {error}") from None
        except Exception as error:  # a template is a program: it can fail in any way
            raise ModelError(f"the model's chat template failed: {type(error).__name__}: {error}") from None

    def segments(self, messages: Sequence[Message], add_generation_prompt: bool) -> tuple[Segment, ...]:
        """The result of `render`, split at the beginning and end of contents. Contents are not
        markup.

        If a conversation continues one that was rendered recently, and the template allows it, only
        its beginning and end are rendered.
        """
        if self._takes_parts and (n_images := sum(message.content.count(OBJECT) for message in messages)):
            return self._shown(messages, add_generation_prompt, n_images)
        given = tuple(messages)
        known = [one for one in reversed(tuple(self._recent)) if one.opens == add_generation_prompt]
        n_same, earlier = nearest(known, attrgetter("messages"), given)
        if earlier is not None and (grown := self._grown(earlier, given, n_same)) is not None:
            self._recent.append(grown)
            return tuple(grown.segments)
        text = self.render(messages, add_generation_prompt)
        parts = self._around(messages, add_generation_prompt)
        for is_stripped in (False, True) if parts else ():
            rendered = Rendered(given, add_generation_prompt, is_stripped, parts or [])
            if rendered.text == text:
                if self._locality is not None and rendered.is_in_order:
                    self._recent.append(rendered)
                return tuple(rendered.segments)
        return self._guarded(messages, add_generation_prompt)

    @cached_property
    def _locality(self) -> Locality | None:
        return locality_of(sandbox.environment().plain(self.source))

    def _grown(self, earlier: Rendered, messages: tuple[Message, ...], n_same: int) -> Rendered | None:
        """The unchanged part of an earlier rendering, and the rest; None if `n_same` equal turns
        are too few.
        """
        locality = self._locality
        last_kept = n_same - 2  # its content's beginning: what is before that no later turn can change
        if locality is None or last_kept - 2 - locality.n_head < locality.period:
            return None
        n_left_out = (last_kept - 2 - locality.n_head) // locality.period * locality.period
        window = (*messages[: locality.n_head], *messages[locality.n_head + n_left_out :])
        try:
            text, parts = self.render(window, earlier.opens), self._around(window, earlier.opens)
        except (BadArgument, ModelError):
            return None
        rendered = Rendered(window, earlier.opens, earlier.is_stripped, parts or [])
        if not (rendered.is_in_order and rendered.text == text):
            return None
        return earlier.followed_by(rendered, messages, last_kept, n_left_out)

    def _around(self, messages: Sequence[Message], add_generation_prompt: bool) -> list[str] | None:
        """The rendering with marks for contents, cut at the marks: text, number, text, ... None if
        the template minds the marks.
        """
        marks = _Marks()
        marked = [Message(message.role, marks.spell(number)) for number, message in enumerate(messages)]
        try:
            return marks.cut(self.render(marked, add_generation_prompt))
        except (BadArgument, ModelError):
            return None

    def _shown(self, messages: Sequence[Message], add_generation_prompt: bool, n_images: int) -> tuple[Segment, ...]:
        """Of a template that takes parts: an image stands where the template writes its token."""
        marks, texts, marked = _Marks(), list[str](), list[Message]()
        for message in messages:
            content = ""
            for piece in filter(None, _OBJECTS.split(message.content)):
                content += piece if piece == OBJECT else marks.spell(len(texts))
                texts += [] if piece == OBJECT else [piece]
            marked.append(Message(message.role, content))
        whole, parts = self.render(messages, add_generation_prompt), marks.cut(self.render(marked, add_generation_prompt))
        candidates = (_filled(parts, texts), _filled(parts, [text.strip() for text in texts]))
        same = (segments for segments in candidates if "".join(segment.text for segment in segments) == whole)
        segments = next(same, None) or self._guarded(messages, add_generation_prompt)
        placed: list[Segment] = []
        for segment in segments:
            cut = segment.text.split(self._image) if segment.markup else [segment.text]
            for at, text in enumerate(cut):
                placed += [Segment(OBJECT, False)] * (at > 0) + [Segment(text, segment.markup)] * bool(text)
        if (n_placed := sum(segment == Segment(OBJECT, False) for segment in placed)) != n_images:
            raise ModelError(f"the model's chat template writes {n_placed} images of {n_images}")
        return tuple(placed)

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


def parts_of(content: str) -> list[Turn]:
    """A content as the parts that templates of models which see take; an image is one character of it."""
    pieces = [piece for piece in _OBJECTS.split(content) if piece] or [""]
    return [{"type": "image"} if piece == OBJECT else {"type": "text", "text": piece} for piece in pieces]


class Rendered:
    """A conversation as a template renders it: `parts` are text, the number of a content, text, ..."""

    def __init__(self, messages: tuple[Message, ...], opens: bool, is_stripped: bool, parts: list[str]) -> None:
        self.messages = messages
        self.opens = opens
        self.is_stripped = is_stripped
        """contents are without the white space around them"""
        self.segments: list[Segment] = []
        self.begins: list[int] = []
        """number of segments before each content"""
        self.is_in_order = list(map(int, parts[1::2])) == list(range(len(messages)))
        """every content is there, once, in its turn"""
        for index, part in enumerate(parts):
            if index % 2:
                self.begins.append(len(self.segments))
                self._add(self._content(int(part)), False)
            else:
                self._add(part, True)

    def _content(self, number: int) -> str:
        content = self.messages[number].content
        return content.strip() if self.is_stripped else content

    def _add(self, text: str, markup: bool) -> None:
        if text:
            self.segments.append(Segment(text, markup))

    @property
    def text(self) -> str:
        return "".join(segment.text for segment in self.segments)

    def followed_by(self, rendered: Rendered, messages: tuple[Message, ...], last_kept: int, n_left_out: int) -> Rendered:
        """This rendering up to the content of turn `last_kept`, followed by that of `rendered`,
        which leaves out `n_left_out` turns.
        """
        whole = Rendered(messages, self.opens, self.is_stripped, [])
        at, begin = self.begins[last_kept], rendered.begins[last_kept - n_left_out]
        whole.segments = self.segments[:at] + rendered.segments[begin:]
        whole.begins = self.begins[:last_kept] + [n - begin + at for n in rendered.begins[last_kept - n_left_out :]]
        whole.is_in_order = True
        return whole


class _Marks:
    """Numbers spelled so that no content can forge one: private-use characters around a secret and
    the number.
    """

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
