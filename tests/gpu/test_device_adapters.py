"""LoRA adapters through the kernels: rows of one pass with different ones compute what torch computes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from sgl_lab.engine.compute.models.decoder import Decoder
from sgl_lab.engine.compute.runners.gpu.device import DeviceRunner
from sgl_lab.engine.compute.runners.runner import TorchRunner

from ..torch.test_adapters import ALL, write_adapter
from ..torch.tiny import Sequences, scores, tokens

PROMPT = tokens(4)


def test_rows_of_a_pass_have_their_own_adapters(model: Decoder, tmp_path: Path) -> None:
    both = [Sequences(None, 4, 96, runner=runner(model, 96, 4)) for runner in (DeviceRunner, TorchRunner)]  # type: ignore[arg-type]

    def load(name: str, seed: int, modules: tuple[str, ...]) -> None:
        folder = write_adapter(tmp_path / f"{name}{seed}", seed, modules)
        for rows in both:
            rows.runner.add_adapter(folder, name)

    def compare(first: int, a: int, b: int, *, exact: bool = False) -> list[torch.Tensor]:
        found = []
        for rows in both:
            keys = [None, *rows.runner.adapters.values()]
            batch = [replace(rows.row(first + n, PROMPT[a:b], n_targets=b - a), adapter=key, is_exact=exact) for n, key in enumerate(keys)]
            found.append([scores(output) for output in rows.run(*batch)])
        for mine, wanted in zip(*found, strict=True):
            torch.testing.assert_close(mine, wanted, rtol=0, atol=1e-4)
        return found[0]

    load("red", 0, ("q_proj", "v_proj"))
    load("blue", 1, ALL)
    whole = compare(1, 0, 2)
    assert all((one - other).abs().max() > 0.05 for n, one in enumerate(whole) for other in whole[:n])
    compare(1, 2, 3)  # rows of one token: a pass on buffers that stay
    load("red", 7, ("up_proj",))
    compare(1, 3, 4)
    compare(21, 0, 1, exact=True)
