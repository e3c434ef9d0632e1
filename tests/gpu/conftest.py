"""Kernels run on the GPU where there is one, else under Triton's interpreter.

The interpreter has to be asked for before Triton is first imported: its own library (`tl.sum`, `tl.max`) is made
of kernels too. Pytest reads this file before it imports any test beside it, and nothing that it collects earlier
loads Triton. Whatever needs compiled kernels without a GPU does so in a process of its own.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib.util import find_spec

import pytest
import torch

from sgl_lab.engine.compute.kernels.linear import Linear
from sgl_lab.engine.compute.models.decoder import Decoder
from sgl_lab.engine.compute.models.families import spec_from_config
from sgl_lab.engine.files.weights import Checkpoint

from ..torch.tiny import CONFIG, write_tiny

if find_spec("triton") is None:
    collect_ignore_glob = ["test_*.py"]
elif not torch.cuda.is_available():
    if "triton" in sys.modules and os.environ.get("TRITON_INTERPRET") != "1":
        raise pytest.UsageError("Triton was loaded before tests/gpu could ask for its interpreter: run tests/gpu alone, or first")
    os.environ["TRITON_INTERPRET"] = "1"

DTYPES = [torch.float32, torch.float16]
if torch.cuda.is_available():
    DTYPES.append(torch.bfloat16)  # the interpreter's `tl.dot` multiplies the bits of bfloat16 as integers


@pytest.fixture(params=DTYPES, ids=lambda dtype: str(dtype).removeprefix("torch."))
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    """Of weights and activations."""
    found: torch.dtype = request.param
    return found


@pytest.fixture(scope="session")
def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory, device: torch.device) -> Decoder:
    """The tiny one in float32, as on a GPU: no linear is laid out for a CPU."""
    folder = write_tiny(tmp_path_factory.mktemp("models") / "tiny")
    with Checkpoint(folder) as checkpoint:

        def linear(names: Sequence[str], bias: torch.Tensor | None) -> Linear:
            return Linear(checkpoint.read(*names).to(device), bias, pack=False)

        return Decoder(spec_from_config(CONFIG), checkpoint.read, device=device, dtype=torch.float32, linear=linear)
