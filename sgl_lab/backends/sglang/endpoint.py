"""RuntimeEndpoint: an SGLang server, by its own API, as a backend at the level of tokens.

Prompts go out as token ids, and answers come back as token ids. So a program does on a server what it
does on the engine of this process: nothing generated is encoded again, selects are scored by the
log-probabilities of each choice's tokens, text outside roles and begun answers need no API of their
own, and the views show the server's own tokens. The tokenizer has to be on this machine for that; it
comes without the weights (`texts.py`).

The server's cache is not in this process. Its tree is seen if the server publishes KV events, and
inferred otherwise.
"""

from __future__ import annotations

import hashlib
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Unpack

from ...contracts.capabilities import TOKEN_LEVEL
from ...contracts.errors import BadArgument, ConnectionFailed, PromptTooLong, RequestFailed, SglError, Stopped
from ...contracts.events import Event, RequestAnswered, RequestQueued, Sample, TextArrived
from ...contracts.ids import ExprId, ForkId, RequestId
from ...contracts.params import Constraint
from ...contracts.port import (
    GenJob,
    GenListener,
    GenOutput,
    ModelCard,
    ScoreJob,
    ScoreListener,
    ScoreOutput,
    TokenLogprob,
    Usage,
    WarmJob,
    WarmListener,
)
from ...contracts.spans import Block, Content, ImageBlock
from ...contracts.tree import CacheRules, TreeSnapshot
from ...lang.chat_template import get_chat_template
from ..remote import Provider, Unended, find_endpoint
from ..remote.jobs import CallOptions, Task
from ..remote.prices import Listed, most_of
from ..tokenized import TokenizedBackend
from ..trees.inferred import InferredTree
from ..trees.listen import KvListener, address_of
from ..trees.requests import RemoteTree
from ..trees.shadow import Shadow
from . import wire
from .answers import Answer, Sampled, meta_of, scored, usage_of
from .server import CONCURRENCY, SglangServer
from .texts import tokenizer_of

PROVIDER = Provider("sglang")
MAX_FORKS = 10_000
"""forks whose workers are remembered"""
WARM_FROM = 64
"""tokens of a prompt from which on it is computed before several choices are scored after it"""

Job = GenJob | ScoreJob | WarmJob
Outcome = tuple[GenOutput, ...] | ScoreOutput | Usage


@dataclass(eq=False, kw_only=True)
class _Task(Task):
    job: Job
    answer: Callable[[Outcome], None]
    """the listener's `on_done`"""
    fail: Callable[[SglError], None]
    """the listener's `on_error`"""
    rid: str
    samples: tuple[Sampled, ...] = ()
    listener: GenListener | None = None
    """of a gen"""
    counts_cached: bool = False
    """whether the server said how many tokens of the prompt it had cached"""


