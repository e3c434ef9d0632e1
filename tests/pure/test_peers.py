"""benchmarks/peers.py: the loads' shapes, the arithmetic of the targets, and peers that are missing, die or hang."""

from __future__ import annotations

import re
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from engines import report, roster
from engines.drive import Peer, PeerFailed, measure
from engines.loads import Chats, Forks, Form, Ids, Questions, Records, first_alone, from_json, to_json
from engines.make import MAKERS, load
from engines.roster import Contender, Models

FIGURES = [figure for makers in MAKERS.values() for figure in makers]


class Words:
    """A tokenizer whose tokens are words, signs and whole markup."""

    def __init__(self) -> None:
        self.ids: dict[str, int] = {}

    def encode(self, text: str, *, markup: bool = False) -> tuple[int, ...]:
        return tuple(self.ids.setdefault(word, len(self.ids)) for word in re.findall(r"<\|.*?\|>|\s?\w+|\W", text))


class Echo:
    """Says the length of the prompt, over and over, and remembers what it was asked."""

    version = "1"
    has_cache = True

    def __init__(self) -> None:
        self.asked: list[tuple[list[int], int]] = []

    def gen(self, prompts: list[Ids], n_new: int) -> list[Ids]:
        self.asked.append(([len(prompt) for prompt in prompts], n_new))
        return [[len(prompt)] * n_new for prompt in prompts]

    def select(self, prompts: list[Ids], choices: Ids) -> Ids:
        return [choices[-1] for _ in prompts]

    def matching(self, prompts: list[Ids], form: Form, n_most: int) -> list[Ids]:
        return [[1] for _ in prompts]

    def reset(self) -> None: ...


def test_the_loads_have_the_promised_shapes() -> None:
    encode = Words().encode
    w1, w2, w3, w4 = (load(name, encode, 1) for name in ("W1", "W2", "W3", "W4"))
    assert isinstance(w1, Questions)
    assert isinstance(w2, Forks)
    assert isinstance(w3, Records)
    assert isinstance(w4, Chats)
    assert (len(w1.prefix), {*map(len, w1.questions)}, len(w1.questions), len({*w1.choices})) == (826, {48}, 32, 4)
    assert (len(w2.root), len(w2.forks), w2.n_plan, w2.n_verdict) == (400, 8, 64, 8)
    assert (len(w3.prompts), w3.n_most, *{prompt[-1] for prompt in w3.prompts}) == (8, 200, encode(" ")[0])
    assert (len(w4.turns), {*map(len, w4.turns)}, w4.n_reply) == (8, {4}, 48)
    for batch in (1, 8, 32):
        engine = Echo()
        load(f"decode {batch}", encode, 1).run(engine)
        assert engine.asked == [([128] * batch, 1), ([128] * batch, 1), ([128] * batch, 65)]
    for figure, asked in (("prefill", [([1024], 1)]), ("ttft", [([1000], 1), ([1024], 1)])):
        engine = Echo()
        load(figure, encode, 1).run(engine)
        assert engine.asked == asked


@pytest.mark.parametrize("figure", FIGURES)
def test_a_load_survives_json_and_every_repetition_has_text_of_its_own(figure: str) -> None:
    encode = Words().encode
    assert from_json(to_json(load(figure, encode, 1))) == load(figure, encode, 1) != load(figure, encode, 2)


def test_each_turn_of_a_chat_has_all_that_was_said_before() -> None:
    chats = Chats(system=[1, 2], turns=[[[3], [4]]], n_reply=2, end=[9])
    assert [(answers.prompt, answers.tokens) for answers in chats.run(Echo()).answers] == [
        ([1, 2, 3], [3, 3]),
        ([1, 2, 3, 3, 3, 9, 4], [7, 7]),
    ]


