"""The magics without IPython: options, bodies, completion."""

from __future__ import annotations

import asyncio
import random
import re
import traceback
from collections.abc import AsyncIterator, Sequence
from functools import partial
from pathlib import Path

import pytest

import sgl_lab
from sgl_lab.contracts.events import CellStarted, Entry, ExprFinished, ForkOpened
from sgl_lab.contracts.ids import ExprId, ForkId, RunId
from sgl_lab.magics import _inside
from sgl_lab.magics.body import APPEND, HERE, STATE, TEXT, compile_cell, compile_function, documenting, is_silenced, leading_blank_lines
from sgl_lab.magics.commands.command import Command, Words
from sgl_lab.magics.commands.whatif import POLICIES
from sgl_lab.magics.complete import words_for
from sgl_lab.magics.errors import user_frames
from sgl_lab.magics.line import COMMANDS as COMMANDS_OF_LINE
from sgl_lab.magics.line import line_help, run_line, words
from sgl_lab.magics.options import CELL_OPTIONS, MAX_KNOWN, VIEWS, CellOptions, OptionError, cell_help, nearest, parse_cell
from sgl_lab.magics.session import Session
from sgl_lab.trace import Record


def test_every_option_reaches_its_field() -> None:
    parsed = parse_cell("answer << -o st -m m --temperature 0.5 --max-tokens=12 --seed 3 --deterministic --view tree,tokens --bg --save f")
    assert parsed == CellOptions(
        out="st",
        capture="answer",
        model="m",
        temperature=0.5,
        max_tokens=12,
        seed=3,
        deterministic=True,
        view=("tree", "tokens"),
        bg=True,
        save="f",
    )
    assert parse_cell('--def tip(topic, k="a b)")').define == 'tip(topic, k="a b)")'
    assert parse_cell("") == CellOptions()
    assert parse_cell("").views == VIEWS
    assert parse_cell("--view none").views == ()
    assert parse_cell("--def tip").define == "tip()"


@pytest.mark.parametrize(
    ("line", "controls"),
    [
        ("--interact x=1..3", {"x": (1, 2, 3)}),
        ("-o st --interact x=0..10:5 --seed 1", {"x": (0, 5, 10)}),
        ("--interact=x=-1..1", {"x": (-1, 0, 1)}),
        ("--interact temperature=0..1:0.5", {"temperature": (0.0, 0.5, 1.0)}),
        ("--interact y=0.0..1", {"y": tuple(n / 10 for n in range(11))}),
        ("""--interact style=["a b", 'c]'] max-tokens=[8,16] --view none""", {"style": ("a b", "c]"), "max_tokens": (8, 16)}),
        ("--interact on=[True, None]", {"on": (True, None)}),
    ],
)
def test_controls_are_ranges_and_lists(line: str, controls: dict[str, tuple[object, ...]]) -> None:
    parsed = parse_cell(line)
    assert {control.name: control.values for control in parsed.interact} == controls
    assert (parsed.seed is not None, parsed.out is not None) == ("--seed" in line, "-o" in line)


