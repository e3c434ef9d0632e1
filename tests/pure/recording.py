"""Runs of the hash model, recorded as a lab records them: ring, snapshot, events of a small language."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from sgl_lab.contracts.events import CellFinished, CellStarted, ExprFinished, ExprStarted, ForkOpened, RequestQueued, StreamExtended
from sgl_lab.contracts.ids import Counter, ExprId, ForkId, RunId
from sgl_lab.contracts.params import SamplingParams
from sgl_lab.contracts.port import GenJob, ScoreJob
from sgl_lab.engine.serving.config import EngineConfig
from sgl_lab.engine.serving.engine import Engine
from sgl_lab.engine.tools.fake import ByteTokenizer, HashRunner
from sgl_lab.trace import Record, Ring

from .driving import Listener

Ask = tuple[str, str, int]
"""name, prompt, tokens to generate"""


class Session:
    """An engine, its ring and the runs recorded on it. A token is a byte."""

    def __init__(self, **config: int | str) -> None:
        chosen = EngineConfig(**({"n_pages": 1024, "draft_tokens": 0} | config))  # type: ignore[arg-type]
        ticks = itertools.count(0, 1_000_000)
        self.ring = Ring(clock=lambda: next(ticks))
        runner = HashRunner(chosen.n_pages, chosen.page_size)
        self.engine = Engine(chosen, runner, ByteTokenizer(), context=4096, namespace=("test",), emit=self.ring.emit)
        self.records: list[Record] = []
        self._forks, self._exprs = Counter(), Counter()
        self.last_answer: tuple[int, ...] = ()

    @contextmanager
    def recording(self, title: str, source: str = "") -> Iterator[Record]:
        record = Record(RunId(len(self.records) + 1))
        stop = self.ring.listen(record.append)
        record.begin(self.engine.snapshot(self.ring.cursor))
        self.ring.emit(CellStarted(record.run, title, source))
        yield record
        self.ring.emit(CellFinished(record.run, "ok", ""))
        stop()
        record.end(lambda token: chr(token) if token < 256 else f"<{token}>")
        self.records.append(record)

    def run(self, title: str, *asks: Ask, source: str = "", together: bool = False, seed: int | None = None) -> Record:
        """One cell of gens, one after the other or all at once, each on a fork of its own."""
        with self.recording(title, source) as record:
            for started in [asks] if together else [[ask] for ask in asks]:
                self.ask(record.run, started, seed)
        return record

    def ask(self, run: RunId, asks: Iterable[Ask], seed: int | None = None, encoding: str = "utf-8", fork: ForkId | None = None) -> ForkId:
        """The fork of the last prompt. A given `fork` continues: its tokens are replaced by the
        prompt's.
        """
        begun = []
        for name, prompt, n in asks:
            expr, tokens = ExprId(self._exprs.next()), tuple(prompt.encode(encoding))
            if fork is None or begun:
                fork = ForkId(self._forks.next())
                self.ring.emit(ForkOpened(run, fork, None, 0, "s"))
            self.ring.emit(StreamExtended(fork, 0, tokens, "text", "user"))
            self.ring.emit(ExprStarted(fork, expr, "gen", name, 4, "assistant"))
            temperature = 0.0 if seed is None else 1.0
            params = SamplingParams(n, temperature=temperature, seed=seed, ignore_eos=True, logprobs=True, top_logprobs=2)
            listener = Listener()
            group = self.engine.gen(GenJob(tokens, params), listener)
            for request in group.requests:
                queued = RequestQueued(request.id, fork, expr, request.kind, request.prompt, request.limit, group.id, request.first_needed)
                self.ring.emit(queued)
            self.engine.add(group)
            begun.append((fork, expr, tokens, listener))
        while self.engine.step():
            pass
        for fork, expr, tokens, listener in begun:
            answer = self.last_answer = tuple(listener.output.ids)
            self.ring.emit(StreamExtended(fork, len(tokens), answer, "generated", "assistant"))
            self.ring.emit(ExprFinished(fork, expr, "ok", ""))
        assert fork is not None
        return fork

    def select(self, run: RunId, name: str, prompt: str, choices: tuple[str, ...]) -> None:
        fork, expr = ForkId(self._forks.next()), ExprId(self._exprs.next())
        self.ring.emit(ForkOpened(run, fork, None, 0, "s"))
        self.ring.emit(ExprStarted(fork, expr, "select", name, 6, "assistant"))
        group = self.engine.score(ScoreJob(tuple(prompt.encode()), tuple(tuple(choice.encode()) for choice in choices)), Listener())
        for request in group.requests:
            queued = RequestQueued(request.id, fork, expr, request.kind, request.prompt, request.limit, group.id, request.first_needed)
            self.ring.emit(queued)
        self.engine.add(group)
        while self.engine.step():
            pass
        self.ring.emit(ExprFinished(fork, expr, "ok", choices[0]))
