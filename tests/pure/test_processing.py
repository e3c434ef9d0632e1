"""Of what users write only what has a bound runs on the engine's thread. A pattern that computes for long holds up its own request
alone.
"""

from __future__ import annotations

import random
import re
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

import sgl_lab.lang.surface as sgl
from sgl_lab.backends.local import LocalBackend
from sgl_lab.contracts.errors import RequestFailed
from sgl_lab.contracts.events import EngineFault
from sgl_lab.contracts.params import Constraint, SamplingParams
from sgl_lab.contracts.patterns import watching
from sgl_lab.contracts.patterns.bounded import is_bounded
from sgl_lab.contracts.patterns.watching import Watch
from sgl_lab.contracts.port import GenJob, TokenLogprob
from sgl_lab.engine.plan import Runner
from sgl_lab.engine.serving import open_groups
from sgl_lab.engine.serving import processing as serving_processing
from sgl_lab.engine.serving.gen_group import GenGroup
from sgl_lab.engine.serving.processing import Filling, Process, Processing, process_here
from sgl_lab.engine.serving.resident import Resident
from sgl_lab.engine.text.chat import ChatTemplate
from sgl_lab.engine.text.tokenizer import Tokenizer
from sgl_lab.engine.tools.fake import HashRunner
from sgl_lab.grammar import limits
from sgl_lab.grammar.matcher import Matcher
from sgl_lab.lang.choices import ChoicesDecision, ChoicesSamplingMethod

from .driving import SOAK, Bench, Late, Listener, Stream, bench, expect_idle, expect_lawful
from .language import watchdog  # noqa: F401
from .words import lab

PROMPT = tuple(b"once upon a time")
DEADLINE_S = 20.0

# ------------------------------------------------------------ rows that are done late, by hand


class Sometimes:
    """Of the rows that it is given it does some now, the others after some steps."""

    def __init__(self, seed: int) -> None:
        self._draw = random.Random(seed)
        self.left: list[Processing] = []
        self.n_late = 0

    def __call__(self, tasks: Sequence[Processing] | Sequence[Filling], *, until_done: bool = False) -> None:
        if until_done:
            process_here(tasks)
            return
        processings = [task for task in tasks if isinstance(task, Processing)]
        self.left += processings
        self.do(0.5)
        self.n_late += sum(not processing.is_done for processing in processings)

    def do(self, share: float) -> None:
        for processing in self.left:
            if self._draw.random() < share:
                processing()
        self.left = [processing for processing in self.left if not processing.is_done]


def holding(held: list[Processing]) -> Process:
    """Does nothing but keep them."""
    return lambda tasks, *, until_done=False: held.extend(task for task in tasks if isinstance(task, Processing))


ASKED: list[dict[str, Any]] = [
    {},
    {"stop": ("a", "bc")},
    {"stop_regex": (r"[x-z]", r"\d\d")},
    {"stop_regex": (r"(\w)\1",), "n": 2},
    {"stop_regex": (r"nowhere",), "logprobs": True},
    {"constraint": Constraint("regex", r"[a-c]{3}(one|two)[0-9]+x")},
    {"constraint": Constraint("regex", r"abc"), "n": 2},
    {"constraint": Constraint("regex", r"[a-f]+[0-3]{2}"), "stop_regex": ("ff",)},
]


def answered(b: Bench, jobs: Sequence[tuple[GenJob, Listener]], between: Callable[[], None], cancels: random.Random | None = None) -> None:
    names = []
    for job, listener in jobs:
        group = b.engine.gen(job, listener)
        b.engine.add(group)
        names.append(group.id)
        for _ in range(3):
            b.step()
            between()
        if cancels and cancels.random() < 0.1:
            b.engine.cancel(cancels.choice(names[-4:]))
    for _ in range(10_000):
        between()
        if not b.step() and all(listener.answers for _, listener in jobs):
            return
    raise AssertionError("still busy")


