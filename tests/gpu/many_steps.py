"""How many binaries the steps of a long run need: a program of its own, as kernels must not be those of Triton's interpreter.

Nothing is computed: kernels are only listener. Prints how many there are after some steps, how many after many more, and how
many of these differ from another one in nothing but what is divisible by 16.
"""

from __future__ import annotations

import random
import sys
from array import array
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import compiled
import gpu_loads

from sgl_lab.contracts.ids import RequestId
from sgl_lab.contracts.params import SamplingParams
from sgl_lab.engine.compute.kernels.gpu.launch import Launch, listening
from sgl_lab.engine.compute.kernels.linear import Linear
from sgl_lab.engine.compute.models.decoder import Decoder
from sgl_lab.engine.compute.models.device_decoder import DeviceDecoder
from sgl_lab.engine.compute.runners.gpu.forward import Forward
from sgl_lab.engine.compute.runners.gpu.reading import Reading, RowRequest
from sgl_lab.engine.compute.runners.kv import KvStore
from sgl_lab.engine.plan import Row, Sampling

CPU = torch.device("cpu")
N_PAGES, PREFIX = 20_000, 300


class Run:
    """Requests that grow, some with a common beginning, in steps of all sizes."""

    def __init__(self) -> None:
        self._deal = random.Random(1)
        self._lengths = {request: self._deal.randint(1, 900) for request in range(1, 71)}

    def rows(self, n: int, most: int, *, is_exact: bool) -> list[Row]:
        """Of `most` new tokens or fewer each, those of one first."""
        rows = []
        for request in self._deal.sample(sorted(self._lengths), n):
            count = self._deal.choice([1, self._deal.randint(1, most)])
            start = self._lengths[request]
            self._lengths[request] = end = start + count
            own = [(request * 250 + place) % N_PAGES for place in range(min(end, PREFIX), end)]
            sampling = Sampling(SamplingParams(temperature=self._deal.choice([0.0, 1.0])), 1, 0, (), ())
            pages = array("i", [*range(min(end, PREFIX)), *own])
            rows.append(Row(RequestId(request), (5,) * count, start, pages, sampling, is_exact=is_exact))
        return sorted(rows, key=lambda row: len(row.tokens) > 1)


def random_model() -> Decoder:
    spec = gpu_loads.SPECS["tiny"]
    shapes = spec.tensors()

    def read(*names: str, dtype: torch.dtype | None = None) -> Tensor:
        return torch.cat([torch.randn(shapes[name], dtype=dtype) for name in names])

    return Decoder(spec, read, device=CPU, dtype=torch.float32, linear=lambda names, bias: Linear(read(*names), bias, pack=False))


def main() -> None:
    model = random_model()
    forward = Forward(DeviceDecoder(model, 4096), KvStore(model.spec, N_PAGES, 1, device=CPU, dtype=torch.float32))
    run, found = Run(), set[compiled.Variant]()
    counts = []

    def hear(launch: Launch) -> None:
        found.add(compiled.variant(launch))

    def step(n: int, most: int, *, is_exact: bool) -> None:
        rows = run.rows(n, most, is_exact=is_exact)
        ends, wanted = 0, []
        for row in rows:
            ends += len(row.tokens)
            wanted.append(ends - 1)
        samplings = [row.sample for row in rows if row.sample is not None]
        for part in forward.start(rows, wanted, samplings):
            Reading([RowRequest(sampling) for sampling in samplings][: len(part.logits)], part.logits, part.packed)

    with torch.inference_mode(), listening(hear):
        for n_steps in 24, 120:
            deal = random.Random(n_steps)
            for i in range(n_steps):
                step(deal.choice([1, 2, 3, 7, 16, 33, 64, 65]), 1 if i % 2 else 90, is_exact=i % 5 == 0)
            counts.append(len(found))
    kinds = {(variant.kernel, variant.signature, variant.constants) for variant in found}
    print(*counts, len(found) - len(kinds))


if __name__ == "__main__":
    main()
