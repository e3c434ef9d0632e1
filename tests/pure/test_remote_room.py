"""What all engines behind an API have in common, with a vendor that has no network: threads, cancels, retries, budgets, answers on disk."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import sgl_lab.lang.surface as sgl
from sgl_lab.backends.remote import SESSION, Call, Deadlines, Provider, RemoteBackend, Retries, find_endpoint, spending
from sgl_lab.backends.remote.limits import Limits
from sgl_lab.contracts.capabilities import Capabilities, Prices
from sgl_lab.contracts.conversation import ChatJob, ChatMessage, ChatOutput, DecisionJob, DecisionOutput, TextPart
from sgl_lab.contracts.errors import (
    BackendUnsupported,
    BudgetExceeded,
    ConnectionFailed,
    EngineStopped,
    RequestFailed,
    RequestTimedOut,
    Stopped,
)
from sgl_lab.contracts.events import RequestQueued
from sgl_lab.contracts.params import SamplingParams
from sgl_lab.contracts.port import ModelCard, Usage
from sgl_lab.elsewhere import BackendLab

from .language import watchdog, within

__all__ = ["watchdog"]

NOWHERE = Provider("nowhere", ("api.nowhere.test",), ("NOWHERE_API_KEY",))
CAN = Capabilities(sampling=("max_tokens", "temperature"), samples=4, choices="decided", cached_counts=True)
PRICES = Prices(1.0, 10.0, 0.1)
Answer = Callable[[ChatJob, Call], str]


class Toy(RemoteBackend):
    """Answers with what a function makes of a job; a token is a character."""

    def __init__(self, answer: Answer | str = "ok", **options: Any) -> None:
        card = ModelCard("toy", ("nowhere", "toy"), 1000, 0, "remote", "unknown", CAN)
        super().__init__(find_endpoint(NOWHERE, "http://127.0.0.1:1"), card, options)  # type: ignore[arg-type]
        self.answer = answer
        self.jobs: list[Any] = []

    def _converse(self, job: ChatJob, call: Call) -> tuple[ChatOutput, ...]:
        self.jobs.append(job)
        text = self.answer if isinstance(self.answer, str) else self.answer(job, call)
        for char in text:
            call.delta(0, char)
        return tuple(
            ChatOutput(text, "stop", Usage(prompt_tokens=100, completion_tokens=len(text), cached_tokens=50)) for _ in range(job.params.n)
        )

    def _decide(self, job: DecisionJob, call: Call) -> DecisionOutput:
        return DecisionOutput((0.25, 0.75), Usage(prompt_tokens=10))


def job(text: str = "Q", **params: Any) -> ChatJob:
    return ChatJob((ChatMessage("user", (TextPart(text),)),), SamplingParams(**{"max_tokens": 10, **params}))


class Listener:
    """A listener that keeps all its notifications."""

    def __init__(self) -> None:
        self.text, self.ends = "", list[Any]()
        self.over = threading.Event()

    def on_delta(self, index: int, text: str) -> None:
        assert not self.ends
        self.text += text

    def on_done(self, outputs: Any) -> None:
        self.ends.append(outputs)
        self.over.set()

    def on_error(self, error: Exception) -> None:
        self.ends.append(error)
        self.over.set()

    def end(self) -> Any:
        assert self.over.wait(10)
        (end,) = self.ends
        return end


@pytest.fixture(autouse=True)
def _no_limit() -> Iterator[None]:
    SESSION.reset()
    yield
    SESSION.limit = None


def ask(backend: RemoteBackend, asked: ChatJob | None = None) -> Listener:
    listener = Listener()
    backend.converse(asked or job(), listener)
    listener.over.wait(10)
    return listener


def test_a_program_runs_and_tells_counts_cost_and_events() -> None:
    events: list[Any] = []
    s = sgl.start(Toy("yes", prices=PRICES, emit=events.append))
    s += sgl.user("Q") + sgl.assistant(sgl.gen("a", max_tokens=5)) + sgl.user("R") + sgl.assistant(sgl.select("b", ["x", "y"]))
    assert (s["a"], s["b"]) == ("yes", "y")
    meta = s.get_meta_info("a")
    assert (meta["prompt_tokens"], meta["completion_tokens"], meta["cached_tokens"]) == (100, 3, 50)
    assert meta["cost"] == pytest.approx((50 * 1 + 50 * 0.1 + 3 * 10) / 1e6)
    assert [type(event) for event in events] == [RequestQueued] * 2  # the language tells the rest
    assert SESSION.by_model["toy"].calls == 2


def test_a_cancelled_call_ends_with_what_came_even_if_its_thread_is_stuck() -> None:
    stuck, go_on = threading.Event(), threading.Event()

    def answer(job: ChatJob, call: Call) -> str:
        call.delta(0, "par")
        stuck.set()
        go_on.wait(20)
        return "too late"

    backend, listener = Toy(answer), Listener()
    request = backend.converse(job(), listener)
    assert stuck.wait(5)
    backend.cancel(request)
    (output,) = listener.end()
    assert (output.text, output.finish_reason) == ("par", "abort")
    go_on.set()
    backend.cancel(request)
    assert ask(backend, job("again")).ends


def test_a_call_ends_by_its_deadline_with_its_partial_text() -> None:
    def answer(job: ChatJob, call: Call) -> str:
        call.delta(0, "so far")
        threading.Event().wait(3)
        return ""

    error = ask(Toy(answer, deadlines=Deadlines(total=0.2))).end()
    assert isinstance(error, RequestTimedOut)
    assert error.partial == ("so far",)
    assert "within 0.2 s" in str(error)


@pytest.mark.parametrize(("n_fails", "begins", "n_calls", "ok"), [(2, False, 3, True), (3, False, 3, False), (1, True, 1, False)])
def test_a_call_is_made_again_twice_at_most_and_never_after_the_first_byte(n_fails: int, begins: bool, n_calls: int, ok: bool) -> None:
    n = 0

    def answer(job: ChatJob, call: Call) -> str:
        nonlocal n
        n += 1
        if n <= n_fails:
            if begins:
                call.delta(0, "x")
            raise ConnectionResetError("gone")
        return "ok"

    end = ask(Toy(answer, retries=Retries(first_s=0.01))).end()
    assert n == n_calls
    assert end[0].text == "ok" if ok else isinstance(end, ConnectionFailed)


def test_a_budget_stops_the_call_that_could_pass_it_and_nothing_is_sent() -> None:
    backend = Toy("12345", prices=PRICES)
    with spending(0.00025) as account:
        for _ in range(2):
            assert isinstance(ask(backend).end(), tuple)
        error = ask(backend).end()
    assert isinstance(error, BudgetExceeded)
    assert len(backend.jobs) == 2
    assert account.spent == pytest.approx(2 * (55 + 50) / 1e6)
    assert (account.reserved, SESSION.reserved) == (0, 0)
    assert isinstance(ask(backend).end(), tuple)
    SESSION.limit = 0.0
    assert isinstance(ask(Toy()).end(), BudgetExceeded)  # what it costs is unknown


def test_answers_on_disk_are_found_again_and_equal_draws_stay_different(tmp_path: Path) -> None:
    n = iter(range(10))
    first = Toy(lambda job, call: f"draw {next(n)}", cache=tmp_path, prices=PRICES)
    assert [ask(first).end()[0].text for _ in range(3)] == ["draw 0", "draw 1", "draw 2"]
    again = Toy(lambda job, call: "new", cache=tmp_path, prices=PRICES)
    found = [ask(again).end()[0] for _ in range(3)]
    assert [output.text for output in found] == ["draw 0", "draw 1", "draw 2"]
    assert (found[0].usage.cost, again.jobs) == (0.0, [])
    assert ask(again).end()[0].text == "new"
    for _ in range(2):  # a cell that runs again finds what it found
        with BackendLab(again).record("In[1]"):
            assert ask(again).end()[0].text == "draw 0"
    for other in (job(temperature=0.5), job("Q?"), job(max_tokens=11)):
        assert ask(again, other).end()[0].text == "new"


def test_a_closed_backend_says_so_and_answers_what_was_under_way() -> None:
    begun = threading.Event()

    def answer(job: ChatJob, call: Call) -> str:
        begun.set()
        call.sleep(20)
        return ""

    backend, listener = Toy(answer), Listener()
    backend.converse(job(), listener)
    assert begun.wait(5)
    backend.close()
    assert isinstance(listener.end(), EngineStopped)
    with pytest.raises(EngineStopped):
        backend.converse(job(), Listener())
    with pytest.raises(EngineStopped):
        backend.poll()


def test_no_more_calls_at_once_than_the_server_may_get() -> None:
    inside, most, lock, together = 0, 0, threading.Lock(), threading.Barrier(3)

    def answer(job: ChatJob, call: Call) -> str:
        nonlocal inside, most
        with lock:
            inside += 1
            most = max(most, inside)
        together.wait(20)
        with lock:
            inside -= 1
        return "ok"

    backends = [Toy(answer, concurrency=3), Toy(answer)]
    listener = [Listener() for _ in range(21)]
    for i, one in enumerate(listener):
        backends[i % 2].converse(job(), one)
    assert [one.end()[0].text for one in listener] == ["ok"] * 21
    assert most == 3
    Toy(concurrency=16)


def test_a_decision_that_is_cancelled_is_an_error_and_what_is_not_offered_is_refused() -> None:
    backend = Toy()
    for params, what in (({"top_k": 5}, "top_k"), ({"n": 5}, "at most 4 samples"), ({"stop": ("x",)}, "stop")):
        with pytest.raises(BackendUnsupported, match=what):
            backend.converse(job(**params), Listener())
    with pytest.raises(TypeError, match="pickled"):
        pickle.dumps(backend)
    held = Toy(lambda job, call: "", concurrency=1)
    listener, waiting = Listener(), Listener()
    held.answer = lambda job, call: (call.sleep(20), "")[1]  # type: ignore[func-returns-value]
    held.converse(job(), listener)
    request = held.decide(DecisionJob(job().prompt, ("a", "b")), waiting)
    held.cancel(request)
    assert isinstance(waiting.end(), Stopped)
    held.close()
    assert isinstance(listener.end(), EngineStopped)
    Toy(concurrency=16)


def test_what_cannot_be_read_is_a_failure_of_its_request() -> None:
    def answer(job: ChatJob, call: Call) -> str:
        raise KeyError("choices")

    error = ask(Toy(answer)).end()
    assert isinstance(error, RequestFailed)
    assert "cannot be read: KeyError" in str(error)
    assert (error.__traceback__, error.__context__) == (None, None)
    within(1, lambda: None)


def test_a_backend_that_asks_for_no_number_of_calls_leaves_that_of_another() -> None:
    limits = Limits()
    limits.set(None, None, default=64)
    assert limits.concurrency == 64
    limits.set(3, None)
    limits.set(None, None, default=64)
    limits.set(None, 10)
    assert (limits.concurrency, limits.per_minute) == (3, 10)
