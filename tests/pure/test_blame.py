"""Blame without a model: pieces of a prompt, the fit, and both measures against scores that are known."""

from __future__ import annotations

import math
from collections.abc import Sequence
from types import SimpleNamespace

import numpy as np
import pytest

from sgl_lab.contracts.errors import BadArgument
from sgl_lab.contracts.events import (
    Entry,
    Event,
    ExprFinished,
    ExprStarted,
    ForkOpened,
    RequestQueued,
    Sample,
    StreamExtended,
    TokensSampled,
)
from sgl_lab.contracts.ids import ExprId, ForkId, RequestId, RunId
from sgl_lab.contracts.port import ScoreJob, ScoreOutput, TokenLogprob, Usage
from sgl_lab.contracts.spans import Block, Content
from sgl_lab.magics.line import run_line
from sgl_lab.magics.options import OptionError
from sgl_lab.magics.session import Session
from sgl_lab.trace import Record
from sgl_lab.viz.draw import blame as draw
from sgl_lab.viz.explain.attribution.blame import ALONE_MOST, Blame, blame
from sgl_lab.viz.explain.attribution.fit import ALPHA, random_masks, rank_correlation, sparse_weights
from sgl_lab.viz.explain.attribution.pieces import pieces
from sgl_lab.viz.views.asked import Asked, Cell, asked, with_markup
from sgl_lab.viz.views.inspection import Inspection, inspections

from .poisoned import poisoned

ROOT, CHILD, REQUEST = ForkId(1), ForkId(2), RequestId(7)


def cells(*parts: str, role: str = "user") -> tuple[list[Cell], dict[int, str]]:
    """Tokens of a text, one a string, as a part of one message."""
    return [Cell(n, "text", role, 0) for n in range(len(parts))], dict(enumerate(parts))


def texts(parts: Sequence[str], by: str) -> list[str]:
    found, spelled = cells(*parts)
    return [piece.text for piece in pieces(found, by, spelled.__getitem__)]


def test_pieces_are_whole_tokens_and_spell_the_prompt_again() -> None:
    parts = ["Dr", ".", " No", " eats", ".", " Is", " it", "?", "\n", "\n", "Yes", "!", " (", "He", " is", ".)", " ", "So", ".5", " s", "."]
    for by in ("sentence", "line", "word", "message"):
        assert "".join(texts(parts, by)) == "".join(parts)
    assert texts(parts, "sentence") == ["Dr. No eats.", " Is it?\n\n", "Yes!", " (He is.) ", "So.5 s."]
    assert texts(parts, "line") == ["Dr. No eats. Is it?\n\n", "Yes! (He is.) So.5 s."]
    assert texts(parts, "word")[:4] == ["Dr.", " No", " eats.", " Is"]
    assert texts(parts, "message") == ["".join(parts)]
    assert texts([" ", "\n"], "sentence") == []


def test_markup_special_tokens_and_other_origins_end_a_piece_and_a_block_is_one() -> None:
    block = Block(Content("0123456789abcdef", 3))
    found = [
        *(Cell(n, "text", "", 1, True) for n in (0, 1)),
        Cell(2, "text", "user", 2),
        *(Cell(token, "block", "user", 3) for token in (*block.ids, *block.ids)),
        Cell(3, "text", "user", 4),
        Cell(4, "generated", "assistant", 5),
    ]
    cut = pieces(found, "message", lambda token: "" if token < 0 else f"w{token}")
    assert [(piece.start, piece.end, piece.kind) for piece in cut] == [
        (2, 3, "text"),
        (3, 6, "block"),
        (6, 9, "block"),
        (9, 10, "text"),
        (10, 11, "generated"),
    ]


# ---------------------------------------------------------------- what was asked


def entries(*events: Event) -> list[Entry]:
    return [Entry(seq, seq, event) for seq, event in enumerate(events)]


def test_markup_is_found_by_its_special_tokens_and_what_follows_it() -> None:
    """A template's rest that was placed again has no special token of its own."""

    def fixed(*runs: tuple[str, str, Sequence[int]]) -> list[int]:
        found = [Cell(token, kind, role, n) for n, (kind, role, tokens) in enumerate(runs) for token in tokens]
        return [cell.token for cell in with_markup(found, lambda token: token == 99) if cell.is_fixed]

    assert fixed(("text", "", (99, 1)), ("text", "", (2,)), ("text", "user", (3,)), ("text", "", (99, 4))) == [99, 1, 2, 99, 4]
    assert fixed(("text", "", (99,)), ("text", "", (1, 2))) == [99], "no roles: the text is the program's own"
    assert fixed(("text", "", (1,)), ("text", "user", (2,)), ("generated", "assistant", (3, 99))) == [1, 99], "a template without specials"
    assert fixed(("text", "", (1,)), ("text", "", (99, 2)), ("text", "user", (3,))) == [99, 2], "text before the first turn"