@pytest.mark.parametrize("make", [HashRunner, Late, Stream])
@pytest.mark.parametrize("seed", range(2))
def test_rows_that_are_done_late_say_what_they_would_have_said(make: Callable[[int, int], Runner], seed: int) -> None:
    """On a pool that is too small: rows give way, pages are evicted, requests are cancelled, and no book is wrong after any step."""
    draw = random.Random(seed)
    config = {"n_pages": 40, "page_size": 4, "max_rows": 4, "step_tokens": 24, "draft_tokens": draw.choice((0, 16))}
    sometimes, cancels = Sometimes(seed), random.Random(seed)
    late, plain = bench(make(40, 4), **config), bench(make(40, 4), **config)
    late.engine.process = sometimes
    stems = [PROMPT, tuple(b"a time upon a once")]
    jobs = []
    for _ in range(60 * SOAK):
        params = SamplingParams(max_tokens=draw.randrange(8, 30), seed=draw.randrange(2), **draw.choice(ASKED))
        jobs.append(GenJob((*draw.choice(stems), *draw.choices(range(97, 100), k=2)), params))
    listener = [(job, Listener()) for job in jobs]
    expected = [(job, Listener()) for job in jobs]
    answered(late, listener, lambda: sometimes.do(0.3), cancels)
    answered(plain, expected, lambda: None)
    n_cancelled = 0
    for (_, one), (_, other) in zip(listener, expected, strict=True):
        for output, twin in zip(one.answer, other.answer, strict=True):
            if output.finish_reason == "abort":
                n_cancelled += 1
                assert twin.ids[: len(output.ids)] == output.ids
            else:
                assert (output.ids, output.text, output.finish_reason) == (twin.ids, twin.text, twin.finish_reason)
        for index, output in enumerate(one.answer):
            streamed = "".join(text for i, text, _ in one.progress if i == index)
            assert streamed.startswith(output.text)  # a pattern may cut text that was delivered
    assert n_cancelled
    assert sometimes.n_late > 100
    assert not late.fold.of(EngineFault)
    for b in (late, plain):
        expect_lawful(b.fold.events)
        expect_idle(b)


def test_a_request_that_is_processed_keeps_its_pages_and_takes_part_in_no_step() -> None:
    b = bench(n_pages=64, page_size=1)
    held: list[Processing] = []
    b.engine.process = holding(held)
    slow, other = b.gen(PROMPT, max_tokens=9, ignore_eos=True, stop_regex=("q{9}",)), b.gen(PROMPT[:4], max_tokens=9, ignore_eos=True)
    held.pop()()  # its beginning
    while not other.answers:
        assert b.step()
    assert not slow.answers
    assert len(held) == 1
    assert b.engine.stats()["requests_running"] == 1
    assert not b.step()  # nothing to do until it is done
    while not slow.answers:
        while held:
            held.pop()()
        b.step()
    assert len(slow.output.ids) == 9
    expect_lawful(b.fold.events)
    expect_idle(b)


@pytest.mark.parametrize("ends", [False, True])
def test_a_cancel_of_what_is_processed_is_answered_when_that_is_done(ends: bool) -> None:
    b = bench()
    held: list[Processing] = []
    listener = b.gen(PROMPT, max_tokens=3 if ends else 30, ignore_eos=True, stop_regex=("q{9}",))
    b.engine.process = holding(held)
    for _ in range(3):
        while held:
            held.pop()()
        b.step()
    b.engine.cancel(b.engine._groups.all[0].id)
    assert not listener.answers
    b.step()
    assert not listener.answers
    held.pop()()
    b.drain()
    assert len(listener.output.ids) == 3
    assert listener.output.finish_reason == ("length" if ends else "abort")
    expect_idle(b)


def test_what_is_processed_when_a_sibling_fails_or_the_engine_closes_is_answered_once() -> None:
    b = bench()
    held: list[Processing] = []
    b.engine.process = holding(held)
    both = b.gen(PROMPT, max_tokens=30, n=2, ignore_eos=True, stop_regex=("q{9}",))
    while not held or held[0].row is None:
        while held:
            held.pop()()
        b.step()
    held[0].error, held[0].is_done = ValueError("a pattern failed"), True
    b.step()
    with pytest.raises(RequestFailed, match="a pattern failed"):
        _ = both.answer
    held[-1]()
    b.drain()
    expect_idle(b)
    again = b.gen(PROMPT, max_tokens=30, stop_regex=("q{9}",))
    b.engine.close()
    for processing in held:
        processing()
    assert len(again.answers) == 1


