"""Lab: connects engine, backends, language and event log, and is the only place that does. Knows no
IPython.

Scripts, tests, the command line and the magics all use the same `Lab`.
"""

from __future__ import annotations

import ctypes
import gc
import os
import threading
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from operator import index
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakSet

from .contracts.capabilities import TOKEN_LEVEL
from .contracts.errors import BackendUnsupported, BadArgument, EngineStopped, ModelMissing, OutOfMemory, SglError
from .contracts.events import Emit, ModelLoaded
from .contracts.ids import Namespace, RequestId
from .contracts.policies import BELADY, EVICTIONS
from .contracts.port import ModelCard, ScoreJob, ScoreOutput, Usage, WarmJob
from .contracts.spans import Block, blocks_in, shown_at
from .contracts.tree import TreeSnapshot
from .engine.files.fetch import Progress, unseen
from .engine.serving.config import EngineConfig
from .engine.serving.forked import begin_to_load, check_not_forked, is_forked
from .engine.serving.replies import ReplyListener, encoded
from .engine.serving.scheduling.request import ADAPTER
from .lang.keywords import all_suggest
from .lang.state import ProgramState
from .recorded import RecordedLab
from .trace import Record

if TYPE_CHECKING:
    from ctypes import CDLL

    from .backends.local import LocalBackend
    from .engine.compute.models.devices import Memory
    from .engine.compute.models.load import LoadedModel
    from .engine.compute.runners.choose import AnyRunner
    from .engine.serving.resident import Resident
    from .engine.tools.drift import Drift
    from .engine.tools.measures import Measures
    from .engine.tools.simulate import Outcome

T = TypeVar("T")

BUILT_IN = "smollm2"

GPU_STEP_TOKENS = 4096
"""tokens of one step; fewer would leave a large GPU waiting"""

SPIN = "1000"
"""How long torch's threads spin for the next operator before they sleep; read when torch is first
imported.

On two cores with a second busy process (for example a browser that renders), libgomp's default of
300,000 decodes at 2 tokens/s in float32, and this value at 20. On an idle machine it costs a sixth
(38 instead of 46 tokens/s).
"""


