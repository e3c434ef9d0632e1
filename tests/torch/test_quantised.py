"""GPTQ and AWQ: folders written as their tools pack them have the logits of the weights that they mean."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from sgl_lab.contracts.errors import ModelDamaged, ModelError
from sgl_lab.engine.compute.kernels.native.pack import Kind
from sgl_lab.engine.compute.models.load import load_model, read_spec
from sgl_lab.engine.compute.models.packed import PackedDecoder

from .tiny import CONFIG, Sequences, load_tiny, scores, tokens, write_tiny

WIDE = CONFIG | {"hidden_size": 128, "intermediate_size": 256, "head_dim": 32}
PROMPT = tokens(24)
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)


def words_down(numbers: torch.Tensor) -> torch.Tensor:
    """int32 [n / 8, m] of [n, m], as GPTQ's tools pack inputs."""
    packed = torch.zeros(len(numbers) // 8, numbers.shape[1], dtype=torch.int64)
    for i in range(len(numbers)):
        packed[i // 8] |= numbers[i].long() << (4 * (i % 8))
    return packed.to(torch.int32)


def words_across(numbers: torch.Tensor, order: tuple[int, ...] = tuple(range(8))) -> torch.Tensor:
    """int32 [n, m / 8] of [n, m]: number `order[i]` of eight is at bit 4 * i."""
    packed = torch.zeros(len(numbers), numbers.shape[1] // 8, dtype=torch.int64)
    for column in range(packed.shape[1]):
        for i, of in enumerate(order):
            packed[:, column] |= numbers[:, 8 * column + of].long() << (4 * i)
    return packed.to(torch.int32)


def write(folder: Path, base: Path, given: dict[str, Any], size: int, *, shuffled: bool = False) -> dict[str, torch.Tensor]:
    """A folder with random numbers in the place of the linears; returns the weights that they mean."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(WIDE | {"quantization_config": given}))
    (folder / "tokenizer.json").write_text((base / "tokenizer.json").read_text())
    generator = torch.Generator().manual_seed(0)
    meant, stored = load_file(base / "model.safetensors"), {}
    for name, weight in meant.items():
        if "proj" not in name:
            stored[name] = weight
            continue
        n_out, n_in = weight.shape
        quants = torch.randint(0, 16, (n_in, n_out), generator=generator)
        zeros = torch.randint(1, 16, (n_in // size, n_out), generator=generator)
        scales = (torch.rand(n_in // size, n_out, generator=generator) * 0.02 + 0.01).half()
        of = torch.arange(n_in) // size
        of = of[torch.randperm(n_in, generator=generator)] if shuffled else of
        meant[name] = ((quants - zeros[of]) * scales.float()[of]).T.contiguous()
        stem = name.removesuffix(".weight")
        if given["quant_method"] == "awq":
            some = {"qweight": words_across(quants, AWQ_ORDER), "qzeros": words_across(zeros, AWQ_ORDER), "scales": scales}
        else:
            less = 0 if given.get("checkpoint_format") == "gptq_v2" else 1
            some = {"qweight": words_down(quants), "qzeros": words_across(zeros - less), "scales": scales, "g_idx": of.int()}
        stored |= {f"{stem}.{part}": tensor for part, tensor in some.items()}
    save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})
    return meant


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("models") / "base", **WIDE)


@pytest.mark.parametrize(
    ("given", "size", "shuffled"),
    [
        ({"quant_method": "gptq", "bits": 4, "group_size": 64, "desc_act": False, "sym": True}, 64, False),
        ({"quant_method": "gptq", "bits": 4, "group_size": 32, "desc_act": True, "checkpoint_format": "gptq_v2"}, 32, True),
        ({"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True, "version": "gemm"}, 128, False),
    ],
    ids=["gptq", "gptq v2, desc_act", "awq"],
)
def test_the_numbers_mean_what_the_tools_meant(base: Path, tmp_path: Path, given: dict[str, Any], size: int, shuffled: bool) -> None:
    meant = write(tmp_path / "packed", base, given, size, shuffled=shuffled)
    floats = tmp_path / "floats"
    floats.mkdir()
    for file in ("config.json", "tokenizer.json"):
        (floats / file).write_text((base / file).read_text())
    save_file(meant, floats / "model.safetensors", metadata={"format": "pt"})
    ours, wanted = (Sequences(load_tiny(folder), 4) for folder in (tmp_path / "packed", floats))
    found, its = (scores(rows.run(rows.row(1, PROMPT, n_targets=len(PROMPT)))[0]) for rows in (ours, wanted))
    assert torch.equal(found, its)
    model = load_model(tmp_path / "packed", name="tiny", device="cpu", native=True, cache_dir=tmp_path).model
    assert isinstance(model, PackedDecoder)
    for name in ("model.layers.0.self_attn.o_proj.weight", "model.layers.1.mlp.down_proj.weight"):
        packed, weight = model.weights[name], meant[name]
        assert packed.kind is (Kind.Q8 if shuffled else Kind.Q4)
        largest = weight.view(len(weight), -1, 32).abs().amax(-1).repeat_interleave(32, 1)
        off = (packed.floats() - weight).abs()
        assert (off <= (largest / 254 * 1.01 if shuffled else 15 * 0.03 * 2**-11)).all()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"quant_method": "fp8"}, "quant_method 'fp8'"),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "quant_method 'bitsandbytes'"),
        ({"quant_method": "gptq", "bits": 3, "group_size": 128}, "bits 3"),
        ({"quant_method": "gptq", "bits": 4, "group_size": 16}, "group_size 16"),
        ({"quant_method": "gptq", "bits": 4, "group_size": 128, "checkpoint_format": "marlin"}, "checkpoint_format 'marlin'"),
        ({"quant_method": "awq", "bits": 4, "group_size": 128, "version": "gemv"}, "version 'gemv'"),
        ({"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": False}, "zero_point False"),
        ("int4", "quant_method None"),
    ],
)
def test_others_are_refused_by_name(base: Path, tmp_path: Path, given: object, message: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps(WIDE | {"quantization_config": given}))
    with pytest.raises(ModelError, match=message) as error:
        read_spec(tmp_path)
    assert "GGUF" in str(error.value.hint)


def test_floats_that_are_said_to_be_quantised_are_refused(base: Path, tmp_path: Path) -> None:
    write(tmp_path / "model", base, {"quant_method": "awq", "bits": 4, "group_size": 64}, 64)
    (tmp_path / "model" / "model.safetensors").write_bytes((base / "model.safetensors").read_bytes())
    with pytest.raises(ModelDamaged, match="no linear is stored so"):
        read_spec(tmp_path / "model")


def test_numbers_that_do_not_fit_are_refused(base: Path, tmp_path: Path) -> None:
    given = {"quant_method": "gptq", "bits": 4, "group_size": 64}
    write(tmp_path / "model", base, given, 64)
    stored = load_file(tmp_path / "model" / "model.safetensors")
    stem = "model.layers.0.self_attn.q_proj"
    for part, tensor, message in (
        ("scales", stored[f"{stem}.scales"][:1], "has shape"),
        ("qzeros", None, "is missing"),
        ("g_idx", stored[f"{stem}.g_idx"] + 7, "groups that are not there"),
        ("qweight", stored[f"{stem}.qweight"].float(), "wrong type"),
    ):
        changed = {name: value for name, value in stored.items() if name != f"{stem}.{part}"}
        if tensor is not None:
            changed[f"{stem}.{part}"] = tensor.contiguous()
        save_file(changed, tmp_path / "model" / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(ModelDamaged, match=message):
            load_tiny(tmp_path / "model")
