"""Finds the marks around a model's reasoning: spelled in its chat template, or among its added tokens.

Where there are several, those count between which the template writes the reasoning of an earlier
turn. The prompt of an answer says whether the template begins the reasoning itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from ...contracts.errors import BadArgument, ModelError
from ...contracts.port import ReasoningMarks
from .chat import ChatTemplate, Turn

_WORD = r"[\w:]*(?:think|thought|reason)\w*"
_PAIRS = (
    (rf"</({_WORD})>", "<{0}>", "</{0}>"),
    (rf"\[/({_WORD})\]", "[{0}]", "[/{0}]"),
    (rf"◁/({_WORD})▷", "◁{0}▷", "◁/{0}▷"),
    (rf"<\|/({_WORD})\|>", "<|{0}|>", "<|/{0}|>"),
    (rf"<\|end_of_({_WORD})\|>", "<|begin_of_{0}|>", "<|end_of_{0}|>"),
    (rf"<\|end_({_WORD})\|>", "<|start_{0}|>", "<|end_{0}|>"),
    (r"<\|(inner)_suffix\|>", "<|{0}_prefix|>", "<|{0}_suffix|>"),
    (
        r"<\|channel\|>(analysis)<\|message\|>",
        "<|channel|>{0}<|message|>",
        "<|end|><|start|>assistant<|channel|>final<|message|>",
    ),
)
"""how an end is spelled, and its beginning and itself of the word in it"""

_QUESTION, _THOUGHT, _ANSWER = "sgl-lab-question", "sgl-lab-thought", "sgl-lab-answer"
_ASKED: list[Turn] = [{"role": "user", "content": _QUESTION}]
_ANSWERED: Turn = {"role": "assistant", "content": _ANSWER, "reasoning_content": _THOUGHT, "reasoning": _THOUGHT, "thinking": _THOUGHT}


def reasoning_marks_of(template: ChatTemplate | None, added: Iterable[str]) -> ReasoningMarks | None:
    """`added` are the texts of the added tokens. None if neither they nor the template spell marks."""
    texts = "" if template is None else template.source, "\n".join(added)
    found = [marks for text in texts for marks in _spelled(text) if any(marks.begin in each for each in texts)]
    if not found or template is None:
        return next(iter(found), None)
    turn = _rendered(template, [*_ASKED, _ANSWERED], opens=False)
    begin, end, _ = next((marks for marks in found if _stands_between(marks, turn)), found[0])
    return ReasoningMarks(begin, end, _rendered(template, _ASKED, opens=True).rstrip().endswith(begin))


def _spelled(text: str) -> Iterator[ReasoningMarks]:
    """The marks whose end is in `text`."""
    for end, begin, spelled in _PAIRS:
        for match in re.finditer(end, text, re.IGNORECASE):
            as_found = str.upper if match[0].isupper() else str  # <|START_THINKING|>
            yield ReasoningMarks(as_found(begin.format(match[1])), as_found(spelled.format(match[1])))


def _stands_between(marks: ReasoningMarks, turn: str) -> bool:
    before, thought, after = turn.partition(_THOUGHT)
    return bool(thought) and before.rstrip().endswith(marks.begin) and after.lstrip().startswith(marks.end)


def _rendered(template: ChatTemplate, turns: list[Turn], *, opens: bool) -> str:
    try:
        return template.rendered(turns, opens)
    except (BadArgument, ModelError):
        return ""
