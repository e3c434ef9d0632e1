"""The thread that owns the engine, and the backend over it."""

from __future__ import annotations

import os
import random
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

import sgl_lab.lang.surface as sgl
from sgl_lab.backends.local import LocalBackend
from sgl_lab.contracts.capabilities import TOKEN_LEVEL
from sgl_lab.contracts.errors import BadArgument, EngineStopped, PromptTooLong, SglError, Stopped
from sgl_lab.contracts.events import EngineFault, PrefixMatched, RequestQueued, StepRan, from_json, to_json
from sgl_lab.contracts.ids import ExprId, ForkId, RequestId
from sgl_lab.contracts.params import SamplingParams
from sgl_lab.contracts.port import Backend, GenJob, GenListener, ModelCard, ScoreJob, WarmJob
from sgl_lab.engine.plan import Plan, RowOutput
from sgl_lab.engine.serving import forked, notifying
from sgl_lab.engine.serving.config import EngineConfig
from sgl_lab.engine.serving.engine import Engine
from sgl_lab.engine.serving.resident import Resident
from sgl_lab.engine.tools.fake import ByteTokenizer, HashRunner
from sgl_lab.trace import Ring

from .driving import Fold, Listener, forked_process

DEADLINE_S = 20.0
PROMPT = tuple(b"once upon a time there was a resident engine")


class Waiting(Listener):
    """A listener that can be waited for."""

    def __init__(self, on_first_progress: Callable[[], object] = lambda: None) -> None:
        super().__init__()
        self._over = threading.Event()
        self._on_first_progress = on_first_progress

    def on_progress(self, index: int, text: str, ids: tuple[int, ...]) -> None:
        super().on_progress(index, text, ids)
        if len(self.progress) == 1:
            self._on_first_progress()

    def on_done(self, answer: Any) -> None:
        super().on_done(answer)
        self._over.set()

    def on_error(self, error: Exception) -> None:
        super().on_error(error)
        self._over.set()

    @property
    def answer(self) -> Any:
        assert self._over.wait(DEADLINE_S)
        return super().answer


class Gate(HashRunner):
    """Runs nothing until it is opened."""

    def __init__(self, n_pages: int) -> None:
        super().__init__(n_pages, 1)
        self.entered = threading.Event()
        self.opened = threading.Event()
        self.is_closed = False

    def run(self, plan: Plan) -> tuple[RowOutput, ...]:
        self.entered.set()
        assert self.opened.wait(DEADLINE_S)
        return super().run(plan)

    def close(self) -> None:
        self.is_closed = True


class Lab:
    def __init__(self, runner: HashRunner | None = None) -> None:
        self.ring = Ring()
        config = EngineConfig(n_pages=2048)
        tokenizer = ByteTokenizer()
        engine = Engine(config, runner or HashRunner(2048, 1), tokenizer, context=2048, namespace=("m",), emit=self.ring.emit)
        ring = self.ring
        self.resident = Resident(engine, lambda: ring.cursor)
        card = ModelCard("hash", ("m",), 2048, tokenizer.n_vocab, "none", "none", replace(TOKEN_LEVEL, chat_template=True))
        self.backend: Backend = LocalBackend(self.resident, tokenizer, card, self.ring.emit)

    def events(self, *kinds: type) -> list[Any]:
        return [entry.event for entry in self.ring.read(0).entries if isinstance(entry.event, kinds)]


@pytest.fixture
def lab() -> Iterator[Lab]:
    lab = Lab()
    yield lab
    lab.resident.check()
    lab.resident.close()


def long(**params: Any) -> GenJob:
    return GenJob(PROMPT, SamplingParams(**({"max_tokens": 1000, "ignore_eos": True, "temperature": 0.0} | params)))


def test_jobs_are_answered_from_the_engine_s_own_thread(lab: Lab) -> None:
    gen, score, warm = Waiting(), Waiting(), Waiting()
    lab.backend.submit(long(max_tokens=5), gen)
    lab.backend.score(ScoreJob(PROMPT, ((1,), (2,))), score)
    lab.backend.warm(WarmJob(PROMPT), warm)
    assert len(gen.answer[0].ids) == 5
    assert len(score.answer.logprobs) == 2
    assert warm.answer.prompt_tokens == len(PROMPT)


