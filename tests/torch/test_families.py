"""Every kind of layer that torch computes is what transformers computes: whole, in chunks, cached, batched, exact, past its window."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from sgl_lab.contracts.errors import ModelError
from sgl_lab.engine.compute.kernels.linear import Linear
from sgl_lab.engine.compute.kernels.native.pack import Kind
from sgl_lab.engine.compute.models.decoder import Decoder
from sgl_lab.engine.compute.models.executors import NATIVE, fitted
from sgl_lab.engine.compute.models.families import FAMILIES, spec_from_config
from sgl_lab.engine.compute.models.load import load_model
from sgl_lab.engine.compute.models.packed import pack_decoder
from sgl_lab.engine.compute.runners.runner import TorchRunner
from sgl_lab.engine.files.weights import Checkpoint

from .family_models import CONFIGS, PROMPT, edge, largest_difference, made
from .gguf_files import write_family_gguf
from .tiny import ALL, CONFIG, TOKENIZER, Sequences, load_tiny, scores, write_tiny

N = 100


def rows_of(model: Decoder, page_size: int = 4) -> Sequences:
    return Sequences(None, page_size, 256, runner=TorchRunner(model, 256, page_size))  # type: ignore[arg-type]


def test_every_family_is_compared() -> None:
    assert {family.model_type for family in FAMILIES} <= {changes["model_type"] for changes in CONFIGS.values()}


@pytest.mark.parametrize("changes", CONFIGS.values(), ids=CONFIGS.keys())
def test_every_kind_of_layer_computes_as_in_transformers(tmp_path: Path, changes: dict[str, Any]) -> None:
    model, wanted = made(tmp_path, changes)
    assert wanted.std() > 0.3

    def same(found: torch.Tensor, first: int) -> None:
        torch.testing.assert_close(found, wanted[first : first + len(found)], rtol=0, atol=2e-4)

    rows = rows_of(model)
    same(scores(rows.run(rows.row(1, PROMPT, n_targets=N))[0]), 0)
    rows = rows_of(model)
    done = 0
    for n in (7, 30, 1, 1, 40, 1, 18):
        first, second = rows.row(1, PROMPT[done : done + n], n_targets=n), rows.row(2, PROMPT[done : done + n], n_targets=1)
        outputs = rows.run(first, second, rows.row(10 + done, PROMPT[:3]))
        same(scores(outputs[0]), done)
        same(scores(outputs[1]), done + n - 1)
        done += n
    rows.adopt(3, 1)
    again = rows.row(3, PROMPT[96:], n_targets=4)
    same(scores(rows.run(again)[0]), 96)
    rows = rows_of(model)
    for start, end in ((0, 37), (37, 38), (38, N)):
        row = replace(rows.row(4, PROMPT[start:end], n_targets=end - start), is_exact=True)
        same(scores(rows.run(row)[0]), start)


GGUF = {
    "mistral, sliding": "llama", "llama 1": "llama", "qwen2": "qwen2", "qwen3": "qwen3", "gemma2": "gemma2", "gemma3": "gemma3",
    "phi3, sliding": "phi3", "phi3, turning in part": "phi3", "phi3, longrope": "phi3", "olmo2": "olmo2", "granite": "granite",
    "mixtral": "llama", "qwen2_moe": "qwen2moe", "qwen3_moe": "qwen3moe", "arcee": "arcee", "smollm3": "smollm3",
}  # fmt: skip
"""configurations that a GGUF can express, and its name for their architecture"""
ADDS: dict[str, dict[str, Any]] = {
    "llama 1": {"attention_bias": False, "mlp_bias": False},
    "mistral, sliding": {"max_position_embeddings": 100, "sliding_window": 100},
    "qwen3_moe": {"mlp_only_layers": []},
    "gemma2": {"query_pre_attn_scalar": 32, "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0}
    | {"tie_word_embeddings": True},
    "gemma3": {"query_pre_attn_scalar": 32, "tie_word_embeddings": True},
    "smollm3": {"num_hidden_layers": 4, "no_rope_layers": [1, 1, 1, 0], "use_sliding_window": False},
}
"""what a GGUF cannot say otherwise"""


@pytest.mark.parametrize("name", GGUF)
def test_a_family_in_a_gguf_is_the_same_model(tmp_path: Path, name: str) -> None:
    changes = CONFIGS[name] | ADDS.get(name, {})
    _, wanted = made(tmp_path / "hf", changes)
    defaults = {key: value for key, value in {"num_experts_per_tok": {"mixtral": 2, "qwen2_moe": 4}.get(name)}.items() if value}
    path = write_family_gguf(tmp_path / "m.gguf", tmp_path / "hf", CONFIG | defaults | changes, GGUF[name], TOKENIZER)
    rows = Sequences(load_model(path, name="m", device="cpu", dtype="float32", cache_dir=tmp_path), 4)
    torch.testing.assert_close(scores(rows.run(rows.row(1, PROMPT, n_targets=N))[0]), wanted, rtol=0, atol=2e-4)


@pytest.mark.parametrize("seed", range(len(FAMILIES)), ids=[family.model_type for family in FAMILIES])
def test_a_configuration_at_the_edge_is_equal_or_refused_by_name(tmp_path: Path, seed: int) -> None:
    """One of each family; `benchmarks/families.py` tries many."""
    difference = largest_difference(tmp_path, edge(seed))
    assert difference is None or difference < 5e-4


def test_what_left_the_window_is_not_read(tmp_path: Path) -> None:
    """So its pages could be given to others."""
    model, wanted = made(tmp_path, CONFIGS["mistral, sliding"])
    rows = rows_of(model, 1)
    rows.run(rows.row(1, PROMPT[:60]), rows.row(2, PROMPT[:60]), rows.row(3, PROMPT[:60]))
    for request in (1, 2, 3):
        rows.runner.kv.poison(rows.pages(request)[: 60 - 15])
    exact = replace(rows.row(3, PROMPT[60:63], n_targets=3), is_exact=True)
    for output in rows.run(rows.row(1, PROMPT[60:61], n_targets=1), rows.row(2, PROMPT[60:63], n_targets=3), exact):
        found = scores(output)
        torch.testing.assert_close(found, wanted[60 : 60 + len(found)], rtol=0, atol=2e-4)


def test_an_exact_row_has_the_same_bits_in_any_company_past_its_window_too(tmp_path: Path) -> None:
    model, _ = made(tmp_path, CONFIGS["gemma2"])
    found = []
    for cuts in ([0, N], [0, 13, 14, 50, N]):
        rows = rows_of(model)
        parts = []
        for start, end in pairwise(cuts):
            row = replace(rows.row(1, PROMPT[start:end], n_targets=end - start), is_exact=True)
            parts.append(scores(rows.run(rows.row(50 + start, PROMPT[:9]), row)[1]))
        found.append(torch.cat(parts))
    assert torch.equal(*found)


def test_a_bias_on_some_of_what_is_stacked_is_zero_on_the_rest() -> None:
    spec = spec_from_config(CONFIG | {"head_dim": 32})
    layer = replace(spec.only, attention=replace(spec.only.attention, biases=frozenset({"k", "v"})))
    spec = fitted(replace(spec, layers=(layer,) * 2), NATIVE)
    shapes = spec.tensors()
    generator = torch.Generator().manual_seed(0)
    stored = {name: torch.randn(shape, generator=generator) * 0.1 for name, shape in shapes.items()}

    def read(*names: str, dtype: torch.dtype | None = None) -> torch.Tensor:
        return torch.cat([stored[name] for name in names]).to(dtype or torch.float32)

    plain = Decoder(spec, read, device=torch.device("cpu"), dtype=torch.float32)
    bias = plain.layers[0].qkv.bias
    assert bias is not None
    k_and_v = [stored[f"model.layers.0.self_attn.{x}_proj.bias"] for x in "kv"]
    assert torch.equal(bias, torch.cat([torch.zeros(128), *k_and_v]))
    assert plain.layers[0].out.bias is None
    packed = pack_decoder(spec, Kind.BF16, read).twin().layers[0].qkv
    assert isinstance(packed, Linear)
    assert packed.bias is not None
    assert torch.equal(packed.bias, bias)


def test_a_mistral_goes_past_its_window(tmp_path: Path) -> None:
    folder = write_tiny(tmp_path, architectures=["MistralForCausalLM"], model_type="mistral", sliding_window=64, head_dim=32)
    assert load_tiny(folder).spec.context == 256
    assert load_model(folder, name="tiny", device="cpu", dtype="int8", native=True, cache_dir=folder).spec.context == 256


def test_what_an_executor_does_not_compute_is_refused_before_a_weight_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_tiny(tmp_path, hidden_act="gelu", head_dim=16)

    def read(*_: object, **__: object) -> None:
        raise AssertionError("a weight is read")

    monkeypatch.setattr(Checkpoint, "read", read)
    with pytest.raises(ModelError, match="head_dim 16 is not a multiple of 32, which the native step needs") as caught:
        load_tiny(folder, "int8")
    assert caught.value.hint == "use dtype float32"


def test_without_a_dtype_torch_computes_what_the_native_step_does_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sgl_lab.engine.compute.models.load._SMALL", 0)  # a small model is fast enough without a remark
    folder = write_tiny(tmp_path, hidden_act="gelu", head_dim=16)
    loaded = load_model(folder, name="tiny", device="cpu", native=True, cache_dir=folder)
    assert (loaded.dtype, type(loaded.model)) == ("float32", Decoder)
    assert loaded.remark == "torch computes tiny, several times slower: head_dim 16 is not a multiple of 32, which the native step needs"
    rows = Sequences(loaded, 1)
    assert scores(rows.run(rows.row(1, PROMPT[:5], n_targets=5))[0]).shape == (5, len(ALL))
