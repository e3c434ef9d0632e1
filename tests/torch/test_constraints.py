"""Constraints on real models, torch and native: the same text whatever is cached or drafted, forced or drawn, and valid every time."""

from __future__ import annotations

import ctypes
import json
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from sgl_lab.contracts.errors import ConstraintFailed
from sgl_lab.contracts.params import Constraint, SamplingParams
from sgl_lab.contracts.port import GenJob, GenOutput, ScoreJob
from sgl_lab.engine.compute.models.load import LoadedModel, load_model
from sgl_lab.engine.compute.runners.choose import make_runner
from sgl_lab.engine.files import store
from sgl_lab.engine.serving.config import EngineConfig
from sgl_lab.engine.serving.engine import Engine
from sgl_lab.engine.text.tokenizer import Tokenizer
from sgl_lab.grammar.grammars import Grammars

from ..pure.driving import SOAK, Listener
from .test_tokenizer import METASPACE, PREPEND, sentencepiece, write
from .tiny import load_tiny, write_tiny

N_TEXTS = 24 * SOAK
PROMPT = "Describe the city of Paris as a record: "
CITY = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 20},
        "country": {"type": "string", "maxLength": 20},
        "population": {"type": "integer", "minimum": 1, "maximum": 99_999_999},
        "is_capital": {"type": "boolean"},
        "founded": {"type": "string", "pattern": "^[0-9]{3,4}(BC|AD)$"},
    },
    "required": ["name", "country", "population", "is_capital", "founded"],
    "additionalProperties": False,
}
RECORD = Constraint("json_schema", json.dumps(CITY))
PATTERN = r"(Yes|No), (because|although) [a-z ]{5,30}\. [0-9]{2}% sure"


class Stand:
    def __init__(self, name: str, loaded: LoadedModel, library: ctypes.CDLL | None) -> None:
        self.name, self._loaded, self._library = name, loaded, library
        self.prompt = loaded.tokenizer.encode(PROMPT)

    def engine(self, **config: Any) -> Engine:
        chosen = EngineConfig(**{"n_pages": 2048} | config)
        runner = make_runner(self._loaded.model, self._library, chosen.n_pages, chosen.page_size)
        return Engine(chosen, runner, self._loaded.tokenizer, context=self._loaded.spec.context, namespace=self._loaded.namespace)

    def ask(self, engine: Engine, **params: Any) -> GenOutput:
        listener = Listener()
        job = GenJob(self.prompt, SamplingParams(**{"max_tokens": 300, "temperature": 0.0, "seed": 0} | params))
        engine.add(engine.gen(job, listener, exact=True))
        while engine.step():
            pass
        return listener.output


@pytest.fixture(scope="module", params=["torch", "native"])
def stand(request: pytest.FixtureRequest, library: ctypes.CDLL, tmp_path_factory: pytest.TempPathFactory) -> Stand:
    """The built-in model on the native step, and a tiny one, whose tokens are characters, on torch."""
    if request.param == "torch":
        folder = write_tiny(tmp_path_factory.mktemp("models") / "forms", max_position_embeddings=2048)
        return Stand("tiny", load_tiny(folder), None)
    loaded = load_model(store.resolve("smollm2"), name="smollm2", device="cpu", native=True, cache_dir=store.cache_dir())
    return Stand("smollm2", loaded, library)


def content(output: GenOutput) -> tuple[Any, ...]:
    return output.text, output.ids, output.finish_reason, output.logprobs, output.is_complete, output.prompt_logprobs


@pytest.mark.parametrize("constraint", [RECORD, Constraint("regex", PATTERN)])
def test_a_constrained_text_is_the_same_cold_cached_drafted_chunked_and_without_jumps(stand: Stand, constraint: Constraint) -> None:
    params: dict[str, Any] = {"constraint": constraint, "logprobs": True, "top_logprobs": 3, "temperature": 0.8, "seed": 4}
    plain = stand.engine(draft_tokens=0)
    wanted = stand.ask(plain, **params)
    assert wanted.is_complete
    assert wanted.usage.forced_tokens > 5
    assert content(stand.ask(plain, **params)) == content(wanted)
    drafting = stand.engine()
    assert content(stand.ask(drafting, **params)) == content(wanted)
    again = stand.ask(drafting, **params)
    assert content(again) == content(wanted)
    assert again.usage.accepted_tokens > 5
    assert again.usage.model_steps < wanted.usage.model_steps / 2
    small = stand.engine(draft_tokens=0, page_size=16, n_pages=30, step_tokens=7, max_rows=4)
    assert content(stand.ask(small, **params)) == content(wanted)
    drawing = stand.ask(stand.engine(draft_tokens=0, jump_forward=False), **params)
    assert (drawing.text, drawing.ids) == (wanted.text, wanted.ids)
    assert drawing.usage.model_steps > wanted.usage.model_steps