def test_the_page_receives_values_as_text_with_a_mark_for_numbers() -> None:
    (control,) = parse_cell("--interact x=[1, 'a', True]").interact
    values = [{"text": "1", "number": True}, {"text": "a", "number": False}, {"text": "True", "number": False}]
    assert control.described(2) == {"name": "x", "index": 2, "values": values}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--temprature 0", "did you mean '--temperature'?"),
        ("--view tre", "did you mean 'tree'?"),
        ("--bogus 1", "known: "),
        ("--seed many", "--seed cannot be 'many'"),
        ("--temperature -1", "--temperature cannot be '-1'"),
        ("--temperature nan", "--temperature cannot be 'nan'"),
        ("--max-tokens 0", "--max-tokens cannot be '0'"),
        ("-o 1a", "-o cannot be '1a'"),
        ("-o class", "-o cannot be 'class'"),
        ("-o __builtins__", "-o cannot be '__builtins__'"),
        ("-o In", "that Python and IPython do not use"),
        ("__name__ <<", "NAME << cannot be '__name__'"),
        ("--def __import__(a)", "--def cannot be '__import__'"),
        ("--interact __builtins__=1..2", "--interact cannot be '__builtins__'"),
        ("--force", "--force needs --save"),
        ("poem", "takes options only"),
        ("--seed", "--seed needs a value"),
        ("--deterministic=yes", "--deterministic takes no value, not 'yes'"),
        ("--seed 1 --seed 2", "given twice"),
        ("--def tip(a", "never closed"),
        ("-o 'a", "cannot read the options"),
        ("--def tip(a) --temperature 0", "--temperature applies to a run"),
        ("--seed 1 --def tip", "run it with tip.run(...)"),
        ("-o st --def tip", "--out applies to a run"),
        ("x << --def tip", "no value to capture"),
        ("--def tip(a) -> str", "no return annotation"),
        ("--interact", "needs a value"),
        ("--interact x", "--interact cannot be 'x'"),
        ("--interact x=1..y", "--interact x cannot be '1..y'"),
        ("--interact x=5..1", "has 0 values"),
        ("--interact x=1..1000000000000", "values"),
        ("--interact x=[f()]", "--interact x cannot be"),
        ("--interact x=[", "--interact"),
        ("--interact x=1..2 x=3..4", "x is given twice"),
        ("--interact temperature=-1..1", "--interact temperature cannot be '-1.0'"),
        ("--interact view=['tree']", "cannot control view"),
        ("--interact x=1..2 --bg", "leave --bg out"),
        ("--seed 1 --interact seed=1..3", "--seed is given"),
        ("--def tip --interact x=1..2", "--interact applies to a run"),
    ],
)
def test_a_wrong_option_is_one_line_with_a_way_out(line: str, message: str) -> None:
    with pytest.raises(OptionError) as caught:
        parse_cell(line)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_mutated_lines_are_parsed_or_refused_in_one_line() -> None:
    draw = random.Random(3)
    lines = [
        "answer << -o st --temperature 0.5 --max-tokens=12 --view tree,tokens --bg --save 'a b'",
        '--def tip(topic, k="a b)")',
        """--interact x=1..5 style=["a", 'b'] temperature=0..1 -m smollm2 --seed 3""",
    ]
    n_refused = 0
    for _ in range(2000):
        line = list(draw.choice(lines))
        for _ in range(draw.randint(1, 5)):
            at = draw.randrange(len(line))
            line[at : at + draw.randint(0, 2)] = draw.choices("=-.[]\"'() \t\\,x19:é\x00\u2028", k=draw.randint(0, 3))
        try:
            parse_cell("".join(line).replace("\n", " "))
        except OptionError as error:
            assert "\n" not in str(error)  # noqa: PT017  what is refused is counted below
            n_refused += 1
    assert 500 < n_refused < 2000


def test_help_names_every_option() -> None:
    for flag in [*(", ".join(option.flags) for option in CELL_OPTIONS), "NAME <<"]:
        assert flag in cell_help()


RESULT = "the result"


def run(source: str, notebook: dict[str, object] | None = None, **words: object) -> tuple[list[object], dict[str, object]]:
    """The values that reached the append hook, those written as text in <>, and the notebook's names afterwards."""
    seen: list[object] = []

    def append(state: object, value: object, kind: str = "") -> object:
        seen.append(f"<{value}>" if kind == TEXT else value)
        return value

    names = {} if notebook is None else notebook
    words = {"s": None, APPEND: append, STATE: None, HERE: lambda: None, **words}
    names[RESULT] = compile_cell(source, "<cell>", words.keys()).run(names, words)
    return seen, names


def test_bare_expressions_are_appended_wherever_they_stand_and_the_last_is_the_result() -> None:
    seen, names = run("1\nfor i in (2, 3):\n    i\nif True:\n    x = 9\n    with open('/dev/null'):\n        x\nx + 1")
    assert seen == [1, 2, 3, 9, 10]
    assert names[RESULT] == 10


def test_bodies_of_classes_and_docstrings_stay_as_they_are() -> None:
    seen, names = run("class C:\n    'says'\n    2\ndef f():\n    'documents'\n    return 4\nlambda: 1\nf()\ny = 3")
    assert seen[1:] == [4]
    assert (names[RESULT], names["y"]) == (None, 3)