# ------------------------------------------------------------ threads


@pytest.fixture
def backend(tmp_path: Path) -> Iterator[LocalBackend]:
    made = lab(tmp_path)
    yield made
    made._resident.check()
    made._resident.close()


class Done(Listener):
    def __init__(self) -> None:
        super().__init__()
        self.over = threading.Event()

    def on_done(self, answer: Any) -> None:
        super().on_done(answer)
        self.over.set()

    def on_error(self, error: Exception) -> None:
        super().on_error(error)
        self.over.set()


class Threads:
    """On which threads functions were called, and with what of the engine's steps under way."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._monkeypatch = monkeypatch
        self.of: dict[str, set[str]] = defaultdict(set)

    def watch(self, owner: Any, *names: str) -> None:
        for name in names:
            self._monkeypatch.setattr(owner, name, self._recorded(f"{owner.__name__}.{name}", getattr(owner, name)))

    def _recorded(self, label: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def recorded(*args: Any, **named: Any) -> Any:
            where = threading.current_thread().name + (", bounded" if is_bounded() else "")
            given = function(*args, **named)
            is_full = isinstance(args[0], Matcher) and not args[0].is_light
            self.of[label].add(where + (", full limits" if is_full else ""))
            return given

        return recorded


FOLLOWED = ("take", "forced", "keeps_completion", "reach", "fill")
CONSTRAINTS = [
    ("regex", r"[A-Z][a-z]{2,9}, [0-9]{1,2} (March|April|May) (19|20)[0-9]{2}"),
    ("json_schema", '{"type": "object", "properties": {"name": {"type": "string", "maxLength": 9}, "ok": {"type": "boolean"}},'
     ' "required": ["name", "ok"], "additionalProperties": false}'),
    ("grammar", 'start: item ("," item)*\nitem: /[a-z]{1,4}/ | "(" item ")"'),
]  # fmt: skip


class Longest(ChoicesSamplingMethod):
    threads: Threads

    def __call__(self, *, choices: Sequence[str], **_: object) -> Any:
        self.threads.of["choices_method"].add(threading.current_thread().name)
        return ChoicesDecision(max(choices, key=len))


def whole(s: Any, n: int) -> None:
    """Everything that a user may write."""
    s += sgl.system("Be brief.") + sgl.user(f"Question {n}: what is hot? ")
    s += sgl.assistant(sgl.gen("a", max_tokens=12, stop=["e", " t"], stop_regex=[r"[aeiou]\w", r"(\w)\1"]))
    s += sgl.user("And ") + sgl.assistant(sgl.gen("b", regex=r"[a-z]{2,4} [0-9]{1,3}", stop=list("0123456789"), max_tokens=12))
    s += sgl.user("Or ") + sgl.assistant(sgl.select("c", ["fire", "ice"], choices_method=Longest()))
    forks = s.fork(3)
    for index, fork in enumerate(forks):
        fork += sgl.user(f"Style {index}") + sgl.assistant(sgl.gen("d", max_tokens=6, stop_regex=["z$"]))
    forks.join()
    s += sgl.user("Last") + sgl.assistant(sgl.gen("e", max_tokens=5, stop=["."], json_schema='{"enum": ["yes", "no"]}'))


def test_nothing_without_a_bound_that_a_user_writes_runs_on_the_engine_s_thread(
    backend: LocalBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = Longest.threads = Threads(monkeypatch)
    threads.watch(Tokenizer, "encode", "encode_all", "render_chat")
    threads.watch(ChatTemplate, "render")
    threads.watch(Watch, "look", "pass_over")
    threads.watch(Matcher, *FOLLOWED, "is_text")
    threads.watch(watching.Pattern, "advance", "try_at")
    program = sgl.function(whole)

    async def awaiting(s: Any, n: int) -> None:
        s += sgl.user(f"Awaited {n}") + sgl.assistant(sgl.gen("x", max_tokens=8, stop_regex=["[aeiou]{2}"], stop="o"))
        await s.get("x")

    states = program.run_batch([{"n": 1}, {"n": 2}], backend=backend, num_threads=2)
    states.append(program.run(n=3, backend=backend, stream=True))
    assert "".join(states[-1].text_iter())
    states.append(sgl.function(awaiting).run(n=4, backend=backend))
    for state in states:
        state.sync()
    assert {label for label, names in threads.of.items() if "sgl_lab engine" in names} == set()
    bounded = {"Tokenizer.encode", *(f"Matcher.{name}" for name in FOLLOWED)}  # of a text that a constraint forces
    assert {label for label, names in threads.of.items() if "sgl_lab engine, bounded" in names} == bounded
    assert {"ChatTemplate.render", "Watch.look", "Matcher.is_text", "choices_method"} <= set(threads.of)
    assert threads.of["Watch.look"] == {"sgl_lab patterns"}
    assert not any("full limits" in name for names in threads.of.values() for name in names)


def test_a_constraint_beyond_the_light_limits_is_followed_on_other_threads_and_gives_the_same_texts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever the light limits end: at the first mask, in the middle of a text, or while a completion is looked for."""
    asked = [
        SamplingParams(max_tokens=24, seed=seed, temperature=1.0, constraint=Constraint(*constraint))
        for seed, constraint in enumerate(CONSTRAINTS)
    ]

    def outcomes(jobs: list[SamplingParams]) -> list[tuple[Any, ...]]:
        made = lab(tmp_path)
        listeners = [Done() for _ in jobs]
        for params, one in zip(jobs, listeners, strict=True):
            made.submit(GenJob(made.encode("The capital"), params), one)
        assert all(one.over.wait(DEADLINE_S) for one in listeners)
        made._resident.check()
        made._resident.close()
        return [(one.output.ids, one.output.text, one.output.finish_reason, one.output.is_complete) for one in listeners]

    expected = outcomes(asked)
    n_full = 0
    for fuel in (20, 100, 300, 1_000):
        with monkeypatch.context() as patch:
            patch.setattr(limits, "LIGHT", limits._limits(fuel, 5_000))
            threads = Threads(patch)
            threads.watch(Matcher, *FOLLOWED, "_follow_again")
            assert outcomes(asked) == expected
        for label, names in threads.of.items():
            assert not any(name.startswith("sgl_lab engine") and "full" in name for name in names), label
        assert "sgl_lab engine" not in {name for names in threads.of.values() for name in names}
        n_full += "Matcher._follow_again" in threads.of
    assert n_full


