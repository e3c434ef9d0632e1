"""Computes a plan with kernels on a GPU, in parallel to its caller: starts a step, samples, and
reads the results when they are needed.

The host waits for the device in one place, where results are read. Everything else is queued on one
stream, in order: reads and writes of the next step, including copied pages, follow those of this
step. On a CPU, under Triton's interpreter, the same code runs synchronously.
"""

from __future__ import annotations

import re
import threading
import time
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from itertools import accumulate, chain, islice
from pathlib import Path

import torch

from .....contracts.errors import DeviceUnfit, OutOfMemory
from .....contracts.ids import RequestId
from .....contracts.params import SamplingParams
from .....contracts.spans import Block
from ....plan import Plan, Row, RowOutput, Sampling, Score, output_of
from ...memory import mib
from ...models.adapters import Adapter, Loaded, read_adapter
from ...models.decoder import Decoder
from ...models.device_decoder import DeviceDecoder
from ...models.devices import memory_of
from ...models.executors import GPU, check_block
from ..kv import KvStore
from .forward import SIZES, Forward
from .numbers import order
from .reading import Read, Reading, RowRequest
from .sharing import LEAST
from .smaller import in_pieces
from .transfer import Array, fetched

Outputs = tuple[RowOutput, ...]


@dataclass(frozen=True, slots=True)
class _Rows:
    """Rows that are computed in one pass, in its order, and their requested results, by tokens of
    the flat batch.
    """

    rows: tuple[Row, ...]
    places: tuple[int, ...]
    """of the rows in the plan"""
    wanted: Mapping[int, RowRequest]
    """ascending"""

    @classmethod
    def of(cls, plan: Plan, places: Sequence[int]) -> _Rows:
        ordered = [places[i] for i in order([plan.rows[place] for place in places])]
        rows = tuple(plan.rows[place] for place in ordered)
        wanted: dict[int, RowRequest] = {}
        for row, end in zip(rows, _ends(rows), strict=True):
            for token, sampling in zip(range(end - row.n_draws, end), row.samplings, strict=True):
                wanted[token] = RowRequest(sampling)
            for token, target in zip(range(end - len(row.targets), end), row.scored, strict=True):
                if target[0]:
                    wanted[token] = wanted.get(token, RowRequest())._replace(target=target)
        return cls(rows, tuple(ordered), dict(sorted(wanted.items())))

    def outputs(self, reads: Iterator[Read]) -> Iterator[tuple[int, RowOutput]]:
        """Each row's position in the plan and its results; `reads` are those of `wanted`."""
        of_token = dict(zip(self.wanted, reads, strict=True))
        for row, place, end in zip(self.rows, self.places, _ends(self.rows), strict=True):
            draws = [of_token[token].draw for token in range(end - row.n_draws, end)]
            scored = range(end - len(row.targets), end)
            scores = tuple(of_token[token].score if target[0] else Score(()) for token, target in zip(scored, row.scored, strict=True))
            yield place, output_of(row, draws.__getitem__, scores)


def _ends(rows: Sequence[Row]) -> list[int]:
    return list(accumulate(len(row.tokens) for row in rows))


