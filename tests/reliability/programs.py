"""Random programs of the language, and what every request of theirs got, to the bit."""

from __future__ import annotations

import math
import random
import struct
import threading
from collections.abc import Sequence
from typing import Any

import sgl_lab as sgl
from sgl_lab.contracts.port import Backend, GenJob, GenOutput, ScoreJob, ScoreOutput, TokenLogprob, Usage

WORDS = ["tide", "flat", "bird", "rose", "sand", "gull", "reed", "moon", "salt", "boat", "kelp", "dune", "wave", "crab", "foam", "pier"]
FORMS: list[dict[str, Any]] = [
    {"regex": "(tide|flat): [a-z]{2,9}( and [a-z]{2,9})*"},
    {"regex": "[0-9]{1,3}[.]"},
    {"json_schema": {"type": "array", "items": {"type": "string"}, "minItems": 1}},
    {
        "json_schema": {
            "type": "object",
            "properties": {"bird": {"type": "string", "maxLength": 12}, "n": {"type": "integer", "maximum": 99}, "at": {"enum": WORDS}},
            "required": ["bird", "n", "at"],
            "additionalProperties": False,
        }
    },
]
Key = tuple[Any, ...]


@sgl.function
def program(s: sgl.ProgramState, number: int) -> None:
    """Turns, forks in forks, choices and samples; the same for the same number."""
    draw = random.Random(number)
    s += phrase(draw, 12)
    for turn in range(draw.randrange(2, 4)):
        act(s, draw, f"{turn}", 0)
    s += phrase(draw, 2) + sgl.gen("last", **sampling(draw))


def act(s: sgl.ProgramState, draw: random.Random, name: str, depth: int) -> None:
    s += phrase(draw, 4)
    kind = draw.choice(("gen", "gen", "form", "samples", "select", "fork") if depth < 2 else ("gen", "form", "select"))
    match kind:
        case "gen":
            s += sgl.gen(name, **sampling(draw))
        case "form":
            s += sgl.gen(name, **sampling(draw) | draw.choice(FORMS) | {"max_tokens": draw.choice((3, 12, 40))})
        case "samples":
            s += sgl.gen(name, n=2, **sampling(draw))
        case "select":
            words = draw.sample(WORDS, 2)
            s += sgl.select(name, choices=[*words, f"{words[0]} {draw.choice(WORDS)}"])
        case _:
            forks = s.fork(draw.randrange(2, 4))
            for i, fork in enumerate(forks):
                act(fork, random.Random(draw.random()), f"{name}.{i}", depth + 1)
            forks.join(draw.choice(("gather_variable", "concate_and_append")))


def phrase(draw: random.Random, n_words: int) -> str:
    return " ".join(draw.choices(WORDS, k=draw.randrange(1, n_words + 1))) + draw.choice((". ", "? ", " "))


def sampling(draw: random.Random) -> dict[str, Any]:
    """Arguments of a gen that says all of itself: a seed too, since without one the engine draws it."""
    chosen: dict[str, Any] = {
        "max_tokens": draw.choice((1, 2, 3, 5, 8, 20)),
        "temperature": draw.choice((0, 0, 0.7, 1.2)),
        "seed": draw.randrange(1000),
        "ignore_eos": draw.random() < 0.5,
        "return_logprob": True,
        "top_logprobs_num": draw.choice((0, 3)),
    }
    extra: dict[str, Any] = {
        "stop": [draw.choice("aeiou"), "ab"],
        "top_p": 0.8,
        "top_k": 7,
        "min_p": 0.05,
        "frequency_penalty": 0.7,
        "presence_penalty": -0.4,
        "logit_bias": {draw.randrange(90): 3.0},
    }
    for argument in draw.sample(sorted(extra), draw.randrange(3)):
        chosen[argument] = extra[argument]
    return chosen


class Recorder:
    """A backend in front of another that keeps what every request got. Requests that are alike must get the same."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._lock = threading.Lock()
        self.jobs: dict[Key, GenJob | ScoreJob] = {}
        self.got: dict[Key, bytes] = {}
        self.outputs: dict[Key, GenOutput] = {}
        """of gens of one sample"""
        self.unlike: list[Key] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def submit(self, job: GenJob, listener: Any) -> Any:
        return self._backend.submit(job, _Tap(self, (job.prompt, job.params), job, listener))

    def score(self, job: ScoreJob, listener: Any) -> Any:
        return self._backend.score(job, _Tap(self, (job.prompt, job.choices), job, listener))

    def keep(self, key: Key, job: GenJob | ScoreJob, answer: Any) -> None:
        with self._lock:
            bits = answer_bits(answer)
            if self.got.setdefault(key, bits) != bits:
                self.unlike.append(key)
            self.jobs[key] = job
            if isinstance(answer, tuple) and len(answer) == 1:
                self.outputs[key] = answer[0]


class _Tap:
    def __init__(self, recorder: Recorder, key: Key, job: GenJob | ScoreJob, listener: Any) -> None:
        self._recorder, self._key, self._job, self._listener = recorder, key, job, listener

    def on_progress(self, index: int, text: str, ids: tuple[int, ...]) -> None:
        self._listener.on_progress(index, text, ids)

    def on_done(self, answer: Any) -> None:
        self._recorder.keep(self._key, self._job, answer)
        self._listener.on_done(answer)

    def on_error(self, error: Exception) -> None:
        self._listener.on_error(error)


def answer_bits(answer: tuple[GenOutput, ...] | ScoreOutput | Usage) -> bytes:
    match answer:
        case ScoreOutput():
            return b"".join(_logprob_bits(row) for row in answer.logprobs)
        case Usage():
            return b""
        case _:
            return b"|".join(
                repr((output.ids, output.text, output.finish_reason, output.is_complete)).encode() + _logprob_bits(output.logprobs)
                for output in answer
            )


def _logprob_bits(entries: Sequence[TokenLogprob]) -> bytes:
    flat = [(entry.token, entry.logprob) for entry in entries] + [pair for entry in entries for pair in entry.top]
    return b"".join(struct.pack("<qd", token, math.nan if logprob is None else logprob) for token, logprob in flat)
