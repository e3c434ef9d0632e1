"""The frequencies of rotary positions (Su et al. 2021, arXiv:2104.09864), stretched or not."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .spec import RopeScaling, Rotary


def inverse_frequencies(rotary: Rotary) -> Tensor:
    """Angle per position of each pair of dimensions, float32 [dims / 2]."""
    exponents = torch.arange(0, rotary.dims, 2, dtype=torch.int64).float() / rotary.dims
    frequencies = 1.0 / rotary.theta**exponents
    match rotary.scaling:
        case None:
            return frequencies
        case RopeScaling(kind="linear", factor=factor):
            return frequencies / factor
        case RopeScaling(kind="longrope", divisors=divisors):
            return 1.0 / (torch.tensor(divisors) * rotary.theta**exponents)
        case RopeScaling(kind="yarn") as scaling:
            return _yarn(frequencies, rotary, scaling)
        case scaling:
            return _llama3(frequencies, scaling)


def _llama3(frequencies: Tensor, scaling: RopeScaling) -> Tensor:
    """Slow frequencies divided by the factor, fast ones kept, a ramp between (Llama 3.1)."""
    turns = scaling.original_context * frequencies / (2 * math.pi)
    ramp = ((turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)).clamp(0, 1)
    return frequencies * (ramp + (1 - ramp) / scaling.factor)


def _yarn(frequencies: Tensor, rotary: Rotary, scaling: RopeScaling) -> Tensor:
    """The same with a ramp over the dimensions (Peng et al. 2023, arXiv:2309.00071)."""

    def dimension(n_turns: float) -> float:
        """The one that turns so often in the original context."""
        return rotary.dims * math.log(scaling.original_context / (n_turns * 2 * math.pi)) / (2 * math.log(rotary.theta))

    first, last = dimension(scaling.high_freq_factor), dimension(scaling.low_freq_factor)
    if scaling.is_truncated:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, rotary.dims - 1)
    if first == last:
        last += 0.001
    slow = ((torch.arange(rotary.dims // 2, dtype=torch.float32) - first) / (last - first)).clamp(0, 1)
    return frequencies / scaling.factor * slow + frequencies * (1 - slow)
