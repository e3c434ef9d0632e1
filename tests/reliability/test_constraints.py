"""Thousands of texts under constraints: each whole one is valid, each mask is brute force's, hostile grammars delay no other request."""

from __future__ import annotations

import json
import random
import re
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from sgl_lab.backends.local import LocalBackend
from sgl_lab.contracts.capabilities import TOKEN_LEVEL
from sgl_lab.contracts.errors import BackendUnsupported, BadArgument, RequestFailed
from sgl_lab.contracts.params import Constraint, SamplingParams
from sgl_lab.contracts.port import GenJob, GenOutput, ModelCard
from sgl_lab.engine.compute.models.convert import convert
from sgl_lab.engine.files import store
from sgl_lab.engine.plan import Sampling
from sgl_lab.engine.serving.config import EngineConfig
from sgl_lab.engine.serving.engine import Engine
from sgl_lab.engine.serving.replies import ReplyListener
from sgl_lab.engine.serving.resident import Resident
from sgl_lab.engine.text.tokenizer import Tokenizer
from sgl_lab.engine.tools.fake import ByteTokenizer, HashModel, HashRunner
from sgl_lab.grammar.grammars import Grammars

from ..pure.driving import SOAK, bench, expect_idle, expect_lawful

N_TEXTS = 500 * SOAK
N_GRAMMARS = 20 * SOAK
N_STATES = 50
N_VOCAB = ByteTokenizer.n_vocab
EOS = 256
ENDS = {*b'"]}', EOS}


# ------------------------------------------------------------ C2: whole texts are valid


