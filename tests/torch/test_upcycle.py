"""A Mixtral out of a dense Llama: equal to it without noise, a model of its own with it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from sgl_lab import cli
from sgl_lab.contracts.errors import BadArgument, ModelError
from sgl_lab.engine.compute.models.load import load_model
from sgl_lab.engine.compute.models.upcycle import upcycle
from sgl_lab.engine.files import store

from .tiny import write_tiny

IDS = torch.tensor([[5, 17, 3, 60, 61, 2, 9]])


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("models") / "dense")


def logits(folder: Path) -> torch.Tensor:
    """As transformers computes the folder."""
    with torch.inference_mode():
        return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)(IDS).logits  # type: ignore[no-any-return]


def test_without_noise_the_mixture_computes_what_the_dense_model_does(dense: Path, tmp_path: Path) -> None:
    mixture = upcycle(dense, tmp_path / "mixture", experts=4, active=2, noise=0)
    assert torch.allclose(logits(mixture), logits(dense), atol=2e-5)
    loaded = load_model(mixture, name="mixture", device="cpu", dtype="float32", cache_dir=tmp_path)
    assert {layer.feed_forward.experts is not None for layer in loaded.spec.layers} == {True}
    assert sorted(file.name for file in mixture.glob("tokenizer*")) == sorted(file.name for file in dense.glob("tokenizer*"))


def test_noise_makes_experts_differ_by_its_share_and_by_the_seed(dense: Path, tmp_path: Path) -> None:
    one, same, other = (upcycle(dense, tmp_path / str(n), noise=0.1, seed=seed) for n, seed in enumerate((0, 0, 1)))
    assert torch.equal(logits(one), logits(same))
    assert not torch.allclose(logits(one), logits(other), atol=1e-4)
    assert not torch.allclose(logits(one), logits(dense), atol=1e-4)
    state = AutoModelForCausalLM.from_pretrained(one, dtype=torch.float32).state_dict()
    gate_up = state["model.layers.0.mlp.experts.gate_up_proj"]
    dense_gate = AutoModelForCausalLM.from_pretrained(dense, dtype=torch.float32).state_dict()["model.layers.0.mlp.gate_proj.weight"]
    apart = (gate_up[0, : len(dense_gate)] - dense_gate).std() / dense_gate.std()
    assert 0.08 < apart < 0.12


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"experts": 1}, "2 to 64 experts"),
        ({"active": 5}, "not 5 of 4"),
        ({"noise": 1.5}, "noise is a share"),
    ],
)
def test_what_makes_no_mixture_is_refused(dense: Path, tmp_path: Path, given: dict[str, float], message: str) -> None:
    with pytest.raises(BadArgument, match=message):
        upcycle(dense, tmp_path / "mixture", **given)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_only_a_dense_llama_without_biases_is_taken(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no dense Llama"):
        upcycle(write_tiny(tmp_path / "biased", mlp_bias=True), tmp_path / "mixture")
    assert not (tmp_path / "mixture").exists()


def test_the_command_keeps_it_under_a_name_of_its_own(
    dense: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SGL_LAB_CACHE", str(tmp_path))
    assert cli.main(["model", "upcycle", str(dense), "--experts", "2"]) == 0
    assert "%sgl model dense-2x" in capsys.readouterr().out
    assert store.here("dense-2x") == tmp_path / "models" / "dense-2x"
    assert [model.name for model in store.stored()] == ["dense-2x"]
    assert store.remove("dense-2x") > 0
    assert store.here("dense-2x") is None
