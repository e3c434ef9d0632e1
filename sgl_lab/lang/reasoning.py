"""Separates a model's reasoning from its answer. Knows text only."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import NamedTuple


class Split(NamedTuple):
    reasoning: str
    answer: str


@dataclass(frozen=True)
class Reasoning:
    """How a family of models marks its reasoning.

    is_open  the prompt has begun the reasoning, so the text starts inside it
    gap      characters between the reasoning and the answer that belong to neither; None for white
             space
    """

    begin: str
    end: str
    is_open: bool = False
    gap: str | None = None

    def split(self, text: str, *, is_whole: bool = True) -> Split:
        """Both parts of a text. Of a growing text, only the stable beginning of each."""
        if self.is_open:
            before, rest = "", text.lstrip().removeprefix(self.begin)
            if not is_whole and self.begin.startswith(rest):
                return Split("", "")
        else:
            before, begun, rest = text.partition(self.begin)
            if not begun:
                return Split("", text if is_whole else _without_half(text, self.begin))
        thought, ended, after = rest.partition(self.end)
        if not ended and not is_whole:
            thought = _without_half(thought, self.end)
        return Split(thought.strip(), before + after.lstrip(self.gap))

    def is_spelled_in(self, source: str) -> bool:
        """Whether a constraint describes the end of the reasoning itself."""
        return self.end in source or self.end in re.sub(r"\\(.)", r"\1", source)

    @property
    def lead(self) -> str:
        """A regular expression for everything before a constrained answer, as `split` cuts it with
        `gap` "\\n".
        """
        thought = f"{_up_to(self.end)}\\n*"
        return thought if self.is_open else f"(?:{re.escape(self.begin)}{thought})?"


def _up_to(mark: str) -> str:
    """A regular expression for a text that ends with `mark` and contains it nowhere else.

    Wherever the mark's first character occurs, more of the mark may follow, but another character,
    or that character again, comes before its end. If a mark contains its first character twice, the
    part before the second one counts.
    """
    first = mark[0]
    n = len(mark) if (again := mark.find(first, 1)) < 0 else again
    begun = [re.escape(mark[1:k]) for k in range(1, n)]
    left = [f"{part}[^{re.escape(mark[k] + first)}]" for k, part in enumerate(begun, 1)]
    again_and_again = f"(?:{re.escape(first)}(?:{'|'.join(begun)}))*"
    other = f"[^{re.escape(first)}]|{again_and_again}{re.escape(first)}(?:{'|'.join(left)})"
    return f"(?:{other})*{again_and_again}{re.escape(mark)}"


def _without_half(text: str, mark: str) -> str:
    """`text` without a beginning of `mark` at its end."""
    for n in range(min(len(mark) - 1, len(text)), 0, -1):
        if mark.startswith(text[-n:]):
            return text[:-n]
    return text


OF_THE_MODEL = Reasoning("", "")
"""The model's own marks, which its executor knows."""

_THINK = Reasoning("<think>", "</think>")
_THINKING = replace(_THINK, is_open=True)

MODEL_TYPES = {
    "deepseek-r1": _THINKING,
    "deepseek-v3": _THINK,
    "glm45": _THINK,
    "gpt-oss": Reasoning("<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>"),
    "interns1": _THINK,
    "kimi": Reasoning("◁think▷", "◁/think▷"),
    "kimi_k2": _THINKING,
    "minimax": _THINKING,
    "minimax-append-think": _THINKING,
    "nano_v3": _THINKING,
    "qwen3": _THINK,
    "qwen3-thinking": _THINKING,
    "step3": _THINKING,
}
