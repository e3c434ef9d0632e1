"""A model that loads is the model: every stored type, in every type it is computed in, gives what transformers computes."""

from __future__ import annotations

import ctypes
import json
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from sgl_lab.engine.compute.kernels.native import build
from sgl_lab.engine.compute.models.families import spec_from_config
from sgl_lab.engine.compute.models.load import LoadedModel, load_model
from sgl_lab.engine.compute.models.packed import PackedDecoder
from sgl_lab.engine.compute.runners.choose import make_runner
from sgl_lab.engine.files import store

from .gguf_files import values, write_gguf
from .tiny import CONFIG, Sequences, scores, tokens, write_tiny

FLOATS = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
PROMPT = tokens(24)
SMALL = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32}
WIDE = SMALL | {"hidden_size": 256, "intermediate_size": 256, "num_attention_heads": 8, "num_key_value_heads": 4, "num_hidden_layers": 1}
"""as blocks of 256 need it"""
SHAPES = [
    {"attention_bias": attention, "mlp_bias": mlp, "tie_word_embeddings": tied} for attention, mlp, tied in product((False, True), repeat=3)
]
COMPUTED = {
    "float32 on torch": ("float32", False, 5e-4),
    "bfloat16 on torch": ("bfloat16", False, 0.1),
    "bfloat16": ("bfloat16", True, 0.1),
    "int8": ("int8", True, 0.1),
    "int4": ("int4", True, 0.1),
}
"""dtype, whether packed for the native step, and the largest difference of a logprob (means are a quarter of that)"""


@pytest.fixture(scope="module")
def step() -> ctypes.CDLL | None:
    """The native step where this machine has one."""
    if build.obstacle() is None:
        build.build(store.cache_dir())
    return build.load(store.cache_dir())


def exact(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Weights that 4 bits in groups of 32 hold without rounding, so that no way to compute has an excuse."""
    if len(shape) == 1:
        return torch.randint(-8, 8, shape, generator=generator) / 16
    quants = torch.randint(-8, 8, (shape[0], shape[1] // 32, 32), generator=generator)
    quants[..., 3], quants[..., 17] = -8, 7
    return quants.view(shape) * 2.0 ** -torch.randint(5, 7, (shape[0], 1), generator=generator)


def write_exact(folder: Path, changes: dict[str, Any]) -> Path:
    write_tiny(folder, **changes)
    generator = torch.Generator().manual_seed(1)
    shapes = spec_from_config(CONFIG | changes).tensors()
    save_file({name: exact(shape, generator) + ("norm" in name) for name, shape in shapes.items()}, folder / "model.safetensors")
    return folder


def floats(kind: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        tensors = load_file(folder / "model.safetensors")
        save_file({name: tensor.to(FLOATS[kind]) for name, tensor in tensors.items()}, folder / "model.safetensors")
        return folder

    return write


def sharded(folder: Path) -> Path:
    """Two files, and types that differ from tensor to tensor, also among those that are multiplied together."""
    parts: list[dict[str, Tensor]] = [{}, {}]
    for i, (name, tensor) in enumerate(load_file(folder / "model.safetensors").items()):
        parts[i % 2][name] = tensor.to([*FLOATS.values()][i % 3])
    (folder / "model.safetensors").unlink()
    for i, part in enumerate(parts):
        save_file(part, folder / f"model-{i}.safetensors")
    index = {name: f"model-{i}.safetensors" for i, part in enumerate(parts) for name in part}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    return folder


def gguf(kind: str) -> Callable[[Path], Path]:
    return lambda folder: write_gguf(folder / "model.gguf", folder, kind)


WRITERS = {
    **{f"safetensors {kind}": floats(kind) for kind in FLOATS},
    "shards of mixed types": sharded,
    **{f"GGUF {kind}": gguf(kind) for kind in (*FLOATS, "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0")},
}


def in_transformers(path: Path) -> Tensor:
    """Logprobs [positions, vocab] of the prompt in float32."""
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = path if path.is_dir() else path.parent
    config = LlamaConfig(**json.loads((folder / "config.json").read_text()))
    if path.is_dir():
        tensors = {name: tensor.float() for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}
    else:
        heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
        tensors = {name: torch.from_numpy(value) for name, value in values(path, heads).items()}
    if config.tie_word_embeddings:
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
    model = LlamaForCausalLM(config)
    model.load_state_dict(tensors)
    with torch.inference_mode():
        return torch.as_tensor(model(torch.tensor([PROMPT])).logits[0].log_softmax(-1))


def ways(loaded: LoadedModel, step: ctypes.CDLL | None) -> Iterator[tuple[str, Tensor]]:
    """Logprobs as our runners compute them."""
    libraries = {"torch": None} | ({"native": step} if step is not None and isinstance(loaded.model, PackedDecoder) else {})
    for name, library in libraries.items():
        rows = Sequences(loaded, 1, 64, runner=make_runner(loaded.model, library, 64))  # type: ignore[arg-type]
        yield name, scores(rows.run(rows.row(1, PROMPT, n_targets=len(PROMPT)))[0])


def check(path: Path, step: ctypes.CDLL | None, computed: list[str]) -> None:
    wanted = in_transformers(path)
    assert wanted.std() > 0.5
    for name in computed:
        dtype, packed, close = COMPUTED[name]
        loaded = load_model(path, name="toy", device="cpu", dtype=dtype, native=packed, cache_dir=path.parent)
        assert isinstance(loaded.model, PackedDecoder) == packed
        for way, found in ways(loaded, step):
            error = (found - wanted).abs()
            assert error.max() < close, (name, way, error.max())
            assert error.mean() < close / 4, (name, way, error.mean())


CASES = [(stored, shape) for i, stored in enumerate(WRITERS) for shape in (range(8) if i in (2, 3) else (i % 8, 7 - i % 8))]
"""All shapes for bfloat16 and for shards, for the others two that differ in everything."""


@pytest.mark.parametrize(
    ("stored", "shape"), CASES, ids=lambda x: x if isinstance(x, str) else "+".join(k for k in SHAPES[x] if SHAPES[x][k])
)
def test_every_stored_type_computes_as_in_transformers(tmp_path: Path, step: ctypes.CDLL | None, stored: str, shape: int) -> None:
    computed = [name for name in COMPUTED if (name, stored) != ("int4", "GGUF Q5_1")]  # whose 5 bits are rounded to 4
    check(WRITERS[stored](write_exact(tmp_path / "toy", SMALL | SHAPES[shape])), step, computed)


@pytest.mark.parametrize("kind", ["Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"])
def test_blocks_of_256_compute_as_in_transformers(tmp_path: Path, step: ctypes.CDLL | None, kind: str) -> None:
    """Rounded to the 8 bits that they are kept in."""
    path = write_gguf(tmp_path / "toy.gguf", write_tiny(tmp_path, **WIDE), kind)
    check(path, step, ["float32 on torch", "bfloat16 on torch", "bfloat16", "int8"])
