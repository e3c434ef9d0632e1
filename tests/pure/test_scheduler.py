"""Who runs next: order, sharing, chunks, giving way."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from sgl_lab.contracts.errors import BadArgument, InvariantBroken
from sgl_lab.contracts.events import NodeSplit, PrefixMatched, RequestFinished, RequestPreempted, StepRan
from sgl_lab.contracts.ids import RequestId
from sgl_lab.contracts.policies import EVICTIONS, REUSES, SCHEDULES
from sgl_lab.engine.serving.cache import reuse
from sgl_lab.engine.serving.cache.policies import POLICIES
from sgl_lab.engine.serving.config import EngineConfig
from sgl_lab.engine.serving.scheduling.order import ORDERS
from sgl_lab.engine.serving.scheduling.request import Phase, Request
from sgl_lab.engine.serving.trie import branches

from .driving import Listener, bench, expect_idle


def tokens(text: str) -> tuple[int, ...]:
    return tuple(text.encode())


def run_alone(prompt: tuple[int, ...], **params: object) -> tuple[int, ...]:
    b = bench()
    listener = b.gen(prompt, **params)
    b.drain()
    return listener.output.ids


def test_a_request_moves_only_as_the_table_allows() -> None:
    request = Request(RequestId(1), RequestId(1), "gen", (), (1,))
    request.move(Phase.RUNNING)
    request.move(Phase.WAITING)
    request.move(Phase.FINISHED)
    with pytest.raises(InvariantBroken, match="from finished to running"):
        request.move(Phase.RUNNING)


def test_a_config_is_refused_at_birth() -> None:
    for wrong in ({"n_pages": 0}, {"page_size": 1.0}, {"schedule": "sjf"}, {"evict": "x"}, {"step_tokens": 64}, {"seed": None}):
        with pytest.raises(BadArgument):
            EngineConfig(**wrong)


def test_every_policy_that_a_config_names_is_there() -> None:
    assert set(SCHEDULES) == set(ORDERS)
    assert set(EVICTIONS) == set(POLICIES)
    assert set(REUSES) == set(reuse.REUSES)


@pytest.mark.parametrize(("reuse", "cached"), [("prefix", [0, 20, 26, 11]), ("sequence", [0, 0, 26, 0]), ("none", [0, 0, 0, 0])])
def test_how_much_of_a_prompt_is_reused_is_a_choice_and_changes_no_answer(reuse: str, cached: list[int]) -> None:
    b = bench(reuse=reuse)
    first = tokens("a shared beginning, and one")
    prompts = [first, tokens("a shared beginning, two"), first, tokens("a shared beg")]
    answers = []
    for prompt in prompts:
        answers.append(b.gen(prompt, max_tokens=1, ignore_eos=True))
        b.drain()
    assert [event.n_hit for event in b.fold.of(PrefixMatched)] == cached
    assert [each.output.ids for each in answers] == [run_alone(prompt, max_tokens=1, ignore_eos=True) for prompt in prompts]


def test_a_long_prompt_is_computed_in_chunks_and_others_decode_meanwhile() -> None:
    b = bench(step_tokens=64, max_rows=8)
    b.gen(tokens("short"), max_tokens=20, ignore_eos=True)
    b.step()
    long = b.gen(tokens("y" * 300), max_tokens=2, ignore_eos=True)
    b.drain()
    chunks = [(dict(step.prefill), step.decode) for step in b.fold.of(StepRan)[1:6]]
    assert [list(prefill.values()) for prefill, _ in chunks] == [[63], [63], [63], [63], [48]]
    assert all(len(decode) == 1 for _, decode in chunks)
    assert long.output.usage.computed_tokens == 301 + long.output.usage.rejected_tokens


def test_no_step_computes_more_tokens_or_rows_than_the_config_allows() -> None:
    b = bench(step_tokens=32, max_rows=4)
    listener = [b.gen(tokens(f"{i} " * 30), max_tokens=6) for i in range(12)]
    b.drain()
    steps = b.fold.of(StepRan)
    assert max(sum(n for _, n in step.prefill) + len(step.decode) for step in steps) == 32
    assert max(len(step.prefill) + len(step.decode) for step in steps) <= 4
    assert all(h.output.finish_reason in ("stop", "length") for h in listener)


def test_of_waiting_requests_with_a_common_prefix_one_goes_first() -> None:
    b = bench()
    prefix = tokens("a long shared beginning " * 8)
    listener = [b.gen(prefix + tokens(f"question {i}"), max_tokens=4, ignore_eos=True) for i in range(6)]
    b.step()
    assert len(b.fold.of(PrefixMatched)) == 1
    b.drain()
    computed = [h.output.usage.computed_tokens for h in listener]
    assert sum(computed) < len(prefix) + 6 * (len("question 0") + 4)


def test_who_shares_a_part_of_a_long_prompt_waits_for_that_part_alone() -> None:
    b = bench(step_tokens=64, max_rows=8)
    shared = tokens("the part that both share, and nothing else of it ")
    b.gen(shared + tokens("and much more of its own"))
    b.gen(shared + tokens("short"))
    b.step()
    assert [event.n_hit for event in b.fold.of(PrefixMatched)] == [0]
    b.step()  # the first is still at its prompt
    assert [event.n_hit for event in b.fold.of(PrefixMatched)] == [0, len(shared)]
    assert len(b.fold.of(StepRan)[-1].prefill) == 2


def test_strangers_do_not_wait_for_each_other() -> None:
    b = bench()
    for i in range(4):
        b.gen(tokens(f"{i} stranger with a prompt of its own"))
    b.step()
    assert len(b.fold.of(PrefixMatched)) == 4


def test_the_longest_cached_prefix_goes_first() -> None:
    b = bench(max_rows=1, step_tokens=512)
    b.warm(tokens("known prefix of the hot one"))
    b.drain()
    cold = b.gen(tokens("cold"), max_tokens=1)
    hot = b.gen(tokens("known prefix of the hot one!"), max_tokens=1)
    b.step()
    assert hot.answers
    assert not cold.answers
    fcfs = bench(max_rows=1, schedule="fcfs")
    fcfs.warm(tokens("known prefix of the hot one"))
    fcfs.drain()
    cold, hot = fcfs.gen(tokens("cold"), max_tokens=1), fcfs.gen(tokens("known prefix of the hot one!"), max_tokens=1)
    fcfs.step()
    assert cold.answers
    assert not hot.answers


def test_depth_first_stays_in_the_part_of_the_tree_where_most_wait() -> None:
    b = bench(schedule="dfs-weight")
    for branch in ("a few want this", "b most want this", "b most want this, and some of them that"):
        b.warm(tokens(branch))
        b.drain()
    wanted = ("a few want this 1", "b most want this 2", "nobody knows this", "b most want this, and some of them that 3",
              "a few want this 4", "b most want this, and some of them that 5", "b most want this 6")  # fmt: skip
    for text in wanted:
        b.gen(tokens(text), max_tokens=1)
    b.step()
    *_, first = (event.request for event in b.fold.of(PrefixMatched)[:3])
    assert [event.request - first for event in b.fold.of(PrefixMatched)[3:]] == [4, 6, 2, 7, 1, 5, 3]


def test_depth_first_counts_a_node_that_a_request_reaches_in_part() -> None:
    """A request that ends inside a node waits below it, behind those who reach farther, and makes its branch heavier."""
    b = bench(schedule="dfs-weight")
    for branch in ("a long way that is known", "b"):
        b.warm(tokens(branch))
        b.drain()
    wanted = ("b 1", "a long 2", "a long way that is known 3", "b 4", "a 5", "a long way that is known 6")
    for text in wanted:
        b.gen(tokens(text), max_tokens=1)
    b.step()
    *_, first = (event.request for event in b.fold.of(PrefixMatched)[:2])
    assert [event.request - first for event in b.fold.of(PrefixMatched)[2:]] == [3, 6, 2, 5, 1, 4]


def test_a_random_schedule_is_the_same_for_the_same_seed_and_not_in_order_of_arrival() -> None:
    orders = []
    for seed in (1, 1, 2):
        b = bench(max_rows=1, schedule="random", seed=seed)
        for i in range(8):
            b.gen(tokens(f"{i} stranger"), max_tokens=1)
        b.drain()
        requests = [event.request for event in b.fold.of(PrefixMatched)]
        orders.append([request - min(requests) for request in requests])
    assert orders[0] == orders[1] != orders[2]
    assert list(range(8)) not in orders


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_what_a_groups_requests_share_is_counted_once_and_as_computed(schedule: str) -> None:
    """Whatever the order: a choice that goes before the first would find its share computed, and not count it."""
    for seed in range(4):
        b = bench(schedule=schedule, seed=seed)
        b.score(tokens("a prompt that is long enough to be shared"), *map(tokens, ("one", "two", "six", "ten")))
        b.drain()
        stats = b.engine.stats()
        assert (stats["computed_tokens"], stats["cached_tokens"]) == (49, 0), seed


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_cold_request_is_admitted_within_32_passes_of_a_hot_flood(schedule: str, record_table: Callable[..., None]) -> None:
    b = bench(max_rows=4, schedule=schedule)
    hot = tokens("the hot prefix that everybody asks for")
    b.warm(hot)
    b.drain()
    for i in range(40):
        b.gen((*hot, i), max_tokens=2, ignore_eos=True)
    cold = b.gen(tokens("cold and alone"), max_tokens=2)
    name = b.fold.of(PrefixMatched)[0].request + 41
    n_passes = 0
    while not any(event.request == name for event in b.fold.of(PrefixMatched)):
        for i in range(10):
            b.gen((*hot, 50 + i, n_passes), max_tokens=2, ignore_eos=True)
        n_before = len(b.fold.of(PrefixMatched))
        b.step()
        n_passes += len(b.fold.of(PrefixMatched)) > n_before
        assert n_passes <= 32
    record_table("R5", schedule=schedule, passes=n_passes)
    assert n_passes > 8 or schedule != "lpm"  # it was overtaken before
    b.drain()
    assert cold.output.ids


@pytest.mark.parametrize("page_size", [1, 4])
def test_a_preempted_request_says_what_it_would_have_said(page_size: int) -> None:
    b = bench(n_pages=96 // page_size, page_size=page_size, max_rows=8)
    prompts = [tokens(f"prompt number {i}") for i in range(5)]
    listener = [b.gen(prompt, max_tokens=40, ignore_eos=True, temperature=0.7, seed=i) for i, prompt in enumerate(prompts)]
    b.drain()
    preempted = b.fold.of(RequestPreempted)
    assert len(preempted) >= 2
    for i, (prompt, h) in enumerate(zip(prompts, listener, strict=True)):
        assert h.output.ids == run_alone(prompt, max_tokens=40, ignore_eos=True, temperature=0.7, seed=i)
        usage = h.output.usage
        assert usage.cached_tokens + usage.computed_tokens == usage.prompt_tokens + usage.completion_tokens - 1 + usage.rejected_tokens
    assert sum(h.output.usage.preemptions for h in listener) == len(preempted)
    if page_size == 4:  # with single pages the whole leaf that was generated makes room for one
        assert max(event.n_hit for event in b.fold.of(PrefixMatched)) > len(prompts[0])
    expect_idle(b)


def test_the_youngest_gives_way() -> None:
    b = bench(n_pages=64, max_rows=8)
    listener = [b.gen(tokens(f"request {i}"), max_tokens=50, ignore_eos=True) for i in range(4)]
    b.drain()
    running: set[RequestId] = set()
    n_preempted = 0
    for event in b.fold.of(PrefixMatched, RequestPreempted, RequestFinished):
        if isinstance(event, PrefixMatched):
            running.add(event.request)
            continue
        if isinstance(event, RequestPreempted):
            n_preempted += 1
            assert event.request == max(running)
        running.remove(event.request)
    assert n_preempted >= 2
    assert all(len(h.output.ids) == 50 for h in listener)


@pytest.mark.parametrize("page_size", [1, 4])
def test_a_request_that_fills_the_whole_pool_runs_cold_and_again(page_size: int) -> None:
    b = bench(n_pages=32, page_size=page_size)
    size = 32 * page_size
    prompt = tokens("p" * (size // 2))
    outputs = []
    for _ in range(3):
        listener = b.gen(prompt, max_tokens=size // 2 + 1, ignore_eos=True)
        b.drain()
        outputs.append(listener.output.ids)
    full = b.gen(tokens("p" * size), max_tokens=1, ignore_eos=True)
    b.drain()
    full_again = b.gen(tokens("p" * size), max_tokens=1, ignore_eos=True)
    b.drain()
    assert outputs[0] == outputs[1] == outputs[2]
    assert full.output.ids == full_again.output.ids
    expect_idle(b)


def test_a_pool_with_one_page_of_headroom_makes_progress() -> None:
    b = bench(n_pages=25, max_rows=6)
    listener: list[Listener] = []
    for i in range(60):
        listener.append(b.gen(tokens(f"{i % 7} headroom"), max_tokens=15, ignore_eos=True))
    n_generated = 0
    for _ in range(5000):
        before = n_generated
        for _ in range(4):
            busy = b.step()
        n_generated = b.engine.stats()["generated_tokens"]
        if not busy:
            break
        assert n_generated > before
    assert all(len(h.output.ids) == 15 for h in listener)
    expect_idle(b)


def test_leasing_a_whole_prompt_again_does_not_split_its_node() -> None:
    for page_size in (1, 4):
        b = bench(page_size=page_size)
        prompt = tokens("0123456789abcdef")
        for _ in range(3):
            b.gen(prompt, max_tokens=6, ignore_eos=True)
            b.drain()
        assert not b.fold.of(NodeSplit)


def test_a_preempted_request_stays_before_those_that_came_later() -> None:
    b = bench(n_pages=64, max_rows=8, schedule="fcfs")
    for i in range(8):
        b.gen(tokens(f"request {i}"), max_tokens=40, ignore_eos=True)
    b.drain()
    waiting = {event.request for event in b.fold.of(PrefixMatched)}
    n_preempted = 0
    for event in b.fold.of(PrefixMatched, RequestPreempted):
        if isinstance(event, RequestPreempted):
            n_preempted += 1
            waiting.add(event.request)
        else:
            assert event.request == min(waiting)
            waiting.remove(event.request)
    assert n_preempted >= 2


def test_scoring_again_in_small_chunks_splits_nothing() -> None:
    b = bench(step_tokens=8, max_rows=4)
    n_splits = []
    for _ in range(2):
        b.score(tokens("which?"), tokens("the first and rather long choice"), tokens("another choice, just as long"))
        b.drain()
        n_splits.append(len(b.fold.of(NodeSplit)))
    assert n_splits[0] == n_splits[1]


def test_branches_read_every_place_of_the_trie_once() -> None:
    one = branches(((1,), (2,), (3,), (1,)))
    assert [(branch.tokens, branch.wanted) for branch in one] == [((), ((1, 2, 3),))]
    some = branches(((1, 2), (1, 3), (4,), (1, 2, 5), (6, 7)))
    assert {branch.tokens for branch in some} == {(1, 2), (6,)}
    read = [(branch.tokens[:i], token) for branch in some for i, wanted in enumerate(branch.wanted) for token in wanted]
    assert sorted(read) == [((), 1), ((), 4), ((), 6), ((1,), 2), ((1,), 3), ((1, 2), 5), ((6,), 7)]
