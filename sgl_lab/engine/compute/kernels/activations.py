"""The units of feed-forwards, as torch computes them: of the torch step, and of the kernels' twins."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch.nn.functional as functional
from torch import Tensor

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": functional.silu,
    "gelu": functional.gelu,
    "gelu_tanh": partial(functional.gelu, approximate="tanh"),
    "relu": functional.relu,
    "relu2": lambda x: functional.relu(x).square(),
}
