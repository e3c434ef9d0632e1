"""Completion for `%%sgl` and `%sgl`: options, their values, subcommands and the language's names.

One IPython matcher. Where the cursor stands at an option of ours it suppresses the others, since IPython
would offer names of magics there.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from .options import CELL_OPTIONS

_OPTION_LINE = re.compile(r"%%sgl(?P<rest>[^\n]*)$")
_LINE_MAGIC = re.compile(r"(?:^|\n)\s*%sgl\s+(?P<rest>[^\n]*)$")


def words_for(text: str, commands: dict[str, tuple[str, ...]], names: tuple[str, ...]) -> tuple[str, tuple[str, ...], bool]:
    """(fragment before the cursor, candidates, whether nothing else should be offered) for the text up to the cursor."""
    if found := _OPTION_LINE.search(text):
        before, _, fragment = found["rest"].rpartition(" ")
        words = before.split()
        option = next((o for o in CELL_OPTIONS if words and words[-1] in o.flags), None)
        if option is not None and not fragment.startswith("-"):
            _, comma, tail = fragment.rpartition(",")
            return tail if comma else fragment, option.words, True
        return fragment, tuple(flag for o in CELL_OPTIONS for flag in o.flags), True
    if found := _LINE_MAGIC.search(text):
        words = found["rest"].split(" ")
        if len(words) == 1:
            return words[0], tuple(commands), True
        return words[-1], commands.get(words[0], ()), True
    if text.lstrip().startswith("%%sgl") and "\n" in text:
        fragment = re.split(r"[^\w]", text)[-1]
        after_dot = text[: len(text) - len(fragment)].endswith(".")
        return fragment, () if after_dot or not fragment else names, False
    return "", (), False


def make_matcher(commands: dict[str, tuple[str, ...]], names: Callable[[], tuple[str, ...]]) -> Any:
    """The matcher to register as one of IPython's custom matchers. `names` is asked when something is completed."""
    from IPython.core.completer import SimpleCompletion, context_matcher

    @context_matcher(identifier="sgl_lab")  # type: ignore[untyped-decorator, unused-ignore]
    def sgl_matcher(context: Any) -> dict[str, Any]:
        lines = context.full_text.split("\n")
        text = "\n".join([*lines[: context.cursor_line], lines[context.cursor_line][: context.cursor_position]])
        fragment, words, alone = words_for(text, commands, names())
        found = [SimpleCompletion(word, type="sgl") for word in words if word.startswith(fragment)]
        return {"completions": found, "matched_fragment": fragment, "suppress": alone and bool(words)}

    return sgl_matcher
