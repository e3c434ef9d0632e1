"""Blame and attention against transformers, which computes every prompt alone, and a planted sentence found by blame."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.blame import explained, is_first, questions
from sgl_lab import function, gen, select
from sgl_lab.contracts.errors import BackendUnsupported, BadArgument, EngineStopped
from sgl_lab.contracts.port import ScoreJob
from sgl_lab.engine.compute.models.decoder import Decoder
from sgl_lab.engine.compute.models.packed import PackedDecoder
from sgl_lab.engine.compute.runners.looking import MOST_TOKENS, attention_of, readable
from sgl_lab.lang.state import ProgramState
from sgl_lab.session import Lab
from sgl_lab.viz.explain.attention import attention
from sgl_lab.viz.explain.attribution.blame import blame
from sgl_lab.viz.explain.attribution.pieces import pieces
from sgl_lab.viz.views.asked import asked

from .family_models import CONFIGS, PROMPT, made
from .tiny import load_tiny, write_tiny


def theirs_in(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()


# ---------------------------------------------------------------- attention


@pytest.mark.parametrize("name", ["qwen2", "qwen3", "gemma2, low caps", "granite", "mixtral, sliding"])
def test_the_attention_of_every_head_is_that_of_transformers(tmp_path: Path, name: str) -> None:
    ours, _ = made(tmp_path, CONFIGS[name])
    with torch.inference_mode():
        wanted = theirs_in(tmp_path)(torch.tensor([PROMPT]), output_attentions=True).attentions
    found = attention_of(ours, PROMPT)
    assert found.shape == (len(wanted), wanted[0].shape[1], len(PROMPT))
    torch.testing.assert_close(found, torch.stack([layer[0, :, -1] for layer in wanted]), atol=2e-5, rtol=1e-3)


def test_a_packed_model_is_read_through_its_twin_and_what_cannot_be_read_is_refused(tmp_path: Path) -> None:
    folder = write_tiny(tmp_path / "wide", head_dim=32)
    whole, packed = load_tiny(folder).model, load_tiny(folder, "int8").model
    assert isinstance(whole, Decoder)
    assert isinstance(packed, PackedDecoder)
    assert readable(whole, "tiny", "cpu") is whole
    near, exact = (attention_of(readable(model, "tiny", "cpu"), PROMPT[:40]) for model in (packed, whole))
    torch.testing.assert_close(near.sum(-1), torch.ones(near.shape[:2]))
    assert 0 < float((near - exact).abs().max()) < 0.2
    with pytest.raises(BackendUnsupported, match="tiny is on cuda:0: its attention is not read there"):
        readable(whole, "tiny", "cuda:0")
    with pytest.raises(BackendUnsupported, match="too much memory"):
        attention_of(whole, [1] * (MOST_TOKENS + 1))


def test_the_mean_and_the_peaks_are_those_of_the_heads() -> None:
    weights = [[[0.5, 0.3, 0.2], [0.2, 0.2, 0.6]], [[0.9, 0.1, 0.0], [0.4, 0.0, 0.6]]]
    every = attention("a", (1, 2), (3, 4), 1, weights)
    assert (every.ids, every.token, every.n_prompt) == ((1, 2, 3), 4, 2)
    assert every.weights == pytest.approx((0.5, 0.15, 0.35))
    assert [[peak.position for peak in layer] for layer in every.peaks] == [[1, 2], [1, 2]]
    assert attention("a", (1, 2), (3, 4), 1, weights, layer=1).weights == pytest.approx((0.65, 0.05, 0.3))
    assert attention("a", (1, 2), (3, 4), 1, weights, layer=0, head=1).weights == pytest.approx((0.2, 0.2, 0.6))


# ---------------------------------------------------------------- blame


TEXT = "a red hen. it ran off! we saw it, and it is late now. who ran?"


@function
def asking(s: ProgramState) -> None:
    s += TEXT + gen("answer", max_tokens=5, temperature=0) + " So" + select("pick", [" yes", " no", " it is"])


def test_scores_are_those_of_transformers_for_each_ablated_prompt_alone(tiny_folder: Path) -> None:
    theirs = theirs_in(tiny_folder)

    def alone(prompt: tuple[int, ...], answer: tuple[int, ...]) -> list[float]:
        ids = torch.tensor([[*prompt, *answer]])
        with torch.inference_mode():
            logprobs = theirs(ids).logits[0].log_softmax(-1)
        return [float(logprobs[len(prompt) + at - 1, token]) for at, token in enumerate(answer)]

    with Lab(tiny_folder, device="cpu", dtype="float32", cache_tokens=4096) as lab:
        with lab.record("asking") as record:
            asking.run(backend=lab.backend).sync()
        answer, pick = asked(record.entries, lambda token: token == 96)
        cut = pieces(answer.prompt, "word", lab.spell)
        found = blame(answer, cut, lab.score, by="word")
        chosen = blame(pick, pieces(pick.prompt, "sentence", lab.spell), lab.score, by="sentence")
    assert "".join(piece.text for piece in cut) == TEXT
    whole = sum(alone(answer.ids, answer.answer))
    assert found.full.value == pytest.approx(whole, abs=1e-3)
    for piece, effect in zip(cut, found.effects, strict=True):
        ablated = answer.ids[: piece.start] + answer.ids[piece.end :]
        assert whole - sum(alone(ablated, answer.answer)) == pytest.approx(effect, abs=2e-3)
    kept = sum((answer.ids[p.start : p.end] for at, p in enumerate(cut) if at not in found.ranking[:3]), ())
    assert dict(found.drops)[3] == pytest.approx(whole - sum(alone(kept, answer.answer)), abs=2e-3)
    means = [sum(alone(pick.ids, choice)) / len(choice) for choice in pick.choices]
    best, second = sorted(means, reverse=True)[:2]
    assert pick.choices[means.index(best)] == pick.answer
    assert chosen.full.value == pytest.approx(best - second, abs=1e-3)
    assert found.n_computed < found.n_naive


def test_blame_finds_the_planted_sentence_first() -> None:
    """The whole measurement, with fifty prompts, is `python -m benchmarks.blame`."""
    n_right = n_first = 0
    with Lab() as lab:
        for question in islice(questions(), 12):
            result = explained(lab, question) if n_right < 4 else None
            if result is not None:
                found, _, _ = result
                n_right += 1
                n_first += is_first(found, question)
                assert found.lds is not None
                assert found.n_computed < 0.8 * found.n_naive
    assert n_right == 4
    assert n_first == 4


def test_a_closed_lab_and_an_adapter_that_is_gone_are_one_error_each(tiny_folder: Path) -> None:
    lab = Lab(tiny_folder, device="cpu", dtype="float32", cache_tokens=512)
    assert lab.adapter_of(lab.card.namespace) is None
    with pytest.raises(BadArgument, match="adapter of this run is no longer loaded"):
        lab.adapter_of((*lab.card.namespace, "adapter lost"))
    assert [len(layer) for layer in lab.attention((1, 2, 3))] == [4, 4]
    lab.close()
    for asks in (lambda: lab.score([ScoreJob((1,), ((2,),))]), lambda: lab.attention((1, 2))):
        with pytest.raises(EngineStopped):
            asks()
