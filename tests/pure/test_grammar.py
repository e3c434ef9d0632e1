"""What a constraint lets a sample say, and what a bad one is answered."""

from __future__ import annotations

import json
import random
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from sgl_lab.contracts.errors import BackendUnsupported, BadArgument
from sgl_lab.contracts.params import Constraint
from sgl_lab.engine.tools.fake import ByteTokenizer
from sgl_lab.grammar.grammars import Grammars
from sgl_lab.grammar.matcher import Matcher

GRAMMARS = Grammars(ByteTokenizer())


def started(kind: str, source: str, message: str = "") -> Matcher:
    matcher = GRAMMARS.start(Constraint(kind, source))
    for token in message.encode():
        matcher.take(token)
    return matcher


def allowed(matcher: Matcher, draft: bytes = b"") -> list[set[int]]:
    """Tokens that may be drawn next, and after each of `draft`."""
    masks = matcher.masks(len(draft) + 1)
    matcher.fill(tuple(draft))
    found = [{token for token in range(ByteTokenizer.n_vocab) if mask[token // 32] >> token % 32 & 1} for mask in masks]
    assert matcher.n_allowed == [len(tokens) for tokens in found[: len(matcher.n_allowed)]]
    return found[: len(matcher.n_allowed)]


def test_what_may_be_said_is_what_the_pattern_goes_on_with() -> None:
    matcher = started("regex", "a[bc]*d?", "ab")
    assert allowed(matcher) == [{*b"bcd", 256}]
    assert matcher.is_whole
    assert not matcher.is_over
    matcher.take(ord("d"))
    assert matcher.is_over


def test_masks_after_a_draft_are_those_of_the_text_with_it() -> None:
    matcher = started("regex", "a(bcd|xyz)[0-9]")
    assert matcher.forced() == tuple(b"a")
    matcher.take(ord("a"))
    assert allowed(matcher, b"xyz") == [set(b"bx"), set(b"y"), set(b"z"), set(b"0123456789")]
    assert allowed(matcher, b"xq") == [set(b"bx"), set(b"y")]
    assert allowed(matcher, b"q") == [set(b"bx")]
    assert allowed(matcher) == [set(b"bx")]


def test_a_draft_is_cut_where_the_grammar_ends_it() -> None:
    matcher = started("regex", "[ab]{3}")
    assert matcher.within(tuple(b"abx")) == tuple(b"ab")
    assert matcher.within(tuple(b"ababab")) == tuple(b"aba")
    assert matcher.within(()) == ()


def test_without_jumping_what_is_forced_is_the_only_token_allowed() -> None:
    matcher = Grammars(ByteTokenizer(), jump=False).start(Constraint("regex", "abc"))
    assert matcher.forced() == ()
    assert allowed(matcher, b"ab") == [set(b"a"), set(b"b"), set(b"c")]


@pytest.mark.parametrize(
    ("kind", "source", "error", "message"),
    [
        ("regex", "ab(", BadArgument, "missing ), unterminated subpattern at position 2"),
        ("regex", "a{3,2}", BadArgument, "at position 2"),
        ("regex", "(?=a)b", BackendUnsupported, "a lookahead"),
        ("regex", r"(a)\1", BackendUnsupported, "a backreference"),
        ("regex", r"a\bb", BackendUnsupported, "an anchor"),
        ("regex", "a[^\x00-\U0010ffff]", BadArgument, "no text can satisfy"),
        ("grammar", 'start: "a" b', BadArgument, "1(8): unknown name"),
        ("json_schema", '{"type": "int"}', BadArgument, "int"),
        ("json_schema", "{", BadArgument, "line 1 column 2"),
        ("regex", "a" * (1 << 21), BadArgument, "too long"),
    ],
)
def test_a_bad_constraint_is_refused_in_one_line_with_the_place(kind: str, source: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=re.escape(message)) as caught:
        GRAMMARS.prepare(Constraint(kind, source))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("pattern", "taken", "refused"),
    [
        (r"^\d{2}-\w+$", ["12-a_9"], ["12-", "1x-a", "12-a\n"]),
        (r"(?i:yes|no)!?", ["YeS", "no!"], ["maybe", "yes!!"]),
        (r"(?P<a>x|y){,2}.", ["z", "xyz"], ["\n", "xyxz"]),
        (r"(?s:.)[^\W\d]", ["\na"], ["a1"]),
        (r"[^a-c\]&~]+", ["xyz-["], ["a", "]", "&"]),
        (r"(?x) a  b # comment", ["ab"], ["a b"]),
        (r"|a", ["", "a"], ["b"]),
        (r"[\s\S]é+?", [" é", "xéé"], ["é"]),
        (r"( \w+){2}", [" Größe 中文", " Zoë ²x"], [" a-b c", " a "]),
        (r"\d[^\d]", ["٣x"], ["٣٤"]),
        (r"\S\s", ["x\x1c", "é\u3000"], ["\x1cx"]),
        (r"(?a:\w)\w", ["aé"], ["éa"]),
        (r"(?i:straße|k[a-z])", ["STRAẞE", "\u212as"], ["strasse"]),
        (r"^yes$|^no$|\Aa*\Z", ["yes", "no", "", "aa"], ["yesno", "yes\n"]),
        (r"(^|x)a($|\.)", ["a", "xa.", "a."], ["xxa", "a.."]),
        (r"a^b|c$d|e", ["e"], ["ab", "cd"]),
    ],
)
def test_a_pattern_means_what_it_means_to_python(pattern: str, taken: list[str], refused: list[str]) -> None:
    matcher = started("regex", pattern)
    for text in taken + refused:
        assert matcher.is_text(text) == bool(re.fullmatch(pattern, text)) == (text in taken)


SCHEMAS = json.loads((Path(__file__).parents[2] / "benchmarks/schemas.json").read_text())
WAYS = {
    **{entry["name"]: ("json_schema", json.dumps(entry["schema"])) for entry in SCHEMAS},
    "words": ("regex", r"(yes|no), because [a-z ,]{10,60}\."),
    "a star": ("regex", "[a-z]+(-[a-z]+)*!"),
    "anything but": ("regex", "[^a]*a[^b]*b"),
    "beyond ASCII": ("regex", "[é-ü]{3}"),
    "free, then a word": ("regex", ".*(yes|no)"),
    "free between tags": ("regex", "<p>.*</p>"),
    "free text twice": ("regex", r"SELECT .+ FROM \w+;"),
    "thoughts first": ("regex", "(?s:.*)</think>(yes|no)"),
    "what may be empty, often": ("regex", "(a?b?){30}c"),
    "words beyond ASCII": ("regex", r"( \w+){3}"),
    "a sum": ("grammar", 'start: sum " = " NUMBER\nsum: NUMBER (" + " NUMBER)+\nNUMBER: /[1-9][0-9]?/'),
}


@pytest.mark.parametrize("name", WAYS)
def test_from_every_state_there_is_a_way_to_a_whole_text_which_is_the_same_every_time(name: str) -> None:
    draw = random.Random(name)
    message: list[int] = []
    matchers = [started(*WAYS[name]) for _ in range(2)]
    matcher = matchers[0]
    assert matcher.completion is not None
    most = len(matcher.completion) + 40
    while not matcher.is_over and len(message) < most:
        token = draw.choice(sorted(allowed(matcher)[0]))
        if token == 256:
            break
        keeps = [one.keeps_completion(token, most - len(message) - 1) for one in matchers]
        assert matchers[1].completion == matcher.completion
        assert keeps[0] == keeps[1]
        if not keeps[0]:
            break
        for one in matchers:
            one.take(token)
        message.append(token)
        assert len(message) + len(matcher.completion) <= most
    assert matcher.is_text(bytes([*message, *matcher.completion]).decode())


@pytest.mark.parametrize(
    ("pattern", "message", "way"),
    [
        (".*(yes|no)", "I think y", "es"),
        (".*(yes|no)", "I know", "no"),
        ("<p>.*</p>", "<p>hello", "</p>"),
        (r"SELECT .+ FROM \w+;", "SELECT a, b", " FROM a;"),
        ("(?s:.*)</think>(yes|no)", "so\nit is </th", "ink>no"),
        (r"\w+@\w+(\.\w+)+", "ada", "@a.a"),
        (r"(yes|no), because [a-z ,]{10,60}\.", "no, because she", "aaaaaaa."),
        ("x(a?){1000000}y", "xa", "y"),
        ("[é-ü]+!", "é", "!"),
        ("a{900}b", "a" * 890, "a" * 10 + "b"),
    ],
)
def test_a_text_may_go_on_until_its_shortest_end_just_fits(pattern: str, message: str, way: str) -> None:
    def n_said(most: int) -> int:
        matcher = GRAMMARS.start(Constraint("regex", pattern), most)
        if matcher.completion is None:
            return 0
        for n, token in enumerate(message.encode()):
            if not matcher.keeps_completion(token, most - n - 1):
                return n
            matcher.take(token)
        assert matcher.completion is not None
        assert re.fullmatch(pattern, message + bytes(matcher.completion).decode())
        assert len(matcher.completion) == most - len(message.encode())
        return len(message.encode())

    most = len(message.encode()) + len(way)
    assert n_said(most) == len(message.encode())
    assert n_said(most - 1) < len(message.encode())


def test_within_a_character_the_way_finishes_it() -> None:
    matcher = GRAMMARS.start(Constraint("regex", "[é-ü]+€"), 20)
    for token in "é".encode()[:1]:
        assert matcher.keeps_completion(token, 6)
        matcher.take(token)
    assert matcher.completion is not None
    assert re.fullmatch("[é-ü]+€", ("é".encode()[:1] + bytes(matcher.completion)).decode())


def test_a_way_that_is_longer_than_what_is_left_is_none() -> None:
    constraint = Constraint("regex", "[a-z]{5}")
    assert GRAMMARS.start(constraint, 4).completion is None
    matcher = GRAMMARS.start(constraint, 5)
    assert matcher.completion is not None
    assert len(matcher.completion) == 5
    assert started("regex", "a{100000}").completion is None


def test_a_completion_shortens_with_the_text_and_tokens_that_leave_it_are_recognized() -> None:
    matcher = GRAMMARS.start(Constraint("regex", "a(b{9}|c)?d"), 3)
    assert matcher.completion == tuple(b"ad")
    assert matcher.keeps_completion(ord("a"), 2)
    matcher.take(ord("a"))
    assert matcher.completion == tuple(b"d")
    assert not matcher.keeps_completion(ord("b"), 1)
    assert matcher.completion == tuple(b"d")
    assert matcher.keeps_completion(ord("c"), 1)


def test_json_is_written_on_one_line_with_fixed_keys_forced() -> None:
    schema: dict[str, Any] = {
        "type": "object",
        "properties": {"name": {"type": "string"}, "ok": {"type": "boolean"}},
        "required": ["name", "ok"],
        "additionalProperties": False,
    }
    matcher = started("json_schema", json.dumps(schema))
    assert bytes(matcher.forced()) == b'{"name": "'
    assert matcher.is_text('{"name": "x", "ok": true}')
    assert not matcher.is_text('{"name": "x"}')


def test_a_constraint_that_many_ask_for_at_once_is_compiled_once() -> None:
    names = [f"k{i}" for i in range(40)]
    schema = {"type": "object", "properties": {name: {"type": "string", "maxLength": 9} for name in names}, "required": names}
    constraint, n_threads = Constraint("json_schema", json.dumps(schema)), 8
    together = threading.Barrier(n_threads)

    def prepared(_: int) -> object:
        together.wait()
        return GRAMMARS.prepare(constraint)

    with ThreadPoolExecutor(n_threads) as pool:
        assert len(set(map(id, pool.map(prepared, range(n_threads))))) == 1