@pytest.mark.parametrize(
    ("body", "seen"),
    [
        ('"The answer is: "\n"a" "b"\n1', ["<The answer is: >", "<ab>", 1]),
        ('"""A docstring, it seems."""\nf"{1 + 1}"\n0', ["<A docstring, it seems.>", "<2>", 0]),
        ('for n in range(2):\n    if n:\n        f"{n}"\n    else:\n        "none"\n', ["<none>", "<1>"]),
        ('try:\n    "a"\nfinally:\n    "b"', ["<a>", "<b>"]),
        ('def ask(q):\n    f"Q: {q}"\n    "A: "\nask(1)\nask(2);0', ["<Q: 1>", "<A: >", None, "<Q: 2>", "<A: >", None, 0]),
        ('class C:\n    def ask(self):\n        1\n        "A: "\nC().ask()', [1, "<A: >", None]),
        (
            'x = "b"\n"a" + x\nx + "c"\nx * 2 + f"{x}"\n"%s" % x\n"{}!".format(x)\n"a" if x else x\n0',
            ["<ab>", "<bc>", "<bbb>", "<b>", "<b!>", "<a>", 0],
        ),
        ('x = "b"\nx\nb"c"\nx + x\n0', ["b", b"c", "bb", 0]),
        ('"only"', ["only"]),
    ],
)
def test_text_that_is_written_out_alone_is_appended_but_for_the_last_expression(body: str, seen: list[object]) -> None:
    assert run(body)[0] == seen


def test_a_silenced_last_expression_is_a_statement_like_others() -> None:
    appended: list[tuple[object, ...]] = []
    words = {"s": None, APPEND: lambda *given: appended.append(given), STATE: "s", HERE: None}
    assert compile_cell("1\n'text';", "<cell>", keeps_last=False).run({}, words) is None
    assert appended == [("s", 1), ("s", "text", TEXT)]


def test_a_function_appends_to_its_own_s_or_to_the_program_that_calls_it() -> None:
    appended: list[tuple[object, ...]] = []
    words = {"s": "cell", APPEND: lambda state, value, kind="": appended.append((state, value)), STATE: "cell", HERE: lambda: "caller"}
    body = "def own(s):\n    f'a'\ndef other():\n    f'b'\nclass C:\n    def own(self, *, s):\n        1\n"
    body += "x = own('its'), other(), C().own(s='at')"
    compile_cell(body, "<cell>").run({}, words)
    assert appended == [("its", "a"), ("caller", "b"), ("at", 1)]


def test_a_documenting_string_of_a_function_that_appends_is_reported() -> None:
    assert documenting('def f(q):\n    """Asks."""\n    user(q)\ndef g():\n    """Adds."""\n    print(1)', {"user"}) == [3]
    assert documenting('def f(q):\n    f"{q}"\n"x"', {"user"}) == []


@pytest.mark.parametrize(
    ("body", "left"),
    [
        ("x = 1; y: int = 2; z: str", {"x": 1, "y": 2}),
        ("old += 1", {"old": 8}),
        ("def f(): return late\nlate = 3\ng = f()", {"late": 3, "g": 3}),
        ("import math as m, os.path\nfrom math import floor\na = m.floor(2.5), floor(1.5), os.sep", {"a": (2, 1, "/")}),
        ("from math import *\na = floor(old)", {"a": 7}),
        ("(a, *b), c = (1, 2, 3), 4", {"a": 1, "b": [2, 3], "c": 4}),
        ("squares = [i * i for i in range(3)]\n[w := i for i in range(3)]", {"squares": [0, 1, 4], "w": 2}),
        ("for i, old in enumerate('ab'):\n    last = i, old", {"last": (1, "b"), "old": 7}),
        ("n = old\nfor old in 'ab': pass", {"n": 7, "old": 7}),
        ("global i\nfor i in range(3): pass", {"i": 2}),
        ("for i in range(3): pass\ni = 'own'", {"i": "own"}),
        ("for id in [id('x')]: a = isinstance(id, int)", {"a": True}),
        ("with open('/dev/null') as f: pass\na = f.closed", {"a": True}),
        ("try:\n    1 / 0\nexcept ZeroDivisionError as e:\n    a = str(e)", {"a": "division by zero"}),
        ("match [1, {'k': 2, 'r': 3}]:\n    case [a, {'k': b, **c}]: pass", {"a": 1, "b": 2, "c": {"r": 3}}),
        ("from __future__ import annotations\nx: Unknown = 1", {"x": 1}),
        ("def f():\n    global count\n    count = 1\nf()", {"count": 1}),
        ("s = 5\nword = s", {"word": 5}),
        ("word = 5\nif word: word += 1", {"word": 6}),
        ("if 0: word = 1\na = word", {"a": "the language's"}),
        ("for word in 'ab': a = word", {"a": "b"}),
        ("del old\na = 'old' in globals()", {"a": False}),
        ("a = 1\ndel a", {}),
        ("class C: x = [word for _ in range(1)]\na = C.x, C.__qualname__", {"a": (["the language's"], "C")}),
        ("with_s = [each for each in 'ab' if s is None]", {"with_s": ["a", "b"]}),
    ],
)
def test_what_a_body_assigns_is_the_notebooks_but_s_and_variables_of_loops(body: str, left: dict[str, object]) -> None:
    names = run(body, {"old": 7}, word="the language's")[1]
    kept = {name: value for name, value in names.items() if not callable(value) and name not in (RESULT, "__builtins__", "m", "os", "f")}
    assert kept.items() >= left.items()
    assert ("old" in names) == ("del old" not in body)
    assert {"s", STATE, APPEND}.isdisjoint(names)


