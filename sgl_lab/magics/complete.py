"""Completion for `%%sgl` and `%sgl`: options, their values, subcommands and the language's names.

It is one IPython matcher. At an option of ours it suppresses the other matchers, because IPython
would offer names of magics and of Python there.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from .options import CELL_OPTIONS

if TYPE_CHECKING:
    from IPython.core.completer import CompletionContext

_OPTION_LINE = re.compile(r"\A\s*(?:%%\w[^\n]*\n)*%%sgl[ \t](?P<rest>[^\n]*)\Z")
_LINE_MAGIC = re.compile(r"(?:\A|\n)[ \t]*(?:\w+[ \t]*=[ \t]*)?%sgl[ \t]+(?P<rest>[^\n]*)\Z")
_WORD = re.compile(r"\"[^\"]*\"?|[^\s\"]+")


NextWords = Callable[[Sequence[str]], tuple[str, ...]]
"""words that may follow these words of a `%sgl` line"""


_CALL = re.compile(r"\b(\w+)\([^()]*\Z")

_KEY = re.compile(
    r"(?:(?P<state>\w+)|[)\]])(?:\[|\.(?:get|get_var|value|value_async|get_meta_info|prompt|text_iter|text_async_iter|markdown)\()"
    r"\s*(?P<quote>[\"'])(?P<fragment>[^\"'\n]*)\Z"
)
"""where the name of a variable is expected: `s["`, `f.value('`"""
_NAMED = re.compile(r"\b(?:gen|gen_int|gen_string|select|var_scope|set_var)\(\s*(?:name\s*=\s*)?[\"']([^\"'\n]+)[\"']")

Inside = Callable[[str], tuple[str, ...]]
"""names that may follow `gen(` and `s.`"""


def words_for(
    text: str, next_words: NextWords, names: tuple[str, ...], inside: Inside = lambda opened: ()
) -> tuple[str, tuple[str, ...], bool]:
    """Completions for the text up to the cursor: (fragment before the cursor, candidates, whether
    to suppress all others).
    """
    if found := _OPTION_LINE.search(text):
        before, _, fragment = found["rest"].rpartition(" ")
        flag, equals, value = fragment.partition("=")
        if not equals:
            flag, value = " ".join(before.split()[-1:]), fragment
        option = next((o for o in CELL_OPTIONS if flag in o.flags), None)
        if option is not None and option.value and not value.startswith("-"):
            return value.rpartition(",")[2], option.words, True
        return fragment, tuple(flag for o in CELL_OPTIONS for flag in o.flags), True
    if found := _LINE_MAGIC.search(text):
        before = _WORD.findall(found["rest"])
        fragment = before.pop() if before and found["rest"].endswith(before[-1]) else ""
        if before and before[-1].startswith("-"):
            fragment = fragment.rpartition(",")[2]  # the value of an option may be a list
        words = next_words([word.strip('"') for word in before])
        return fragment, tuple(_quoted(word) for word in words if word.isprintable() and '"' not in word), True
    if text.lstrip().startswith("%%sgl") and "\n" in text:
        fragment = re.split(r"[^\w]", text)[-1]
        head = text[: len(text) - len(fragment)]
        if found := _KEY.search(text):
            return found["fragment"], tuple(dict.fromkeys(_NAMED.findall(text))), found["state"] == "s"
        if head.endswith("."):
            return fragment, inside("s.") if re.search(r"\bs\.\Z", head) else (), False
        call = _CALL.search(head)
        return fragment, (names if fragment else ()) + (inside(f"{call[1]}(") if call else ()), False
    return "", (), False


def _quoted(word: str) -> str:
    return f'"{word}"' if " " in word else word


def make_matcher(next_words: NextWords, names: Callable[[], tuple[str, ...]], inside: Inside) -> Callable[..., object]:
    """The matcher to register as one of IPython's custom matchers. It calls all three functions for
    each completion.
    """
    from IPython.core.completer import SimpleCompletion, context_matcher

    @context_matcher(identifier="sgl_lab")  # type: ignore[untyped-decorator, unused-ignore]
    def sgl_matcher(context: CompletionContext) -> dict[str, object]:
        lines = context.full_text.split("\n")
        text = "\n".join([*lines[: context.cursor_line], lines[context.cursor_line][: context.cursor_position]])
        if "%sgl" not in text:
            return {"completions": []}
        fragment, words, alone = words_for(text, next_words, names(), inside)
        found = [word for word in words if word.startswith((fragment, f'"{fragment}'))]
        if alone and not found:
            # IPython suppresses other matchers only for a non-empty result: the existing text
            found = [fragment]
        return {"completions": [SimpleCompletion(word, type="sgl") for word in found], "matched_fragment": fragment, "suppress": alone}

    matcher: Callable[..., object] = sgl_matcher
    return matcher
