"""Programs with one fault each, and programs without one, for the lint of runs.

Each is the body of a `%%sgl` cell. It runs as a cell does, on a lab, without a notebook.
"""

from __future__ import annotations

import builtins
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import sgl_lab as sgl
from sgl_lab.contracts.params import SamplingParams
from sgl_lab.lang import surface
from sgl_lab.lang.sampling import given
from sgl_lab.lang.state import start, state_here
from sgl_lab.magics import body as bodies
from sgl_lab.magics.cell import LANGUAGE
from sgl_lab.magics.prepared import append
from sgl_lab.trace import Record
from sgl_lab.viz.lint import lint
from sgl_lab.viz.lint.finding import Finding

RULES = """You answer questions of the guests of a small hotel by the sea. Breakfast is from seven to ten, in the room with the blue \
door. The beach is five minutes down the stairs. Towels are changed every second day."""


@dataclass(frozen=True)
class Planted:
    """`body` begins on line 2 of its cell. `line` is that of the fault; `code` is empty without one.

    runs  what the notebook's names are in each run: the last run is the one that is judged
    """

    body: str
    code: str = ""
    line: int | None = None
    runs: tuple[Mapping[str, Any], ...] = field(default=({},))
    bodies: tuple[str, ...] = ()
    """of earlier cells, if they are others"""
    defaults: Mapping[str, Any] = field(default_factory=lambda: {"max_new_tokens": 2})


def recorded(lab: sgl.Lab, source: str, names: Mapping[str, Any], defaults: Mapping[str, Any]) -> Record:
    """The record of one cell. What the cell raises is in it."""
    code = bodies.compile_cell(source, "<cell>", LANGUAGE, keeps_last=False)
    with lab.record("In[1]", f"%%sgl\n{source}") as record:
        state = start(lab.backend, lab.emit, record.run, SamplingParams(**given({"temperature": 0.0} | dict(defaults))))
        helpers = {bodies.APPEND: append, bodies.STATE: state, bodies.HERE: partial(state_here, state)}
        with state.running():
            code.run({"sgl": sgl, "RULES": RULES, "__builtins__": vars(builtins), **names}, {**surface.bound(state), **helpers})
            state.finish()
    return record


def run(lab: sgl.Lab, planted: Planted, *, is_measured: bool = True) -> tuple[tuple[Finding, ...], Record]:
    """The findings of the last run, and its record. The cache is empty before the first."""
    lab.flush()
    lab.records = ()
    for earlier in planted.bodies:
        recorded(lab, earlier, planted.runs[0], planted.defaults)
    for names in planted.runs:
        record = recorded(lab, planted.body, names, planted.defaults)
    found = lint(record, lab.records[:-1], spell=lab.spell, measures=lab.measures() if is_measured else None)
    return found, record


EXAMPLES = ["Review: The cake was dry. Mood: bad", "Review: Lovely view. Mood: good", "Review: The waiter was rude. Mood: bad"]


class Guest:
    """An object whose text is its address."""


def _two(first: Any, last: Any, name: str = "x") -> tuple[Mapping[str, Any], ...]:
    return {name: first}, {name: last}


def _planted(code: str, body: str, line: int | None, **others: Any) -> Planted:
    return Planted(body, code, line, **others)


SPACE, MARKER, STOP = "white-space", "typed-marker", "stop-cannot-occur"
CHANGING, ORDER, NEAR, UNUSED = "changing-text", "example-order", "near-prefix", "unused-variable"
LONG = {"max_new_tokens": 2}