def test_what_was_assigned_before_an_error_stays() -> None:
    names: dict[str, object] = {}
    with pytest.raises(ZeroDivisionError):
        run("x = 1\nword = 2\n1 / 0", names, word="the language's")
    assert (names["x"], names["word"]) == (1, 2)


@pytest.mark.parametrize("body", ["return 1", "yield 1", "nonlocal x", "x = 1\nglobal x", "def f():\n    nonlocal x", "break"])
def test_what_python_forbids_in_a_cell_is_forbidden_here(body: str) -> None:
    with pytest.raises(SyntaxError) as here:
        compile_cell(body, "<cell>")
    with pytest.raises(SyntaxError) as there:
        compile("\n" + body, "<cell>", "exec")
    assert (here.value.msg, here.value.lineno) == (there.value.msg, there.value.lineno)


def test_lines_are_counted_from_the_magic() -> None:
    with pytest.raises(ZeroDivisionError) as caught:
        run("a = 1\n1 / 0")
    assert [frame.lineno for frame in traceback.extract_tb(caught.tb) if frame.filename == "<cell>"] == [3]
    with pytest.raises(SyntaxError) as wrong:
        compile_cell("a = 1\nb = = 2", "<cell>")
    assert wrong.value.lineno == 3


def test_a_body_may_use_s_for_something_else() -> None:
    seen: list[object] = []
    names: dict[str, object] = {}
    words = {APPEND: lambda state, value: seen.append((state, value)), STATE: "the state", HERE: None, "s": "the state"}
    compile_cell("for s in 'ab':\n    s", "<cell>").run(names, words)
    assert seen == [("the state", "a"), ("the state", "b")]
    names[APPEND] = words[APPEND]
    name, code = compile_function("for s in 'cd':\n    s", "<cell>", "f()", {})
    exec(code, names)
    names[name]("another")  # type: ignore[operator]
    assert seen[2:] == [("another", "c"), ("another", "d")]


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("x = await later(2)\nawait later(x)", 2),
        ("[y async for y in count()]", [0, 1]),
        ("out = []\nasync for y in count():\n    out.append(y)\nout", [0, 1]),
        ("async with timeout(5):\n    z = 3\nz", 3),
        ("sum([await later(n) for n in (1, 2)])", 3),
    ],
)
def test_a_body_that_awaits_is_a_coroutine(body: str, expected: object) -> None:
    async def later(value: object) -> object:
        return value

    async def count() -> AsyncIterator[int]:
        for n in range(2):
            yield n

    names: dict[str, object] = {"later": later, "count": count, "timeout": asyncio.timeout, APPEND: lambda state, value, kind="": value}
    code = compile_cell(body, "<cell>")
    assert code.awaits
    assert asyncio.run(code.run(names, {"s": None, APPEND: names[APPEND], STATE: None, HERE: None})) == expected
    name, code = compile_function(body, "<cell>", "f()", {})
    exec(code, names)
    assert asyncio.run(names[name](None)) == expected  # type: ignore[operator]


def test_a_body_that_does_not_await_is_no_coroutine() -> None:
    assert run("async def f():\n    await g()\n1")[1][RESULT] == 1


def test_blank_lines_that_ipython_cuts_off_are_counted() -> None:
    assert leading_blank_lines("\n \n\n  x = 1\n\n") == "\n\n\n"
    assert leading_blank_lines("x = 1\n") == ""


