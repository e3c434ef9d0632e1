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

import json
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, NoReturn, Unpack, cast

from ...contracts.capabilities import TOKEN_LEVEL
from ...contracts.errors import (
    BackendUnsupported,
    BadArgument,
    ConnectionFailed,
    EngineStopped,
    ModelMissing,
    PromptTooLong,
    RequestFailed,
    SglError,
    Stopped,
)
from ...contracts.events import Emit, Event, RequestAnswered, RequestQueued, Sample, TextArrived, silent
from ...contracts.ids import ExprId, ForkId, RequestId
from ...contracts.params import Constraint
from ...contracts.port import (
    GenJob,
    GenListener,
    GenOutput,
    Message,
    ModelCard,
    ScoreJob,
    ScoreListener,
    ScoreOutput,
    Segment,
    TokenLogprob,
    Usage,
    WarmJob,
    WarmListener,
)
from ...contracts.tree import CacheRules, TreeSnapshot
from ...lang.backend.base_backend import BaseBackend
from ...lang.chat_template import get_chat_template
from ..remote import Call, Deadlines, Fault, Options, Provider, Refused, Retries, find_endpoint
from ..remote.attempts import attempted, cleaned, why_failed
from ..remote.backend import request_ids
from ..remote.deadlines import ALARMS
from ..remote.faults import Target, Unended, fault_of
from ..remote.keys import with_secrets
from ..remote.limits import limits_of
from ..trees.inferred import InferredTree
from ..trees.listen import KvListener, address_of
from ..trees.requests import RemoteTree
from ..trees.shadow import Shadow
from . import wire
from .answers import Answer, Sampled, scored, usage_of
from .router import Worker, workers_of
from .texts import tokenizer_of

if TYPE_CHECKING:
    import httpx2

PROVIDER = Provider("sglang")
CONCURRENCY = 64
"""calls at once to one server, by default: its scheduler is the better place to wait"""
GRACE_S = 0.5
MAX_FORKS = 10_000
"""forks whose workers are remembered"""
WARM_FROM = 64
"""tokens of a prompt from which on it is computed before several choices are scored after it"""

Job = GenJob | ScoreJob | WarmJob


@dataclass(eq=False)
class _Task:
    job: Job
    listener: Any
    call: Call
    rid: str
    queued_at: float
    samples: tuple[Sampled, ...] = ()
    is_answered: bool = False
    is_begun: bool = False
    """whether the server answered"""
    counts_cached: bool = False
    """whether the server said how many tokens of the prompt it had cached"""