def test_a_queued_request_names_its_fork_before_the_engine_speaks_of_it(lab: Lab) -> None:
    listener = Waiting()
    name = lab.backend.submit(GenJob(PROMPT, SamplingParams(n=2, max_tokens=4), ForkId(7), ExprId(9)), listener)
    assert listener.answer
    emitted = lab.events(RequestQueued, PrefixMatched)
    assert emitted[0] == RequestQueued(name, ForkId(7), ExprId(9), "gen", PROMPT, 4, name, len(PROMPT) - 1)
    assert (emitted[1].fork, emitted[1].group, type(emitted[2])) == (7, name, PrefixMatched)


def test_cancel_keeps_what_was_generated(lab: Lab) -> None:
    started = threading.Event()
    listener = Waiting(started.set)
    name = lab.backend.submit(long(), listener)
    assert started.wait(DEADLINE_S)
    lab.backend.cancel(name)
    (output,) = listener.answer
    assert output.finish_reason == "abort"
    assert 0 < len(output.ids) < 1000
    lab.backend.cancel(name)


def test_a_job_submitted_by_a_listener_runs(lab: Lab) -> None:
    second = Waiting()
    first = Waiting(lambda: lab.backend.submit(long(max_tokens=3), second))
    lab.backend.submit(long(max_tokens=5), first)
    assert len(second.answer[0].ids) == 3


def test_a_listener_that_raises_does_not_stop_the_thread(lab: Lab) -> None:
    def bad() -> None:
        raise ZeroDivisionError("mine")

    listener = Waiting(bad)
    lab.backend.submit(long(max_tokens=5), listener)
    assert listener.answer
    assert "mine" in lab.events(EngineFault)[0].message
    lab.backend.poll()


def test_listeners_that_take_their_time_hold_up_neither_the_engine_nor_one_another(lab: Lab) -> None:
    let_go = threading.Event()
    stuck = [Waiting(lambda: let_go.wait(DEADLINE_S)) for _ in range(3)]
    for listener in stuck:
        lab.backend.submit(long(max_tokens=20), listener)
    other = Waiting()
    lab.backend.submit(long(max_tokens=30), other)
    while not other.answers:  # as a thread that waits for it does
        lab.backend.poll()
    assert lab.resident.stats()["requests_running"] == 0
    assert not any(listener.answers for listener in stuck)
    let_go.set()
    assert [len(listener.answer[0].ids) for listener in stuck] == [20] * 3
    assert ["".join(text for _, text, _ in listener.progress) for listener in stuck] == [listener.output.text for listener in stuck]


def test_a_listener_is_called_on_no_thread_of_the_engine(lab: Lab) -> None:
    names: list[str] = []
    listener = Waiting(lambda: names.append(threading.current_thread().name))
    lab.backend.submit(long(max_tokens=3), listener)
    assert listener.answer
    assert names == ["sgl_lab listener"]


class Hesitant(LocalBackend):
    """After each gen the engine has time for a step."""

    def submit(self, job: GenJob, listener: GenListener) -> RequestId:
        request = super().submit(job, listener)
        for _ in range(2):
            self._resident.call(lambda: None)
        return request


@pytest.mark.parametrize("kind", [LocalBackend, Hesitant])
def test_what_forks_find_of_one_another_is_no_matter_of_time(kind: type[LocalBackend]) -> None:
    gate = Gate(2048)
    lab = Lab(gate)
    parent = "Propose a trade. "

    @sgl.function
    def program(s: Any) -> None:
        s += parent
        forks = s.fork(3)
        for fork, style in zip(forks, ("careful", "bold", "cruel"), strict=True):
            fork += f"A {style} plan:" + sgl.gen("plan", max_tokens=4, ignore_eos=True)
        gate.opened.set()  # all is appended while the parent is computed
        s["cached"] = [fork.get_meta_info("plan")["cached_tokens"] for fork in forks]

    state = program.run(backend=kind(lab.resident, ByteTokenizer(), lab.backend.describe()), temperature=0)
    assert state["cached"] == [len(parent)] * 3
    steps = [event for event in lab.events(StepRan) if event.prefill]
    assert [len(event.prefill) for event in steps] == [1, 3]
    lab.resident.close()


