"""Help on the language's names in the body of a `%%sgl` cell, with Shift-Tab and every other
inspection request.

The names are not variables of the notebook, so IPython does not know them. If the inspected text is
a `%%sgl` cell, they are looked up in the language first.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress

from .printing import say
from .shell import Shell

_BODY = re.compile(r"\A\s*(?:%%\w[^\n]*\n)*%%sgl\b[^\n]*\n")


def name_at(code: str, cursor: int) -> str:
    """The dotted name at the cursor, or of the enclosing call; empty outside of a cell's body."""
    found = _BODY.match(code)
    if found is None or cursor < found.end():
        return ""
    from IPython.utils.tokenutil import token_at_cursor

    return str(token_at_cursor(code, cursor))


def look_up(name: str, words: Mapping[str, object]) -> object:
    """The meaning of the dotted name in a body; None if the language does not define it."""
    first, *rest = name.split(".")
    found = words.get(first)
    for each in rest:
        found = getattr(found, each, None)
    return found


def install(shell: Shell, words: Callable[[], Mapping[str, object]]) -> Callable[[], None]:
    """Let `name?` and the shell's kernel find the language's names. Returns a function that undoes
    it.
    """
    undo_question = _answer_questions(shell, words)
    kernel = getattr(shell, "kernel", None)
    if kernel is None:
        return undo_question
    before = kernel.do_inspect

    def do_inspect(code: str, cursor_pos: int, detail_level: int = 0, omit_sections: Iterable[str] = ()) -> object:
        with suppress(Exception):  # another version of IPython with different attributes: it answers itself
            found = look_up(name := name_at(code, cursor_pos), words())
            if found is not None:
                data = shell.inspector._get_info(found, name, detail_level=detail_level, omit_sections=tuple(omit_sections))
                if not shell.enable_html_pager:
                    data.pop("text/html", None)
                return {"status": "ok", "data": data, "metadata": {}, "found": True}
        return before(code, cursor_pos, detail_level, omit_sections)

    def undo() -> None:
        undo_question()
        if kernel.__dict__.get("do_inspect") is do_inspect:
            del kernel.do_inspect

    kernel.do_inspect = do_inspect
    return undo


def _answer_questions(shell: Shell, words: Callable[[], Mapping[str, object]]) -> Callable[[], None]:
    """`gen?` and `gen??` show the language's name unless the notebook has a variable of that name."""
    before = shell._inspect

    def inspect(meth: str, oname: str, namespaces: object = None, **options: object) -> object:
        with suppress(Exception):
            from ..lang.surface import SURFACE

            known = dict(words())
            if namespaces is None and not shell._object_find(oname).found and look_up(oname, known) is not None:
                if not _BODY.match(_cell(shell)):
                    first = oname.partition(".")[0]
                    elsewhere = f"; elsewhere: from sgl_lab import {first}" if first in SURFACE else ""
                    say(f"{first} is a word of %%sgl cells{elsewhere}")
                namespaces = [("%%sgl", known)]
        return before(meth, oname, namespaces, **options)

    def undo() -> None:
        if shell.__dict__.get("_inspect") is inspect:
            del shell._inspect

    shell._inspect = inspect
    return undo


def _cell(shell: Shell) -> str:
    """The text of the running cell, if a front end sent one."""
    parent = shell.get_parent() if hasattr(shell, "get_parent") else {}
    return str(parent.get("content", {}).get("code", ""))