PLANTED: dict[str, Planted] = {
    "a space before a gen": _planted(SPACE, 's += "The capital of France is "\ngen("a", heal=False)', 3),
    "a space before a gen in a turn": _planted(
        SPACE, 'user("Name a city.")\nassistant("The city is called " + gen("city", heal=False))', 3
    ),
    "a tab before a gen": _planted(SPACE, 's += "name:\\t"\ngen("a", heal=False)', 3),
    "a space before a select": _planted(SPACE, 's += "The sky is "\nselect("c", ["blue", "green"], heal=False)', 3),
    "a space in one of two gens": _planted(
        SPACE, 's += "One and one is"\ngen("a", heal=False)\ns += ", two and two is "\ngen("b", heal=False)', 5
    ),
    "a turn typed as text": _planted(MARKER, 'user("<|im_start|>user Hello there")\nassistant(gen("a"))', 2),
    "an end of turn typed as text": _planted(MARKER, 'system("Be brief.<|im_end|>")\nuser("Hi")\nassistant(gen("a"))', 2),
    "another model's marker": _planted(MARKER, 's += "[INST] Say hello. [/INST] Now"\ngen("a")', None),
    "a marker of Gemma": _planted(MARKER, 'user("<start_of_turn>Tell me a joke.")\nassistant(gen("a"))', 2),
    "a label of the answer in a turn": _planted(MARKER, 'user("How are you?\\nAssistant:")\nassistant(gen("a"))', 2),
    "a marker in a value": _planted(MARKER, 'user(f"Read this: {page}")\nassistant(gen("a"))', 0, runs=({"page": "hi<|im_end|>"},)),
    "a beginning of text typed as text": _planted(MARKER, 's += "<|endoftext|>Once upon a time"\ngen("a")', 2),
    "a stop behind a shorter one": _planted(STOP, 's += "- one\\n- two\\n- three\\n-"\ngen("a", max_tokens=16, stop=["\\n", "\\n\\n"])', 3),
    "a stop behind its beginning": _planted(STOP, 's += "a, b, c, d,"\ngen("a", max_tokens=8, stop=[",", ", e"])', 3),
    "a stop outside of a pattern": _planted(STOP, 's += "The year is"\ngen("a", regex=" [0-9]{2}", stop="END", max_tokens=8)', 3),
    "a stop outside of letters": _planted(STOP, 's += "A word:"\ngen("a", regex=" [a-z]{3}", stop="\\n", max_tokens=8)', 3),
    "a stop outside of choices in a pattern": _planted(
        STOP, 'user("Yes or no?")\nassistant(gen("a", regex="yes|no", stop=".", max_tokens=8))', 3
    ),
    "a stop that the template has": _planted("stop-in-template", 'user("Hi")\nassistant(gen("a", stop="<|im_end|>"))', 3),
    "a stop that begins a marker": _planted("stop-in-template", 'user("Hi")\nassistant(gen("a", stop="<|im_end", max_tokens=30))', 3),
    "a stop inside a pattern": _planted(
        "stop-in-template", 's += "A date:"\ngen("a", regex=" [0-9]{2}-[0-9]{2}", stop="-", max_tokens=12)', 3
    ),
    "a stop inside a schema": _planted(
        "stop-in-template",
        'user("A person?")\nassistant(gen("a", json_schema={"type": "object", "properties": {"n": {"type": "boolean"}}, '
        '"required": ["n"]}, stop=":", max_tokens=24))',
        3,
    ),
    "a stop that begins the answer": _planted("stop-in-template", 's += "Items:\\n- one\\n- two\\n-"\ngen("a", stop=" ", max_tokens=8)', 3),
    "cut by the default limit": _planted(
        "cut", 'user("Write a long story about a lighthouse, with many details.")\nassistant(gen("a", ignore_eos=True))', 3, defaults={}
    ),
    "cut before a stop": _planted("cut", 's += "Count: 1, 2, 3,"\ngen("a", max_tokens=4, stop="THE END")', 3),
    "cut before one of two stops": _planted("cut", 's += "Count: 1, 2, 3,"\ngen("a", max_tokens=4, stop=["###", "@@@"])', 3),
    "a schema that does not fit": _planted(
        "unfit-constraint",
        'user("A recipe?")\nassistant(gen("r", json_schema={"type": "object", "properties": {"ingredients": {"type": "string"}, '
        '"minutes": {"type": "integer"}}, "required": ["ingredients", "minutes"]}, max_tokens=4))',
        3,
    ),
    "a pattern that does not fit": _planted("unfit-constraint", 's += "Serial:"\ngen("a", regex="([A-Z][0-9]){12}", max_tokens=6)', 3),
    "equal samples": _planted("equal-samples", 'user("A colour?")\nassistant(gen("a", n=3, temperature=0, max_tokens=3))', 3),
    "equal samples by the run's temperature": _planted("equal-samples", 's += "A colour:"\ngen("a", n=2, max_tokens=3)', 3),
    "a value that changes": _planted(
        CHANGING, 'system(f"It is {x}. {RULES}")\nuser("Breakfast?")\nassistant(gen("a"))', 2, runs=_two("Monday, 9:15", "Tuesday, 18:40")
    ),
    "an id that changes": _planted(
        CHANGING, 'system("Session " + x + ". " + RULES)\nuser("Dogs?")\nassistant(gen("a"))', 2, runs=_two("a81f3c", "77b0e2")
    ),
    "a value that changes without turns": _planted(
        CHANGING, 's += f"Ticket {x}. " + RULES + " Question: breakfast? Answer:"\ngen("a")', 2, runs=_two("4411", "9027")
    ),
    "a clock": _planted(
        CHANGING, 'import datetime\nsystem(f"It is {datetime.datetime.now()}. {RULES}")\nuser("Breakfast?")\nassistant(gen("a"))', 3
    ),
    "a clock in a variable": _planted(
        CHANGING, 'import time\nnow = time.strftime("%H:%M:%S")\nsystem(f"Now: {now}. {RULES}")\nuser("Bus?")\nassistant(gen("a"))', 4
    ),
    "a uuid": _planted(CHANGING, 'from uuid import uuid4\nsystem(f"Request {uuid4()}. {RULES}")\nuser("Bus?")\nassistant(gen("a"))', 3),
    "a random value": _planted(
        CHANGING, 'import random\nsystem(f"Lucky number {random.randint(1, 9**9)}. {RULES}")\nuser("Bus?")\nassistant(gen("a"))', 3
    ),
    "the order of a set": _planted(
        CHANGING, 'tags = {"sea", "hotel", "dogs"}\nsystem(f"Topics: {\', \'.join(tags)}. {RULES}")\nuser("Bus?")\nassistant(gen("a"))', 3
    ),
    "a set itself": _planted(
        CHANGING, 'words = set("sea hotel dogs".split())\nsystem(f"Topics are {words}. {RULES}")\nuser("Bus?")\nassistant(gen("a"))', 3
    ),
    "the address of an object": _planted(
        "object-address", 'user(f"The guest is {guest}. What do we offer?")\nassistant(gen("a"))', 2, runs=({"guest": Guest()},)
    ),
    "the address of a function": _planted(
        "object-address", 'user(f"Use {len.__class__} or {help_me}.")\nassistant(gen("a"))', None, runs=({"help_me": run},)
    ),
    "examples in another order": _planted(
        ORDER,
        's += "\\n".join(examples) + "\\nReview: Great tea. Mood:"\ngen("a")',
        None,
        runs=_two(EXAMPLES, EXAMPLES[::-1], "examples"),
    ),
    "examples in another order in turns": _planted(
        ORDER,
        'system("Judge.\\n" + "\\n".join(examples))\nuser("Great tea.")\nassistant(gen("a"))',
        None,
        runs=_two(EXAMPLES, [EXAMPLES[1], EXAMPLES[0], EXAMPLES[2]], "examples"),
    ),
    "examples shuffled for each question": _planted(
        ORDER,
        'for question, order in zip(["Great tea.", "Cold soup."], [examples, examples[::-1]]):\n'
        '    part = fork(1)[0]\n    part += "\\n".join(order) + f"\\nReview: {question} Mood:" + gen("a")',
        None,
        runs=({"examples": EXAMPLES},),
    ),
    "two spaces for one": _planted(
        NEAR,
        'system("You  are a clerk. " + RULES)\nuser("Bus?")\nassistant(gen("a"))',
        2,
        bodies=('system("You are a clerk. " + RULES)\nuser("Bus?")\nassistant(gen("a"))',),
    ),
    "a newline for a space": _planted(
        NEAR,
        'system("You are a clerk.\\n" + RULES)\nuser("Bus?")\nassistant(gen("a"))',
        2,
        bodies=('system("You are a clerk. " + RULES)\nuser("Bus?")\nassistant(gen("a"))',),
    ),
    "a value with a newline at its end": _planted(
        NEAR, 'system(f"Dear {x}, {RULES}")\nuser("Bus?")\nassistant(gen("a"))', 2, runs=_two("Ida", "Ida\n")
    ),
    "a string without its f": _planted(UNUSED, 'city = "Rome"\nuser("Name a sight in {city}.")\nassistant(gen("a"))', 3),
    "an argument that is never read": _planted(
        UNUSED,
        '@sgl.function\ndef ask(s, question):\n    s += sgl.user("Answer the question.") + sgl.assistant(sgl.gen("a"))\n'
        'ask.run(question="Why?", max_new_tokens=2, temperature=0)',
        3,
    ),
    "a loop that asks the same": _planted(
        UNUSED, 'for city in ["Rome", "Oslo"]:\n    user("Name a sight in the city.")\n    assistant(gen("a"))', 2
    ),
    "forks that ask the same": _planted(
        UNUSED,
        'tips = fork(2)\nfor tip, topic in zip(tips, ["food", "money"]):\n    tip += user("One tip?") + assistant(gen("a"))',
        3,
    ),
}