class GoesOn(Waiting):
    """Takes a moment over its answer, then asks again."""

    def __init__(self, lab: Lab, again: Waiting) -> None:
        super().__init__()
        self._lab, self._again = lab, again

    def on_done(self, answer: Any) -> None:
        threading.Event().wait(0.01)
        self._lab.backend.submit(long(max_tokens=3), self._again)
        super().on_done(answer)


def test_what_programs_ask_for_next_is_there_before_the_next_step(lab: Lab) -> None:
    again = [Waiting() for _ in range(4)]
    with lab.backend.at_once():
        lab.backend.submit(long(max_tokens=12), other := Waiting())
        for waiting in again:
            lab.backend.submit(long(max_tokens=3), GoesOn(lab, waiting))
    assert all(waiting.answer for waiting in (other, *again))
    queued = [event.request for event in lab.events(RequestQueued)]
    started = [{request for request, _ in event.prefill} for event in lab.events(StepRan) if event.prefill]
    assert started[-1] == set(queued[5:])


def test_a_listener_that_asks_the_engine_is_not_waited_for(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notifying, "SLICES", 10**9)  # for ever, if it were
    listener = Waiting(lambda: lab.resident.stats())
    lab.backend.submit(long(max_tokens=3), listener)
    assert len(listener.answer[0].ids) == 3


def test_messages_sent_at_once_are_applied_in_order_and_calls_do_not_wait_for_them(lab: Lab) -> None:
    first, second, cancelled = Waiting(), Waiting(), Waiting()
    with lab.backend.at_once(), lab.backend.at_once():
        lab.backend.submit(long(max_tokens=3), first)
        request = lab.backend.submit(long(), cancelled)
        lab.backend.cancel(request)
        lab.backend.submit(long(max_tokens=3), second)
        assert lab.resident.stats()["requests_running"] == 0
        assert not lab.events(PrefixMatched)
    assert len(first.answer[0].ids) == len(second.answer[0].ids) == 3
    assert cancelled.answer[0].finish_reason == "abort"


