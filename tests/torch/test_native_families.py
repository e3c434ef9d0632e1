"""Every kind of layer on the native step: as its torch twin computes it, and to the bit the same however a text is cut."""

from __future__ import annotations

import ctypes
from typing import Any

import pytest
import torch

from sgl_lab.engine.compute.kernels.native import build
from sgl_lab.engine.compute.kernels.native.pack import Kind
from sgl_lab.engine.compute.models.executors import NATIVE, fitted
from sgl_lab.engine.compute.models.families import FAMILIES, spec_from_config
from sgl_lab.engine.compute.models.packed import PackedDecoder, pack_decoder
from sgl_lab.engine.compute.runners.choose import make_runner

from .family_models import CONFIGS, TORCH_ALONE
from .tiny import CONFIG, Sequences, scores, tokens

pytestmark = pytest.mark.skipif(build.obstacle() is not None, reason=f"no native step here: {build.obstacle()}")

N = 330
PROMPT = tokens(N)
WIDE = {"hidden_size": 128, "max_position_embeddings": 512}
"""heads of 32 dimensions"""


def packed(changes: dict[str, Any], kind: Kind) -> PackedDecoder:
    """A random model of a family."""
    (name,) = (family.architecture for family in FAMILIES if family.model_type == changes["model_type"])
    config = CONFIG | {"architectures": [name]} | ({"hidden_act": "relu2"} if name.startswith("Arcee") else {}) | WIDE | changes
    if "sliding_window" in changes:
        config["sliding_window"] = 70
    if config.get("head_dim") == 16:
        config["head_dim"] = 32
    if "short_factor" in config.get("rope_scaling", {}):
        config["rope_scaling"] = {"type": "longrope", "short_factor": [1.0 + i / 8 for i in range(16)], "long_factor": [2.0] * 16}
        config["original_max_position_embeddings"] = 400
    spec = fitted(spec_from_config(config), NATIVE)
    generator = torch.Generator().manual_seed(0)
    stored = {
        name: torch.randn(shape, generator=generator) * 0.1 + ("norm" in name and not spec.norm_offset)
        for name, shape in spec.tensors().items()
    }

    def read(*names: str, dtype: torch.dtype | None = None) -> torch.Tensor:
        return torch.cat([stored[name] for name in names]).to(dtype or torch.float32)

    return pack_decoder(spec, kind, read)


def rows_of(model: PackedDecoder, library: ctypes.CDLL | None, page_size: int = 1, threads: int = 1) -> Sequences:
    return Sequences(None, page_size, 1024, runner=make_runner(model, library, 1024, page_size, threads=threads))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", [name for name in CONFIGS if CONFIGS[name]["model_type"] not in TORCH_ALONE])
def test_a_family_on_the_native_step(library: ctypes.CDLL, name: str) -> None:
    model = packed(CONFIGS[name], Kind.BF16)
    wanted, native = (rows.run(rows.row(1, PROMPT, n_targets=N))[0] for rows in (rows_of(model, None), rows_of(model, library)))
    difference = (scores(native) - scores(wanted)).abs()
    routed = any(layer.feed_forward.experts for layer in model.spec.layers)  # where two experts score alike, either may be chosen
    assert difference.mean() < 0.01
    assert (difference.amax(-1) < 0.15).float().mean() > (0.97 if routed else 0.999)
    rows, found = rows_of(model, library, 4), []
    for n in (7, 1, 1, 64, 130, 1, 90, 36):
        first = rows.row(1, PROMPT[len(found) : len(found) + n], n_targets=n)
        found += rows.run(rows.row(50 + n, PROMPT[:9]), first)[1].target_logprobs
    assert tuple(found) == native.target_logprobs
    rows.adopt(3, 1)
    rows.adopt(4, 1)
    tail = PROMPT[328:]
    for output in rows.run(*(rows.row(request, tail, n_targets=2) for request in (3, 4))):
        assert output.target_logprobs == native.target_logprobs[328:]


@pytest.mark.parametrize("name", ["qwen2", "gemma3", "qwen2_moe"])
@pytest.mark.parametrize("kind", [Kind.Q4, Kind.Q8])
def test_a_family_in_few_bits(library: ctypes.CDLL, name: str, kind: Kind) -> None:
    model = packed(CONFIGS[name], kind)
    runners = (rows_of(model, None), rows_of(model, library, threads=2))
    wanted, native = (rows.run(rows.row(1, PROMPT[:90], n_targets=90))[0] for rows in runners)
    assert (scores(native) - scores(wanted)).abs().mean() < 0.03


def test_what_left_the_window_is_not_read_by_the_native_step(library: ctypes.CDLL) -> None:
    model = packed(CONFIGS["mistral, sliding"], Kind.BF16)
    rows = rows_of(model, library)
    rows.run(*(rows.row(request, PROMPT[:300]) for request in (1, 2, 3)))
    whole = rows_of(model, library)
    wanted = whole.run(whole.row(1, PROMPT[:303], n_targets=3))[0].target_logprobs
    for request in (1, 2, 3):
        rows.runner.kv.poison(rows.pages(request)[: 300 - 69])
    one, three = rows.run(rows.row(1, PROMPT[300:301], n_targets=1), rows.row(2, PROMPT[300:303], n_targets=3))
    assert one.target_logprobs == wanted[:1]
    assert three.target_logprobs == wanted
