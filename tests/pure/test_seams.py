"""Text and tokens agree, whatever was appended, cut, forked, joined or chosen."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby, product
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import sgl_lab as sgl
from sgl_lab.backends.local import LocalBackend
from sgl_lab.backends.scripted import ScriptedBackend
from sgl_lab.contracts.errors import ProgramError
from sgl_lab.contracts.events import Event, RequestQueued, StreamExtended
from sgl_lab.contracts.port import Segment
from sgl_lab.engine.plan import Sampling
from sgl_lab.engine.text.seam import Seam, Spellings
from sgl_lab.engine.text.stream import TextStream
from sgl_lab.engine.tools.fake import HashModel
from sgl_lab.lang.state import ProgramState

from .driving import SOAK
from .language import watchdog  # noqa: F401
from .words import lab, words


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
    spoken = "".join(piece.text for piece in placed(s))[transcript._n_lead :]
    # Special tokens that the model said are tokens and no text, and the one that begins a text is not of it.
    assert backend.decode(transcript.ids, special=False) == spoken == s.text()
    assert sum((piece.ids for piece in placed(s)), ()) == tuple(transcript.ids)
    for fixed, run in groupby(placed(s), key=lambda piece: piece.fixed):
        pieces = list(run)
        ids = sum((piece.ids for piece in pieces), ())
        if not fixed:
            whole = backend.encode_all([Segment(piece.text, piece.markup) for piece in pieces])
            assert whole[: len(ids)] == ids
        else:
            for piece in pieces:
                assert backend.decode(piece.ids, special=False) == piece.lead + piece.text


@settings(max_examples=150 * SOAK, deadline=None, database=None)
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
                forks += " and" + sgl.gen(max_tokens=3, seed=len(before)) + "x "
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


# ---------------------------------------------------------------- one seam each


def ids_after(backend: LocalBackend, *appended: Any, **defaults: Any) -> tuple[ProgramState, tuple[int, ...]]:
    @sgl.function
    def program(s: Any) -> None:
        for one in appended:
            s += one

    state = program.run(backend=backend, temperature=0, **defaults)
    return state, state.token_ids()


def test_a_choice_is_encoded_with_the_text_before_it(backend: LocalBackend) -> None:
    for method in (sgl.token_length_normalized, sgl.greedy_token_selection, sgl.unconditional_likelihood_normalized):
        apart, ids = ids_after(backend, "Fire is ", sgl.select("x", [" hot"[1:], "cold"], choices_method=method))
        together, other = ids_after(backend, "Fire is", sgl.select("x", [" hot", " cold"], choices_method=method))
        assert ids == other == backend.encode(apart.text())
        assert apart["x"] == together["x"].strip()
        assert apart.get_meta_info("x")["input_token_logprobs"] == together.get_meta_info("x")["input_token_logprobs"]
    alone, ids = ids_after(backend, "Fire is ", sgl.select("x", ["hot", "cold"], heal=False))
    assert ids == backend.encode("Fire is ") + backend.encode(alone["x"])
    twice = ids_after(backend, "Fire is", sgl.select("x", [" hot"]), "ter ", sgl.select("y", ["than"]))[1]
    assert twice == backend.encode("Fire is hotter than")


def test_a_child_replaces_the_end_of_what_was_computed_and_shares_the_rest(tmp_path: Path) -> None:
    events: list[Event] = []
    made = lab(tmp_path, events.append)
    before = "Nice. My name is John, and my friend's name is Joanna.\n\n"

    @sgl.function
    def program(s: Any) -> Any:
        s += before
        forks = s.fork(2)
        forks += ["Now" + sgl.gen(max_tokens=1), "\nQuestion" + sgl.gen(max_tokens=1)]
        forks.join()
        return [fork._stream.variables[0].prompt for fork in forks]

    now, question = program.run(backend=made).ret_value
    assert (now, question) == (made.encode(before + "Now"), made.encode(before + "\nQuestion"))
    assert now[: len(made.encode(before))] != made.encode(before)
    healed = [event for event in events if isinstance(event, StreamExtended) and event.n_healed]
    assert made.decode(healed[0].healed) in made.decode(healed[0].tokens[: healed[0].n_healed])
    made._resident.check()
    made._resident.close()


@pytest.mark.parametrize("more", [{}, {"frequency_penalty": 1.5}, {"regex": "[A-Z][a-z]+[.]"}, {"min_tokens": 5}])
def test_a_healed_gen_says_the_same_whatever_is_drafted_and_spells_its_prompt(tmp_path: Path, more: dict[str, Any]) -> None:
    spoken = []
    for name, config in (("a", {}), ("b", {"draft_tokens": 0}), ("c", {"jump_forward": False})):
        (tmp_path / name).mkdir()
        events: list[Event] = []
        made = lab(tmp_path / name, events.append, **config)
        texts = []
        for text in ("name: ", "The capital of Fra", "Now, here is a list:\n\n", "if x:\n    ", "你"):
            state, ids = ids_after(made, f"My friend. {text}", sgl.gen("x", max_tokens=9, return_logprob=True, **more))
            meta = state.get_meta_info("x")
            assert made.decode(ids, special=False) == state.text() == f"My friend. {text}{state['x']}"
            assert meta["completion_tokens"] <= 9
            texts.append((state["x"], ids, meta["completion_tokens"], meta["output_token_logprobs"]))
        queued = [event for event in events if isinstance(event, RequestQueued)]
        assert all(len(event.prompt) < len(made.encode(made.decode(event.prompt) + "x  y")) for event in queued)
        spoken.append(texts)
        made._resident.check()
        made._resident.close()
    assert spoken[0] == spoken[1] == spoken[2]


@pytest.mark.parametrize(
    ("text", "inside", "beyond"),
    [
        ("x capital of Fra", {" Fr"}, " France"),  # and not " F"
        ("x France", set(), " France"),
        ("name: ", set(), " is"),
        ("x\n\n", {"\n"}, "\n\n   "),
        ("list:\n\n    ", {"  ", "   "}, "     "),
    ],
)
def test_a_seam_is_said_again_as_texts_are_encoded(tmp_path: Path, text: str, inside: set[str], beyond: str) -> None:
    tokenizer = words(tmp_path)
    spellings = Spellings(tokenizer)
    ids = tokenizer.encode(text)
    end = ids[len(ids) - spellings.n_open(ids) :]
    seam = Seam(spellings, end, tokenizer.n_vocab)
    (mask,) = seam.masks(1)
    seam.fill(())
    allowed = [token for token in range(tokenizer.n_vocab) if mask[token // 32] >> token % 32 & 1]
    assert seam.n_allowed == [len(allowed)]
    assert [token for token in range(tokenizer.n_vocab) if seam.within((token,))] == allowed
    assert {tokenizer.decode((token,)) for token in allowed if not tokenizer.token_bytes(token).startswith(seam.rest)} == inside
    assert {end[0], *tokenizer.encode(beyond)} <= set(allowed)
    assert seam.within(end) == end
    for token in end:
        assert seam.rest
        seam.take(token)
    assert not seam.rest


class Forgetful(HashModel):
    """The next token depends on the last one alone, so every prompt has the same continuation."""

    def draw(self, context: tuple[int, ...], sampling: Sampling) -> int:
        spoken = [*sampling.prompt, *sampling.generated, *sampling.drafted]
        return super().draw((spoken[-1], 7), sampling)


def test_a_seam_is_drafted_with_what_followed_it_in_another_text(tmp_path: Path) -> None:
    def steps(heal: bool) -> list[int]:
        made = lab(tmp_path, model=Forgetful)
        metas = []
        for text in ("One", "Two or more", "And so on"):
            state, _ = ids_after(made, f"{text} is cold.\n1. name: ", sgl.gen("x", max_tokens=12, ignore_eos=True, heal=heal))
            metas.append(state.get_meta_info("x"))
        made._resident.close()
        assert [meta["completion_tokens"] for meta in metas] == [12] * 3
        return [int(meta["model_steps"]) for meta in metas]

    plain, healed = steps(heal=False), steps(heal=True)
    assert max(plain[1:]) < 12
    assert healed[1:] <= plain[1:]


def test_a_text_that_nothing_precedes_goes_on_from_the_models_own_beginning(backend: LocalBackend) -> None:
    state, ids = ids_after(backend, sgl.gen("x", max_tokens=3), "\n")
    assert backend.decode(ids[:1]) == state.prompt("x") == "<|endoftext|>"
    assert state.text() == state["x"] + "\n"
    with ScriptedBackendClosed(chat_template=None) as bare, pytest.raises(ProgramError, match="append some text first"):
        ids_after(bare, sgl.gen("x"))  # type: ignore[arg-type]  # any backend will do


class ScriptedBackendClosed(ScriptedBackend):
    def __enter__(self) -> ScriptedBackendClosed:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def test_what_a_stop_leaves_of_a_token_and_what_a_text_leaves_of_a_character() -> None:
    text = TextStream((".",))
    assert not text.push(b"a")
    assert text.push(b"**.")
    assert (text.text, text.n_ids, text.kept) == ("a**", 1, "**")
    text = TextStream(whole=True)
    for data in (b"a", " 🙃".encode()[:3]):
        text.push(data)
    text.close()
    assert (text.text, text.n_ids, text.n_begun) == ("a", 1, 1)


@pytest.mark.parametrize("stop", [(), ("a",), ("\ufffd",)])
@pytest.mark.parametrize("whole", [False, True])
def test_whole_tokens_and_the_rest_spell_the_text_however_bytes_are_cut(whole: bool, stop: tuple[str, ...]) -> None:
    """All texts of four tokens that end inside characters, half surrogates and special tokens among them."""
    hidden = b"<|x|>"
    tokens = [b"a", b"\xed", b"\xb5", b"\xf0\x9f", b"\x99\x83", b"\xef\xbf", b"\xbd", b"\xc3a", hidden]
    for pieces in product(tokens, repeat=4):
        text = TextStream(stop, whole=whole)
        for piece in pieces:
            if text.push(piece, is_hidden=piece == hidden):
                break
        text.close()
        whole_tokens = b"".join(pieces[: text.n_ids])
        assert decoded(whole_tokens, hidden) + text.kept == text.text, pieces
        if whole or text.matched:
            assert decoded(whole_tokens + b"\x99", hidden) == decoded(whole_tokens, hidden) + "\ufffd"
        if not text.matched:
            held = b"".join(pieces[len(pieces) - text.n_begun :])
            assert text.text + decoded(held, hidden) == decoded(b"".join(pieces), hidden), "nothing is lost"


def decoded(data: bytes, hidden: bytes) -> str:
    return "".join(run.decode(errors="replace") for run in data.split(hidden))


def test_a_special_token_is_hidden_and_a_stop_may_spell_it() -> None:
    for stop, seen in (((), "ab"), (("<|x|>b",), "a"), (("|",), "ab")):
        text = TextStream(stop)
        text.push(b"a")
        text.push(b"<|x|>", is_hidden=True)
        text.push(b"b")
        text.close()
        assert text.text == seen