def test_def_makes_a_function_of_the_state() -> None:
    name, code = compile_function(
        "gen(topic)\nfork(k)\nlen(topic)", "<cell>", "tip(topic, k=3)", {"fork": "s.fork", "gen": "language.gen", "select": "oops"}
    )

    class State:
        def fork(self, n: int) -> str:
            return f"{n} forks"

    class Language:
        @staticmethod
        def gen(topic: str) -> str:
            return "gen " + topic

    seen: list[object] = []

    def append(state: object, value: object, kind: str = "") -> object:
        seen.append(value)
        return value

    names: dict[str, object] = {APPEND: append, "language": Language}
    exec(code, names)
    assert names[name](State(), "tea") == 3  # type: ignore[operator]
    assert seen == ["gen tea", "3 forks", 3]


def test_def_leaves_names_alone_that_the_body_assigns() -> None:
    name, code = compile_function("fork = 5\nfork", "<cell>", "f()", {"fork": "s.fork"})
    names: dict[str, object] = {APPEND: lambda state, value, kind="": value}
    exec(code, names)
    assert names[name](None) == 5  # type: ignore[operator]


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("def inner():\n    gen = 1\n    return gen\ninner(), gen", (1, "the language's")),
        ("def inner():\n    return gen\ninner()", "the language's"),
        ("def gen():\n    return 2\ngen()", 2),
        ("[gen for gen in (3,)], gen", ([3], "the language's")),
        ("import math as gen\ngen.floor(4.5)", 4),
        ("global gen\ngen = 5\ngen", 5),
        ("try:\n    1 / 0\nexcept ZeroDivisionError as gen:\n    pass\n6", 6),
        ("lambda gen: gen\n(lambda: gen)()", "the language's"),
    ],
)
def test_def_binds_a_name_of_the_language_unless_the_function_itself_makes_it(body: str, expected: object) -> None:
    name, code = compile_function(body, "<cell>", "f()", {"gen": "words['gen']"})
    names: dict[str, object] = {APPEND: lambda state, value, kind="": value, "words": {"gen": "the language's"}}
    exec(code, names)
    assert names[name](None) == expected  # type: ignore[operator]


def test_def_appends_a_string_at_the_beginning_and_is_documented_by_it() -> None:
    name, code = compile_function('"""What it does."""\n1', "<cell>", "f()", {})
    seen: list[object] = []
    names: dict[str, object] = {APPEND: lambda state, value, kind="": seen.append(value) or value}
    exec(code, names)
    assert names[name].__doc__ == "What it does."
    assert names[name](None) == 1  # type: ignore[operator]
    assert seen == ["What it does.", 1]


@pytest.mark.parametrize("signature", ["f(s)", "f(a", "f(): pass; x", "1f()", "f() -> int: return 1\nx("])
def test_a_malformed_signature_is_refused(signature: str) -> None:
    with pytest.raises(OptionError):
        compile_function("1", "<cell>", signature, {})


@pytest.mark.parametrize(
    ("source", "silenced"), [("1;", True), ("1", False), ("1;  # done", True), ("'a;'", False), ("x = 1;\n\n", True), ("(", False)]
)
def test_a_semicolon_silences(source: str, silenced: bool) -> None:
    assert is_silenced(source) == silenced


COMMANDS = {"tree": ("--text",), "timeline": (), "status": (), "model": ("smollm2",), "tokens": ("3", "fork 1")}


def following(before: Sequence[str]) -> tuple[str, ...]:
    return COMMANDS[before[0]] if before else tuple(COMMANDS)


@pytest.mark.parametrize(
    ("text", "fragment", "candidate", "alone"),
    [
        ("%%sgl --te", "--te", "--temperature", True),
        ("%%sgl --view tr", "tr", "tree", True),
        ("%%sgl --view tokens,ti", "ti", "timeline", True),
        ("%%sgl --view=tr", "tr", "tree", True),
        ("%%sgl --deterministic --s", "--s", "--seed", True),
        ("%%sgl --deterministic ", "", "--seed", True),
        ("%%sgl --view=tokens,ti", "ti", "timeline", True),
        ("%%time\n%%sgl --te", "--te", "--temperature", True),
        ("%sgl model smo", "smo", "smollm2", True),
        ("%sgl st", "st", "status", True),
        ('%sgl tokens "old run" ', "", '"fork 1"', True),
        ('%sgl tokens "old run" "fork ', '"fork ', '"fork 1"', True),
        ("x = 1\n%sgl tree --", "--", "--text", True),
        ("jobs = %sgl tree --", "--", "--text", True),
        ("%sgl model --views smo,smo", "smo", "smollm2", True),
        ("%%sgl\nuser('x')\nsel", "sel", "select", False),
    ],
)
def test_completion_offers_what_may_stand_there(text: str, fragment: str, candidate: str, alone: bool) -> None:
    found, words, only = words_for(text, following, ("gen", "select"))
    assert (found, only) == (fragment, alone)
    assert candidate in [word for word in words if word.startswith(found)]


