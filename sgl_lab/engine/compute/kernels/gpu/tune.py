"""Searches the best block sizes of every kernel for the shapes of a model, on an available GPU."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import mean

import torch
from torch import Tensor
from triton.testing import do_bench

from .cases import Case
from .tuning import Config, Key, search, trial

Call = Callable[[], Tensor]
Cost = Callable[[Config], float | None]


def tune(cases: Iterable[Case], cost_of: Callable[[Key, Sequence[Call]], Cost], tell: Callable[[str], None]) -> Mapping[Key, Config]:
    """Configurations better than the default, for every kernel and shape of the cases. `tell`
    receives a line before and after each.

    cost_of  the cost of a configuration for a key and all its calls, relative to the default; see
             `search`
    """
    calls: dict[Key, list[Call]] = {}
    defaults: dict[Key, Config] = {}
    for case in cases:
        with trial() as tried:
            case.call()
        for key, default in tried.asked.items():
            calls.setdefault(key, []).append(case.call)
            defaults[key] = default
    table = {}
    for n, (key, default) in enumerate(defaults.items(), 1):
        tell(f"[{n}/{len(defaults)}] {key}: measuring")
        best, cost = search(default, cost_of(key, calls[key]))
        changes = ", ".join(f"{name} {value} -> {best[name]}" for name, value in default.items() if best[name] != value)
        if changes:
            table[key] = best
        tell(f"[{n}/{len(defaults)}] {key}: " + (f"{changes}, {1 - cost:.0%} less time" if changes else "the defaults are best"))
    return table


def cost_on_gpu(key: Key, calls: Sequence[Call]) -> Cost:
    """The time of a configuration as a share of the default's, the mean over all calls."""
    with trial():
        expected = [call() for call in calls]
        took = [_milliseconds(call) for call in calls]

    def cost(config: Config) -> float | None:
        with trial({key: config}):
            try:
                if all(map(_are_near, (call() for call in calls), expected)):
                    return mean(_milliseconds(call) / default for call, default in zip(calls, took, strict=True))
            except Exception:  # no shared memory, no registers, a block that divides nothing: compilers and wrappers say it in many ways
                pass
        return None

    return cost


def _milliseconds(call: Call) -> float:
    return float(do_bench(call, warmup=10, rep=50, return_mode="median"))


def _are_near(found: Tensor, expected: Tensor) -> bool:
    """Up to the order of sums."""
    return torch.allclose(found.float(), expected.float(), rtol=0, atol=0.02 * float(expected.abs().max()))
