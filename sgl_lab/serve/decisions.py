"""Decisions: many questions over one state, each answered by the probabilities of its labels; no
text is generated.

OpenAI's `/v1/decisions` and the open `/v1/systemone` are two spellings of it. All questions of a
request are one score job: the state is the prompt that they share, so it is computed once, or found
in the cache, and the questions with their labels are a trie below it.

The prompt asks for a letter (Yes or No; a number beyond 26 options), as `transformers serve` does.
"""

from __future__ import annotations

import json
import math
import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, cast

from ..contracts.errors import BackendUnsupported, BadArgument
from ..contracts.json_values import Json
from ..contracts.port import Message, ScoreJob, ScoreOutput, Usage
from ..contracts.prefixes import n_common
from ..contracts.tools import ToolStyle
from . import messages, tools
from .fields import Fields
from .openai_chat import HARMLESS
from .parsed import Answer, Model, ParsedRequest

MAX_QUESTIONS = 400
MAX_CHOICES = 255
MAX_LABELS = 8192
"""of one request"""


@dataclass(frozen=True, slots=True)
class Question:
    """`options` are (name, description) pairs; empty for a question that is true or false."""

    instructions: str
    options: tuple[tuple[str, str], ...]
    noun: str
    answer: Callable[[Sequence[float]], dict[str, object]]
    """from the probabilities of its labels, in order"""
    meanings: tuple[str, str] = ("", "")
    """of true and false"""

    @property
    def labels(self) -> Sequence[str]:
        if not self.options:
            return ("Yes", "No")
        n = len(self.options)
        return string.ascii_uppercase[:n] if n <= len(string.ascii_uppercase) else tuple(str(1 + i) for i in range(n))

    @property
    def text(self) -> str:
        labels = self.labels
        if not self.options:
            meant = [f"{label}: {meaning}" for label, meaning in zip(labels, self.meanings, strict=True) if meaning]
            return "\n".join(filter(None, (self.instructions, *meant, "Answer Yes or No only.")))
        lines = [
            f"{label}. {name}: {about}" if about else f"{label}. {name}" for label, (name, about) in zip(labels, self.options, strict=True)
        ]
        kind = "letter" if labels[0] == "A" else "number"
        closing = f"Answer with the {kind} of the {self.noun} that fits best ({labels[0]} to {labels[-1]}) only."
        return "\n".join(filter(None, (self.instructions, *lines, closing)))


def job_of(model: Model, turns: Sequence[Message], questions: Sequence[Question]) -> tuple[ScoreJob, list[list[int]]]:
    """One job for all questions, and for each the number of tokens of each label."""
    if sum(len(question.labels) for question in questions) > MAX_LABELS:
        raise BadArgument(f"the questions have more than {MAX_LABELS} options together", hint="send several requests")
    prompts = [model.encode_chat(_asking(turns, question.text)) for question in questions]
    n_shared = len(prompts[0])
    for prompt in prompts[1:]:
        n_shared = min(n_shared, n_common(prompts[0], prompt))
    choices: list[tuple[int, ...]] = []
    sizes: list[list[int]] = []
    for question, prompt in zip(questions, prompts, strict=True):
        labels = [model.backend.encode(label) + (model.turn_end if len(question.options) > 26 else ()) for label in question.labels]
        choices += [prompt[n_shared:] + label for label in labels]
        sizes.append([len(label) for label in labels])
    return ScoreJob(prompts[0][:n_shared], tuple(choices)), sizes


def _asking(turns: Sequence[Message], question: str) -> list[Message]:
    """The conversation with the question at its end: after the state, which stays the same."""
    *before, last = turns
    if last.role == "user":
        return [*before, Message("user", f"{last.content}\n\n{question}")]
    return [*turns, Message("user", question)]


class Decided:
    """The probabilities, question by question."""

    def __init__(
        self, questions: Sequence[Question], sizes: Sequence[Sequence[int]], spell: Callable[[list[dict[str, object]], Usage], object]
    ) -> None:
        self._questions = questions
        self._sizes = sizes
        self._spell = spell

    def whole(self, answers: Sequence[Answer]) -> object:
        output = cast(ScoreOutput, answers[0])
        rows = iter(output.logprobs)
        found = []
        for question, sizes in zip(self._questions, self._sizes, strict=True):
            sums = [math.fsum(entry.logprob or 0.0 for entry in row[-size:]) for size, row in zip(sizes, rows, strict=False)]
            found.append(question.answer(_softmax(sums)))
        return self._spell(found, output.usage)

    def opening(self) -> bytes:
        return b""

    def piece(self, piece: object) -> bytes:
        return b""

    def closing(self, answers: Sequence[Answer]) -> bytes:
        return b""