@pytest.mark.parametrize(
    ("text", "fragment", "candidate"),
    [
        ('%%sgl\nassistant(gen("a", max_', "max_", "max_tokens="),
        ('%%sgl\nassistant(select("a", ', "", "choices="),
        ("%%sgl\nparts = fork(", "", "size="),
        ("%%sgl\ns.", "", "fork"),
        ("%%sgl\nprint(s.ge", "ge", "get_meta_info"),
    ],
)
def test_parameters_and_members_of_the_language_are_offered_in_a_body(text: str, fragment: str, candidate: str) -> None:
    found, offered, alone = words_for(text, following, ("gen", "select"), _inside)
    assert (found, alone) == (fragment, False)
    assert candidate in offered
    assert words_for("%%sgl\nother.", following, ("gen",), _inside)[1] == words_for("%%sgl\nprint(", following, ("gen",), _inside)[1] == ()


@pytest.mark.parametrize("text", ["x = st", "%%sgl\nobject.ge", "%%time\nsel", "%%sgl", 'print("%%sgl ', 'x = 1\n"%%sgl --te'])
def test_completion_stays_out_of_other_code(text: str) -> None:
    assert words_for(text, following, ("gen", "select"))[1] == ()


@pytest.mark.parametrize("text", ["%%sgl --temperature ", "%%sgl --temperature=", "%%sgl --seed 1", "%sgl status "])
def test_where_a_value_is_expected_nothing_else_is_offered(text: str) -> None:
    _, words, alone = words_for(text, following, ("gen", "select"))
    assert (words, alone) == ((), True)


def words_of(line: str) -> Words:
    name, *rest = line.split()
    return Command(lambda *_: None, "", 2, {"--text": "", "--tokens": "SIZES"}).read(name, rest)


def test_names_options_and_values_of_a_command_are_distinguished() -> None:
    assert words_of("diff -2 4 --text") == Words(("-2", "4"), {"--text": ""})
    assert words_of("whatif --tokens 64..128").options == words_of("whatif --tokens=64..128").options == {"--tokens": "64..128"}
    assert (words_of("why 3").name(), words_of("why 3").name(1)) == ("3", None)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("diff a b c", "takes 2 names"),
        ("diff --txt", "did you mean '--text'?"),
        ("diff --tokens", "--tokens needs a value: SIZES"),
        ("diff --text=1", "--text takes no value"),
    ],
)
def test_a_command_refuses_what_it_does_not_know_in_one_line(line: str, message: str) -> None:
    with pytest.raises(OptionError) as caught:
        words_of(line)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_every_command_is_in_the_help_and_is_completed() -> None:
    assert words_for("%sgl ", partial(words, Session()), ())[1] == tuple(COMMANDS_OF_LINE)
    for name, command in COMMANDS_OF_LINE.items():
        assert re.search(rf"^  {name} +{re.escape(command.help)}$".replace(r"\ ", r"\s+"), line_help(), re.MULTILINE)
        assert set(command.options) <= set(words_for(f"%sgl {name} ", partial(words, Session()), ())[1]) or name == "model"


def test_no_line_of_the_help_is_longer_than_a_notebook_is_wide() -> None:
    assert max(map(len, (cell_help() + line_help()).splitlines())) <= 98


def test_of_many_names_an_error_lists_the_last() -> None:
    runs = [str(number) for number in range(100)]
    assert str(nearest("zzz", runs, "run")).endswith(f"(known: …, {', '.join(runs[-MAX_KNOWN:])})")
    assert str(nearest("zzz", runs[:3], "run")).endswith("(known: 0, 1, 2)")


