"""A model that stays in 4 or 8 bits on the device computes with the very numbers of its file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from sgl_lab.engine.compute.kernels.linear import Linear
from sgl_lab.engine.compute.kernels.native.pack import Kind
from sgl_lab.engine.compute.models.convert import convert
from sgl_lab.engine.compute.models.decoder import Decoder
from sgl_lab.engine.compute.models.device_packed import packed_on_device
from sgl_lab.engine.compute.models.families import spec_from_config
from sgl_lab.engine.compute.models.grouped import Groups
from sgl_lab.engine.compute.runners.gpu.device import DeviceRunner
from sgl_lab.engine.compute.runners.runner import TorchRunner
from sgl_lab.engine.files.gguf_file import GgufFile
from sgl_lab.engine.files.small import read_json
from sgl_lab.engine.files.weights import Checkpoint

from ..torch.gguf_files import write_gguf
from ..torch.test_stored import PROMPT, SHAPES, SMALL, WRITERS, in_transformers, write_exact
from ..torch.tiny import Sequences, scores, tokens, write_tiny


@pytest.mark.parametrize(("stored", "kind", "tied"), [("Q4_1", Kind.Q4, False), ("Q8_0", Kind.Q8, True)])
def test_a_gguf_in_groups_computes_what_its_numbers_mean(tmp_path: Path, device: torch.device, stored: str, kind: Kind, tied: bool) -> None:
    folder = write_tiny(tmp_path / "tiny", num_attention_heads=2, num_key_value_heads=1, num_hidden_layers=1, tie_word_embeddings=tied)
    path = write_gguf(tmp_path / "tiny.gguf", folder, stored)
    unpacked = convert(path, "tiny", tmp_path, lambda done, total, text: None)
    spec = spec_from_config(read_json(unpacked / "config.json"))
    with Checkpoint(unpacked) as checkpoint:
        packed = packed_on_device(spec, kind, checkpoint.read, GgufFile(path), device, dtype=torch.float32)
        groups = Groups(spec, checkpoint.read, GgufFile(path))

        def linear(names: Sequence[str], bias: Tensor | None) -> Linear:
            numbers = groups.of(names, kind if ".layers." in names[0] else Kind.Q8)
            return Linear(numbers.floats().to(device), bias, pack=False)

        dense = Decoder(spec, checkpoint.read, device=device, dtype=torch.float32, linear=linear)
    assert packed.n_bytes < dense.n_bytes / 2
    prompt = tokens(9)
    ours = Sequences(None, 1, 64, runner=DeviceRunner(packed, 64))  # type: ignore[arg-type]
    theirs = Sequences(None, 1, 64, runner=TorchRunner(dense, 64))  # type: ignore[arg-type]
    wanted = scores(theirs.run(theirs.row(1, prompt, n_targets=9))[0])
    exact = replace(ours.row(2, prompt, n_targets=9), is_exact=True)
    for output in ours.run(ours.row(1, prompt, n_targets=9), exact):
        torch.testing.assert_close(scores(output), wanted, rtol=0, atol=5e-5)


@pytest.mark.parametrize(
    ("stored", "kind", "shape"),
    [
        ("safetensors BF16", None, 6),
        ("safetensors BF16", Kind.Q4, 7),
        ("shards of mixed types", Kind.Q8, 5),
        ("GGUF BF16", Kind.Q4, 4),
        ("GGUF Q5_0", Kind.Q8, 2),
    ],
)
def test_every_stored_type_computes_as_in_transformers(
    tmp_path: Path, device: torch.device, stored: str, kind: Kind | None, shape: int
) -> None:
    """In the type of the kernels' tests; biases, and heads of their own, are those of the shape."""
    path = WRITERS[stored](write_exact(tmp_path / "toy", SMALL | SHAPES[shape] | {"num_hidden_layers": 1}))
    wanted = in_transformers(path)[:9]
    folder = path if path.is_dir() else convert(path, "toy", tmp_path, lambda done, total, text: None)
    spec = spec_from_config(read_json(folder / "config.json"))
    with Checkpoint(folder) as checkpoint:

        def linear(names: Sequence[str], bias: Tensor | None) -> Linear:
            return Linear(checkpoint.read(*names, dtype=torch.float32).to(device), bias, pack=False)

        if kind is None:
            model = Decoder(spec, checkpoint.read, device=device, dtype=torch.float32, linear=linear)
        else:
            gguf = None if path.is_dir() else GgufFile(path)
            model = packed_on_device(spec, kind, checkpoint.read, gguf, device, dtype=torch.float32)
    rows = Sequences(None, 1, 64, runner=DeviceRunner(model, 64))  # type: ignore[arg-type]
    error = (scores(rows.run(rows.row(1, PROMPT[:9], n_targets=9))[0]) - wanted).abs()
    assert error.max() < (1e-3 if kind is None else 0.1)
    assert error.mean() < (1e-4 if kind is None else 0.02)