def _clean(body: str, **others: Any) -> Planted:
    return Planted(body, **others)


CHAT = 'user("Hi")\nassistant(gen("a"))'

CLEAN: dict[str, Planted] = {
    "a chat": _clean(CHAT),
    "text": _clean('s += "The capital of France is"\ngen("a")'),
    "text without healing": _clean('s += "The capital of France is"\ngen("a", heal=False)'),
    "a space that is healed": _clean('s += "The capital of France is "\ngen("a")'),
    "a space that is healed in a turn": _clean('user("When?")\nassistant("It was built in " + gen("a", regex="1[0-9]{3}", max_tokens=6))'),
    "a space that choices take": _clean('s += "The sky is "\nselect("c", ["blue", "green"])'),
    "a newline before a gen": _clean('s += "Answer:\\n"\ngen("a", heal=False)'),
    "a space at the end of a turn": _clean('user("Hi ")\nassistant(gen("a", heal=False))'),
    "a space before another text": _clean('s += "One "\ns += "two three"\ngen("a", heal=False)'),
    "samples that differ": _clean('user("A colour?")\nassistant(gen("a", n=2, temperature=1.0, seed=1))'),
    "one sample at temperature 0": _clean('user("A colour?")\nassistant(gen("a", n=1, temperature=0))'),
    "a stop that comes": _clean('s += "- one\\n- two\\n- three\\n-"\ngen("a", max_tokens=16, stop="\\n")'),
    "two stops": _clean('s += "a, b, c, d,"\ngen("a", max_tokens=8, stop=[",", "."])'),
    "a limit that the program sets": _clean('user("Tell me a story.")\nassistant(gen("a", max_tokens=4))'),
    "a limit that the run sets": _clean('user("Tell me a story.")\nassistant(gen("a"))', defaults={"max_new_tokens": 3}),
    "a pattern that fits": _clean('s += "Year:"\ngen("a", regex=" [0-9]{4}", max_tokens=12)'),
    "a schema that is completed in time": _clean(
        'user("Things?")\nassistant(gen("a", json_schema={"type": "array", "items": {"type": "string"}}, max_tokens=12))'
    ),
    "a pattern with a stop that it has": _clean('s += "Words:"\ngen("a", regex="[a-z ]+[.]?", stop=".", max_tokens=40)'),
    "a number": _clean('s += "Two and two is"\ngen("a", dtype=int, max_tokens=6)'),
    "forks with a topic each": _clean(
        'tips = fork(2)\nfor tip, topic in zip(tips, ["food", "money"]):\n    tip += user(f"A tip on {topic}?") + assistant(gen("a"))'
    ),
    "a loop that repeats on purpose": _clean('for _ in range(2):\n    user("Another?")\n    assistant(gen("a"))'),
    "a numbered loop": _clean('for i in range(2):\n    user("Another?")\n    assistant(gen("a"))'),
    "a value that changes at the end": _clean(
        'system(RULES)\nuser(f"It is {x}. Breakfast?")\nassistant(gen("a"))', runs=_two("Monday, 9:15", "Tuesday, 18:40")
    ),
    "a value that stays": _clean('system(f"It is {x}. " + RULES)\nuser("Breakfast?")\nassistant(gen("a"))', runs=_two("Monday", "Monday")),
    "an edited cell": _clean(
        'system("It is Tuesday. " + RULES)\nuser("Bus?")\nassistant(gen("a"))',
        bodies=('system("It is Monday. " + RULES)\nuser("Bus?")\nassistant(gen("a"))',),
    ),
    "a clock at the end": _clean(
        'import datetime\nsystem(RULES)\nuser(f"It is {datetime.datetime.now():%H:%M}. Bus?")\nassistant(gen("a"))'
    ),
    "a clock beside the prompt": _clean(f'import time\nbegan = time.time()\nlabel = f"began at {{began}}"\n{CHAT}'),
    "a uuid at the end": _clean('from uuid import uuid4\nsystem(RULES)\nuser(f"Request {uuid4()}")\nassistant(gen("a"))'),
    "a set in order": _clean(
        'tags = {"sea", "hotel"}\nsystem(f"Topics: {\', \'.join(sorted(tags))}. {RULES}")\nuser("Bus?")\nassistant(gen("a"))'
    ),
    "a set that is counted": _clean('tags = {"sea", "hotel"}\nsystem(f"There are {len(tags)} topics. {RULES}")\n' + CHAT),
    "braces of JSON": _clean('user("Answer as {\\"name\\": \\"...\\"} and {city}.")\nassistant(gen("a"))'),
    "a string that is formatted": _clean('city = "Rome"\nuser("A sight in {city}?".format(city=city))\nassistant(gen("a"))'),
    "struck text": _clean('user("<s>Old</s> <b>new</b> [1] <|> x |> f")\nassistant(gen("a"))'),
    "labels without turns": _clean('s += "User: Hello\\nAssistant:"\ngen("a")'),
    "a label inside a sentence": _clean('user("Who is the Assistant: you or me?")\nassistant(gen("a"))'),
    "a number in hexadecimal": _clean('user("What is 0x7f3a9c2b1d40 in <decimal at base 10>?")\nassistant(gen("a"))'),
    "arguments that are read": _clean(
        '@sgl.function\ndef ask(s, question, _hint=""):\n    s += sgl.user(question) + sgl.assistant(sgl.gen("a"))\n'
        'ask.run(question="Why?", max_new_tokens=2, temperature=0)'
    ),
    "a batch": _clean(
        '@sgl.function\ndef ask(s, city):\n    s += sgl.user(f"A sight in {city}?") + sgl.assistant(sgl.gen("a"))\n'
        'ask.run_batch([{"city": "Rome"}, {"city": "Oslo"}], max_new_tokens=2, temperature=0, progress_bar=False)'
    ),
    "examples in one order": _clean(
        'parts = fork(2)\nfor part, question in zip(parts, ["Great tea.", "Cold soup."]):\n'
        '    part += "\\n".join(examples) + f"\\nReview: {question} Mood:" + gen("a")',
        runs=({"examples": EXAMPLES},) * 2,
    ),
    "white space at the end of a prompt": _clean(
        'system(RULES)\nuser("When  is it?")\nassistant(gen("a"))',
        bodies=('system(RULES)\nuser("When is it?")\nassistant(gen("a"))',),
    ),
    "two cells on two subjects": _clean(
        'system("You are a poet.")\nuser("Rain?")\nassistant(gen("a"))', bodies=('system(RULES)\nuser("Bus?")\nassistant(gen("a"))',)
    ),
    "a longer talk": _clean('user("Hi")\nassistant(gen("a"))\nuser("And?")\nassistant(gen("b"))', runs=({}, {})),
    "an answer that steers": _clean('user("Hi")\nassistant(gen("a", temperature=1.0))\nuser(RULES)\nassistant(gen("b"))', runs=({}, {})),
    "only log-probabilities": _clean('s += "The sky is "\ngen("a", max_tokens=0, return_logprob=True)'),
    "text without a request": _clean('s += "Nothing is asked. "'),
}
