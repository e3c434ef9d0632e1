"""Eviction by what programs do: the order, what the language tells, and the same in what-if."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import sgl_lab as sgl
from sgl_lab.backends.local import LocalBackend
from sgl_lab.contracts.capabilities import TOKEN_LEVEL
from sgl_lab.contracts.events import Again, Event, Foreseen, ForksEnded, InBatch, NodeEvicted, RequestQueued, from_json, to_json
from sgl_lab.contracts.ids import ForkId, RequestId, RunId
from sgl_lab.contracts.port import ModelCard
from sgl_lab.engine.serving.cache.policies import policy
from sgl_lab.engine.serving.cache.pool import PagePool
from sgl_lab.engine.serving.cache.programs import Program
from sgl_lab.engine.serving.cache.tree import TRIM, RadixTree
from sgl_lab.engine.serving.config import EngineConfig
from sgl_lab.engine.serving.engine import Engine
from sgl_lab.engine.serving.resident import Resident
from sgl_lab.engine.serving.scheduling.order import lpm
from sgl_lab.engine.serving.scheduling.request import Request
from sgl_lab.engine.tools.fake import ByteTokenizer, HashRunner
from sgl_lab.engine.tools.simulate import Recording, simulate
from sgl_lab.trace import Ring

from .driving import Fold
from .generated import LONG
from .words import lab

SPACE = ("test",)
ME = RequestId(1)


class Cache:
    """A tree under the policy; a text is left there by a stream, by its number, or by none."""

    def __init__(self, n_pages: int = 64, schedule: str = "fcfs") -> None:
        self.fold = Fold()
        self.tree = RadixTree(PagePool(n_pages, 1), policy("program", schedule), self.fold)

    def leave(self, text: str, fork: int | None = None, foreseen: Foreseen | None = None) -> None:
        tokens = tuple(text.encode())
        lease = self.tree.acquire(SPACE, tokens)
        self.tree.insert(SPACE, tokens, self.tree.pool.take(len(tokens), ME), ME)
        self.tree.release(lease)
        if fork is not None:
            self.tree.left(ForkId(fork), SPACE, tokens, foreseen)

    def end(self, *forks: int, is_all: bool = True) -> None:
        self.tree.ended(tuple(map(ForkId, forks)), is_all=is_all)

    def gone(self) -> list[str]:
        """What is evicted one after the other."""
        names = {node.id: bytes(node.tokens).decode() for node in self.tree.nodes()}
        self.fold.events.clear()
        self.tree.flush()
        return [names[event.node] for event in self.fold.of(NodeEvicted)]


def test_what_ended_goes_before_what_is_unknown_and_that_before_what_goes_on() -> None:
    cache = Cache()
    cache.leave("ended", 1)
    cache.leave("open", 2)
    cache.leave("Old")
    cache.leave("new")
    cache.end(1)
    assert cache.gone() == ["ended", "Old", "new", "open"]


def test_of_what_goes_on_the_most_recently_used_goes_first_and_what_a_request_waits_for_last() -> None:
    cache = Cache()
    for fork, text in enumerate(("ask", "two", "Three", "four")):
        cache.leave(text, fork)
    for number, text in ((8, "Three!"), (9, "four!")):
        cache.tree.asked(RequestId(number), number, SPACE, tuple(text.encode()))
    cache.tree.asked(RequestId(10), 10, SPACE, tuple(b"two!"))
    cache.tree.served(RequestId(10))
    assert cache.gone() == ["two", "ask", "four", "Three"]


def test_in_an_order_by_prefix_the_least_recently_used_of_what_goes_on_goes_first_and_as_a_whole() -> None:
    cache = Cache(schedule="lpm")
    for fork, text in enumerate(("ask", "Two" * 9, "four")):
        cache.leave(text, fork)
    cache.tree.release(cache.tree.acquire(SPACE, tuple(b"ask")))
    assert cache.tree.evict(1) == 27
    assert cache.gone() == ["four", "ask"]


def test_of_what_a_traced_program_goes_on_with_the_farthest_goes_first_and_what_it_never_reads_before_that() -> None:
    cache, program = Cache(), RunId(1)
    for fork, (text, later) in enumerate({"never": 0, "far": 9, "Near": 3, "soon": 2}.items(), 1):
        cache.leave(text, fork, Foreseen(program, 1, later, 0))
    cache.leave("old, unknown")
    cache.leave("goes on", 5)
    assert cache.gone() == ["never", "old, unknown", "far", "Near", "soon", "goes on"]


def test_a_next_use_comes_nearer_while_the_program_advances_and_is_over_after_it() -> None:
    cache = Cache()
    cache.leave("five", 1, Foreseen(RunId(1), 1, 5, 0))
    cache.leave("eight", 2, Foreseen(RunId(2), 7, 8, 0))
    cache.tree.asked(RequestId(8), 8, SPACE, (1,), Foreseen(RunId(2), 7, 0, 0))
    cache.leave("x")
    cache.tree.asked(RequestId(9), 9, SPACE, (1,), Foreseen(RunId(1), 6, 0, 0))
    assert cache.gone() == ["five", "x", "eight"]


def test_of_requests_that_find_as_much_the_one_goes_first_for_which_most_steps_wait() -> None:
    tree, draw = RadixTree(PagePool(8, 1), Program()), random.Random(0)
    waits = [
        Request(RequestId(n), RequestId(n), "gen", SPACE, (n,), foreseen=known)
        for n, known in enumerate((None, Foreseen(RunId(1), 1, 0, 0), Foreseen(RunId(1), 1, 4, 3)))
    ]
    assert lpm(tree, waits, draw) == [(0, 0), (0, 0), (0, -3)]


def test_what_a_later_item_of_a_batch_reads_stays_until_the_last_has_read_it_or_the_batch_ends() -> None:
    cache, shared = Cache(), "rules "

    def item(number: int, text: str, again: tuple[Again, ...]) -> None:
        known = Foreseen(RunId(number), 1, 0, 0, InBatch(7, number, again))
        cache.tree.asked(RequestId(number), number, SPACE, tuple(text.encode()), known)
        cache.tree.served(RequestId(number))
        cache.leave(text, number, known)
        cache.end(number)

    item(1, shared + "one", (Again(len(shared), 2, 3),))
    cache.leave("x")
    cache.tree.evict(4)
    assert cache.tree.peek(SPACE, tuple(shared.encode())).n_tokens == len(shared)
    item(2, shared + "two", (Again(len(shared), 3, 3),))
    cache.leave("y")
    cache.tree.evict(4)
    assert cache.tree.peek(SPACE, tuple(shared.encode())).n_tokens == len(shared)
    item(3, shared, ())
    cache.leave("z")
    assert cache.gone() == [shared, "z"]
    item(4, shared, (Again(len(shared), 5, 5),))
    cache.tree.ended((), is_all=True, batch=7)
    cache.leave("z")
    assert cache.gone() == [shared, "z"]


@sgl.function
def agent(s: Any, rules: str, talk: str) -> None:
    s += rules + talk + sgl.gen("answer", max_tokens=4)


@sgl.function
def team(s: Any, task: str) -> None:
    talk = task
    for who in (0, 1, 0, 2, 0, 1, 0, 3, 0, 1, 0, 2):
        talk += agent(rules=f"{who}. {LONG}", talk=talk)["answer"]
    s += talk


def test_a_traced_program_computes_less_and_what_if_replays_what_it_knew(tmp_path: Path) -> None:
    """Agents with long rules of their own that take turns, as in KVFlow."""

    def run(**options: Any) -> tuple[int, str, int]:
        events: list[Event] = []
        made = lab(tmp_path, events.append, n_pages=80, evict="program")
        text = team.compile(**options).run(task="Do it. ", backend=made, temperature=0).text()
        made._resident.check()
        computed = int(made._resident.stats()["computed_tokens"])
        made._resident.close()
        queued = [event for event in events if isinstance(event, RequestQueued)]
        assert [from_json(to_json(event)) for event in queued] == queued
        assert all((event.foreseen is None) == bool(options) for event in queued)
        replayed = simulate(Recording.of(from_json(to_json(event)) for event in events), made._resident.engine.config)
        return computed, text, replayed.computed_tokens

    (knew, text, again), (did_not, same, _) = run(), run(without=["foresight"])
    assert text == same
    assert knew < 0.95 * did_not
    assert abs(knew - again) <= 12  # the first tokens of answers, which a simulation does not draw
    (report,) = [report for report in team.compile().reports if report.name == "foresight"]
    assert dict(report.numbers) == {"requests": 12, "read again": 8, "steps until then at most": 8}


@sgl.function
def panel(s: Any, task: str) -> None:
    for who in range(4):
        task = agent(rules=f"{who}. {LONG}", talk=task)["answer"]
    s += task


def test_a_batch_computes_less_as_the_cache_knows_what_later_items_read(tmp_path: Path) -> None:
    """Four agents with long rules, each asked once by each item: no item reads a text twice."""
    rows = [{"task": f"Task {number}. "} for number in range(6)]

    def run(**options: Any) -> tuple[int, list[str], list[RequestQueued], int]:
        events: list[Event] = []
        made = lab(tmp_path, events.append, n_pages=80, evict="program")
        states = panel.compile(**options).run_batch(rows, num_threads=1, by="items", backend=made, temperature=0)
        made._resident.check()
        computed = int(made._resident.stats()["computed_tokens"])
        made._resident.close()
        queued = [event for event in events if isinstance(event, RequestQueued)]
        assert [from_json(to_json(event)) for event in queued] == queued
        replayed = simulate(Recording.of(from_json(to_json(event)) for event in events), made._resident.engine.config)
        return computed, [state.text() for state in states], queued, replayed.computed_tokens

    (knew, texts, queued, again), (did_not, same, untold, _) = run(), run(without=["foresight"])
    assert texts == same
    assert knew < 0.7 * did_not
    assert again < 0.7 * did_not  # it draws no tokens, and what runs beside what may differ
    assert all(event.foreseen is None for event in untold)
    gens = [event.foreseen for event in queued if event.kind == "gen"]
    again_of = [foreseen.in_batch.again for foreseen in gens if foreseen and foreseen.in_batch]
    assert len(again_of) == len(gens) == 24
    assert all(again_of[:20])
    assert not any(again_of[20:])


def test_an_abandoned_batch_keeps_nothing_for_its_later_items(tmp_path: Path) -> None:
    events: list[Event] = []
    made = lab(tmp_path, events.append, evict="program")
    rows = [{"task": f"Task {number}. "} for number in range(3)]
    states = panel.compile().run_batch(rows, num_threads=1, generator_style=True, backend=made, temperature=0)
    next(iter(states))
    states.close()  # type: ignore[union-attr]  # a generator
    made._resident.check()
    policy_of = made._resident.engine._tree.policy
    assert isinstance(policy_of, Program)
    assert not policy_of._awaited
    assert not any(marks.coming for marks in policy_of._marks.values())
    made._resident.close()
    (batch,) = {event.batch for event in events if isinstance(event, ForksEnded) and event.batch}
    assert batch in {
        event.foreseen.in_batch.batch for event in events if isinstance(event, RequestQueued) and event.foreseen and event.foreseen.in_batch
    }


def test_what_several_ended_programs_read_stays_longer_than_what_one_left() -> None:
    cache = Cache()
    for fork, text in enumerate(("examples: a", "examples: b")):
        cache.leave(text, fork)
        cache.end(fork)
    cache.leave("z", 7)
    cache.end(7)
    assert cache.gone() == ["a", "b", "z", "examples: "]


def test_a_joined_child_leaves_its_own_text_and_the_parents_stays_open() -> None:
    cache = Cache()
    cache.leave("essay", 1)
    cache.leave("essay, judged", 2)
    cache.leave("x")
    cache.end(2, is_all=False)
    assert cache.gone() == [", judged", "x", "essay"]


def test_a_stream_that_asks_again_after_its_end_goes_on() -> None:
    cache = Cache()
    cache.leave("chat", 1)
    cache.end(1)
    cache.leave("chat, again", 1)
    cache.leave("x")
    assert cache.gone() == ["x", ", again", "chat"]


def test_what_is_evicted_under_a_stream_is_remembered_at_its_parent() -> None:
    cache = Cache()
    cache.leave("root", 1)
    cache.leave("root and leaf", 1)
    cache.tree.evict(9)
    cache.leave("x")
    cache.end(1)
    assert cache.gone() == ["root", "x"]


def test_a_long_leaf_loses_its_end_only_and_the_books_add_up() -> None:
    cache = Cache(256)
    cache.leave("a" * 200, 1)
    assert cache.tree.evict(1) == TRIM
    assert cache.tree.peek(SPACE, (97,) * 200).n_tokens == 200 - TRIM
    assert cache.tree.evict(TRIM + 5) == TRIM + 5
    assert cache.tree.n_idle_pages == 200 - 2 * TRIM - 5
    assert cache.tree.flush() == 200 - 2 * TRIM - 5


@sgl.function
def essays(s: sgl.ProgramState, topic: str) -> None:
    s += f"Here is an essay about {topic}, of some length. " + sgl.gen("intro", max_tokens=9, ignore_eos=True)
    forks = s.fork(2)
    forks += " Judge it: " + sgl.gen("judged", max_tokens=7, ignore_eos=True)
    forks.join()
    s += " Grade: " + sgl.select("grade", choices=["A", "B"]) + sgl.gen("why", max_tokens=5, ignore_eos=True)


@sgl.function
def chat(s: sgl.ProgramState, number: int) -> None:
    s += f"{number} is the number of this chat, which goes on." + sgl.gen("first", max_tokens=9, ignore_eos=True)
    essays.run(topic=f"{number}, the number, and no other one")
    s += " And then?" + sgl.gen("second", max_tokens=5, ignore_eos=True)


def recorded(evict: str, n_pages: int, n_programs: int) -> tuple[list[Event], dict[str, float]]:
    ring, events = Ring(), list[Event]()
    ring.listen(lambda entry: events.append(entry.event))
    config = EngineConfig(n_pages=n_pages, evict=evict, schedule="fcfs", draft_tokens=0)
    tokenizer = ByteTokenizer()
    resident = Resident(Engine(config, HashRunner(n_pages, 1), tokenizer, context=4096, namespace=SPACE, emit=ring.emit))
    backend = LocalBackend(resident, tokenizer, ModelCard("hash", SPACE, 4096, 260, "cpu", "none", TOKEN_LEVEL), ring.emit)
    for number in range(n_programs):
        essays.run(topic="ab"[number % 2], backend=backend)
        chat.run(number=number, backend=backend)
    stats = resident.stats()
    resident.check()
    resident.close()
    return events, stats


def test_the_language_tells_what_goes_on_and_what_ended() -> None:
    events = recorded("program", 1024, 1)[0]
    events = events[: next(n for n, event in enumerate(events) if isinstance(event, ForksEnded) and event.is_all) + 1]
    asked = [event for event in events if isinstance(event, RequestQueued)]
    root, first, second = dict.fromkeys(event.fork for event in asked)
    assert all(event.goes_on for event in asked)
    assert [event for event in events if isinstance(event, ForksEnded)] == [
        ForksEnded((first, second), False),
        ForksEnded((root, first, second), True),
    ]
    assert [from_json(to_json(event)) for event in events] == events


@sgl.function
def townsman(s: sgl.ProgramState) -> None:
    s += "He hears of it."
    first, second = s.fork(2)
    first += " It matters" + sgl.gen("much", max_tokens=3, ignore_eos=True)
    second += " He feels" + sgl.gen("feeling", max_tokens=3, ignore_eos=True)
    s += str(first["much"]) + str(second["feeling"])
    s += " He says" + sgl.gen("words", max_tokens=3, ignore_eos=True)
    first += " In short" + sgl.gen("less", max_tokens=3, ignore_eos=True)
    s += str(first["less"])


def test_children_that_were_read_are_over_when_their_parent_goes_on_until_they_are_appended_to_again(tmp_path: Path) -> None:
    events: list[Event] = []
    made = lab(tmp_path, events.append, n_pages=512)
    townsman.run(backend=made).text()
    made._resident.close()
    root, first, second = dict.fromkeys(event.fork for event in events if isinstance(event, RequestQueued))
    assert [event for event in events if isinstance(event, ForksEnded)] == [
        ForksEnded((first, second), False),
        ForksEnded((first,), False),
        ForksEnded((root, first, second), True),
    ]


def test_what_if_counts_what_an_engine_with_the_policy_counted() -> None:
    n_told = n_untold = 0
    for n_pages in (220, 260):
        events, stats = recorded("program", n_pages, 4)
        config = EngineConfig(n_pages=n_pages, evict="program", schedule="fcfs", draft_tokens=0)
        outcome = simulate(Recording.of(events), config)
        assert outcome.evicted_tokens == stats["evicted_tokens"] > 50
        assert (outcome.cached_prompt_tokens, outcome.computed_tokens) == (stats["cached_prompt_tokens"], stats["computed_tokens"])
        untold = simulate(Recording.of(event for event in events if not isinstance(event, ForksEnded)), config)
        n_told, n_untold = n_told + outcome.cached_prompt_tokens, n_untold + untold.cached_prompt_tokens
    assert n_untold < n_told - 50