@pytest.mark.parametrize("line", ["help why", "why --help", "why -h", "why In[5] --help"])
def test_help_is_given_of_one_command(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    run_line(None, Session(), line)
    appended = capsys.readouterr().out
    assert appended.startswith("why ")
    assert "had computed" in appended
    assert "%sgl COMMAND" not in appended
    with pytest.raises(OptionError, match="did you mean 'why'"):
        run_line(None, Session(), "help whi")


@pytest.mark.parametrize("line", ["-o x", "-b openai", "--budget 0.5 -o y"])
def test_a_line_with_the_options_of_a_cell_points_to_the_cell(line: str) -> None:
    with pytest.raises(OptionError, match=re.escape(f"%%sgl {line}")):
        run_line(None, Session(), line)


def test_a_run_in_which_the_model_answered_nothing_is_not_the_last_one(monkeypatch: pytest.MonkeyPatch) -> None:
    session = Session()
    first, second, slip = (Record(RunId(number)) for number in (1, 2, 3))
    for record, status in ((first, "ok"), (second, "ok"), (slip, "stopped")):
        record.append(Entry(0, 0, CellStarted(record.run, f"In[{record.run}]", "")))
        record.append(Entry(1, 1, ForkOpened(record.run, ForkId(record.run), None, 0, "")))
        record.append(Entry(2, 2, ExprFinished(ForkId(record.run), ExprId(1), status, "")))
    slip.append(Entry(3, 3, ForkOpened(first.run, ForkId(9), None, 0, "")))  # of a background cell
    slip.append(Entry(4, 4, ExprFinished(ForkId(9), ExprId(2), "ok", "")))
    monkeypatch.setattr(session, "runs", lambda: [first, second, slip])
    session.last = slip
    assert (session.run(), session.run("-1"), session.run("-2"), session.run("3")) == (second, second, first, slip)
    monkeypatch.setattr(session, "runs", lambda: [slip])
    assert session.run() is session.run("-1") is slip


def test_after_some_words_of_a_command_only_their_own_are_offered() -> None:
    session = Session()
    session.names["trip"] = RunId(7)
    assert words(session, ["cache", "pin"]) == ("trip",)
    assert words(session, ["jobs", "stop"]) == ("all",)
    assert words(session, ["whatif", "2", "--policy"]) == POLICIES
    assert "pin" in words(session, ["cache"])


def test_a_run_further_back_than_the_first_is_answered_with_the_runs_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    session = Session()
    monkeypatch.setattr(session, "answered", lambda: [Record(RunId(n)) for n in range(3)])
    assert session.run("-3").run == 0
    with pytest.raises(OptionError, match=re.escape("there is no run '-50' (-1 is the last of 3, -3 the first)")):
        session.run("-50")


def test_runs_are_found_by_the_names_that_they_have() -> None:
    session = Session()
    with pytest.raises(OptionError, match="nothing has run yet"):
        session.run()
    with pytest.raises(OptionError, match="there is no run '3'"):
        session.run("3")
    with pytest.raises(OptionError, match=re.escape("there is no run '-1' (run a %%sgl cell first)")):
        session.run("-1")
    session.replayed["old run"] = session.last = Record(RunId(7))
    assert session.run("old run") is session.run() is session.last
    assert session.run_names() == ("old run",)
    assert "old run" in words(session, ["why"])
    for word in ("-1", "-9", "7", "old"):
        with pytest.raises(OptionError):
            session.run(word)


def test_library_frames_between_ours_are_hidden() -> None:
    ours = "from contextlib import ExitStack\nwith ExitStack() as stack:\n    stack.callback(fail)\n"
    with pytest.raises(ZeroDivisionError) as raised:
        exec(compile(ours, sgl_lab.__file__, "exec"), {"fail": partial(divmod, 1, 0)})
    mine = raised.value.__traceback__
    assert mine is not None
    assert mine.tb_next is not None
    assert "contextlib" in "".join(traceback.format_tb(mine))
    assert user_frames(mine.tb_next) is None
    shown = user_frames(mine)
    assert shown is not None
    assert shown.tb_frame.f_code.co_filename == __file__
    assert shown.tb_next is None


def test_the_readme_lists_every_option_and_every_command() -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    options = re.findall(r"^\| `(-[-\w]+)", readme, re.MULTILINE)
    commands = re.findall(r"^\| `%sgl (\w+)", readme, re.MULTILINE)
    assert sorted(options) == sorted(option.flags[0] for option in CELL_OPTIONS)
    assert sorted(commands) == sorted(COMMANDS_OF_LINE)