def test_a_judge_reads_the_plan_that_was_made() -> None:
    forks = Forks(root=[1], forks=[[2], [3]], n_plan=2, judge=[8], n_verdict=1)
    assert [answers.prompt for answers in forks.run(Echo()).answers] == [[1, 2], [1, 3], [1, 2, 2, 2, 8], [1, 3, 2, 2, 8]]


def test_only_a_long_prefix_of_several_prompts_goes_ahead() -> None:
    engine, long = Echo(), list(range(300))
    first_alone(engine.gen, [[*long, 1], [*long, 2]], 5)
    first_alone(engine.gen, [[*long, 1]], 5)
    first_alone(engine.gen, [[1, 2], [1, 3]], 5)
    assert engine.asked == [([300], 1), ([301, 301], 5), ([301], 5), ([2, 2], 5)]


# ------------------------------------------------------------ the report


def row(title: str, ours: bool = False, **figures: list[float]) -> dict[str, Any]:
    measured = {name.replace("_", " "): {"seconds": seconds, "is_warm": True} for name, seconds in figures.items()}
    return {"title": title, "version": "1", "ours": ours, "figures": measured}


def results(**engines: dict[str, Any]) -> dict[str, Any]:
    machine = {"cpu": "a CPU", "cores": 2, "load": 0.0, "commit": "abc"}
    options = {"model": "smollm2", "reps": 3, "threads": 2, "budget_s": 5.0}
    return {"machine": machine, "options": options, "engines": engines}


def line(text: str, start: str) -> list[str]:
    (found,) = (line for line in text.splitlines() if line.startswith(f"| {start} |"))
    return [cell.strip() for cell in found.strip("|").split("|")]


def test_a_target_compares_our_median_with_the_best_peers() -> None:
    ours, plain = row("us", ours=True, W1=[0.9, 0.5, 0.1], W2=[1.0], decode_8=[0.1]), row("us, plain", ours=True, decode_8=[2.0])
    slow, fast = row("slow", W1=[9.0], W2=[1.9], decode_8=[8.0]), row("fast", W1=[1.0, 1.5, 7.0], W2=[4.0], decode_8=[2.9])
    text = report.text(results(**{"sgl_lab": ours, "sgl_lab-plain": plain, "slow": slow, "fast": fast}))
    assert line(text, "W1")[1:] == ["2.0 x", "0.50 s", "1.50 s, fast", "3.00", "met"]
    assert line(text, "W2")[1:] == ["2.0 x", "1.00 s", "1.90 s, slow", "1.90", "missed"]
    assert line(text, "batch 8 decode")[1:] == ["1.5 x", "256 tok/s", "177 tok/s, fast", "1.45", "missed"]
    assert line(text, "W4")[1:] == ["1.5 x", "-", "-", "-", "not measured"]


def test_batch_one_is_held_against_the_engines_that_the_targets_name() -> None:
    four, bf16 = row("us", ours=True, decode_1=[0.5]), row("us, bf16", ours=True, decode_1=[1.0])
    peers = {"openvino-bf16": row("OpenVINO", decode_1=[1.2]), "vllm": row("vLLM", decode_1=[0.1])}
    engines = {"sgl_lab": bf16, "sgl_lab-plain": four, "sgl_lab-bf16": bf16} | peers
    text = report.text(results(**engines, **{"llama.cpp-bench": row("C", decode_1=[0.6])}))
    assert line(text, "batch 1 decode, 4-bit, against llama.cpp's C benchmark")[4:] == ["1.20", "met"]
    assert line(text, "batch 1 decode, bf16, against OpenVINO's")[4:] == ["1.20", "missed"]


def test_limits_of_latency_and_memory() -> None:
    ours = row("us", ours=True, ttft=[0.019]) | {"memory": {"peak_mib": 660.0, "weights_mib": 100.0, "pool_mib": 400.0}}
    text = report.text(results(sgl_lab=ours))
    assert line(text, "TTFT, 1,000 cached and 24 new")[2:] == ["19.00 ms", "", "", "met"]
    assert line(text, "peak memory of weights + KV budget")[2:] == ["1.32 x", "", "", "missed"]


