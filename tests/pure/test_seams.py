"""Text and tokens agree, whatever was appended, cut, forked, joined or chosen."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import sgl_lab as sgl
from sgl_lab.backends.local import LocalBackend
from sgl_lab.lang.state import ProgramState

from .language import watchdog  # noqa: F401
from .words import lab


@pytest.fixture(scope="module")
def backend(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalBackend]:
    made = lab(tmp_path_factory.mktemp("words"))
    yield made
    made._resident.check()
    made._resident.close()


LITERALS = [" ", "\n", "\n\n", "Now", " the capital of Fra", "nce", "name: ", "x"]
LITERALS += ["🙃", "是", "你好", "של", "ום ", "1.", "**", "    ", "<|im_start|>", "é"]
GEN = st.fixed_dictionaries(
    {
        "max_tokens": st.integers(0, 6),
        "stop": st.lists(st.sampled_from([".", "\n", "a", "e", "好", "o "]), max_size=2),
        "stop_regex": st.lists(st.sampled_from([r"[aeiou]t?", r"\W"]), max_size=1),
        "n": st.sampled_from([1, 1, 1, 2]),
        "seed": st.integers(0, 10**6),
        "heal": st.sampled_from([True, True, True, False]),
        "ignore_eos": st.booleans(),
        "min_tokens": st.just(0),
        "return_logprob": st.booleans(),
    }
)
STEP = st.one_of(
    st.tuples(st.just("say"), st.sampled_from(LITERALS)),
    st.tuples(st.just("gen"), GEN),
    st.tuples(st.just("regex"), st.sampled_from([r"[A-Z][a-z]{2,5}", r"(yes|no)", r"好+x"])),
    st.tuples(st.just("select"), st.lists(st.sampled_from(["hot", "cold", " the", "\n", "好", "ce"]), min_size=1, max_size=3, unique=True)),
    st.tuples(st.just("fork"), st.booleans()),
)


def placed(s: ProgramState) -> list[Any]:
    return list(s._stream.transcript._placed)


def expect_agreement(s: ProgramState, name: int) -> None:
    backend, transcript = s._run.backend, s._stream.transcript
    variable = s._stream.variables[name]
    assert variable.prompt is not None
    said = "".join(piece.text for piece in placed(s))[transcript._n_lead :]
    # Special tokens that the model said are tokens and no text, and the one that begins a text is not of it.
    assert backend.decode(transcript.ids, special=False) == said == s.text()
    assert sum((piece.ids for piece in placed(s)), ()) == tuple(transcript.ids)
    for fixed, run in groupby(placed(s), key=lambda piece: piece.fixed):
        pieces = list(run)
        ids = sum((piece.ids for piece in pieces), ())
        if not fixed:
            whole = backend.encode("".join(piece.text for piece in pieces), markup=pieces[0].markup)
            assert whole[: len(ids)] == ids
        else:
            for piece in pieces:
                assert backend.decode(piece.ids, special=False) == piece.lead + piece.text


@settings(max_examples=150, deadline=None, database=None)
@given(steps=st.lists(STEP, min_size=1, max_size=9))
def test_the_tokens_that_a_gen_goes_on_from_spell_the_text(backend: LocalBackend, steps: list[tuple[str, Any]]) -> None:
    @sgl.function
    def program(s: Any) -> None:
        for kind, what in steps:
            before = s.text()
            if kind == "say":
                s += what
                continue
            if kind == "fork":
                forks = s.fork(2)
                forks += " and" + sgl.gen(max_tokens=3) + "x "
                if what:
                    forks.join("concate_and_append")
                else:
                    s = forks[1]
                continue
            if kind == "gen":
                s += sgl.gen(**what)
            elif kind == "regex":
                s += sgl.gen(regex=what, max_tokens=12)
            else:
                s += sgl.select(choices=what)
            name = s._stream.n_unnamed - 1
            s.sync()
            value = s[name][0] if isinstance(s[name], list) else s[name]
            assert s.prompt(name) == s._run.backend.decode(s._stream.variables[name].prompt)
            assert s._run.backend.decode(s._stream.variables[name].prompt, special=False) == before
            assert s.text() == before + value
            expect_agreement(s, name)

    program.run(backend=backend).sync()
