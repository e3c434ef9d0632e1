"""The default lab, those on their way to be it, and those that were."""

from __future__ import annotations

import gc
import os
import random
import shutil
import subprocess
import sys
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import sgl_lab as sgl
from sgl_lab.contracts.errors import EngineStopped, OutOfMemory
from sgl_lab.labs import Labs, Loading

from ..pure.driving import SOAK
from .tiny import write_huge, write_tiny

DEADLINE_S = 60.0


@pytest.fixture
def models(tmp_path: Path, tiny_folder: Path) -> list[str]:
    """Names of the same model."""
    names = [str(tmp_path / name) for name in ("one", "two", "three")]
    for name in names:
        shutil.copytree(tiny_folder, name)
    return names


@pytest.fixture
def labs() -> Iterator[Labs]:
    made = Labs()
    yield made
    made.close()


def over(attempt: Loading) -> Loading:
    assert attempt.wait(DEADLINE_S)
    return attempt


@sgl.function
def answer(s: sgl.ProgramState, prompt: str, n: int = 4) -> None:
    s += prompt + sgl.gen("answer", max_tokens=n, ignore_eos=True)


def ask(lab: sgl.Lab, prompt: str) -> dict[str, Any]:
    """What the lab answers, and what that cost."""
    state = answer.run(prompt=prompt, temperature=0, backend=lab.backend)
    return {"text": state["answer"]} | state.get_meta_info("answer")


def weights_and_keys(lab: sgl.Lab) -> tuple[weakref.ref[Any], weakref.ref[Any]]:
    runner: Any = lab._resident.engine._runner
    return weakref.ref(runner._model), weakref.ref(runner.kv.keys[0])


# ---------------------------------------------------------------- which one is the default


def test_the_model_asked_for_last_is_the_default_however_long_others_take(labs: Labs, models: list[str]) -> None:
    one, two, _ = models
    first = labs.loading(one).lab()
    slow = labs.loading(two)
    assert labs.loading(one).lab() is first
    with pytest.raises(EngineStopped, match="was dropped"):
        over(slow).lab()
    assert labs.loading().lab() is labs.current is first
    first.check()


def test_of_two_models_on_their_way_the_later_one_wins(labs: Labs, models: list[str]) -> None:
    one, two, three = models
    labs.loading(one).lab()
    attempts = [labs.loading(two), labs.loading(three)]
    assert labs.loading().lab() is attempts[1].lab()
    over(attempts[0])
    assert labs.current is not None
    assert labs.current.model == three
    assert [lab.model for lab in labs.parked] == [one]


def test_closing_drops_what_is_still_being_loaded(labs: Labs, models: list[str]) -> None:
    slow = labs.loading(models[0])
    labs.close()
    with pytest.raises(EngineStopped, match="was dropped"):
        over(slow).lab()
    assert labs.current is None


def test_a_lab_that_its_user_closed_is_made_anew(labs: Labs, models: list[str]) -> None:
    one, two, _ = models
    first = labs.loading(one).lab()
    first.close()
    second = labs.loading().lab()
    assert (second.model, second is first) == (one, False)
    labs.loading(two).lab()
    second.close()
    assert labs.loading(one).lab() is not second


# ---------------------------------------------------------------- those that were


def test_going_back_to_a_model_finds_its_cache_as_it_was(labs: Labs, models: list[str]) -> None:
    one, two, _ = models
    lab = labs.loading(one).lab()
    before, tree = ask(lab, "the tide came in"), lab.snapshot().nodes
    assert ask(labs.loading(two).lab(), "the tide came in")["cached_tokens"] == 0
    assert labs.loading(one).lab() is lab
    assert lab.snapshot().nodes == tree
    again = ask(lab, "the tide came in")
    assert (again["cached_tokens"], again["text"]) == (before["prompt_tokens"] - 1, before["text"])


@pytest.mark.parametrize("is_parked", [True, False])
def test_a_model_that_was_changed_on_disk_is_another_one(labs: Labs, models: list[str], is_parked: bool) -> None:
    one, two, _ = models
    old = labs.loading(one).lab()
    before = ask(old, "the tide came in")
    if is_parked:
        labs.loading(two).lab()
    write_tiny(Path(one), seed=1)
    new = labs.loading(one).lab()
    after = ask(new, "the tide came in")
    assert after["cached_tokens"] == 0
    assert after["text"] != before["text"]
    assert new.card.namespace != old.card.namespace
    assert [lab.model for lab in labs.parked] == [two] * is_parked
    assert not old.is_open


def test_in_many_swaps_every_hit_is_of_the_model_as_it_is_on_disk(tmp_path: Path, models: list[str]) -> None:
    chance = random.Random(4)
    written, answers = dict.fromkeys(models, 0), dict[tuple[int, str], str]()
    seen: weakref.WeakKeyDictionary[sgl.Lab, set[str]] = weakref.WeakKeyDictionary()
    counts = {"rewritten": 0, "kept": 0, "made": 0, "hits": 0}
    labs = Labs(parked_bytes=int(1.5 * size_of(models[0])))
    for _ in range(200 if SOAK > 1 else 90):
        name, prompt = chance.choice(models), chance.choice(["a tide", "the birds", "salt", "oysters"])
        if chance.random() < 0.1:
            times = os.stat(Path(name, "model.safetensors"))
            written[name] += 1
            write_tiny(Path(name), seed=written[name])
            os.utime(Path(name, "model.safetensors"), ns=(times.st_atime_ns, times.st_mtime_ns))
            counts["rewritten"] += 1
        lab = labs.loading(name).lab()
        counts["kept" if lab in seen else "made"] += 1
        known = seen.setdefault(lab, set())
        got = ask(lab, prompt)
        assert got["cached_tokens"] == (got["prompt_tokens"] - 1 if prompt in known else 0)
        counts["hits"] += prompt in known
        known.add(prompt)
        assert answers.setdefault((written[name], prompt), got["text"]) == got["text"]
        assert len(labs.parked) <= 1
    labs.close()
    assert min(counts.values()) >= (10 if SOAK > 1 else 5), counts
    assert len(set(answers.values())) > len(answers) / 2


