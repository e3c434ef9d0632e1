"""An engine on the device's runner says what one on torch says: in company, cached, forked, evicted, preempted, constrained, drafted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from sgl_lab.contracts.events import NodeEvicted, RequestPreempted
from sgl_lab.contracts.params import Constraint
from sgl_lab.engine.compute.models.decoder import Decoder
from sgl_lab.engine.compute.runners.gpu.device import DeviceRunner
from sgl_lab.engine.compute.runners.runner import TorchRunner
from sgl_lab.engine.plan import Plan, RowOutput

from ..pure.driving import Listener, bench, expect_idle, expect_lawful
from ..torch.tiny import tokens

CONFIG: dict[str, Any] = {"n_pages": 13, "page_size": 4, "step_tokens": 16, "max_rows": 4, "min_share": 4}


class Counting(DeviceRunner):
    n_overlapped = 0

    def overlap(self, plan: Plan) -> Callable[[], tuple[RowOutput, ...]]:
        self.n_overlapped += 1
        return super().overlap(plan)


def same(found: list[Listener], wanted: list[Listener]) -> None:
    """Tokens and texts, and nearly the logprobs."""
    assert [listener.output.ids for listener in found] == [listener.output.ids for listener in wanted]
    assert [(listener.output.text, listener.output.finish_reason) for listener in found] == [
        (listener.output.text, listener.output.finish_reason) for listener in wanted
    ]
    ours, theirs = ([entry.logprob for listener in some for entry in listener.output.logprobs] for some in (found, wanted))
    assert len(ours) > 10
    assert ours == pytest.approx(theirs, abs=2e-5)


def crowded(runner: DeviceRunner | TorchRunner, draft_tokens: int) -> tuple[list[Listener], list[float | None]]:
    """What a small engine answers, whose pool does not hold all of it."""
    b = bench(runner, draft_tokens=draft_tokens, **CONFIG)
    trunk = tuple(tokens(14))
    gens = [b.gen((*trunk, i), max_tokens=7, logprobs=True, ignore_eos=True) for i in range(2)]
    gens.append(b.gen(tuple(tokens(9, 5)), max_tokens=6, temperature=0.8, top_p=0.9, seed=3, logprobs=True, top_logprobs=2))
    gens.append(b.gen(tuple(tokens(6, 6)), max_tokens=6, temperature=0.5, constraint=Constraint("regex", "[0-9]{3}[+][0-9]")))
    b.drain()
    choices = b.score(trunk[:6], (1, 2), (1, 3, 4))
    gens.append(b.gen((*trunk, 0), max_tokens=7, logprobs=True, ignore_eos=True))
    b.drain()
    expect_lawful(b.fold.events)
    assert b.fold.of(NodeEvicted)
    expect_idle(b)
    return gens, [entry.logprob for row in choices.answer.logprobs for entry in row]


@pytest.mark.parametrize("draft_tokens", [0, 4])
def test_a_crowded_engine_says_what_it_says_on_torch(model: Decoder, draft_tokens: int) -> None:
    runner = Counting(model, CONFIG["n_pages"], CONFIG["page_size"], shared_from=8)
    found, scores = crowded(runner, draft_tokens)
    wanted, others = crowded(TorchRunner(model, CONFIG["n_pages"], CONFIG["page_size"]), draft_tokens)
    same(found, wanted)
    assert scores == pytest.approx(others, abs=2e-5)
    assert (runner.n_overlapped > 0) == (not draft_tokens), "drafts are verified, which nothing may follow"


def test_who_is_preempted_goes_on_from_other_pages(model: Decoder) -> None:
    def preempted(runner: DeviceRunner | TorchRunner) -> list[Listener]:
        b = bench(runner, n_pages=6, page_size=4, draft_tokens=0)
        gens = [b.gen(tuple(tokens(4, i)), max_tokens=18, logprobs=True, ignore_eos=True) for i in range(2)]
        b.drain()
        assert b.fold.of(RequestPreempted)
        return gens

    same(preempted(DeviceRunner(model, 6, 4)), preempted(TorchRunner(model, 6, 4)))