class DeviceRunner:
    """`plan.Runner`, and `plan.Overlapping`: `n_pages` pages of `page_size` tokens on the model's
    device, allocated at birth.

    The model's linears must not be laid out for a CPU. OutOfMemory if the pages do not fit. `sizes`
    and `shared_from` are those of `Forward`.
    """

    is_exact = False

    def __init__(self, model: Decoder, n_pages: int, page_size: int = 1, *, sizes: Sequence[int] = SIZES, shared_from: int = LEAST) -> None:
        self.page_size = page_size
        self.kv = KvStore(model.spec, n_pages, page_size, device=model.device, dtype=model.dtype)
        self.seconds = {"sampler": 0.0}
        self._device = model.device
        self._spec = model.spec
        self._adapters = Loaded[Adapter]()
        self._adding = threading.Lock()
        with self._at_work():
            self._n_weights = model.n_bytes
            on_device = DeviceDecoder(model, min(model.spec.context, n_pages * page_size))
            self._forward = Forward(on_device, self.kv, sizes=sizes, shared_from=shared_from)

    def try_out(self) -> None:
        """Run a prompt and a decode step before a user waits for them: this compiles the kernels
        and checks that they work.

        DeviceUnfit if they do not (no C compiler for Triton, a driver that is too old),
        OutOfMemory; the memory is then freed.
        """
        error = self._tried_out()
        self.seconds["sampler"] = 0.0
        self._forward.forget()
        if error is not None:
            self.close()
            try:
                raise error
            finally:
                del error  # else its frames, which know the weights, would wait for the collector

    def _tried_out(self) -> OutOfMemory | DeviceUnfit | None:
        sampling = Sampling(SamplingParams(temperature=0), 0, 0, (), ())
        pages = array("i", [0]) * -(-3 // self.page_size)
        prompt = Row(RequestId(0), (0, 0), 0, pages, sampling)
        try:
            for row in prompt, replace(prompt, tokens=(0,), start=2):
                (output,) = self.run(Plan(0, (row,)))
                if isinstance(output.error, OutOfMemory):
                    return output.error
        except Exception as error:  # compilers, loaders and drivers say it in many ways
            message = str(error).strip() or type(error).__name__
            return DeviceUnfit(f"{self._device} cannot run our kernels: {message.splitlines()[0]}", hint="use device cpu")
        return None

    def run(self, plan: Plan) -> Outputs:
        return self.start(plan)()

    def start(self, plan: Plan) -> Callable[[], Outputs]:
        plan = replace(plan, before_draws=_once(plan.before_draws))
        with self._at_work():
            started = self._tried(plan)
            if isinstance(started, OutOfMemory):
                self._give_back()
                started = self._tried(plan)
            if not isinstance(started, OutOfMemory):
                return started
            plan.before_draws()
            outputs = in_pieces(plan.rows, self._alone)
            return lambda: outputs

    def overlap(self, plan: Plan) -> Callable[[], Outputs]:
        with self._at_work():
            started = self._tried(plan)
            if isinstance(started, OutOfMemory):
                raise started
            return started

    def _alone(self, rows: Sequence[Row]) -> Outputs:
        started = self._tried(Plan(0, tuple(rows)))
        if isinstance(started, OutOfMemory):
            self._give_back()
            raise started
        return started()

    def _tried(self, plan: Plan) -> Callable[[], Outputs] | OutOfMemory:
        """The error is one of ours, as torch's holds on to all that the step had allocated."""
        try:
            return self._started(plan)
        except torch.OutOfMemoryError as error:
            message = str(error)
        return self._out_of_memory(message)

    def _started(self, plan: Plan) -> Callable[[], Outputs]:
        places = [[place for place, row in enumerate(plan.rows) if row.is_exact is is_exact] for is_exact in (False, True)]
        passes = [_Rows.of(plan, some) for some in places if some]
        readings: list[list[Reading]] = []
        arrivals: list[Callable[[], list[Array]]] = []
        spent: list[Callable[[], float]] = []
        self._forward.make_room(len(plan.rows))
        for some in passes:
            parts = self._forward.start(some.rows, [*some.wanted], [row.sampling for row in some.wanted.values()])
            if some is passes[0]:
                plan.before_draws()
            ended = _lap(self._device)
            wanted = iter(some.wanted.values())
            mine = []
            for part in parts:
                reading = Reading([*islice(wanted, len(part.logits))], part.logits, part.packed)
                self._forward.keep(part, reading.tokens)
                mine.append(reading)
            readings.append(mine)
            spent.append(ended())
            # Before the other pass: recordings share their memory, and it may overwrite the tokens
            # sampled by this one.
            arrivals.append(fetched([tensor for reading in mine for tensor in reading.tensors], self._device))

        def outputs() -> Outputs:
            found: dict[int, RowOutput] = {}
            for some, mine, arrived, seconds in zip(passes, readings, arrivals, spent, strict=True):
                arrays = iter(arrived())
                self.seconds["sampler"] += seconds()
                reads = chain.from_iterable(reading.read([*islice(arrays, len(reading.tensors))]) for reading in mine)
                found |= dict(some.outputs(reads))
            return tuple(found[place] for place in range(len(plan.rows)))

        return outputs

    @property
    def adapters(self) -> Mapping[str, str]:
        return self._adapters.names

    def add_adapter(self, folder: Path, name: str) -> None:
        """Read an adapter; new requests get the last one of a name. ModelError, OutOfMemory."""
        adapter = read_adapter(folder, name, self._spec)
        with self._adding, self._at_work():
            known = {**self._adapters.by_key, adapter.key: adapter}
            try:
                self._forward.adapt([*known.values()])
            except torch.OutOfMemoryError:
                message = f"{self._device} has no room for the adapter {name} beside {mib(self._n_weights)} of weights"
                raise OutOfMemory(message, hint="use a smaller cache_tokens or cache_mib") from None
            self._adapters.add(adapter, adapter)

    def check_block(self, block: Block) -> None:
        check_block(block, self._spec, GPU)

    def copy_page(self, source: int, target: int) -> None:
        with self._at_work():
            self.kv.copy_page(source, target)

    def close(self) -> None:
        self.kv.release()
        self._forward.release()
        del self._forward  # and with it the weights, if nothing else has them
        self._empty_cache()

    def _give_back(self) -> None:
        """Free the recordings and the memory that torch keeps for later use."""
        self._forward.release()
        self._empty_cache()

    def _empty_cache(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _out_of_memory(self, message: str) -> OutOfMemory:
        asked = re.search(r"allocate ([\d.]+ \w+)", message)
        free = memory_of(self._device).free
        return OutOfMemory(
            f"a step needs {'more memory' if asked is None else f'{asked[1]} more'}: {self._device} has "
            f"{'none' if free is None else mib(free)} free beside {mib(self._n_weights)} of weights and a cache of {mib(self.kv.n_bytes)}",
            hint="use a smaller cache_tokens or cache_mib",
        )

    @contextmanager
    def _at_work(self) -> Iterator[None]:
        """Kernels are started on the current device, so it has to be this one."""
        with torch.inference_mode(), torch.cuda.device(self._device) if self._device.type == "cuda" else nullcontext():
            yield


def _lap(device: torch.device) -> Callable[[], Callable[[], float]]:
    """Start a measurement. Called at the end of the queue; the result returns the seconds that the
    device took, once they have passed.
    """
    if device.type == "cuda":
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]  # torch's own
        start.record()

        def ended() -> Callable[[], float]:
            end.record()
            return lambda: float(start.elapsed_time(end)) / 1000
    else:
        started = time.perf_counter()

        def ended() -> Callable[[], float]:
            took = time.perf_counter() - started
            return lambda: took

    return ended


def _once(call: Callable[[], None]) -> Callable[[], None]:
    left = [call]
    return lambda: left.pop()() if left else None