# ------------------------------------------------------------ what it costs


class Counted:
    """How many objects are made for rows, and how many rows and masks are handed to another thread."""

    def __init__(self, b: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
        self.n_objects = 0
        self.handed: list[type] = []

        def made(*args: Any) -> Processing:
            self.n_objects += 1
            return Processing(*args)

        def process(tasks: Sequence[Processing] | Sequence[Filling], *, until_done: bool = False) -> None:
            self.handed += map(type, tasks)
            process_here(tasks)

        monkeypatch.setattr(open_groups, "Processing", made)
        b.engine.process = process


def test_rows_without_a_pattern_take_no_object_and_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    b = bench()
    counted = Counted(b, monkeypatch)
    listeners = [b.gen((*PROMPT, n), max_tokens=20, ignore_eos=True, logprobs=True, stop=("never",)) for n in range(3)]
    assert counted.n_objects == 3  # their beginnings
    b.drain()
    assert [len(one.output.ids) for one in listeners] == [20, 20, 20]
    assert counted.n_objects == 3
    assert counted.handed == []


def test_a_row_that_fails_fails_alone_without_an_object(monkeypatch: pytest.MonkeyPatch) -> None:
    b = bench()
    good, bad = b.gen(PROMPT, max_tokens=9, ignore_eos=True), b.gen(PROMPT[:5], max_tokens=9, ignore_eos=True)
    accept, culprit = GenGroup.accept, b.engine._groups.all[1]

    def accepted(group: GenGroup, *args: Any) -> Any:
        if group is culprit:
            raise ValueError("a token without bytes")
        return accept(group, *args)

    monkeypatch.setattr(GenGroup, "accept", accepted)
    b.drain()
    with pytest.raises(RequestFailed, match="a token without bytes"):
        _ = bad.answer
    assert len(good.output.ids) == 9
    expect_idle(b)


@pytest.mark.parametrize("constraint", CONSTRAINTS, ids=lambda one: one[0])
def test_constraints_with_a_bound_are_followed_without_another_thread(constraint: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    b = bench()
    counted = Counted(b, monkeypatch)
    listeners = b.gen(PROMPT, max_tokens=60, constraint=Constraint(*constraint))
    b.drain()
    assert listeners.output.is_complete
    assert counted.handed == []


def test_each_row_along_a_stop_pattern_is_handed_over_once(monkeypatch: pytest.MonkeyPatch) -> None:
    b = bench()
    counted = Counted(b, monkeypatch)
    listeners = b.gen(PROMPT, max_tokens=12, ignore_eos=True, stop_regex=("q{9}",))
    b.drain()
    assert len(listeners.output.ids) == 12
    assert counted.handed == [Processing] * (1 + listeners.output.usage.model_steps)


def test_a_search_for_a_completion_that_takes_too_many_steps_is_handed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving_processing, "MOST_STEPS", 3)
    b, plain = bench(), bench()
    counted = Counted(b, monkeypatch)
    constraint = Constraint("regex", r"[a-f]{3,9}(one|two|three)[0-9]+x[g-k]{3}")
    listeners = b.gen(PROMPT, max_tokens=18, constraint=constraint)
    b.drain()
    assert Processing in counted.handed
    monkeypatch.undo()
    expected = plain.gen(PROMPT, max_tokens=18, constraint=constraint)
    plain.drain()
    assert (listeners.output.ids, listeners.output.text) == (expected.output.ids, expected.output.text)


# ------------------------------------------------------------ others


def test_a_pattern_that_computes_on_and_on_leaves_the_steps_of_others_going(backend: LocalBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, look = backend._resident.engine, Watch.look
    n_gone: list[int] = []

    def looked(watch: Watch, text: str, at: int) -> int | None:
        before, deadline = engine._metrics.n_steps, time.monotonic() + DEADLINE_S
        while watch.source.startswith("stuck") and not n_gone and engine._metrics.n_steps < before + 10 and time.monotonic() < deadline:
            re.search("(a|aa)+$", "a" * 12 + "b")  # computing, as a pattern does
        if watch.source.startswith("stuck"):
            n_gone.append(engine._metrics.n_steps - before)
        return look(watch, text, at)

    monkeypatch.setattr(Watch, "look", looked)

    @sgl.function
    def slow(s: Any) -> None:
        s += "once upon" + sgl.gen("x", max_tokens=4, stop_regex="stuck!", ignore_eos=True)

    @sgl.function
    def quick(s: Any) -> None:
        s += "The capital" + sgl.gen("x", max_tokens=400, stop_regex="nowhere", ignore_eos=True)

    other = quick.run(backend=backend, stream=True)
    first = slow.run(backend=backend)
    assert first.get_meta_info("x")["completion_tokens"] == 4
    assert n_gone[0] >= 10
    other.cancel()


def test_a_row_that_passes_in_no_time_is_always_waited_for(backend: LocalBackend) -> None:
    """However slow threads are to start: what is measured is what they compute."""
    resident: Resident = backend._resident

    class Idle(Processing):
        def __call__(self) -> None:
            time.sleep(0.05)
            self.is_done = True

    done = [Idle.__new__(Idle) for _ in range(3)]
    for processing in done:
        processing.is_done = False
    resident._life._patterns(done)
    assert all(processing.is_done for processing in done)


def test_log_probabilities_are_emitted_as_tokens_are_generated(backend: LocalBackend) -> None:
    class UpdateListener(Done):
        def __init__(self) -> None:
            super().__init__()
            self.logprobs: list[TokenLogprob] = []

        def on_logprobs(self, index: int, logprobs: tuple[TokenLogprob, ...]) -> None:
            self.logprobs += logprobs

    updates = UpdateListener()
    backend.submit(GenJob(backend.encode("The capital"), SamplingParams(max_tokens=9, logprobs=True, ignore_eos=True)), updates)
    assert updates.over.wait(DEADLINE_S)
    assert tuple(updates.logprobs) == updates.output.logprobs
    assert len(updates.logprobs) == 9
