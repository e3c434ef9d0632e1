"""The loads that every engine runs, and which part of them is timed. Standard library only: peers
run this in their own environments.

A load consists of token ids only, so it can be sent as JSON. `run` executes it on an engine that
has none of its tokens in its cache: each repetition has its own ids, and `reset` is called before
it if the cache can be cleared.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

Ids = list[int]


class Engine(Protocol):
    """Greedy, ignoring end-of-sequence, with exactly the requested number of tokens. `matching`
    ends when the form is complete.
    """

    version: str
    has_cache: bool
    """whether a repeated prompt costs less"""

    def gen(self, prompts: list[Ids], n_new: int) -> list[Ids]:
        """Exactly `n_new` tokens after each prompt. All prompts are submitted at once."""

    def select(self, prompts: list[Ids], choices: Ids) -> Ids:
        """The likeliest of `choices`, which are single tokens, after each prompt."""

    def matching(self, prompts: list[Ids], form: Form, n_most: int) -> list[Ids]:
        """A text of the form after each prompt, without end-of-sequence. NotImplementedError if the
        engine has no constraints.
        """

    def reset(self) -> None:
        """Clear the prefix cache, if that is possible."""


@dataclass(frozen=True)
class Form:
    """The form of a whole text, in the two notations that engines accept."""

    regex: str
    gbnf: str


@dataclass(frozen=True)
class Answer:
    """The tokens after a prompt. `choices` are the allowed tokens, if not all."""

    prompt: Ids
    tokens: Ids
    choices: Ids | None = None
    regex: str | None = None
    """the pattern that its text had to match"""


@dataclass(frozen=True)
class Sample:
    seconds: float
    answers: list[Answer] = field(default_factory=list)


@dataclass(frozen=True)
class Decode:
    """From the first new token of all prompts to their last: a long generation minus a short one."""

    prompts: list[Ids]
    n_new: int

    def run(self, engine: Engine) -> Sample:
        short = timed(engine.gen, self.prompts, 1)
        if engine.has_cache:
            short = timed(engine.gen, self.prompts, 1)
        whole = timed(engine.gen, self.prompts, 1 + self.n_new)
        return Sample(whole.seconds - short.seconds, answered(self.prompts, whole.result))


@dataclass(frozen=True)
class Prefill:
    """A prompt that is not cached, to its first token."""

    prompt: Ids

    def run(self, engine: Engine) -> Sample:
        done = timed(engine.gen, [self.prompt], 1)
        return Sample(done.seconds, answered([self.prompt], done.result))


@dataclass(frozen=True)
class FirstToken:
    """A prompt whose beginning has just been computed, to its first token."""

    prefix: Ids
    tail: Ids

    def run(self, engine: Engine) -> Sample:
        engine.gen([self.prefix], 1)
        prompt = self.prefix + self.tail
        done = timed(engine.gen, [prompt], 1)
        return Sample(done.seconds, answered([prompt], done.result))


@dataclass(frozen=True)
class Questions:
    """W1: questions on one prefix, each answered by the likeliest of a few tokens."""

    prefix: Ids
    questions: list[Ids]
    choices: Ids

    def run(self, engine: Engine) -> Sample:
        prompts = [self.prefix + question for question in self.questions]
        done = timed(engine.select, prompts, self.choices)
        return Sample(done.seconds, [Answer(prompt, [token], self.choices) for prompt, token in zip(prompts, done.result, strict=True)])


@dataclass(frozen=True)
class Forks:
    """W2: plans that fork from one root, then a short verdict on each."""

    root: Ids
    forks: list[Ids]
    n_plan: int
    judge: Ids
    n_verdict: int

    def run(self, engine: Engine) -> Sample:
        prompts = [self.root + fork for fork in self.forks]
        plans = timed(engine.gen, prompts, self.n_plan)
        judged = [prompt + plan + self.judge for prompt, plan in zip(prompts, plans.result, strict=True)]
        verdicts = timed(engine.gen, judged, self.n_verdict)
        return Sample(plans.seconds + verdicts.seconds, answered(prompts, plans.result) + answered(judged, verdicts.result))


@dataclass(frozen=True)
class Records:
    """W3: a record of a given form after each of several documents."""

    prompts: list[Ids]
    form: Form
    n_most: int

    def run(self, engine: Engine) -> Sample:
        done = timed(engine.matching, self.prompts, self.form, self.n_most)
        return Sample(done.seconds, [Answer(*one, regex=self.form.regex) for one in zip(self.prompts, done.result, strict=True)])


@dataclass(frozen=True)
class Chats:
    """W4: conversations in lockstep. Each turn's prompt is the whole conversation so far, including
    replies.
    """

    system: Ids
    turns: list[list[Ids]]
    """[conversation][turn]: the user's text, including markup"""
    n_reply: int
    end: Ids
    """markup after a reply"""

    def run(self, engine: Engine) -> Sample:
        histories = [self.system for _ in self.turns]
        seconds, answers = 0.0, []
        for users in zip(*self.turns, strict=True):
            prompts = [history + user for history, user in zip(histories, users, strict=True)]
            replies = timed(engine.gen, prompts, self.n_reply)
            histories = [prompt + reply + self.end for prompt, reply in zip(prompts, replies.result, strict=True)]
            seconds += replies.seconds
            answers += answered(prompts, replies.result)
        return Sample(seconds, answers)


Load = Decode | Prefill | FirstToken | Questions | Forks | Records | Chats
KINDS: dict[str, type[Any]] = {kind.__name__: kind for kind in Load.__args__}


def to_json(load: Load) -> dict[str, Any]:
    return {"kind": type(load).__name__} | asdict(load)


def from_json(data: dict[str, Any]) -> Load:
    fields = dict(data)
    kind = KINDS[fields.pop("kind")]
    if kind is Records:
        fields["form"] = Form(**fields["form"])
    load: Load = kind(**fields)
    return load


@dataclass(frozen=True)
class Timed:
    seconds: float
    result: Any


def timed(function: Callable[..., Any], *arguments: Any) -> Timed:
    started = time.perf_counter()
    result = function(*arguments)
    return Timed(time.perf_counter() - started, result)


def answered(prompts: list[Ids], outputs: list[Ids]) -> list[Answer]:
    return [Answer(prompt, tokens) for prompt, tokens in zip(prompts, outputs, strict=True)]


# ------------------------------------------------------------ for adapters

LONG = 256
"""length in tokens from which on it pays to compute a shared prefix before its users"""


def common_prefix(prompts: list[Ids]) -> Ids:
    """os.path.commonprefix for token ids."""
    low, high = min(prompts), max(prompts)
    n = next((i for i, (a, b) in enumerate(zip(low, high, strict=False)) if a != b), min(len(low), len(high)))
    return low[:n]


def likeliest(engine: Engine, prompts: list[Ids], choices: Ids) -> Ids:
    """For engines that cannot score selected tokens: the next token, whichever it is. That is less
    work, never more.
    """
    return [tokens[0] if tokens[0] in choices else choices[0] for tokens in engine.gen(prompts, 1)]


def first_alone(run: Callable[..., list[Ids]], prompts: list[Ids], n_new: int, **options: Any) -> list[Ids]:
    """For engines that cache only finished requests: a long common prefix runs first, so that it is
    computed once.
    """
    shared = common_prefix([ids[:-1] for ids in prompts])
    if len(prompts) > 1 and len(shared) >= LONG:
        run([shared], 1, **options)
    return run(prompts, n_new, **options)
