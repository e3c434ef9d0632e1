"""What a model thinks aloud before it answers, told from the answer. Knows text only."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

from ..contracts.errors import BadArgument
from ..contracts.near import did_you_mean
from .ir import Concat, Expr, Gen


class Split(NamedTuple):
    reasoning: str
    answer: str


@dataclass(frozen=True)
class Reasoning:
    """How a family of models marks it. `is_open`: the prompt has begun it already, so the text starts inside."""

    begin: str
    end: str
    is_open: bool = False

    def split(self, text: str, *, is_whole: bool = True) -> Split:
        """Of a text that still grows, only what will stay: both parts of it begin those of the whole."""
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
        return Split(thought.strip(), before + after.lstrip())


def _without_half(text: str, mark: str) -> str:
    """`text` without an end that `mark` may begin with."""
    for n in range(min(len(mark) - 1, len(text)), 0, -1):
        if mark.startswith(text[-n:]):
            return text[:-n]
    return text


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
    "nano_v3": _THINKING,
    "qwen3": _THINK,
    "qwen3-thinking": _THINKING,
    "step3": _THINKING,
}


def separated(expr: Expr, model_type: str | None) -> Expr:
    """`expr` whose gens tell reasoning from answer."""
    reasoning = MODEL_TYPES.get(model_type.lower()) if isinstance(model_type, str) else None
    if reasoning is None:
        raise BadArgument(f"model_type {model_type!r} is unknown", hint=did_you_mean(model_type, MODEL_TYPES))
    found = _with(expr, reasoning)
    if found == expr:
        raise BadArgument("separate_reasoning needs a gen", hint="write separate_reasoning(gen(...), model_type=...)")
    return found


def _with(expr: Expr, reasoning: Reasoning) -> Expr:
    if isinstance(expr, Concat):
        return Concat(tuple(_with(part, reasoning) for part in expr.parts))
    if not isinstance(expr, Gen):
        return expr
    if expr.form is not None:
        raise BadArgument(
            f"gen({expr.name or ''!r}) obeys a constraint from its first character on, so it cannot reason",
            hint="reason in one gen and answer in a second one",
        )
    return replace(expr, reasoning=reasoning)