def test_the_prompt_of_a_fork_begins_with_its_parents_and_healing_moves_the_border() -> None:
    run = entries(
        ForkOpened(RunId(1), ROOT, None, 0, "s"),
        StreamExtended(ROOT, 0, (10, 11), "text", "user"),
        ForkOpened(RunId(1), CHILD, ROOT, 0, "s[0]"),
        StreamExtended(CHILD, 2, (12, 13), "text", "user"),
        ExprStarted(CHILD, ExprId(1), "gen", "tip", 1),
        RequestQueued(REQUEST, CHILD, ExprId(1), "gen", (10, 11, 12), 4, REQUEST),
        TokensSampled(
            0, (Sample(REQUEST, 14, -0.5, (), 3, False), Sample(REQUEST, 15, None, (), 1, True), Sample(REQUEST, 0, -1.0, (), None, False))
        ),
        StreamExtended(CHILD, 3, (14, 15), "generated", "user", 1, (13,)),
        ExprFinished(CHILD, ExprId(1), "ok", "x"),
        StreamExtended(CHILD, 5, (16,), "text", "user"),
    )
    (one,) = asked(run, lambda token: False)
    assert (one.title, one.ids, one.answer, one.forced) == ("s[0] › tip", (10, 11, 12), (14, 15), (False, True))


def test_a_select_has_its_choices_and_one_that_failed_is_not_there() -> None:
    run = entries(
        ForkOpened(RunId(1), ROOT, None, 0, "s"),
        StreamExtended(ROOT, 0, (10, 11, 12), "text", ""),
        ExprStarted(ROOT, ExprId(1), "select", "pick", 1),
        RequestQueued(REQUEST, ROOT, ExprId(1), "score", (10, 11, 20), 0, REQUEST, 1, choices=((20, 21), (22,))),
        StreamExtended(ROOT, 2, (22,), "choice", "", 1, (12,)),
        ExprFinished(ROOT, ExprId(1), "ok", "x"),
        ExprStarted(ROOT, ExprId(2), "gen", "lost", 2),
        RequestQueued(RequestId(8), ROOT, ExprId(2), "gen", (10, 11, 22), 4, RequestId(8)),
        ExprFinished(ROOT, ExprId(2), "error", ""),
    )
    (one,) = asked(run, lambda token: False)
    assert (one.title, one.ids, one.answer, one.choices) == ("pick", (10, 11), (22,), ((20, 21), (22,)))


# ---------------------------------------------------------------- scores that are known


def question(n: int, choices: tuple[tuple[int, ...], ...] = (), answer: tuple[int, ...] = (900, 901)) -> Asked:
    """A prompt of n pieces of one token each, after one that is fixed."""
    prompt = (Cell(500, "text", "", 0, True), *(Cell(at, "text", "user", 1) for at in range(n)))
    shown = Inspection("answer", "select" if choices else "gen", ROOT, REQUEST, tuple(cell.token for cell in prompt))
    return Asked(shown, prompt, answer, (False,) * len(answer), choices)


class World:
    """Scores that are a known function of the tokens that are left, and what was asked of it."""

    def __init__(self, effects: dict[int, float], both: float = 0.0) -> None:
        self.effects, self.both = effects, both
        self.jobs: list[ScoreJob] = []

    def value(self, prompt: Sequence[int]) -> float:
        left = set(prompt)
        return -40.0 + sum(effect for token, effect in self.effects.items() if token in left) + self.both * ({0, 1} <= left)

    def __call__(self, jobs: Sequence[ScoreJob]) -> list[ScoreOutput]:
        self.jobs += jobs
        outputs = []
        for job in jobs:
            value = self.value(job.prompt)
            rows = [
                tuple(TokenLogprob(token, (value if at == 0 else -20.0) / len(choice)) for token in choice)
                for at, choice in enumerate(job.choices)
            ]
            outputs.append(ScoreOutput(tuple(rows), Usage(prompt_tokens=len(job.prompt) + 1, computed_tokens=2)))
        return outputs


def blamed(n: int, world: World, seed: int = 0, **changes: object) -> Blame:
    one = question(n)
    return blame(one, pieces(one.prompt, "word", lambda token: f" w{token}"), world, by="word", seed=seed, **changes)  # type: ignore[arg-type]


