"""Selects the device of a model: the requested GPU, or an available one; otherwise reports why not."""

from __future__ import annotations

from typing import NamedTuple

import torch

from ....contracts.errors import DeviceUnfit, ModelError
from ..kernels.gpu.fit import unfit_triton
from ..memory import free_bytes, machine_bytes

OLDEST = (8, 0)
"""compute capability (Ampere): bfloat16 in hardware, copies beside the arithmetic"""

_HINT = "use device cpu"


class FoundDevice(NamedTuple):
    device: torch.device
    remark: str | None = None
    """for the CPU, if there is a GPU: why the GPU is not used"""


def find_device(name: str | None) -> FoundDevice:
    """The device of that name: cpu, cuda or cuda:N. None is the first GPU that can run our kernels,
    else the CPU.

    ModelError for any other name; DeviceUnfit if the requested device does not exist or does not
    support them.
    """
    if name is None:
        if not torch.cuda.is_available():
            return FoundDevice(torch.device("cpu"))
        reasons = [unfit_gpu(index) for index in range(torch.cuda.device_count())]
        if None in reasons:
            return FoundDevice(torch.device("cuda", reasons.index(None)))
        return FoundDevice(torch.device("cpu"), reasons[0])
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ModelError(f"device {name!r} is unknown", hint="cpu, cuda or cuda:1") from None
    if device.type not in ("cpu", "cuda"):
        raise ModelError(f"device {name!r} is not supported", hint="cpu, cuda or cuda:1")
    if device.type == "cpu":
        return FoundDevice(torch.device("cpu"))
    index = device.index or 0
    if not torch.cuda.is_available():
        raise DeviceUnfit(f"device {name} is not available: {_no_cuda()}", hint=_HINT)
    if index >= (n := torch.cuda.device_count()):
        raise DeviceUnfit(f"device {name} is not available: torch sees {n} GPU{'s'[: n != 1]}, cuda:0 the first", hint=_HINT)
    if reason := unfit_gpu(index):
        raise DeviceUnfit(reason, hint=_HINT)
    return FoundDevice(torch.device("cuda", index))


def unfit_gpu(index: int) -> str | None:
    """Why our kernels cannot run on that GPU; None if they can."""
    try:
        name, capability = torch.cuda.get_device_name(index), torch.cuda.get_device_capability(index)
    except (RuntimeError, AssertionError) as error:
        return f"cuda:{index} does not answer: {str(error).splitlines()[0]}"
    if capability < OLDEST:
        had, needed = (".".join(map(str, version)) for version in (capability, OLDEST))
        return f"{name} (cuda:{index}) is too old: it has compute capability {had}, and {needed} is needed"
    if reason := unfit_triton():
        return f"{name} (cuda:{index}) cannot be used: {reason}"
    return None


def _no_cuda() -> str:
    if torch.version.cuda is None:
        return f"torch {torch.__version__} is built without CUDA"
    return f"torch {torch.__version__} finds no GPU, or no driver for CUDA {torch.version.cuda}"


def give_back() -> None:
    """Return the memory that torch keeps for later use to the GPUs."""
    torch.cuda.empty_cache()


class Memory(NamedTuple):
    """Of a device, in bytes."""

    device: str
    """its name as its maker gave it; empty for a CPU"""
    free: int | None
    """memory that can still be allocated; None if the system does not report it"""
    total: int


def memory_of(device: torch.device) -> Memory:
    if device.type == "cpu":
        return Memory("", free_bytes(), machine_bytes())
    free, total = torch.cuda.mem_get_info(device)
    return Memory(torch.cuda.get_device_name(device), free, total)
