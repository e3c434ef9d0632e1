"""Text as it comes, against the whole text looked at afterwards."""

from __future__ import annotations

import codecs
import random
import re
from collections.abc import Callable

from sgl_lab.engine.text.stream import TextStream

from .driving import SOAK


def stream(pieces: list[bytes], stop: tuple[str, ...] = (), regex: tuple[str, ...] = ()) -> tuple[TextStream, list[str], list[int]]:
    """Push until a stop; the delta after each token, and how many ids."""
    text = TextStream(stop, regex)
    deltas, ids = [], []
    for piece in pieces:
        stopped = text.push(piece)
        if stopped:
            break
        new, n = text.delta()
        deltas.append(new)
        ids.append(n)
    text.close()
    new, n = text.delta()
    return text, [*deltas, new], [*ids, n]


def is_open(data: bytes) -> bool:
    """Whether it ends in the middle of a character."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    decoder.decode(data)
    return bool(decoder.getstate()[0])


def offline(pieces: list[bytes], stop: tuple[str, ...], regex: tuple[str, ...]) -> tuple[str, int, str | None]:
    """Text, number of ids and the stop: every prefix of the whole text is tried, shortest first."""
    whole = b"".join(pieces).decode("utf-8", "replace")
    for end in range(1, len(whole) + 1):
        found = [(end - len(s), s) for s in stop if whole[:end].endswith(s)]
        found += [(m.start(), r) for r in regex if (m := re.search(r, whole[:end]))]
        if found:
            cut, matched = min(found)
            break
    else:
        cut, matched = len(whole), None
    beginnings = [(n, b"".join(pieces[:n])) for n in range(len(pieces) + 1)]
    ended = [(n, data.decode("utf-8", "replace")) for n, data in beginnings if n == len(pieces) or not is_open(data)]
    n_ids = max(n for n, text in ended if len(text) <= cut and whole.startswith(text))
    return whole[:cut], n_ids, matched


def test_a_character_cut_into_tokens_appears_when_it_is_whole() -> None:
    text, deltas, ids = stream([b"a\xf0\x9f", b"\x98", b"\x80b"])
    assert (deltas, ids) == (["a", "", "😀b", ""], [0, 0, 3, 3])
    assert text.text == "a😀b"


def test_bytes_that_never_become_a_character_end_as_u_fffd() -> None:
    text, deltas, _ = stream([b"ok\xe2\x82"])
    assert text.text == "ok\ufffd"
    assert deltas == ["ok", "\ufffd"]


def test_what_may_begin_a_stop_is_held_back_until_it_is_known() -> None:
    _, deltas, _ = stream([b"one\n", b"two\n", b"\nthree"], ("\n\n",))
    assert deltas == ["one", "\ntwo", ""]
    _, deltas, _ = stream([b"<", b"/", b"b>"], ("</a>",))
    assert deltas == ["", "", "</b>", ""]


def test_a_stop_across_token_borders_is_cut_with_the_tokens_it_touches() -> None:
    text, _, ids = stream([b"yes", b", E", b"N", b"D of it"], ("END",))
    assert (text.text, text.matched, text.n_ids, ids[-1]) == ("yes, ", "END", 1, 1)


def test_the_stop_completed_first_counts_whatever_the_tokens() -> None:
    for pieces in ([b"abc"], [b"a", b"b", b"c"], [b"ab", b"c"]):
        assert stream(pieces, ("abc", "b"))[0].matched == "b"
    assert stream([b"xabc"], ("abc", "c"))[0].matched == "abc"


def test_a_stop_before_min_tokens_is_text() -> None:
    text = TextStream(("x",), ("y+",))
    assert not text.push(b"x", may_stop=False)
    assert not text.push(b"yy", may_stop=False)
    assert not text.push(b"a")
    assert text.push(b"y")
    assert (text.text, text.matched) == ("xyya", "y+")


def test_a_regex_ends_at_the_first_character_that_completes_it() -> None:
    text, _, _ = stream([b"total: 4", b"2 and 17 more"], regex=(r"\d+ and",))
    assert (text.text, text.matched) == ("total: ", r"\d+ and")


def test_random_splits_and_stops_equal_the_text_looked_at_afterwards(record_table: Callable[..., None]) -> None:
    draw = random.Random(9)
    alphabet = ["a", "b", "ab", "é", "😀", "\n", " "]
    n_stopped = n_broken = 0
    for _ in range(6_000 * SOAK):
        data = "".join(draw.choices(alphabet, k=draw.randrange(1, 24))).encode()
        if draw.random() < 0.2:
            cut = draw.randrange(len(data))
            data = data[:cut] + bytes([draw.randrange(256)]) + data[cut + draw.randrange(2) :]
            n_broken += 1
        borders = sorted(draw.choices(range(len(data) + 1), k=draw.randrange(8)))
        pieces = [data[i:j] for i, j in zip([0, *borders], [*borders, len(data)], strict=True)]
        stop = tuple("".join(draw.choices(alphabet, k=draw.randrange(1, 4))) for _ in range(draw.randrange(4)))
        regex = draw.choice(((), (), (r"b\s",), (r"(aa)+b", r"é$")))
        text, deltas, ids = stream(pieces, stop, regex)
        expected = offline(pieces, stop, regex)
        n_stopped += expected[2] is not None
        assert (text.text, text.n_ids, text.matched) == expected
        if not regex:
            assert "".join(deltas) == text.text
            assert ids == sorted(ids)
            assert ids[-1] == text.n_ids
    record_table("R9", texts=6_000 * SOAK, stopped=n_stopped, broken=n_broken)
    assert n_stopped > 1000
    assert n_broken > 500