def _softmax(values: Sequence[float]) -> list[float]:
    most = max(values)
    weights = [math.exp(value - most) for value in values]
    total = math.fsum(weights)
    return [weight / total for weight in weights]


class Likeliest(NamedTuple):
    best: int
    confidence: float
    """0 where all options are as likely, 1 where one is certain"""


def _choice(probabilities: Sequence[float]) -> Likeliest:
    n = len(probabilities)
    best = max(range(n), key=probabilities.__getitem__)
    return Likeliest(best, 1.0 if n == 1 else max(0.0, (probabilities[best] - 1 / n) / (1 - 1 / n)))


def _score(probabilities: Sequence[float]) -> tuple[float, float]:
    """The expected level, counted from 0, and the confidence."""
    n = len(probabilities)
    best = max(range(n), key=probabilities.__getitem__)
    distance = math.fsum(p * abs(level - best) for level, p in enumerate(probabilities))
    uniform = math.fsum(abs(level - (n - 1) / 2) for level in range(n)) / n
    confidence = 1.0 if n == 1 else max(0.0, 1 - distance / uniform)
    return math.fsum(level * p for level, p in enumerate(probabilities)), confidence


# ---------------------------------------------------------------- OpenAI


def read(model: Model, fields: Fields) -> ParsedRequest:
    """`POST /v1/decisions`."""
    given = fields.items("questions")
    if not 1 <= len(given) <= MAX_QUESTIONS:
        raise BadArgument(f"there are {len(given)} questions", hint=f"ask 1 to {MAX_QUESTIONS}")
    questions = [_question(Fields(one, f"questions[{i}].")) for i, one in enumerate(given)]
    turns = _input(fields.any("input"), model.card.tool_style)
    fields.ignore(*HARMLESS)
    job, sizes = job_of(model, turns, questions)

    def spell(answers: list[dict[str, object]], usage: Usage) -> object:
        counts = {
            "input_tokens": usage.prompt_tokens,
            "input_tokens_details": {"cached_tokens": usage.cached_tokens, "cache_write_tokens": 0},
            "output_tokens": 0,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": usage.prompt_tokens,
        }
        return {"answers": answers, "model": model.name, "usage": counts}

    return ParsedRequest((job,), Decided(questions, sizes, spell))


def _parts(given: Json, where: str) -> str:
    """Text and JSON parts."""
    if isinstance(given, list):
        given = [
            {"type": "text", "text": json.dumps(part.get("data"), ensure_ascii=False)}
            if isinstance(part, dict) and part.get("type") == "input_json"
            else part
            for part in given
        ]
    return messages.text_of(given, where)


def _input(given: Json, style: ToolStyle | None) -> list[Message]:
    if isinstance(given, str):
        return [Message("user", given)]
    if not isinstance(given, list) or not given:
        raise BadArgument(f"input must be a string or a list of messages, not {given!r:.60}")
    found = []
    for i, one in enumerate(given):
        where = f"input[{i}]."
        item = Fields(one, where)
        match kind := item.text("type") or "message":
            case "message":
                role = messages.ROLES.get(name := item.needed("role"))
                if role is None:
                    raise BadArgument(f"{where}role cannot be {name!r:.40}")
                found.append(Message(role, _parts(item.any("content"), f"{where}content")))
            case "function_call" | "custom_tool_call":
                arguments = item.text("arguments") or json.dumps(item.any("input") or {})
                found.append(Message("assistant", tools.spelled_call(item.needed("name"), arguments, style)))
            case "function_call_output" | "custom_tool_call_output":
                found.append(Message("tool", _parts(item.any("output"), f"{where}output")))
            case _:
                raise BackendUnsupported(f"{where}type {kind!r:.40} is not supported here", hint="send messages and function calls")
    return found