def size_of(model: str) -> int:
    """Bytes that a default lab of `model` counts as."""
    with sgl.Lab(model) as lab:
        return lab.n_bytes


def test_beyond_the_budget_the_least_recently_used_lab_gives_its_memory_back(models: list[str]) -> None:
    one, two, three = models
    labs = Labs(parked_bytes=int(1.5 * size_of(one)))
    held = weights_and_keys(labs.loading(one).lab())
    labs.loading(two).lab()
    gc.collect()
    assert None not in [found() for found in held]
    labs.loading(three).lab()
    gc.collect()
    assert [found() for found in held] == [None, None]
    assert [lab.model for lab in labs.parked] == [two]
    labs.loading(two).lab()
    assert [lab.model for lab in labs.parked] == [three]
    labs.close()


def test_without_a_budget_nothing_is_parked_and_free_closes_what_is(labs: Labs, models: list[str]) -> None:
    none = Labs(parked_bytes=0)
    for made, n_parked in ((none, 0), (labs, 2)):
        for name in models:
            made.loading(name).lab()
        parked = made.parked
        assert len(parked) == n_parked
        assert made.free() == sum(lab.n_bytes for lab in parked)
        assert not any(lab.is_open for lab in parked)
        assert made.parked == ()
        assert ask(made.loading().lab(), "still here")["text"]
    none.close()


def test_what_runs_on_a_lab_goes_on_when_it_is_parked_and_stop_ends_it(labs: Labs, models: list[str]) -> None:
    one, two, _ = models
    lab = labs.loading(one).lab()
    running = answer.run(prompt="on", n=200, temperature=0, backend=lab.backend, stream=True)
    labs.loading(two).lab()
    assert running.get_meta_info("answer")["completion_tokens"] == 200
    running = answer.run(prompt="and on", n=200, temperature=0, backend=lab.backend, stream=True)
    assert next(running.text_iter("answer"))
    assert labs.stop() == 1
    assert running.get_meta_info("answer")["finish_reason"] == "abort"


def test_a_model_that_does_not_fit_leaves_the_default_as_it_is(labs: Labs, models: list[str], tmp_path: Path) -> None:
    one, two, _ = models
    labs.loading(one).lab()
    default = labs.loading(two).lab()
    with pytest.raises(OutOfMemory, match="are free"):
        labs.loading(str(write_huge(tmp_path / "huge"))).lab()
    assert labs.loading().lab() is default
    assert ask(default, "still here")["text"]


# ---------------------------------------------------------------- what the collector looks through


FIRST_USE = """
import gc, weakref, {imported}
from sgl_lab.labs import Labs

labs = Labs(parked_bytes=0)
one = labs.loading({models[0]!r}).lab()
n_frozen = gc.get_freeze_count()
held = weakref.ref(one._resident.engine._runner._model)
del one
labs.loading({models[1]!r}).lab()
gc.collect()
print(n_frozen, gc.get_freeze_count() - n_frozen, held())
labs.close()
"""


@pytest.mark.parametrize(("imported", "is_frozen"), [("sys", True), ("torch", False)])
def test_the_first_model_freezes_what_its_imports_made_but_no_model_and_nothing_of_somebody_elses_torch(
    models: list[str], imported: str, is_frozen: bool
) -> None:
    script = FIRST_USE.format(imported=imported, models=models)
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    n_frozen, n_more, held = ran.stdout.split()
    assert (int(n_frozen) > 50_000) is is_frozen
    assert (n_more, held) == ("0", "None")


UNTIL_THE_END = """
from concurrent.futures import Future
from sgl_lab.contracts.params import SamplingParams
from sgl_lab.contracts.port import GenJob
from sgl_lab.session import Lab

class Gen(Future):
    def on_progress(self, index, text, ids): ...
    def on_done(self, outputs): self.set_result(outputs)
    def on_error(self, error): self.set_exception(error)

def main():
    labs = [Lab("smollm2") for _ in range(2)]
    for lab in labs:
        answer = Gen()
        lab.backend.submit(GenJob((1, 2, 3), SamplingParams(max_tokens=4)), answer)
        answer.result()
    lab.backend.submit(GenJob((1, 2, 3), SamplingParams(max_tokens={n_more}, ignore_eos=True)), Gen())

main()
"""


@pytest.mark.parametrize("n_more", [1, 400])
def test_a_process_that_ends_while_a_model_computes_or_is_freed_is_not_aborted(n_more: int) -> None:
    ran = subprocess.run([sys.executable, "-c", UNTIL_THE_END.format(n_more=n_more)], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr) == (0, "")