def test_few_pieces_are_left_out_alone_and_the_fixed_token_never() -> None:
    world = World({1: 5.0, 2: -1.0, 3: 0.25})
    found = blamed(5, world)
    assert not found.is_fitted
    assert found.effects == pytest.approx((0.0, 5.0, -1.0, 0.25, 0.0))
    assert found.ranking == (1, 3, 0, 4, 2), "equal effects are in the order of the prompt"
    assert found.drops == ((1, pytest.approx(5.0)), (3, pytest.approx(5.25)))
    assert found.lds == pytest.approx(1.0), "the scores are a sum of effects"
    assert (found.full.value, found.bare) == (pytest.approx(-35.75), -40.0)
    assert all(job.prompt[0] == 500 for job in world.jobs)
    prompts = [job.prompt for job in world.jobs]
    assert len(prompts) == len(set(prompts)) == found.n_scored, "no prompt is scored twice"
    assert (found.n_computed, found.n_naive) == (2 * len(prompts), sum(map(len, prompts)) + len(prompts))


def test_of_many_pieces_the_few_that_matter_are_found_by_the_fit() -> None:
    world = World({3: 6.0, 40: 4.0, 77: -3.0})
    found = blamed(100, world)
    assert found.is_fitted
    assert found.ranking[:2] == (3, 40)
    assert found.ranking[-1] == 77
    assert sum(abs(effect) > 0.5 for effect in found.effects) == 3, "the fit is sparse"
    assert found.lds is not None
    assert found.lds > 0.9
    assert found.n_scored < 105, "fewer prompts than pieces left out alone, and their judges"


def test_a_seed_decides_the_ablations_and_nothing_else_does() -> None:
    worlds = [World({3: 6.0}) for _ in range(3)]
    first, again, other = (blamed(ALONE_MOST + 8, world, seed) for world, seed in zip(worlds, (4, 4, 5), strict=True))
    assert first == again
    assert [job.prompt for job in worlds[0].jobs] == [job.prompt for job in worlds[1].jobs]
    assert [job.prompt for job in worlds[0].jobs] != [job.prompt for job in worlds[2].jobs]
    assert first.ranking[0] == other.ranking[0] == 3


def test_effects_that_do_not_add_up_are_reported_as_worth_little() -> None:
    """Either piece alone is enough, so no single one matters: leave-one-out cannot see it."""

    class Either(World):
        def value(self, prompt: Sequence[int]) -> float:
            return -1.0 + 0.06 * (2 in prompt) if {0, 1} & set(prompt) else -20.0

    found = blamed(6, Either({}))
    words, means_little = draw.quality(found)
    assert means_little, words
    assert words.startswith("This result means little: all pieces together are worth 19.06 nats, and their effects add up to 0.06")

    class Odd(World):
        def value(self, prompt: Sequence[int]) -> float:
            return -1.0 - 5.0 * (sum(token < 100 for token in prompt) % 2)

    words, means_little = draw.quality(blamed(10, Odd({})))
    assert (means_little, "the effects do not predict what happens" in words) == (True, True)
    good, warned = draw.quality(blamed(6, World({1: 5.0})))
    assert (good.startswith("Quality: good"), warned) == (True, False)


def test_a_select_is_explained_by_its_lead_and_by_what_wins_without_a_piece() -> None:
    one = question(4, ((900,), (901,), (902,)), (900,))
    world = World({1: 30.0, 2: 1.0})
    found = blame(one, pieces(one.prompt, "word", lambda token: f" w{token}"), world, by="word")
    assert found.full == (pytest.approx(11.0), 0)
    assert found.effects == pytest.approx((0.0, 30.0, 1.0, 0.0))
    assert found.without == (None, 1, None, None)
    assert "“ w901”" in draw.text(found, lambda token: f" w{token}")


def test_only_the_tokens_that_were_asked_for_count_and_no_forced_one() -> None:
    one = question(3)
    forced = Asked(one.shown, one.prompt, one.answer, (True, False))
    cut = pieces(one.prompt, "word", lambda token: f" w{token}")
    half = blame(one, cut, World({1: 5.0}), by="word", of=(0, 1))
    assert (half.effects[1], half.of) == (pytest.approx(5.0), (0, 1)), "one of one token: all of the value"
    less = blame(forced, cut, World({1: 5.0}), by="word")
    assert (less.effects[1], less.n_forced) == (pytest.approx(2.5), 1)
    with pytest.raises(BadArgument, match="a constraint forced all of these tokens of answer"):
        blame(forced, cut, World({}), by="word", of=(0, 1))
    with pytest.raises(BadArgument, match="nothing to leave out"):
        blame(one, (), World({}), by="word")
    with pytest.raises(BadArgument, match="700 pieces, and 600 are the most"):
        blamed(700, World({}))


