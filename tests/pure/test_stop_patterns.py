"""Python's regular expressions over a growing text: what `re` finds, at a cost that no pattern can raise."""

from __future__ import annotations

import random
import re
import warnings
from contextlib import suppress

import pytest

from sgl_lab.contracts.errors import BadArgument, RequestFailed
from sgl_lab.contracts.params import SamplingParams
from sgl_lab.contracts.patterns.watching import FIRST_STEPS, STEPS_A_CHARACTER, Watch, first_match, pattern
from sgl_lab.lang.ahead import first_stop

from .driving import SOAK, bench, expect_idle

ATOMS = [*"ab.^$é\n", r"\w", r"\d", r"\s", "[ab]", "[^a]", r"\b", r"\B", r"\Z", r"\A", "(?i:A)", "(?s:.)", "(?m:$)", "(?m:^)", r"(?a:\w)"]
LOOKS = ["(?=a)", "(?!b)", "(?<=a)", "(?<!b)", "(?<=ab)", "(?=.*b)"]
REPEATS = ["*", "+", "?", "*?", "+?", "{2}", "{1,3}", "{0,2}?"]


def drawn(draw: random.Random, depth: int, is_regular: bool) -> str:
    chance = draw.random()
    if depth == 0 or chance < 0.35:
        return draw.choice(ATOMS if is_regular else ATOMS + LOOKS)
    one, other = drawn(draw, depth - 1, is_regular), drawn(draw, depth - 1, is_regular)
    if chance < 0.6:
        return one + other
    if chance < 0.75:
        return f"(?:{one}|{other})"
    if chance < 0.95 or is_regular:
        return f"(?:{one})" + draw.choice(REPEATS if is_regular else [*REPEATS, "*+", "++", "?+"])
    return draw.choice([f"(?>{one})", f"(?P<g{draw.randrange(10**9)}>{one}){other}", f"({one})\\1", f"({one})?(?(1){other}|b)"])


def ends(source: str, text: str, n_passed: int) -> tuple[int, int] | None:
    """Where `re` finds the first match, were the text to end after each character in turn."""
    compiled = re.compile(source)
    tries = ((compiled.search(text, n_passed, end), end) for end in range(n_passed + 1, len(text) + 1))
    return next(((match.start(), end) for match, end in tries if match), None)


def watched(source: str, text: str, n_passed: int) -> tuple[int, int] | None:
    watch = Watch(source)
    for at in range(n_passed):
        watch.pass_over(text, at)
    tries = ((watch.look(text, at), at + 1) for at in range(n_passed, len(text)))
    return next(((start, end) for start, end in tries if start is not None), None)


def test_random_patterns_find_what_re_finds_and_at_the_same_character() -> None:
    draw = random.Random(1)
    n_tried = n_found = n_whole = 0
    while n_tried < 1_500 * SOAK:
        source = drawn(draw, 4, is_regular=n_tried % 2 == 0)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                compiled = re.compile(source)
        except re.error:
            continue
        n_tried += 1
        text = "".join(draw.choices("aab bé1\nAx", k=draw.randrange(1, 14)))
        n_passed = min(draw.choice((0, 0, 0, 1, 3)), len(text) - 1)
        expected = ends(source, text, n_passed)
        assert watched(source, text, n_passed) == expected, (source, text, n_passed)
        is_whole = compiled.fullmatch(text) is not None
        assert pattern(source).fullmatch(text) == is_whole, (source, text)
        n_found += expected is not None
        n_whole += is_whole
    assert n_found > n_tried / 3
    assert n_whole > n_tried / 50


CATASTROPHIC = [
    r"(\w+\s?)+#",
    r"(a|aa)+$x",
    r"(x+x+)+y|(.*)*\d\d\d",
    r"^(([a-z ])+.)+[A-Z]([a-z])+$",
    r"(?:a?){50}a{50}b",
    r"(a|b)*a(a|b){12}c",
    r"(?:(?:\w*)*)*#",
    r"(a+)+b\1",
    r"(\w+)\1+#",
    r"(?=(\w+)+#)",
    r"(\s*\w+\s*)+(?!z)@",
    r"(?>(a+)+)b",
    r"(?<=a)(a|a)+#",
    r".{0,5000}#",
    r"(a?){3000}(?=q)",
]


@pytest.mark.parametrize("source", CATASTROPHIC)
@pytest.mark.parametrize("text", ["a" * 600, "many words and aaaaaaaaaaaaaaaaaaaaaaaaaaaa " * 15])
def test_no_pattern_takes_more_steps_than_its_text_allows(source: str, text: str) -> None:
    watch = Watch(source)
    n_seen = 0
    with suppress(RequestFailed):
        for n_seen in range(1, len(text) + 1):
            assert watch.look(text, n_seen - 1) is None
    slack = 2 * STEPS_A_CHARACTER + 1000
    assert watch.allowance.n_spent <= FIRST_STEPS + n_seen * STEPS_A_CHARACTER + slack


@pytest.mark.parametrize("source", [r"(\w+\s?)+#", r"(.*)*#", r"\n(?=\d+\.)", r"(?<=\n)END", r"(\w)\1#", r"\bend\b(?!s)"])
def test_the_cost_of_a_longer_text_grows_as_its_length(source: str) -> None:
    costs = []
    for n in (50, 400):
        watch, text = Watch(source), "once upon a time there was\n" * n
        assert all(watch.look(text, at) is None for at in range(len(text)))
        costs.append(watch.allowance.n_spent / len(text))
    assert costs[1] <= costs[0] * 1.1


@pytest.mark.parametrize("source", ["(", "x" * 20_000, "((a{100}){100}){100}", "(?:){9}" * 3 + "a{4000000}", "(" * 5000 + ")" * 5000])
def test_a_pattern_that_is_none_or_too_large_is_refused_when_it_is_given(source: str) -> None:
    with pytest.raises(BadArgument, match="stop_regex"):
        SamplingParams(stop_regex=(source,))


def test_a_pattern_of_empty_repeats_is_read_at_once() -> None:
    assert first_match("(?:){1000000000}b", "aab") == 2


def test_of_a_request_whose_pattern_takes_too_long_only_that_one_fails() -> None:
    prompt = tuple(b"once upon a time")
    alone = bench()
    expected = alone.gen(prompt, max_tokens=300, ignore_eos=True, seed=3, temperature=1.0)
    alone.drain()
    both = bench()
    hostile = both.gen(prompt, max_tokens=300, ignore_eos=True, seed=4, temperature=1.0, stop_regex=(r"(?s)((.+)+)+(?=\1\2\1\2#####)",))
    other = both.gen(prompt, max_tokens=300, ignore_eos=True, seed=3, temperature=1.0, stop_regex=(r"(\w+\s?)+##########",))
    both.drain()
    with pytest.raises(RequestFailed, match="too many steps"):
        _ = hostile.answer
    assert other.output.ids == expected.output.ids
    expect_idle(both)


def test_the_first_stop_of_a_whole_text_is_found_within_bounds_too() -> None:
    params = SamplingParams(stop=("END",), stop_regex=(r"(\w+\s?)+#",))
    assert first_stop("some words " * 200 + "END", params) == (2200, "END")
    with pytest.raises(RequestFailed):
        first_stop("a" * 60, SamplingParams(stop_regex=(r"(a+)+b\1",)))
