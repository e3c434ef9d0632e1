"""The same tokens and bitwise the same logprobs: cold, cached, evicted, preempted, batched, chunked, beside what is computed fast."""

from __future__ import annotations

import ctypes
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from sgl_lab.backends.local import LocalBackend
from sgl_lab.contracts.capabilities import TOKEN_LEVEL
from sgl_lab.contracts.events import silent
from sgl_lab.contracts.port import GenJob, ModelCard, ScoreJob
from sgl_lab.engine.compute.kernels.native import build
from sgl_lab.engine.compute.models.load import LoadedModel, load_model
from sgl_lab.engine.compute.runners.choose import make_runner
from sgl_lab.engine.files import store
from sgl_lab.engine.serving.config import EngineConfig
from sgl_lab.engine.serving.engine import Engine
from sgl_lab.engine.serving.resident import Resident

from ..pure.driving import SOAK, Listener
from ..torch.tiny import write_tiny
from .programs import Key, Recorder, answer_bits, program

N_PROGRAMS = {"torch": 12 if SOAK == 1 else 500, "native": 16 if SOAK == 1 else 500, "smollm2": 4 if SOAK == 1 else 60}
DEADLINE_S = 300.0 * SOAK


@dataclass(frozen=True)
class Way:
    name: str
    n_threads: int
    config: dict[str, int] = field(default_factory=dict)
    n_rounds: int = 1
    room: int | None = None
    """the pool in largest requests; None is plenty"""
    with_fast: bool = False
    """the same programs run beside it as fast as can be"""


REFERENCE = Way("reference", 8, {"draft_tokens": 0})
WARM = Way("warm", 8)
WAYS = (
    Way("drafted", 8, n_rounds=2),
    Way("after eviction", 4, n_rounds=2, room=1),
    Way("8 rows", 8, {"max_rows": 8}),
    Way("64 rows", 64, {"max_rows": 64, "step_tokens": 4096}),
    Way("chunks of 16", 8, {"max_rows": 8, "step_tokens": 16}),
    Way("chunks of 128", 32, {"step_tokens": 128, "page_size": 4}),
    Way("beside fast ones", 8, {"page_size": 16}, with_fast=True),
)


@dataclass
class Stand:
    """A resident engine with a deterministic and a fast backend."""

    exact: LocalBackend
    fast: LocalBackend
    resident: Resident


def made(loaded: LoadedModel, library: ctypes.CDLL | None, **config: Any) -> Engine:
    chosen = EngineConfig(**config)
    runner = make_runner(loaded.model, library, chosen.n_pages, chosen.page_size)
    return Engine(chosen, runner, loaded.tokenizer, context=loaded.spec.context, namespace=loaded.namespace)


@contextmanager
def standing(loaded: LoadedModel, library: ctypes.CDLL | None, **config: int) -> Iterator[Stand]:
    resident = Resident(made(loaded, library, **config))

    def backend(is_deterministic: bool) -> LocalBackend:
        can = replace(TOKEN_LEVEL, deterministic=is_deterministic)
        card = ModelCard("test", (), loaded.spec.context, loaded.tokenizer.n_vocab, "cpu", "test", can)
        return LocalBackend(resident, loaded.tokenizer, card, silent)

    try:
        yield Stand(backend(True), backend(False), resident)
        resident.check()
    finally:
        resident.close()


def run(way: Way, stand: Stand, n_programs: int) -> Recorder:
    """What the programs of the last round got; those of earlier rounds run for what they leave behind."""
    numbers = [{"number": number} for number in range(n_programs)]
    company = threading.Thread(target=program.run_batch, args=(numbers,), kwargs={"backend": stand.fast, "num_threads": 8})
    if way.with_fast:
        company.start()
    for _ in range(way.n_rounds):
        recorder = Recorder(stand.exact)
        program.run_batch(numbers, backend=recorder, num_threads=way.n_threads)
        assert not recorder.unlike
    if way.with_fast:
        company.join(DEADLINE_S)
    return recorder


def pressed(engine: Engine, known: Recorder) -> tuple[dict[Key, bytes], int]:
    """All requests of `known` at once, of whom some give way again and again; and how often one did."""
    draw = random.Random(0)
    listener: dict[Key, Listener] = {}
    for key, job in known.jobs.items():
        listener[key] = Listener()
        engine.add(engine.gen(job, listener[key], exact=True) if isinstance(job, GenJob) else engine.score(job, listener[key], exact=True))
    scheduler = engine._scheduler
    while engine.step():
        if scheduler.running and draw.random() < 0.5:
            scheduler._preempt(draw.choice(scheduler.running))
    engine.check()
    return {key: answer_bits(h.answer) for key, h in listener.items()}, engine.stats()["preemptions"]