class RuntimeEndpoint(BaseBackend):
    """An SGLang server, an sglang-router in front of several, or the door of another notebook.

    base_url            such as http://127.0.0.1:30000
    api_key             of that server; by default the one that is named for it (`%sgl key HOST:PORT`)
    chat_template_name  of the registered templates; by default the model's own
    tokenizer           a folder, a .gguf file or a hub id, if the server's own is not on this machine
    kv_events           whether to listen to the server's KV events; an address (tcp://HOST:PORT) listens there
    options             deadlines, retries, concurrency, requests_per_minute, emit

    Raises BackendUnsupported for a server with another API, ModelMissing if no tokenizer is found, and
    the errors of a connection, before a token is spent.
    """

    _name = ""

    @with_secrets
    def __init__(
        self,
        base_url: str,
        api_key: str | None = None,
        verify: str | None = None,
        chat_template_name: str | None = None,
        *,
        tokenizer: str = "",
        kv_events: bool | str = True,
        **options: Unpack[Options],
    ) -> None:
        taken = {"deadlines", "retries", "concurrency", "requests_per_minute", "emit"}
        if unknown := sorted(options.keys() - taken):
            raise BadArgument(f"RuntimeEndpoint has no argument {', '.join(unknown)}", hint=f"it takes {', '.join(sorted(taken))}")
        if verify is not None:
            raise BadArgument("verify= is not supported", hint="set SSL_CERT_FILE to the file with the server's certificate authority")
        self.server = find_endpoint(PROVIDER, base_url, api_key=api_key, needs_key=False)
        self.deadlines = options.get("deadlines", Deadlines())
        retries = options.get("retries", Retries())
        self.retries = retries if isinstance(retries, Retries) else Retries(retries)
        self.limits = limits_of(self.server.origin)
        self.limits.set(options.get("concurrency", CONCURRENCY), options.get("requests_per_minute"))
        self.emit: Emit = options.get("emit", silent)
        self._lock = threading.Lock()
        self._tasks: dict[RequestId, _Task] = {}
        self._served: dict[ForkId, dict[str, int]] = {}
        self._closed: EngineStopped | None = None
        self._name = self.server.place
        self._info = self._model_info()
        self._server_info = self._ask_or_none("GET", "/get_server_info") or self._ask_or_none("GET", "/server_info") or {}
        self._is_router = "workers_count" in self._server_info or "router_manager" in self._server_info
        name = str(self._info["model_path"])
        self._tokenizer = tokenizer_of((tokenizer,) if tokenizer else (str(self._info.get("tokenizer_path") or ""), name))
        self._name = name
        if chat_template_name:
            self.chat_template = get_chat_template(chat_template_name)
        can = replace(TOKEN_LEVEL, chat_template=self._tokenizer.has_chat_template, constraints=tuple(wire.KINDS), blocks=False)
        version = str(self._info.get("weight_version") or "")
        page_size = self._server_info.get("page_size")
        step = page_size if type(page_size) is int and page_size > 0 else 1
        engine = f"the {'router' if self._is_router else 'SGLang server'} at {self.server.place}"
        self._listener = self._listening(kv_events, (name, self.server.place), engine)
        origin = "inferred" if self._listener is None else "seen"
        namespace = (name, *((version,) if version not in ("", "default") else ()), self.server.place, origin)
        style = self._tokenizer.tool_style
        self._card = ModelCard(name, namespace, self._context(), self._tokenizer.n_vocab, self.server.place, "none", can, style)
        if self._listener is None:
            self.tree: RemoteTree = InferredTree(namespace, CacheRules("inferred", engine, step=step), self._tell)
        else:
            self.tree = self._listener.tree
            """the server's tree, as far as it is known"""
        self._shadow = Shadow(self.tree, self._tell)

    def __repr__(self) -> str:
        server = vars(self).get("server")  # none while the constructor's arguments are checked
        return f"<RuntimeEndpoint {self._name} at {server.place}>" if server else "<RuntimeEndpoint>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a remote backend cannot be pickled; make it again where it is used")

    # ------------------------------------------------------------ what the server says of itself

    def _model_info(self) -> dict[str, Any]:
        place = self.server.place
        hint = "an OpenAI-compatible server is sgl.OpenAI(model, base_url=...)"
        try:
            info = self._ask("GET", "/get_model_info")
        except (ModelMissing, json.JSONDecodeError):
            raise BackendUnsupported(f"{place} has no /get_model_info: it is no SGLang server", hint=hint) from None
        if not isinstance(info, dict) or not info.get("model_path"):
            raise BackendUnsupported(f"{place} does not say which model it serves: it is no SGLang server", hint=hint)
        if info.get("is_generation") is False:
            raise BackendUnsupported(f"{place} serves {info['model_path']}, which generates no text", hint="serve a language model")
        return info

    def _context(self) -> int:
        """Tokens of the longest sequence; without a word of the server's, no limit is known here, and it refuses by itself."""
        given = self._info | self._server_info
        for name in ("context_length", "max_model_len", "max_context_length"):
            if type(most := given.get(name)) is int and most > 0:
                return most
        models = self._ask_or_none("GET", "/v1/models")
        cards = models.get("data") if isinstance(models, dict) else None
        for card in cards or ():
            if isinstance(card, dict) and type(most := card.get("max_model_len")) is int and most > 0:
                return most
        return 1 << 20

    def _listening(self, kv_events: bool | str, name: tuple[str, ...], engine: str) -> KvListener | None:
        if not kv_events:
            return None
        address = (kv_events, "", "") if isinstance(kv_events, str) else address_of(self._server_info, self.server.base_url)
        if address is None:
            return None
        endpoint, replay, topic = address
        try:
            return KvListener(endpoint, (*name, "seen"), self._tell, replay=replay, topic=topic, engine=engine)
        except SglError:
            if isinstance(kv_events, str):
                raise
            return None  # the tree is then inferred

    def _tell(self, event: Event) -> None:
        self.emit(event)

    # ------------------------------------------------------------ programs of the original

    @property
    def base_url(self) -> str:
        return self.server.base_url

    @property
    def model_info(self) -> dict[str, Any]:
        return dict(self._info)

    def get_model_name(self) -> str:
        return str(self._info["model_path"])

    def get_server_info(self) -> dict[str, Any]:
        return cast(dict[str, Any], self._ask("GET", "/get_server_info"))

    def start_profile(self) -> None:
        self._ask("POST", "/start_profile")

    def stop_profile(self) -> None:
        self._ask("POST", "/stop_profile")

    def flush(self) -> None:
        """The server drops every prefix that no request uses. RequestFailed while it cannot."""
        self._ask("POST", "/flush_cache")
        self.tree.flushed()

    def open_session(self, capacity_of_str_len: int = 1 << 20) -> str:
        """A session of the server: its id. Requests of it can go on after each other without sending everything again."""
        return str(self._ask("POST", "/open_session", {"capacity_of_str_len": capacity_of_str_len}))

    def close_session(self, session: str) -> None:
        self._ask("POST", "/close_session", {"session_id": session})

    def workers(self) -> tuple[Worker, ...]:
        """The servers behind an sglang-router, with their health and hits; empty if this is a server itself."""
        found = self._ask_or_none("GET", "/workers")
        if found is None:
            return ()
        try:
            metrics = self._ask("GET", "/engine_metrics")
        except SglError:
            metrics = ""
        return workers_of(found, metrics if isinstance(metrics, str) else "")

    def served(self) -> dict[ForkId, dict[str, int]]:
        """Of each fork of the last programs: how many of its requests each worker answered, as far as workers name themselves."""
        with self._lock:
            return {fork: dict(counts) for fork, counts in self._served.items()}

    def metrics(self) -> str:
        """What the server publishes for Prometheus; of a router, that of all its workers."""
        path = "/engine_metrics" if self._is_router else "/metrics"
        return str(self._ask("GET", path))

    def health(self) -> bool:
        """Whether the server answers and can generate."""
        try:
            self._ask("GET", "/health")
        except SglError:
            return False
        return True

    def shutdown(self) -> None:
        self.close()

    def close(self) -> None:
        """Cancel what runs and take no more. The server goes on. Requests in flight fail with EngineStopped."""
        with self._lock:
            self._closed = EngineStopped(f"the endpoint of {self._name} was closed")
            tasks = list(self._tasks.values())
        for task in tasks:
            self._end(task, self._closed)
        if self._listener is not None:
            self._listener.close()

    # ------------------------------------------------------------ views

    def snapshot(self, cursor: Callable[[], int] = lambda: 0) -> TreeSnapshot:
        return self.tree.snapshot(cursor)

    def spell(self, token: int) -> str:
        return self._tokenizer.token_bytes(token).decode("utf-8", "backslashreplace") or self._tokenizer.decode((token,))

    def stats(self) -> dict[str, Any]:
        return self.tree.stats()

    # ------------------------------------------------------------ the port

    def describe(self) -> ModelCard:
        return self._card

    def prepare(self, constraint: Constraint) -> None:
        wire.constrained(constraint)

    def submit(self, job: GenJob, listener: GenListener) -> RequestId:
        if job.params.constraint is not None:
            self.prepare(job.params.constraint)
        return self._accept(job, listener, "gen", job.expr, job.params.max_tokens or 0)

    def score(self, job: ScoreJob, listener: ScoreListener) -> RequestId:
        return self._accept(job, listener, "score", job.expr, 0)

    def warm(self, job: WarmJob, listener: WarmListener) -> RequestId:
        return self._accept(job, listener, "warm", None, 0)

    def cancel(self, request: RequestId) -> None:
        with self._lock:
            task = self._tasks.get(request)
        if task is not None:
            self._end(task, Stopped("the request was cancelled"))

    def poll(self) -> None:
        if self._closed:
            raise self._closed

    def encode(self, text: str, *, markup: bool = False) -> tuple[int, ...]:
        return self._tokenizer.encode(text, markup=markup)

    def encode_all(self, segments: Sequence[Segment]) -> tuple[int, ...]:
        return self._tokenizer.encode_all(segments)

    def decode(self, ids: Sequence[int], *, special: bool = True) -> str:
        return self._tokenizer.decode(ids, special=special)

    def render_chat(self, messages: Sequence[Message], *, add_generation_prompt: bool) -> tuple[Segment, ...]:
        return self._tokenizer.render_chat(messages, add_generation_prompt=add_generation_prompt)

    def render_text(self, text: str) -> tuple[Segment, ...]:
        return self._tokenizer.render_text(text)

    def render_start(self) -> tuple[Segment, ...]:
        return self._tokenizer.render_start()

    # ------------------------------------------------------------ a job

    def _accept(self, job: Job, listener: object, kind: str, expr: ExprId | None, most: int) -> RequestId:
        if not job.prompt:
            raise BadArgument("the prompt is empty", hint="append some text first")
        if job.blocks:
            raise self._card.capabilities.missing("blocks", self._name)
        longest = max((len(choice) for choice in job.choices), default=0) if isinstance(job, ScoreJob) else 0
        if len(job.prompt) + longest >= self._card.context:
            n = len(job.prompt) + longest
            raise PromptTooLong(
                f"the prompt has {n:,} tokens, the context of {self._name} {self._card.context:,}", hint="shorten the prompt"
            )
        request = RequestId(request_ids.next())
        call = Call(request, self.server.place, self.deadlines, _ignored)
        task = _Task(job, listener, call, uuid.uuid4().hex, time.monotonic())
        if isinstance(job, GenJob):
            task.samples = tuple(Sampled(job, self._tokenizer) for _ in range(job.params.n))
        with self._lock:
            self.poll()
            self._tasks[request] = task
        self._shadow(RequestQueued(request, job.fork, expr, kind, job.prompt, most, request, is_elsewhere=True))
        threading.Thread(target=self._run, args=(task,), name="sgl-endpoint", daemon=True).start()
        return request

    def _run(self, task: _Task) -> None:
        call = task.call
        off = ALARMS.at(time.monotonic() + call.remaining_s, lambda: self._end(task, call.too_late()))
        try:
            call.check()
            answer = attempted(lambda: self._outcome(task), call, self.limits, self.retries, self._meant)
        except Exception as error:
            self._answer(task, cleaned(self._meant(error, call).error))
        else:
            self._answer(task, answer)
        finally:
            off()

    def _meant(self, error: Exception, call: Call) -> Fault:
        return why_failed(error, call, self._fault)

    def _fault(self, error: Exception, call: Call) -> Fault:
        return fault_of(error, Target(self.server.place, self._name, self.server.key.source if self.server.key else ""))

    def _outcome(self, task: _Task) -> Any:
        match task.job:
            case GenJob() as job:
                return self._generate(task, job)
            case ScoreJob() as job:
                return self._scored(task, job)
            case WarmJob() as job:
                answer = self._post(task, wire.warm_body(job, task.rid))
                return usage_of(answer, len(job.prompt), *self._times(task))

    # ------------------------------------------------------------ a gen

    def _generate(self, task: _Task, job: GenJob) -> tuple[GenOutput, ...]:
        call = task.call
        body = wire.gen_body(job, task.rid, self._card.context - len(job.prompt))
        for n_broken in range(self.retries.n + 1):
            try:
                self._follow(task, job, body)
                break
            except Exception as error:
                sample = task.samples[0]
                fault = self._meant(error, call)
                is_cut = isinstance(fault.error, ConnectionFailed) and sample.n_received
                if call.ended is not None or not is_cut or not wire.may_go_on(job) or n_broken == self.retries.n:
                    raise
            # The server, or the worker behind a router, is gone. What came of the answer is kept, and another goes on from there.
            body = wire.gen_on(body, job, sample.resumed(), f"{task.rid}-{n_broken + 1}")
            call.fault = None
            call.sleep(self.retries.wait_s(n_broken + 1, None))
        return self._outputs(task)

    def _follow(self, task: _Task, job: GenJob, body: wire.Body) -> None:
        call, request = task.call, task.call.request
        for answer in self._stream(task, body):
            call.check()
            index = int(answer.get("index") or 0)
            if not 0 <= index < len(task.samples):
                raise RequestFailed(f"{self.server.place} answers for sample {index}, which was not asked for")
            sample = task.samples[index]
            new = sample.take(answer)
            task.is_begun = True
            if call.first_at is None:
                call.first_at = time.monotonic()
            meta = sample.meta
            if not index and (cached := meta.get("cached_tokens")) is not None:
                task.counts_cached = True
                self.tree.admitted(request, int(cached), int(meta.get("prompt_tokens") or len(job.prompt)))
            text, ids, logprobs = sample.delta()
            if new:
                self._shadow(TextArrived(request, index, _samples(request, new, sample.newest_logprobs(len(new)))))
            self._progress(task, index, text, ids, logprobs)
        if not all(sample.is_over for sample in task.samples):
            raise Unended

    def _progress(self, task: _Task, index: int, text: str, ids: tuple[int, ...], logprobs: Any) -> None:
        if not (text or ids):
            return
        with self._lock:
            if task.is_answered:
                return
        if logprobs and (on_logprobs := getattr(task.listener, "on_logprobs", None)) is not None:
            on_logprobs(index, logprobs)
        task.listener.on_progress(index, text, ids)

    def _outputs(self, task: _Task, *, aborted: bool = False) -> tuple[GenOutput, ...]:
        times = self._times(task)
        n_prompt = len(task.job.prompt)
        return tuple(sample.output(sample.usage(n_prompt, *times), aborted=aborted) for sample in task.samples)

    def _times(self, task: _Task) -> tuple[float, float]:
        now = time.monotonic()
        return (task.call.first_at or now) - task.queued_at, now - task.queued_at

    # ------------------------------------------------------------ a select

    def _scored(self, task: _Task, job: ScoreJob) -> ScoreOutput:
        """The prompt first, if it is long: the choices then find it in the cache, as the original's frontend has it."""
        usages = []
        if len(job.choices) > 1 and len(job.prompt) >= WARM_FROM:
            usages.append(usage_of(self._post(task, wire.warm_body(job, task.rid)), len(job.prompt)))
            self.tree.admitted(task.call.request, usages[0].cached_tokens, usages[0].prompt_tokens)
        answers = self._post(task, wire.score_body(job, [f"{task.rid}-{index}" for index in range(len(job.choices))]))
        if not isinstance(answers, list) or len(answers) != len(job.choices):
            raise RequestFailed(f"{self.server.place} does not answer for each choice")
        rows = scored(job, answers)
        each = [usage_of(answer, len(job.prompt)) for answer in answers]
        first = usages[0] if usages else each[0]
        n_choices = sum(map(len, job.choices))
        first_s, total_s = self._times(task)
        usage = Usage(
            prompt_tokens=len(job.prompt) + n_choices,
            cached_tokens=min(first.cached_tokens, len(job.prompt)),
            computed_tokens=len(job.prompt) - min(first.cached_tokens, len(job.prompt)) + n_choices,
            first_token_s=first_s,
            total_s=total_s,
        )
        return ScoreOutput(rows, usage)

    # ------------------------------------------------------------ the answer

    def _end(self, task: _Task, reason: SglError) -> None:
        """Its reads end at once, the server is told, and its thread answers. If that is stuck elsewhere, the clock's thread does."""
        task.call.end(reason)
        if not task.is_answered:
            threading.Thread(target=self._abort, args=(task.rid,), name="sgl-endpoint-abort", daemon=True).start()
        ALARMS.at(time.monotonic() + GRACE_S, lambda: self._answer(task, task.call.ended or reason))

    def _abort(self, rid: str) -> None:
        """The end of its connection is one sign for a server; a router in between may keep that to itself."""
        with suppress(SglError):
            self._ask("POST", "/abort_request", {"rid": rid}, deadlines=Deadlines(connect=2.0, idle=5.0, total=5.0))

    def _answer(self, task: _Task, outcome: Any) -> None:
        with self._lock:
            if task.is_answered:
                return
            task.is_answered = True
            self._tasks.pop(task.call.request, None)
        if isinstance(outcome, SglError):
            if isinstance(outcome, Stopped) and isinstance(task.job, GenJob):
                outcome = self._outputs(task, aborted=True)
            elif isinstance(outcome, RequestFailed) and any(sample.text for sample in task.samples):
                outcome.partial = tuple(sample.text for sample in task.samples)
        match outcome:
            case SglError():
                self._tell_end(task, "error" if not isinstance(outcome, Stopped) else "abort")
                task.listener.on_error(outcome)
            case tuple():
                self._tell_end(task, outcome[0].finish_reason, *(output.usage for output in outcome))
                task.listener.on_done(outcome)
            case ScoreOutput(usage=usage):
                self._tell_end(task, "stop", usage)
                task.listener.on_done(outcome)
            case Usage():
                self._tell_end(task, "stop", outcome)
                task.listener.on_done(outcome)

    def _tell_end(self, task: _Task, reason: str, *usages: Usage) -> None:
        """`usages` are those of the samples of one prompt, which counts once."""
        n_prompt = usages[0].prompt_tokens if usages and task.is_begun else 0
        n_completion = sum(usage.completion_tokens for usage in usages)
        n_cached = usages[0].cached_tokens if usages and task.counts_cached else None
        self._shadow(RequestAnswered(task.call.request, reason, n_prompt, n_completion, n_cached, None, ""))

    # ------------------------------------------------------------ http

    @cached_property
    def _client(self) -> httpx2.Client:
        from ..remote.wire import client_for

        return client_for(self.server)

    def _send(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> httpx2.Response:
        response = self._client.request(method, self.server.base_url + path, json=body)
        _check(response, response.text if response.status_code >= 300 else "")
        return response

    def _served_by(self, job: Job, response: httpx2.Response) -> None:
        worker = response.headers.get("x-served-by", "")
        if worker and job.fork is not None:
            with self._lock:
                mine = self._served.setdefault(job.fork, {})
                mine[worker] = mine.get(worker, 0) + 1
                while len(self._served) > MAX_FORKS:
                    del self._served[next(iter(self._served))]

    def _post(self, task: _Task, body: wire.Body) -> Any:
        response = self._send("POST", "/generate", body)
        self._served_by(task.job, response)
        answer = response.json()
        _refused(answer)
        for each in answer if isinstance(answer, list) else [answer]:
            task.is_begun, task.counts_cached = True, (each.get("meta_info") or {}).get("cached_tokens") is not None
        return answer

    def _stream(self, task: _Task, body: wire.Body) -> Iterator[Answer]:
        with self._client.stream("POST", self.server.base_url + "/generate", json=body) as response:
            self._served_by(task.job, response)
            if response.status_code >= 300:
                response.read()
                _check(response, response.text)
            for line in response.iter_lines():
                if not line.startswith("data:"):
                    continue
                data = line[5:].strip()
                if data == "[DONE]":
                    return
                answer = json.loads(data)
                _refused(answer)
                yield answer

    def _ask(self, method: str, path: str, body: Mapping[str, Any] | None = None, deadlines: Deadlines | None = None) -> Any:
        """What is no job, on the caller's thread: our errors."""
        deadlines = deadlines or replace(self.deadlines, total=min(30.0, self.deadlines.total))
        call = Call(RequestId(0), self.server.place, deadlines, _ignored)
        try:
            with call.works():
                response = self._send(method, path, body)
                text = response.text
                # A router calls the JSON of its own paths plain text.
                return json.loads(text) if "json" in response.headers.get("content-type", "") or text[:1] in ("{", "[") else text
        except json.JSONDecodeError:
            raise
        except Exception as error:
            failure = cleaned(self._meant(error, call).error)
        raise failure  # not inside the handler, which would attach the SDK's error and its variables

    def _ask_or_none(self, method: str, path: str) -> Any:
        try:
            found = self._ask(method, path)
        except (SglError, json.JSONDecodeError):
            return None
        return found if isinstance(found, dict) else None


class _Failure(Exception):
    """A status that is no success, with what the server says of it."""

    def __init__(self, response: httpx2.Response, body: object) -> None:
        super().__init__(str(body)[:400])
        self.status_code, self.response, self.body = response.status_code, response, body


def _check(response: httpx2.Response, text: str) -> None:
    if response.status_code >= 300:
        try:
            body: object = json.loads(text)
        except ValueError:
            body = text.strip() or response.reason_phrase
        raise _Failure(response, body)


def _refused(answer: Any) -> None:
    """An error that comes in place of an answer."""
    if isinstance(answer, dict) and (error := answer.get("error")) is not None:
        message = error.get("message") if isinstance(error, dict) else error
        code = error.get("code") if isinstance(error, dict) else None
        raise Refused(str(message), code if type(code) is int else None)


def _samples(request: RequestId, tokens: Sequence[int], logprobs: Sequence[TokenLogprob]) -> tuple[Sample, ...]:
    """Tokens that came, with their log-probabilities if these were asked for."""
    if len(logprobs) != len(tokens):
        return tuple(Sample(request, token, None, (), None, False) for token in tokens)
    return tuple(Sample(request, token, one.logprob, one.top, None, False) for token, one in zip(tokens, logprobs, strict=True))


def _ignored(index: int, text: str) -> None:
    """Nothing listens."""
