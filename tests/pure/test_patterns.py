"""Patterns of JSON schemas: one dialect, and the same reader for masks, checks and types."""

from __future__ import annotations

import json
import re

import pytest

from sgl_lab.contracts.errors import BackendUnsupported, BadArgument
from sgl_lab.contracts.params import Constraint
from sgl_lab.contracts.patterns import ecma
from sgl_lab.contracts.patterns.formats import FORMATS, fits
from sgl_lab.engine.tools.fake import ByteTokenizer
from sgl_lab.grammar.grammars import Grammars
from sgl_lab.lang.form import of_schema

GRAMMARS = Grammars(ByteTokenizer())


@pytest.mark.parametrize(
    ("pattern", "taken", "refused"),
    [
        (r"^\W$", ["é", "-", "中"], ["a", "_", "ab"]),
        (r"^\w\d\s$", ["a1\u2028", "_0 "], ["é1 ", "a٣ ", "a1x"]),
        (r"[A-Z]{2}\d", ["AB3", "x AB3 y"], ["ab3", "AB"]),
        ("https?://", ["http://", "see https://a"], ["http:/"]),
        (r"^\p{Lu}\p{Ll}{2,6}$", ["Größe", "Äaa"], ["größe", "Ab"]),
        (r"^\P{L}\p{gc=Nd}$", ["-٣"], ["a3", "-x"]),
        (r"(?<year>\d{4})-(?:0[1-9]|1[0-2])", ["in 2020-01."], ["2020-13"]),
        ("^a|b$|^$", ["ax", "xb", ""], ["xa", "bx"]),
        ("(^|,)x(,|$)", ["x", "a,x,b"], ["ax"]),
        ("^.$", ["a", "\x85"], ["\n", "\u2028", ""]),
        (r"^[\]\-\\.\u{1F600}\x41\cJ]+$", ["]-\\.😀A\n"], ["B", "x"]),
        (r'^["\\\x00-\x1f]{2}$', ['"\\', "\x00\n", "\x0b\x1f"], ["ab", '"']),
        (r"^[^\d]*?$", ["ab٣"], ["a3"]),
        ("a^b|^$c|c", ["c"], ["ab", ""]),
    ],
)
def test_a_pattern_means_the_same_to_the_mask_and_to_the_check(pattern: str, taken: list[str], refused: list[str]) -> None:
    form = of_schema({"type": "string", "pattern": pattern})
    matcher = GRAMMARS.start(form.constraint)
    for text in taken + refused:
        written = json.dumps(text, ensure_ascii=False)
        assert matcher.is_text(written) == (text in taken), text
        assert ecma.matches(pattern, text) == (text in taken), text
        if text in taken:
            assert form.meaning(written) == text
        else:
            with pytest.raises(ValueError, match="does not match"):
                form.meaning(written)


@pytest.mark.parametrize(
    ("pattern", "error", "message"),
    [
        (r"a\z", BadArgument, r"\z is not known to ECMA-262; it ends a text with $ at position 1"),
        ("[[:alpha:]]", BadArgument, "[:...:] is not known to ECMA-262 at position 1"),
        ("[a-z&&[^b]]", BadArgument, "] has to be escaped at position 10"),
        ("(?P<year>a)", BadArgument, "ECMA-262 writes (?<name>...)"),
        ("(?i)a", BadArgument, "(?i)... is not known to ECMA-262"),
        ("a{2,1}", BadArgument, "bounds are crossed"),
        ("(a", BadArgument, "missing ) for the ( at position 0"),
        ("a**", BadArgument, "nothing to repeat before *"),
        ("(?=a)b", BackendUnsupported, "look-around at position 0"),
        (r"(a)\1", BackendUnsupported, "a back reference at position 3"),
        (r"\ba", BackendUnsupported, "a word boundary at position 0"),
        (r"\p{Script=Greek}", BackendUnsupported, "only general categories"),
        ("(^a)*", BackendUnsupported, "an anchor inside of a repeat"),
        ("a{2000}", BackendUnsupported, "more than 1000 repeats"),
    ],
)
def test_what_is_no_pattern_or_cannot_be_followed_is_refused_at_the_call(pattern: str, error: type[Exception], message: str) -> None:
    for schema in {"items": {"pattern": pattern}}, {"patternProperties": {pattern: {}}}:
        with pytest.raises(error, match=re.escape(message)):
            of_schema(schema)


@pytest.mark.parametrize(
    ("name", "taken", "refused"),
    [
        ("date", ["2024-02-29", "2000-02-29", "0001-01-01", "9999-12-31"], ["2023-02-29", "1900-02-29", "0000-01-01", "2023-04-31"]),
        ("time", ["23:59:59Z", "00:00:00.123+05:30"], ["23:59:60Z", "24:00:00Z", "12:00:00", "12:60:00Z"]),
        ("date-time", ["2024-02-29T23:59:59Z"], ["2023-02-29T00:00:00Z", "2024-02-29T23:59:60Z", "2024-02-29"]),
        ("duration", ["P1D", "P2W", "PT4H5M", "P1DT1S"], ["P", "PT", "1D", "P1S"]),
        ("email", ["a@b.co", "a.b+c@x-y.example.org"], ["a@b", "@b.co", "a b@c.de", "a..b@c.de"]),
        ("hostname", ["a", "a-b.example.org"], ["-a", "a..b", "a_b"]),
        ("ipv4", ["0.0.0.0", "255.199.9.10"], ["256.1.1.1", "01.1.1.1", "1.1.1"]),
        ("ipv6", ["::", "::1", "1::", "1:2:3:4:5:6:7:8", "fe80::1:2"], ["1:2", "1::2::3", "12345::", ":::"]),
        ("uuid", ["00000000-0000-0000-0000-000000000000"], ["00000000-0000-0000-0000-00000000000g"]),
        ("uuid4", ["00000000-0000-4000-8000-000000000000"], ["00000000-0000-5000-8000-000000000000"]),
        ("uri", ["http://a.co", "mailto:a@b.co", "http://a.co:80/x?y=z#w"], ["a.co", "http://", "http://a b"]),
        ("byte", ["", "QUI=", "QUJD"], ["QUI", "Q=I="]),
    ],
)
def test_a_format_holds_and_has_a_short_text(name: str, taken: list[str], refused: list[str]) -> None:
    assert [text for text in taken + refused if fits(name, text)] == taken
    matcher = GRAMMARS.start(Constraint("json_schema", json.dumps({"type": "string", "format": name})), 60)
    assert matcher.completion is not None
    assert bytes(matcher.completion).decode() == json.dumps(FORMATS[name][1])
    assert [text for text in taken + refused if matcher.is_text(json.dumps(text))] == taken


def test_every_format_has_an_example_of_its_own() -> None:
    assert [name for name, (_, example) in FORMATS.items() if not fits(name, example)] == []


def test_what_the_classes_of_other_dialects_would_not_take_is_left_out_of_a_type() -> None:
    narrow = ecma.in_every_dialect(r"^\W\S[^\D][^\s]$")
    assert [text for text in ("-x1a", "éx1a", "-x٣a", "-\x851a", "-x1\ufeff") if ecma.matches(narrow, text)] == ["-x1a"]
    assert ecma.matches(r"^\W\S[^\D][^\s]$", "éx1a")