def test_logprobs_of_the_prompt_and_of_forced_tokens_are_those_of_a_score(stand: Stand) -> None:
    engine = stand.engine()
    output = stand.ask(engine, constraint=RECORD, logprobs=True, top_logprobs=2, prompt_logprobs_from=2)
    listener = Listener()
    engine.add(engine.score(ScoreJob(stand.prompt[:2], ((*stand.prompt[2:], *output.ids),)), listener, exact=True))
    while engine.step():
        pass
    (row,) = listener.answer.logprobs
    entries = (*output.prompt_logprobs, *output.logprobs)
    known = [(entry.token, entry.logprob) for entry in entries if entry.logprob is not None]
    assert known == [(entry.token, entry.logprob) for entry, found in zip(row, entries, strict=True) if found.logprob is not None]
    assert all(len(entry.top) == 2 for entry in entries if entry.logprob is not None)
    assert all(entry.logprob is not None for entry in output.prompt_logprobs)
    assert len(known) >= len(entries) - 5


def test_whole_texts_are_valid_at_high_temperature(stand: Stand, record_table: Callable[..., None]) -> None:
    draw = random.Random(0)
    engine = stand.engine()
    listeners = []
    for number in range(N_TEXTS):
        constraint = RECORD if number % 2 else Constraint("regex", PATTERN)
        params = SamplingParams(max_tokens=300, temperature=draw.choice((0.7, 1.5)), seed=number, constraint=constraint)
        listeners.append((constraint, Listener()))
        engine.add(engine.gen(GenJob(stand.prompt, params), listeners[-1][1]))
    while engine.step():
        pass
    for constraint, listener in listeners:
        text = listener.output.text
        assert listener.output.is_complete
        if constraint is RECORD:
            jsonschema.validate(json.loads(text), CITY)
        else:
            assert re.fullmatch(PATTERN, text)
    stats = engine.stats()
    assert stats["masks_s"] > 0
    record_table("C2", model=stand.name, texts=N_TEXTS, forced=f"{stats['forced_tokens'] / stats['generated_tokens']:.0%}")


def test_a_step_whose_masks_fail_still_ends(stand: Stand) -> None:
    engine = stand.engine()
    bad, good = Listener(), Listener()
    params = SamplingParams(max_tokens=300, temperature=0, constraint=RECORD)
    group = engine.gen(GenJob(stand.prompt, params), bad)

    class Failing:
        def __init__(self, matcher: Any) -> None:
            self._matcher = matcher

        def __getattr__(self, name: str) -> Any:
            return getattr(self._matcher, name)

        def fill(self, draft: tuple[int, ...]) -> None:
            raise ConstraintFailed("too many states")

    group.requests[0].matcher = Failing(group.requests[0].matcher)
    engine.add(group)
    engine.add(engine.gen(GenJob(stand.prompt, params), good))
    while engine.step():
        pass
    assert [type(answer) for answer in bad.answers] == [ConstraintFailed]
    assert good.output.is_complete


@pytest.mark.parametrize("data", [sentencepiece(PREPEND), sentencepiece(None, METASPACE)], ids=["prepend", "metaspace"])
def test_a_sentencepiece_tokenizer_spells_what_is_forced(tmp_path: Path, data: dict[str, Any]) -> None:
    tokenizer = Tokenizer(write(tmp_path, data, {"eos_token": "</s>"}), 270)
    matcher = Grammars(tokenizer).start(Constraint("regex", "hello world, hello[!?]"))
    forced = matcher.forced()
    assert forced == tokenizer.encode("hello world, hello")[: len(forced)]
    assert len(tokenizer.decode(forced)) > 10