def test_call_runs_between_steps_and_brings_back_what_it_raises(lab: Lab) -> None:
    assert lab.resident.call(lambda: threading.current_thread().name) == "sgl_lab engine"
    assert lab.resident.call(lambda: lab.resident.call(lambda: 3)) == 3
    with pytest.raises(ZeroDivisionError):
        lab.resident.call(lambda: 1 // 0)
    lab.backend.poll()


def test_a_snapshot_and_the_events_after_it_are_the_tree(lab: Lab) -> None:
    first, second = Waiting(), Waiting()
    lab.backend.submit(long(max_tokens=400), first)
    for i in range(20):
        lab.backend.submit(GenJob((*PROMPT[: i + 4], i), SamplingParams(max_tokens=30)), Waiting())
        snapshot = lab.resident.snapshot()
    assert first.answer
    lab.backend.submit(long(max_tokens=3), second)
    assert second.answer
    end = lab.resident.snapshot()
    fold = Fold()
    fold.nodes = {node.node: node for node in snapshot.nodes}
    fold.clock = max(node.last_used for node in snapshot.nodes)
    for entry in lab.ring.read(snapshot.seq).entries:
        if entry.seq < end.seq:
            fold(from_json(to_json(entry.event)))
    assert end.seq > snapshot.seq
    fold.expect(end)


def test_interrupts_of_a_caller_at_any_moment_leave_the_engine_as_it_was(lab: Lab) -> None:
    draw, n_interrupts = random.Random(1), 0

    def interrupt(signum: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        while n_interrupts < 2000:
            try:
                signal.setitimer(signal.ITIMER_REAL, draw.uniform(2e-5, 4e-4))
                while True:
                    lab.resident.snapshot()
            except KeyboardInterrupt:
                n_interrupts += 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    listener = Waiting()
    lab.backend.submit(long(max_tokens=5), listener)
    assert len(listener.answer[0].ids) == 5


def test_flush_and_stats_are_answered_while_it_runs(lab: Lab) -> None:
    started = threading.Event()
    listener = Waiting(started.set)
    name = lab.backend.submit(long(), listener)
    assert started.wait(DEADLINE_S)
    lab.resident.flush()
    stats = lab.resident.stats()
    assert stats["pages_total"] == 2048
    lab.backend.cancel(name)
    assert listener.answer
    assert lab.resident.stats()["requests_running"] == 0


def test_abort_all_ends_everything(lab: Lab) -> None:
    gate = Gate(2048)
    blocked = Lab(gate)
    gen, warm = Waiting(), Waiting()
    blocked.backend.submit(long(), gen)
    assert gate.entered.wait(DEADLINE_S)
    blocked.backend.warm(WarmJob(PROMPT * 2), warm)
    gate.opened.set()
    assert blocked.resident.abort_all() == 2
    assert gen.answer[0].finish_reason == "abort"
    with pytest.raises(Stopped):
        _ = warm.answer
    blocked.resident.close()


def test_close_answers_what_is_open_ends_the_thread_and_refuses_more() -> None:
    gate = Gate(2048)
    lab = Lab(gate)
    running, waiting = Waiting(), Waiting()
    lab.backend.submit(long(), running)
    assert gate.entered.wait(DEADLINE_S)
    lab.backend.submit(long(), waiting)
    gate.opened.set()
    lab.resident.close()
    for listener in (running, waiting):
        with pytest.raises(EngineStopped):
            _ = listener.answer
    assert gate.is_closed
    assert not lab.resident._thread.is_alive()
    with pytest.raises(EngineStopped):
        lab.backend.poll()
    with pytest.raises(EngineStopped):
        lab.backend.submit(long(), Waiting())
    with pytest.raises(EngineStopped):
        lab.resident.stats()
    lab.backend.cancel(lab.events(RequestQueued)[0].request)
    lab.resident.close()


def test_close_says_that_a_step_still_runs_and_ends_with_it() -> None:
    gate = Gate(2048)
    lab = Lab(gate)
    lab.backend.submit(long(), Waiting())
    assert gate.entered.wait(DEADLINE_S)
    with pytest.raises(SglError, match="is still computing a step"):
        lab.resident.close(timeout_s=0.01)
    assert not gate.is_closed
    gate.opened.set()
    lab.resident.close()
    assert gate.is_closed


def test_an_engine_to_which_nothing_refers_is_closed() -> None:
    gate = Gate(2048)
    gate.opened.set()
    lab = Lab(gate)
    listener = Waiting()
    lab.backend.submit(long(max_tokens=5), listener)
    backend, thread = lab.backend, lab.resident._thread
    assert listener.answer
    del lab
    backend.poll()
    backend.submit(long(max_tokens=5), listener := Waiting())
    assert listener.answer
    del backend
    thread.join(DEADLINE_S)
    assert gate.is_closed
    assert not thread.is_alive()


def test_in_a_forked_process_the_engine_says_at_once_that_it_is_not_there(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forked, "_loaded_in", os.getpid())

    def child() -> str:
        emitted = []
        for action in (lab.backend.poll, lab.resident.stats, lambda: lab.backend.submit(long(), Waiting())):
            with pytest.raises(EngineStopped, match="spawn") as caught:
                action()
            emitted.append(type(caught.value).__name__)
        with lab.ring._lock:  # the parent's thread held it
            lab.resident.close()
        return f"{emitted} {len(lab.ring.read(0).entries) > 0}"

    listener = Waiting()
    lab.backend.submit(long(max_tokens=3), listener)
    assert listener.answer
    with lab.ring._lock:
        assert forked_process(child) == "['EngineStopped', 'EngineStopped', 'EngineStopped'] True"
    lab.backend.poll()


def test_a_job_that_can_never_run_is_refused_at_submission_and_leaves_no_trace(lab: Lab) -> None:
    for error, job in ((PromptTooLong, WarmJob((1,) * 2049)), (BadArgument, WarmJob(()))):
        with pytest.raises(error):
            lab.backend.warm(job, Waiting())
    assert not lab.events(RequestQueued)


def test_the_backend_encodes_and_renders_as_its_tokenizer_does(lab: Lab) -> None:
    ids = lab.backend.encode("héllo <|user|>")
    assert lab.backend.decode(ids) == "héllo <|user|>"
    assert max(ids) < 256
    assert lab.backend.encode("<|user|>", markup=True) == (258,)
    assert [segment.text for segment in lab.backend.render_text("x")] == ["x"]
    assert lab.backend.describe().name == "hash"
