"""Kinds of layers that a Llama does not have, through the kernels: what torch says, in chunks and past the window."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from sgl_lab.engine.compute.kernels.linear import Linear
from sgl_lab.engine.compute.models.decoder import Decoder
from sgl_lab.engine.compute.models.executors import GPU, fitted
from sgl_lab.engine.compute.models.families import spec_from_config
from sgl_lab.engine.compute.runners.gpu.device import DeviceRunner
from sgl_lab.engine.compute.runners.runner import TorchRunner

from ..torch.family_models import CONFIGS, config_of
from ..torch.tiny import Sequences, scores, tokens

PROMPT = tokens(20)


def made(changes: dict[str, Any], device: torch.device) -> Decoder:
    spec = fitted(spec_from_config(config_of(changes)), GPU)
    generator = torch.Generator().manual_seed(0)
    stored = {
        name: (torch.randn(shape, generator=generator) * 0.2 + ("norm" in name and not spec.norm_offset)).to(device)
        for name, shape in spec.tensors().items()
    }

    def read(*names: str, dtype: torch.dtype | None = None) -> Tensor:
        return torch.cat([stored[name] for name in names])

    def linear(names: Sequence[str], bias: Tensor | None) -> Linear:
        return Linear(read(*names), bias, pack=False)

    return Decoder(spec, read, device=device, dtype=torch.float32, linear=linear)


NAMES = ("qwen3", "gemma2, low caps", "phi3, turning in part", "olmo2", "qwen2_moe")
"""together they have every kind of layer but a feed-forward without a gate"""


@pytest.mark.parametrize("name", NAMES)
def test_a_family_on_the_kernels(device: torch.device, name: str) -> None:
    model = made(CONFIGS[name] | ({"sliding_window": 9} if "sliding_window" in CONFIGS[name] else {}), device)
    ours, theirs = (
        Sequences(None, 4, 64, runner=runner(model, 64, 4))  # type: ignore[arg-type]
        for runner in (DeviceRunner, TorchRunner)
    )
    for start, end in ((0, 17), (17, 19), (19, 20)):
        found, wanted = (
            rows.run(rows.row(1, PROMPT[start:end], n_targets=end - start), rows.row(2 + start, PROMPT[:1], n_targets=1))
            for rows in (ours, theirs)
        )
        for mine, its in zip(found, wanted, strict=True):
            torch.testing.assert_close(scores(mine), scores(its), rtol=0, atol=5e-5)
