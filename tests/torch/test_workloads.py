"""The workloads on the built-in model: the cache changes what is computed and no answer."""

from __future__ import annotations

from dataclasses import replace

from sgl_lab.workloads.bench import ABLATIONS, Setup, run, unseen
from sgl_lab.workloads.catalogue import find
from sgl_lab.workloads.data import Data

SETUP = Setup(parallel=4, cache_tokens=4_000, deterministic=True)


OTHERS = ("hellaswag", "tree-of-thought", "json", "chat-short", "skeleton")
"""those that are quick; `sgl-lab bench --compare` says it of all"""


def test_more_workloads_have_the_same_texts_with_and_without_the_cache() -> None:
    found = []
    for name in ("full", "no cache"):
        setup = ABLATIONS[name](replace(SETUP, cache_tokens=16_000))
        with setup.lab(unseen) as lab:
            found.append([run(find(workload), Data(), lab, setup, n=1) for workload in OTHERS])
    for full, no_cache in zip(*found, strict=True):
        assert full.texts == no_cache.texts != [""]
        assert full.computed_tokens <= no_cache.computed_tokens
    assert sum(one.computed_tokens for one in found[0]) < 0.8 * sum(one.computed_tokens for one in found[1])


def test_without_the_cache_more_is_computed_and_the_answers_are_the_same() -> None:
    found = {}
    for name in ("full", "no tree", "no cache"):
        setup = ABLATIONS[name](SETUP)
        with setup.lab(unseen) as lab:
            found[name] = [run(find(workload), Data(), lab, setup, n=2) for workload in ("mmlu", "agents")]
    for full, no_tree, no_cache in zip(*found.values(), strict=True):
        assert full.texts == no_tree.texts == no_cache.texts
        assert not full.failed
        assert full.computed_tokens <= no_tree.computed_tokens <= no_cache.computed_tokens > full.computed_tokens
        assert 0.9 < full.of_best <= 1
        assert full.best_in_order <= full.best
        assert (no_cache.hit_rate, no_cache.best > 0) == (0.0, True)
        assert all(full.latency_s)
        assert full.requests == no_cache.requests
    mmlu, agents = found["full"]
    assert mmlu.accuracy is not None
    assert agents.accuracy is None