class Ending(HashModel):
    """Draws among the allowed tokens; an end or a quote every few, so that texts come to one."""

    def draw(self, context: tuple[int, ...], sampling: Sampling) -> int:
        mask = sampling.mask
        allowed = [] if mask is None else [token for token in range(self.n_vocab) if mask[token // 32] >> token % 32 & 1]
        allowed = [token for token in allowed if token not in sampling.banned]
        if not allowed:
            return super().draw(context, sampling)
        number = hash((context, sampling.seed, sampling.position))
        ends = [token for token in allowed if token in ENDS]
        chosen = ends if ends and number % 5 == 0 else allowed
        return chosen[number // 5 % len(chosen)]


def some_schema(draw: random.Random, depth: int = 0) -> Any:
    kind = draw.choice(("string", "integer", "number", "boolean", "enum", "pattern") + (("object", "array", "union") if depth < 3 else ()))
    match kind:
        case "object":
            names = draw.sample(["name", "age", "ort", "größe", "tags", "a b", 'qu"ote'], draw.randrange(1, 4))
            properties = {name: some_schema(draw, depth + 1) for name in names}
            required = [name for name in names if draw.random() < 0.7]
            return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}
        case "array":
            return {"type": "array", "items": some_schema(draw, depth + 1), "minItems": draw.randrange(2), "maxItems": draw.randrange(2, 4)}
        case "union":
            return {"anyOf": [some_schema(draw, depth + 1), {"type": "null"}]}
        case "enum":
            return {"enum": draw.sample(["red", 1, 2.5, None, True, "grün", ["x"]], 3)}
        case "pattern":
            return {"type": "string", "pattern": draw.choice(("^[A-Z][a-z]{1,5}$", "^[0-9]{4}-[0-9]{2}$", "^(a|bc)*$"))}
        case "string":
            return {"type": "string", "maxLength": draw.randrange(1, 12)}
        case "integer":
            return {"type": "integer", "minimum": draw.randrange(5), "maximum": draw.randrange(5, 5000)}
        case _:
            return {"type": kind}


def some_pattern(draw: random.Random, depth: int = 0) -> str:
    kind = draw.choice(("literal", "class", "escape") + (("repeat", "either", "both", "group") if depth < 4 else ()))
    match kind:
        case "repeat":
            return f"(?:{some_pattern(draw, depth + 1)}){draw.choice(('*', '+', '?', '{2}', '{1,3}', '*?', '{,2}'))}"
        case "either":
            return f"(?:{some_pattern(draw, depth + 1)}|{some_pattern(draw, depth + 1)})"
        case "both":
            return some_pattern(draw, depth + 1) + some_pattern(draw, depth + 1)
        case "group":
            return f"({some_pattern(draw, depth + 1)})"
        case "class":
            return draw.choice(("[a-f]", "[^x]", "[^a-zA-Z]", r"[\d_]", r"[^\s\w]", "[é-ü]", r"[\]\-^]"))
        case "escape":
            return draw.choice((r"\d", r"\w", r"\s", r"\D", r"\W", r"\S", ".", r"\.", r"\n", r"\\", "(?i:ß|k)", "(?s:.)"))
        case _:
            return re.escape(draw.choice(("yes", "no", "a", "ä", '"', "{}", "#x", " ")))


def is_valid(constraint: Constraint, text: str) -> bool:
    import jsonschema

    if constraint.kind == "regex":
        return re.fullmatch(constraint.source, text) is not None
    try:
        jsonschema.Draft202012Validator(json.loads(constraint.source)).validate(json.loads(text))
    except (ValueError, jsonschema.ValidationError):
        return False
    return True


def test_every_whole_text_is_valid_and_every_other_says_that_it_is_not(record_table: Callable[..., None]) -> None:
    draw = random.Random(5)
    b = bench(HashRunner(4096, 1, Ending()), n_pages=4096, max_rows=32, step_tokens=128)
    asked = []
    for number in range(N_TEXTS):
        source, kind = (some_pattern(draw), "regex") if number % 2 else (json.dumps(some_schema(draw)), "json_schema")
        constraint = Constraint(kind, source)
        params = {"constraint": constraint, "temperature": 1.0, "seed": number, "max_tokens": draw.choice((5, 30, 120, 300))}
        asked.append((constraint, b.gen(tuple(b"say: "), **params)))
        if number % 16 == 15:
            while b.engine.step():
                pass
    b.drain()
    n_whole = 0
    for constraint, listener in asked:
        output = listener.output
        assert isinstance(output.is_complete, bool)
        assert is_valid(constraint, output.text) or not output.is_complete, (constraint, output.text)
        if output.finish_reason == "stop":
            assert output.is_complete, (constraint, output.text)
        else:
            assert output.finish_reason == "length"
        n_whole += output.is_complete
    assert n_whole > 0.8 * N_TEXTS
    expect_lawful(b.fold.events)
    expect_idle(b)
    stats = b.engine.stats()
    record_table("C2", model="hash", texts=N_TEXTS, whole=n_whole, forced=f"{stats['forced_tokens'] / stats['generated_tokens']:.0%}")


# ------------------------------------------------------------ C3: masks are what brute force finds


def some_language(draw: random.Random, depth: int = 0) -> tuple[str, str, set[str]]:
    """A finite language: as a pattern, as a Lark expression, and all its texts."""
    kind = draw.choice(("literal", "either", "both", "optional", "repeat") if depth < 4 else ("literal",))
    if kind == "literal":
        text = draw.choice(("a", "b", "ab", "é", '"', "{", "ba", "€uro", "aa"))
        return re.escape(text), json.dumps(text, ensure_ascii=False), {text}
    pattern, lark, texts = some_language(draw, depth + 1)
    match kind:
        case "optional":
            return f"(?:{pattern})?", f"({lark})?", texts | {""}
        case "repeat":
            found = {""} | texts | {x + y for x in texts for y in texts}
            return (f"(?:{pattern}){{0,2}}", f"({lark})~0..2", found) if len(found) < 400 else (pattern, lark, texts)
    other_pattern, other_lark, others = some_language(draw, depth + 1)
    if kind == "either":
        return f"(?:{pattern}|{other_pattern})", f"({lark} | {other_lark})", texts | others
    found = {x + y for x in texts for y in others}
    return (pattern + other_pattern, f"{lark} {other_lark}", found) if len(found) < 400 else (pattern, lark, texts)


def allowed_by_brute_force(texts: set[bytes], prefix: bytes) -> set[int]:
    found = {text[len(prefix)] for text in texts if len(text) > len(prefix) and text.startswith(prefix)}
    return found | ({EOS} if prefix in texts else set())


def languages(draw: random.Random) -> Iterator[tuple[Constraint, set[bytes]]]:
    for number in range(N_GRAMMARS):
        if number % 3 == 2:
            values = [some_value(draw) for _ in range(draw.randrange(1, 6))]
            yield Constraint("json_schema", json.dumps({"enum": values})), {json.dumps(v, ensure_ascii=False).encode() for v in values}
        else:
            pattern, lark, texts = some_language(draw)
            constraint = Constraint("grammar", f"start: {lark}") if number % 3 else Constraint("regex", pattern)
            yield constraint, {text.encode() for text in texts}


def some_value(draw: random.Random, depth: int = 0) -> Any:
    simple = draw.choice(("red", "grün", 'a"b', "", 0, 12, -3, True, False, None))
    if depth == 2 or draw.random() < 0.5:
        return simple
    if draw.random() < 0.5:
        return [some_value(draw, depth + 1) for _ in range(draw.randrange(3))]
    return {name: some_value(draw, depth + 1) for name in draw.sample("xyz", draw.randrange(3))}


def test_masks_are_what_brute_force_finds(record_table: Callable[..., None]) -> None:
    draw = random.Random(11)
    grammars = Grammars(ByteTokenizer())
    n_masks = n_forced = 0
    for constraint, texts in languages(draw):
        for _ in range(N_STATES):
            text = draw.choice(sorted(texts))
            n_said = draw.randrange(len(text) + 1)
            draft = tuple(text[n_said : n_said + draw.randrange(6)])
            matcher = grammars.start(constraint)
            for token in text[:n_said]:
                matcher.take(token)
            assert matcher.is_whole == (text[:n_said] in texts)
            wanted = [allowed_by_brute_force(texts, text[: n_said + n]) for n in range(len(draft) + 1)]
            if matcher.is_over:
                assert wanted[0] == {EOS}
                continue
            forced = bytes(matcher.forced())
            assert all(allowed_by_brute_force(texts, text[:n_said] + forced[:n]) == {forced[n]} for n in range(len(forced)))
            n_forced += len(forced)
            assert matcher.within(draft) == draft
            masks = matcher.masks(len(draft) + 1)
            matcher.fill(draft)
            found = [{token for token in range(N_VOCAB) if mask[token // 32] >> token % 32 & 1} for mask in masks[: len(matcher.n_allowed)]]
            assert found == wanted[: len(found)], (constraint, text[:n_said], draft)
            assert matcher.n_allowed == [len(tokens) for tokens in found]
            assert len(found) == len(draft) + 1 or wanted[len(found)] == {EOS}
            n_masks += len(found)
    assert n_forced
    record_table("C3", grammars=N_GRAMMARS, states=N_GRAMMARS * N_STATES, masks=n_masks)


# ------------------------------------------------------------ C4: hostile grammars

HOSTILE = {
    "nested repeats": Constraint("regex", "((a{1,1000}){1,1000}){1,1000}"),
    "a star of stars": Constraint("regex", "(a+)+b"),
    "a wide repeat": Constraint("regex", "(.*a){200}.{100000}"),
    "many alternatives": Constraint("regex", "|".join(f"{i}x{i * 7}" for i in range(20_000))),
    "half a million characters": Constraint("regex", "(ab|cd)" * 70_000),
    "groups without end": Constraint("regex", "(" * 5_000 + ")" * 5_000),
    "negations that multiply": Constraint("regex", "([^a]*a[^b]*b){50}[^c]{5000}"),
    "an enum of 100,000": Constraint("json_schema", json.dumps({"enum": [f"v{i}" for i in range(100_000)]})),
    "deep schema": Constraint("json_schema", '{"items": ' * 3_000 + "{}" + "}" * 3_000),
    "arrays of arrays": Constraint("json_schema", json.dumps({"type": "array", "maxItems": 10**6, "items": {"maxItems": 10**6}})),
    "a string of a million": Constraint("json_schema", '{"type": "string", "minLength": 1000000}'),
    "properties": Constraint("json_schema", json.dumps({"properties": {f"p{i}": {"type": "string"} for i in range(2_000)}})),
    "a reference to itself": Constraint("json_schema", '{"$ref": "#"}'),
    "a reference out of here": Constraint("json_schema", '{"$ref": "https://example.com/schema.json"}'),
    "left recursion": Constraint("grammar", 'start: start "a" | start start | "b"'),
    "ambiguity": Constraint("grammar", 'start: a\na: a a a | a a | "x" | ""'),
    "rules": Constraint("grammar", "start: r0\n" + "".join(f"r{i}: r{i + 1} r{i + 1}\n" for i in range(60)) + 'r60: "x"'),
    "nonsense": Constraint("grammar", "\x00{{{%%%" * 1_000),
}
DEADLINE_S = 10.0
"""Of 2 s on a quiet machine."""


@pytest.mark.deadline
@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_grammar_is_answered_or_refused_in_time_and_delays_no_request(name: str) -> None:
    resident = Resident(Engine(EngineConfig(n_pages=512), HashRunner(512, 1), ByteTokenizer(), context=512))
    card = ModelCard("hash", (), 512, N_VOCAB, "none", "none", replace(TOKEN_LEVEL, chat_template=True))
    backend = LocalBackend(resident, ByteTokenizer(), card)
    over = threading.Event()
    longest: list[float] = []

    def others() -> None:
        while not over.is_set():
            started = time.perf_counter()
            answer(backend, SamplingParams(max_tokens=3))
            longest.append(time.perf_counter() - started)

    company = threading.Thread(target=others)
    company.start()
    started = time.perf_counter()
    try:
        output = answer(backend, SamplingParams(max_tokens=20, temperature=1.0, seed=1, constraint=HOSTILE[name]))
        outcome = repr(output.is_complete)
    except (BadArgument, BackendUnsupported, RequestFailed) as error:
        outcome = str(error)
    finally:
        spent = time.perf_counter() - started
        over.set()
        company.join(DEADLINE_S)
        resident.check()
        resident.close()
    assert len(outcome) < 500
    assert "\n" not in outcome
    assert spent < DEADLINE_S
    assert max(longest) < DEADLINE_S


def answer(backend: LocalBackend, params: SamplingParams) -> GenOutput:
    listener = ReplyListener(backend)
    backend.submit(GenJob(tuple(b"hello"), params), listener)
    output: GenOutput = listener.answer()[0]
    return output


# ------------------------------------------------------------ C5: how long masks take

MASK_S, FIRST_MASK_S = 50e-6, 50e-3
MARGIN = 10
"""for machines that do other things too"""


@pytest.mark.deadline
def test_masks_of_a_large_vocabulary_take_microseconds(record_table: Callable[..., None]) -> None:
    folder = convert(store.resolve("smollm2"), "smollm2", store.cache_dir(), lambda done, total, text: None)
    tokenizer = Tokenizer(folder, 49_152)
    grammars = Grammars(tokenizer)
    grammars.prepare(Constraint("regex", "x"))  # the tokenizer's own tables
    draw = random.Random(1)
    first, masks = [], []
    for number in range(20):
        schema = {"type": "object", "properties": {"name": {"type": "string"}, f"n{number}": some_schema(draw), "ok": {"type": "boolean"}}}
        constraint = Constraint("json_schema", json.dumps(schema | {"required": ["name", "ok"], "additionalProperties": False}))
        started = time.perf_counter()
        matcher = grammars.start(constraint)
        matcher.masks(1)
        matcher.fill(())
        first.append(time.perf_counter() - started)
        for token in tokenizer.encode('{"name": "Once upon a time, there was'):
            if matcher.forced():
                matcher.take(token)
                continue
            started = time.perf_counter()
            matcher.fill(())
            masks.append(time.perf_counter() - started)
            matcher.take(token)
    p50, first_p50 = statistics.median(masks), statistics.median(first)
    record_table("C5", vocabulary=tokenizer.n_vocab, mask=f"{p50 * 1e6:.0f} us", first_mask=f"{first_p50 * 1e3:.1f} ms")
    assert p50 < MARGIN * MASK_S
    assert first_p50 < MARGIN * FIRST_MASK_S
