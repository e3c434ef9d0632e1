"""Packed weights of a GGUF are kept: the second load packs nothing, and nothing but the right file is taken."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from sgl_lab.engine.compute.models import load as load_module
from sgl_lab.engine.compute.models.load import LoadedModel, load_model
from sgl_lab.engine.compute.models.packed import PackedDecoder
from sgl_lab.engine.files import store

from .gguf_files import write_gguf
from .tiny import write_tiny

N_PACKED = 0


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A GGUF in 4 bits; `N_PACKED` counts how often a model is packed."""
    global N_PACKED
    N_PACKED, pack = 0, load_module.pack_decoder

    def counted(*args: object) -> PackedDecoder:
        global N_PACKED
        N_PACKED += 1
        return pack(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(load_module, "pack_decoder", counted)
    monkeypatch.setenv("SGL_LAB_CACHE", str(tmp_path))
    folder = write_tiny(tmp_path / "tiny", num_attention_heads=2, num_key_value_heads=2, attention_bias=True)
    return write_gguf(tmp_path / "toy.gguf", folder, "Q4_0")


def loaded(file: Path, dtype: str | None = None) -> LoadedModel:
    return load_model(file, name="toy", device="cpu", dtype=dtype, native=True, cache_dir=store.cache_dir())


def kept() -> list[Path]:
    return sorted((store.cache_dir() / "converted").glob("*"))


def expect_same(one: LoadedModel, other: LoadedModel) -> None:
    assert isinstance(one.model, PackedDecoder)
    assert isinstance(other.model, PackedDecoder)
    assert (one.spec, one.dtype, one.namespace, one.n_bytes, one.model.kind) == (
        other.spec, other.dtype, other.namespace, other.n_bytes, other.model.kind
    )  # fmt: skip
    assert one.model.weights.keys() == other.model.weights.keys()
    for name, weight in one.model.weights.items():
        same = other.model.weights[name]
        assert (weight.kind, weight.n_out, weight.n_in) == (same.kind, same.n_out, same.n_in)
        assert torch.equal(weight.data, same.data)
        assert (weight.bias is None) == (same.bias is None)
        assert weight.bias is None or same.bias is None or torch.equal(weight.bias, same.bias)
    assert all(torch.equal(vector, other.model.vectors[name]) for name, vector in one.model.vectors.items())
    text = "hello <|end|> hé"
    assert one.tokenizer.encode(text, markup=True) == other.tokenizer.encode(text, markup=True)
    assert one.tokenizer.eos_ids == other.tokenizer.eos_ids


def test_a_gguf_is_packed_once_for_each_type(file: Path) -> None:
    expect_same(loaded(file), loaded(file))
    assert N_PACKED == 1
    expect_same(loaded(file, "int8"), loaded(file, "int8"))
    assert N_PACKED == 2
    assert [path.name.rsplit("-", 1)[1] for path in kept()] == ["int8.packed", "own.packed"]
    loaded(file, "bfloat16")
    assert len(kept()) == 2


def test_what_is_damaged_is_packed_again(file: Path) -> None:
    first = loaded(file)
    (path,) = kept()
    whole = path.read_bytes()
    for damaged in (b"", whole[:-1], whole[:200], whole + b"x", b"x" + whole[1:], whole[:90] + b"{" + whole[91:]):
        path.write_bytes(damaged)
        before = N_PACKED
        expect_same(first, loaded(file))
        assert N_PACKED - before == 1
        assert path.read_bytes() == whole


def test_a_file_that_was_written_again_replaces_what_was_kept(file: Path) -> None:
    loaded(file)
    (before,) = kept()
    os.utime(file, ns=(1, 1))
    loaded(file)
    (after,) = kept()
    assert N_PACKED == 2
    assert before != after


def test_it_is_removed_with_its_model_and_not_written_where_nothing_can_be(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded(file)
    assert [model.name for model in store.stored()] == ["toy"]
    assert store.remove("toy") > 0
    assert not kept()
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=0))
    loaded(file)
    assert not kept()