def test_a_prompt_of_one_piece_alone_cannot_be_left_out() -> None:
    one = Asked(question(0).shown, (Cell(5, "text", "", 0),), (9,), (False,))
    with pytest.raises(BadArgument, match="a prompt needs a token"):
        blame(one, pieces(one.prompt, "word", lambda token: f" w{token}"), World({}), by="word")


# ---------------------------------------------------------------- mathematics


def test_the_fit_is_the_minimum_of_the_lasso() -> None:
    """By the conditions of Karush, Kuhn and Tucker, and against a search that knows no derivative."""
    rng = np.random.default_rng(3)
    masks = [tuple(map(bool, row)) for row in rng.random((40, 6)) < 0.5]
    values = [3.0 * row[0] - 2.0 * row[2] + 0.05 * row[4] + float(rng.normal(0, 0.02)) for row in masks]
    x = np.array(masks, dtype=float)
    spread = x.std(axis=0)
    z, y = (x - x.mean(axis=0)) / spread, np.array(values) - np.mean(values)
    weights = np.array(sparse_weights(masks, values)) * spread

    def loss(w: np.ndarray) -> float:
        return float(((y - z @ w) ** 2).sum() / (2 * len(y)) + ALPHA * np.abs(w).sum())

    gradient = z.T @ (y - z @ weights) / len(y)
    active = weights != 0
    assert active.any()
    assert gradient[active] == pytest.approx(ALPHA * np.sign(weights[active]), abs=1e-7)
    assert (np.abs(gradient[~active]) <= ALPHA + 1e-7).all()
    assert all(loss(weights) <= loss(weights + rng.normal(0, size, 6)) for size in (1e-3, 0.05, 1.0) for _ in range(200))
    assert sparse_weights(masks, [10 * value for value in values], 10.0) == pytest.approx([10 * w for w in sparse_weights(masks, values)])


def test_ranks_are_spearmans() -> None:
    assert rank_correlation([1, 2, 3, 4], [10, 20, 30, 400]) == pytest.approx(1.0)
    assert rank_correlation([1, 2, 3, 4], [4, 3, 2, 1]) == pytest.approx(-1.0)
    a, b = [1.0, 2.0, 2.0, 3.0, 0.5], [2.0, 1.0, 3.0, 3.0, 1.0]
    ranks_a, ranks_b = [2, 3.5, 3.5, 5, 1], [3, 1.5, 4.5, 4.5, 1.5]
    mean = sum(ranks_a) / 5
    covariance = sum((x - mean) * (y - mean) for x, y in zip(ranks_a, ranks_b, strict=True))
    expected = covariance / math.sqrt(sum((x - mean) ** 2 for x in ranks_a) * sum((y - mean) ** 2 for y in ranks_b))
    assert rank_correlation(a, b) == pytest.approx(expected)
    assert rank_correlation([1, 1, 1], [1, 2, 3]) is None


def test_random_ablations_are_different_new_and_those_of_few_pieces_end() -> None:
    assert len(random_masks(3, 50, 0, lambda mask: mask == (True, True, True))) == 7
    many = random_masks(30, 64, 0, lambda mask: mask[0])
    assert len(set(many)) == 64
    assert not any(mask[0] for mask in many)
    assert 0.4 < np.mean([mask[1:] for mask in many]) < 0.6


# ---------------------------------------------------------------- bad input


def test_a_wrong_word_a_lost_model_and_an_empty_run_are_one_line_each() -> None:
    record = poisoned("word")[1]
    session, shell = Session(), SimpleNamespace(user_ns={})

    def refused(line: str) -> str:
        with pytest.raises(OptionError) as caught:
            run_line(shell, session, line)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "nothing has run yet" in refused("blame answer")
    session.last = record
    name = inspections(record.entries)[0].name
    for command in ("blame", "attention"):
        assert "unknown gen, select or fork of" in refused(f"{command} nothing-of-that-name")
        assert "is gone" in refused(f"{command} '{name}'")
    assert "did you mean 'sentence'?" in refused("blame x --by sentense")
    assert "--seed cannot be '-1'" in refused("blame x --seed=-1")
    session.last = Record(RunId(77), entries=entries(ForkOpened(RunId(77), ROOT, None, 0, "s")))
    assert "sent no request to the model" in refused("blame x")
