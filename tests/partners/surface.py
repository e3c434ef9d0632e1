"""One program of the whole language, feature by feature, and what a backend makes of each.

A feature is a part of the program: it appends, reads, and raises `Differs` if what came is not what
was asked for. `needs` says what a backend has to declare for it. So each backend has a verdict for
each feature: it works, it is refused with a reason, or it differs; and the verdict is held against
the declaration.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import sgl_lab.lang.surface as sgl
from sgl_lab.contracts.capabilities import Capabilities
from sgl_lab.contracts.conversation import AnyBackend
from sgl_lab.contracts.errors import BackendUnsupported, ProgramError, SglError
from sgl_lab.lang.surface import ProgramState, assistant, gen, select, system, user

SYSTEM = "You are a helpful assistant. You answer in one short sentence."
QUESTION = "Which animal says meow?"
SHORT = {"max_tokens": 8}
PIXEL = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de"
    "0000000c4944415478da63f8cfc0000003010100c9fe92ef0000000049454e44ae426082"
)
"""a PNG of one red dot"""


class Differs(Exception):
    """What came is not what was asked for."""


def expect(holds: object, what: str) -> None:
    if not holds:
        raise Differs(what)


@dataclass(frozen=True)
class Feature:
    name: str
    does: Callable[[ProgramState], object]
    needs: Callable[[Capabilities], object] = lambda can: True
    """true of what a backend declares if it offers this"""
    has_roles: bool = True
    """whether it is for backends that take roles, whatever they declare"""


def has_roles(can: Capabilities) -> bool:
    """An API for plain text alone (OpenAI's completions) has no roles; an engine that takes tokens writes them itself."""
    return can.token_ids or not can.plain_text


def ask(s: ProgramState, name: str = "a", question: str = QUESTION, **given: Any) -> str:
    """A question and its answer, in roles."""
    s += user(question) + assistant(gen(name, **({"max_tokens": 8} | given)))
    found: str = s[name]
    return found


# ---------------------------------------------------------------- conversations


def roles(s: ProgramState) -> None:
    expect(ask(s).strip(), "the answer is empty")
    expect([turn["role"] for turn in s.messages()] == ["system", "user", "assistant"], "the turns are others")


def turns(s: ProgramState) -> None:
    first = ask(s)
    second = ask(s, "b", "And which one says moo?")
    expect([turn["content"] for turn in s.messages()][2::2] == [first, second], "a later turn changed an earlier one")


def plain(s: ProgramState) -> None:
    s += "The capital of France is" + gen("a", max_tokens=4)
    expect(s["a"], "the answer is empty")
    expect(s.text().endswith("The capital of France is" + s["a"]), "the text is another")


def begun(s: ProgramState) -> None:
    s += user(QUESTION) + assistant("The animal is a" + gen("a", **SHORT))
    expect(s["a"], "the answer is empty")
    expect(s.messages()[-1]["content"] == "The animal is a" + s["a"], "the turn does not begin as the program began it")


def control(s: ProgramState) -> None:
    words = []
    for question in ("Name a colour.", "Name another one."):
        words.append(ask(s, f"colour {len(words)}", question, max_tokens=6))
        if not words[-1]:
            raise Differs("an answer is empty")
    s += user(f"You said {words[0]} and {words[1]}. Which is darker?") + assistant(gen("darker", max_tokens=6))
    expect(words[1] in s.messages()[-2]["content"] and s["darker"], "a value did not reach the next turn")


def scopes(s: ProgramState) -> None:
    s += user(QUESTION)
    with s.assistant(), s.var_scope("whole"):
        s += gen("a", **SHORT)
    expect(s["whole"] == s["a"], "the scope holds another text than was appended in it")


def forks(s: ProgramState) -> None:
    s += user(QUESTION)
    group = s.fork(2)
    group += lambda index: user(f"Answer number {index}.") + assistant(gen("tip", max_tokens=5))
    group.join()
    expect(len(s["tip"]) == 2 and all(s["tip"]), "join has no answer of each fork")


def texts(s: ProgramState) -> None:
    """Forks without roles."""
    s += "One, two,"
    group = s.fork(2)
    group += [" three," + gen("tip", max_tokens=4), " drei," + gen("tip", max_tokens=4)]
    group.join()
    expect(len(s["tip"]) == 2, "join has no answer of each fork")


@sgl.function
def answered(s: ProgramState, question: str) -> None:
    s += user(question) + assistant(gen("a", max_tokens=6))


def batch(s: ProgramState) -> None:
    states = answered.run_batch([{"question": f"Name animal number {n}."} for n in (1, 2, 3)])
    expect([bool(state["a"]) for state in states] == [True] * 3, "an item has no answer")


def coroutine(s: ProgramState) -> None:
    async def both() -> list[ProgramState]:
        return list(await asyncio.gather(*(answered.run_async(question=f"Name a {what}.") for what in ("tree", "river"))))

    expect(all(state["a"] for state in asyncio.run(both())), "a coroutine has no answer")


_NUMBERS = itertools.count(11)


def streaming(s: ProgramState) -> None:
    # A question that was asked before has its answer drafted from the tree, and may come at once.
    s += user(f"Tell a story of {next(_NUMBERS)} sailors.") + assistant(gen("a", max_tokens=32))
    pieces = list(s.text_iter("a"))
    expect("".join(pieces) == s["a"], "the pieces are not the answer")
    expect(len(pieces) > 1, "the answer came in one piece")


def speculated(s: ProgramState) -> None:
    @sgl.function(num_api_spec_tokens=24)
    def listed(s: ProgramState) -> None:
        s += user("Write two lines, `Name: ...` and `Job: ...`.")
        s += assistant("Name:" + gen("name", stop="\n", max_tokens=8) + "\nJob:" + gen("job", stop="\n", max_tokens=8))

    state = listed.run()
    expect({"name", "job"} <= {name for name in ("name", "job") if name in state} and "\n" not in state["name"], "a variable is missing")


# ---------------------------------------------------------------- sampling


def greedy(s: ProgramState) -> None:
    same = [ask(s.copy(), temperature=0) for _ in range(2)]
    expect(same[0] == same[1], "temperature 0 gave two answers")


def seeded(s: ProgramState) -> None:
    same = [ask(s.copy(), temperature=1.0, seed=7) for _ in range(2)]
    expect(same[0] == same[1], "one seed gave two answers")


def stopped(s: ProgramState) -> None:
    """Stops at a character that the free answer has; where no answer can be repeated, at whatever comes."""
    can = _can(s)
    same = {"temperature": 0} if "temperature" in can.sampling else {}
    free = ask(s.copy(), max_tokens=16, **same)
    stop = next((letter for letter in free[2:] if letter not in free[:2] and letter.isalpha()), "e")
    found = ask(s.copy(), max_tokens=16, stop=stop, **same)
    expect(stop not in found, f"the answer holds its stop {stop!r}")
    if same:
        expect(found == free.partition(stop)[0], f"stopped at {stop!r}, {free!r} became {found!r}")


def limited(s: ProgramState) -> None:
    ask(s, question="Tell me a long story.", max_tokens=3)
    meta = s.get_meta_info("a")
    expect(meta["completion_tokens"] <= 3, f"{meta['completion_tokens']} tokens came, and 3 were allowed")


def samples(s: ProgramState) -> None:
    s += user(QUESTION) + assistant(gen("a", n=2, max_tokens=6, temperature=1.0))
    expect(isinstance(s["a"], list) and len(s["a"]) == 2, "two samples were asked for")


def longer(s: ProgramState) -> None:
    ask(s, question="Say yes.", min_tokens=10, max_tokens=14)
    expect(s.get_meta_info("a")["completion_tokens"] >= 10, "the answer has fewer than min_tokens")


def endless(s: ProgramState) -> None:
    ask(s, question="Say yes.", ignore_eos=True, max_tokens=14)
    expect(s.get_meta_info("a")["completion_tokens"] == 14, "the answer ended before max_tokens")


def pattern(s: ProgramState) -> None:
    expect(not any(letter in "aeiou" for letter in ask(s, stop_regex="[aeiou]")), "the answer holds what stop_regex matches")


def argument(name: str, value: object) -> Feature:
    """A parameter that is accepted: what it does to a distribution is no matter of one answer."""
    return Feature(name, lambda s: ask(s, **{name: value}), lambda can: name in can.sampling)


# ---------------------------------------------------------------- structure


def regex(s: ProgramState) -> None:
    found = ask(s, question="In which year did it begin?", regex="(19|20)[0-9]{2}", max_tokens=8)
    expect(len(found) == 4 and found.isdecimal() and found[:2] in ("19", "20"), f"{found!r} does not match the regex")


SCHEMA = {
    "type": "object",
    "properties": {"animal": {"enum": ["cat", "dog"]}, "legs": {"type": "integer"}},
    "required": ["animal", "legs"],
    "additionalProperties": False,
}


def schema(s: ProgramState) -> None:
    ask(s, question=f"{QUESTION} Answer as JSON with animal and legs.", json_schema=SCHEMA, max_tokens=40)
    found = s.value("a")
    expect(set(found) == {"animal", "legs"} and found["animal"] in ("cat", "dog"), f"{json.dumps(found)} is not of the schema")


def grammar(s: ProgramState) -> None:
    found = ask(s, grammar='start: "cat" | "dog"', max_tokens=8)
    expect(found in ("cat", "dog"), f"{found!r} is not of the grammar")


def typed(s: ProgramState) -> None:
    ask(s, question="How many legs has a cat?", dtype=int, max_tokens=6)
    expect(isinstance(s.value("a"), int), "the value is no int")


def selected(s: ProgramState) -> None:
    s += user(QUESTION) + assistant(select("a", ["cat", "dog", "cow"]))
    expect(s["a"] in ("cat", "dog", "cow"), f"{s['a']!r} is no choice")


def scored(s: ProgramState) -> None:
    s += user(QUESTION) + assistant(select("a", ["cat", "dog"], choices_method=sgl.greedy_token_selection))
    expect(s["a"] in ("cat", "dog"), f"{s['a']!r} is no choice")


def weather(town: Literal["Oslo", "Rome"]) -> str:
    """The weather of a town."""
    return f"{town}: rain"


def tools(s: ProgramState) -> None:
    ask(s, question="What is the weather in Oslo?", tools=[weather], max_tokens=60, execute=True)
    call = s.value("a")
    expect(call.name == "weather" and "rain" in call.result, "no call was made")
    expect(s.messages()[-1]["role"] == "tool", "the result is no turn")
    s += assistant(gen("b", max_tokens=6))
    s["b"]


def image(s: ProgramState) -> None:
    s += user(sgl.image(PIXEL) + "Which colour is this?") + assistant(gen("a", max_tokens=6))
    expect(s["a"], "the answer is empty")


# ---------------------------------------------------------------- what a backend tells


def logprobs(s: ProgramState) -> None:
    ask(s, max_tokens=4, return_logprob=True)
    reported = s.get_meta_info("a")["output_token_logprobs"]
    expect(reported and all(logprob <= 0 for logprob, *_ in reported if logprob is not None), "there are no log-probabilities")


def alternatives(s: ProgramState) -> None:
    ask(s, max_tokens=4, return_logprob=True, top_logprobs_num=2)
    reported = s.get_meta_info("a")["output_top_logprobs"]
    expect(reported and all(len(each) >= 2 for each in reported), "there are no alternatives")


def prompted(s: ProgramState) -> None:
    ask(s, max_tokens=2, return_logprob=True, logprob_start_len=0)
    reported = [logprob for logprob, *_ in s.get_meta_info("a")["input_token_logprobs"] if logprob is not None]
    expect(reported and all(math.isfinite(logprob) for logprob in reported), "there are no log-probabilities of the prompt")


def ids(s: ProgramState) -> None:
    ask(s)
    expect(len(s.token_ids()) > 5, "there are no token ids")


def warmed(s: ProgramState) -> None:
    expect(answered.cache(s._run.backend) > 0, "no prefix was computed")


def counted(s: ProgramState) -> None:
    """The same question again: the server has the prompt, and counts it as cached."""
    long = QUESTION + " Think of a farm with many animals, and of a house with few." * 12
    for _ in range(2):
        again = s.copy()
        ask(again, question=long, max_tokens=2)
    meta = again.get_meta_info("a")
    expect(meta["prompt_tokens"] > 0, "the prompt is not counted")
    if not meta["cached_tokens"] and not _can(s).cached_counts:
        raise BackendUnsupported("it counts no cached tokens")
    expect(meta["cached_tokens"], f"of {meta['prompt_tokens']} prompt tokens that came again, none is counted as cached")


def in_sampling(*names: str) -> Callable[[Capabilities], object]:
    return lambda can: set(names) <= set(can.sampling)


def constrained(kind: str) -> Callable[[Capabilities], object]:
    return lambda can: kind in can.constraints


FEATURES = (
    Feature("system, user and assistant turns", roles),
    Feature("several turns", turns),
    Feature("values in control flow", control),
    Feature("fork and join", forks),
    Feature("var_scope", scopes),
    Feature("run_batch", batch),
    Feature("run_async", coroutine),
    Feature("streamed text", streaming),
    Feature("text outside roles", plain, lambda can: can.plain_text, has_roles=False),
    Feature("forks outside roles", texts, lambda can: can.plain_text, has_roles=False),
    Feature("an answer that the program begins", begun, lambda can: can.continues),
    Feature("num_api_spec_tokens", speculated, lambda can: can.continues and "stop" in can.sampling),
    Feature("max_tokens", limited, in_sampling("max_tokens")),
    Feature("stop", stopped, lambda can: "stop" in can.sampling and can.stops),
    Feature("stop_regex", pattern, in_sampling("stop_regex")),
    Feature("temperature=0", greedy, in_sampling("temperature")),
    Feature("seed", seeded, in_sampling("seed", "temperature")),
    *(argument(*each) for each in (("top_p", 0.9), ("top_k", 5), ("min_p", 0.05), ("frequency_penalty", 0.5), ("presence_penalty", 0.5))),
    Feature("min_tokens", longer, in_sampling("min_tokens")),
    Feature("ignore_eos", endless, in_sampling("ignore_eos")),
    Feature("n=2", samples, lambda can: can.samples > 1 and "temperature" in can.sampling),
    Feature("regex", regex, constrained("regex")),
    Feature("json_schema", schema, constrained("json_schema")),
    Feature("grammar", grammar, constrained("grammar")),
    Feature("dtype=int", typed, constrained("regex")),
    Feature("select", selected, lambda can: can.choices),
    Feature("select by a method", scored, lambda can: can.choices == "scored"),
    Feature("tools", tools, lambda can: can.tools or "json_schema" in can.constraints),
    Feature("image", image, lambda can: can.images),
    Feature("return_logprob", logprobs, lambda can: can.logprobs),
    Feature("top_logprobs_num", alternatives, lambda can: can.top_logprobs >= 2),
    Feature("logprob_start_len", prompted, lambda can: can.prompt_logprobs),
    Feature("token_ids", ids, lambda can: can.token_ids),
    Feature("cache", warmed, lambda can: can.warms),
    Feature("cached tokens counted", counted, lambda can: can.cached_counts),
)


@sgl.function
def surface(s: ProgramState, features: Sequence[Feature]) -> None:
    """The program: each feature in a copy of one beginning."""
    if all(feature.has_roles for feature in features):
        s += system(SYSTEM)
    for feature in features:
        feature.does(s.copy())


def _can(s: ProgramState) -> Capabilities:
    return s._run.backend.describe().capabilities


# ---------------------------------------------------------------- verdicts


@dataclass(frozen=True)
class Verdict:
    """`outcome` is works, refused, differs or fails."""

    outcome: str
    declared: bool
    reason: str = ""

    @property
    def agrees(self) -> bool:
        """Whether it is what the backend declares."""
        return self.outcome == ("works" if self.declared else "refused")

    def __str__(self) -> str:
        wrong = {"works": "works, undeclared", "refused": "refused, though declared"}
        return self.outcome if self.agrees else wrong.get(self.outcome, self.outcome)


def is_declared(feature: Feature, can: Capabilities) -> bool:
    return bool(feature.needs(can)) and (has_roles(can) or not feature.has_roles)


def tried(feature: Feature, backend: AnyBackend) -> Verdict:
    """Run it alone."""
    declared = is_declared(feature, backend.describe().capabilities)
    try:
        state = surface.run([feature], backend=backend)
        state.sync()
    except (BackendUnsupported, ProgramError) as error:
        return Verdict("refused", declared, _line(error))
    except Differs as error:
        return Verdict("differs", declared, str(error))
    except SglError as error:
        return Verdict("fails", declared, _line(error))
    return Verdict("works", declared)


def _line(error: SglError) -> str:
    return str(error).partition("\n")[0]


def tried_all(backend: AnyBackend, features: Sequence[Feature] = FEATURES, *, together: bool = True) -> dict[str, Verdict]:
    """By the feature's name. At the end, with `together`, all that works with roles runs once more, as one program."""
    found = {feature.name: tried(feature, backend) for feature in features}
    whole = [feature for feature in features if found[feature.name].outcome == "works" and feature.has_roles]
    if together and whole:
        once_more = Feature("all of these in one program", lambda s: [feature.does(s.copy()) for feature in whole])
        found[once_more.name] = tried(once_more, backend)
    return found


def table(columns: Mapping[str, Mapping[str, Verdict]]) -> str:
    """Markdown: a row for each feature, a column for each backend; below it the reasons."""
    names = list(dict.fromkeys(name for column in columns.values() for name in column))
    rows = [("feature", *columns), ("---",) * (1 + len(columns))]
    reasons: dict[str, dict[str, list[str]]] = {}
    for name in names:
        cells = []
        for backend, column in columns.items():
            verdict = column.get(name)
            cells.append("" if verdict is None else str(verdict))
            if verdict is not None and verdict.reason:
                reasons.setdefault(verdict.reason, {}).setdefault(name, []).append(backend)
        rows.append((name, *cells))
    lines = [f"| {' | '.join(row)} |" for row in rows]
    notes = [f"* {reason}: {_about(of)}" for reason, of in reasons.items()]
    return "\n".join([*lines, "", *notes]) + "\n"


def _about(features: Mapping[str, Sequence[str]]) -> str:
    """Which features, on which backends."""
    by_backends: dict[str, list[str]] = {}
    for name, backends in features.items():
        by_backends.setdefault(", ".join(backends), []).append(name)
    return "; ".join(f"{', '.join(names)} ({backends})" for backends, names in by_backends.items())
