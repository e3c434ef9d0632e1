"""Requests that must be exact and those that need not, on one engine."""

from __future__ import annotations

from dataclasses import replace

from sgl_lab.contracts.params import SamplingParams
from sgl_lab.contracts.port import GenJob
from sgl_lab.engine.plan import Row, RowOutput
from sgl_lab.engine.tools.fake import HashModel, HashRunner

from .driving import Listener, bench, expect_idle

MODEL = HashModel()
PROMPT = tuple(b"The quick brown fox jumps over the lazy dog, and then it does it again. ")


class Rounding(HashRunner):
    """Rows that are not exact leave KV behind that shows who was computed beside them."""

    is_exact = False

    def _run(self, row: Row) -> RowOutput:
        return super()._run(row if row.is_exact else replace(row, tokens=[(token + 1) % 256 for token in row.tokens]))


def test_what_was_computed_otherwise_never_serves_an_exact_request_nor_the_other_way_round() -> None:
    b = bench(Rounding(1024, 1))
    params = SamplingParams(max_tokens=6, temperature=0.0, ignore_eos=True)
    n_cached: dict[bool, list[int]] = {False: [], True: []}
    answers: dict[bool, set[tuple[int, ...]]] = {False: set(), True: set()}
    for exact in (False, True, False, True):
        listener = Listener()
        b.engine.add(b.engine.gen(GenJob(PROMPT, params), listener, exact=exact))
        b.drain()
        n_cached[exact].append(listener.output.usage.cached_tokens)
        answers[exact].add(listener.output.ids)
    assert n_cached[False] == n_cached[True] == [0, len(PROMPT) - 1]
    assert answers[True] == {tuple(MODEL.reply(PROMPT, params, 0, 6))}
    assert answers[False] != answers[True]
    assert {node.namespace for node in b.engine.snapshot(0).nodes} == {("test",), ("test", "exact")}
    expect_idle(b)


def test_a_runner_that_is_always_exact_shares_its_cache() -> None:
    b = bench()
    for exact, n_cached in ((False, 0), (True, len(PROMPT) - 1)):
        listener = Listener()
        b.engine.add(b.engine.gen(GenJob(PROMPT, SamplingParams(max_tokens=2)), listener, exact=exact))
        b.drain()
        assert listener.output.usage.cached_tokens == n_cached