class RuntimeEndpoint(SglangServer[_Task, Outcome], TokenizedBackend):
    """An SGLang server, an sglang-router in front of several, or the door of another notebook.

    base_url            such as http://127.0.0.1:30000
    api_key             of that server; by default the one that is named for it (`%sgl key
                        HOST:PORT`)
    chat_template_name  of the registered templates; by default the model's own
    tokenizer           a folder, a .gguf file or a hub id, if the server's own is not on this
                        machine
    kv_events           whether to listen to the server's KV events; an address (tcp://HOST:PORT)
                        listens there
    options             deadlines, retries, concurrency, requests_per_minute, budget, prices, emit

    Raises BackendUnsupported for a server with another API, ModelMissing if no tokenizer is found, and
    the errors of a connection, before a token is spent.
    """

    def __init__(
        self,
        base_url: str,
        api_key: str | None = None,
        verify: str | None = None,
        chat_template_name: str | None = None,
        *,
        tokenizer: str = "",
        kv_events: bool | str = True,
        **options: Unpack[CallOptions],
    ) -> None:
        if verify is not None:
            raise BadArgument("verify= is not supported", hint="set SSL_CERT_FILE to the file with the server's certificate authority")
        server = find_endpoint(PROVIDER, base_url, api_key=api_key, needs_key=False)
        super().__init__(server, options, server.place, concurrency=CONCURRENCY)
        self._served: dict[ForkId, dict[str, int]] = {}
        self._meet()
        self._name = name = self.get_model_name()
        names = (tokenizer,) if tokenizer else (str(self._info.get("tokenizer_path") or ""), name)
        self._tokenizer = self._vocabulary = tokenizer_of(names)
        if chat_template_name:
            self.chat_template = get_chat_template(chat_template_name)
        if "prices" in options:
            self.listed = Listed(options["prices"])
        can = replace(TOKEN_LEVEL, chat_template=self._vocabulary.has_chat_template, constraints=tuple(wire.KINDS), blocks=False)
        token = self._vocabulary.encode("<image>", markup=True)
        stated = self._info.get("image_positions")
        self._image_token, n_positions = token[0], stated if type(stated) is int and stated > 0 else 0
        can = replace(can, prices=options.get("prices"), images=bool(n_positions) and len(token) == 1)
        self._listener: KvListener | None = None
        self.tree = self._tree(kv_events)
        """the server's tree, as far as it is known"""
        self._shadow = Shadow(self.tree, self._tell)
        text = self._vocabulary
        about = (server.place, "none", can, text.tool_style, n_positions, text.reasoning_marks)
        self._card = ModelCard(name, self.tree.namespace, self._context(), text.n_vocab, *about)

    def _tree(self, kv_events: bool | str) -> RemoteTree:
        """Seen, if the server publishes KV events and they are wanted; otherwise inferred."""
        version = str(self._info.get("weight_version") or "")
        name = (self._name, *((version,) if version not in ("", "default") else ()), self.server.place)
        engine = f"the {'router' if self._is_router else 'SGLang server'} at {self.server.place}"
        if isinstance(kv_events, str) or kv_events:
            address = (kv_events, "", "") if isinstance(kv_events, str) else address_of(self._server_info, self.server.base_url)
            if address is not None:
                endpoint, replay, topic = address
                try:
                    self._listener = KvListener(endpoint, (*name, "seen"), self._tell, replay=replay, topic=topic, engine=engine)
                except SglError:
                    if isinstance(kv_events, str):
                        raise
                else:
                    return self._listener.tree
        page_size = self._server_info.get("page_size")
        step = page_size if type(page_size) is int and page_size > 0 else 1
        return InferredTree((*name, "inferred"), CacheRules("inferred", engine, step=step), self._tell)

    def _tell(self, event: Event) -> None:
        self.emit(event)

    # ------------------------------------------------------------ programs of the original

    def flush(self) -> None:
        """The server drops every prefix that no request uses. RequestFailed while it cannot."""
        self._ask("POST", "/flush_cache")
        self.tree.flushed()

    def served(self) -> dict[ForkId, dict[str, int]]:
        """Of each fork of the last programs: how many of its requests each worker answered, as far
        as workers name themselves."""
        with self._lock:
            return {fork: dict(counts) for fork, counts in self._served.items()}

    def close(self) -> None:
        super().close()
        if self._listener is not None:
            self._listener.close()

    # ------------------------------------------------------------ views

    def snapshot(self, cursor: Callable[[], int] = lambda: 0) -> TreeSnapshot:
        """The server's radix tree, as far as it is known: inferred, or seen through KV events."""
        return self.tree.snapshot(cursor)

    def spell(self, token: int) -> str:
        """The text of a token, for labels."""
        return self._vocabulary.token_bytes(token).decode("utf-8", "backslashreplace") or self.decode((token,))

    def stats(self) -> dict[str, int | str]:
        """Counts of that tree."""
        return self.tree.stats()

    # ------------------------------------------------------------ the port

    def describe(self) -> ModelCard:
        return self._card

    def see(self, image: bytes) -> Block:
        """The image as the server's model sees it: its positions, which the server computes."""
        if not self._card.capabilities.images:
            return super().see(image)
        digest = hashlib.sha256("\n".join(self._card.namespace).encode() + image).hexdigest()
        return ImageBlock(Content(digest, self._card.image_positions), data=image)

    def prepare(self, constraint: Constraint) -> None:
        wire.constrained(constraint)

    def submit(self, job: GenJob, listener: GenListener) -> RequestId:
        if job.params.constraint is not None:
            self.prepare(job.params.constraint)
        task = self._new_task(job, listener.on_done, listener.on_error)
        task.samples, task.listener = tuple(Sampled(job, self._vocabulary) for _ in range(job.params.n)), listener
        return self._accept(task, "gen", job.expr, job.params.max_tokens or 0)

    def score(self, job: ScoreJob, listener: ScoreListener) -> RequestId:
        return self._accept(self._new_task(job, listener.on_done, listener.on_error), "score", job.expr, 0)

    def warm(self, job: WarmJob, listener: WarmListener) -> RequestId:
        return self._accept(self._new_task(job, listener.on_done, listener.on_error), "warm", None, 0)

    # ------------------------------------------------------------ a job

    def _new_task(self, job: Job, answer: Callable[..., None], fail: Callable[[SglError], None]) -> _Task:
        return _Task(self._new_call(), time.monotonic(), job=job, answer=answer, fail=fail, rid=uuid.uuid4().hex)

    def _accept(self, task: _Task, kind: str, expr: ExprId | None, most: int) -> RequestId:
        job = task.job
        if not job.prompt:
            raise BadArgument("the prompt is empty", hint="append some text first")
        if not all(block.is_image for block in job.blocks):
            raise self._card.capabilities.missing("blocks", self._name)
        longest = max((len(choice) for choice in job.choices), default=0) if isinstance(job, ScoreJob) else 0
        if len(job.prompt) + longest >= self._card.context:
            n = len(job.prompt) + longest
            raise PromptTooLong(
                f"the prompt has {n:,} tokens, the context of {self._name} {self._card.context:,}", hint="shorten the prompt"
            )
        request = task.call.request
        return self._start(task, RequestQueued(request, job.fork, expr, kind, job.prompt, most, request, is_elsewhere=True))

    def _announce(self, queued: RequestQueued) -> None:
        self._shadow(queued)

    def _perform(self, task: _Task) -> Outcome:
        match task.job:
            case GenJob() as job:
                return self._generate(task, job)
            case ScoreJob() as job:
                return self._scored(task, job)
            case WarmJob() as job:
                return usage_of(self._answer_to(task, wire.warm_body(job, task.rid)), len(job.prompt))

    # ------------------------------------------------------------ a gen

    def _generate(self, task: _Task, job: GenJob) -> tuple[GenOutput, ...]:
        call = task.call
        room = self._card.context - len(job.prompt)
        body = wire.gen_body(job, task.rid, room)
        for n_broken in range(self.retries.n + 1):
            try:
                self._follow(task, body)
                break
            except Exception as error:
                sample = task.samples[0]
                fault = self._meant(error, call)
                is_cut = isinstance(fault.error, ConnectionFailed) and sample.n_received
                if call.ended is not None or not is_cut or not wire.may_go_on(job) or n_broken == self.retries.n:
                    raise
            # The server, or the worker behind a router, is gone. What came of the answer is kept, and another goes on from there.
            body = wire.gen_on(job, sample.resumed(), f"{task.rid}-{n_broken + 1}", room)
            call.fault = None
            call.sleep(self.retries.wait_s(n_broken + 1, None))
        return self._outputs(task)

    def _follow(self, task: _Task, body: wire.Body) -> None:
        call, request = task.call, task.call.request
        for answer in self._stream(wire.with_images(body, task.job, self._image_token), lambda worker: self._served_by(task, worker)):
            call.check()
            index = int(answer.get("index") or 0)
            if not 0 <= index < len(task.samples):
                raise RequestFailed(f"{self.server.place} answers for sample {index}, which was not asked for")
            sample = task.samples[index]
            new = sample.take(answer)
            if not index:
                self._take_counts(task, (answer,))
            if new:
                self._shadow(TextArrived(request, index, _samples(request, new, sample.newest_logprobs(len(new)))))
            self._progress(task, index, *sample.delta())
        if not all(sample.is_over for sample in task.samples):
            raise Unended

    def _take_counts(self, task: _Task, answers: Iterable[Answer]) -> None:
        """What the server says of its cache, as soon as it does."""
        for meta in map(meta_of, answers):
            if (cached := meta.get("cached_tokens")) is not None:
                task.counts_cached = True
                self.tree.admitted(task.call.request, int(cached), int(meta.get("prompt_tokens") or len(task.job.prompt)))
                return

    def _progress(self, task: _Task, index: int, text: str, ids: tuple[int, ...], logprobs: tuple[TokenLogprob, ...]) -> None:
        if not (text or ids) or (listener := task.listener) is None:
            return
        with self._lock:
            if task.is_answered:
                return
        if logprobs and (on_logprobs := getattr(listener, "on_logprobs", None)) is not None:
            on_logprobs(index, logprobs)
        listener.on_progress(index, text, ids)

    def _outputs(self, task: _Task, *, aborted: bool = False) -> tuple[GenOutput, ...]:
        n_prompt = len(task.job.prompt)
        return tuple(sample.output(sample.usage(n_prompt), aborted=aborted) for sample in task.samples)

    # ------------------------------------------------------------ a select

    def _scored(self, task: _Task, job: ScoreJob) -> ScoreOutput:
        """The prompt first, if it is long: the choices then find it in the cache, as the original's
        frontend has it."""
        first: Usage | None = None
        if len(job.choices) > 1 and len(job.prompt) >= WARM_FROM:
            first = usage_of(self._answer_to(task, wire.warm_body(job, task.rid)), len(job.prompt))
        body = wire.score_body(job, [f"{task.rid}-{index}" for index in range(len(job.choices))])
        answers = self._post(wire.with_images(body, job, self._image_token), lambda worker: self._served_by(task, worker))
        if not isinstance(answers, list) or len(answers) != len(job.choices):
            raise RequestFailed(f"{self.server.place} does not answer for each choice")
        rows = scored(job, answers)
        self._take_counts(task, answers[:1])
        n_cached = min((first or usage_of(answers[0], len(job.prompt))).cached_tokens, len(job.prompt))
        n_prompt = len(job.prompt) + sum(map(len, job.choices))
        return ScoreOutput(rows, Usage(prompt_tokens=n_prompt, cached_tokens=n_cached, computed_tokens=n_prompt - n_cached))

    def _answer_to(self, task: _Task, body: wire.Body) -> Answer:
        answer = self._post(wire.with_images(body, task.job, self._image_token), lambda worker: self._served_by(task, worker))
        if isinstance(answer, list):
            raise RequestFailed(f"{self.server.place} answers with a list where one answer was asked for")
        self._take_counts(task, (answer,))
        return answer

    def _served_by(self, task: _Task, worker: str) -> None:
        fork = task.job.fork
        if worker and fork is not None:
            with self._lock:
                mine = self._served.setdefault(fork, {})
                mine[worker] = mine.get(worker, 0) + 1
                while len(self._served) > MAX_FORKS:
                    del self._served[next(iter(self._served))]

    # ------------------------------------------------------------ the answer

    def _stop_remote(self, task: _Task) -> None:
        threading.Thread(target=self._abort, args=(task.rid,), name="sgl-endpoint-abort", daemon=True).start()

    def _deliver(self, task: _Task, outcome: Outcome | SglError) -> None:
        if isinstance(outcome, Stopped) and isinstance(task.job, GenJob):
            outcome = self._with_usages(self._outputs(task, aborted=True), self._used(task))
        elif isinstance(outcome, RequestFailed) and any(sample.text for sample in task.samples):
            outcome.partial = tuple(sample.text for sample in task.samples)
        if isinstance(outcome, SglError):
            self._tell_end(task, "error" if not isinstance(outcome, Stopped) else "abort", ())
            task.fail(outcome)
        else:
            reason = outcome[0].finish_reason if isinstance(outcome, tuple) else "stop"
            self._tell_end(task, reason, self._usages(outcome))
            task.answer(outcome)

    def _tell_end(self, task: _Task, reason: str, usages: Sequence[Usage]) -> None:
        """`usages` are those of the samples of one prompt, which counts once."""
        first = usages[0] if usages and task.call.has_begun else Usage()
        n_completion = sum(usage.completion_tokens for usage in usages)
        costs = [usage.cost for usage in usages if usage.cost is not None]
        cost, currency = (sum(costs), self.listed.prices.currency) if costs and self.listed else (None, "")
        n_cached = first.cached_tokens if task.counts_cached else None
        self._shadow(RequestAnswered(task.call.request, reason, first.prompt_tokens, n_completion, n_cached, cost, currency))

    # ------------------------------------------------------------ counts and cost

    def _usages(self, outcome: Outcome) -> tuple[Usage, ...]:
        match outcome:
            case Usage():
                return (outcome,)
            case ScoreOutput(usage=usage):
                return (usage,)
            case _:
                return tuple(output.usage for output in outcome)

    def _with_usages(self, outcome: Outcome, usages: tuple[Usage, ...]) -> Outcome:
        match outcome:
            case Usage():
                return usages[0]
            case ScoreOutput():
                return replace(outcome, usage=usages[0])
            case _:
                return tuple(replace(output, usage=usage) for output, usage in zip(outcome, usages, strict=True))

    def _used(self, task: _Task) -> tuple[Usage, ...]:
        n_prompt = len(task.job.prompt)
        usages = tuple(sample.usage(n_prompt) for sample in task.samples) or (Usage(prompt_tokens=n_prompt),)
        return tuple(self._timed(task, usage, n) for n, usage in enumerate(usages))

    def _at_most(self, task: _Task) -> float | None:
        job = task.job
        n_prompt = len(job.prompt) + (sum(map(len, job.choices)) if isinstance(job, ScoreJob) else 0)
        n_tokens = 0
        if isinstance(job, GenJob):
            room = self._card.context - len(job.prompt)
            n_tokens = min(job.params.max_tokens or room, room) * job.params.n
        return most_of(n_prompt, 0, n_tokens, self._prices(n_prompt))


def _samples(request: RequestId, tokens: Sequence[int], logprobs: Sequence[TokenLogprob]) -> tuple[Sample, ...]:
    """Tokens that came, with their log-probabilities if these were asked for."""
    if len(logprobs) != len(tokens):
        return tuple(Sample(request, token, None, (), None, False) for token in tokens)
    return tuple(Sample(request, token, one.logprob, one.top, None, False) for token, one in zip(tokens, logprobs, strict=True))