def test_a_missing_peer_keeps_its_row_and_says_how_to_get_it() -> None:
    contender = Contender("x", "X", "x", recipe="never-made")
    obstacle = contender.obstacle(Models(Path("no.gguf"), Path("no")))
    assert obstacle == "not installed: `python benchmarks/peers.py --install never-made`"
    text = report.text(results(x={"title": "X", "ours": False, "figures": {}, "problem": obstacle}))
    assert line(text, "X")[1] == obstacle


def test_engines_are_chosen_by_name_or_family_and_an_unknown_one_is_refused() -> None:
    assert [one.name for one in roster.chosen(["vllm", "openvino"])] == ["openvino-bf16", "openvino-int8", "vllm"]
    with pytest.raises(ValueError, match="no engine 'vlm'"):
        roster.chosen(["vlm"])


# ------------------------------------------------------------ workers


def peer(tmp_path: Path, *command: str) -> Peer:
    return Peer([sys.executable, *command], folder=roster.BENCHMARKS, log=tmp_path / "peer.log", threads=1, start_s=60)


def test_a_peer_that_cannot_start_is_reported_with_its_last_words(tmp_path: Path) -> None:
    with pytest.raises(PeerFailed, match=r"it died \(1\): ModuleNotFoundError: No module named 'engines.nobody'"):
        peer(tmp_path, "-m", "engines.worker", "nobody", "{}")


def test_a_peer_that_dies_or_hangs_over_a_load_is_given_up(tmp_path: Path) -> None:
    greeting = 'import sys; print(\'{"result": "1"}\', flush=True); sys.stdin.readline(); '
    prefill = partial(load, "prefill", Words().encode)
    with peer(tmp_path, "-c", greeting + "sys.exit('out of memory')") as dying:
        with pytest.raises(PeerFailed, match=r"it died \(1\): out of memory"):
            measure(dying, prefill, reps=1, budget_s=9, limit_s=60)
        assert not dying.is_alive
    with peer(tmp_path, "-c", greeting + "sys.stdin.readline()") as hanging:
        with pytest.raises(PeerFailed, match="more than 0 s"):
            measure(hanging, prefill, reps=1, budget_s=9, limit_s=0.1)
        assert not hanging.is_alive


def test_a_peer_that_raises_lives_on_and_one_that_cannot_says_nothing(tmp_path: Path) -> None:
    models = Models(tmp_path / "no.gguf", tmp_path)
    assert '"gguf": "' + str(models.gguf) in Contender("x", "X", "a", {"gguf": "{gguf}"}).command(1, models)[-1]
    answers = "".join(f"sys.stdin.readline(); print('{answer}', flush=True); " for answer in ('{"error": "boom"}', '{"result": null}'))
    prefill = partial(load, "prefill", Words().encode)
    with peer(tmp_path, "-c", 'import sys; print(\'{"result": "1"}\', flush=True); ' + answers + "sys.stdin.readline()") as other:
        with pytest.raises(PeerFailed, match="boom"):
            measure(other, prefill, reps=1, budget_s=9, limit_s=60)
        assert measure(other, prefill, reps=1, budget_s=9, limit_s=60) is None
        assert other.is_alive


@pytest.mark.parametrize("recipe", roster.RECIPES)
def test_a_peers_environment_is_pinned_whole_and_as_its_recipe_says(recipe: str) -> None:
    lines = [line for line in roster.pins(recipe).read_text().splitlines() if not line.startswith("#")]
    pinned = dict(line.lower().split("==") for line in lines)
    asked = re.findall(r"([\w-]+)==([\w.]+)", roster.RECIPES[recipe])
    assert asked
    assert {name: pinned.get(name) for name, _ in asked} == dict(asked)
    assert len(pinned) > len(asked)