@all_suggest
class Lab(RecordedLab):
    """A model in this process, its cache, and the log of its events.

    model          a built-in name (`smollm2`), a hub id, a folder or a .gguf file; also a
                   `pathlib.Path`. Models in the cache of the hub's own library need no network
    device         cpu, cuda, cuda:1; None is a GPU if there is one that our kernels support
    dtype          float32, bfloat16, int8 or int4. None is bfloat16 on CUDA. On a CPU, None is the
                   file's type (a GGUF's own 4 or 8 bits, otherwise bfloat16) on the native step if
                   it is built, and float32 on torch otherwise. On a CPU without bfloat16
                   instructions, a large model in bfloat16 is rounded to int8, and `notice` says so
    cache_tokens   size of the KV cache in tokens; `cache_mib` gives it in MiB instead. None is an
                   eighth of the free memory, at most 1 GiB; on a GPU four fifths of it, at most 64
                   contexts. If that allocation fails, half of it is tried, and so on
    page_size      tokens of one page of the cache
    schedule       which waiting request goes first: lpm (longest cached prefix, bounded), fcfs,
                   dfs-weight or random
    evict          which unused part of the tree is evicted first: lru, lfu, fifo, s3-fifo or
                   program (what no program waits for)
    reuse          what of a prompt may come from the cache: prefix (all that matches); to measure
                   what that is worth, sequence (only whole earlier sequences) or none
    draft_tokens   tokens drafted at a time from earlier text and verified in one step; 0 turns
                   drafts off
    jump_forward   whether tokens that a constraint forces are appended without a step of their own
    notes_experts  whether events say which experts each token passed through, where the model has
                   some and the CPU computes it; `%sgl tokens` shows them
    threads        CPU threads, at most 64 or four times the cores; None leaves torch's own choice
    seed           seed of requests without one
    deterministic  whether `backend` is `deterministic_backend`: the same tokens and bitwise the
                   same logprobs, whatever is cached and whatever else runs. The native step always
                   does so; on torch it costs speed
    emit           called with every event, in order, on a thread of its own. It may be slow, and may
                   call the lab. If it raises, it is not called again; if it falls 65,536 events
                   behind, it misses some, and a warning says so

    Raises ModelError for a problem with the model, DeviceUnfit for the device, OutOfMemory if the
    model or the cache is too large, BadArgument for other arguments, and EngineStopped in a process
    forked from one with a lab. Use it as a context manager or call `close`. A lab is closed when
    nothing refers to it, its backends or their programs any more.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] = BUILT_IN,
        *,
        device: str | None = None,
        dtype: str | None = None,
        cache_tokens: int | None = None,
        cache_mib: int | None = None,
        page_size: int = 1,
        schedule: str = "lpm",
        evict: str = "lru",
        reuse: str = "prefix",
        draft_tokens: int = 64,
        jump_forward: bool = True,
        notes_experts: bool = True,
        threads: int | None = None,
        seed: int = 0,
        deterministic: bool = False,
        emit: Emit | None = None,
        progress: Progress = unseen,
    ) -> None:
        check_not_forked()
        import_engine()
        self.model = model = os.fspath(model) if isinstance(model, os.PathLike) else model
        self.evict = evict
        _check_text(model=model, device=device, dtype=dtype)
        _check_sizes(page_size=page_size, threads=threads, cache_tokens=cache_tokens, cache_mib=cache_mib)
        config = EngineConfig(
            page_size=page_size,
            schedule=schedule,
            evict=evict,
            reuse=reuse,
            draft_tokens=draft_tokens,
            jump_forward=jump_forward,
            seed=seed,
        )
        _check_calls(emit, deterministic=deterministic, notes_experts=notes_experts)
        loaded, library = self._load(device, dtype, (cache_tokens or 0, cache_mib or 0), progress)
        if self._device.type == "cuda":
            progress(0, 1, "preparing kernels")
            config = replace(config, step_tokens=GPU_STEP_TOKENS)
        runner, n_pages = _runner(loaded, library, page_size, cache_tokens, cache_mib, threads, notes_experts)
        config = replace(config, n_pages=n_pages)
        self.n_bytes = loaded.n_bytes + runner.kv.n_bytes
        """of weights and cache"""
        super().__init__(emit)
        self._spelled: dict[int, str] = {}
        fast, self.deterministic_backend = self._start(config, loaded, runner)
        self.backend = self.deterministic_backend if deterministic else fast
        self.card = self.backend.describe()
        self.emit(ModelLoaded(model, loaded.namespace, loaded.device, loaded.dtype, n_pages, page_size, loaded.spec.context))

    def _load(self, device: str | None, dtype: str | None, cache: tuple[int, int], progress: Progress) -> tuple[LoadedModel, CDLL | None]:
        """Find the model's files and load them onto its device; also returns the native step, where
        that is built."""
        from .engine.compute.kernels.native import build
        from .engine.compute.models.devices import find_device
        from .engine.compute.models.load import CacheSize, load_model
        from .engine.files import store

        path, cache_dir = store.resolve(self.model, progress=progress), store.cache_dir()
        self._generation = store.generation(path)
        library = build.load(cache_dir)
        self._device, remark = find_device(device)
        begin_to_load()
        _collect_lost()
        has_native = library is not None
        loaded = load_model(
            path,
            name=self.model,
            device=str(self._device),
            dtype=dtype,
            native=has_native,
            cache_dir=cache_dir,
            cache=CacheSize(*cache),
            progress=progress,
        )
        self._tokenizer = loaded.tokenizer
        self.notice = remark or (build.advice() if loaded.device == "cpu" and not has_native else loaded.remark)
        return loaded, library

    def _start(self, config: EngineConfig, loaded: LoadedModel, runner: AnyRunner) -> tuple[LocalBackend, LocalBackend]:
        """Start the engine's thread; returns the fast backend and the deterministic one.

        The latter gives the same tokens and bitwise the same logprobs on one kind of CPU or GPU,
        whatever is cached and whatever runs beside a program. Both are one where the runner
        computes so anyway.
        """
        from .backends.local import LocalBackend
        from .engine.serving.engine import Engine
        from .engine.serving.resident import Resident

        namespace, context, tokenizer = loaded.namespace, loaded.spec.context, loaded.tokenizer
        self._runner = runner
        engine = Engine(config, runner, tokenizer, context=context, namespace=namespace, emit=self.emit)
        self._resident = Resident(engine, cursor=partial(getattr, self.ring, "cursor"), after_close=_trim)
        with _known:
            _labs.add(self)
            _residents.add(self._resident)
        self._sight = sight = loaded.sight
        n_positions = 0 if sight is None else sight.n_positions
        can = replace(TOKEN_LEVEL, chat_template=tokenizer.has_chat_template, deterministic=runner.is_exact, images=sight is not None)
        can = replace(can, adapters=engine.adapting is not None)
        about = (loaded.device, loaded.dtype, can, tokenizer.tool_style, n_positions, tokenizer.reasoning_marks)
        card = ModelCard(self.model, namespace, context, tokenizer.n_vocab, *about)
        see = None if sight is None else sight.see
        fast = LocalBackend(self._resident, tokenizer, card, self.emit, see, self.ring.listen)
        if runner.is_exact:
            return fast, fast
        exact_card = replace(card, namespace=engine.exact_namespace, capabilities=replace(can, deterministic=True))
        return fast, LocalBackend(self._resident, tokenizer, exact_card, self.emit, see, self.ring.listen)

    def backend_for(self, *, deterministic: bool = False) -> LocalBackend:
        return self.deterministic_backend if deterministic else self.backend

    @property
    def page_size(self) -> int:
        """Tokens of one page of the cache."""
        return self._resident.engine.config.page_size

    @property
    def is_open(self) -> bool:
        try:
            self.backend.poll()
        except EngineStopped:
            return False
        return True

    @property
    def is_busy(self) -> bool:
        """Whether a request runs or waits."""
        stats = self.stats()
        return bool(stats["requests_running"] or stats["requests_waiting"])

    @property
    def is_current(self) -> bool:
        """Whether the model's name still refers to the files that this lab was loaded from."""
        from .engine.files import store

        try:
            path = store.here(self.model)
            return path is not None and store.generation(path) == self._generation
        except ModelMissing:
            return False

    # ------------------------------------------------------------ what happened

    def stats(self) -> dict[str, Any]:
        """Counts since the lab was created: tokens, hits, evictions, pages, requests, and seconds
        by part of a step (`*_s`); of a model that sees, images.
        """
        return self._resident.stats() | ({} if self._sight is None else self._sight.stats())

    def memory(self) -> Memory:
        """The current memory of the model's device. `n_bytes` is this lab's share of it."""
        from .engine.compute.models.devices import memory_of

        return memory_of(self._device)

    def prometheus(self) -> str:
        """The same counts in the text format of Prometheus."""
        from .engine.serving.prometheus import prometheus

        return prometheus(self.stats())

    def snapshot(self) -> TreeSnapshot:
        """The current radix tree."""
        return self._resident.snapshot()

    def spell(self, token: int) -> str:
        """The text of one token. Bytes that are not a complete character are written as \\xNN.

        A block's first position gives its chip, its other positions give nothing.
        """
        if token < 0:
            return shown_at(token)
        text = self._spelled.get(token)
        if text is None:
            text = self._tokenizer.token_bytes(token).decode("utf-8", "backslashreplace") or self._tokenizer.decode((token,))
            self._spelled[token] = text
        return text

    def what_if(
        self,
        record: Record,
        *,
        evict: str | Sequence[str] = (*EVICTIONS, BELADY),
        cache_tokens: int | Sequence[int] | None = None,
    ) -> tuple[Outcome, ...]:
        """The counts of `record` under other eviction policies or cache sizes. `belady` is the
        optimum that no policy can exceed.

        BadArgument for an unknown policy, or for a size that is not a whole number of at least
        `page_size` tokens.
        """
        from .engine.tools.simulate import Recording, what_if

        if not isinstance(record, Record):
            raise BadArgument(f"what_if needs a record, not {record!r:.80}", hint="one of lab.records, or what `read_jsonl` gives")
        evict = _several(evict, "evict", str)
        cache_tokens = None if cache_tokens is None else _several(cache_tokens, "cache_tokens", int)
        config = self._resident.engine.config
        for size in cache_tokens or ():
            if size < config.page_size:
                raise BadArgument(f"cache_tokens must be page_size ({config.page_size}) or more, not {size}")
        namespace = record.namespace or self.card.namespace
        recording = Recording.of((entry.event for entry in record.entries), record.snapshot, namespace)
        sizes = () if cache_tokens is None else [n // config.page_size for n in cache_tokens]
        return what_if(recording, config, evict=evict, n_pages=sizes)

    def drift(self) -> Drift:
        """Measure how far logprobs move with the way they are computed. Takes seconds, and drops
        every prefix that is not pinned.
        """
        from .engine.tools.drift import measure

        return measure(self.backend, self.flush)

    def score(self, jobs: Sequence[ScoreJob]) -> tuple[ScoreOutput, ...]:
        """The log-probabilities of the jobs' choices. The jobs start together, so what their prompts
        share is computed once. An interrupt cancels all of them.
        """
        replies = [ReplyListener[ScoreOutput](self.backend) for _ in jobs]
        requests: list[RequestId] = []
        try:
            with self.backend.at_once():
                requests += [self.backend.score(job, reply) for job, reply in zip(jobs, replies, strict=True)]
            return tuple(reply.answer() for reply in replies)
        except BaseException:
            for request in requests:
                self.backend.cancel(request)
            raise

    def attention(self, ids: Sequence[int]) -> list[list[list[float]]]:
        """The attention of the last of these tokens over all of them, by layer and head: each list
        adds up to 1. It is recomputed beside the engine, by the torch twin of the model.

        BackendUnsupported for a model on a GPU, one that transformers computes, and for too many
        tokens; OutOfMemory if there is no room for the twin.
        """
        from .engine.compute.runners.looking import attention_of, readable

        self.backend.poll()
        twin = readable(getattr(self._runner, "model", None), self.card.name, self.card.device)
        found: list[list[list[float]]] = attention_of(twin, ids, self.blocks_of(ids)).tolist()
        return found

    def blocks_of(self, ids: Sequence[int]) -> tuple[Block, ...]:
        """The blocks in a sequence, of pictures that are still kept. BackendUnsupported if one is not."""
        blocks = []
        for place in dict.fromkeys(place.content for _, _, place in blocks_in(ids)):
            block = None if self._sight is None else self._sight.kept(place.digest)
            if block is None:
                raise BackendUnsupported(f"the {place.kind} {place.title} is no longer kept", hint="run the cell again")
            blocks.append(block)
        return tuple(blocks)

    def adapter_of(self, namespace: Namespace) -> str | None:
        """The name of the adapter whose KV is in that namespace of the tree; None for the model alone.
        BadArgument if it is no longer loaded.
        """
        key = next((part.removeprefix(ADAPTER) for part in namespace if part.startswith(ADAPTER)), None)
        adapting = self._resident.engine.adapting
        name = next((name for name, known in adapting.adapters.items() if known == key), None) if adapting else None
        if key is not None and name is None:
            raise BadArgument("the adapter of this run is no longer loaded", hint="`%sgl adapter FOLDER NAME` loads it")
        return name

    def measures(self) -> Measures:
        """What a lint of a run may measure on this engine."""
        from .engine.tools.measures import Measures

        return Measures(self.backend, self._resident.engine.n_shortest)

    # ------------------------------------------------------------ operations

    def flush(self) -> None:
        """Drop every prefix that is not pinned and that no request uses. Counts continue."""
        self._resident.flush()

    def pin(self, prefix: str | Sequence[int] | ProgramState) -> RequestId:
        """Compute `prefix`, if it is not cached, and keep it in the cache until `unpin`. Returns
        the number of the pin.

        A text is the beginning of a program without roles, a state is all its tokens so far, and
        anything else is a sequence of token ids. CacheFull if the pin would leave too little room
        for itself or for running requests; BadArgument for any other `prefix`.
        """
        blocks: tuple[Block, ...] = ()
        if isinstance(prefix, str):
            tokens = encoded(self.backend, prefix)
        elif isinstance(prefix, ProgramState):
            tokens, blocks = prefix.token_ids(), prefix.blocks()
        else:
            try:
                tokens = tuple(map(index, prefix))
            except TypeError:
                hint = "give a text, a program's state or token ids"
                raise BadArgument(f"a prefix cannot be {prefix!r:.80}", hint=hint) from None
        warmed = ReplyListener[Usage](self.backend)
        pin = self.backend.pin(WarmJob(tokens, blocks=blocks), warmed)
        try:
            warmed.answer()
        except KeyboardInterrupt:
            self.backend.cancel(pin)
            with suppress(SglError):  # the computation may have finished just in time
                self.backend.unpin(pin)
            raise
        return pin

    def load_adapter(self, folder: str | os.PathLike[str], name: str | None = None) -> str:
        """Load a LoRA adapter, as PEFT saves it, and return its name, by default that of its folder.

        `gen(adapter=name)` and `prog.run(adapter=name)` use it; a batch may have several, and their
        KV is kept apart. One that is loaded under a known name takes its place for new requests.
        ModelError, ModelMissing, ModelDamaged; BackendUnsupported if this model's runner computes
        no adapters.
        """
        from pathlib import Path

        adapting = self._resident.engine.adapting
        if adapting is None:
            raise BackendUnsupported(f"{self.card.name} on {self.card.device} takes no adapters", hint="load the model with device cpu")
        path = Path(folder).expanduser()
        name = path.resolve().name if name is None else name
        _check_text(model=name)
        adapting.add_adapter(path, name)
        return name

    @property
    def adapters(self) -> tuple[str, ...]:
        """The names of the loaded LoRA adapters."""
        adapting = self._resident.engine.adapting
        return () if adapting is None else tuple(adapting.adapters)

    def unpin(self, pin: RequestId) -> None:
        """End the pin of that number: its prefix may be evicted again."""
        self.backend.unpin(pin)

    def check(self) -> None:
        """Recount the cache from scratch. InvariantBroken if the books are wrong."""
        self._resident.check()

    def stop(self) -> int:
        """Abort every request, running or waiting. Returns how many there were."""
        return self._resident.abort_all()

    def close(self) -> None:
        """Stop the engine's thread and free its memory. Requests that still run fail with
        EngineStopped.

        SglError if the engine is still computing a step after ten seconds; it then stops and frees
        its memory when that step ends.
        """
        self._resident.close()
        if self._follower is not None and not is_forked():
            self._follower.close()


_labs: WeakSet[Lab] = WeakSet()
_residents: WeakSet[Resident] = WeakSet()
_known = threading.Lock()


def _collect_lost() -> None:
    """Close engines whose labs are gone but remain in reference cycles, for example of a program
    that ran. They hold memory.
    """
    with _known:
        held = {lab._resident for lab in _labs}
        is_lost = any(resident.is_open and resident not in held for resident in _residents)
    if is_lost:
        gc.collect()


def import_engine() -> None:
    """Import torch and the other heavy modules of a lab."""
    os.environ.setdefault("GOMP_SPINCOUNT", SPIN)
    from .engine.compute.models import load as load
    from .engine.compute.runners import choose as choose


def _runner(
    loaded: LoadedModel,
    library: CDLL | None,
    page_size: int,
    cache_tokens: int | None,
    cache_mib: int | None,
    threads: int | None,
    notes_experts: bool,
) -> tuple[AnyRunner, int]:
    """The runner and the pages of its cache. A size that was not asked for is halved until it fits;
    OutOfMemory if none does."""
    from .engine.compute.runners.choose import make_runner
    from .engine.compute.runners.kv import pages_for

    if cache_tokens is not None:
        n_pages = cache_tokens // page_size
    else:
        budget = None if cache_mib is None else cache_mib << 20
        n_pages = pages_for(loaded.spec, loaded.model.dtype, loaded.model.device, page_size, budget_bytes=budget)
    while True:
        try:
            return make_runner(loaded.model, library, n_pages, page_size, threads=threads, notes_experts=notes_experts), n_pages
        except OutOfMemory:
            if cache_tokens is not None or cache_mib is not None or n_pages * page_size <= loaded.spec.context:
                raise
        n_pages //= 2


def _several(given: object, name: str, kind: type[T]) -> tuple[T, ...]:
    """One value, or a sequence of them, as a tuple. BadArgument for anything else."""
    values = (given,) if isinstance(given, str | bytes) or not isinstance(given, Iterable) else tuple(given)
    found = tuple(value for value in values if isinstance(value, kind) and not isinstance(value, bool))
    if len(found) < len(values):
        raise BadArgument(f"{name} must be a value or a list of values of type {kind.__name__}, not {given!r:.80}")
    return found


def _check_text(*, model: object, **others: object) -> None:
    """BadArgument unless all are texts; `others` may be None."""
    for name, value in {"model": model, **others}.items():
        if not (isinstance(value, str) and value) and (value is not None or name == "model"):
            raise BadArgument(f"{name} must be a text, not {value!r}")


def _check_sizes(*, page_size: object, **others: object) -> None:
    """BadArgument unless all are whole numbers, 1 or more; `others` may be None."""
    for name, value in {"page_size": page_size, **others}.items():
        if not (type(value) is int and value >= 1) and (value is not None or name == "page_size"):
            raise BadArgument(f"{name} must be a whole number, 1 or more, not {value!r}")
    threads, most = others.get("threads"), max(64, 4 * (os.cpu_count() or 1))
    # where the system has no more threads, torch's own creation of them ends the process
    if isinstance(threads, int) and threads > most:
        raise BadArgument(f"threads must be at most {most} on this machine of {os.cpu_count()} cores, not {threads}")
    tokens, mib = others.get("cache_tokens"), others.get("cache_mib")
    if tokens is not None and mib is not None:
        raise BadArgument("cache_tokens and cache_mib both set the size of the cache", hint="give one of them")
    if isinstance(tokens, int) and isinstance(page_size, int) and tokens < page_size:
        raise BadArgument(f"cache_tokens must be page_size ({page_size}) or more, not {tokens}")


def _check_calls(emit: object, **switches: object) -> None:
    for name, value in switches.items():
        if type(value) is not bool:
            raise BadArgument(f"{name} must be True or False, not {value!r}")
    if emit is not None and not callable(emit):
        raise BadArgument(f"emit must be a function of an event, not {emit!r}")


def _trim() -> None:
    """Make the C library return freed memory to the system; only glibc needs it."""
    with suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)