def _question(fields: Fields) -> Question:
    kind, name = fields.needed("type"), fields.text("name")
    instructions = _parts(fields.any("instructions"), "instructions")
    if not instructions:
        raise BadArgument("a question has no instructions", hint="say what is to be decided")
    match kind:
        case "predicate":
            fields.done()
            return Question(instructions, (), "", lambda p: {"type": "predicate", "name": name, "probability": p[0]})
        case "choice":
            choices = [Fields(one, "choices.") for one in fields.items("choices")]
            values = [each.any("value") for each in choices]
            if not 2 <= len(values) <= MAX_CHOICES or not all(isinstance(value, str | bool) for value in values):
                raise BadArgument(f"a choice has 2 to {MAX_CHOICES} choices whose values are strings or booleans, not {values!r:.60}")
            if len({(type(value), value) for value in values}) < len(values):
                raise BadArgument("the values of a choice must differ")
            options = tuple((str(value), each.text("description") or "") for value, each in zip(values, choices, strict=True))

            def chosen(p: Sequence[float]) -> dict[str, object]:
                best, confidence = _choice(p)
                listed = [{"value": value, "probability": each} for value, each in zip(values, p, strict=True)]
                return {"type": "choice", "name": name, "choice": values[best], "confidence": confidence, "probabilities": listed}

            fields.done()
            return Question(instructions, options, "option", chosen)
        case "score":
            levels = [Fields(one, "levels.") for one in fields.items("levels")]
            if not 2 <= len(levels) <= MAX_CHOICES:
                raise BadArgument(f"a score has 2 to {MAX_CHOICES} levels, not {len(levels)}")
            options = tuple((each.needed("label"), each.text("description") or "") for each in levels)

            def rated(p: Sequence[float]) -> dict[str, object]:
                score, confidence = _score(p)
                listed = [{"label": options[i][0], "value": i, "probability": each} for i, each in enumerate(p)]
                return {"type": "score", "name": name, "score": score, "confidence": confidence, "probabilities": listed}

            fields.done()
            return Question(instructions, options, "level", rated)
        case _:
            raise BadArgument(f"a question cannot be of type {kind!r:.40}", hint="it is a predicate, choice or score")


# ---------------------------------------------------------------- System One


def read_systemone(model: Model, fields: Fields) -> ParsedRequest:
    """`POST /v1/systemone`."""
    given = fields.any("questions")
    if not isinstance(given, dict) or not 1 <= len(given) <= MAX_QUESTIONS:
        raise BadArgument(f"questions must map 1 to {MAX_QUESTIONS} names to questions, not {given!r:.60}")
    state = fields.any("state")
    if not isinstance(state, str | dict | list):
        raise BadArgument("state is missing", hint="it is a string, an object or a list")
    fields.only("assets", {})
    names = list(given)
    questions = [_typed(Fields(one, f"questions.{name}.")) for name, one in given.items()]
    job, sizes = job_of(model, [Message("user", _spelled(state))], questions)

    def spell(answers: list[dict[str, object]], usage: Usage) -> object:
        counts = {"input_tokens": usage.prompt_tokens, "output_tokens": 0, "cached_tokens": usage.cached_tokens}
        return {"model": model.name, "answers": dict(zip(names, answers, strict=True)), "usage": counts}

    return ParsedRequest((job,), Decided(questions, sizes, spell))


def _spelled(value: Json) -> str:
    return value if isinstance(value, str) else "" if value is None else json.dumps(value, ensure_ascii=False)


def _typed(fields: Fields) -> Question:
    kind, instructions, criteria = fields.needed("type"), _spelled(fields.any("instructions")), fields.any("criteria")
    fields.done()
    match kind:
        case "noul":
            if criteria is not None and not (isinstance(criteria, dict) and criteria.keys() <= {"true", "false"}):
                raise BadArgument("the criteria of a noul say what true and false mean")
            meant = criteria or {}
            meanings = _spelled(meant.get("true")), _spelled(meant.get("false"))
            return Question(instructions, (), "", lambda p: {"type": "noul", "noul": p[0]}, meanings)
        case "choice":
            if not isinstance(criteria, dict) or not 1 <= len(criteria) <= MAX_CHOICES:
                raise BadArgument(f"the criteria of a choice map 1 to {MAX_CHOICES} names to what they mean")
            options = tuple((name, _spelled(about)) for name, about in criteria.items())

            def chosen(p: Sequence[float]) -> dict[str, object]:
                best, confidence = _choice(p)
                listed = {name: each for (name, _), each in zip(options, p, strict=True)}
                return {"type": "choice", "choice": options[best][0], "confidence": confidence, "probabilities": listed}

            return Question(instructions, options, "option", chosen)
        case "score":
            if not isinstance(criteria, list) or not 1 <= len(criteria) <= MAX_CHOICES:
                raise BadArgument(f"the criteria of a score are a list of 1 to {MAX_CHOICES} levels")
            levels = tuple((_spelled(level), "") for level in criteria)

            def rated(p: Sequence[float]) -> dict[str, object]:
                score, confidence = _score(p)
                legend = {str(i): level for i, level in enumerate(criteria)}
                listed = {str(i): each for i, each in enumerate(p)}
                return {"type": "score", "score": score, "legend": legend, "confidence": confidence, "probabilities": listed}

            return Question(instructions, levels, "level", rated)
        case _:
            raise BadArgument(f"a question cannot be of type {kind!r:.40}", hint="it is a noul, choice or score")