class Alone:
    """Waits for one answer."""

    def __init__(self) -> None:
        self.is_over = threading.Event()

    def on_progress(self, index: int, text: str, ids: tuple[int, ...]) -> None: ...

    def on_done(self, answer: Any) -> None:
        self.is_over.set()

    on_error = on_done


def cold(stand: Stand, known: Recorder) -> dict[Any, bytes]:
    """Each request of `known` by itself, nothing cached."""
    alone = Recorder(stand.exact)
    for job in known.jobs.values():
        stand.resident.flush()
        listener = Alone()
        if isinstance(job, GenJob):
            alone.submit(job, listener)
        else:
            alone.score(job, listener)
        assert listener.is_over.wait(DEADLINE_S)
    return alone.got


def job_size(job: GenJob | ScoreJob) -> int:
    """Tokens that get KV, at most."""
    return len(job.prompt) + (job.params.max_tokens or 0 if isinstance(job, GenJob) else max(map(len, job.choices)))


@pytest.fixture(scope="module")
def library() -> ctypes.CDLL | None:
    if build.obstacle() is None:
        build.build(store.cache_dir())
    return build.load(store.cache_dir())


@pytest.fixture(scope="module", params=["torch", "native", "smollm2"])
def model(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, library: ctypes.CDLL | None
) -> tuple[str, LoadedModel, ctypes.CDLL | None]:
    kind: str = request.param
    if kind != "torch" and library is None:
        pytest.skip(f"no native step here: {build.obstacle()}")
    if kind == "smollm2":
        return kind, load_model(store.resolve(kind), name=kind, device="cpu", native=True, cache_dir=store.cache_dir()), library
    folder = tmp_path_factory.mktemp("models") / kind
    size = {"hidden_size": 128, "intermediate_size": 160, "head_dim": 32} if kind == "native" else {}
    write_tiny(folder, max_position_embeddings=2048, scale=0.1, **size)
    dtype = "int8" if kind == "native" else "float32"
    loaded = load_model(folder, name=kind, device="cpu", dtype=dtype, native=library is not None, cache_dir=folder)
    return kind, loaded, library if kind == "native" else None


def test_every_way_of_running_a_program_gives_the_same_bits(
    model: tuple[str, LoadedModel, ctypes.CDLL | None], record_table: Callable[..., None]
) -> None:
    kind, loaded, library = model
    n_programs = N_PROGRAMS[kind]

    def tell(way: str, n_requests: int, cached: float | None, stats: dict[str, Any]) -> None:
        hits = "" if cached is None else f"{cached:.0%}"
        figures = {"hits": f"{hits:<4}"} | {name: f"{stats[name]:<5}" for name in ("accepted_tokens", "evictions", "preemptions")}
        record_table("R6", model=f"{kind:<7}", programs=n_programs, requests=n_requests, way=f"{way:<16}", **figures)

    def tell_run(way: Way, found: Recorder, stand: Stand) -> None:
        usages = [output.usage for output in found.outputs.values()]
        cached, prompts = (sum(getattr(usage, f"{name}_tokens") for usage in usages) for name in ("cached", "prompt"))
        tell(way.name, len(found.got), cached / prompts, stand.resident.stats())

    plenty = 400 * n_programs
    with standing(loaded, library, **REFERENCE.config, n_pages=plenty) as stand:
        wanted = run(REFERENCE, stand, n_programs)
        warm = run(WARM, stand, n_programs)
        assert warm.got == wanted.got
        computed = [output for output in warm.outputs.values() if output.usage.model_steps]  # none where all is forced
        assert all(output.usage.cached_tokens == output.usage.prompt_tokens - 1 - len(output.healed or ()) for output in computed)
        assert cold(stand, wanted) == wanted.got
        tell_run(REFERENCE, wanted, stand)
        tell_run(WARM, warm, stand)
    assert len(wanted.got) > 3 * n_programs
    largest = max(map(job_size, wanted.jobs.values()))
    for way in WAYS:
        n_pages = (plenty if way.room is None else way.room * largest) // way.config.get("page_size", 1)
        with standing(loaded, library, **way.config, n_pages=n_pages) as stand:
            found = run(way, stand, n_programs)
            assert found.got == wanted.got, way.name
            tell_run(way, found, stand)
            assert way.name != "drafted" or stand.resident.stats()["accepted_tokens"] > n_programs
            assert way.room is None or stand.resident.stats()["evictions"] > n_programs
    engine = made(loaded, library, n_pages=3 * largest, max_rows=8)
    found_pressed, n_preempted = pressed(engine, wanted)
    tell("preempted", len(found_pressed), None, engine.stats())
    engine.close()
    assert found_pressed == wanted.got
    assert n_preempted > n_programs // 2
